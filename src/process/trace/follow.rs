//! The life of the thread that follows a program: what each report of the kernel means, and what the tracee does next.
//!
//! Every stop costs the program time, so a tracee goes on at once unless somebody wants its process to stand.
//! Reports are read and left in place until the tracee goes on, so that no signal is lost if we are killed.
//!
//! Words: a tracee *stands* while it waits for us; a process *stands* if each of its threads that stops is kept so.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::armed::{self, Armed, CodeWatch, Hit};
use super::errand::{self, Errand, ErrandError};
use super::fatal::{ends_process, is_told_to_end, not_stopped};
use super::followed::{Asked, Motion, Next, Place, Process, Tracee};
use super::happening::{Happened, Happening, Outcome, Signalled, TooBusy};
use super::hold::Held;
use super::ptrace::{self, Change};
use super::rate::Rate;
use super::regset;
use super::start::Start;
use crate::addr::Addr;
use crate::arch::Arch;
use crate::process::error::StopError;
use crate::process::live::{memory, procfs};
use crate::process::{Fault, NotStopped, Thread};

/// With more signals than this in a second, we let the program go: each stops it for some 20 µs.
const MOST_SIGNALS: u32 = 500;
/// This many starts and ends of threads and processes in a second cost the program about 1 % of its time.
const MOST_STARTS: u32 = 100;
/// How many of them may come at once: a program may well start a thousand threads when it begins.
const STARTS_AT_ONCE: u32 = 2000;
/// How many faults that a program handles are reported in a second; each has it stand for a look. Programs that handle
/// them by the thousand, as those with a garbage collector do, go on.
const MOST_FAULTS: u32 = 2;
/// How many of them may come at once.
const FAULTS_AT_ONCE: u32 = 8;
/// How many reports are taken before requests are looked at again.
const REPORTS_AT_ONCE: usize = 64;
/// How often a stop in progress is looked at if nothing happens.
const STOP_PACE: Duration = Duration::from_millis(1);
/// How often changes are looked for if no signal says so: another of our threads may have taken it.
const IDLE_PACE: Duration = Duration::from_millis(200);
/// How long threads in uninterruptible sleep are waited for.
const PATIENCE_WITH_SLEEP: Duration = Duration::from_millis(5);

/// A request to the following thread.
pub(super) enum Request {
    /// Have a process stand, and answer when it does.
    Stop { pid: i32, arch: &'static Arch, limit: Duration, answer: Sender<Held> },
    /// It has stood long enough for who asked to [`Request::Stop`] it.
    Release { pid: i32 },
    /// A process that stands before its end was told of may end.
    LetEnd { pid: i32 },
    /// A thread of it that was reported to have reached a place may go on.
    LetPass { pid: i32 },
    /// Have each new program stop at its entry.
    WatchEntries,
    /// Have its threads stop at these places, and no others.
    Watch { pid: i32, watch: CodeWatch },
    /// A process that stands at a signal that it handles may handle it.
    LetHandle { pid: i32 },
    /// One that stands before code that it has mapped runs may go on.
    Begin { pid: i32 },
    /// Have a thread of a process that stands make system calls.
    Run { pid: i32, errand: Errand, answer: Sender<Result<(), ErrandError>> },
    /// From now on, children with a copy of the process's memory get these bytes at these places before they run.
    Hand { pid: i32, bytes: Vec<(Addr, Vec<u8>)> },
    /// Let everything go.
    LetGo,
}

/// Follows `pid` and all that it starts, until nothing is left of it or nobody asks any more.
pub(super) fn follow(
    pid: i32,
    asked: &Receiver<Request>,
    bell: &EventFd,
    report: &Sender<Result<(), StopError>>,
    follows_starts: bool,
    tell: &dyn Fn(Happened),
) {
    let seized = ptrace::seize_following(pid)
        .map_err(|_| StopError::of_refused_thread(pid, pid, &procfs::thread_directory(pid, pid)));
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let changes = SignalFd::with_flags(&SigSet::from_iter([Signal::SIGCHLD]), flags)
        .map_err(|error| StopError::NoTracerThread(error.into()));
    let outcome = seized.and(changes);
    let _ = match outcome {
        Err(error) => report.send(Err(error)),
        Ok(changes) => {
            let mut follower = Follower::new(pid, follows_starts, tell);
            let sent = report.send(Ok(()));
            follower.run(asked, bell, &changes);
            sent
        }
    };
}

/// What is known of the tracees.
struct Follower<'t> {
    tell: &'t dyn Fn(Happened),
    /// Whether code is told of that a program maps while it starts.
    follows_starts: bool,
    tracees: HashMap<i32, Tracee>,
    processes: HashMap<i32, Process>,
    /// How many tracees stand at a signal, which is left in place.
    at_signal: usize,
    /// Where they stop.
    armed: Armed,
    signals: Rate,
    faults: Rate,
    starts: Rate,
    let_go: bool,
}

