//! The course of a watch: take in what happens, look when it is due, and see the program to its end or leave it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use log::debug;

use super::events::{self, Event, EventKind, Events, Look};
use super::pace::Pace;
use super::relay::Relay;
use super::usage::Usage;
use super::{End, RunError, Watched};
use crate::image::names::Lines;
use crate::snapshot::{self, Kept, Snapshot};
use crate::target::{
    self, Facts, Happened, Happening, Inbox, Live, LookError, Outcome, Received, Signalled, TooBusy, Tracees,
};

/// How many processes are looked at in one round.
const PROCESSES_PER_ROUND: usize = 16;

/// How many different warnings are kept.
const MOST_WARNINGS: usize = 100;

/// The warning where a program is not followed for its own good.
const WOULD_LOSE_RIGHTS: &str = "the program is set-uid or set-gid and would lose its rights if it were followed by a \
                                 user: only its end is seen; run stackscope as root to see more";

/// What to run, and how often to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program, looked for in `PATH` unless its name holds a slash.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The time from one look to the next, if the looks are short enough for it.
    pub interval: Duration,
}

/// What comes in while we watch.
pub(super) enum Input {
    /// Something happened to the program.
    Program(Happened),
    /// A signal was sent to us.
    Signal(Received),
    /// The program, which is not ours, has ended.
    Vanished,
    /// We are to leave the program alone.
    Leave,
    /// We are to stop ourselves until somebody continues us.
    Suspend,
    /// The time from one look to the next is another.
    Interval(Duration),
}

/// A look that was taken, for those who watch along.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What was seen.
    pub snapshot: Arc<Snapshot>,
    /// When, from the start of the watch.
    pub time: Duration,
    /// The time to the next look: the interval, or more where that would stop the program for over 1 % of the time.
    pub next: Duration,
}

/// Launches a program and watches it to its end.
///
/// To be called before any other thread is started, since it blocks signals for all of them.
///
/// # Errors
/// The program could not be started or followed. What goes wrong later is a warning in the result.
pub fn run(options: &Options) -> Result<Watched, RunError> {
    let inbox = Inbox::open()?;
    let launched = target::launch(&options.program, &options.arguments, inbox.inherited())?;
    let (sender, inputs) = mpsc::channel();
    let happenings = sender.clone();
    let mut watch = Watch::new(launched.pid(), options.interval, sender);
    if target::gains_rights(&options.program) && !Facts::gather().ptrace_capability {
        watch.go_unfollowed(WOULD_LOSE_RIGHTS.to_owned(), Duration::ZERO);
    } else {
        let tracees = Tracees::seize(launched.pid(), move |happened| {
            let _ = happenings.send(Input::Program(happened));
        });
        watch.tracees = Some(tracees.map_err(RunError::Follow)?);
    }
    let signals = watch.sender.clone();
    inbox.listen(move |received| {
        let _ = signals.send(Input::Signal(received));
    })?;
    launched.go()?;
    let end = watch.watch_to_end(&inputs, &mut |_| {});
    let words = std::iter::once(&options.program).chain(&options.arguments);
    Ok(watch.finish(words.map(|word| word.to_string_lossy().into_owned()).collect(), end))
}

pub(super) struct Watch {
    pid: i32,
    start: Instant,
    sender: Sender<Input>,
    /// Whether the process has become the program.
    pub(super) launched: bool,
    /// `None` where the program is not followed, or was let go.
    tracees: Option<Tracees>,
    /// The processes to look at; the first of the next round is the first above `looked_at`.
    processes: BTreeSet<i32>,
    looked_at: i32,
    /// What was read of the files of each process.
    modules: HashMap<i32, Option<Kept>>,
    pace: Pace,
    relay: Relay,
    usage: Usage,
    events: Events,
    pub(super) looks: usize,
    pub(super) exact_until: Option<Duration>,
    warnings: BTreeSet<String>,
}

impl Watch {
    /// A watch on process `pid` that begins now, and follows nothing.
    pub(super) fn new(pid: i32, interval: Duration, sender: Sender<Input>) -> Watch {
        Watch {
            pid,
            start: Instant::now(),
            sender,
            launched: false,
            tracees: None,
            processes: BTreeSet::from([pid]),
            looked_at: 0,
            modules: HashMap::new(),
            pace: Pace::new(interval),
            relay: Relay::default(),
            usage: Usage::default(),
            events: Events::default(),
            looks: 0,
            exact_until: None,
            warnings: BTreeSet::new(),
        }
    }

