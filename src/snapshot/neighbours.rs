//! Running stacks that share a mapping with others: what its ends alone would show as one stack is then several.

use std::collections::HashMap;
use std::ops::Range;

use super::stacks::Ground;
use super::{Peak, Stack};
use crate::addr::{Addr, AddrRange};
use crate::discover::bounds::{self, Bounds, BoundsFrom, Guard, PAGE};

/// Corrects the bounds of stacks that would hold another stack: those of a slab are as long as their neighbours, and of
/// the others nothing is known.
pub(super) fn part(stacks: &mut [Stack], ground: &Ground<'_>) {
    let mut places: Vec<(Addr, usize)> =
        stacks.iter().enumerate().filter_map(|(id, stack)| Some((stack.sp?, id))).collect();
    places.sort_unstable();
    let shared: Vec<(usize, Range<usize>)> =
        (0..stacks.len()).filter_map(|id| Some((id, neighbours(id, looked_up(&stacks[id])?, &places)?))).collect();
    // All are judged by what was known before any was corrected.
    let better: Vec<(usize, Bounds)> = shared
        .into_iter()
        .map(|(id, among)| {
            let others = among.map(|place| places[place].1).filter(|other| *other != id);
            (id, between(&stacks[id], others.map(|other| &stacks[other])))
        })
        .collect();
    for (id, bounds) in better {
        let stack = &mut stacks[id];
        stack.bounds = bounds;
        let pages = bounds.range().and_then(|range| (ground.pages)(range).ok());
        stack.peak = pages.and_then(|pages| bounds::touched(&bounds, &pages)).map(Peak::by_pages);
    }
}

/// The range of a stack whose bounds are where its mapping, a guard or a thread's descriptor ends it, and no more.
fn looked_up(stack: &Stack) -> Option<AddrRange> {
    let is_surroundings = matches!(stack.bounds.from, BoundsFrom::Mapping | BoundsFrom::Guard | BoundsFrom::Inferred);
    is_surroundings.then(|| stack.bounds.range())?
}

/// The places in `range`, where those are not all of stack `id`.
fn neighbours(id: usize, range: AddrRange, places: &[(Addr, usize)]) -> Option<Range<usize>> {
    let start = places.partition_point(|(sp, _)| *sp < range.low);
    let end = places.partition_point(|(sp, _)| *sp < range.high);
    places[start..end].iter().any(|(_, other)| *other != id).then_some(start..end)
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
    let common = lengths.into_iter().filter(|(_, count)| *count > 1).max_by_key(|(_, count)| *count);
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
