//! Which breakpoints the followed threads have, and which hits are worth a stop.
//!
//! A process has a [`CodeWatch`]; each of its threads gets the breakpoints of its *starts*. A thread that has reached a
//! start gets that of its *follow-ups* as well, until it reaches one. What a stop costs is bounded: above a rate, starts
//! only count, without stopping anybody.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use super::breakpoint::{self, Breakpoint};
use super::happening::Reached;
use super::rate::Rate;
use super::{ptrace, regset};
use crate::addr::Addr;
use crate::arch::X86_64;
use crate::process::auxv;
use crate::process::live::procfs;

/// How many hits of starts are reported at once, and in each second if they go on.
const MOST_AT_ONCE: u32 = 100;
const MOST_PER_SECOND: u32 = 4;
/// How long starts only count once there were too many.
const QUIET: Duration = Duration::from_secs(1);

/// Places in a process's code at which its threads stop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CodeWatch {
    /// Where each thread stops. A CPU has four breakpoints.
    pub starts: Vec<Addr>,
    /// Where a thread that has stopped at a start stops as well, once.
    pub follow_ups: Vec<Addr>,
}

/// What a signal at a breakpoint means.
#[derive(Debug)]
pub(super) enum Hit {
    /// It is to be reported; the thread stands until it is let go.
    Report(Reached),
    /// The thread goes on.
    Pass,
}

/// The breakpoints of all followed threads.
pub(super) struct Armed {
    watches: HashMap<i32, CodeWatch>,
    /// Whether each new program stops at its entry.
    at_entries: bool,
    threads: HashMap<i32, Breakpoints>,
    budget: Rate,
    /// Until when starts only count.
    quiet: Option<Instant>,
}

struct Breakpoints {
    pid: i32,
    starts: Vec<Counted>,
    follow_ups: Vec<Counted>,
}

struct Counted {
    breakpoint: Breakpoint,
    /// How many of its hits stopped the thread.
    stops: u64,
    /// How many of its hits were reported, or are known to be not.
    told: u64,
}

impl Armed {
    pub(super) fn new() -> Armed {
        let budget = Rate::new(MOST_PER_SECOND, MOST_AT_ONCE);
        Armed { watches: HashMap::new(), at_entries: false, threads: HashMap::new(), budget, quiet: None }
    }

    /// Has the threads of a process stop at these places, and no others.
    ///
    /// # Errors
    /// A thread can't have the breakpoints; all others have theirs.
    pub(super) fn watch(&mut self, pid: i32, watch: CodeWatch, threads: &[i32]) -> io::Result<()> {
        self.watches.insert(pid, watch);
        // Each thread is tried, whatever becomes of the others.
        threads.iter().map(|tid| self.arm(pid, *tid)).fold(Ok(()), Result::and)
    }

    /// Sets the breakpoints of a thread that belongs to a process.
    pub(super) fn arm(&mut self, pid: i32, tid: i32) -> io::Result<()> {
        let Some(watch) = self.watches.get(&pid) else { return Ok(()) };
        let loud = self.quiet.is_none();
        // The former ones make room first.
        self.threads.remove(&tid);
        let starts = watch.starts.iter().map(|at| Counted::set(tid, *at, loud)).collect::<io::Result<_>>()?;
        self.threads.insert(tid, Breakpoints { pid, starts, follow_ups: Vec::new() });
        Ok(())
    }

    /// A process has a child, whose code is the same.
    pub(super) fn forked(&mut self, parent: i32, child: i32) {
        if let Some(watch) = self.watches.get(&parent).cloned() {
            self.watches.insert(child, watch);
        }
    }

    /// From now on each new program stops at its entry.
    pub(super) fn at_entries(&mut self) {
        self.at_entries = true;
    }

    /// A process became another program, with one thread.
    ///
    /// # Errors
    /// As [`Armed::watch`].
    pub(super) fn executed(&mut self, pid: i32) -> io::Result<()> {
        self.watches.remove(&pid);
        self.threads.retain(|_, breakpoints| breakpoints.pid != pid);
        match entry(pid).filter(|_| self.at_entries) {
            Some(entry) => self.watch(pid, CodeWatch { starts: vec![entry], ..CodeWatch::default() }, &[pid]),
            None => Ok(()),
        }
    }