    /// Watches until the program has ended, or until we are to leave it. Each look of a round is told to `tell`.
    pub(super) fn watch_to_end(&mut self, inputs: &Receiver<Input>, tell: &mut dyn FnMut(Looked)) -> End {
        loop {
            let due = self.relay.due().map_or(self.pace.due(), |relay| relay.min(self.pace.due()));
            match inputs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Input::Program(happened)) => {
                    if let Some(outcome) = self.happened(happened) {
                        return End::Ended(outcome);
                    }
                }
                Ok(Input::Signal(received)) => self.received(received),
                Ok(Input::Vanished) => return End::Vanished,
                Ok(Input::Leave) => return End::Left,
                Ok(Input::Suspend) => target::stop_ourselves(),
                Ok(Input::Interval(interval)) => self.pace.set_interval(interval),
                Err(RecvTimeoutError::Timeout) => self.due(tell),
                // We hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => {}
            }
            if self.relay.stops_us() {
                target::stop_ourselves();
            }
        }
    }

    /// Takes in a signal that was sent to us.
    fn received(&mut self, received: Received) {
        let now = Instant::now();
        self.relay.received(received, now);
        if self.tracees.is_none() {
            // Nobody tells us whether the program has stopped as well.
            self.relay.program_stopped(received.signal, now);
        }
    }

    /// Does what is due by now.
    fn due(&mut self, tell: &mut dyn FnMut(Looked)) {
        let now = Instant::now();
        for signal in self.relay.take_due(now) {
            target::pass_on(self.pid, signal);
        }
        if self.pace.due() <= now {
            for snapshot in self.round() {
                tell(self.looked(snapshot));
            }
        }
    }

    /// Takes in what happened; gives the program's outcome once it has ended.
    fn happened(&mut self, happened: Happened) -> Option<Outcome> {
        let time = happened.at.saturating_duration_since(self.start);
        match happened.what {
            Happening::Forked { parent, child } => {
                self.processes.insert(child);
                self.usage.thread_started(child, child);
                self.note(EventKind::Fork, time, parent, format!("started process {child}"));
            }
            Happening::Executed { pid } => {
                // That the process that we launched becomes the program is no news.
                if std::mem::replace(&mut self.launched, true) {
                    self.note(EventKind::Exec, time, pid, format!("became {}", program_name(pid)));
                    self.usage.process_ended(pid);
                }
                self.usage.thread_started(pid, pid);
            }
            Happening::ThreadStarted { pid, tid } => self.usage.thread_started(pid, tid),
            Happening::ThreadEnded { pid, tid } => self.usage.thread_ended(pid, tid),
            Happening::Signal(signalled) => self.signal(signalled, happened.at, None),
            Happening::Fatal(signalled) => self.fatal(signalled, happened.at),
            Happening::Ending { pid } => self.ending(pid),
            Happening::Paused { pid, signal } if pid == self.pid => self.relay.program_stopped(signal, happened.at),
            Happening::Paused { .. } => {}
            Happening::Ended { pid, outcome } => return self.ended(pid, outcome, time),
            Happening::LetGo(why) => self.let_go(why, time),
        }
        None
    }

    fn note(&mut self, kind: EventKind, time: Duration, pid: i32, message: String) {
        self.events.add(Event { kind, time, pid, thread: None, message, look: None, killed: false });
    }

    fn signal(&mut self, signalled: Signalled, at: Instant, look: Option<Look>) {
        let Signalled { pid, tid, signal, from } = signalled;
        if pid == self.pid {
            self.relay.seen(Received { signal, from }, at);
        }
        let time = at.saturating_duration_since(self.start);
        let message = events::signal_message(signal, from);
        let killed = look.is_some();
        self.events.add(Event { kind: EventKind::Signal, time, pid, thread: Some(tid), message, look, killed });
    }

    /// A process is about to be ended by a signal: the stacks are as they were when that was decided.
    fn fatal(&mut self, signalled: Signalled, at: Instant) {
        let look = self.look_before_end(signalled.pid, true).and_then(|snapshot| {
            let thread = snapshot.threads.iter().find(|thread| thread.tid == signalled.tid)?;
            Some(Look { stack: thread.stack, snapshot: Arc::clone(&snapshot) })
        });
        self.release(signalled.pid);
        self.signal(signalled, at, look);
    }

    fn ending(&mut self, pid: i32) {
        self.look_before_end(pid, false);
        self.release(pid);
    }

    /// A last look at a process; at processes that the program started, only as far as the budget goes.
    fn look_before_end(&mut self, pid: i32, named: bool) -> Option<Arc<Snapshot>> {
        if pid != self.pid && !self.pace.allows_extra(self.start.elapsed()) {
            return None;
        }
        let began = Instant::now();
        let snapshot = self.look(pid, named);
        // The process stands until its names are found: what they are read from goes with it.
        self.pace.extra(began.elapsed());
        snapshot
    }

    fn release(&self, pid: i32) {
        if let Some(tracees) = &self.tracees {
            tracees.release(pid);
        }
    }

    fn ended(&mut self, pid: i32, outcome: Outcome, time: Duration) -> Option<Outcome> {
        self.processes.remove(&pid);
        self.modules.remove(&pid);
        self.usage.process_ended(pid);
        self.events.add(Event {
            kind: EventKind::Exit,
            time,
            pid,
            thread: None,
            message: events::outcome_message(outcome),
            look: None,
            killed: matches!(outcome, Outcome::Killed { .. }),
        });
        (pid == self.pid).then_some(outcome)
    }

    /// The program is too busy to be followed: from now on it is looked at from time to time only.
    fn let_go(&mut self, why: TooBusy, time: Duration) {
        self.tracees = None;
        self.processes = BTreeSet::from([self.pid]);
        self.go_unfollowed(let_go_message(why, time), time);
    }

    /// From now on the program is not followed; its end is waited for.
    fn go_unfollowed(&mut self, warning: String, time: Duration) {
        self.exact_until = Some(time);
        self.warnings.insert(warning);
        let (pid, sender) = (self.pid, self.sender.clone());
        target::await_end(pid, move |outcome| {
            let what = Happening::Ended { pid, outcome };
            let _ = sender.send(Input::Program(Happened { at: Instant::now(), what }));
        });
    }

    /// The look that shows whether the process can be watched.
    pub(super) fn look_at_first(&mut self) -> Result<Arc<Snapshot>, LookError> {
        let snapshot = self.try_look(self.pid, false)?;
        self.pace.extra(snapshot.stopped);
        Ok(snapshot)
    }

    /// A look of ours as it is told to others.
    pub(super) fn looked(&self, snapshot: Arc<Snapshot>) -> Looked {
        Looked { snapshot, time: self.start.elapsed(), next: self.pace.current() }
    }

    /// Looks at the processes whose turn it is.
    pub(super) fn round(&mut self) -> Vec<Arc<Snapshot>> {
        let turn: Vec<i32> = self.processes.range(self.looked_at + 1..).chain(&self.processes).copied().collect();
        let count = self.processes.len().min(PROCESSES_PER_ROUND);
        let mut stopped = Duration::ZERO;
        let mut seen = Vec::new();
        for pid in turn.into_iter().take(count) {
            if let Some(snapshot) = self.look(pid, true) {
                stopped += snapshot.stopped;
                seen.push(snapshot);
            }
            self.looked_at = pid;
        }
        self.pace.round(stopped);
        seen
    }

    /// Looks at one process. One that can't be looked at has ended, in nearly all cases; what it is otherwise, the report
    /// tells.
    fn look(&mut self, pid: i32, named: bool) -> Option<Arc<Snapshot>> {
        let looked = self.try_look(pid, named).inspect_err(|error| debug!("no look at {pid}: {error}"));
        if let Err(error) = &looked
            && !error.is_end()
        {
            self.warn([format!("at times there was no look: {error}")]);
        }
        looked.ok()
    }

    /// Looks at one process, or tells why that is not possible.
    fn try_look(&mut self, pid: i32, named: bool) -> Result<Arc<Snapshot>, LookError> {
        let live = match &self.tracees {
            Some(tracees) => tracees.open(pid),
            None => Live::open(pid),
        }?;
        let kept = self.modules.entry(pid).or_default();
        let snapshot = Arc::new(snapshot::of_live_again(&live, named.then_some(Lines::Cheap), kept)?);
        self.looks += 1;
        self.warn(snapshot.warnings.iter().cloned());
        self.usage.look(&snapshot, named);
        if self.tracees.is_none() {
            self.usage.only_living(&snapshot);
        }
        Ok(snapshot)
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        let room = MOST_WARNINGS.saturating_sub(self.warnings.len());
        self.warnings.extend(warnings.into_iter().take(room));
    }

    pub(super) fn finish(mut self, command: Vec<String>, end: End) -> Watched {
        let duration = self.start.elapsed();
        self.usage.finish();
        Watched {
            command,
            pid: self.pid,
            end,
            duration,
            looks: self.looks,
            period: self.pace.period(),
            stopped: self.pace.stopped,
            exact_until: self.exact_until,
            usage: self.usage,
            events: self.events,
            warnings: self.warnings.into_iter().collect(),
        }
    }
}

fn let_go_message(why: TooBusy, time: Duration) -> String {
    let what = match why {
        TooBusy::Signals(most) => format!("more than {most} signals came in a second"),
        TooBusy::Starts(most) => format!("far more than {most} threads and processes started and ended in a second"),
    };
    let seconds = time.as_secs_f64();
    format!(
        "{what}: since {seconds:.3} s the program is not followed, so that it is not slowed down; from then on its new \
         processes, its signals and its short-lived threads are not seen"
    )
}

/// The program that a process has become.
fn program_name(pid: i32) -> String {
    target::program(pid).map_or_else(|| "another program".into(), |program| program.display().to_string())
}
