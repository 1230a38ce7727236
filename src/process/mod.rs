//! The target: a live process, a core file, or our own process, seen through one small trait.
//!
//! This is the only layer that talks to the operating system about a target. Above it nothing knows which kind it has.

mod at_rest;
mod auxv;
mod cache;
mod core;
mod error;
mod fault;
mod files;
mod header;
mod launch;
mod live;
mod mapped;
mod own;
mod pages;
mod trace;

use crate::arch::Arch;
use crate::mapping::Mapping;
use crate::memory::Memory;
use crate::registers::Registers;

pub use self::core::{Core, CoreContent, CoreFiles, CoreThread, CoreWarning, FIRST_MADE_UP_TID, write_core};
pub use at_rest::{AtRest, AtRestError};
pub use cache::CacheFolder;
pub use error::{LookError, OpenError, StopError};
pub use fault::Fault;
pub use launch::{
    Inherited, LaunchError, Launched, Pty, TerminalSize, await_end, gains_rights, launch, launch_on_terminal,
};
pub use live::memory::set_length;
pub use live::{Facts, Kept, Live, Overlay, PageScan, Refusal, RemoteMemory, TouchedCopy, program, signal_frame};
pub use mapped::{MappedBytes, shrunken_files};
pub use own::{FreezeError, Frozen, Requests, This};
pub use pages::{PageRun, PageState, Pages};
pub use trace::errand::open_of;
pub use trace::{
    Argument, Call, CodeWatch, Ends, Errand, ErrandError, Happened, Happening, Inbox, KnownMap, Outcome, Reached,
    Received, Released, Signalled, Stopped, TooBusy, Tracees, await_vanishing, pass_on, stop_ourselves, try_breakpoint,
};

/// A target that stands still: a process whose threads are stopped, a core file, or ourselves.
///
/// You get its memory, its threads with their registers, and its map; everything else is worked out from these.
pub trait Target: Memory {
    /// The CPU that the program is made for.
    fn arch(&self) -> &'static Arch;

    /// Which process it is.
    fn process(&self) -> &Process;

    /// Its threads, the first (thread group leader) first, then by number.
    fn threads(&self) -> &[Thread];

    /// Its memory map, sorted by address.
    fn mappings(&self) -> &[Mapping];

    /// Which pages of `range` hold something, sorted by address; an error if this target does not know.
    fn pages(&self, range: crate::addr::AddrRange) -> Result<Pages, PagesUnknown>;
}

/// Which process a target is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number in our pid namespace; in a core file the number it had.
    pub pid: i32,
    /// The words of its command line; empty if it can't be read.
    pub command: Vec<String>,
    /// Where we look at it.
    pub source: Source,
}

/// Where a process is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Running, and stopped for the moment.
    Live,
    /// In a core file.
    Core,
    /// It is ourselves.
    This,
}

/// One thread of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    /// The kernel's number for it.
    pub tid: i32,
    /// Its name (`/proc/PID/task/TID/comm`); a core file does not keep one.
    pub name: Option<String>,
    /// Its registers, or the reason why it could not be stopped.
    pub registers: Result<Registers, NotStopped>,
    /// The thread pointer (`fs` base on x86_64, `TPIDR_EL0` on aarch64), if it is known.
    pub thread_pointer: Option<u64>,
    /// The signal that a core file says ended the process in this thread.
    pub signal: Option<i32>,
}

/// Why a thread has no registers to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotStopped {
    /// It sits in a system call that nothing interrupts.
    #[error("it is in uninterruptible sleep (state D) and did not stop in time")]
    Uninterruptible,
    /// It did not stop in time, and the kernel does not say why.
    #[error("it did not stop in time")]
    TimedOut,
    /// It has ended, and the process lives on in its other threads.
    #[error("it has ended")]
    Ended,
    /// It belongs to our own process, and blocks the signal by which its registers are asked for.
    #[error("it blocks the signal by which a process asks its own threads for their registers")]
    SignalBlocked,
    /// It belongs to our own process, which looks at itself while it runs.
    #[error("it runs: a process that looks at itself does not stop its other threads")]
    Ourselves,
}

/// It is not known which of this target's pages hold something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this target does not tell which of its pages are in use")]
pub struct PagesUnknown;
