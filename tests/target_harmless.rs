//! What a target must not notice: that it was stopped, that its signals were seen first by another, that we died.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use stackscope::workshop::memory::Memory;
use stackscope::workshop::process::{Live, StopError, Target};
use stackscope_harness::{Running, states, wait_until};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn what_is_dropped_goes_on() {
    let mut fixture = Running::start("threads", &["3"]);
    let live = Live::open(fixture.pid()).unwrap();
    for _ in 0..100 {
        drop(live.stop(LIMIT).unwrap());
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _stopped = live.stop(LIMIT).unwrap();
        resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    wait_until("it sleeps again", || states(fixture.pid()).iter().all(|state| *state == 'S'));
    assert!(fixture.finish().0.success());
}

/// What the fixture's parent, which is this process, is told of it.
fn news(fixture: &Running, flags: WaitPidFlag) -> WaitStatus {
    waitid(Id::Pid(Pid::from_raw(fixture.pid())), flags | WaitPidFlag::WNOHANG).unwrap()
}

#[test]
fn a_stopped_program_stays_stopped_and_can_be_continued() {
    let mut fixture = Running::start("threads", &["3"]);
    let pid = Pid::from_raw(fixture.pid());
    let live = Live::open(fixture.pid()).unwrap();
    let all_are = |state: char| states(fixture.pid()).iter().all(|seen| *seen == state);
    kill(pid, Signal::SIGSTOP).unwrap();
    wait_until("it is stopped", || all_are('T'));
    assert_eq!(news(&fixture, WaitPidFlag::WSTOPPED), WaitStatus::Stopped(pid, Signal::SIGSTOP));
    for _ in 0..50 {
        let stopped = live.stop(LIMIT).unwrap();
        assert!(stopped.threads().iter().all(|thread| thread.registers.is_ok()));
        drop(stopped);
        wait_until("it is stopped as before", || all_are('T'));
    }
    assert_eq!(news(&fixture, WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED), WaitStatus::StillAlive);
    kill(pid, Signal::SIGCONT).unwrap();
    wait_until("it goes on", || all_are('S'));
    assert_eq!(news(&fixture, WaitPidFlag::WCONTINUED), WaitStatus::Continued(pid));
    // A stop and a continuation that come while it stands reach it too.
    let stopped = live.stop(LIMIT).unwrap();
    kill(pid, Signal::SIGSTOP).unwrap();
    drop(stopped);
    wait_until("it is stopped", || all_are('T'));
    let stopped = live.stop(LIMIT).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    drop(stopped);
    wait_until("it goes on", || all_are('S'));
    assert!(fixture.finish().0.success());
}

#[test]
fn every_signal_arrives_once_in_order_and_with_its_value() {
    let mut fixture = Running::start_busy("signal_storm", &["60000"]);
    let live = Live::open(fixture.pid()).unwrap();
    let mut stops = 0;
    while let Ok(stopped) = live.stop(LIMIT) {
        assert!(stopped.threads().iter().all(|thread| thread.registers.is_ok()));
        stops += 1;
    }
    assert!(stops > 20, "{stops}");
    let (status, said) = fixture.finish();
    assert!(status.success());
    assert_eq!(said, "60000 signals, in order\n");
}

#[test]
fn threads_that_come_and_go_are_all_found_in_bounded_time() {
    let mut fixture = Running::start_busy("thread_storm", &[]);
    let live = Live::open(fixture.pid()).unwrap();
    let start = Instant::now();
    let stops = 100;
    for _ in 0..stops {
        let stopped = live.stop(LIMIT).unwrap();
        assert!(stopped.all_threads_seen());
        assert!(stopped.threads().iter().all(|thread| thread.registers.is_ok()), "{:?}", stopped.threads());
        assert!(stopped.threads().len() >= 3);
        assert!(states(fixture.pid()).iter().all(|state| matches!(state, 't' | 'X' | 'Z')));
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    let (status, said) = fixture.finish();
    assert!(status.success(), "{status}");
    assert!(said.ends_with(" threads\n"), "{said}");
}

#[test]
fn a_program_that_replaces_itself_is_followed() {
    let mut fixture = Running::start_busy("exec_loop", &["300"]);
    let live = Live::open(fixture.pid()).unwrap();
    let mut seen = 0;
    loop {
        let start = Instant::now();
        let outcome = live.stop(LIMIT);
        assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
        match outcome {
            Ok(stopped) => {
                // Of a program that was replaced between two looks, the map is that of the new one.
                let arch = stopped.arch();
                let registers = stopped.threads().iter().filter_map(|thread| thread.registers.as_ref().ok());
                for sp in registers.filter_map(|registers| registers.addr(arch.sp)) {
                    seen += u32::from(stopped.read_u64(sp).is_ok());
                }
            }
            Err(StopError::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(seen > 20, "{seen}");
    let (status, said) = fixture.finish();
    assert!(status.success());
    assert_eq!(said, "done\n");
}

#[test]
fn the_exit_status_is_for_the_parent() {
    let mut fixture = Running::start("threads", &["2"]);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(LIMIT).unwrap();
    kill(Pid::from_raw(fixture.pid()), Signal::SIGKILL).unwrap();
    drop(stopped);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&fixture.wait()), Some(9));
    assert!(matches!(live.stop(LIMIT), Err(StopError::Ended { .. })));
}

/// Names the process that a second run of this program is to stop.
const HELD: &str = "STACKSCOPE_TEST_HELD";

/// Starts this program once more, to stop process `pid` again and again, a line for each time that it stands.
fn holder(pid: i32) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_holder_lets_go_when_its_stdin_ends", "--nocapture"])
        .env(HELD, pid.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// Reads up to the line that says that the target stands.
fn wait_for_stand(stdout: &mut BufReader<ChildStdout>) {
    let mut line = String::new();
    while !line.ends_with("stands\n") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the holder ended");
    }
}

#[test]
fn a_holder_lets_go_when_its_stdin_ends() {
    if let Ok(pid) = std::env::var(HELD) {
        let live = Live::open(pid.parse().unwrap()).unwrap();
        let stopped = live.stop(LIMIT).unwrap();
        println!("stands");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        drop(stopped);
        return;
    }
    let mut fixture = Running::start("threads", &["2"]);
    let (mut holder, mut stdout) = holder(fixture.pid());
    wait_for_stand(&mut stdout);
    assert!(states(fixture.pid()).iter().all(|state| *state == 't'));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    wait_until("it sleeps again", || states(fixture.pid()).iter().all(|state| *state == 'S'));
    assert!(fixture.finish().0.success());
}

#[test]
fn a_target_whose_tracer_is_killed_goes_on_and_loses_no_signal() {
    for how in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut fixture = Running::start_busy("signal_storm", &["40000"]);
        for _ in 0..3 {
            let (mut holder, mut stdout) = holder(fixture.pid());
            wait_for_stand(&mut stdout);
            assert_eq!(states(fixture.pid()), ['t']);
            kill(Pid::from_raw(holder.id() as i32), how).unwrap();
            holder.wait().unwrap();
            wait_until("it goes on", || states(fixture.pid()) != ['t']);
        }
        let (status, said) = fixture.finish();
        assert!(status.success());
        assert_eq!(said, "40000 signals, in order\n");
    }
}
