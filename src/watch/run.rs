//! The course of a watch: receive what happens, look when a look is due, and stay until the program ends or we leave
//! it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use log::debug;

use super::events::{self, Event, EventKind, Ledger, Sight};
use super::missed::{Missed, NotFollowed};
use super::pace::Pace;
use super::pause::Pause;
use super::raises::{Raises, Scene};
use super::relay::Relay;
use super::switches::Noting;
use super::usage::Usage;
use super::{End, Watched};
use crate::image::Progress;
use crate::image::names::Lines;
use crate::look::{Looker, Wish};
use crate::process::{
    self, Happened, Happening, Live, LookError, OpenError, Outcome, Reached, Received, Signalled, TooBusy, Tracees,
};
use crate::snapshot::{Fault, Snapshot};

/// How many processes are looked at in one round.
const PROCESSES_PER_ROUND: usize = 16;

/// How many stacks of one look are reported to have come close to their end.
const MOST_RISEN: usize = 20;

/// How many different things that could not be seen are kept.
const MOST_MISSED: usize = 100;

/// What comes in while we watch.
pub(super) enum Input {
    /// Something happened to the program.
    Program(Happened),
    /// A signal was sent to us.
    Signal(Received),
    /// The program, which we did not launch, has ended.
    Vanished,
    /// We are to leave the program alone.
    Leave,
    /// We are to stop ourselves until somebody continues us.
    Suspend,
    /// The time from one look to the next changes.
    Interval(Duration),
    /// The program is to stand still.
    Pause,
    /// It is to run on.
    Resume,
    /// It is to be sent a signal.
    Send(i32),
    /// What was seen so far is to be reported.
    Report,
}

/// A look that was taken, for whoever shows it.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What was seen.
    pub snapshot: Arc<Snapshot>,
    /// When, from the start of the watch.
    pub time: Duration,
    /// The time to the next look: the interval, or more if that would stop the program for over 1 % of the time.
    pub next: Duration,
}

/// What there is to see, for whoever shows it.
#[derive(Clone, Debug)]
pub enum News {
    /// A look was taken.
    Looked(Looked),
    /// Something happened.
    Event(Event),
    /// The program stands still on demand, or runs on.
    Paused(bool),
    /// What was seen so far, as if we had left now.
    SoFar(Arc<Watched>),
}

pub(super) struct Watch {
    pub(super) pid: i32,
    /// The program's command line.
    pub(super) command: Vec<String>,
    pub(super) start: Instant,
    sender: Sender<Input>,
    /// Whether the process has become the program.
    pub(super) launched: bool,
    /// `None` if the program is not followed, or was let go.
    pub(super) tracees: Option<Tracees>,
    /// The processes to look at; the first of the next round is the first above `looked_at`.
    processes: BTreeSet<i32>,
    looked_at: i32,
    /// What was read of the files of each process.
    lookers: HashMap<i32, Looker>,
    /// How far the naming of the present look has come.
    pub(super) progress: Progress,
    pub(super) pace: Pace,
    pub(super) relay: Relay,
    /// Has the probes, if the program is to have any.
    pub(super) noting: Option<Noting>,
    /// Holds the program while it is to stand still.
    pause: Option<Pause>,
    usage: Usage,
    ledger: Ledger,
    /// What is raised in the program.
    raises: Raises,
    /// The fault that was judged last in each process.
    pub(super) judged: HashMap<i32, Fault>,
    pub(super) looks: usize,
    pub(super) exact_until: Option<Duration>,
    missed: Vec<Missed>,
}

impl Watch {
    /// A watch on process `pid` that begins now, and follows nothing.
    pub(super) fn new(pid: i32, command: Vec<String>, interval: Duration, sender: Sender<Input>) -> Watch {
        Watch {
            pid,
            command,
            start: Instant::now(),
            sender,
            launched: false,
            tracees: None,
            processes: BTreeSet::from([pid]),
            looked_at: 0,
            lookers: HashMap::new(),
            progress: Progress::default(),
            pace: Pace::new(interval),
            relay: Relay::default(),
            noting: None,
            pause: None,
            usage: Usage::default(),
            ledger: Ledger::default(),
            raises: Raises::default(),
            judged: HashMap::new(),
            looks: 0,
            exact_until: None,
            missed: Vec::new(),
        }
    }

