//! Live processes: what is seen of them in a stop, and that they do not notice it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::time::Duration;

use stackscope::mapping::mapping_at;
use stackscope::memory::Memory;
use stackscope::target::{Live, NotStopped, OpenError, Source, Target};
use stackscope_harness::{Running, states};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_stop_shows_every_thread_and_lets_it_go_on() {
    let mut fixture = Running::start("threads", &["8"]);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(LIMIT).unwrap();
    assert_eq!(stopped.threads().len(), 9);
    assert_eq!(stopped.threads()[0].tid, fixture.pid());
    assert!(stopped.all_threads_seen());
    assert!(states(fixture.pid()).iter().all(|state| *state == 't'));
    for thread in stopped.threads() {
        let registers = thread.registers.as_ref().unwrap();
        let (pc, sp) = (registers.addr(stopped.arch().pc).unwrap(), registers.addr(stopped.arch().sp).unwrap());
        assert!(mapping_at(stopped.mappings(), pc).unwrap().access.execute);
        assert!(stopped.read_u64(sp).is_ok());
        assert_eq!(thread.name.as_deref(), Some("threads"));
        // The C library keeps a thread's own address at its thread pointer.
        assert_eq!(
            stopped.read_u64(stackscope::addr::Addr(thread.thread_pointer.unwrap())).ok(),
            thread.thread_pointer
        );
    }
    let sp = stopped.threads()[3].registers.as_ref().unwrap().addr(stopped.arch().sp).unwrap();
    let word = stopped.read_u64(sp).unwrap();
    let released = stopped.release();
    assert!(released.stopped_for > Duration::ZERO && released.stopped_for < LIMIT);
    assert_eq!(released.read_u64(sp), Ok(word));
    assert_eq!(released.process.source, Source::Live);
    assert!(released.process.command[0].ends_with("threads"));
    let (status, _) = fixture.finish();
    assert!(status.success());
}

#[test]
fn what_is_dropped_goes_on() {
    let mut fixture = Running::start("threads", &["3"]);
    let live = Live::open(fixture.pid()).unwrap();
    for _ in 0..100 {
        drop(live.stop(LIMIT).unwrap());
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _stopped = live.stop(LIMIT).unwrap();
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    assert!(states(fixture.pid()).iter().all(|state| *state == 'S'));
    assert!(fixture.finish().0.success());
}

#[test]
fn what_is_no_process_of_a_program_is_refused_by_name() {
    assert!(matches!(Live::open(i32::MAX), Err(OpenError::NoProcess { pid: i32::MAX })));
    assert!(matches!(Live::open(0), Err(OpenError::NoProcess { pid: 0 })));
    assert!(matches!(Live::open(-1), Err(OpenError::NoProcess { pid: -1 })));
    let own = std::process::id() as i32;
    assert!(matches!(Live::open(own), Err(OpenError::Ourselves { pid }) if pid == own));
    // The kernel's thread that starts all others of its own.
    assert!(matches!(Live::open(2), Err(OpenError::KernelThread { pid: 2, name }) if name == "kthreadd"));
}

#[test]
fn a_thread_in_uninterruptible_sleep_is_listed_and_let_go() {
    let mut fixture = Running::start_busy("vfork_parent", &[]);
    stackscope_harness::wait_until("the parent waits", || states(fixture.pid()) == ['D']);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(Duration::from_millis(20)).unwrap();
    assert_eq!(stopped.threads().len(), 1);
    assert_eq!(stopped.threads()[0].registers, Err(NotStopped::Uninterruptible));
    assert!(stopped.release().stopped_for < Duration::from_secs(1));
    // Were it still traced, it would stand still for good when its sleep ends.
    assert!(fixture.finish().0.success());
}
