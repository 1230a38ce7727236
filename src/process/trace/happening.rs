//! What can happen to a program that is followed.

use std::time::Instant;

/// Something that happened to the program, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Happened {
    /// When we saw it.
    pub at: Instant,
    /// What it was.
    pub what: Happening,
}

/// What can happen to a followed program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// We follow no longer, since that would slow the program down too much. It runs on by itself.
    LetGo(TooBusy),
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
