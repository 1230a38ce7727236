//! A watch on a program that runs already, and that we did not launch.
//!
//! It is looked at from time to time and not followed in between: its signals, its new processes and how it ended are
//! not seen, nor are threads that come and go between two looks. In return nothing slows it down, and whatever happens
//! to us, it runs on: we are its tracer only during a look, and the kernel ends that with us.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::control::Control;
use super::run::{Input, Looked, News, Watch};
use super::{End, Watched};
use crate::image::Progress;
use crate::process::{self, LookError};
use crate::snapshot::Snapshot;

/// Why a process can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It can't be looked at.
    #[error(transparent)]
    Look(#[from] LookError),
    /// We would not learn of its end.
    #[error("cannot wait for the end of process {pid}")]
    Wait {
        /// The process.
        pid: i32,
        /// What the kernel says.
        source: std::io::Error,
    },
}

/// A process that is watched.
pub struct Attached {
    watch: Watch,
    inputs: Receiver<Input>,
    control: Control,
    first: Arc<Snapshot>,
}

impl Attached {
    /// Takes a first look at process `pid`, without names, which shows that it can be watched.
    ///
    /// # Errors
    /// It can't be looked at, or its end can't be waited for.
    pub fn open(pid: i32, interval: Duration) -> Result<Attached, AttachError> {
        let (sender, inputs) = mpsc::channel();
        let mut watch = Watch::new(pid, Vec::new(), interval, sender.clone());
        watch.launched = true;
        watch.exact_until = Some(Duration::ZERO);
        let first = watch.look_at_first()?;
        watch.command = first.process.command.clone();
        let ends = sender.clone();
        let told = move || {
            let _ = ends.send(Input::Vanished);
        };
        process::await_vanishing(pid, told).map_err(|source| AttachError::Wait { pid, source })?;
        Ok(Attached { watch, inputs, control: Control::new(sender), first })
    }

    /// The way to ask for something while [`Attached::watch`] runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// How far the naming of a look has come, which may take long the first time.
    pub fn progress(&self) -> Progress {
        self.watch.progress.clone()
    }

    /// The first look; its stacks are measured, and nothing is named.
    pub fn first(&self) -> Looked {
        self.watch.looked(Arc::clone(&self.first))
    }

    /// Watches until the program has ended or its `Control` leaves it, and reports what there is to see,
    /// from the second look on, to `tell`.
    pub fn watch(mut self, tell: &mut dyn FnMut(News)) -> Watched {
        let end: End = self.watch.watch_to_end(&self.inputs, tell);
        if end == End::Left && self.watch.looks == 1 {
            // The report needs names, however soon we leave.
            self.watch.round(&mut |_| {});
        }
        self.watch.finish(end)
    }
}
