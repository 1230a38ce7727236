//! When to look next: once an interval, but so seldom that the program stands still at most 1 % of the time.

use std::time::{Duration, Instant};

/// How many times as long as a stop the program runs after it.
const RUN_PER_STOP: u32 = 100;

/// The first look comes soon, so that short programs are seen at work.
const FIRST: Duration = Duration::from_millis(50);

/// Says when the next look is due, and adds up what the looks took.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    due: Instant,
    /// How long looks have stopped the program.
    pub(super) stopped: Duration,
    /// How long the last round of looks stopped it.
    last: Duration,
    /// How long the look before the first round stopped it, until a round makes up for that.
    owed: Duration,
    /// How many rounds there were, and when the first and the last of them were.
    rounds: Option<(u32, Instant, Instant)>,
}

impl Pace {
    /// A pace of one look every `interval`, from now on.
    pub(super) fn new(interval: Duration) -> Pace {
        Pace {
            interval,
            due: Instant::now() + FIRST.min(interval),
            stopped: Duration::ZERO,
            last: Duration::ZERO,
            owed: Duration::ZERO,
            rounds: None,
        }
    }

    /// When the next round of looks is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// From now on, one look every `interval`; the next one comes within that time.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
        self.due = self.due.min(Instant::now() + self.current());
    }

    /// The time from a round to the next, as it is now.
    pub(super) fn current(&self) -> Duration {
        self.interval.max(self.last * RUN_PER_STOP)
    }

    /// Counts a round of looks that ends now and stopped the program for `stopped`.
    pub(super) fn round(&mut self, stopped: Duration) {
        let now = Instant::now();
        self.stopped += stopped;
        self.last = stopped + std::mem::take(&mut self.owed);
        self.due = now + self.current();
        let (count, first, _) = self.rounds.unwrap_or((0, now, now));
        self.rounds = Some((count + 1, first, now));
    }

    /// Counts the look that shows whether there is anything to watch. The first round follows it at once, and the one
    /// after that makes up for both: people wait for the first round, which has everything on it.
    pub(super) fn first(&mut self, stopped: Duration) {
        self.stopped += stopped;
        self.owed = stopped;
    }

    /// Counts a look out of turn.
    pub(super) fn extra(&mut self, stopped: Duration) {
        self.stopped += stopped;
        self.due = self.due.max(Instant::now() + stopped * RUN_PER_STOP);
    }

    /// Whether a look out of turn is within the budget of a program that has run for `duration`.
    pub(super) fn allows_extra(&self, duration: Duration) -> bool {
        self.stopped * RUN_PER_STOP <= duration
    }

    /// The average time from one round to the next.
    pub(super) fn period(&self) -> Option<Duration> {
        let (count, first, last) = self.rounds?;
        (count > 1).then(|| last.duration_since(first) / (count - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stop_stretches_the_period() {
        let mut pace = Pace::new(Duration::from_millis(1000));
        let start = Instant::now();
        pace.round(Duration::from_millis(1));
        assert!(pace.due() < start + Duration::from_millis(1500));
        pace.round(Duration::from_millis(100));
        assert!(pace.due() >= start + Duration::from_secs(10));
        assert_eq!(pace.stopped, Duration::from_millis(101));
        assert!(!pace.allows_extra(Duration::from_secs(10)));
        assert!(pace.allows_extra(Duration::from_secs(11)));
    }

    #[test]
    fn the_first_round_comes_at_once_and_the_next_makes_up_for_it() {
        let mut pace = Pace::new(Duration::from_millis(1000));
        let start = Instant::now();
        pace.first(Duration::from_millis(40));
        assert!(pace.due() < start + Duration::from_millis(500));
        pace.round(Duration::from_millis(60));
        assert!(pace.due() >= start + Duration::from_secs(10));
    }

    #[test]
    fn a_short_interval_is_kept_from_the_start() {
        let pace = Pace::new(Duration::from_millis(5));
        assert!(pace.due() <= Instant::now() + Duration::from_millis(5));
        assert_eq!(pace.period(), None);
    }
}
