//! What is known of each thread and each process that is followed.

use std::sync::mpsc::Sender;
use std::time::Instant;

use super::hold::Held;
use super::start::Start;
use crate::addr::Addr;
use crate::arch::Arch;

/// A thread that we follow.
pub(super) struct Tracee {
    pub(super) pid: i32,
    pub(super) state: Motion,
    /// Whether it stands where it could make system calls for us.
    pub(super) place: Place,
}

/// Where a tracee stands, for an errand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the middle of something.
    Between,
    /// Where it may be sent elsewhere.
    Free,
    /// At the entry of a system call.
    Entry,
}

/// What a tracee does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Motion {
    Running,
    /// It stands, and goes on in this way.
    Stands(Next),
    /// In its group's stop; the kernel reports when that ends.
    Listens,
    /// It was let go on to its end.
    Leaves,
}

/// How a tracee that stands goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    /// With the signal that it stands at.
    Take(i32),
    /// In its group's stop.
    Listen,
    /// To its end.
    Leave,
}

impl Tracee {
    pub(super) fn new(pid: i32) -> Tracee {
        Tracee { pid, state: Motion::Running, place: Place::Between }
    }
}

/// A process that we follow.
#[derive(Default)]
pub(super) struct Process {
    /// Whether it stands because somebody asked for it.
    pub(super) looked_at: bool,
    /// Who waits for that.
    pub(super) asked: Option<Asked>,
    /// Whether it stands because it is about to end.
    pub(super) at_end: bool,
    /// How many of its threads stand at places that were reported.
    pub(super) reached: usize,
    /// Whether it stands at a signal that it handles.
    pub(super) at_fault: bool,
    /// Whether it stands because code of it is about to run for the first time.
    pub(super) at_start: bool,
    /// While its loader maps code.
    pub(super) start: Option<Start>,
    /// What its children get.
    pub(super) handed: Vec<(Addr, Vec<u8>)>,
    /// Whether its end was reported already.
    pub(super) ending_told: bool,
}

impl Process {
    /// Whether its threads are kept stopped.
    pub(super) fn stands(&self) -> bool {
        self.looked_at || self.at_end || self.at_fault || self.at_start || self.reached > 0
    }
}

/// Somebody waits for a process to stand.
pub(super) struct Asked {
    pub(super) arch: &'static Arch,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) answer: Sender<Held>,
}
