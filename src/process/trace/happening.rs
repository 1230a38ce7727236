//! What can happen to a program that is followed.

use std::time::Instant;

use crate::addr::Addr;
use crate::process::Fault;
use crate::registers::Registers;

/// Something that happened to the program, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happened {
    /// When we saw it.
    pub at: Instant,
    /// What it was.
    pub what: Happening,
}

/// What can happen to a followed program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    /// A process has a new child.
    Forked {
        /// The process.
        parent: i32,
        /// Its child, which is followed as well.
        child: i32,
    },
    /// A process became another program, with new memory and one thread.
    Executed {
        /// The process.
        pid: i32,
    },
    /// A program that is starting has mapped code that has not run yet. The process stands until
    /// [`Tracees::begin`](super::Tracees::begin).
    Mapped {
        /// The process.
        pid: i32,
    },
    /// A process has a new thread.
    ThreadStarted {
        /// The process.
        pid: i32,
        /// Its thread.
        tid: i32,
    },
    /// A thread has ended, and its process lives on.
    ThreadEnded {
        /// The process.
        pid: i32,
        /// Its thread.
        tid: i32,
    },
    /// A signal was passed on.
    Signal(Signalled),
    /// A signal that the kernel raised for what a thread did, and that the process handles, is about to be passed on. The
    /// process stands until [`Tracees::let_handle`](super::Tracees::let_handle).
    Fault(Signalled),
    /// A signal that will end the process is about to be passed on. The process stands until [`Tracees::release`](super::Tracees::release).
    Fatal(Signalled),
    /// All threads of a process are about to end. Its memory is still there, and it stands until [`Tracees::release`](super::Tracees::release).
    Ending {
        /// The process.
        pid: i32,
    },
    /// A process was stopped by a signal, as `SIGSTOP` and the terminal's suspend key do.
    Paused {
        /// The process.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// A process has ended.
    Ended {
        /// The process.
        pid: i32,
        /// How.
        outcome: Outcome,
    },
    /// A thread has reached a place in its code, and its process stands until [`Tracees::let_pass`](super::Tracees::let_pass). For a new program that
    /// is its entry: what it is linked with is mapped then.
    Reached(Reached),
    /// Threads of a process can't stop at places in their code.
    Unarmed {
        /// The process.
        pid: i32,
        /// `errno` of perf_event_open(2).
        error: i32,
    },
    /// Threads of a process have reached such places more often than was reported.
    Unreported {
        /// The process.
        pid: i32,
        /// How much more often since this was last said.
        count: u64,
    },
    /// We follow no longer, since that would slow the program down too much. It runs on by itself.
    LetGo(TooBusy),
}

/// A thread at a place where it was to stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// The address of the instruction that it runs next.
    pub at: Addr,
    /// Its registers.
    pub registers: Box<Registers>,
}

/// A signal on its way to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signalled {
    /// The process.
    pub pid: i32,
    /// The thread that takes it.
    pub tid: i32,
    /// Its number.
    pub signal: i32,
    /// The process that sent it; `None` where the kernel did.
    pub from: Option<i32>,
    /// What the kernel says of it; `None` if it can't be read.
    pub raised: Option<Fault>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal.
    Killed {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
}

/// What there was too much of to go on following.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooBusy {
    /// More signals in a second than this.
    Signals(u32),
    /// Far more processes and threads started and ended in a second than this.
    Starts(u32),
}
