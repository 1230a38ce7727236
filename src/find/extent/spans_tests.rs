//! Bounds of stacks that share a mapping.

use super::*;
use crate::find::testing::{STACK, Words, writable};

/// Bounds as a look at the mapping alone gives them.
fn guarded(low: u64, high: u64) -> Bounds {
    let guard = AddrRange::new(Addr(low - PAGE), Addr(low));
    Bounds::of(AddrRange::new(Addr(low), Addr(high)), BoundsFrom::Guard, Guard::Ok(guard))
}

fn whole_mapping(low: u64, high: u64) -> Bounds {
    Bounds::of(AddrRange::new(Addr(low), Addr(high)), BoundsFrom::Mapping, Guard::None)
}

/// The bounds of stacks with these tops, each of whose stack pointers is a little below, after they are refined.
fn refined(tops: &[(u64, Bounds)], mappings: &[Mapping], memory: &Slices<'_>) -> Vec<(Option<AddrRange>, BoundsFrom)> {
    let span = |(top, bounds): &(u64, Bounds)| Span { sp: Addr(top - 64), top: Addr(*top), bounds: *bounds };
    let mut spans: Vec<Span> = tops.iter().map(span).collect();
    refine(&mut spans, mappings, memory);
    spans.iter().map(|span| (span.bounds.range(), span.bounds.from)).collect()
}

fn range(low: u64, high: u64) -> Option<AddrRange> {
    Some(AddrRange::new(Addr(low), Addr(high)))
}

#[test]
fn stacks_side_by_side_are_as_long_as_the_least_distance() {
    let (end, size) = (STACK + 0x10000, 0x4000);
    let all = whole_mapping(STACK, end);
    let tops = [(STACK + size - 16, all), (STACK + 2 * size - 16, all), (STACK + 4 * size - 16, all)];
    let expected = [
        (range(STACK, STACK + size), BoundsFrom::Inferred),
        (range(STACK + size, STACK + 2 * size), BoundsFrom::Inferred),
        (range(STACK + 3 * size, STACK + 4 * size), BoundsFrom::Inferred),
    ];
    assert_eq!(refined(&tops, &[writable(STACK, end)], &Slices::default()), expected);
}

#[test]
fn a_distance_of_a_page_is_no_measure() {
    let end = STACK + 0x10000;
    let all = whole_mapping(STACK, end);
    let tops = [(STACK + PAGE - 16, all), (STACK + 2 * PAGE - 16, all)];
    let unknown = (None, BoundsFrom::Inferred);
    assert_eq!(refined(&tops, &[writable(STACK, end)], &Slices::default()), [unknown, unknown]);
}

#[test]
fn what_lies_between_stacks_side_by_side_has_no_bounds_and_takes_none() {
    let (end, size) = (STACK + 0x40000, 0x4000);
    let all = whole_mapping(STACK, end);
    let mut tops: Vec<(u64, Bounds)> = (1..=8).map(|number| (STACK + number * size - 16, all)).collect();
    tops.insert(4, (STACK + 4 * size + 0x2800, all));
    let refined = refined(&tops, &[writable(STACK, end)], &Slices::default());
    assert_eq!(refined[4], (None, BoundsFrom::Inferred));
    assert_eq!(refined[5], (range(STACK + 4 * size, STACK + 5 * size), BoundsFrom::Inferred));
    assert!(refined.iter().enumerate().all(|(index, (range, _))| range.is_some() == (index != 4)));
}

/// A runtime that moves its stacks when they grow, as Go, has blocks of several lengths side by side.
#[test]
fn stacks_of_less_than_a_page_have_no_bounds() {
    let (end, size) = (STACK + 0x10000, 3072);
    let mapping = whole_mapping(STACK, end);
    let tops: Vec<(u64, Bounds)> = (1..=8).map(|number| (end - 16 - size * (8 - number), mapping)).collect();
    let found = refined(&tops, &[writable(STACK, end)], &Slices::default());
    assert!(found.iter().all(|(range, _)| range.is_none()), "{found:?}");
}

#[test]
fn a_stack_alone_keeps_its_mapping() {
    let all = whole_mapping(STACK, STACK + 0x10000);
    let refined = refined(&[(STACK + 0xfff0, all)], &[writable(STACK, STACK + 0x10000)], &Slices::default());
    assert_eq!(refined, [(range(STACK, STACK + 0x10000), BoundsFrom::Mapping)]);
}

#[test]
fn pages_joined_to_a_guarded_stack_are_cut_off() {
    let at = |index: u64| STACK + index * 0x10000;
    let stack = |index, size: u64| (at(index) + 0x4000 - 16, guarded(at(index), at(index) + size));
    let mappings = [0, 1, 2].map(|index| writable(at(index), at(index) + if index == 2 { 0x6000 } else { 0x4000 }));
    let refined = refined(&[stack(0, 0x4000), stack(1, 0x4000), stack(2, 0x6000)], &mappings, &Slices::default());
    assert_eq!(refined[1], (range(at(1), at(1) + 0x4000), BoundsFrom::Guard));
    assert_eq!(refined[2], (range(at(2), at(2) + 0x4000), BoundsFrom::Inferred));
}

#[test]
fn a_block_of_the_heap_ends_where_its_header_says() {
    // A block of 0x290 bytes with its header, one of 0x1010, and the rest.
    let mut heap = vec![0; 0x2000 / 8];
    heap[1] = 0x291;
    heap[0x298 / 8] = 0x1011;
    heap[(0x290 + 0x1010 + 8) / 8] = 0xd61;
    let words = Words::new(&[(STACK, &heap)]);
    let all = whole_mapping(STACK, STACK + 0x2000);
    let refined = refined(&[(STACK + 0x1200, all)], &[writable(STACK, STACK + 0x2000)], &words.slices());
    assert_eq!(refined, [(range(STACK + 0x2a0, STACK + 0x12a8), BoundsFrom::Malloc)]);
}
