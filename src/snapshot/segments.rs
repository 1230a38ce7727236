//! Tells a stack that its caller gave to a called function, to have more room, from a coroutine's.
//!
//! A coroutine's trampoline is entered once, by whoever resumed it first; later resumers call something else. A segment
//! (stacker's, `-fsplit-stack`'s) lives as long as one call: the frame that the chain leaves it by belongs to the very
//! routine that the caller called.

use super::{Kind, Places, Stack};
use crate::addr::{Addr, Pc};
use crate::arch::Arch;
use crate::image::Modules;
use crate::memory::Memory;

/// Marks the coroutines among `stacks` that are segments.
pub(super) fn mark(stacks: &mut [Stack], places: &Places, arch: &Arch, modules: &Modules, memory: &dyn Memory) {
    for id in 0..stacks.len() {
        let called = || called_routine(stacks, id, arch, modules, memory);
        if stacks[id].kind == Kind::Coroutine
            && leaving_routine(&stacks[id], places).is_some_and(|it| called() == Some(it))
        {
            stacks[id].kind = Kind::Segment;
        }
    }
}

/// The routine whose frame the chain leaves a stack by.
fn leaving_routine(stack: &Stack, places: &Places) -> Option<Addr> {
    let pc = stack.frames.last()?.frame.pc;
    let offset = places.get(pc).names.last()?.offset?;
    Some(Addr(pc.addr().0.checked_sub(offset)?))
}

/// The routine that was called where the chain goes on.
fn called_routine(stacks: &[Stack], id: usize, arch: &Arch, modules: &Modules, memory: &dyn Memory) -> Option<Addr> {
    let caller = stacks.get(stacks[id].resumed_by?)?.frames.first()?.frame.pc;
    let Pc::After(return_address) = caller else { return None };
    let mut before = vec![0; arch.longest_call];
    if !modules.code(return_address.offset(-(before.len() as i64)), &mut before) {
        return None;
    }
    (arch.direct_call_target)(&before, return_address).or_else(|| {
        let slot = (arch.call_slot)(&before, return_address)?;
        memory.read_u64(slot).ok().map(Addr)
    })
}
