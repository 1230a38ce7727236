//! Stops all threads of a process, and lets them go again, on a thread of its own.
//!
//! The kernel ties tracees to the thread that seized them, and lets them all go when that thread ends, however it ends.
//! A thread made for one stop therefore ensures three things that no care on the caller's thread could:
//! a tracee in uninterruptible sleep, which no request can detach, is certain to be let go;
//! a stop may be used from, and dropped on, any thread; and while the kernel blocks a seize because the target is in
//! the middle of an `execve`, the caller can collect the ended threads that the `execve` waits for.
//!
//! Words: *seized* – we are its tracer, it runs on; *settled* – stopped, ended, or given up on.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::hold::{Held, Hold};
use super::ptrace::{self, News};
use super::regset;
use crate::arch::Arch;
use crate::process::error::{self, StopError};
use crate::process::live::{self, procfs};
use crate::process::{NotStopped, Thread};

/// How often the list of threads is read before the first one is stopped. A program that keeps starting threads is
/// caught while it stands: what is stopped starts none.
const ROUNDS_BEFORE_STOP: usize = 4;

/// How many refused seizes a stop tolerates. In an `execve` of another thread, the kernel refuses the first thread
/// because it has ended, and a moment later the other one lives under its number.
const REFUSALS: usize = 256;

/// How long all others stand while we wait for threads in uninterruptible sleep. Most such sleeps wait for a disk.
const SLEEPERS_WAITED_FOR: Duration = Duration::from_millis(50);

/// How long the caller waits between two looks for ended threads that hold up an `execve`.
const COLLECT_EVERY: Duration = Duration::from_millis(20);

/// The tracer's mark while it is not seizing a thread.
const NOT_SEIZING: usize = 0;

/// How much longer than the stop's limit the caller waits for the tracer before it lets the tracer finish by itself.
const GRACE: Duration = Duration::from_secs(1);

/// A process whose threads stand still until this is dropped.
pub(super) struct Tracer {
    /// Dropping it tells the tracer to let go.
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<Duration>>,
}

/// Stops every thread of `pid`, waiting at most `limit` for the last one.
pub(super) fn stop(pid: i32, arch: &'static Arch, limit: Duration) -> Result<(Tracer, Held), StopError> {
    let (report, reported) = mpsc::channel();
    let (hold, held) = mpsc::channel();
    let seizing = Arc::new(AtomicUsize::new(NOT_SEIZING));
    let stop = Stop::new(pid, seizing.clone());
    let body = move || trace(stop, arch, limit, &report, &held);
    let thread = thread::Builder::new()
        .name("stackscope-stop".into())
        .stack_size(256 << 10)
        .spawn(body)
        .map_err(StopError::NoTracerThread)?;
    let outcome = await_report(pid, &reported, limit + GRACE, &seizing)?;
    Ok((Tracer { hold: Some(hold), thread: Some(thread) }, outcome?))
}

impl Hold for Tracer {
    fn let_go(&mut self) -> Duration {
        drop(self.hold.take());
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Waits for the tracer's report. In an `execve` of the target, the kernel makes a seize wait for the `execve`, and the
/// `execve` wait for its ended threads to be collected by their tracer: so they are collected from here.
///
/// To look for them takes as long as to stop them, and the stop needs the processors: so it is done only if a seize
/// lasts.
fn await_report(
    pid: i32,
    reported: &Receiver<Result<Held, StopError>>,
    limit: Duration,
    seizing: &AtomicUsize,
) -> Result<Result<Held, StopError>, StopError> {
    let deadline = Instant::now() + limit;
    let mut earlier = NOT_SEIZING;
    loop {
        match reported.recv_timeout(COLLECT_EVERY) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Disconnected) => return Err(StopError::TracerDied { pid }),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                return Err(StopError::Blocked { pid, limit });
            }
            Err(RecvTimeoutError::Timeout) => {
                let seize = seizing.load(Ordering::Relaxed);
                if seize != NOT_SEIZING && seize == earlier {
                    collect_ended(pid);
                }
                earlier = seize;
            }
        }
    }
}

fn collect_ended(pid: i32) {
    for tid in procfs::threads(pid).unwrap_or_default().into_iter().filter(|tid| *tid != pid) {
        if procfs::stat(&procfs::thread_directory(pid, tid)).is_some_and(|stat| stat.has_ended()) {
            ptrace::collect_end(tid);
        }
    }
}

