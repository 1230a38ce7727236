//! Which pages of a range hold something.

use crate::addr::{Addr, AddrRange};

/// The state of the pages of a range: runs sorted by address, pages that were never touched left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// Runs of neighbouring pages in one state.
    pub runs: Vec<PageRun>,
    /// Whether guards made by `MADV_GUARD_INSTALL` would have been seen: `PAGEMAP_SCAN` with `PAGE_IS_GUARD`, or bit 58
    /// of a pagemap entry.
    pub sees_guards: bool,
}

impl Pages {
    /// The part of it that lies in `range`; runs that reach beyond it are cut.
    pub fn within(&self, range: AddrRange) -> Pages {
        let first = self.runs.partition_point(|run| run.range.high <= range.low);
        let inside = self.runs[first..].iter().take_while(|run| run.range.low < range.high);
        let cut = |run: &PageRun| Some(PageRun { range: run.range.intersection(range)?, ..*run });
        Pages { runs: inside.filter_map(cut).collect(), sees_guards: self.sees_guards }
    }

    /// These, and those of a range above.
    pub(super) fn followed_by(mut self, above: Pages) -> Pages {
        self.sees_guards &= above.sees_guards;
        let mut runs = Runs(self.runs);
        above.runs.into_iter().for_each(|run| runs.add(run.range, run.state));
        runs.finish(self.sees_guards)
    }

    /// The pages that hold something.
    pub(super) fn touched(&self) -> impl Iterator<Item = AddrRange> {
        self.runs.iter().filter(|run| run.state == PageState::Touched).map(|run| run.range)
    }

    /// The guards alone.
    pub fn guards(&self) -> Pages {
        let guards = self.runs.iter().filter(|run| run.state == PageState::Guard);
        Pages { runs: guards.copied().collect(), sees_guards: self.sees_guards }
    }

    /// The run around `at` or the next one below, and the next one above.
    pub fn around(&self, at: Addr) -> Pages {
        let above = self.runs.partition_point(|run| run.range.low <= at);
        let nearest = self.runs[above.saturating_sub(1)..].iter().take(2);
        Pages { runs: nearest.copied().collect(), sees_guards: self.sees_guards }
    }
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
