//! `stackscope attach` without a terminal: it reports what it saw, and the program runs on whatever becomes of us.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use std::process::{Child, Command, Output, Stdio};

use common::{blocks_interrupts, status_field};
use serde_json::Value;
use stackscope_harness::{Running, scratch, settle, states, wait_until};

/// `attach` at work, ended when dropped.
struct Attaching(Option<Child>);

impl Attaching {
    /// Starts it, and waits until signals no longer end it.
    fn start(options: &[&str], pid: i32) -> Attaching {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
        command.arg("attach").args(options).arg(pid.to_string());
        let tool = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let tool = Attaching(Some(tool));
        wait_until("signals are messages", || blocks_interrupts(tool.pid()));
        tool
    }

    fn pid(&self) -> i32 {
        self.0.as_ref().unwrap().id() as i32
    }

    fn kill(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.pid())]).status().unwrap();
        assert!(sent.success());
    }

    fn end(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Attaching {
    fn drop(&mut self) {
        if let Some(mut tool) = self.0.take() {
            let _ = tool.kill();
            let _ = tool.wait();
        }
    }
}

/// Asserts that nobody traces the program, that its threads sleep, and that it ends well once its stdin does.
fn runs_on(mut fixture: Running) {
    wait_until("the kernel has let the program go", || status_field(fixture.pid(), "TracerPid") == "0");
    settle(fixture.pid());
    assert!(states(fixture.pid()).iter().all(|state| *state == 'S'), "{:?}", states(fixture.pid()));
    assert!(fixture.finish().0.success());
}

#[test]
fn each_signal_to_us_ends_the_watch_with_a_report() {
    for signal in ["INT", "TERM", "HUP", "QUIT"] {
        let fixture = Running::start("threads", &["3"]);
        let attaching = Attaching::start(&[], fixture.pid());
        attaching.kill(signal);
        let output = attaching.end();
        let report = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(0), true), "{signal}: {report}");
        assert!(report.contains("threads runs on, watched for ") && report.contains("4 stacks in all"), "{report}");
        assert!(!output.stderr.contains(&0x1b), "{report}");
        runs_on(fixture);
    }
}

#[test]
fn the_end_of_the_program_ends_the_watch() {
    let [file, log] = ["report.json", "log"].map(|name| scratch("attach").join(name));
    let mut fixture = Running::start("threads", &["3"]);
    let options = ["--json", "-o", file.to_str().unwrap(), "--log", log.to_str().unwrap()];
    let attaching = Attaching::start(&options, fixture.pid());
    wait_until("there was a look", || std::fs::read_to_string(&log).unwrap_or_default().contains("stood still"));
    assert!(fixture.finish().0.success());
    let output = attaching.end();
    assert_eq!((output.status.code(), &output.stderr[..], &output.stdout[..]), (Some(0), &b""[..], &b""[..]));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&report["program"]["exit_code"], &report["program"]["signal"]), (&Value::Null, &Value::Null));
    assert_eq!(report["program"]["pid"], fixture.pid());
    assert_eq!((&report["stacks"]["total"], &report["coverage"]["exact_until_ns"]), (&4.into(), &0.into()));
    assert_eq!(report["complete"], true, "{report:#}");
}

#[test]
fn the_program_runs_on_if_we_are_killed() {
    let fixture = Running::start("threads", &["3"]);
    let attaching = Attaching::start(&["--interval", "1"], fixture.pid());
    attaching.kill("KILL");
    attaching.end();
    runs_on(fixture);
}

#[test]
fn the_program_runs_on_while_we_are_suspended() {
    let fixture = Running::start("threads", &["3"]);
    let attaching = Attaching::start(&["--interval", "1"], fixture.pid());
    attaching.kill("TSTP");
    wait_until("we are stopped", || states(attaching.pid()).iter().all(|state| *state == 'T'));
    assert_eq!(status_field(fixture.pid(), "TracerPid"), "0");
    assert!(states(fixture.pid()).iter().all(|state| *state == 'S'));
    attaching.kill("CONT");
    attaching.kill("TERM");
    assert_eq!(attaching.end().status.code(), Some(0));
    runs_on(fixture);
}

#[test]
fn failures_are_told_and_have_a_code() {
    let cases: [(&[&str], i32, &str); 3] = [
        (&["attach", "2147483646"], 125, "there is no process 2147483646"),
        (&["attach"], 2, "<PID>"),
        (&["attach", "0"], 2, "0 is not in 1.."),
    ];
    for (arguments, code, said) in cases {
        let output = common::stackscope(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(code), true), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
