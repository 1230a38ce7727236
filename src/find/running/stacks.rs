//! From chains of frames to stacks: each chain cut where it passes to another stack, each stack measured.

use super::cut::{self, Memory};
use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::find::extent::bounds::{self, Owner};
use crate::find::ground::Ground;
use crate::find::running::cut::Part;
use crate::find::running::threads::ThreadChain;
use crate::mapping::{Access, Origin, index_at, mapping_at};
use crate::memory::Memory as TargetMemory;
use crate::process::{PageState, Pages, PagesUnknown};
use crate::snapshot::{Kind, Stack, StackFrame, State, ThreadEntry};
use crate::unwind::Ended;

/// Finds the threads' descriptors; where they lie, sorted.
///
/// A thread pointer that the C library did not set, as in Go, leads into memory that has nothing to do with a stack.
pub(crate) fn find_descriptors(chains: &mut [ThreadChain], arch: &Arch, memory: &dyn TargetMemory) -> Vec<Addr> {
    for chain in &mut *chains {
        let keeps_to_abi = |pointer: &u64| {
            !arch.thread_pointer_points_to_itself || memory.read_u64(Addr(*pointer)).is_ok_and(|word| word == *pointer)
        };
        chain.descriptor = chain.thread.thread_pointer.filter(keeps_to_abi).map(Addr);
    }
    let mut descriptors: Vec<Addr> = chains.iter().filter_map(|chain| chain.descriptor).collect();
    descriptors.sort_unstable();
    descriptors
}

/// The stacks of all chains, those of one chain one after the other from the innermost outwards, and the threads.
pub(crate) fn stacks(chains: &[ThreadChain], ground: &Ground<'_>) -> (Vec<ThreadEntry>, Vec<Stack>) {
    let mut threads = Vec::with_capacity(chains.len());
    let mut stacks = Vec::with_capacity(chains.len());
    for chain in chains {
        let thread = &chain.thread;
        threads.push(ThreadEntry {
            tid: thread.tid,
            name: thread.name.clone(),
            stack: stacks.len(),
            signal: thread.signal,
        });
        match chain.sp {
            Some(sp) => add_parts(&mut stacks, chain, sp, ground),
            None => stacks.push(unseen(chain)),
        }
    }
    (threads, stacks)
}

/// The stack of a thread that could not be stopped: nothing is known of it.
fn unseen(chain: &ThreadChain) -> Stack {
    Stack {
        name: chain.thread.name.clone(),
        thread: Some(chain.thread.tid),
        ended: Ended::Unreadable(Addr::default()),
        ..Stack::new(Kind::Thread, State::Running)
    }
}

/// The parts of a chain that begins at the stack pointer `sp`, innermost first.
pub(crate) fn parts(chain: &ThreadChain, sp: Addr, ground: &Ground<'_>) -> Vec<Part> {
    let guards_in = |range| guards(&(ground.pages)(range));
    let memory = Memory { mappings: ground.mappings, guards_in: &guards_in, makes_room: ground.makes_room };
    cut::cut(sp, &chain.frames, &chain.signal_stacks, &memory)
}

/// Ends each chain where a jump leads to another stack: that one is to run next, and has called nothing.
pub(crate) fn end_at_jumps(chains: &mut [ThreadChain], ground: &Ground<'_>) {
    for chain in chains {
        let (Some(jump), Some(sp)) = (chain.jump, chain.sp) else { continue };
        let leaves = parts(chain, sp, ground).iter().any(|part| part.frames.end == jump + 1);
        if leaves && jump + 1 < chain.frames.len() {
            chain.frames.truncate(jump + 1);
            chain.frames[jump].cfa = None;
            chain.ended = Ok(Ended::NoRule);
        }
    }
}

fn add_parts(stacks: &mut Vec<Stack>, chain: &ThreadChain, sp: Addr, ground: &Ground<'_>) {
    let parts = parts(chain, sp, ground);
    let last = parts.len() - 1;
    for (index, part) in parts.iter().enumerate() {
        let mut stack = measured(chain, part, ground);
        stack.state = if index == 0 { State::Running } else { State::Resuming };
        stack.thread = (index == 0).then_some(chain.thread.tid);
        if index < last {
            stack.ended = Ended::Root;
            stack.resumed_by = Some(stacks.len() + 1);
        }
        stacks.push(stack);
    }
}