/// The tracer thread's life: stop, report, wait for the order to let go, let go.
fn trace(
    mut stop: Stop,
    arch: &'static Arch,
    limit: Duration,
    report: &Sender<Result<Held, StopError>>,
    held: &Receiver<()>,
) -> Duration {
    // Signals for our process are for its other threads to handle.
    let _ = nix::sys::signal::SigSet::all().thread_block();
    let outcome = stop.run(limit).map(|all_seen| Held { threads: stop.threads(arch), all_seen });
    let stopped = outcome.is_ok();
    // If nobody waits for the report any more, or it is an error, there is nothing to wait for here either.
    if report.send(outcome).is_ok() && stopped {
        let _ = held.recv();
    }
    stop.release()
}

/// One stop in the making.
struct Stop {
    pid: i32,
    tracees: Vec<Tracee>,
    known: HashSet<i32>,
    /// How often a seize was refused.
    refusals: usize,
    /// When the first thread was asked to stop.
    began: Instant,
    /// The number of the seize that is under way, which others may read; [`NOT_SEIZING`] if none is.
    seizing: Arc<AtomicUsize>,
    /// How many seizes there were.
    seizes: usize,
}

struct Tracee {
    tid: i32,
    name: Option<String>,
    state: Progress,
}

impl Tracee {
    fn is_over(&self) -> bool {
        matches!(self.state, Progress::Gone | Progress::Not(NotStopped::Ended))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Seized, and not known to be in any other state.
    Running,
    /// Standing still, with this signal on its way (0: none).
    Stopped { signal: i32 },
    /// Not to be stopped: it never was a tracee, or did not stop in time.
    Not(NotStopped),
    /// It has ended and vanished.
    Gone,
}

impl Stop {
    fn new(pid: i32, seizing: Arc<AtomicUsize>) -> Stop {
        let (tracees, known) = (Vec::new(), HashSet::new());
        Stop { pid, tracees, known, refusals: 0, began: Instant::now(), seizing, seizes: 0 }
    }

    /// Stops every thread; returns whether it is certain that none was missed.
    fn run(&mut self, limit: Duration) -> Result<bool, StopError> {
        for _ in 0..ROUNDS_BEFORE_STOP {
            if self.seize_new()? == 0 {
                break;
            }
        }
        self.began = Instant::now();
        let deadline = self.began + limit;
        let mut asked = 0;
        let mut fruitless = 0;
        loop {
            self.interrupt(asked);
            if self.settle(asked..self.tracees.len(), deadline) {
                self.recheck_leader(deadline);
            }
            if self.all_seen() && self.holds_any() {
                return Ok(true);
            }
            self.forget_replaced_leader();
            asked = self.tracees.len();
            // Threads that are just ending are counted and not listed; they need a moment.
            let refusals = self.refusals;
            let is_fruitless = self.seize_new()? == 0 && self.refusals == refusals;
            fruitless = if is_fruitless { fruitless + 1 } else { 0 };
            let settled = fruitless >= 8 && self.holds_any();
            if settled || Instant::now() >= deadline || self.has_ended() {
                break;
            }
            thread::yield_now();
        }
        match self.holds_any() {
            true => Ok(self.all_seen() || fruitless >= 8),
            false => Err(StopError::Ended { pid: self.pid }),
        }
    }

    /// Whether the process has ended. While a thread takes the first one's number, a single look finds none alive.
    fn has_ended(&self) -> bool {
        (0..4).all(|_| live::living_thread(self.pid).is_none())
    }

    /// Whether there is a thread that stands, or that did not stop in time.
    fn holds_any(&self) -> bool {
        self.tracees.iter().any(|tracee| !tracee.is_over())
    }

    /// Seizes the threads that are not known yet; returns their number.
    fn seize_new(&mut self) -> Result<usize, StopError> {
        let before = self.tracees.len();
        // In the middle of an `execve` there may be no list for a moment.
        let new = procfs::threads(self.pid).unwrap_or_default().into_iter().filter(|tid| self.known.insert(*tid));
        // Names are read first: a thread that is seized stands still from its next signal on, until it is looked at.
        let named: Vec<_> = new.map(|tid| (tid, procfs::thread_name(self.pid, tid))).collect();
        for (tid, name) in named {
            if let Some(state) = self.seize(tid)? {
                self.tracees.push(Tracee { tid, name, state });
            }
        }
        Ok(self.tracees.len() - before)
    }

