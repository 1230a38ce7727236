//! A program's dump of its own stacks, asked for by a signal, beside what it is known to do.

#![cfg(all(target_os = "linux", target_arch = "x86_64", feature = "inspect"))]
#![allow(clippy::unwrap_used, reason = "a failure fails the test")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stackscope_harness::built;

/// The fixture, killed on drop.
struct Own {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Own {
    fn start() -> Own {
        let mut command = Command::new(built("own_process"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = child.stderr.take();
        let mut own = Own { child, stdout, stderr };
        own.expect("ready");
        own
    }

    #[track_caller]
    fn expect(&mut self, mark: &str) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), mark);
    }

    /// Asks for a dump `times` times, and gives all that was written.
    fn dumps(mut self, times: usize) -> String {
        let mut stderr = self.stderr.take().unwrap();
        // Read meanwhile: a pipe holds less than a dump may be long.
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        for _ in 0..times {
            kill(Pid::from_raw(self.child.id() as i32), Signal::SIGUSR1).unwrap();
            self.expect("written");
        }
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
        reader.join().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part of a dump whose heading holds this.
#[track_caller]
fn part<'d>(dump: &'d str, heading: &str) -> &'d str {
    let found = dump.split("\n\n").find(|part| part.lines().next().is_some_and(|line| line.contains(heading)));
    found.unwrap_or_else(|| panic!("no heading has {heading}:\n{dump}"))
}

/// Fails where `names` do not stand in `text` in this order.
#[track_caller]
fn in_order(text: &str, names: &[&str]) {
    let mut rest = text;
    for name in names {
        let at = rest.find(name).unwrap_or_else(|| panic!("{name} is not where it should be:\n{text}"));
        rest = &rest[at + name.len()..];
    }
}

#[test]
fn a_signal_shows_every_stack_of_the_program_itself() {
    let own = Own::start();
    let pid = own.child.id();
    let dump = own.dumps(1);
    in_order(
        part(&dump, "\"inner\" (on thread "),
        &[
            "linux::in_function",
            "inner_body",
            "-- resumed by coroutine",
            "outer_body",
            "-- resumed by thread",
            "in_coroutines",
        ],
    );
    let waiting = part(&dump, "3 coroutines \"waits\", suspended, same stack");
    in_order(waiting, &["linux::waits_inside", "linux::waits "]);
    assert!(!waiting.contains("linux::main"), "a suspended coroutine's link is stale\n{waiting}");
    in_order(part(&dump, &format!("Thread {pid} ")), &["read", "linux::main", "_start"]);
    let in_function =
        dump.split("\n\n").filter(|part| part.starts_with("Thread ") && part.contains("in_function")).count();
    assert_eq!(in_function, 1, "the other one blocks the signal\n{dump}");
    assert!(dump.contains("not seen: the thread was not stopped") && dump.contains("it blocks the signal"), "{dump}");
    for (name, state) in [("fresh", "new"), ("over", "finished")] {
        assert!(dump.contains(&format!("\"{name}\", {state}\n  stack [")), "{name}\n{dump}");
    }
}

/// What is said of a stack's peak and of what lies below it.
#[track_caller]
fn peak<'d>(dump: &'d str, heading: &str) -> &'d str {
    let line = part(dump, heading).lines().nth(1).unwrap();
    &line[line.find("peak").unwrap_or_else(|| panic!("no peak: {line}"))..]
}

/// A stack that is filled before it is used has all of its pages touched; what was used of it the paint tells.
#[test]
#[cfg(feature = "cli")]
fn a_painted_stack_is_measured_as_from_outside() {
    let own = Own::start();
    let pid = own.child.id().to_string();
    let out = Command::new(env!("CARGO_BIN_EXE_stackscope")).args(["dump", "--all", &pid]).output().unwrap();
    let (inside, outside) = (own.dumps(1), String::from_utf8(out.stdout).unwrap());
    for name in ["painted", "fresh", "over"] {
        let heading = format!("\"{name}\"");
        assert_eq!(peak(&inside, &heading), peak(&outside, &heading), "{name}\n{inside}\n{outside}");
    }
    let painted = peak(&inside, "\"painted\"");
    assert!(painted.starts_with("peak =") && !painted.contains("HIGH"), "{painted}");
}

#[test]
fn each_further_signal_asks_again() {
    let dumps = Own::start().dumps(5);
    assert_eq!(dumps.matches("Process ").count(), 5);
    assert_eq!(dumps.matches("linux::outer_body").count(), 5, "{dumps}");
}
