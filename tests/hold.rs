//! A look that holds the program: it stands until it is released, and each context's registers and memory are at hand.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use stackscope::workshop::memory::Memory;
use stackscope::{Kind, Lines, Live, Looker, State, Wish};
use stackscope_harness::{Running, scratch, states};

#[test]
fn a_held_program_stands_and_shows_each_context() {
    let truth = scratch("hold").join("truth.json");
    let mut fixture = Running::start("co_asm", &["20", "guard", truth.to_str().unwrap()]);
    let live = Live::open(fixture.pid()).unwrap();
    let plain = Looker::new().live(&live, Wish::all(Lines::Cheap)).unwrap();
    let held = Looker::new().hold(&live, Wish::all(Lines::Cheap)).unwrap();
    assert!(states(fixture.pid()).iter().all(|state| *state == 't'));
    let place = |stack: &stackscope::Stack| (stack.kind, stack.state, stack.sp);
    assert!(held.snapshot.stacks.iter().map(place).eq(plain.stacks.iter().map(place)));

    let arch = held.snapshot.arch;
    let mut suspended = 0;
    for (id, stack) in held.snapshot.stacks.iter().enumerate() {
        let registers = held.registers(id).unwrap();
        assert_eq!(registers.addr(arch.pc), stack.frames.first().map(|frame| frame.frame.pc.addr()));
        assert!(held.read_u64(registers.addr(arch.sp).unwrap()).is_ok());
        suspended += usize::from(stack.kind == Kind::Coroutine && stack.state == State::Suspended);
    }
    assert!(suspended > 10, "{suspended}");
    assert_eq!(held.registers(held.snapshot.stacks.len()), None);

    let (snapshot, released) = held.release();
    assert_eq!(snapshot.threads.len(), released.threads.len());
    assert!(states(fixture.pid()).iter().all(|state| *state != 't'));
    assert!(fixture.finish().0.success());
}
