//! Passes on to the program the signals that processes send to us, each exactly once.
//!
//! A key of the terminal reaches all processes of the foreground group, so the program has it already. The same holds
//! if somebody sends a signal to our whole group: therefore a signal is passed on a moment later, and only if the
//! program did not get the same one from the same sender.

use std::time::{Duration, Instant};

use crate::process::Received;

/// How far apart in time the same signal may reach the program and us to count as one.
const SAME: Duration = Duration::from_millis(50);

/// The signals by which job control stops a process.
const JOB_STOPS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// How long the program may take to stop after the terminal told us to.
const STOP_TOGETHER: Duration = Duration::from_secs(5);

/// Signals on their way from us to the program.
#[derive(Debug, Default)]
pub(super) struct Relay {
    waiting: Vec<(Instant, Received)>,
    seen: Vec<(Instant, Received)>,
    /// When we were last told to stop.
    told_to_stop: Option<Instant>,
    /// When the program last stopped.
    program_stopped: Option<Instant>,
    /// Whether nothing that is sent to us reaches the program by itself.
    passes_all: bool,
}

impl Relay {
    /// From now on every signal is passed on at once, except those of job control: the program has another terminal.
    pub(super) fn pass_all(&mut self) {
        self.passes_all = true;
    }

    /// A signal was sent to us.
    pub(super) fn received(&mut self, received: Received, now: Instant) {
        if self.passes_all {
            if !JOB_STOPS.contains(&received.signal) && received.signal != libc::SIGCONT {
                self.waiting.push((now, received));
            }
            return;
        }
        if JOB_STOPS.contains(&received.signal) {
            self.told_to_stop = Some(now);
        }
        self.forget(now);
        let is_seen = self.seen.iter().position(|(_, seen)| *seen == received);
        match (received.from, is_seen) {
            (None, _) => {}
            (Some(_), Some(index)) => {
                self.seen.swap_remove(index);
            }
            (Some(_), None) => self.waiting.push((now + SAME, received)),
        }
    }

    /// The program got a signal.
    pub(super) fn seen(&mut self, signal: Received, now: Instant) {
        if signal.from.is_none() || self.passes_all {
            return;
        }
        self.forget(now);
        match self.waiting.iter().position(|(_, waiting)| *waiting == signal) {
            Some(index) => {
                self.waiting.swap_remove(index);
            }
            None => self.seen.push((now, signal)),
        }
    }

    /// The program was stopped by a signal.
    pub(super) fn program_stopped(&mut self, signal: i32, now: Instant) {
        if JOB_STOPS.contains(&signal) {
            self.program_stopped = Some(now);
        }
    }

    /// Whether we are to stop as well: the terminal told both of us, and the program has done so. Call it once for each
    /// stop.
    pub(super) fn stops_us(&mut self) -> bool {
        let stops = self
            .told_to_stop
            .zip(self.program_stopped)
            .is_some_and(|(told, stopped)| told.max(stopped).duration_since(told.min(stopped)) < STOP_TOGETHER);
        if stops {
            (self.told_to_stop, self.program_stopped) = (None, None);
        }
        stops
    }

    /// When there will be something to pass on.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|(due, _)| *due).min()
    }

    /// The signals to pass on by `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<i32> {
        let due = self.waiting.extract_if(.., |(due, _)| *due <= now);
        due.map(|(_, received)| received.signal).collect()
    }

    fn forget(&mut self, now: Instant) {
        self.seen.retain(|(at, _)| now.duration_since(*at) < SAME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Received = Received { signal: libc::SIGTERM, from: Some(77) };

    #[test]
    fn a_signal_to_us_alone_is_passed_on_once() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        relay.received(TERM, now);
        assert!(relay.take_due(now).is_empty());
        let due = relay.due().unwrap();
        assert_eq!(relay.take_due(due), [libc::SIGTERM]);
        assert_eq!((relay.take_due(due), relay.due()), (vec![], None));
    }

    #[test]
    fn with_a_terminal_of_its_own_the_program_gets_all_but_the_stops() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        relay.pass_all();
        for signal in [libc::SIGHUP, libc::SIGTSTP, libc::SIGCONT] {
            relay.received(Received { signal, from: None }, now);
        }
        relay.received(TERM, now);
        assert_eq!(relay.take_due(now), [libc::SIGHUP, libc::SIGTERM]);
    }

    #[test]
    fn a_signal_to_our_group_is_not_passed_on() {
        for program_first in [true, false] {
            let (mut relay, now) = (Relay::default(), Instant::now());
            if program_first {
                relay.seen(TERM, now);
                relay.received(TERM, now);
            } else {
                relay.received(TERM, now);
                relay.seen(TERM, now);
            }
            assert_eq!(relay.due(), None);
        }
    }

    #[test]
    fn a_key_of_the_terminal_is_not_passed_on() {
        let mut relay = Relay::default();
        relay.received(Received { signal: libc::SIGINT, from: None }, Instant::now());
        assert_eq!(relay.due(), None);
    }

    #[test]
    fn the_same_signal_later_is_another_one() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        relay.seen(TERM, now);
        relay.received(TERM, now + SAME);
        assert!(relay.due().is_some());
    }

    #[test]
    fn we_stop_once_with_the_program() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        relay.received(Received { signal: libc::SIGTSTP, from: None }, now);
        assert!(!relay.stops_us());
        relay.program_stopped(libc::SIGTSTP, now);
        assert!(relay.stops_us() && !relay.stops_us());
        relay.program_stopped(libc::SIGSTOP, now);
        relay.received(Received { signal: libc::SIGTSTP, from: None }, now);
        assert!(!relay.stops_us());
    }
}
