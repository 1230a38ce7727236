//! The terminal UI on a real terminal, which tmux plays: the screen appears, its keys work, and on every way out the
//! terminal is as it was and the program runs on.

#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stackscope::target::Inbox;
use stackscope::tui;
use stackscope::watch::Attached;
use stackscope_harness::{Running, scratch, settle, states, wait_until};

/// A terminal with a shell in it. Dropping it ends both.
struct Terminal {
    /// The name of the server's socket: each terminal has a server of its own.
    socket: String,
}

impl Terminal {
    fn new(test: &str) -> Terminal {
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

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(arguments);
        command
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Keeps all that is written to the terminal from now on, escape sequences included.
    fn record(&self) -> impl Fn() -> String + use<> {
        let file = scratch("tui").join("written");
        self.tmux(&["pipe-pane", "-o", &format!("cat >{}", file.display())]);
        move || String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn run(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// Types `attach` with these options before it.
    fn attach(&self, variables: &str, options: &str, pid: i32) {
        let program = env!("CARGO_BIN_EXE_stackscope");
        self.run(&format!("{variables} {program} attach {options} {pid}"));
        self.wait_for("look_for_me");
        assert_eq!(self.fact("alternate_on"), "1");
    }

    fn wait_for(&self, text: &str) {
        let mut last = String::new();
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(text, || {
                last = self.screen();
                last.contains(text)
            });
        }));
        assert!(shown.is_ok(), "no {text:?} in:\n{last}");
    }

    fn fact(&self, name: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }

    /// The process that the shell has started, if it runs one.
    fn job(&self) -> Option<i32> {
        let shell = self.fact("pane_pid");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.split_whitespace().next().map(|pid| pid.parse().unwrap())
    }

    /// Asserts that the terminal is as a shell wants it.
    fn is_restored(&self) {
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

fn kill(signal: &str, pid: i32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(sent.success(), "kill -{signal} {pid}");
}

fn is_traced(pid: i32) -> bool {
    common::status_field(pid, "TracerPid") != "0"
}

/// Asserts that nobody traces the program, that its threads sleep, and that it ends well once its stdin does.
fn runs_on(mut fixture: Running) {
    wait_until("nobody traces the program", || !is_traced(fixture.pid()));
    settle(fixture.pid());
    assert!(states(fixture.pid()).iter().all(|state| *state == 'S'), "{:?}", states(fixture.pid()));
    assert!(fixture.finish().0.success());
}

fn fixture() -> Running {
    Running::start("threads", &["3", "6"])
}

#[test]
fn the_screen_appears_and_keys_work() {
    let (fixture, terminal) = (fixture(), Terminal::new("keys"));
    terminal.attach("", "", fixture.pid());
    terminal.wait_for("LIVE");
    terminal.wait_for("4 stacks: 4 threads");
    terminal.keys(&["Enter"]);
    terminal.wait_for("×6");
    terminal.keys(&["Escape"]);
    terminal.wait_for("1–4 of 4");
    terminal.keys(&["2"]);
    terminal.wait_for("── Groups ──");
    terminal.keys(&["Enter"]);
    terminal.wait_for("1–3 of 3");
    terminal.keys(&["?"]);
    terminal.wait_for("type to search");
    terminal.keys(&["Escape", "Space"]);
    terminal.wait_for("FROZEN");
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.wait_for("Space thaw");
    terminal.keys(&["q"]);
    terminal.wait_for("runs on, watched for");
    terminal.is_restored();
    runs_on(fixture);
}

#[test]
fn every_signal_gives_the_terminal_back() {
    let terminal = Terminal::new("signals");
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        let fixture = fixture();
        terminal.run("clear");
        terminal.attach("", "", fixture.pid());
        kill(signal, terminal.job().unwrap());
        terminal.wait_for("runs on, watched for");
        terminal.is_restored();
        runs_on(fixture);
    }
}

#[test]
fn the_program_runs_on_if_the_screen_is_killed() {
    let (fixture, terminal) = (fixture(), Terminal::new("kill"));
    terminal.attach("", "--interval 1", fixture.pid());
    kill("KILL", terminal.job().unwrap());
    runs_on(fixture);
}

#[test]
fn we_end_with_the_terminal() {
    let (fixture, terminal) = (fixture(), Terminal::new("gone"));
    terminal.attach("", "", fixture.pid());
    let ours = terminal.job().unwrap();
    drop(terminal);
    wait_until("we have ended", || common::status_field(ours, "State").is_empty());
    runs_on(fixture);
}

#[test]
fn a_suspension_gives_the_terminal_to_the_shell_and_takes_it_again() {
    let (fixture, terminal) = (fixture(), Terminal::new("suspend"));
    terminal.attach("", "--interval 1", fixture.pid());
    terminal.keys(&["C-z"]);
    terminal.is_restored();
    assert!(!is_traced(fixture.pid()) && states(fixture.pid()).iter().all(|state| *state == 'S'));
    terminal.run("fg");
    terminal.wait_for("LIVE");
    assert_eq!(terminal.fact("alternate_on"), "1");
    kill("TSTP", terminal.job().unwrap());
    terminal.is_restored();
    terminal.run("fg");
    terminal.wait_for("LIVE");
    terminal.keys(&["C-c"]);
    terminal.is_restored();
    runs_on(fixture);
}

#[test]
fn the_end_of_the_program_is_shown_until_the_user_leaves() {
    let (mut fixture, terminal) = (fixture(), Terminal::new("end"));
    terminal.attach("", "", fixture.pid());
    assert!(fixture.finish().0.success());
    terminal.wait_for("ENDED");
    terminal.keys(&["q"]);
    terminal.wait_for("threads ended after");
    terminal.is_restored();
}

/// The numbers of all SGR sequences in what was written to a terminal.
fn graphic_renditions(written: &str) -> Vec<u32> {
    let sequences = written.split("\x1b[").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| letter.is_ascii_alphabetic())?;
        (&rest[end..=end] == "m").then_some(&rest[..end])
    });
    sequences.flat_map(|codes| codes.split(';').filter_map(|code| code.parse().ok())).collect()
}

