//! The frames that a walk has passed, to recognize one that it reaches again.

use foldhash::HashSet;

use crate::addr::Addr;

/// Frames, each known by its program counter and its CFA.
///
/// While the CFA rises nothing can repeat, and only a list is kept. The same holds if one frame, as the outermost
/// often does, has no CFA of its own and is known by its callee's. From the first step down on, which in the stacks of
/// threads alone never happens, frames are looked up in a set.
#[derive(Default)]
pub(super) struct Passed {
    rising: Vec<(Addr, Addr)>,
    /// What the next CFA must lie above to go into the list.
    last: Addr,
    /// Whether one has had the CFA of the frame before.
    has_stayed: bool,
    all: HashSet<(Addr, Addr)>,
}

impl Passed {
    pub(super) fn clear(&mut self) {
        self.rising.clear();
        self.last = Addr(0);
        self.has_stayed = false;
        if !self.all.is_empty() {
            self.all = HashSet::default();
        }
    }

    /// Adds a frame; returns whether it was there before.
    #[inline]
    pub(super) fn again(&mut self, pc: Addr, cfa: Addr) -> bool {
        if cfa <= self.last {
            return self.again_not_above(pc, cfa);
        }
        self.last = cfa;
        self.rising.push((pc, cfa));
        false
    }

    #[cold]
    fn again_not_above(&mut self, pc: Addr, cfa: Addr) -> bool {
        if cfa == self.last && !self.has_stayed {
            self.has_stayed = true;
            let is_same = self.rising.last() == Some(&(pc, cfa));
            self.rising.push((pc, cfa));
            return is_same;
        }
        // Nothing lies above this: from here on all frames go into the set.
        self.last = Addr(u64::MAX);
        self.all.extend(self.rising.drain(..));
        !self.all.insert((pc, cfa))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each of these frames was there before.
    fn known(frames: &[(u64, u64)]) -> Vec<bool> {
        let mut passed = Passed::default();
        frames.iter().map(|(pc, cfa)| passed.again(Addr(*pc), Addr(*cfa))).collect()
    }

    #[test]
    fn a_frame_is_known_by_place_and_cfa() {
        assert_eq!(known(&[(1, 10), (2, 20), (1, 30)]), [false; 3]);
        assert_eq!(known(&[(1, 10), (2, 20), (3, 10), (1, 10)]), [false, false, false, true]);
        assert_eq!(known(&[(1, 10), (2, 20), (3, 20), (4, 30), (2, 20)]), [false, false, false, false, true]);
        assert_eq!(known(&[(1, 10), (1, 10)]), [false, true]);
        assert_eq!(known(&[(1, 10), (2, 10), (1, 10)]), [false, false, true]);
    }
}
