//! A process that was looked at and still stands still.

use crate::addr::Addr;
use crate::mapping::Mapping;
use crate::memory::{Memory, Unreadable};
use crate::process::{Released, Stopped, Target, Thread};
use crate::registers::Registers;
use crate::snapshot::Snapshot;

/// A process that stands still for as long as this lives, with what a look showed of it: for a debugger, or an event.
#[derive(Debug)]
pub struct Held<'l> {
    /// What the look showed; its stacks have their registers.
    pub snapshot: Snapshot,
    stopped: Stopped<'l>,
}

impl<'l> Held<'l> {
    pub(super) fn new(snapshot: Snapshot, stopped: Stopped<'l>) -> Held<'l> {
        Held { snapshot, stopped }
    }

    /// The registers with which execution continues on a stack, by the stack's id; `None` if there is no context on it.
    pub fn registers(&self, stack: usize) -> Option<&Registers> {
        self.snapshot.stacks.get(stack)?.registers.as_deref()
    }

    /// Its threads, the first one first.
    pub(crate) fn threads(&self) -> &[Thread] {
        self.stopped.threads()
    }

    /// Its memory map.
    pub(crate) fn mappings(&self) -> &[Mapping] {
        self.stopped.mappings()
    }

    /// Lets the process go on.
    pub fn release(self) -> (Snapshot, Released) {
        (self.snapshot, self.stopped.release())
    }
}

impl Memory for Held<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.stopped.read(at, into)
    }
}