#[test]
fn without_colors_there_are_none_and_the_selection_is_seen() {
    let fixture = fixture();
    for (variables, options) in [("NO_COLOR=1", ""), ("", "--theme mono"), ("", "--color never --ascii")] {
        let terminal = Terminal::new("mono");
        let written = terminal.record();
        terminal.attach(variables, options, fixture.pid());
        assert_eq!(terminal.screen().is_ascii(), options.contains("--ascii"));
        terminal.keys(&["Down", "2", "?", "Escape", "q"]);
        terminal.is_restored();
        wait_until("all was recorded", || written().contains("restored-1"));
        let codes = graphic_renditions(&written());
        assert!(!codes.iter().any(|code| (30..50).contains(code)), "{variables} {options}: {codes:?}");
        assert!(codes.contains(&7), "{variables} {options}: {codes:?}");
    }
    let terminal = Terminal::new("colors");
    let written = terminal.record();
    terminal.attach("", "", fixture.pid());
    terminal.keys(&["q"]);
    terminal.is_restored();
    wait_until("all was recorded", || written().contains("restored-1"));
    assert!(graphic_renditions(&written()).contains(&38));
    runs_on(fixture);
}

#[test]
fn a_frozen_display_writes_nothing() {
    let (fixture, terminal) = (fixture(), Terminal::new("frozen"));
    let log = scratch("tui").join("log");
    let written = terminal.record();
    terminal.attach("", &format!("--interval 1 --log {}", log.display()), fixture.pid());
    terminal.keys(&["Space"]);
    terminal.wait_for("FROZEN");
    let looks = || std::fs::read_to_string(&log).unwrap_or_default().matches("stood still").count();
    // A look that was being taken when the key came may be the last that is drawn.
    let frozen = looks() + 1;
    wait_until("another look", || looks() > frozen);
    let before = written();
    wait_until("more looks", || looks() > frozen + 2);
    assert_eq!(written(), before);
    terminal.keys(&["Space"]);
    terminal.wait_for("LIVE");
    terminal.keys(&["q"]);
    terminal.is_restored();
    runs_on(fixture);
}

