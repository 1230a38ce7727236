//! When to read what probes have noted.

use std::time::{Duration, Instant};

use crate::probe::Probes;

/// Counters have four bytes: this is less than any of them takes to overflow.
const EVERY: Duration = Duration::from_millis(500);

/// The probes, and when they are to be read next.
pub(super) struct Noting {
    pub(super) probes: Probes,
    due: Instant,
}

impl Noting {
    pub(super) fn new() -> Noting {
        Noting { probes: Probes::default(), due: Instant::now() + EVERY }
    }

    /// When they are to be read next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// They were read now.
    pub(super) fn counted(&mut self) {
        self.due = Instant::now() + EVERY;
    }
}
