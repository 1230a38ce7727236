//! Follows a hypothesis up its stack, and tells where that stack ends: who resumed it last is not its caller.
//!
//! A *segment* is further memory that a function was called on for the room: the chain goes on where that call was made.
//! A *link* leads to whoever resumed the stack last, as debuggers want to see it while the stack runs. Both look alike in
//! the rules. What tells them apart is the code at the other end: a link's has left by a switch.

use std::ops::ControlFlow;

use foldhash::HashSet;

use crate::addr::{Addr, AddrRange, Pc};
use crate::arch::X86_64;
use crate::find::sites::Sites;
use crate::find::suspended::chains::Segment;
use crate::find::suspended::ends::{CodeView, Ends};
use crate::mapping::{Mapping, mapping_at};
use crate::registers::Registers;
use crate::unwind::{FoundBy, Frame};

/// A CFA that an expression gives may lie this far above a register of its frame, in bytes, to count as one of the
/// same stack: functions that realign their stack keep the caller's stack pointer close by.
const REALIGNED: u64 = 1024;

/// Why a walk was stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A frame's CFA is far from its registers, or below the last one, or in another mapping.
    Leaves {
        /// Whether it may nevertheless be of the same stack.
        on_this_stack: bool,
    },
    /// The next frame stands for the stack that this one was resumed from last.
    Linked,
    /// The next frame would be a guess.
    Guessed,
}

/// What was learned of places in the code, by earlier walks too.
pub(super) struct Known<'e> {
    /// What can come behind them.
    pub(super) ends: Ends<'e>,
    /// Those whose frames are so big that their CFA lies far from every register, though it is counted from one.
    pub(super) big_frames: HashSet<Pc>,
    /// Those whose rules lead to whoever resumed their stack.
    pub(super) links: HashSet<Pc>,
}

impl<'e> Known<'e> {
    /// Nothing yet of the places in `code`.
    pub(super) fn new(code: CodeView<'e>) -> Known<'e> {
        Known { ends: Ends::new(code), big_frames: HashSet::default(), links: HashSet::default() }
    }
}

/// A frame by which the chain leaves its stack: for a segment's caller, or by a link.
#[derive(Clone, Copy)]
struct Crossing {
    /// Its CFA.
    cfa: Addr,
    /// Whether the frame stands for the crossing alone: no code runs there.
    is_stand_in: bool,
}

/// Where a walk has come to.
pub(super) struct Climbed {
    /// The mapping that holds the stack.
    pub(super) memory: AddrRange,
    /// The stack pointer with which the chain comes to the stack.
    pub(super) sp: Addr,
    /// The place of its first frame there.
    pub(super) first: usize,
    /// The highest CFA there so far.
    pub(super) top: Addr,
    /// What the chain has left.
    pub(super) segments: Vec<Segment>,
    /// Why it was stopped; `None` where there were no more frames.
    pub(super) stop: Option<Stop>,
}

/// A walk up a stack, and from its segments to it.
pub(super) struct Climb<'c, 'e> {
    sites: &'c Sites,
    mappings: &'c [Mapping],
    known: &'c mut Known<'e>,
    at: Climbed,
    /// What is to be decided by the next frame.
    crossing: Option<Crossing>,
    /// Whether the last frame is marked as a signal's. A library marks its outermost frame so where the next one lies on
    /// another stack, for debuggers to go on.
    is_marked: bool,
}

impl<'c, 'e> Climb<'c, 'e> {
    /// A walk that begins with the stack pointer `sp` in `memory`, and whose first frame will have the place `first`.
    pub(super) fn new(
        sites: &'c Sites,
        mappings: &'c [Mapping],
        known: &'c mut Known<'e>,
        memory: AddrRange,
        sp: Addr,
        first: usize,
    ) -> Climb<'c, 'e> {
        let at = Climbed { memory, sp, first, top: sp, segments: Vec::new(), stop: None };
        Climb { sites, mappings, known, at, crossing: None, is_marked: false }
    }

    /// Takes up one more frame.
    pub(super) fn visit(&mut self, frame: &Frame, registers: &Registers, frames: &mut Vec<Frame>) -> ControlFlow<()> {
        if let Some(crossing) = self.crossing.take()
            && !self.cross(crossing, frame.pc, frames)
        {
            self.give_up(crossing, frames);
            return ControlFlow::Break(());
        }
        if frame.found_by.is_guess() {
            self.at.stop = Some(Stop::Guessed);
            return ControlFlow::Break(());
        }
        // What a signal interrupted has all its registers from the kernel.
        let is_behind_mark = std::mem::replace(&mut self.is_marked, frame.signal) && frame.found_by == FoundBy::Cfi;
        let Some(cfa) = frame.cfa else {
            frames.push(*frame);
            return ControlFlow::Continue(());
        };
        let on_this_stack = self.at.top < cfa && cfa <= self.at.memory.high;
        let is_stand_in = is_behind_mark && (!on_this_stack || self.known.ends.is_end(frame.pc.addr()));
        let is_close = |register| registers.get(register).is_some_and(|value| cfa.0.wrapping_sub(value) <= REALIGNED);
        let is_plain = is_close(X86_64.sp) || is_close(X86_64.fp) || self.known.big_frames.contains(&frame.pc);
        if on_this_stack && is_plain && !is_stand_in {
            self.at.top = cfa;
            frames.push(*frame);
            return ControlFlow::Continue(());
        }
        frames.push(Frame { cfa: None, ..*frame });
        if is_stand_in || is_plain && !self.known.links.contains(&frame.pc) {
            self.crossing = Some(Crossing { cfa, is_stand_in });
            return ControlFlow::Continue(());
        }
        self.at.stop = Some(Stop::Leaves { on_this_stack });
        ControlFlow::Break(())
    }

    /// There are no more frames.
    pub(super) fn end(mut self, frames: &mut Vec<Frame>) -> Climbed {
        if let Some(crossing) = self.crossing.take() {
            self.give_up(crossing, frames);
        }
        self.at
    }

    /// Goes on to the stack on which the code at `caller` called a function on this one; `false` where it did not.
    fn cross(&mut self, crossing: Crossing, caller: Pc, frames: &[Frame]) -> bool {
        let code = self.known.ends.code;
        let is_call = || {
            let leaving = frames.last().and_then(|frame| (code.function_start)(frame.pc.lookup()));
            leaving.is_some() && code.called(caller) == leaving
        };
        if self.sites.is_resume_word(caller.addr()) || !crossing.is_stand_in && !is_call() {
            return false;
        }
        let mapping = mapping_at(self.mappings, crossing.cfa);
        let Some(mapping) = mapping.filter(|mapping| mapping.is_memory() && mapping.access.write) else {
            return false;
        };
        let at = &mut self.at;
        at.segments.push(Segment { sp: at.sp, frames: at.first..frames.len(), top: at.top });
        at.memory = mapping.range;
        (at.sp, at.top, at.first) = (crossing.cfa, crossing.cfa, frames.len());
        true
    }

    /// Ends the chain at a crossing that leads to no caller.
    fn give_up(&mut self, crossing: Crossing, frames: &mut Vec<Frame>) {
        self.at.stop = Some(match crossing.is_stand_in {
            true => {
                frames.pop();
                Stop::Linked
            }
            false => Stop::Leaves { on_this_stack: false },
        });
    }
}