/// In the child of the next test: shows a program until a thread panics.
fn show_until_a_panic(pid: i32, word: std::path::PathBuf) {
    let inbox = Inbox::open().unwrap();
    let interval = Duration::from_millis(10);
    let attached = Attached::open(pid, interval).unwrap();
    std::thread::spawn(move || {
        wait_until("the word to panic", || word.exists());
        panic!("a made-up panic");
    });
    let look = tui::Look { colors: true, ascii: false };
    let options = tui::Options { interval, look, stay: false, margin: 1.5 };
    assert!(tui::attach(attached, &inbox, &options).is_err());
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let name = "STACKSCOPE_TEST_PANIC";
    if let Ok(given) = std::env::var(name) {
        let (pid, word) = given.split_once(':').unwrap();
        return show_until_a_panic(pid.parse().unwrap(), word.into());
    }
    let (fixture, terminal) = (fixture(), Terminal::new("panic"));
    let word = scratch("tui").join("word");
    let ourselves = std::env::current_exe().unwrap();
    let run = "--exact a_panic_gives_the_terminal_back --nocapture";
    terminal.run(&format!("{name}={}:{} {} {run}", fixture.pid(), word.display(), ourselves.display()));
    terminal.wait_for("LIVE");
    std::fs::write(&word, "").unwrap();
    terminal.wait_for("a made-up panic");
    terminal.wait_for("1 passed");
    terminal.is_restored();
    runs_on(fixture);
}

#[test]
fn stdout_is_left_alone() {
    let (fixture, terminal) = (fixture(), Terminal::new("stdout"));
    let file = scratch("tui").join("out");
    let program = env!("CARGO_BIN_EXE_stackscope");
    terminal.run(&format!("{program} attach {} </dev/null >{}; echo code-$?", fixture.pid(), file.display()));
    terminal.wait_for("LIVE");
    terminal.keys(&["q"]);
    terminal.wait_for("code-0");
    assert_eq!(std::fs::read(&file).unwrap(), b"");
    for variable in ["TERM=dumb", "CI=1"] {
        terminal.run("clear");
        terminal.run(&format!("{variable} {program} attach {}; echo code-$?", fixture.pid()));
        wait_until("signals are messages", || terminal.job().is_some_and(common::blocks_interrupts));
        assert_eq!(terminal.fact("alternate_on"), "0");
        terminal.keys(&["C-c"]);
        terminal.wait_for("code-0");
        assert!(terminal.screen().contains("runs on, watched for"), "{}", terminal.screen());
    }
    runs_on(fixture);
}

/// The program, typed with options before it and words after it.
fn run_line(options: &str, words: &str) -> String {
    format!("{} run {options} {words}", env!("CARGO_BIN_EXE_stackscope"))
}

impl Terminal {
    /// Types `run` with these words, and waits for its screen.
    fn run_program(&self, options: &str, words: &str) {
        self.run(&run_line(options, words));
        wait_until("the screen", || self.fact("alternate_on") == "1");
    }
}

/// A file that a program is to write, with what it holds once there is something in it.
struct Written(std::path::PathBuf);

impl Written {
    fn new(name: &str) -> Written {
        Written(scratch("tui").join(name))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// Its first line, once there is one.
    fn line(&self) -> String {
        wait_until("a line in the file", || self.text().contains('\n'));
        self.text().lines().next().unwrap().to_owned()
    }

    fn name(&self) -> std::path::Display<'_> {
        self.0.display()
    }
}

/// A pipe with a name, at which a program can wait.
fn gate() -> std::path::PathBuf {
    let gate = scratch("tui").join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    gate
}

/// A script that says its number, waits, says that it is still there, and waits again.
fn waiter(pid: &Written, gate: &std::path::Path) -> String {
    let pid = pid.name();
    format!("echo $$ >{pid}; exec 3<>{}; read go <&3; echo still-$((40+2)) here; read go <&3", gate.display())
}

fn is_alive(pid: i32) -> bool {
    !matches!(common::status_field(pid, "State").chars().next(), None | Some('Z'))
}

#[test]
fn pipes_and_files_stay_what_they_are_under_the_screen() {
    let (terminal, out) = (Terminal::new("pipe"), Written::new("out"));
    let gate = gate();
    let words = format!("sh -c 'cat; exec 3<>{}; read go <&3; echo to the terminal >&2; read go <&3'", gate.display());
    terminal.run(&format!("seq 5 | {} >{}; echo code-$?", run_line("", &words), out.name()));
    wait_until("the screen", || terminal.fact("alternate_on") == "1");
    terminal.wait_for("LIVE");
    wait_until("the pipe was read", || out.text() == "1\n2\n3\n4\n5\n");
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("to the terminal");
    terminal.keys(&["?"]);
    terminal.wait_for("type to search");
    terminal.keys(&["Escape"]);
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("code-0");
    terminal.is_restored();
    assert_eq!(out.text(), "1\n2\n3\n4\n5\n");
}

