//! Where the kernel does not let us trace: one screen of text with the exact setting and the fix, exit code 125, no screen
//! taken over, and no hang. And where it lets us start no thread: what can be done without.
//!
//! Each way is brought about for the command alone. A kernel without Yama is made to look as if it had it: a mount namespace
//! shows the setting, and a seccomp filter answers to an attach what Yama would.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use stackscope_harness::{Running, gcore, scratch};

/// The user that owns nothing.
const NOBODY: &str = "65534";

/// Answers `EPERM` to `ptrace` and to reading another process's memory, and becomes the program that is named: with `attach`
/// only where a process is to be traced, as Yama does; with `all` in any case, as container engines do (seccomp(2)).
const FILTER: &str = r#"
import ctypes, os, platform, struct, sys
which, program = sys.argv[1], sys.argv[2:]
ptrace, read = {"x86_64": (101, 310), "aarch64": (117, 270)}[platform.machine()]
LOAD, EQUAL, ANSWER, ALLOW, REFUSE = 0x20, 0x15, 0x06, 0x7fff0000, 0x00050001
number, request, pid = 0, 16, 24
steps = {
    "attach": [
        (LOAD, 0, 0, number), (EQUAL, 7, 0, read), (EQUAL, 0, 5, ptrace),
        (LOAD, 0, 0, pid), (EQUAL, 3, 0, 0),
        (LOAD, 0, 0, request), (EQUAL, 2, 0, 0x4206), (EQUAL, 1, 0, 16),
        (ANSWER, 0, 0, ALLOW), (ANSWER, 0, 0, REFUSE)],
    "all": [(LOAD, 0, 0, number), (EQUAL, 0, 1, ptrace), (ANSWER, 0, 0, REFUSE), (ANSWER, 0, 0, ALLOW)],
}[which]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
room = ctypes.create_string_buffer(code, len(code))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
filter = Filter(len(steps), ctypes.addressof(room))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(program[0], program)
"#;

/// Root can become what these tests need; others are told that the tests were passed over.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("passed over: only root can take rights away in all the ways that are tried here");
    }
    is_root
}

/// A copy of the command where every user may run it, and a folder for what a test needs.
struct Public(PathBuf);

impl Public {
    fn new(name: &str) -> Public {
        let folder = std::env::temp_dir().join(format!("stackscope-permission-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_stackscope"), folder.join("stackscope")).unwrap();
        Public(folder)
    }

    fn command(&self) -> PathBuf {
        self.0.join("stackscope")
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program that stands, as another user where one is named.
fn standing(user: Option<&str>) -> Running {
    let mut command = Command::new("sh");
    if let Some(user) = user {
        command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "sh"]);
    }
    Running::start_command(command.args(["-c", "echo ready; exec cat"]))
}

/// The command as a user under Yama with this setting.
fn under_yama(public: &Public, setting: u8) -> Command {
    let folder = public.0.join(format!("kernel-{setting}"));
    std::fs::create_dir_all(folder.join("yama")).unwrap();
    std::fs::write(folder.join("yama/ptrace_scope"), format!("{setting}\n")).unwrap();
    let mut command = Command::new("timeout");
    let script = "mount --bind \"$0\" /proc/sys/kernel && exec \"$@\"";
    command.args(["60", "unshare", "--mount", "sh", "-c", script]).arg(folder);
    command.args(["python3", "-c", FILTER, "attach"]);
    command.args(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    command.arg(public.command()).current_dir("/");
    command
}

/// One screen of text says why and what to do; nothing else is written.
fn check(output: &Output, why: &str, fix: &str) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(said.starts_with("stackscope: ") && said.contains(why), "no {why:?} in: {said}");
    let remedy = said.lines().find_map(|line| line.strip_prefix("  fix: "));
    assert!(remedy.is_some_and(|remedy| remedy.contains(fix)), "no {fix:?} in: {said}");
    assert!(said.lines().count() <= 24 && !said.contains('\x1b'), "{said}");
}

