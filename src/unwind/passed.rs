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
    /// What the next CFA must lie above to go into the list.
    last: Addr,
    all: HashSet<(Addr, Addr)>,
}

impl Passed {
    pub(super) fn clear(&mut self) {
        self.rising.clear();
        self.last = Addr(0);
        if !self.all.is_empty() {
            self.all = HashSet::new();
        }
    }

    /// Notes a frame; says whether it was there before.
    #[inline]
    pub(super) fn again(&mut self, pc: Addr, cfa: Addr) -> bool {
        if cfa <= self.last {
            return self.again_in_set(pc, cfa);
        }
        self.last = cfa;
        self.rising.push((pc, cfa));
        false
    }

    #[cold]
    fn again_in_set(&mut self, pc: Addr, cfa: Addr) -> bool {
        // Nothing lies above this: from here on all go into the set.
        self.last = Addr(u64::MAX);
        self.all.extend(self.rising.drain(..));
        !self.all.insert((pc, cfa))
    }
}
