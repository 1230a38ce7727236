//! Rooms: the closed memory around a stack, before anything is known of the stack itself.
//!
//! A *room* is what lies between a guard and what ends the memory above it, or a block of the allocator. No stack reaches
//! out of its room. Most rooms hold one stack, and what else looks like one there is left from earlier calls.

use std::collections::BTreeMap;

use super::bounds::{self, Guard, Owner};
use super::heap;
use crate::addr::AddrRange;
use crate::mapping::{Mapping, mapping_at};
use crate::memory::Slices;
use crate::process::{Pages, PagesUnknown};

/// What tells where rooms begin and end.
pub struct Rooms<'r> {
    mappings: &'r [Mapping],
    memory: &'r Slices<'r>,
    guards: Result<Pages, PagesUnknown>,
}

impl<'r> Rooms<'r> {
    /// Those in `memory`; `pages` are all that hold something.
    pub fn new(mappings: &'r [Mapping], memory: &'r Slices<'r>, pages: Result<Pages, PagesUnknown>) -> Rooms<'r> {
        Rooms { mappings, memory, guards: pages.map(|pages| pages.guards()) }
    }

    /// The room that holds each of `stacks`, which reach from a stack pointer to a top; `None` where nothing closes one.
    pub fn around(&self, stacks: &[AddrRange]) -> Vec<Option<AddrRange>> {
        let mut rooms: Vec<Option<AddrRange>> = stacks.iter().map(|stack| self.between_guards(*stack)).collect();
        let mut open: BTreeMap<AddrRange, Vec<usize>> = BTreeMap::new();
        for (index, stack) in stacks.iter().enumerate().filter(|(index, _)| rooms[*index].is_none()) {
            if let Some(mapping) = mapping_at(self.mappings, stack.low) {
                open.entry(mapping.range).or_default().push(index);
            }
        }
        for (mapping, mut members) in open {
            members.sort_unstable_by_key(|index| stacks[*index].low);
            let places: Vec<_> = members.iter().map(|index| stacks[*index].low).collect();
            let blocks = heap::blocks_around(self.memory, mapping, &places);
            for (index, block) in members.into_iter().zip(blocks) {
                rooms[index] = block.filter(|block| stacks[index].high <= block.high);
            }
        }
        rooms
    }

    fn between_guards(&self, stack: AddrRange) -> Option<AddrRange> {
        let around = self.guards.as_ref().map(|guards| guards.around(stack.low)).map_err(|unknown| *unknown);
        let owner = Owner::Other { outermost: stack.high, foreign: None };
        let found = bounds::bounds(owner, stack.low, self.mappings, None, &around);
        found.range().filter(|range| matches!(found.guard, Guard::Ok(_)) && stack.high <= range.high)
    }
}