    /// Seizes one thread; `None` where it ended before we came, or is to be tried again.
    fn seize(&mut self, tid: i32) -> Result<Option<Progress>, StopError> {
        self.seizes += 1;
        self.seizing.store(self.seizes, Ordering::Relaxed);
        let seized = ptrace::seize(tid);
        self.seizing.store(NOT_SEIZING, Ordering::Relaxed);
        let Err(refused) = seized else { return Ok(Some(Progress::Running)) };
        let directory = procfs::thread_directory(self.pid, tid);
        let ended = procfs::stat(&directory).is_none_or(|stat| stat.has_ended());
        if refused.raw_os_error() == Some(libc::ESRCH) || ended {
            // The first thread stays listed for as long as any other lives.
            return Ok((tid == self.pid).then_some(Progress::Not(NotStopped::Ended)));
        }
        // Seized under another number, which it had before its `execve`.
        if is_ours(&directory) {
            return Ok(Some(Progress::Running));
        }
        self.refusals += 1;
        if self.refusals > REFUSALS || error::tracer(&directory).is_some() {
            return Err(StopError::of_refused_thread(self.pid, tid, &directory));
        }
        self.known.remove(&tid);
        thread::yield_now();
        Ok(None)
    }

    /// Asks the tracees from index `from` on to stop.
    fn interrupt(&mut self, from: usize) {
        for tracee in &mut self.tracees[from..] {
            // A request that fails is for a thread that has ended; settling sees that.
            if tracee.state == Progress::Running {
                let _ = ptrace::interrupt(tracee.tid);
            }
        }
    }

    /// Waits until each of these tracees stands still, has ended, or the time is up; returns whether any thread
    /// vanished.
    ///
    /// All are looked at in turn: one in an `execve` stops only once the end of all others is collected.
    fn settle(&mut self, indices: Range<usize>, deadline: Instant) -> bool {
        let before = self.count_gone();
        let mut patience = Patience::default();
        let mut running: Vec<usize> = indices.collect();
        loop {
            running.retain(|index| {
                self.look(*index, patience.is_long());
                self.tracees[*index].state == Progress::Running
            });
            if running.is_empty() || !patience.wait(deadline) {
                break;
            }
            if patience.is_long() {
                self.collect_killed();
            }
        }
        for index in running {
            self.give_up(index);
        }
        self.count_gone() > before
    }

    fn count_gone(&self) -> usize {
        self.tracees.iter().filter(|tracee| tracee.state == Progress::Gone).count()
    }

    /// Collects the end of threads that were killed after they had stopped.
    fn collect_killed(&mut self) {
        for tracee in &mut self.tracees {
            let stood = matches!(tracee.state, Progress::Stopped { .. });
            if stood && tracee.tid != self.pid && ptrace::news(tracee.tid) == News::Gone {
                ptrace::collect_end(tracee.tid);
                tracee.state = Progress::Gone;
            }
        }
    }

    /// Brings a tracee's state up to date. One that has not stopped for long may be hopeless.
    fn look(&mut self, index: usize, is_late: bool) {
        let Tracee { tid, state: Progress::Running, .. } = self.tracees[index] else { return };
        self.tracees[index].state = match ptrace::news(tid) {
            News::None if is_late => self.hopeless(tid).unwrap_or(Progress::Running),
            News::None => Progress::Running,
            News::Stopped { signal } => Progress::Stopped { signal },
            News::Gone => {
                if tid != self.pid {
                    ptrace::collect_end(tid);
                }
                Progress::Gone
            }
        };
    }

    /// What a thread is, if it is not worth waiting for any longer.
    fn hopeless(&self, tid: i32) -> Option<Progress> {
        let directory = procfs::thread_directory(self.pid, tid);
        match procfs::stat(&directory) {
            // A first thread that has ended gives no news before the last thread has.
            None if tid == self.pid => Some(Progress::Not(NotStopped::Ended)),
            Some(stat) if tid == self.pid && stat.has_ended() => Some(Progress::Not(NotStopped::Ended)),
            // Another one has its number now. Where the process is our child, we have news of it all the same.
            Some(_) if tid == self.pid && !is_ours(&directory) => Some(Progress::Gone),
            Some(stat) if stat.state == b'D' && self.began.elapsed() > SLEEPERS_WAITED_FOR => {
                Some(Progress::Not(NotStopped::Uninterruptible))
            }
            _ => None,
        }
    }

