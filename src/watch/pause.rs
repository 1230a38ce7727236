//! Stops processes for as long as somebody wants to look at them.
//!
//! They are held as a look holds them, by a thread for each: if we are killed, the kernel lets them go.

use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use log::debug;

use crate::process::Live;

/// How long the threads of a process may take to stop.
const LIMIT: Duration = Duration::from_secs(1);

/// Processes that stand still until this is dropped.
#[derive(Debug)]
pub(super) struct Pause {
    /// Nothing is ever sent: each thread waits for the end of its own.
    _held: Vec<Sender<()>>,
}

impl Pause {
    /// Stops these processes. When this returns they stand still, except those that can't be stopped.
    pub(super) fn of(processes: impl Iterator<Item = Live>) -> Pause {
        Pause { _held: processes.filter_map(hold).collect() }
    }
}

fn hold(live: Live) -> Option<Sender<()>> {
    let (held, released) = mpsc::channel::<()>();
    let (stands, stood) = mpsc::channel();
    let body = move || match live.stop(LIMIT) {
        Ok(_stopped) => {
            let _ = stands.send(());
            // Its other end is dropped when it may go on.
            let _ = released.recv();
        }
        Err(error) => debug!("process {} does not stand: {error}", live.process().pid),
    };
    thread::Builder::new().name("stackscope-pause".into()).spawn(body).ok()?;
    stood.recv().ok().map(|()| held)
}