#[test]
fn the_exit_code_is_the_programs_with_and_without_a_screen() {
    let terminal = Terminal::new("codes");
    let plain = scratch("tui").join("plain");
    std::fs::write(&plain, "text").unwrap();
    let plain = plain.display().to_string();
    let cases = [("sh -c 'exit 7'", 7), ("sh -c 'kill -SEGV $$'", 139), ("/nowhere/at/all", 127), (&plain, 126)];
    for options in ["", "--no-tui"] {
        for (words, code) in cases {
            terminal.run("clear");
            terminal.run(&format!("{}; echo code-$?", run_line(options, words)));
            terminal.wait_for(&format!("code-{code}"));
        }
    }
    terminal.is_restored();
}

#[test]
fn the_last_lines_and_the_report_follow_the_screen() {
    let terminal = Terminal::new("last");
    terminal.run(&format!("{}; echo code-$?", run_line("", "sh -c 'echo first; echo last words; exit 3'")));
    terminal.wait_for("code-3");
    let screen = terminal.screen();
    let [first, last, report] = ["first\n", "last words\n", "sh exited with 3 after"]
        .map(|text| screen.rfind(text).unwrap_or_else(|| panic!("no {text:?} in:\n{screen}")));
    assert!(first < last && last < report, "{screen}");
    terminal.is_restored();
}

#[test]
fn a_program_is_typed_into_and_editors_work() {
    let (terminal, line) = (Terminal::new("type"), Written::new("line"));
    terminal.run_program("", "sh");
    terminal.keys(&["i"]);
    terminal.wait_for("typing into the program");
    terminal.run(&format!("read answer && echo \"$answer\" >{}; stty size", line.name()));
    terminal.run("a typed line");
    assert_eq!(line.line(), "a typed line");
    // Two lines of head, one of the title and one of the foot are ours.
    terminal.wait_for("32 120");
    terminal.run("vim -u NONE -N -i NONE /etc/hostname");
    terminal.wait_for("~\n~\n");
    terminal.tmux(&["resize-window", "-x", "90", "-y", "30"]);
    // It fills the new size: the rows below the only line of the file, but for its own last row.
    let filled = || terminal.screen().lines().filter(|line| line.starts_with('~')).count();
    wait_until("the editor has the new size", || filled() == 27 - 2);
    terminal.run(":qa!");
    wait_until("the editor is gone", || !terminal.screen().contains("~\n"));
    terminal.run("stty size; echo edited-$((40+2))");
    terminal.wait_for("edited-42");
    assert!(terminal.screen().contains("27 90"), "{}", terminal.screen());
    terminal.run("exit 4");
    terminal.wait_for("sh exited with 4");
    terminal.is_restored();
}

#[test]
fn jobs_of_a_shell_in_the_screen_are_controlled_by_keys() {
    let (terminal, line) = (Terminal::new("jobs"), Written::new("line"));
    terminal.run_program("", "sh");
    terminal.keys(&["i"]);
    terminal.run(&format!("cat >{}", line.name()));
    terminal.run("before the stop");
    assert_eq!(line.line(), "before the stop");
    terminal.keys(&["C-z"]);
    terminal.wait_for("Stopped");
    terminal.run("fg");
    terminal.run("after the stop");
    wait_until("it goes on", || line.text() == "before the stop\nafter the stop\n");
    terminal.keys(&["C-c"]);
    terminal.run("exit");
    terminal.wait_for("sh exited with");
    terminal.is_restored();
}

/// A program that counts interrupts in a file and ends by none of them.
fn counter(file: &Written, count: &Written) -> String {
    let script = format!(
        "trap \"echo interrupted >>{}\" INT; echo $$ >{}; while :; do read line && echo \"got $line\"; done",
        count.name(),
        file.name()
    );
    format!("sh -c '{script}'")
}

#[test]
fn an_interrupt_reaches_the_program_once_and_a_second_one_asks() {
    let (terminal, pid, count) = (Terminal::new("interrupt"), Written::new("pid"), Written::new("count"));
    terminal.run_program("", &counter(&pid, &count));
    let pid: i32 = pid.line().parse().unwrap();
    terminal.keys(&["C-c"]);
    wait_until("it is interrupted", || count.text() == "interrupted\n");
    terminal.keys(&["C-z"]);
    terminal.is_restored();
    assert!(is_alive(pid));
    assert_eq!(count.text(), "interrupted\n");
    terminal.run("fg");
    terminal.wait_for("LIVE");
    terminal.keys(&["C-c", "C-c"]);
    terminal.wait_for("The program is still running");
    terminal.keys(&["e"]);
    terminal.wait_for("was ended by SIGTERM");
    terminal.is_restored();
}