    /// The thread has ended.
    pub(super) fn ended(&mut self, tid: i32) {
        self.threads.remove(&tid);
        self.watches.remove(&tid);
    }

    /// What the signal that a thread stands at means; `None` if it is no breakpoint's, but the program's own.
    pub(super) fn hit(&mut self, pid: i32, tid: i32) -> Option<Hit> {
        let number = ptrace::descriptor(tid)?;
        let breakpoints = self.threads.get_mut(&tid)?;
        let is_hit = |counted: &&mut Counted| counted.breakpoint.number() == number;
        let start = breakpoints.starts.iter_mut().find(is_hit);
        let is_start = start.is_some();
        let counted = start.or_else(|| breakpoints.follow_ups.iter_mut().find(is_hit))?;
        let registers = regset::read(tid, &X86_64).ok()?.registers;
        let is_there = registers.addr(X86_64.pc) == Some(counted.breakpoint.at);
        // The program may have a descriptor of this number that sends the same signal; and a thread that blocked the
        // signal stops late, at another place.
        if !is_there && counted.breakpoint.count() <= counted.stops {
            return None;
        }
        counted.stops += 1;
        if !is_there || is_start && !self.is_affordable() {
            return Some(Hit::Pass);
        }
        let breakpoints = self.threads.get_mut(&tid)?;
        let at = registers.addr(X86_64.pc)?;
        if is_start {
            let reported = breakpoints.starts.iter_mut().find(|counted| counted.breakpoint.at == at);
            reported.into_iter().for_each(|counted| counted.told += 1);
            let follow_ups = self.watches.get(&pid).map_or(&[][..], |watch| &watch.follow_ups);
            // Without them, where it leads is worked out, and not seen.
            breakpoints.follow_ups = follow_ups.iter().filter_map(|at| Counted::set(tid, *at, true).ok()).collect();
        } else {
            breakpoints.follow_ups.clear();
        }
        Some(Hit::Report(Reached { pid, tid, at, registers: Box::new(registers) }))
    }

    /// Whether one more hit may be reported. If not, all starts only count for a while.
    fn is_affordable(&mut self) -> bool {
        if !self.budget.is_too_high() {
            return true;
        }
        self.quiet = Some(Instant::now() + QUIET);
        self.set_loud(false);
        false
    }

    /// Ends the time in which starts only count, if it is over.
    pub(super) fn tick(&mut self) {
        if self.quiet.is_some_and(|until| until <= Instant::now()) {
            self.quiet = None;
            self.set_loud(true);
        }
    }

    fn set_loud(&mut self, loud: bool) {
        for counted in self.threads.values_mut().flat_map(|breakpoints| &mut breakpoints.starts) {
            // It goes on as it was if the kernel refuses: more stops, or fewer reports, which are counted below.
            let _ = counted.breakpoint.stops(loud);
        }
    }

    /// How many hits of a process's starts were counted and not reported, since this was last asked.
    pub(super) fn unreported(&mut self, pid: i32) -> u64 {
        let of_process = self.threads.values_mut().filter(|breakpoints| breakpoints.pid == pid);
        of_process.flat_map(|breakpoints| &mut breakpoints.starts).map(Counted::unreported).sum()
    }

    /// The same for one thread.
    pub(super) fn unreported_of_thread(&mut self, tid: i32) -> u64 {
        let starts = self.threads.get_mut(&tid).into_iter().flat_map(|breakpoints| &mut breakpoints.starts);
        starts.map(Counted::unreported).sum()
    }
}

impl Counted {
    fn set(tid: i32, at: Addr, loud: bool) -> io::Result<Counted> {
        let breakpoint = Breakpoint::set(tid, at)?;
        breakpoint.stops(loud)?;
        Ok(Counted { breakpoint, stops: 0, told: 0 })
    }

    fn unreported(&mut self) -> u64 {
        let count = self.breakpoint.count();
        let unreported = count.saturating_sub(self.told);
        self.told = count;
        unreported
    }
}

/// Where a program begins, after its loader.
fn entry(pid: i32) -> Option<Addr> {
    auxv::value(&auxv::read(&procfs::directory(pid)), auxv::AT_ENTRY).map(Addr)
}

/// The number of the signal by which threads stop.
pub(super) const SIGNAL: i32 = breakpoint::SIGNAL;