#[test]
fn each_setting_of_yama_is_told_with_its_fix() {
    if !is_root() {
        return;
    }
    let (public, program) = (Public::new("yama"), standing(Some(NOBODY)));
    let pid = program.pid().to_string();
    let settings = [
        (1, "kernel.yama.ptrace_scope is 1", "sudo sysctl kernel.yama.ptrace_scope=0"),
        (2, "kernel.yama.ptrace_scope is 2", "sudo setcap cap_sys_ptrace+ep"),
        (3, "kernel.yama.ptrace_scope is 3", "kernel.yama.ptrace_scope to at most 2"),
    ];
    for (setting, why, fix) in settings {
        for words in [&["dump", &pid][..], &["attach", &pid], &["attach", "--no-tui", &pid]] {
            check(&under_yama(&public, setting).args(words).output().unwrap(), why, fix);
        }
        // What we launch is our child, which setting 1 allows to be traced.
        if setting > 1 {
            let started = public.0.join("started");
            let script = format!("touch {}", started.display());
            check(&under_yama(&public, setting).args(["run", "sh", "-c", &script]).output().unwrap(), why, fix);
            assert!(!started.exists(), "the program was started all the same");
        }
        let doctor = under_yama(&public, setting).arg("doctor").output().unwrap();
        let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(told.contains(&format!("kernel.yama.ptrace_scope = {setting}")), "{told}");
    }
}

#[test]
fn a_container_without_the_capability_is_told_with_its_fix() {
    if !is_root() {
        return;
    }
    let program = standing(None);
    let pid = program.pid().to_string();
    for words in [&["dump", &pid][..], &["attach", &pid], &["attach", "--no-tui", &pid]] {
        let mut command = Command::new("timeout");
        command.args(["60", "setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]);
        let output = command.arg(env!("CARGO_BIN_EXE_stackscope")).args(words).output().unwrap();
        check(&output, "we are root, but without CAP_SYS_PTRACE", "--cap-add=SYS_PTRACE");
    }
}

#[test]
fn a_filter_of_a_container_is_told_with_its_fix() {
    let program = standing(None);
    let pid = program.pid().to_string();
    for words in [&["dump", &pid][..], &["attach", &pid], &["run", "true"]] {
        let mut command = Command::new("timeout");
        command.args(["60", "python3", "-c", FILTER, "all", env!("CARGO_BIN_EXE_stackscope")]);
        check(&command.args(words).output().unwrap(), "a seccomp filter forbids us", "seccomp=unconfined");
    }
}

/// On a terminal too there is only text: the screen is not taken over first.
#[cfg(feature = "tui")]
#[test]
fn the_terminal_is_not_taken_over() {
    use common::terminal::Terminal;
    let program = standing(None);
    let script = scratch("permission").join("filter.py");
    std::fs::write(&script, FILTER).unwrap();
    let terminal = Terminal::new("refused");
    let written = terminal.record();
    let stackscope = Path::new(env!("CARGO_BIN_EXE_stackscope")).display();
    for words in [format!("attach {}", program.pid()), "run sh".to_owned()] {
        terminal.run("clear");
        terminal.run(&format!("python3 {} all {stackscope} {words}; echo code-$?", script.display()));
        terminal.wait_for("code-125");
        terminal.wait_for("seccomp=unconfined");
        terminal.is_restored();
    }
    assert!(!written().contains("\x1b[?1049h"), "{:?}", written());
}

#[test]
fn where_no_thread_can_be_started_a_core_file_is_shown_all_the_same() {
    if !is_root() {
        return;
    }
    let public = Public::new("threads");
    let fixture = Running::start("co_asm", &["50", "slab"]);
    let core = gcore(fixture.pid(), &public.0);
    std::fs::set_permissions(&core, Permissions::from_mode(0o644)).unwrap();
    let dump = |limit: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "prlimit", limit]);
        command.arg(public.command()).args(["dump", "--all"]).arg(&core).output().unwrap()
    };
    let (with, without) = (dump("--core=0"), dump("--nproc=0"));
    assert!(with.status.success() && with.stdout.len() > 1000, "{with:?}");
    assert_eq!(String::from_utf8(without.stdout), String::from_utf8(with.stdout));
    assert_eq!((without.status, without.stderr), (with.status, with.stderr));
}
