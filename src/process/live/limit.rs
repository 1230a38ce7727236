//! Which memory is copied if there is too much of it.
//!
//! A copy takes memory, and the program stands still for it: about 0.2 s for each GiB. If there is more than may be
//! copied, the mappings that hold least are copied first: stacks are small, alone or many in a slab, and what has grown
//! to gigabytes is a heap of data.

use super::procfs;
use crate::addr::{AddrRange, PAGE};
use crate::mapping::Mapping;
use crate::process::Pages;

/// At most this much is copied, in bytes.
const MOST_COPIED: u64 = 4 << 30;

/// How many bytes may be copied now: at most half of what this machine has available without taking it from others.
pub(super) fn most_copied() -> u64 {
    procfs::available_memory().map_or(MOST_COPIED, |available| MOST_COPIED.min(available / 2))
}

/// What of `pages` is to be copied if that is at most `most` bytes, by address; and how many bytes that leaves out.
pub(super) fn within(pages: &Pages, mappings: &[Mapping], most: u64) -> (Vec<AddrRange>, u64) {
    let all: u64 = pages.touched().map(|range| range.len()).sum();
    if all <= most {
        return (pages.touched().collect(), 0);
    }
    let mut parts: Vec<(usize, AddrRange)> = pages.touched().flat_map(|range| by_mapping(range, mappings)).collect();
    // By mapping: how much it holds.
    let mut sizes: Vec<(u64, usize)> = Vec::new();
    for same in parts.chunk_by(|(left, _), (right, _)| left == right) {
        sizes.push((same.iter().map(|(_, range)| range.len()).sum(), same[0].0));
    }
    sizes.sort_unstable();
    let mut left_of: Vec<(usize, u64)> = Vec::with_capacity(sizes.len());
    let mut left = most;
    for (size, mapping) in sizes {
        // The first one that is too large is copied in part.
        left_of.push((mapping, size.min(left)));
        left = left.saturating_sub(size);
    }
    left_of.sort_unstable();
    for (mapping, range) in &mut parts {
        if let Ok(index) = left_of.binary_search_by_key(mapping, |(mapping, _)| *mapping) {
            let left = &mut left_of[index].1;
            range.high = range.low.offset(range.len().min(*left) as i64).align_down(PAGE);
            *left -= range.len();
        }
    }
    let chosen: Vec<AddrRange> = parts.into_iter().map(|(_, range)| range).filter(|range| !range.is_empty()).collect();
    let copied: u64 = chosen.iter().map(|range| range.len()).sum();
    (chosen, all - copied)
}

/// The parts of `range` in each of `mappings`, with its place among them. What lies in none appeared after they were
/// read.
fn by_mapping(range: AddrRange, mappings: &[Mapping]) -> impl Iterator<Item = (usize, AddrRange)> {
    let first = mappings.partition_point(|mapping| mapping.range.high <= range.low);
    let inside = mappings.iter().enumerate().skip(first).take_while(move |(_, mapping)| mapping.range.low < range.high);
    inside.filter_map(move |(index, mapping)| Some((index, mapping.range.intersection(range)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::mapping::{Access, Origin};
    use crate::process::{PageRun, PageState};

    fn range(low: u64, high: u64) -> AddrRange {
        AddrRange::new(Addr(low), Addr(high))
    }

    fn check(touched: &[AddrRange], most: u64, expected: (&[AddrRange], u64)) {
        let mapping = |(low, high)| Mapping {
            range: range(low, high),
            access: Access { read: true, write: true, execute: false },
            shared: false,
            origin: Origin::Anonymous,
        };
        let mappings = [(0x10000, 0x20000), (0x20000, 0x24000), (0x30000, 0x34000)].map(mapping);
        let runs = touched.iter().map(|range| PageRun { range: *range, state: PageState::Touched }).collect();
        let pages = Pages { runs, sees_guards: true };
        assert_eq!(within(&pages, &mappings, most), (expected.0.to_vec(), expected.1));
    }

    #[test]
    fn what_is_little_is_copied_whole() {
        let all = [range(0x10000, 0x12000), range(0x30000, 0x31000)];
        check(&all, 0x3000, (&all, 0));
        check(&[], 0, (&[], 0));
    }

    #[test]
    fn of_too_much_the_mappings_that_hold_least_are_copied() {
        // One run reaches over two mappings, of which the first holds most.
        let all = [range(0x11000, 0x22000), range(0x30000, 0x31000)];
        check(&all, 0x3000, (&[range(0x20000, 0x22000), range(0x30000, 0x31000)], 0xf000));
        check(&all, 0x6000, (&[range(0x11000, 0x14000), range(0x20000, 0x22000), range(0x30000, 0x31000)], 0xc000));
        check(&all, 0x2fff, (&[range(0x20000, 0x21000), range(0x30000, 0x31000)], 0x10000));
        check(&all, 0, (&[], 0x12000));
    }

    #[test]
    fn of_too_much_only_known_mappings_are_copied() {
        let all = [range(0x28000, 0x32000)];
        check(&all, 0x9000, (&[range(0x30000, 0x32000)], 0x8000));
    }
}
