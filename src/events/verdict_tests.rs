//! Made-up stacks and faults, each with its verdict.

use super::*;
use crate::addr::{Addr, AddrRange};
use crate::process::Fault as Raised;
use crate::snapshot::testing::Draft;
use crate::snapshot::{Fault, Guard, Kind, Land, Snapshot, State};

/// The thread of [`scene`].
const THREAD: i32 = 77;

/// A guarded coroutine of 64 KiB, of which `left` bytes are not used, run by a thread; another one, suspended.
fn scene(left: i64) -> Snapshot {
    let mut draft = Draft::new();
    let thread = draft.stack(Kind::Thread, State::Resuming, 1 << 20, 0, &[("main", 1, 64)]);
    let used = 65536 - left;
    let running = draft.stack(Kind::Coroutine, State::Running, 65536, 0, &[("leaf", 1, used as u64)]);
    draft.stack(Kind::Coroutine, State::Suspended, 65536, 0, &[("rest", 3, 640)]);
    draft.stack(Kind::Thread, State::Suspended, 65536, 0, &[("rest", 3, 640)]);
    draft.run(THREAD, "worker", running, &[thread]);
    draft.finish()
}

fn low(snapshot: &Snapshot, stack: usize) -> Addr {
    snapshot.stacks[stack].bounds.low.unwrap()
}

/// The cause of a `SIGSEGV` at `address`.
fn cause_at(mut snapshot: Snapshot, address: Addr, at: Land) -> Cause {
    let raised = Raised { signal: libc::SIGSEGV, code: 2, address: Some(address) };
    snapshot.fault = Some(Fault { raised, thread: THREAD, at });
    judge(&snapshot).unwrap().cause
}

fn forbidden() -> Land {
    Land::Forbidden(AddrRange::default())
}

#[test]
fn a_push_into_the_guard_is_an_overflow() {
    let snapshot = scene(0);
    let low = low(&snapshot, 1);
    let Cause::Overflow(found) = cause_at(snapshot, low.offset(-8), forbidden()) else { panic!("none") };
    assert_eq!((found.stack.id, found.past, found.left, found.frame, found.way), (1, 8, 0, None, Way::IntoGuard));
}

#[test]
fn a_frame_beyond_the_guard_passed_it() {
    let mut snapshot = scene(-12288);
    snapshot.stacks[1].frames[0].frame.cfa = snapshot.stacks[1].bounds.high;
    let at = low(&snapshot, 1).offset(-12000);
    let Cause::Overflow(found) = cause_at(snapshot, at, Land::Nothing) else { panic!("none") };
    assert_eq!((found.past, found.frame, found.way), (12288, Some(0), Way::OverGuard));
}

#[test]
fn without_a_guard_the_stack_pointer_alone_says_it() {
    let mut snapshot = scene(-512);
    snapshot.stacks[1].bounds.guard = Guard::None;
    let Cause::Overflow(found) = cause_at(snapshot, Addr(0x5000_0000), Land::Nothing) else { panic!("none") };
    assert_eq!((found.past, found.way), (512, Way::Unguarded));
}

#[test]
fn memory_of_another_stack_is_named() {
    let mut snapshot = scene(-512);
    let below = AddrRange::new(low(&snapshot, 1).offset(-65536), low(&snapshot, 1));
    snapshot.stacks[1].bounds.guard = Guard::None;
    (snapshot.stacks[2].bounds.low, snapshot.stacks[2].bounds.high) = (Some(below.low), Some(below.high));
    let Cause::Overflow(found) = cause_at(snapshot, below.high.offset(-400), Land::Nothing) else { panic!("none") };
    assert_eq!(found.neighbour.map(|on| (on.id, on.kind)), Some((2, Kind::Coroutine)));
}

#[test]
fn a_guard_touched_from_afar_is_no_overflow() {
    let touched = |left, stack: usize, own| {
        let snapshot = scene(left);
        let Guard::Ok(guard) = snapshot.stacks[stack].bounds.guard else { panic!("no guard") };
        let expected = On { id: stack, kind: snapshot.stacks[stack].kind };
        assert_eq!(cause_at(snapshot, guard.low, forbidden()), Cause::Guard { stack: expected, own });
    };
    touched(8192, 1, true);
    touched(8192, 3, false);
}

#[test]
fn null_pointers_and_bad_jumps_are_named() {
    assert_eq!(cause_at(scene(8192), Addr(24), Land::Nothing), Cause::Null { offset: 24 });
    let snapshot = scene(8192);
    let pc = snapshot.stacks[1].frames[0].frame.pc.addr();
    assert_eq!(cause_at(snapshot, pc, Land::Nothing), Cause::Jump { to: pc });
    // A write to the very code that runs is no jump.
    assert_eq!(cause_at(scene(8192), pc, Land::Code(AddrRange::default())), Cause::Kept);
    assert_eq!(cause_at(scene(8192), Addr(0x5000_0000), Land::Nothing), Cause::Unmapped);
}

#[test]
fn signals_without_an_address_are_no_overflows() {
    let cause = |signal, code| {
        let mut snapshot = scene(8192);
        let raised = Raised { signal, code, address: None };
        snapshot.fault = Some(Fault { raised, thread: THREAD, at: Land::Nothing });
        judge(&snapshot).unwrap().cause
    };
    assert_eq!(cause(libc::SIGSEGV, Raised::BY_KERNEL), Cause::General);
    assert_eq!(cause(libc::SIGSEGV, libc::SI_USER), Cause::Sent);
    assert_eq!(cause(libc::SIGABRT, libc::SI_TKILL), Cause::Abort);
    assert_eq!(cause(libc::SIGTERM, libc::SI_USER), Cause::Sent);
    assert_eq!(judge(&scene(0)), None);
}
