//! Watches every stack that a program uses: one that is launched, until it ends, or one that runs already.
//!
//! From a command line ([`run()`], [`Launched`]) or a process ([`Attached`]) comes a [`Watched`]: how the watch ended,
//! what the program's stacks needed, and what happened. The program keeps its streams and its terminal, and it gets the
//! signals that it would get without us. Nothing here prints.
//!
//! Words: a *look* is one snapshot of one process; a process is looked at each *period*, and once more before it ends.

mod attach;
mod control;
mod deaths;
mod events;
mod fleeting;
mod launched;
mod missed;
mod pace;
mod pause;
mod raises;
mod relay;
mod run;
mod switches;
mod usage;

use std::time::Duration;

use crate::probe::Switches;
use crate::process::{LaunchError, Outcome, StopError};

pub use attach::{AttachError, Attached};
pub use control::Control;
pub use events::{Event, EventKind, Events, Reason, Sight, signal_name};
pub use fleeting::Fleeting;
pub use launched::{Launched, Options, run};
pub use missed::{Missed, NotFollowed};
pub use run::{Looked, News};
pub use usage::{Coroutine, Deep, Group, Peaks, Usage};

/// What was seen of a program while it was watched.
#[derive(Debug)]
pub struct Watched {
    /// Its command line.
    pub command: Vec<String>,
    /// The number of its process.
    pub pid: i32,
    /// What ended the watch.
    pub end: End,
    /// How long it was watched.
    pub duration: Duration,
    /// How many looks there were.
    pub looks: usize,
    /// The average time between two looks; `None` if there were fewer than two.
    pub period: Option<Duration>,
    /// How long its processes stood still for all looks together.
    pub stopped: Duration,
    /// From when on not all forks, threads and fatal signals were seen; `None` if all were.
    pub exact_until: Option<Duration>,
    /// What its stacks needed.
    pub usage: Usage,
    /// What happened.
    pub events: Events,
    /// How often something was raised that was only counted, and is no event: there was too much of it.
    pub raises_counted: u64,
    /// What could not be seen.
    pub missed: Vec<Missed>,
    /// The switches that were noted; `None` if the program was not to be probed.
    pub switches: Option<Switches>,
}

impl Watched {
    /// The time between two looks, or the whole time of the watch if there were not two.
    pub fn longest_unseen(&self) -> Duration {
        self.period.unwrap_or(self.duration)
    }
}

/// What ended a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The program ended.
    Ended(Outcome),
    /// The program ended, and we do not know how: it was not our child.
    Vanished,
    /// We were asked to leave; the program runs on.
    Left,
}

/// Why a program could not be watched. It was not started then.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program can't be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It can't be followed.
    #[error("cannot follow the program")]
    Follow(#[source] StopError),
    /// Our own signals or threads can't be set up.
    #[error("cannot get ready to watch")]
    Prepare(#[from] std::io::Error),
}

impl RunError {
    /// What the user can do about it, if that is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            RunError::Follow(StopError::NoPermission { why, .. }) => Some(why.remedy_at_launch()),
            RunError::Follow(_) | RunError::Launch(_) | RunError::Prepare(_) => None,
        }
    }
}
