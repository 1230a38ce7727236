//! What a stop is: threads that are held, and what holds them.

use std::time::Duration;

use super::errand::{Errand, ErrandError};
use crate::process::Thread;

/// What keeps a process's threads where they are. Dropping it lets them go on.
pub(super) trait Hold {
    /// Lets them go on; returns the time that the first one stood.
    fn let_go(&mut self) -> Duration;

    /// Has one of the threads make system calls.
    fn run(&self, _errand: Errand) -> Result<(), ErrandError> {
        Err(ErrandError::NoThread)
    }
}

/// What was stopped.
pub(super) struct Held {
    /// The threads, the first of the process first, then by number.
    pub threads: Vec<Thread>,
    /// Whether it is certain that no thread runs unseen.
    pub all_seen: bool,
}