    /// Watches until the program has ended, or until we are to leave it. What there is to see is reported to `tell`.
    pub(super) fn watch_to_end(&mut self, inputs: &Receiver<Input>, tell: &mut dyn FnMut(News)) -> End {
        loop {
            let others = [self.relay.due(), self.noting.as_ref().map(Noting::due)];
            let due = others.into_iter().flatten().fold(self.pace.due(), Instant::min);
            let end = match inputs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(input) => self.take_in(input, tell),
                Err(RecvTimeoutError::Timeout) => {
                    self.due(tell);
                    None
                }
                // We hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => None,
            };
            for event in self.ledger.take_untold() {
                tell(News::Event(event));
            }
            if let Some(end) = end {
                return end;
            }
            if self.relay.stops_us() {
                process::stop_ourselves();
            }
        }
    }

    fn take_in(&mut self, input: Input, tell: &mut dyn FnMut(News)) -> Option<End> {
        match input {
            Input::Program(happened) => return self.happened(happened).map(End::Ended),
            Input::Signal(received) => self.received(received),
            Input::Vanished => return Some(End::Vanished),
            Input::Leave => return Some(End::Left),
            Input::Suspend => process::stop_ourselves(),
            Input::Interval(interval) => self.pace.set_interval(interval),
            Input::Send(signal) => process::pass_on(self.pid, signal),
            Input::Report => tell(News::SoFar(Arc::new(self.so_far()))),
            Input::Pause => {
                self.pause = Some(Pause::of(self.processes.iter().filter_map(|pid| self.open(*pid).ok())));
                tell(News::Paused(true));
            }
            Input::Resume => {
                self.pause = None;
                tell(News::Paused(false));
            }
        }
        None
    }

    /// Handles a signal that was sent to us.
    fn received(&mut self, received: Received) {
        let now = Instant::now();
        self.relay.received(received, now);
        if self.tracees.is_none() {
            // We do not learn whether the program has stopped as well.
            self.relay.program_stopped(received.signal, now);
        }
    }

    /// Does what is due by now.
    fn due(&mut self, tell: &mut dyn FnMut(News)) {
        let now = Instant::now();
        for signal in self.relay.take_due(now) {
            process::pass_on(self.pid, signal);
        }
        if self.noting.as_ref().is_some_and(|noting| noting.due() <= now) {
            self.count();
        }
        if self.pace.due() <= now {
            self.round(tell);
        }
    }

    /// Handles what happened; returns the program's outcome once it has ended.
    fn happened(&mut self, happened: Happened) -> Option<Outcome> {
        let time = happened.at.saturating_duration_since(self.start);
        match happened.what {
            Happening::Forked { parent, child } => {
                self.processes.insert(child);
                self.usage.thread_started(child, child);
                self.note(EventKind::Fork, time, parent, format!("started process {child}"));
            }
            Happening::Executed { pid } => {
                // It is no event that the process that we launched becomes the program.
                if std::mem::replace(&mut self.launched, true) {
                    self.raises.forget(pid);
                    self.note(EventKind::Exec, time, pid, format!("became {}", program_name(pid)));
                    self.usage.process_ended(pid);
                }
                self.usage.thread_started(pid, pid);
                if let Some(noting) = &mut self.noting {
                    noting.probes.forget(pid);
                }
            }
            Happening::Mapped { pid } => self.probe(pid, true),
            Happening::ThreadStarted { pid, tid } => self.usage.thread_started(pid, tid),
            Happening::ThreadEnded { pid, tid } => {
                self.raises.end(tid, &mut self.ledger);
                self.usage.thread_ended(pid, tid);
            }
            Happening::Signal(signalled) => {
                let event = self.signal(signalled, happened.at);
                self.add(event);
            }
            Happening::Fault(signalled) => self.handled(signalled, happened.at),
            Happening::Fatal(signalled) => self.fatal(signalled, happened.at),
            Happening::Ending { pid } => self.ending(pid),
            Happening::Paused { pid, signal } if pid == self.pid => self.relay.program_stopped(signal, happened.at),
            Happening::Paused { .. } => {}
            Happening::Ended { pid, outcome } => return self.ended(pid, outcome, time),
            Happening::Reached(reached) => {
                self.reached(&reached, time);
                self.let_pass(reached.pid);
            }
            Happening::Unarmed { error, .. } => self.miss([Missed::Raises(error)]),
            Happening::Unreported { count, .. } => self.raises.counted += count,
            Happening::LetGo(why) => self.let_go(why, time),
        }
        None
    }

    /// Probes what is not probed yet of a process. One that stands for it is let go, whatever came of it.
    fn probe(&mut self, pid: i32, stands: bool) {
        let live = self.open(pid);
        if let (Some(noting), Ok(live)) = (&mut self.noting, &live) {
            let looker = self.lookers.entry(pid).or_insert_with(|| Looker::telling(self.progress.clone()));
            noting.probes.add(live, looker);
            if let Some(tracees) = &self.tracees {
                tracees.hand_on(pid, noting.probes.original(pid));
            }
        }
        if let Some(tracees) = self.tracees.as_ref().filter(|_| stands) {
            tracees.begin(pid);
        }
        if let (Some(noting), Ok(live), Some(looker)) = (&mut self.noting, &live, self.lookers.get(&pid)) {
            noting.probes.name(live, looker);
        }
    }

    /// Reads what the probes have noted.
    fn count(&mut self) {
        let pids = self.noting.as_ref().map_or_else(Vec::new, |noting| noting.probes.pids());
        for pid in pids {
            let mappings = self.open(pid).ok().and_then(|live| live.mappings().ok()).unwrap_or_default();
            if let Some(noting) = &mut self.noting {
                noting.probes.count(pid, &mappings);
            }
        }
        if let Some(noting) = &mut self.noting {
            noting.counted();
        }
    }

    fn note(&mut self, kind: EventKind, time: Duration, pid: i32, message: String) {
        self.add(Event::new(kind, time, pid, message));
    }

    pub(super) fn add(&mut self, event: Event) {
        self.ledger.add(event);
    }

    /// A thread stands at a place in its code.
    fn reached(&mut self, reached: &Reached, time: Duration) {
        let Ok(live) = self.open(reached.pid) else { return };
        let looker = self.lookers.entry(reached.pid).or_insert_with(|| Looker::telling(self.progress.clone()));
        let mut scene = Scene { live: &live, looker, usage: &mut self.usage, ledger: &mut self.ledger, time };
        let watch = self.raises.reached(&mut scene, reached);
        if let Some((tracees, watch)) = self.tracees.as_ref().zip(watch) {
            tracees.watch(reached.pid, watch);
        }
    }

    fn let_pass(&self, pid: i32) {
        if let Some(tracees) = &self.tracees {
            tracees.let_pass(pid);
        }
    }

    pub(super) fn signal(&mut self, signalled: Signalled, at: Instant) -> Event {
        let Signalled { pid, tid, signal, from, .. } = signalled;
        if pid == self.pid {
            self.relay.seen(Received { signal, from }, at);
        }
        let time = at.saturating_duration_since(self.start);
        let message = events::signal_message(signal, from);
        Event { thread: Some(tid), ..Event::new(EventKind::Signal, time, pid, message) }
    }

    /// What was raised in the thread that is about to be ended by a signal may have ended it.
    pub(super) fn raises_end(&mut self, signalled: Signalled, at: Instant, look: Option<&Sight>) {
        let Ok(live) = self.open(signalled.pid) else { return };
        let looker = self.lookers.entry(signalled.pid).or_default();
        let time = at.saturating_duration_since(self.start);
        let mut scene = Scene { live: &live, looker, usage: &mut self.usage, ledger: &mut self.ledger, time };
        self.raises.abort(&mut scene, signalled, look);
    }

    fn ending(&mut self, pid: i32) {
        self.look_before_end(pid, false, None);
        self.release(pid);
    }

    /// A last look at a process; at processes that the program started, only if the budget allows it.
    pub(super) fn look_before_end(
        &mut self,
        pid: i32,
        named: bool,
        signalled: Option<Signalled>,
    ) -> Option<Arc<Snapshot>> {
        if pid != self.pid && !self.pace.allows_extra(self.start.elapsed()) {
            return None;
        }
        let began = Instant::now();
        self.count();
        let snapshot = self.look(pid, named, signalled);
        if let Some(snapshot) = &snapshot {
            self.see_ends(pid);
            self.gather(snapshot, named);
            self.usage.ends(snapshot);
        }
        // The process stands until its names are found: what they are read from goes with it.
        self.pace.extra(began.elapsed());
        snapshot
    }

    /// Adds how much was used, up to the end, of the stacks that the last look at a process does not search for.
    fn see_ends(&mut self, pid: i32) {
        let known = self.usage.known_places(pid);
        let (Ok(live), Some(looker)) = (self.open(pid), self.lookers.get(&pid)) else { return };
        if !known.is_empty() {
            let peaks = looker.last_peaks(&live, &known);
            self.usage.last_peaks(pid, known.iter().map(|(range, _)| *range).zip(peaks));
        }
    }

    pub(super) fn release(&self, pid: i32) {
        if let Some(tracees) = &self.tracees {
            tracees.release(pid);
        }
    }

    fn ended(&mut self, pid: i32, outcome: Outcome, time: Duration) -> Option<Outcome> {
        self.processes.remove(&pid);
        self.lookers.remove(&pid);
        self.raises.end(pid, &mut self.ledger);
        self.judged.remove(&pid);
        if let Some(noting) = &mut self.noting {
            noting.probes.forget(pid);
        }
        self.usage.process_ended(pid);
        let killed = matches!(outcome, Outcome::Killed { .. });
        self.add(Event { killed, ..Event::new(EventKind::Exit, time, pid, events::outcome_message(outcome)) });
        (pid == self.pid).then_some(outcome)
    }

    /// The program is too busy to be followed: from now on it is looked at from time to time only.
    fn let_go(&mut self, why: TooBusy, time: Duration) {
        self.tracees = None;
        self.processes = BTreeSet::from([self.pid]);
        self.go_unfollowed(NotFollowed::TooBusy(why), time);
    }

    /// From now on the program is not followed; its end is waited for.
    pub(super) fn go_unfollowed(&mut self, why: NotFollowed, since: Duration) {
        self.exact_until = Some(since);
        self.missed.insert(0, Missed::NotFollowed { why, since });
        let (pid, sender) = (self.pid, self.sender.clone());
        process::await_end(pid, move |outcome| {
            let what = Happening::Ended { pid, outcome };
            let _ = sender.send(Input::Program(Happened { at: Instant::now(), what }));
        });
    }

    /// The look that shows whether the process can be watched.
    pub(super) fn look_at_first(&mut self) -> Result<Arc<Snapshot>, LookError> {
        let snapshot = self.try_look(self.pid, false, None)?;
        self.gather(&snapshot, false);
        self.pace.first(snapshot.stopped);
        Ok(snapshot)
    }

    /// One of our looks, for whoever shows it.
    pub(super) fn looked(&self, snapshot: Arc<Snapshot>) -> Looked {
        Looked { snapshot, time: self.start.elapsed(), next: self.pace.current() }
    }

    /// Looks at the processes whose turn it is. Each look is reported before it is gathered, so that its viewers need
    /// not wait.
    pub(super) fn round(&mut self, tell: &mut dyn FnMut(News)) {
        let turn: Vec<i32> = self.processes.range(self.looked_at + 1..).chain(&self.processes).copied().collect();
        let count = self.processes.len().min(PROCESSES_PER_ROUND);
        let mut stopped = Duration::ZERO;
        if self.pause.is_some() {
            // Nothing changes, and a look would let it go on.
            self.pace.round(stopped);
            return;
        }
        let mut seen = Vec::new();
        for pid in turn.into_iter().take(count) {
            if self.noting.as_ref().is_some_and(|noting| noting.probes.has(pid)) {
                // What was loaded meanwhile.
                self.probe(pid, false);
            }
            if let Some(snapshot) = self.look(pid, true, None) {
                stopped += snapshot.stopped;
                seen.push(snapshot);
            }
            self.looked_at = pid;
        }
        self.pace.round(stopped);
        for snapshot in seen {
            tell(News::Looked(self.looked(Arc::clone(&snapshot))));
            self.gather(&snapshot, true);
        }
    }

    /// Looks at one process. If one can't be looked at, it has nearly always ended; if not, the report says
    /// why.
    pub(super) fn look(&mut self, pid: i32, named: bool, signalled: Option<Signalled>) -> Option<Arc<Snapshot>> {
        let looked = self.try_look(pid, named, signalled).inspect_err(|error| debug!("no look at {pid}: {error}"));
        if let Err(error) = &looked
            && !error.is_end()
        {
            self.miss([Missed::NoLook(error.to_string())]);
        }
        looked.ok()
    }

    pub(super) fn open(&self, pid: i32) -> Result<Live, OpenError> {
        match &self.tracees {
            Some(tracees) => tracees.open(pid),
            None => Live::open(pid),
        }
    }

    /// Looks at one process, which may stand at a signal, or returns why that is not possible.
    fn try_look(&mut self, pid: i32, named: bool, at: Option<Signalled>) -> Result<Arc<Snapshot>, LookError> {
        let live = self.open(pid)?;
        let looker = self.lookers.entry(pid).or_insert_with(|| Looker::telling(self.progress.clone()));
        let wish = if named { Wish::all(Lines::Cheap) } else { Wish::threads() };
        let snapshot = Arc::new(match at.and_then(|at| Some((at.tid, at.raised?))) {
            Some((tid, raised)) => looker.at_signal(&live, wish, tid, raised)?,
            None => looker.live(&live, wish)?,
        });
        self.looks += 1;
        self.miss(snapshot.warnings.iter().cloned().map(Missed::InLook));
        Ok(snapshot)
    }

    /// Adds what a look shows to what is reported.
    fn gather(&mut self, snapshot: &Snapshot, named: bool) {
        let began = Instant::now();
        let risen = self.usage.look(snapshot, self.tracees.is_some(), named);
        self.note_risen(snapshot, &risen);
        if self.tracees.is_none() {
            self.usage.only_living(snapshot);
        }
        debug!("{} stacks are gathered in {:?}", snapshot.stacks.len(), began.elapsed());
    }

    /// Adds events for the stacks that have come close to their end since the last look, at most [`MOST_RISEN`].
    /// Of a process that takes a signal, the verdict on that says more.
    fn note_risen(&mut self, snapshot: &Snapshot, risen: &[usize]) {
        if snapshot.fault.is_some() {
            return;
        }
        for id in risen.iter().take(MOST_RISEN) {
            let Some(stack) = snapshot.stacks.get(*id) else { continue };
            let message = events::high_message(*id, stack, risen.len().saturating_sub(MOST_RISEN));
            self.add(Event {
                thread: stack.thread,
                look: Some(Sight::at(snapshot, *id)),
                ..Event::new(EventKind::High, self.start.elapsed(), snapshot.process.pid, message)
            });
        }
    }

    fn miss(&mut self, missed: impl IntoIterator<Item = Missed>) {
        for missed in missed {
            if self.missed.len() < MOST_MISSED && !self.missed.contains(&missed) {
                self.missed.push(missed);
            }
        }
    }

    /// What was seen so far, as if we left now.
    fn so_far(&self) -> Watched {
        let mut usage = self.usage.clone();
        usage.finish();
        Watched {
            command: self.command.clone(),
            pid: self.pid,
            end: End::Left,
            duration: self.start.elapsed(),
            looks: self.looks,
            period: self.pace.period(),
            stopped: self.pace.stopped,
            exact_until: self.exact_until,
            usage,
            events: self.ledger.events.clone(),
            raises_counted: self.raises.counted,
            missed: self.missed.clone(),
            switches: self.noting.as_ref().map(|noting| noting.probes.switches()),
        }
    }

    /// Takes the probes out of a program that runs on.
    fn leave_unprobed(&mut self) {
        let Some(mut noting) = self.noting.take() else { return };
        for pid in noting.probes.pids() {
            if let Ok(live) = self.open(pid) {
                noting.probes.remove(&live);
            }
        }
        self.noting = Some(noting);
    }

    pub(super) fn finish(mut self, end: End) -> Watched {
        self.pause = None;
        self.count();
        if end == End::Left {
            self.leave_unprobed();
        }
        let (usage, events) = (std::mem::take(&mut self.usage), std::mem::take(&mut self.ledger.events));
        let mut watched = Watched { end, events, ..self.so_far() };
        watched.usage = usage;
        watched.usage.finish();
        watched
    }
}

/// The program that a process has become.
fn program_name(pid: i32) -> String {
    process::program(pid).map_or_else(|| "another program".into(), |program| program.display().to_string())
}
