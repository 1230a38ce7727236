//! What is taken from a target at one moment; everything else is worked out from it while the target runs on.

use std::sync::Arc;
use std::time::Duration;

use super::running::threads::ThreadChain;
use super::sites::Sites;
use crate::arch::Arch;
use crate::image::Modules;
use crate::mapping::Mapping;
use crate::memory::{Memory, Slices};
use crate::process::{Pages, PagesUnknown, Process, Thread};
use crate::snapshot::{BlindSpot, Warning};

/// A target at one moment, but for its memory.
pub(crate) struct Survey {
    /// Which process it was.
    pub(crate) process: Process,
    /// Its CPU.
    pub(crate) arch: &'static Arch,
    /// How long it stood still for this.
    pub(crate) stopped: Duration,
    /// Its threads with their registers.
    pub(crate) threads: Vec<Thread>,
    /// Its map, sorted by address.
    pub(crate) mappings: Arc<[Mapping]>,
    /// The soft `RLIMIT_STACK` in bytes; `None` where it is unlimited or unknown.
    pub(crate) stack_limit: Option<u64>,
    /// Which pages of its whole memory hold something.
    pub(crate) pages: Result<Pages, PagesUnknown>,
    /// The images that its code comes from.
    pub(crate) modules: Modules,
    /// Where a suspended context can go on; empty where none is searched for.
    pub(crate) sites: Sites,
    /// Each thread's chain of frames.
    pub(crate) chains: Vec<ThreadChain>,
    /// What could not be read so far.
    pub(crate) warnings: Vec<Warning>,
    /// What is known not to be seen.
    pub(crate) blind_spots: Vec<BlindSpot>,
}

/// A target's memory, as it is wanted for different ends.
#[derive(Clone, Copy)]
pub(crate) struct Views<'v> {
    /// What is searched for contexts: what the program may write to, at the moment of the survey. `None` where nothing is.
    pub(crate) searched: Option<&'v Slices<'v>>,
    /// As much as is known of the memory at the moment of the survey.
    pub(crate) held: &'v (dyn Memory + Sync),
    /// All memory; of a program that runs on, as it is now.
    pub(crate) target: &'v (dyn Memory + Sync),
}