impl<'t> Follower<'t> {
    fn new(pid: i32, follows_starts: bool, tell: &'t dyn Fn(Happened)) -> Follower<'t> {
        Follower {
            tell,
            follows_starts,
            tracees: HashMap::from([(pid, Tracee::new(pid))]),
            processes: HashMap::from([(pid, Process::default())]),
            at_signal: 0,
            armed: Armed::new(),
            signals: Rate::new(MOST_SIGNALS, MOST_SIGNALS),
            faults: Rate::new(MOST_FAULTS, FAULTS_AT_ONCE),
            starts: Rate::new(MOST_STARTS, STARTS_AT_ONCE),
            let_go: false,
        }
    }

    fn run(&mut self, asked: &Receiver<Request>, bell: &EventFd, changes: &SignalFd) {
        while !self.tracees.is_empty() {
            loop {
                match asked.try_recv() {
                    Ok(request) => self.answer(request),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if self.let_go {
                return;
            }
            let mut reports = 0;
            while reports < REPORTS_AT_ONCE
                && let Some((tid, change)) = self.next_change()
            {
                self.take(tid, change);
                reports += 1;
                if self.let_go {
                    return;
                }
            }
            self.finish_stops();
            self.armed.tick();
            if reports < REPORTS_AT_ONCE {
                self.sleep(bell, changes);
            }
        }
    }

    /// Waits for a change, a request, or the time to look at a stop in progress.
    fn sleep(&self, bell: &EventFd, changes: &SignalFd) {
        let stopping = self.processes.values().any(|process| process.asked.is_some());
        let pace = if stopping { STOP_PACE } else { IDLE_PACE };
        let timeout = PollTimeout::try_from(pace).unwrap_or(PollTimeout::ZERO);
        let mut events = [bell.as_fd(), changes.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
        let _ = poll(&mut events, timeout);
        let _ = bell.read();
        while let Ok(Some(_)) = changes.read_signal() {}
    }

    /// The next change of a tracee that is not kept standing.
    fn next_change(&self) -> Option<(i32, Change)> {
        if self.at_signal == 0 {
            return ptrace::any_change();
        }
        // The report of the one that stands at its signal is still in place and would hide the others'.
        let others = self.tracees.iter().filter(|(_, tracee)| !matches!(tracee.state, Motion::Stands(_)));
        others.into_iter().find_map(|(tid, _)| ptrace::change_of(*tid))
    }

    fn happened(&self, what: Happening) {
        (self.tell)(Happened { at: Instant::now(), what });
    }

    /// Handles one change.
    fn take(&mut self, tid: i32, change: Change) {
        let Some(pid) = self.tracees.get(&tid).map(|tracee| tracee.pid).or_else(|| self.adopt(tid)) else {
            // Ended before it was known: there is nothing to report.
            ptrace::collect(tid);
            return;
        };
        match change {
            Change::Signal(signal) => self.signal(pid, tid, signal),
            Change::Group(signal) => self.group_stop(pid, tid, signal),
            Change::Trap => {
                self.set_place(tid, Place::Free);
                self.stand_or(tid, Next::Go);
            }
            Change::Call => self.call(pid, tid),
            Change::Event(event) => self.event(pid, tid, event),
            Change::Exited(code) => self.ended(pid, tid, Outcome::Exited(code)),
            Change::Killed { signal, core } => self.ended(pid, tid, Outcome::Killed { signal, core }),
        }
    }

    /// Adds a new tracee, which either its parent's report or one of its own shows first: the other may never
    /// come, if one of them ends.
    fn adopt(&mut self, tid: i32) -> Option<i32> {
        let status = procfs::Status::read(&procfs::directory(tid)).ok()?;
        let number = |field| status.number(field).and_then(|number| i32::try_from(number).ok());
        // The end of one that is no longer traced was handled before.
        let pid = number("Tgid").filter(|_| number("TracerPid") != Some(0))?;
        self.tracees.insert(tid, Tracee::new(pid));
        self.processes.entry(pid).or_default();
        let parent = number("PPid").unwrap_or(0);
        if tid == pid {
            self.armed.forked(parent, pid);
            self.hand_on(parent, pid);
        }
        let armed = self.armed.arm(pid, tid);
        self.tell_if_unarmed(pid, armed);
        self.happened(match tid == pid {
            true => Happening::Forked { parent, child: pid },
            false => Happening::ThreadStarted { pid, tid },
        });
        Some(pid)
    }

    fn signal(&mut self, pid: i32, tid: i32, signal: i32) {
        if signal == armed::SIGNAL
            && let Some(hit) = self.armed.hit(pid, tid)
        {
            return self.hit(pid, tid, hit);
        }
        let info = ptrace::signal_info(tid);
        let info = info.as_ref().map_or(&[][..], |info| info);
        let raised = Fault::read(info);
        let signalled = Signalled { pid, tid, signal, from: Fault::sender(info), raised };
        if self.signals.is_too_high() {
            self.let_go = true;
            self.happened(Happening::LetGo(TooBusy::Signals(MOST_SIGNALS)));
            return;
        }
        let process = self.processes.entry(pid).or_default();
        if !process.ending_told && ends_process(pid, tid, signal) {
            process.at_end = true;
            process.ending_told = true;
            self.stand_at_signal(tid, signal);
            self.happened(Happening::Fatal(signalled));
            return;
        }
        let is_fault = raised.is_some_and(|raised| raised.is_own_doing());
        if is_fault && !process.at_fault && !process.ending_told && !self.faults.is_too_high() {
            process.at_fault = true;
            self.stand_at_signal(tid, signal);
            self.happened(Happening::Fault(signalled));
            return;
        }
        let stands = process.stands();
        self.happened(Happening::Signal(signalled));
        self.resume(tid, signal);
        self.set(tid, Motion::Running);
        if stands {
            // It stands again as soon as the signal is its own.
            let _ = ptrace::interrupt(tid);
        }
    }

    /// A thread stands at a breakpoint, or a little after it.
    fn hit(&mut self, pid: i32, tid: i32, hit: Hit) {
        // From here on the thread stops without a signal, and goes on as if nothing had been, also if we are killed.
        ptrace::collect(tid);
        if let Hit::Report(reached) = hit {
            self.processes.entry(pid).or_default().reached += 1;
            self.happened(Happening::Reached(reached));
        }
        self.stand_or(tid, Next::Go);
    }

    fn tell_if_unarmed(&self, pid: i32, armed: std::io::Result<()>) {
        if let Err(error) = armed {
            self.happened(Happening::Unarmed { pid, error: error.raw_os_error().unwrap_or(0) });
        }
    }

    /// Tells how many hits in a process, or in one thread that ends, were not reported.
    fn tell_unreported(&self, pid: i32, count: u64) {
        if count > 0 {
            self.happened(Happening::Unreported { pid, count });
        }
    }

    fn stand_at_signal(&mut self, tid: i32, signal: i32) {
        self.at_signal += 1;
        self.set(tid, Motion::Stands(Next::Take(signal)));
    }

    fn group_stop(&mut self, pid: i32, tid: i32, signal: i32) {
        if tid == pid && self.tracees.get(&tid).is_some_and(|tracee| tracee.state == Motion::Running) {
            self.happened(Happening::Paused { pid, signal });
        }
        self.stand_or(tid, Next::Listen);
    }

    fn event(&mut self, pid: i32, tid: i32, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => self.started(tid),
            libc::PTRACE_EVENT_EXEC => {
                // The kernel takes no request by the number that the thread has now before the news is taken away
                // (`looks_like_a_spurious_pid` in kernel/ptrace.c).
                ptrace::collect(tid);
                // All other threads are gone, and the one that called execve has the first one's number now.
                self.tracees.retain(|other, tracee| tracee.pid != pid || *other == tid);
                self.happened(Happening::Executed { pid });
                let armed = self.armed.executed(pid);
                self.tell_if_unarmed(pid, armed);
                let process = self.processes.entry(pid).or_default();
                process.start = self.follows_starts.then(|| Start::of(pid));
                process.handed.clear();
                self.stand_or(tid, Next::Go);
            }
            libc::PTRACE_EVENT_EXIT => {
                let told = self.processes.get(&pid).is_none_or(|process| process.ending_told);
                if !told && self.is_ending(pid, tid) {
                    let process = self.processes.entry(pid).or_default();
                    process.ending_told = true;
                    process.at_end = true;
                    self.happened(Happening::Ending { pid });
                }
                self.stand_or(tid, Next::Leave);
            }
            _ => self.stand_or(tid, Next::Go),
        }
    }

    /// A tracee started a process or a thread.
    fn started(&mut self, tid: i32) {
        if let Some(new) = ptrace::event_number(tid)
            && !self.tracees.contains_key(&new)
        {
            self.adopt(new);
        }
        self.count_start();
        self.stand_or(tid, Next::Go);
    }

    fn count_start(&mut self) {
        if self.starts.is_too_high() {
            self.let_go = true;
            self.happened(Happening::LetGo(TooBusy::Starts(MOST_STARTS)));
        }
    }

    /// Whether all threads of the process end with `tid`, which stands at its own end: each other one does so too,
    /// or has the kernel's order to (`SIGKILL`, which `exit_group` and fatal signals send to all).
    fn is_ending(&self, pid: i32, tid: i32) -> bool {
        let others = self.tracees.iter().filter(|(other, tracee)| tracee.pid == pid && **other != tid);
        others.into_iter().all(|(other, tracee)| {
            let ends = matches!(tracee.state, Motion::Stands(Next::Leave) | Motion::Leaves);
            ends || is_told_to_end(pid, *other)
        })
    }

    fn ended(&mut self, pid: i32, tid: i32, outcome: Outcome) {
        ptrace::collect(tid);
        let unreported = self.armed.unreported_of_thread(tid);
        self.tell_unreported(pid, unreported);
        self.armed.ended(tid);
        if let Some(Tracee { state: Motion::Stands(Next::Take(_)), .. }) = self.tracees.remove(&tid) {
            self.at_signal -= 1;
        }
        if tid == pid {
            self.tracees.retain(|_, tracee| tracee.pid != pid);
            self.processes.remove(&pid);
            self.happened(Happening::Ended { pid, outcome });
        } else {
            self.happened(Happening::ThreadEnded { pid, tid });
        }
        self.count_start();
    }

    fn set(&mut self, tid: i32, state: Motion) {
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.state = state;
        }
    }

    fn set_place(&mut self, tid: i32, place: Place) {
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.place = place;
        }
    }

    /// A program that is starting is about to make a system call, or has made one.
    fn call(&mut self, pid: i32, tid: i32) {
        if let Some(entry) = ptrace::call_entry(tid)
            && let Some(process) = self.processes.get_mut(&pid)
            && let Some(start) = &mut process.start
        {
            let shown = start.call(entry);
            process.at_start = shown.is_new;
            if shown.is_over {
                process.start = None;
            }
            if shown.is_new {
                self.happened(Happening::Mapped { pid });
            }
            self.set_place(tid, Place::Entry);
        }
        self.stand_or(tid, Next::Go);
    }

    /// A new process that has a copy of its parent's memory gets what is to be handed on; it has not run yet.
    fn hand_on(&self, parent: i32, child: i32) {
        let handed = self.processes.get(&parent).map_or(&[][..], |parent| &parent.handed);
        if !handed.is_empty() && memory::is_copy(parent, child) {
            memory::write(child, handed);
        }
    }

    /// Lets a thread of a process that stands make the calls.
    fn run_errand(&mut self, pid: i32, errand: Errand) -> Result<(), ErrandError> {
        let stands = self.processes.get(&pid).is_some_and(Process::stands);
        let is_free = |tracee: &Tracee| {
            stands && tracee.pid == pid && tracee.place != Place::Between && tracee.state == Motion::Stands(Next::Go)
        };
        let mut free: Vec<i32> = self.tracees.iter().filter(|(_, it)| is_free(it)).map(|(tid, _)| *tid).collect();
        free.sort_unstable();
        let tid = free.first().copied().ok_or(ErrandError::NoThread)?;
        let enters = self.tracees.get(&tid).is_some_and(|tracee| tracee.place == Place::Entry);
        let ran = errand::run(tid, enters, errand);
        // From now on it goes on anywhere: no system call has begun.
        self.set_place(tid, Place::Free);
        if matches!(ran, Err(ErrandError::Signal | ErrandError::Ended)) {
            // What has come for it was left in place.
            self.set(tid, Motion::Running);
        }
        ran
    }

    /// Lets a tracee go on with a signal, as far as its process is to be followed.
    fn resume(&mut self, tid: i32, signal: i32) {
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        tracee.place = Place::Between;
        let starts = self.processes.get(&tracee.pid).is_some_and(|process| process.start.is_some());
        let _ = if starts { ptrace::go_on_to_call(tid, signal) } else { ptrace::go_on(tid, signal) };
    }

    /// Keeps a tracee standing if its process stands; else it goes on at once.
    fn stand_or(&mut self, tid: i32, next: Next) {
        let Some(tracee) = self.tracees.get_mut(&tid) else { return };
        tracee.state = Motion::Stands(next);
        if self.processes.get(&tracee.pid).is_some_and(Process::stands) {
            // Its report holds no signal: taking it away loses nothing, and lets others be seen.
            ptrace::collect(tid);
        } else {
            self.go_on(tid);
        }
    }

    /// Lets a tracee that stands go on. One that was killed while it stood can't go on; its end is reported.
    fn go_on(&mut self, tid: i32) {
        let Some(Motion::Stands(next)) = self.tracees.get(&tid).map(|tracee| tracee.state) else { return };
        let state = match next {
            Next::Listen => {
                let _ = ptrace::listen(tid);
                Motion::Listens
            }
            Next::Go | Next::Leave | Next::Take(_) => {
                self.resume(tid, if let Next::Take(signal) = next { signal } else { 0 });
                if next == Next::Leave { Motion::Leaves } else { Motion::Running }
            }
        };
        self.at_signal -= usize::from(matches!(next, Next::Take(_)));
        self.set(tid, state);
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::LetGo => self.let_go = true,
            Request::Release { pid } => self.release(pid, |process| process.looked_at = false),
            Request::LetEnd { pid } => self.release(pid, |process| process.at_end = false),
            Request::LetPass { pid } => {
                self.release(pid, |process| process.reached = process.reached.saturating_sub(1));
            }
            Request::WatchEntries => self.armed.at_entries(),
            Request::Watch { pid, watch } => {
                let unreported = self.armed.unreported(pid);
                self.tell_unreported(pid, unreported);
                let threads = self.threads_of(pid);
                let armed = self.armed.watch(pid, watch, &threads);
                self.tell_if_unarmed(pid, armed);
            }
            Request::LetHandle { pid } => self.release(pid, |process| process.at_fault = false),
            Request::Begin { pid } => self.release(pid, |process| process.at_start = false),
            Request::Run { pid, errand, answer } => {
                let _ = answer.send(self.run_errand(pid, errand));
            }
            Request::Hand { pid, bytes } => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.handed = bytes;
                }
            }
            Request::Stop { pid, arch, limit, answer } => {
                // Dropping `answer` says that there is no such process.
                let Some(process) = self.processes.get_mut(&pid) else { return };
                let since = Instant::now();
                process.looked_at = true;
                process.asked = Some(Asked { arch, since, deadline: since + limit, answer });
                for tid in self.threads_of(pid) {
                    let state = self.tracees.get(&tid).map(|tracee| tracee.state);
                    if matches!(state, Some(Motion::Running | Motion::Listens)) {
                        let _ = ptrace::interrupt(tid);
                    }
                }
            }
        }
    }

    /// Takes away a reason for a process to stand; with the last one it goes on.
    fn release(&mut self, pid: i32, take_away: impl Fn(&mut Process)) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        take_away(process);
        if process.stands() {
            return;
        }
        for tid in self.threads_of(pid) {
            self.go_on(tid);
        }
    }

    fn threads_of(&self, pid: i32) -> Vec<i32> {
        self.tracees.iter().filter(|(_, tracee)| tracee.pid == pid).map(|(tid, _)| *tid).collect()
    }

    /// Answers those who wait for processes that stand by now, or for which the time is up.
    fn finish_stops(&mut self) {
        let waiting: Vec<i32> =
            self.processes.iter().filter(|(_, process)| process.asked.is_some()).map(|(pid, _)| *pid).collect();
        for pid in waiting {
            let Some(asked) = self.processes.get_mut(&pid).and_then(|process| process.asked.take()) else { continue };
            if self.is_settled(pid, &asked) {
                let _ = asked.answer.send(self.held(pid, asked.arch));
            } else if let Some(process) = self.processes.get_mut(&pid) {
                process.asked = Some(asked);
            }
        }
    }

    fn is_settled(&self, pid: i32, asked: &Asked) -> bool {
        let now = Instant::now();
        let mut moving = self
            .tracees
            .iter()
            .filter(|(_, tracee)| tracee.pid == pid && matches!(tracee.state, Motion::Running | Motion::Listens));
        if now >= asked.deadline {
            return true;
        }
        let patient = now < asked.since + PATIENCE_WITH_SLEEP;
        moving.all(|(tid, _)| !patient && not_stopped(pid, *tid) == NotStopped::Uninterruptible)
    }

    fn held(&self, pid: i32, arch: &'static Arch) -> Held {
        let tids = self.threads_of(pid);
        let all_seen = procfs::thread_count(pid) == u64::try_from(tids.len()).ok();
        let mut threads: Vec<Thread> = tids.into_iter().map(|tid| self.thread(pid, tid, arch)).collect();
        threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
        Held { threads, all_seen }
    }

    fn thread(&self, pid: i32, tid: i32, arch: &'static Arch) -> Thread {
        let stands = self.tracees.get(&tid).is_some_and(|tracee| matches!(tracee.state, Motion::Stands(_)));
        let read =
            if stands { regset::read(tid, arch).map_err(|_| NotStopped::Ended) } else { Err(not_stopped(pid, tid)) };
        let name = procfs::thread_name(pid, tid);
        match read {
            Ok(read) => {
                Thread { tid, name, registers: Ok(read.registers), thread_pointer: read.thread_pointer, signal: None }
            }
            Err(reason) => Thread { tid, name, registers: Err(reason), thread_pointer: None, signal: None },
        }
    }
}
