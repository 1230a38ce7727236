//! Bounds of stacks whose mapping holds more than one: blocks of `malloc`, slabs, and neighbours that the kernel joined.
//!
//! [`super::bounds`] looks at one stack; here what is known of all of them is put together.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use foldhash::{HashMap, HashSet};

use super::heap;
use crate::addr::{Addr, AddrRange, PAGE};
use crate::mapping::{Mapping, mapping_at};
use crate::memory::Slices;
use crate::snapshot::{Bounds, BoundsFrom, Guard};

/// So many distances that are the same are no chance.
const SURE: usize = 4;

/// The top of a stack that is no whole number of pages lies less than so many bytes below its end.
const NEAR: u64 = 256;

/// Stacks begin and end at multiples of so many bytes (System V ABI, AMD64 supplement, section 3.2.2).
const ALIGNED: u64 = 16;

/// A stack that nothing runs on, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its stack pointer.
    pub sp: Addr,
    /// The highest address that its frames reach.
    pub top: Addr,
    /// What a look at its mapping alone gave.
    pub bounds: Bounds,
}

/// Betters the bounds of `spans`, which are sorted by top; gives how long most guarded stacks are.
pub fn refine(spans: &mut [Span], mappings: &[Mapping], memory: &Slices<'_>) -> Option<u64> {
    let mut by_mapping: BTreeMap<Addr, (AddrRange, Vec<usize>)> = BTreeMap::new();
    for (index, span) in spans.iter().enumerate() {
        if let Some(mapping) = mapping_at(mappings, span.sp) {
            by_mapping.entry(mapping.range.low).or_insert((mapping.range, Vec::new())).1.push(index);
        }
    }
    let guarded_size = cut_joined(spans);
    for (range, members) in by_mapping.values() {
        in_malloc(spans, *range, members, memory);
        in_slab(spans, *range, members, guarded_size);
    }
    guarded_size
}

/// The range of a guarded stack.
fn guarded(bounds: &Bounds) -> Option<AddrRange> {
    bounds.range().filter(|_| matches!(bounds.guard, Guard::Ok(_)))
}

/// The bounds of a stack that reaches up to `top`, where those are longer than most guarded ones, which have `length`
/// bytes: another mapping's pages are joined to its own.
pub fn cut_to(bounds: &mut Bounds, top: Addr, length: u64) {
    let Some(range) = guarded(bounds) else { return };
    let high = range.low.offset(length as i64);
    if range.high > high && top <= high {
        (bounds.high, bounds.from) = (Some(high), BoundsFrom::Inferred);
    }
}

/// Cuts guarded stacks that seem longer than most; how long most are.
fn cut_joined(spans: &mut [Span]) -> Option<u64> {
    // Each guard counts once, whatever else lies in the mapping above it.
    let ranges: HashSet<AddrRange> = spans.iter().filter_map(|span| guarded(&span.bounds)).collect();
    let mut sizes: HashMap<u64, usize> = HashMap::default();
    for range in &ranges {
        *sizes.entry(range.len()).or_default() += 1;
    }
    // Of sizes that are equally common the joined one is the larger.
    let (common, count) = sizes.into_iter().max_by_key(|(size, count)| (*count, Reverse(*size)))?;
    if count * 2 < ranges.len() || count < 2 {
        return None;
    }
    spans.iter_mut().for_each(|span| cut_to(&mut span.bounds, span.top, common));
    Some(common)
}

/// Stacks in blocks of `malloc`.
fn in_malloc(spans: &mut [Span], mapping: AddrRange, members: &[usize], memory: &Slices<'_>) {
    let unguarded: Vec<usize> =
        members.iter().copied().filter(|index| !matches!(spans[*index].bounds.guard, Guard::Ok(_))).collect();
    let mut places: Vec<(Addr, usize)> = unguarded.iter().map(|index| (spans[*index].sp, *index)).collect();
    places.sort_unstable();
    let addresses: Vec<Addr> = places.iter().map(|(sp, _)| *sp).collect();
    let blocks = heap::blocks_around(memory, mapping, &addresses);
    for ((_, index), block) in places.iter().zip(blocks) {
        if let Some(block) = block.filter(|block| spans[*index].top <= block.high) {
            spans[*index].bounds = Bounds::of(block, BoundsFrom::Malloc, Guard::None);
        }
    }
}

