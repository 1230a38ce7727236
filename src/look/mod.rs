//! One look at a target, put together: prepare, stop, survey, find, name.
//!
//! You give a live process, a core file or the moment of our own process; you get an owned [`Snapshot`](crate::snapshot::Snapshot).

mod own;
mod take;
pub(in crate::look) mod whole;

pub use own::of_frozen;
pub use take::{Kept, of_core, of_core_again, of_live, of_live_again};
pub use whole::{SaveError, Whole, of_core_whole, of_live_whole};
