//! Tells a stack that its caller gave to a called function, to have more room, from a coroutine's.
//!
//! A coroutine's trampoline is entered once, by whoever resumed it first; later resumers call something else. A segment
//! lives as long as one call: of the two outermost frames on it one belongs to the very routine that the caller called.
//! That is the last one where the routine itself asked for the room (stacker), the one inside it where the called
//! function found none when it began (`-fsplit-stack`: its prologue calls `__morestack`, which calls the rest of it).

use crate::addr::{Addr, Pc};
use crate::arch::{Arch, Callee};
use crate::image::Modules;
use crate::memory::Memory;
use crate::snapshot::{Guard, Kind, Places, Stack};
use crate::unwind::{FoundBy, Tables};

/// Marks the coroutines among `stacks` that are segments.
pub(crate) fn mark(stacks: &mut [Stack], places: &Places, arch: &'static Arch, modules: &Modules, memory: &dyn Memory) {
    // Who called a function on more room did not leave by a switch.
    let has_switched =
        |id: usize| stacks[id].frames.first().is_some_and(|frame| frame.frame.found_by == FoundBy::Descriptor);
    let may_be = |stack: &Stack| stack.kind == Kind::Coroutine && stack.resumed_by.is_some_and(|id| !has_switched(id));
    let candidates: Vec<usize> = (0..stacks.len()).filter(|id| may_be(&stacks[*id])).collect();
    if candidates.is_empty() {
        return;
    }
    let tables = Tables::new(arch, modules);
    for id in candidates {
        let Some(called) = called_routine(stacks, id, arch, modules, memory) else { continue };
        let outermost = stacks[id].frames.iter().rev().take(2);
        if outermost.into_iter().any(|frame| routine(frame.frame.pc, places, &tables) == Some(called)) {
            stacks[id].kind = Kind::Segment;
            forget_pages(&mut stacks[id]);
        }
    }
}

/// Forgets how many pages of a segment were touched where it has no guard: libgcc keeps its notes about a segment at
/// that one's low end (`struct stack_segment` in generic-morestack.c), and a page that is touched there says nothing.
fn forget_pages(stack: &mut Stack) {
    if !matches!(stack.bounds.guard, Guard::Ok(_)) {
        stack.peak = None;
    }
}

/// Where the routine begins that `pc` lies in: by its symbol, or by its unwind rules where that was stripped.
fn routine(pc: Pc, places: &Places, tables: &Tables<'_>) -> Option<Addr> {
    let offset = places.get(pc).names.last().and_then(|name| name.offset);
    offset.map_or_else(|| tables.function_start(pc.lookup()), |offset| pc.addr().0.checked_sub(offset).map(Addr))
}

/// The routine that was called where the chain goes on.
fn called_routine(stacks: &[Stack], id: usize, arch: &Arch, modules: &Modules, memory: &dyn Memory) -> Option<Addr> {
    let caller = stacks.get(stacks[id].resumed_by?)?.frames.first()?.frame;
    // What was found in memory left by a switch, wherever the stack's own frames lead.
    let Pc::After(return_address) = caller.pc else { return None };
    if caller.found_by == FoundBy::Descriptor {
        return None;
    }
    match arch.callee(return_address, |at, into| modules.code(at, into))? {
        Callee::Routine(routine) => Some(routine),
        Callee::Slot(slot) => memory.read_u64(slot).ok().map(Addr),
    }
}
