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
