//! Stacks in blocks of the heap that threads run on: their bounds by the allocator's own headers.

use std::collections::BTreeMap;

use super::heap;
use crate::addr::{Addr, AddrRange};
use crate::mapping::{Mapping, mapping_at};
use crate::memory::{Memory, Slices};
use crate::snapshot::{Bounds, BoundsFrom, Guard, Kind, Stack};

/// Longer heaps, in bytes, are not read for the sake of a stack's bounds.
const LONGEST_HEAP: u64 = 64 << 20;

/// Gives bounds to the stacks of which nothing but their place is known.
pub(crate) fn measure(stacks: &mut [Stack], mappings: &[Mapping], memory: &dyn Memory) {
    let mut by_heap: BTreeMap<AddrRange, Vec<(usize, Addr)>> = BTreeMap::new();
    for (id, stack) in stacks.iter().enumerate() {
        if stack.thread.is_some()
            && stack.kind != Kind::Thread
            && stack.bounds.range().is_none()
            && let Some((heap, top)) = heap_and_top(stack, mappings)
        {
            by_heap.entry(heap).or_default().push((id, top));
        }
    }
    for (range, mut tops) in by_heap {
        let mut bytes = vec![0; range.len() as usize];
        if memory.read(range.low, &mut bytes).is_err() {
            continue;
        }
        let heap = Slices::new(vec![(range.low, &bytes)]);
        // Their stack pointers may lie below the blocks that they begin in: a block has no guard.
        tops.sort_unstable_by_key(|(_, top)| *top);
        let places: Vec<Addr> = tops.iter().map(|(_, top)| top.offset(-8)).collect();
        for ((id, top), block) in tops.into_iter().zip(heap::blocks_around(&heap, range, &places)) {
            if let Some(block) = block.filter(|block| top <= block.high) {
                stacks[id].bounds = Bounds::of(block, BoundsFrom::Malloc, Guard::None);
            }
        }
    }
}

/// The heap that a stack may lie in, and the highest address that its frames reach.
fn heap_and_top(stack: &Stack, mappings: &[Mapping]) -> Option<(AddrRange, Addr)> {
    let top = stack.frames.iter().filter_map(|frame| frame.frame.cfa).max()?;
    let range = mapping_at(mappings, stack.sp?)?.range;
    (range.len() <= LONGEST_HEAP && range.contains(top.offset(-1))).then_some((range, top))
}