/// One stack of a chain, with its kind and bounds.
fn measured(chain: &ThreadChain, part: &Part, ground: &Ground<'_>) -> Stack {
    let home = part.home;
    let window = bounds::page_window(home, ground.mappings);
    let pages = (ground.pages)(window);
    let owner = owner(chain, part, ground);
    let found = bounds::bounds(owner, home, ground.mappings, ground.stack_limit, &pages);
    let kind = kind(owner, chain, part, ground);
    Stack {
        name: chain.thread.name.clone().filter(|_| kind == Kind::Thread),
        bounds: found,
        sp: Some(part.sp),
        frames: sized(chain, part),
        ended: chain.ended.unwrap_or(Ended::NoRule),
        confidence: chain.confidence(part.frames.end),
        ..Stack::new(kind, State::Running)
    }
}

/// Whose stack a part of a chain lies on, as far as the target tells.
fn owner(chain: &ThreadChain, part: &Part, ground: &Ground<'_>) -> Owner {
    let leaves_by_signal = chain.frames[part.frames.clone()].iter().any(|frame| frame.signal);
    if leaves_by_signal && let Some(range) = chain.signal_stacks.iter().find(|range| range.contains(part.home)) {
        return Owner::Signal(*range);
    }
    let is_outermost = part.frames.end == chain.frames.len();
    if is_outermost && lies_on_own_stack(chain, part.home, ground) {
        return Owner::Thread;
    }
    let outermost = outermost_sp(chain, part);
    Owner::Other { outermost, foreign: ground.descriptor_above(outermost) }
}

/// The stack pointer in the outermost frame of a part: the CFA of the frame that it called.
fn outermost_sp(chain: &ThreadChain, part: &Part) -> Addr {
    let called = part.frames.len().checked_sub(2).map(|index| chain.frames[part.frames.start + index]);
    called.and_then(|frame| frame.cfa).unwrap_or(part.sp)
}

/// Whether `sp` lies where the chain's thread began, or else on the kernel's `[stack]`, where only the first one begins.
fn lies_on_own_stack(chain: &ThreadChain, sp: Addr, ground: &Ground<'_>) -> bool {
    mapping_at(ground.mappings, sp)
        .is_some_and(|mapping| mapping.origin == Origin::MainStack || chain.began_at(ground.pid, mapping, sp))
}

/// What the stack of a part serves.
fn kind(owner: Owner, chain: &ThreadChain, part: &Part, ground: &Ground<'_>) -> Kind {
    match owner {
        Owner::Signal(_) => Kind::Signal,
        Owner::Thread => Kind::Thread,
        // The chain goes on to another stack, so the thread did not begin on this one.
        Owner::Other { .. } if part.frames.end < chain.frames.len() => Kind::Coroutine,
        Owner::Other { .. } if has_own_stack_elsewhere(chain, ground) => Kind::Coroutine,
        Owner::Other { .. } => Kind::Unknown,
    }
}

/// Whether the chain's thread is known to have begun on a stack that none of its frames lies on: the first thread on the
/// kernel's, another where its descriptor lies in a mapping that looks like a thread's stack.
fn has_own_stack_elsewhere(chain: &ThreadChain, ground: &Ground<'_>) -> bool {
    if chain.thread.tid == ground.pid {
        return ground.mappings.iter().any(|mapping| mapping.origin == Origin::MainStack);
    }
    let descriptor = chain.descriptor.and_then(|descriptor| index_at(ground.mappings, descriptor));
    let Some(index) = descriptor.filter(|index| ground.mappings[*index].origin == Origin::Anonymous) else {
        return false;
    };
    let below = index.checked_sub(1).map(|below| &ground.mappings[below]);
    below.is_some_and(|below| below.access == Access::default() && below.range.high == ground.mappings[index].range.low)
}

/// A part's frames, each with the bytes it takes; unknown for the one that the chain leaves this stack by.
fn sized(chain: &ThreadChain, part: &Part) -> Vec<StackFrame> {
    let crosses = part.frames.end < chain.frames.len();
    let mut sp = Some(part.sp);
    let frames = part.frames.clone().map(|index| {
        let frame = chain.frames[index];
        let leaves = crosses && index + 1 == part.frames.end;
        let bytes = sp.zip(frame.cfa).filter(|_| !leaves).and_then(|(sp, cfa)| cfa.0.checked_sub(sp.0));
        sp = frame.cfa;
        StackFrame { frame, bytes }
    });
    frames.collect()
}

fn guards(pages: &Result<Pages, PagesUnknown>) -> Vec<AddrRange> {
    let runs = pages.as_ref().map_or(&[][..], |pages| &pages.runs);
    runs.iter().filter(|run| run.state == PageState::Guard).map(|run| run.range).collect()
}
