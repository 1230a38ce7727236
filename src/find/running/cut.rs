//! Cuts a thread's chain of frames where it passes from one stack to another.
//!
//! The walk follows the rules wherever they lead; only here is it asked which stack each frame lies on. A *crossing*
//! is a frame whose caller's frame lies on another stack: a switch trampoline's, or a signal handler's on its own stack.

use std::ops::Range;

use crate::addr::{Addr, AddrRange, PAGE, Pc};
use crate::find::extent::bounds;
use crate::mapping::{Mapping, mapping_at};
use crate::unwind::Frame;

/// A frame larger than this passed no guard: it is a switch's.
const LARGEST_FRAME: u64 = 256 << 20;

/// The part of a chain that lies on one stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which of the chain's frames, innermost first.
    pub frames: Range<usize>,
    /// The stack pointer with which execution stands on this stack.
    pub sp: Addr,
    /// An address on this stack: the stack pointer, or one above it if that has run out of the stack.
    pub home: Addr,
}

/// What is known of the memory that a chain leads over.
#[derive(Clone, Copy)]
pub struct Memory<'m> {
    /// Sorted by address.
    pub mappings: &'m [Mapping],
    /// The guards inside a mapping that its protection does not show.
    pub guards_in: &'m dyn Fn(AddrRange) -> Vec<AddrRange>,
    /// Whether the code of the function there explains a frame that is larger than a guard.
    pub makes_room: &'m dyn Fn(Pc) -> bool,
}

/// Cuts a chain that begins at the stack pointer `sp` into the parts on each stack, innermost first.
///
/// Two places are on one stack where the chain rises from one to the other, within one mapping, and over no guard, and
/// where both or neither are on one of the alternate `signal_stacks`. A frame so large that it passed the guard below its
/// stack begins on that stack all the same.
pub fn cut(sp: Addr, frames: &[Frame], signal_stacks: &[AddrRange], memory: &Memory<'_>) -> Vec<Part> {
    let leaves_signal_stack =
        |from: Addr, to: Addr| signal_stacks.iter().any(|range| range.contains(from) != range.contains(to.offset(-1)));
    let at = |sp: Addr| bounds::home(sp, memory.mappings);
    let is_mapped = |place: Addr| mapping_at(memory.mappings, place).is_some();
    let mut parts = Vec::new();
    let mut part = Part { frames: 0..0, sp, home: at(sp) };
    let mut frame_sp = sp;
    // What lies right above the frame inside, which may end where its stack ends, need not be on that stack.
    let mut place = sp;
    for (index, frame) in frames.iter().enumerate() {
        let Some(cfa) = frame.cfa else { continue };
        let (from, to) = (place, cfa.offset(-1));
        let step = match step(from, cfa, memory) {
            _ if frame.signal && leaves_signal_stack(frame_sp, cfa) || cfa < frame_sp => Step::Crosses,
            Step::Crosses if !frame.signal && passed_guard(from, cfa, frame.pc, memory) => Step::Passed,
            step => step,
        };
        if step == Step::Passed || !is_mapped(part.home) && is_mapped(to) {
            part.home = to;
        }
        if index + 1 < frames.len() && step == Step::Crosses {
            part.frames.end = index + 1;
            let next = Part { frames: index + 1..index + 1, sp: cfa, home: at(cfa) };
            parts.push(std::mem::replace(&mut part, next));
        }
        frame_sp = cfa;
        place = if frame.signal { cfa } else { to };
    }
    part.frames.end = frames.len();
    parts.push(part);
    parts
}

/// How a frame lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// On one stack.
    Stays,
    /// On one stack and in what lies beyond the guard below that.
    Passed,
    /// It ends on another stack than it begins on.
    Crosses,
}

/// How a frame that reaches from `sp` up to `cfa` lies, by memory alone.
fn step(sp: Addr, cfa: Addr, memory: &Memory<'_>) -> Step {
    if cfa.0.saturating_sub(sp.0) < PAGE && sp.align_down(PAGE) == cfa.offset(-1).align_down(PAGE) {
        return Step::Stays;
    }
    let (Some(from), Some(to)) = (mapping_at(memory.mappings, sp), mapping_at(memory.mappings, cfa.offset(-1))) else {
        // A frame that begins or ends in no known mapping says nothing of another stack.
        return Step::Stays;
    };
    let crosses = match from.range == to.range {
        // A stack pointer in the guard below has run out of its stack, and is on no other.
        false => bounds::home(sp, memory.mappings) != to.range.low,
        true => (memory.guards_in)(AddrRange::new(sp, cfa)).iter().any(|guard| !guard.contains(sp)),
    };
    if crosses { Step::Crosses } else { Step::Stays }
}

