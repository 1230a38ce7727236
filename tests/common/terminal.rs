//! A real terminal, which tmux plays, with a shell in it; and files by which programs and tests tell each other things.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use stackscope_harness::{scratch, wait_until};

use super::status_field;

/// A terminal with a shell in it. Dropping it ends both.
pub(crate) struct Terminal {
    /// The name of the server's socket: each terminal has a server of its own.
    socket: String,
}

impl Terminal {
    pub(crate) fn new(test: &str) -> Terminal {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let terminal = Terminal { socket: format!("stackscope-{test}-{}-{number}", std::process::id()) };
        let mut command = terminal.command(&["-u", "-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "36"]);
        // An interactive shell that reads no file and has job control.
        command.arg("env PS1='$ ' ENV= sh -i").env_remove("CI").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
        assert!(command.status().unwrap().success());
        wait_until("the shell asks for a command", || terminal.screen().contains('$'));
        terminal
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(arguments);
        command
    }

    pub(crate) fn tmux(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Keeps all that is written to the terminal from now on, escape sequences included.
    pub(crate) fn record(&self) -> impl Fn() -> String + use<> {
        let file = scratch("tui").join("written");
        self.tmux(&["pipe-pane", "-o", &format!("cat >{}", file.display())]);
        move || String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned()
    }

    pub(crate) fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    pub(crate) fn run(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// Types `attach` with these options before it.
    pub(crate) fn attach(&self, variables: &str, options: &str, pid: i32) {
        let program = env!("CARGO_BIN_EXE_stackscope");
        self.run(&format!("{variables} {program} attach {options} {pid}"));
        self.wait_for("look_for_me");
        assert_eq!(self.fact("alternate_on"), "1");
    }

    pub(crate) fn wait_for(&self, text: &str) {
        let mut last = String::new();
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(text, || {
                last = self.screen();
                // Where a line is too long for the terminal, a path in it say, the text may begin on one row and end on the next.
                last.contains(text) || self.tmux(&["capture-pane", "-p", "-J"]).contains(text)
            });
        }));
        assert!(shown.is_ok(), "no {text:?} in:\n{last}");
    }

    pub(crate) fn fact(&self, name: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }

    /// The process that the shell has started, if it runs one.
    pub(crate) fn job(&self) -> Option<i32> {
        let shell = self.fact("pane_pid");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.split_whitespace().next().map(|pid| pid.parse().unwrap())
    }

    /// Asserts that the terminal is as a shell wants it.
    pub(crate) fn is_restored(&self) {
        wait_until("the screen is given back", || self.fact("alternate_on") == "0");
        assert_eq!(self.fact("cursor_flag"), "1");
        // A number of its own, lest the last answer is taken for this one.
        static ASKED: AtomicU32 = AtomicU32::new(100);
        let number = ASKED.fetch_add(1, Ordering::Relaxed);
        self.run(&format!("clear; stty -a; echo restored-$(({number}+1))"));
        self.wait_for(&format!("restored-{}", number + 1));
        let settings = self.screen();
        for setting in ["icanon", "echo", "isig", "icrnl", "opost"] {
            let on = settings.split([' ', ';', '\n']).any(|word| word == setting);
            assert!(on, "{setting}: {settings}");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).status();
    }
}

pub(crate) fn kill(signal: &str, pid: i32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(sent.success(), "kill -{signal} {pid}");
}

pub(crate) fn is_traced(pid: i32) -> bool {
    status_field(pid, "TracerPid") != "0"
}

/// The program, typed with options before it and words after it.
pub(crate) fn run_line(options: &str, words: &str) -> String {
    format!("{} run {options} {words}", env!("CARGO_BIN_EXE_stackscope"))
}

impl Terminal {
    /// Types `run` with these words, and waits for its screen.
    pub(crate) fn run_program(&self, options: &str, words: &str) {
        self.run(&run_line(options, words));
        wait_until("the screen", || self.fact("alternate_on") == "1");
    }
}

/// A file that a program is to write, with what it holds once there is something in it.
pub(crate) struct Written(pub(crate) PathBuf);

impl Written {
    pub(crate) fn new(name: &str) -> Written {
        Written(scratch("tui").join(name))
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// Its first line, once there is one.
    pub(crate) fn line(&self) -> String {
        wait_until("a line in the file", || self.text().contains('\n'));
        self.text().lines().next().unwrap().to_owned()
    }

    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.0.display()
    }
}

/// A pipe with a name, at which a program can wait.
pub(crate) fn gate() -> PathBuf {
    let gate = scratch("tui").join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    gate
}

pub(crate) fn is_alive(pid: i32) -> bool {
    !matches!(status_field(pid, "State").chars().next(), None | Some('Z'))
}
