//! Cuts a thread's chain of frames where it passes from one stack to another.
//!
//! The walk follows the rules wherever they lead; only here is it asked which stack each frame lies on. A *crossing*
//! is a frame whose caller's frame lies on another stack: a switch trampoline's, or a signal handler's on its own stack.

use std::ops::Range;

use crate::addr::{Addr, AddrRange};
use crate::find::extent::bounds;
use crate::mapping::{Mapping, mapping_at};
use crate::unwind::Frame;

/// A frame as large as this may have jumped over a guard; smaller ones can't pass one unnoticed.
const PAGE: u64 = 4096;

/// The part of a chain that lies on one stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which of the chain's frames, innermost first.
    pub frames: Range<usize>,
    /// The stack pointer with which execution stands on this stack.
    pub sp: Addr,
}

/// Cuts a chain that begins at the stack pointer `sp` into the parts on each stack, innermost first.
///
/// Two places are on one stack where the chain rises from one to the other, within one mapping, and over no guard, and
/// where both or neither are on one of the alternate `signal_stacks`. `guards_in` gives the guards inside a mapping that
/// its protection does not show.
pub fn cut(
    sp: Addr,
    frames: &[Frame],
    mappings: &[Mapping],
    signal_stacks: &[AddrRange],
    mut guards_in: impl FnMut(AddrRange) -> Vec<AddrRange>,
) -> Vec<Part> {
    let leaves_signal_stack =
        |from: Addr, to: Addr| signal_stacks.iter().any(|range| range.contains(from) != range.contains(to.offset(-1)));
    let mut parts = Vec::new();
    let mut first = 0;
    let mut part_sp = sp;
    let mut frame_sp = sp;
    // What lies right above the frame inside, which may end where its stack ends, need not be on that stack.
    let mut place = sp;
    for (index, frame) in frames.iter().enumerate() {
        let Some(cfa) = frame.cfa else { continue };
        let crossing = frame.signal && leaves_signal_stack(frame_sp, cfa)
            || cfa < frame_sp
            || crosses(place, cfa, mappings, &mut guards_in);
        if index + 1 < frames.len() && crossing {
            parts.push(Part { frames: first..index + 1, sp: part_sp });
            first = index + 1;
            part_sp = cfa;
        }
        frame_sp = cfa;
        place = if frame.signal { cfa } else { cfa.offset(-1) };
    }
    parts.push(Part { frames: first..frames.len(), sp: part_sp });
    parts
}

/// Whether a frame that reaches from the stack at `sp` up to `cfa` ends on another stack than it begins on.
fn crosses(sp: Addr, cfa: Addr, mappings: &[Mapping], guards_in: &mut impl FnMut(AddrRange) -> Vec<AddrRange>) -> bool {
    if cfa.0.saturating_sub(sp.0) < PAGE && sp.align_down(PAGE) == cfa.offset(-1).align_down(PAGE) {
        return false;
    }
    let (Some(from), Some(to)) = (mapping_at(mappings, sp), mapping_at(mappings, cfa.offset(-1))) else {
        // A frame that begins or ends in no known mapping says nothing of another stack.
        return false;
    };
    if from.range != to.range {
        // A stack pointer in the guard below has run out of its stack, and is on no other.
        return bounds::home(sp, mappings) != to.range.low;
    }
    guards_in(AddrRange::new(sp, cfa)).iter().any(|guard| !guard.contains(sp))
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

    fn check(sp: u64, cfas: &[u64], guards: &[(u64, u64)], expected: &[(Range<usize>, u64)]) {
        let mappings = [anonymous(0x10000, 0x20000), anonymous(0x30000, 0x40000)];
        let parts = cut(Addr(sp), &chain(cfas), &mappings, &[], |range| {
            guards
                .iter()
                .filter_map(|(low, high)| AddrRange::new(Addr(*low), Addr(*high)).intersection(range))
                .collect()
        });
        let expected: Vec<Part> =
            expected.iter().map(|(frames, sp)| Part { frames: frames.clone(), sp: Addr(*sp) }).collect();
        assert_eq!(parts, expected);
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
        let parts = cut(Addr(0x11700), &frames, &mappings, &alternate, |_| Vec::new());
        let expected = [Part { frames: 0..2, sp: Addr(0x11700) }, Part { frames: 2..3, sp: Addr(0x18000) }];
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_stack_that_ran_into_its_guard_is_still_one() {
        let mut guard = anonymous(0xf000, 0x10000);
        guard.access = Access::default();
        let mappings = [guard, anonymous(0x10000, 0x20000)];
        let whole = |sp, guards: &[AddrRange]| {
            let guards_in = |range| guards.iter().filter_map(|guard| guard.intersection(range)).collect();
            assert_eq!(cut(Addr(sp), &chain(&[0x11000, 0x12000]), &mappings, &[], guards_in).len(), 1);
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
            let guards_in = |range| guards.iter().filter_map(|guard| guard.intersection(range)).collect();
            cut(Addr(0x1ff00), &chain(&[0x20000, 0x23000, 0x23100]), mappings, &[], guards_in)
        };
        let expected = [Part { frames: 0..2, sp: Addr(0x1ff00) }, Part { frames: 2..3, sp: Addr(0x23000) }];
        assert_eq!(parts(&[], &mappings), expected);
        let guards = [AddrRange::new(Addr(0x20000), Addr(0x21000))];
        assert_eq!(parts(&guards, &[anonymous(0x10000, 0x30000)]), expected);
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