    /// An `execve` of another thread ends all threads but that one, which from then on has the first thread's number:
    /// if a thread has ended, what was seen of the first one may be of another.
    fn recheck_leader(&mut self, deadline: Instant) {
        let Some(index) = self.tracees.iter().position(|tracee| tracee.tid == self.pid) else { return };
        if !is_ours(&procfs::directory(self.pid)) {
            return;
        }
        if ptrace::news(self.pid) == News::None {
            let _ = ptrace::interrupt(self.pid);
        }
        self.tracees[index].state = Progress::Running;
        self.settle(index..index + 1, deadline);
    }

    /// Forgets a first thread if another one, which is no tracee yet, has taken its number.
    fn forget_replaced_leader(&mut self) {
        let Some(index) = self.tracees.iter().position(|tracee| tracee.tid == self.pid) else { return };
        let directory = procfs::directory(self.pid);
        let lives = procfs::stat(&directory).is_some_and(|stat| !stat.has_ended());
        if lives && (self.tracees[index].is_over() || !is_ours(&directory)) {
            self.tracees.remove(index);
            self.known.remove(&self.pid);
        }
    }

    fn give_up(&mut self, index: usize) {
        let tracee = &mut self.tracees[index];
        let stat = procfs::stat(&procfs::thread_directory(self.pid, tracee.tid));
        tracee.state = Progress::Not(match stat {
            Some(stat) if stat.state == b'D' => NotStopped::Uninterruptible,
            Some(stat) if stat.has_ended() => NotStopped::Ended,
            _ => NotStopped::TimedOut,
        });
    }

    /// What stands still neither ends nor starts threads: if the kernel counts as many threads as we know, there are no
    /// others.
    fn all_seen(&self) -> bool {
        let ours = self.tracees.iter().filter(|tracee| tracee.state != Progress::Gone).count();
        procfs::thread_count(self.pid) == Some(ours as u64)
    }

    /// The threads with their registers.
    fn threads(&self, arch: &'static Arch) -> Vec<Thread> {
        let mut threads: Vec<Thread> = self.tracees.iter().filter_map(|tracee| row(tracee, arch)).collect();
        threads.sort_by_key(|thread| (thread.tid != self.pid, thread.tid));
        threads
    }

    /// Lets all threads go. The end of this thread lets go what could not be stopped.
    fn release(self) -> Duration {
        for tracee in &self.tracees {
            if let Progress::Stopped { signal } = tracee.state {
                // A request that fails is for a thread that was killed in its stop; the end of this thread collects it.
                let _ = ptrace::detach(tracee.tid, signal);
            }
        }
        self.began.elapsed()
    }
}

/// Whether this thread traces the process or thread of this `/proc` directory.
fn is_ours(directory: &Path) -> bool {
    error::tracer(directory) == Some(nix::unistd::gettid().as_raw())
}

fn row(tracee: &Tracee, arch: &'static Arch) -> Option<Thread> {
    let mut thread_pointer = None;
    let registers = match tracee.state {
        Progress::Stopped { .. } => match regset::read(tracee.tid, arch) {
            Ok(read) => {
                thread_pointer = read.thread_pointer;
                Ok(read.registers)
            }
            // Killed in its stop.
            Err(_) => return None,
        },
        Progress::Not(reason) => Err(reason),
        Progress::Running | Progress::Gone => return None,
    };
    Some(Thread { tid: tracee.tid, name: tracee.name.clone(), registers, thread_pointer, signal: None })
}

/// Waits a little longer each time: threads stop within microseconds as a rule, and some take long.
#[derive(Default)]
struct Patience {
    looks: u32,
}

impl Patience {
    /// How often it only lets others run before it sleeps.
    const YIELDS: u32 = 64;

    /// Waits; `false` if the time is up.
    fn wait(&mut self, deadline: Instant) -> bool {
        self.looks += 1;
        if !self.is_long() {
            thread::yield_now();
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = Duration::from_micros(20 << (self.looks - Self::YIELDS).min(6));
        // Nobody unparks this thread, so this is a wait for the time alone.
        thread::park_timeout(pause.min(left));
        !left.is_zero()
    }

    fn is_long(&self) -> bool {
        self.looks > Self::YIELDS
    }
}
