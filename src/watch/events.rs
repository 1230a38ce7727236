//! What happened to the program, for the report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::events::{Fate, Route, Verdict};
use crate::process::{Outcome, Signalled};
use crate::snapshot::{Snapshot, Stack};

/// How many events are kept, and as many again of those that ended a process; the others are counted.
const MOST: usize = 1000;

/// The events that were kept, and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// The first ones, by time, and those that ended a process.
    pub kept: Vec<Event>,
    /// How many there were in all.
    pub total: usize,
    /// The kinds of which there was one, kept or not.
    pub kinds: BTreeSet<EventKind>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number, counted from 1 over all that happened.
    pub id: usize,
    /// What kind of thing.
    pub kind: EventKind,
    /// When, from the start of the program.
    pub time: Duration,
    /// The process that it happened to.
    pub pid: i32,
    /// The thread.
    pub thread: Option<i32>,
    /// The coroutine that it happened in, by its number among those of the watch; `None` if it was none.
    pub coroutine: Option<usize>,
    /// In words; if there is a verdict, that says more.
    pub message: String,
    /// The stack that it happened on.
    pub look: Option<Sight>,
    /// Whether it ended its process.
    pub killed: bool,
    /// What the signal comes from.
    pub verdict: Option<Box<Verdict>>,
    /// The way through the frames of that stack, for what was raised.
    pub route: Route,
    /// What became of it, if that is known.
    pub fate: Option<Fate>,
    /// Why.
    pub reason: Option<Reason>,
}

/// Why what was raised ended as it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It came to a function that lets nothing pass.
    MayNotPass,
    /// The same, while a frame was cleaned up for something else that was raised.
    InCleanUp,
    /// What cleaned up for it raised something itself.
    CleanUpFailed,
    /// No frame catches it.
    Nobody,
    /// The program is built so that a panic ends it.
    NeverUnwinds,
}

impl Event {
    /// An event of which nothing else is known.
    pub(crate) fn new(kind: EventKind, time: Duration, pid: i32, message: String) -> Event {
        Event {
            id: 0,
            kind,
            time,
            pid,
            thread: None,
            coroutine: None,
            message,
            look: None,
            killed: false,
            verdict: None,
            route: Route::default(),
            fate: None,
            reason: None,
        }
    }
}

/// A stack in a snapshot, which holds only the stitched backtrace that begins there.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// An index into its stacks.
    pub stack: usize,
}

impl Sight {
    /// Keeps of a snapshot the backtrace that begins at one of its stacks.
    pub(crate) fn at(snapshot: &Snapshot, stack: usize) -> Sight {
        Sight { snapshot: Arc::new(snapshot.part(stack)), stack: 0 }
    }
}

/// The kinds of events. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EventKind {
    /// A Rust program panicked.
    Panic,
    /// Something was raised that is no panic: a C++ exception, or one of another language.
    Exception,
    /// A stack is unwound without anybody asking for a handler.
    ForcedUnwind,
    /// A stack was run out of.
    Overflow,
    /// The program ended itself because something was wrong.
    Abort,
    /// A signal was delivered to the program.
    Signal,
    /// A process started another.
    Fork,
    /// A process became another program.
    Exec,
    /// A process ended by itself.
    Exit,
    /// A stack has come close to its end.
    High,
}

impl EventKind {
    /// The word of the JSON.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Panic => "panic",
            EventKind::Exception => "exception",
            EventKind::ForcedUnwind => "forced_unwind",
            EventKind::Overflow => "overflow",
            EventKind::Abort => "abort",
            EventKind::Signal => "signal",
            EventKind::Fork => "fork",
            EventKind::Exec => "exec",
            EventKind::Exit => "exit",
            EventKind::High => "high",
        }
    }
}

/// What happened so far, and what of it is still to be reported.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The events.
    pub(super) events: Events,
    untold: Vec<Event>,
}

impl Ledger {
    /// Adds an event; returns its number. Once [`MOST`] are kept, only those that ended a process are.
    pub(super) fn add(&mut self, event: Event) -> usize {
        let Events { kept, total, kinds } = &mut self.events;
        *total += 1;
        kinds.insert(event.kind);
        let event = Event { id: *total, ..event };
        if kept.len() < MOST || (event.killed && kept.len() < 2 * MOST) {
            kept.push(event.clone());
        }
        self.untold.push(event);
        self.events.total
    }

    /// Adds to an event what more is known of it, if it is kept.
    pub(super) fn change(&mut self, id: usize, change: impl FnOnce(&mut Event)) {
        let kept = &mut self.events.kept;
        let place = kept.binary_search_by_key(&id, |event| event.id).ok();
        if let Some(event) = place.and_then(|place| kept.get_mut(place)) {
            change(event);
            self.untold.push(event.clone());
        }
    }

    /// What was not reported yet.
    pub(super) fn take_untold(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.untold)
    }
}

/// A signal's name: `SIGTERM`, `SIGRTMIN+2`, or its number.
pub fn signal_name(signal: i32) -> String {
    let first = libc::SIGRTMIN();
    match Signal::try_from(signal) {
        Ok(known) => known.as_str().to_owned(),
        Err(_) if signal == first => "SIGRTMIN".to_owned(),
        Err(_) if (first..=libc::SIGRTMAX()).contains(&signal) => format!("SIGRTMIN+{}", signal - first),
        Err(_) => format!("signal {signal}"),
    }
}

/// A signal and where it came from.
pub(super) fn signal_message(signal: i32, from: Option<i32>) -> String {
    match from {
        Some(sender) => format!("{} from process {sender}", signal_name(signal)),
        None => format!("{} from the kernel", signal_name(signal)),
    }
}

/// That a stack has come close to its end, or past it; and that `others` have with it.
pub(super) fn high_message(id: usize, stack: &Stack, others: usize) -> String {
    let what = stack.name.as_deref().or(stack.entry.as_deref()).unwrap_or("a stack without a name");
    let (used, size) = (stack.most_used().unwrap_or(0), stack.size().unwrap_or(0));
    let more = if others > 0 { format!("; and {others} more") } else { String::new() };
    format!("{} {id} ({what}): {used} of {size} bytes were in use{more}", stack.kind.word())
}

/// Whether a signal is one that we sent, or passed on, to end the program: where the program was then is of no
/// interest.
pub(super) fn is_wanted_end(Signalled { signal, from, .. }: Signalled) -> bool {
    from == Some(std::process::id() as i32) && matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGHUP)
}

/// How a process ended.
pub(super) fn outcome_message(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exited(code) => format!("exit code {code}"),
        Outcome::Killed { signal, core: false } => format!("ended by {}", signal_name(signal)),
        Outcome::Killed { signal, core: true } => format!("ended by {}, with a core file", signal_name(signal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name() {
        let real_time = format!("SIGRTMIN+{}", 40 - libc::SIGRTMIN());
        assert_eq!([11, 40, 0].map(signal_name), ["SIGSEGV".to_owned(), real_time, "signal 0".to_owned()]);
    }
}
