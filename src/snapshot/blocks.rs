//! Stacks in blocks of the heap that threads run on: their bounds by the allocator's own headers.

use super::{Kind, Stack};
use crate::addr::{Addr, AddrRange};
use crate::discover::bounds::{Bounds, BoundsFrom, Guard};
use crate::discover::heap;
use crate::mapping::{Mapping, mapping_at};
use crate::memory::{Memory, Slices};

/// Longer heaps are not read for the sake of one stack's bounds.
const LONGEST_HEAP: u64 = 64 << 20;

/// Gives bounds to the stacks of which nothing but their place is known.
pub(super) fn measure(stacks: &mut [Stack], mappings: &[Mapping], memory: &dyn Memory) {
    let is_unknown =
        |stack: &&mut Stack| stack.thread.is_some() && stack.kind != Kind::Thread && stack.bounds.range().is_none();
    for stack in stacks.iter_mut().filter(is_unknown) {
        if let Some(block) = block(stack, mappings, memory) {
            stack.bounds = Bounds::of(block, BoundsFrom::Malloc, Guard::None);
        }
    }
}

/// The block that the stack begins in. Its stack pointer may lie below: a block has no guard.
fn block(stack: &Stack, mappings: &[Mapping], memory: &dyn Memory) -> Option<AddrRange> {
    let top: Addr = stack.frames.iter().filter_map(|frame| frame.frame.cfa).max()?;
    let range = mapping_at(mappings, stack.sp?)?.range;
    if range.len() > LONGEST_HEAP || !range.contains(top.offset(-1)) {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(range.len()).ok()?];
    memory.read(range.low, &mut bytes).ok()?;
    let heap = Slices::new(vec![(range.low, &bytes)]);
    heap::blocks_around(&heap, range, &[top.offset(-8)]).pop()?.filter(|block| top <= block.high)
}
