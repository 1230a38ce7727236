//! How often something happens.

use std::time::Instant;

/// Counts what happens, and forgets a fixed number each second.
pub(super) struct Rate {
    per_second: f64,
    at_once: f64,
    count: f64,
    since: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32, at_once: u32) -> Rate {
        Rate { per_second: per_second.into(), at_once: at_once.into(), count: 0.0, since: Instant::now() }
    }

    /// Counts one more; returns whether that is too many.
    pub(super) fn is_too_high(&mut self) -> bool {
        let now = Instant::now();
        let forgotten = now.duration_since(self.since).as_secs_f64() * self.per_second;
        self.since = now;
        self.count = (self.count - forgotten).max(0.0) + 1.0;
        self.count > self.at_once
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_borne_and_a_storm_is_not() {
        let mut rate = Rate::new(1, 3);
        assert_eq!([(); 5].map(|()| rate.is_too_high()), [false, false, false, true, true]);
        rate.since -= Duration::from_secs(10);
        assert!(!rate.is_too_high());
    }
}
