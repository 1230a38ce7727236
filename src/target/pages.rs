//! Which pages of a range hold something.

use crate::addr::AddrRange;

/// The state of the pages of a range: runs sorted by address, pages that were never touched left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// Runs of neighbouring pages in one state.
    pub runs: Vec<PageRun>,
    /// Whether guards made by `MADV_GUARD_INSTALL` would have been seen: `PAGEMAP_SCAN` with `PAGE_IS_GUARD`, or bit 58 of a pagemap entry.
    pub sees_guards: bool,
}

/// Neighbouring pages in one state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// Where they lie.
    pub range: AddrRange,
    /// Their state.
    pub state: PageState,
}

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// Written to once: in memory or swapped out. In a core file: not all zero.
    Touched,
    /// A guard made by `MADV_GUARD_INSTALL`: touching it is fatal.
    Guard,
}

/// Collects runs of pages, neighbours of one state as one.
#[derive(Default)]
pub(super) struct Runs(Vec<PageRun>);

impl Runs {
    pub(super) fn add(&mut self, range: AddrRange, state: PageState) {
        match self.0.last_mut() {
            Some(last) if last.state == state && last.range.high == range.low => last.range.high = range.high,
            _ => self.0.push(PageRun { range, state }),
        }
    }

    pub(super) fn finish(self, sees_guards: bool) -> Pages {
        Pages { runs: self.0, sees_guards }
    }
}
