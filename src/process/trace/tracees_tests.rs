//! Programs are followed from their start to their end, and go on if they are let go.

use std::ffi::{OsStr, OsString};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::process::{Happened, Happening, Inbox, LaunchError, Outcome, Target, Tracees, gains_rights, launch};

/// Starts a shell with a script, followed.
fn start(script: &str) -> (i32, Tracees, Receiver<Happened>) {
    let arguments = ["-c", script].map(OsString::from);
    let launched = launch(OsStr::new("sh"), &arguments, Inbox::open().unwrap().inherited()).unwrap();
    let pid = launched.pid();
    let (sender, happened) = channel();
    let tracees = Tracees::seize(pid, move |what| sender.send(what).unwrap_or_default()).unwrap();
    launched.go().unwrap();
    (pid, tracees, happened)
}

/// What happened until the process ended; it may end as soon as its end was reported.
fn until_end(pid: i32, tracees: &Tracees, happened: &Receiver<Happened>) -> Vec<Happening> {
    let mut all = Vec::new();
    loop {
        let what = happened.recv_timeout(Duration::from_secs(30)).unwrap().what;
        all.push(what.clone());
        match what {
            Happening::Ending { pid } => tracees.release(pid),
            Happening::Fatal(signalled) => tracees.release(signalled.pid),
            Happening::Ended { pid: ended, .. } if ended == pid => return all,
            _ => {}
        }
    }
}

#[test]
fn an_end_is_told_before_it_comes() {
    let (pid, tracees, happened) = start("exit 7");
    let all = until_end(pid, &tracees, &happened);
    let ended = Happening::Ended { pid, outcome: Outcome::Exited(7) };
    assert_eq!(all, [Happening::Executed { pid }, Happening::Ending { pid }, ended]);
}

#[test]
fn a_fatal_signal_is_told_before_it_is_given() {
    let (pid, tracees, happened) = start("kill -SEGV $$");
    let all = until_end(pid, &tracees, &happened);
    assert!(matches!(all[1], Happening::Fatal(signalled) if signalled.signal == 11 && signalled.from == Some(pid)));
    assert!(matches!(all[2], Happening::Ended { outcome: Outcome::Killed { signal: 11, .. }, .. }), "{all:?}");
}

#[test]
fn a_handled_signal_is_passed_on() {
    let (pid, tracees, happened) = start("trap 'exit 3' USR1; kill -USR1 $$; exit 4");
    let all = until_end(pid, &tracees, &happened);
    assert!(matches!(all[1], Happening::Signal(signalled) if signalled.signal == 10));
    assert_eq!(all.last(), Some(&Happening::Ended { pid, outcome: Outcome::Exited(3) }));
}

#[test]
fn a_process_stands_for_a_look_before_its_end() {
    let (pid, tracees, happened) = start("exit 0");
    while happened.recv_timeout(Duration::from_secs(30)).unwrap().what != (Happening::Ending { pid }) {}
    let live = tracees.open(pid).unwrap();
    let stopped = live.stop(Duration::from_secs(1)).unwrap();
    assert!(stopped.all_threads_seen());
    let [thread] = stopped.threads() else { panic!("{:?}", stopped.threads()) };
    assert_eq!(thread.tid, pid);
    assert!(thread.registers.is_ok());
    drop(stopped);
    // The look is over, and the process still stands until it is let go to its end.
    assert!(live.mappings().is_ok_and(|mappings| !mappings.is_empty()));
    tracees.release(pid);
    assert!(matches!(happened.recv().unwrap().what, Happening::Ended { .. }));
}

#[test]
fn what_is_missing_or_no_program_is_told_apart() {
    let inherited = Inbox::open().unwrap().inherited();
    let missing = launch(OsStr::new("/nowhere/at/all"), &[], inherited).unwrap().go();
    assert!(matches!(missing, Err(LaunchError::NotFound(_))));
    let no_program = launch(OsStr::new("/"), &[], inherited).unwrap().go();
    assert!(matches!(no_program, Err(LaunchError::NotExecutable(..))));
    let zero = launch(OsStr::new("a\0b"), &[], inherited);
    assert!(matches!(zero, Err(LaunchError::ZeroByte(_))));
}

#[test]
fn programs_that_gain_rights_are_known() {
    let cases = [("passwd", true), ("/usr/bin/passwd", true), ("sh", false), ("/bin/sh", false), ("/nowhere", false)];
    for (program, gains) in cases {
        assert_eq!(gains_rights(OsStr::new(program)), gains, "{program}");
    }
}
