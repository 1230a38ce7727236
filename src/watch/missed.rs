//! What a watch could not see. [`crate::report`] puts it into words.

use std::time::Duration;

use crate::process::TooBusy;
use crate::snapshot::Warning;

/// Something that a watch could not see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Missed {
    /// From some time on the program is not followed: its new processes, signals and short-lived threads are not seen.
    NotFollowed {
        /// Why.
        why: NotFollowed,
        /// From when on, counted from the start of the watch.
        since: Duration,
    },
    /// What is raised is not seen in some processes: their threads can't stop in their code. With `errno` of
    /// perf_event_open(2).
    Raises(i32),
    /// A look failed, for this reason.
    NoLook(String),
    /// A look did not see all.
    InLook(Warning),
}

/// Why a program is not followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFollowed {
    /// The kernel would withhold the rights that its file has (execve(2), set-user-ID).
    WouldLoseRights,
    /// Following would slow it down.
    TooBusy(TooBusy),
}
