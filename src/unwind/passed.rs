//! The frames that a walk has passed, to know one that it comes by again.

use std::collections::HashSet;

use crate::addr::Addr;

/// Frames, each known by its program counter and its CFA.
///
/// As long as the CFA rises nothing can repeat, and a list is all that is kept. From the first step down on, which in
/// the stacks of threads alone never comes, frames are looked up in a set.
#[derive(Default)]
pub(super) struct Passed {
    rising: Vec<(Addr, Addr)>,
    /// Empty as long as the CFA rises.
    all: HashSet<(Addr, Addr)>,
}

impl Passed {
    pub(super) fn clear(&mut self) {
        self.rising.clear();
        self.all.clear();
    }

    /// Notes a frame; says whether it was there before.
    #[inline]
    pub(super) fn again(&mut self, pc: Addr, cfa: Addr) -> bool {
        let rises = self.rising.last().is_none_or(|(_, last)| *last < cfa);
        if rises && self.all.is_empty() {
            self.rising.push((pc, cfa));
            return false;
        }
        self.again_in_set(pc, cfa)
    }

    #[cold]
    fn again_in_set(&mut self, pc: Addr, cfa: Addr) -> bool {
        self.all.extend(self.rising.drain(..));
        !self.all.insert((pc, cfa))
    }
}