#[test]
fn a_program_that_is_left_runs_on_and_writes_to_the_terminal() {
    let (terminal, pid) = (Terminal::new("left"), Written::new("pid"));
    let gate = gate();
    let script = waiter(&pid, &gate);
    terminal.run_program("", &format!("sh -c '{script}'; echo code-$?"));
    let pid: i32 = pid.line().parse().unwrap();
    // What is chosen without looking harms nothing.
    terminal.keys(&["q"]);
    terminal.wait_for("The program is still running");
    terminal.keys(&["Enter"]);
    terminal.wait_for("code-0");
    terminal.is_restored();
    assert!(is_alive(pid) && !is_traced(pid));
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("still-42 here");
    assert!(is_alive(pid));
    std::fs::write(&gate, "\n").unwrap();
    wait_until("it ends by itself", || !is_alive(pid));
}

#[test]
fn a_program_runs_on_and_writes_if_its_screen_is_killed() {
    let (terminal, pid) = (Terminal::new("killed"), Written::new("pid"));
    let gate = gate();
    let script = waiter(&pid, &gate);
    terminal.run_program("--interval 1", &format!("sh -c '{script}'"));
    let pid: i32 = pid.line().parse().unwrap();
    let text = |pid: i32| std::fs::read(format!("/proc/{pid}/exe")).unwrap();
    let before = text(pid);
    let written = terminal.record();
    kill("KILL", terminal.job().unwrap());
    wait_until("nobody traces it", || !is_traced(pid));
    assert!(states(pid).iter().all(|state| matches!(state, 'R' | 'S')), "{:?}", states(pid));
    assert_eq!(text(pid), before);
    std::fs::write(&gate, "\n").unwrap();
    // Where on the screen it stands depends on where the last drawing was cut off.
    wait_until("it writes to the terminal", || written().contains("still-42 here"));
    std::fs::write(&gate, "\n").unwrap();
    wait_until("it ends by itself", || !is_alive(pid));
}

#[test]
fn signals_reach_the_program_and_give_the_terminal_back() {
    let terminal = Terminal::new("passed");
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        let pid = Written::new(signal);
        terminal.run("clear");
        terminal.run_program("", &format!("sh -c 'echo $$ >{}; read line'", pid.name()));
        let program: i32 = pid.line().parse().unwrap();
        kill(signal, terminal.job().unwrap());
        terminal.wait_for(&format!("was ended by SIG{signal}"));
        terminal.is_restored();
        assert!(!is_alive(program));
    }
    // One that ignores the signal is waited for, without the screen.
    let pid = Written::new("ignored");
    terminal.run_program("", &format!("sh -c 'trap \"\" TERM; echo $$ >{}; read line'", pid.name()));
    let program: i32 = pid.line().parse().unwrap();
    kill("TERM", terminal.job().unwrap());
    wait_until("the screen is given back", || terminal.fact("alternate_on") == "0");
    assert!(is_alive(program));
    kill("KILL", program);
    terminal.wait_for("was ended by SIGKILL");
    terminal.is_restored();
}

#[test]
fn where_there_is_no_screen_nothing_is_written_to_a_terminal() {
    let terminal = Terminal::new("plain");
    let cases = [
        ("", "| cat; echo code-$?", "code-0"),
        ("TERM=dumb", "; echo code-$?", "code-7"),
        ("CI=1", "; echo code-$?", "code-7"),
        ("setsid -w", "; echo code-$?", "code-7"),
    ];
    for (before, after, code) in cases {
        terminal.run("clear");
        let written = terminal.record();
        let line = run_line("--color never --ascii", "sh -c 'echo plain words; exit 7'");
        // With both streams redirected nobody expects a screen.
        let redirected = if after.starts_with('|') { "2>&1" } else { "" };
        terminal.run(&format!("{before} {line} {redirected} {after}"));
        terminal.wait_for(code);
        terminal.wait_for("sh exited with 7");
        assert_eq!(terminal.fact("alternate_on"), "0");
        wait_until("all was recorded", || written().contains("exited with 7"));
        assert!(!written().contains("\x1b[?1049h"), "{before} {after}: {:?}", written());
        terminal.tmux(&["pipe-pane"]);
    }
}
