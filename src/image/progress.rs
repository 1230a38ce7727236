//! How far the naming of a look has come, for one who waits for it on another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many modules are read, of how many in which there is something to name. Clones tell of the same.
#[derive(Clone, Default, Debug)]
pub struct Progress(Arc<Counts>);

#[derive(Default, Debug)]
struct Counts {
    done: AtomicUsize,
    all: AtomicUsize,
}

impl Progress {
    /// So many modules are going to be read.
    pub(super) fn begin(&self, all: usize) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.all.store(all, Ordering::Relaxed);
    }

    /// One of them was.
    pub(super) fn step(&self) {
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }

    /// How many are read, and how many there are; 0 as long as that is not known.
    pub fn now(&self) -> (usize, usize) {
        (self.0.done.load(Ordering::Relaxed), self.0.all.load(Ordering::Relaxed))
    }
}