/// Whether a frame that reaches from `sp`, below its stack's guard, up to `cfa` is so large that it passed that guard.
fn passed_guard(sp: Addr, cfa: Addr, pc: Pc, memory: &Memory<'_>) -> bool {
    let size = cfa.0.saturating_sub(sp.0);
    (PAGE..=LARGEST_FRAME).contains(&size) && (memory.makes_room)(pc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Pc;
    use crate::mapping::{Access, Origin};
    use crate::unwind::FoundBy;

    fn anonymous(low: u64, high: u64) -> Mapping {
        Mapping {
            range: AddrRange::new(Addr(low), Addr(high)),
            access: Access { read: true, write: true, execute: false },
            shared: false,
            origin: Origin::Anonymous,
        }
    }

    fn chain(cfas: &[u64]) -> Vec<Frame> {
        cfas.iter()
            .map(|cfa| Frame { pc: Pc::At(Addr(0x1000)), cfa: Some(Addr(*cfa)), found_by: FoundBy::Cfi, signal: false })
            .collect()
    }

    /// The parts of a chain, whose functions make room for large frames or do not.
    fn parts(sp: u64, cfas: &[u64], mappings: &[Mapping], guards: &[AddrRange], makes_room: bool) -> Vec<Part> {
        let guards_in = |range| guards.iter().filter_map(|guard| guard.intersection(range)).collect();
        let memory = Memory { mappings, guards_in: &guards_in, makes_room: &|_| makes_room };
        cut(Addr(sp), &chain(cfas), &[], &memory)
    }

    fn ranges(parts: &[Part]) -> Vec<(Range<usize>, u64)> {
        parts.iter().map(|part| (part.frames.clone(), part.sp.0)).collect()
    }

    fn check(sp: u64, cfas: &[u64], guards: &[(u64, u64)], expected: &[(Range<usize>, u64)]) {
        let mappings = [anonymous(0x10000, 0x20000), anonymous(0x30000, 0x40000)];
        let guards: Vec<AddrRange> = guards.iter().map(|(low, high)| AddrRange::new(Addr(*low), Addr(*high))).collect();
        assert_eq!(ranges(&parts(sp, cfas, &mappings, &guards, false)), expected);
    }

    #[test]
    fn a_chain_that_rises_in_one_mapping_is_one_stack() {
        check(0x1f000, &[0x1f010, 0x1f100, 0x20000], &[], &[(0..3, 0x1f000)]);
    }

    #[test]
    fn a_jump_to_a_higher_mapping_is_a_crossing() {
        check(0x1ff00, &[0x1ff80, 0x3f000, 0x3f100], &[], &[(0..2, 0x1ff00), (2..3, 0x3f000)]);
    }

    #[test]
    fn a_fall_is_a_crossing_even_in_one_mapping() {
        check(0x3f000, &[0x3f010, 0x38000, 0x38010], &[], &[(0..2, 0x3f000), (2..3, 0x38000)]);
    }

    #[test]
    fn a_guard_between_is_a_crossing() {
        check(0x11000, &[0x18000, 0x18100], &[(0x14000, 0x15000)], &[(0..1, 0x11000), (1..2, 0x18000)]);
        check(0x11000, &[0x18000, 0x18100], &[(0x19000, 0x1a000)], &[(0..2, 0x11000)]);
    }

    #[test]
    fn a_handler_leaves_its_alternate_stack_within_one_mapping() {
        let mappings = [anonymous(0x10000, 0x20000)];
        let mut frames = chain(&[0x11800, 0x18000, 0x18100]);
        frames[1].signal = true;
        let alternate = [AddrRange::new(Addr(0x11000), Addr(0x12000))];
        let memory = Memory { mappings: &mappings, guards_in: &|_| Vec::new(), makes_room: &|_| false };
        let parts = cut(Addr(0x11700), &frames, &alternate, &memory);
        assert_eq!(ranges(&parts), [(0..2, 0x11700), (2..3, 0x18000)]);
    }

    #[test]
    fn a_stack_that_ran_into_its_guard_is_still_one() {
        let mut guard = anonymous(0xf000, 0x10000);
        guard.access = Access::default();
        let mappings = [guard, anonymous(0x10000, 0x20000)];
        let whole = |sp, guards: &[AddrRange]| {
            assert_eq!(parts(sp, &[0x11000, 0x12000], &mappings, guards, false).len(), 1);
        };
        whole(0xfff0, &[]);
        whole(0x10010, &[AddrRange::new(Addr(0x10000), Addr(0x10800))]);
    }

    /// stacker's segments lie so: a frame that ends where its stack does, and the next stack behind a guard.
    #[test]
    fn a_frame_may_begin_at_the_very_end_of_its_stack() {
        let mut guard = anonymous(0x20000, 0x22000);
        guard.access = Access::default();
        let mappings = [anonymous(0x10000, 0x20000), guard, anonymous(0x22000, 0x30000)];
        let parts = |guards: &[AddrRange], mappings: &[Mapping]| {
            ranges(&parts(0x1ff00, &[0x20000, 0x23000, 0x23100], mappings, guards, false))
        };
        let expected = [(0..2, 0x1ff00), (2..3, 0x23000)];
        assert_eq!(parts(&[], &mappings), expected);
        let guards = [AddrRange::new(Addr(0x20000), Addr(0x21000))];
        assert_eq!(parts(&guards, &[anonymous(0x10000, 0x30000)]), expected);
    }

    #[test]
    fn a_frame_that_passed_the_guard_belongs_to_the_stack_above() {
        let mut guard = anonymous(0x20000, 0x21000);
        guard.access = Access::default();
        let mappings = [anonymous(0x10000, 0x20000), guard, anonymous(0x21000, 0x30000)];
        let cfas = [0x18100, 0x24000, 0x2f000];
        let found = parts(0x18000, &cfas, &mappings, &[], true);
        assert_eq!((ranges(&found), found[0].home), (vec![(0..3, 0x18000)], Addr(0x23fff)));
        assert_eq!(ranges(&parts(0x18000, &cfas, &mappings, &[], false)), [(0..2, 0x18000), (2..3, 0x24000)]);
    }

    #[test]
    fn a_stack_pointer_in_unmapped_memory_is_on_the_stack_of_its_frames() {
        let mappings = [anonymous(0x21000, 0x30000)];
        assert_eq!(parts(0x18000, &[0x24000, 0x2f000], &mappings, &[], false)[0].home, Addr(0x23fff));
    }

    #[test]
    fn the_last_frame_crosses_to_nothing() {
        check(0x1f000, &[0x1f010, 0x3f000], &[], &[(0..2, 0x1f000)]);
    }

    #[test]
    fn no_frames_still_stand_somewhere() {
        check(0x1f000, &[], &[], &[(0..0, 0x1f000)]);
    }
}