/// Stacks side by side in one mapping: each as long as most are far from the next, or where those distances differ, as the
/// least of them.
///
/// Those that are as long as guarded stacks are, `guarded_size`, have their bounds.
fn in_slab(spans: &mut [Span], mapping: AddrRange, members: &[usize], guarded_size: Option<u64>) {
    if members.len() < 2 {
        return;
    }
    let is_bare = |bounds: &Bounds| {
        !matches!(bounds.guard, Guard::Ok(_)) && matches!(bounds.from, BoundsFrom::Mapping | BoundsFrom::Inferred)
    };
    // One guard may lie below all; it guards the lowest of them.
    let mut above: HashMap<Option<Addr>, usize> = HashMap::default();
    members.iter().for_each(|index| *above.entry(spans[*index].bounds.low).or_default() += 1);
    let is_cut = |bounds: &Bounds| guarded_size.is_some() && bounds.range().map(|range| range.len()) == guarded_size;
    let shares_guard = |bounds: &Bounds| matches!(bounds.guard, Guard::Ok(_)) && above[&bounds.low] > 1;
    let is_open = |bounds: &Bounds| is_bare(bounds) || shares_guard(bounds) && !is_cut(bounds);
    let open: Vec<usize> = members.iter().copied().filter(|index| is_open(&spans[*index].bounds)).collect();
    let tops: Vec<Addr> = open.iter().map(|index| spans[*index].top).collect();
    if tops.first() == tops.last() {
        return;
    }
    let slots = Slots::of(&tops);
    for (index, top) in open.into_iter().zip(tops) {
        let span = &mut spans[index];
        let Some(slot) = slots.as_ref().and_then(|slots| slots.around(top)) else {
            span.bounds = Bounds::UNKNOWN;
            continue;
        };
        let low = slot.low.max(mapping.low);
        if slot.high <= mapping.high && low <= span.sp {
            let guard = if span.bounds.low == Some(low) { span.bounds.guard } else { Guard::None };
            span.bounds = Bounds::of(AddrRange::new(low, slot.high), BoundsFrom::Inferred, guard);
        }
    }
}

/// The places that stacks side by side have.
struct Slots {
    length: u64,
    /// How far their ends are above a multiple of the length, and less than how far above a top, where they are all alike.
    ends: Option<(u64, u64)>,
}

impl Slots {
    /// Those with these tops, which are sorted; `None` where nothing tells how long they are.
    fn of(tops: &[Addr]) -> Option<Slots> {
        let apart = || tops.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|distance| *distance > 0);
        let (length, count) = most_common(apart())?;
        // A runtime that moves stacks when they grow, as Go, has blocks of less than a page for many lengths of them.
        if length >= PAGE && count >= SURE && 2 * count >= apart().count() {
            // Tops of stacks that are whole pages lie shortly below a page's end.
            let (unit, longest) = if length.is_multiple_of(PAGE) { (PAGE, PAGE) } else { (ALIGNED, NEAR) };
            let (end, _) = most_common(tops.iter().map(|top| top.align_up(unit).0 % length))?;
            return Some(Slots { length, ends: Some((end, longest)) });
        }
        // Tops are known to a page only: a distance of one page is no measure.
        let highs = tops.windows(2).map(|pair| pair[1].align_up(PAGE).0 - pair[0].align_up(PAGE).0);
        let length = highs.filter(|distance| *distance > 0).min().filter(|length| *length > PAGE)?;
        Some(Slots { length, ends: None })
    }

    /// The one that ends shortly above `top`; `None` where none does.
    fn around(&self, top: Addr) -> Option<AddrRange> {
        let high = match self.ends {
            None => top.align_up(PAGE),
            Some((end, longest)) => {
                let above = (end + self.length - top.0 % self.length) % self.length;
                (above < longest).then(|| top.offset(above as i64))?
            }
        };
        Some(AddrRange::new(Addr(high.0.saturating_sub(self.length)), high))
    }
}

/// The most common of `numbers`, of equals the least, and how often it is there.
fn most_common(numbers: impl Iterator<Item = u64>) -> Option<(u64, usize)> {
    let mut counts: HashMap<u64, usize> = HashMap::default();
    numbers.for_each(|number| *counts.entry(number).or_default() += 1);
    counts.into_iter().max_by_key(|(number, count)| (*count, Reverse(*number)))
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
