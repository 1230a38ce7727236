//! Running stacks that share a mapping with others: what its ends alone would show as one stack is then several.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use super::spans;
use crate::addr::{Addr, AddrRange, PAGE};
use crate::snapshot::{Bounds, BoundsFrom, Guard, Stack};

/// A stack is judged by at most so many neighbours on either side: many stacks may each seem to hold all the others.
const NEAREST: usize = 64;

/// Corrects the bounds of stacks that would hold another stack: those of a slab are as long as their neighbours, and of
/// the others nothing is known.
pub(crate) fn part(stacks: &mut [Stack]) {
    let mut places: Vec<(Addr, usize)> =
        stacks.iter().enumerate().filter_map(|(id, stack)| Some((stack.sp?, id))).collect();
    places.sort_unstable();
    // All are judged by what was known before any was corrected.
    let judged = |(id, stack): (usize, &Stack)| {
        let among = neighbours(id, looked_up(stack)?, stack.sp?, &places)?;
        let others = places[among].iter().filter(|(_, other)| *other != id);
        Some((id, between(stack, others.map(|(_, other)| &stacks[*other]))))
    };
    let better: Vec<(usize, Bounds)> = stacks.iter().enumerate().filter_map(judged).collect();
    better.into_iter().for_each(|(id, bounds)| stacks[id].bounds = bounds);
}

/// Corrects the bounds of guarded stacks that seem longer than most, which have `length` bytes: up to the end of a mapping,
/// or up to a thread's descriptor in it.
pub(crate) fn cut(stacks: &mut [Stack], length: u64) {
    let may_be_longer = |from| matches!(from, BoundsFrom::Guard | BoundsFrom::Inferred);
    for stack in stacks.iter_mut().filter(|stack| may_be_longer(stack.bounds.from)) {
        let mut bounds = stack.bounds;
        spans::cut_to(&mut bounds, top(stack), length);
        if bounds != stack.bounds {
            stack.bounds = bounds;
        }
    }
}

/// The range of a stack whose bounds are where its mapping, a guard or a thread's descriptor ends it, and no more.
fn looked_up(stack: &Stack) -> Option<AddrRange> {
    let is_surroundings = matches!(stack.bounds.from, BoundsFrom::Mapping | BoundsFrom::Guard | BoundsFrom::Inferred);
    is_surroundings.then(|| stack.bounds.range())?
}

/// The places in `range` that are nearest to stack `id`'s own, where those are not all of that stack.
fn neighbours(id: usize, range: AddrRange, own: Addr, places: &[(Addr, usize)]) -> Option<Range<usize>> {
    let at = places.partition_point(|place| *place < (own, id));
    let start = places.partition_point(|(sp, _)| *sp < range.low).max(at.saturating_sub(NEAREST));
    let end = places.partition_point(|(sp, _)| *sp < range.high).min(at.saturating_add(NEAREST + 1));
    let among = start..end.max(start);
    places[among.clone()].iter().any(|(_, other)| *other != id).then_some(among)
}

/// The bounds of `stack` by those of its neighbours, which were cut to their length.
fn between<'s>(stack: &Stack, neighbours: impl Iterator<Item = &'s Stack>) -> Bounds {
    let mut lengths: HashMap<u64, usize> = HashMap::new();
    let mut taken = Vec::new();
    for range in
        neighbours.filter(|other| other.bounds.from == BoundsFrom::Inferred).filter_map(|other| other.bounds.range())
    {
        *lengths.entry(range.len()).or_default() += 1;
        taken.push(range);
    }
    let repeated = lengths.into_iter().filter(|(_, count)| *count > 1);
    let common = repeated.max_by_key(|(length, count)| (*count, Reverse(*length)));
    let Some((length, _)) = common else { return Bounds::UNKNOWN };
    let high = top(stack).align_up(PAGE);
    let range = AddrRange::new(high.offset(-(length as i64)), high);
    let is_free = taken.iter().all(|other| other.intersection(range).is_none());
    match is_free && stack.sp.is_some_and(|sp| range.contains(sp)) {
        true => Bounds { low: Some(range.low), high: Some(high), from: BoundsFrom::Inferred, guard: Guard::None },
        false => Bounds::UNKNOWN,
    }
}

/// The highest address that the frames of a stack are known to reach.
fn top(stack: &Stack) -> Addr {
    let ends = stack.frames.iter().filter(|frame| frame.bytes.is_some()).filter_map(|frame| frame.frame.cfa);
    ends.chain(stack.sp).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::Draft;
    use crate::snapshot::{Kind, State};

    /// The distance of stacks in the slab.
    const SIZE: u64 = 0x4000;
    const SLAB: Addr = Addr(0x7000_0000_0000);

    /// A stack in the slab that the rules know nothing of but its stack pointer.
    fn stack(number: u64, bounds: impl Fn(AddrRange) -> Bounds) -> Stack {
        let mut draft = Draft::new();
        draft.stack(Kind::Coroutine, State::Suspended, SIZE, 0, &[]);
        let mut stack = draft.finish().stacks.remove(0);
        let range = place(number);
        (stack.sp, stack.bounds) = (Some(range.high.offset(-0x100)), bounds(range));
        stack
    }

    fn place(number: u64) -> AddrRange {
        let low = Addr(SLAB.0 + number * SIZE);
        AddrRange::new(low, Addr(low.0 + SIZE))
    }

    /// What a look at its mapping gives of a stack that runs on a slab of `count`.
    fn whole(count: u64) -> impl Fn(AddrRange) -> Bounds {
        let slab = AddrRange::new(SLAB, place(count - 1).high);
        move |_| Bounds::of(slab, BoundsFrom::Mapping, Guard::None)
    }

    fn cut(range: AddrRange) -> Bounds {
        Bounds::of(range, BoundsFrom::Inferred, Guard::None)
    }

    fn parted(mut stacks: Vec<Stack>) -> Vec<Bounds> {
        part(&mut stacks);
        stacks.into_iter().map(|stack| stack.bounds).collect()
    }

    #[test]
    fn a_running_stack_is_as_long_as_those_beside_it() {
        let bounds = parted(vec![stack(0, cut), stack(1, whole(3)), stack(2, cut)]);
        assert_eq!(bounds, [cut(place(0)), cut(place(1)), cut(place(2))]);
    }

    #[test]
    fn nothing_is_known_beside_one_stack_or_over_another() {
        assert_eq!(parted(vec![stack(0, whole(2)), stack(1, cut)])[0], Bounds::UNKNOWN);
        let longer = |range: AddrRange| cut(AddrRange::new(range.low, Addr(range.high.0 + SIZE)));
        assert_eq!(parted(vec![stack(0, longer), stack(1, whole(4)), stack(2, longer)])[1], Bounds::UNKNOWN);
    }

    #[test]
    fn a_stack_alone_keeps_its_bounds() {
        assert_eq!(parted(vec![stack(1, whole(3))]), [whole(3)(place(1))]);
    }

    /// With each of the running ones compared with all others these would be some 10^9 comparisons.
    #[test]
    fn very_many_stacks_are_parted() {
        let count = 100_000;
        let is_running = |number: u64| number % 10 == 5;
        let stack = |number| if is_running(number) { stack(number, whole(count)) } else { stack(number, cut) };
        let bounds = parted((0..count).map(stack).collect());
        assert!((0..count).zip(bounds).all(|(number, bounds)| bounds == cut(place(number))));
    }
}
