//! Our own process: every stack of the program that this library is part of, shown from within.
//!
//! [`dump_self`] writes what `stackscope dump` would, without another process: each thread, each coroutine of
//! [`crate::switch`] with its name, and the backtraces stitched from a coroutine to whoever resumed it.
//! [`dump_on_signal`] does so when a signal arrives, as Go's runtime does on SIGQUIT.
//! Nothing here is called from a signal handler; what the handlers do is in `process`.
//!
//! ```
//! use stackscope::switch::{Coroutine, Yielder};
//!
//! let mut worker = Coroutine::new(|yielder: &Yielder<(), ()>, ()| yielder.suspend(()))?;
//! worker.set_name("worker");
//! let _ = worker.resume(());
//!
//! let mut text = Vec::new();
//! stackscope::dump_self_to(&mut text)?;
//! assert!(String::from_utf8(text)?.contains("\"worker\""));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::{self, Write};

use crate::image::names::Lines;
use crate::look::{Looker, Wish};
use crate::process::{FreezeError, Frozen, Requests};
use crate::report::style::Style;
use crate::report::text::{self, Listing};
use crate::snapshot::Snapshot;

/// Why a dump of our own process failed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The process can't be looked at.
    #[error(transparent)]
    Look(#[from] FreezeError),
    /// The text can't be written.
    #[error("writing the stacks: {0}")]
    Write(#[from] io::Error),
}

/// A snapshot of our own process at this moment. The calling thread's backtrace begins here.
///
/// The other threads are interrupted by a signal and stand still while the kernel copies the page tables: about as long
/// as a `fork` takes. Threads that block the signal are listed without frames.
///
/// # Errors
/// If the process can't be looked at.
pub fn snapshot_self() -> Result<Snapshot, FreezeError> {
    Frozen::with(|frozen| Looker::new().own(frozen, Wish::all(Lines::Cheap)))
}

/// Writes every stack of our own process to standard error.
///
/// # Errors
/// If the process can't be looked at, or standard error is closed.
pub fn dump_self() -> Result<(), DumpError> {
    dump_self_to(io::stderr())
}

/// Writes every stack of our own process to `out`, at once.
///
/// # Errors
/// As [`dump_self`].
pub fn dump_self_to(mut out: impl Write) -> Result<(), DumpError> {
    let snapshot = snapshot_self()?;
    let mut words = String::new();
    // A string takes all that is written to it.
    let _ = text::write(&mut words, &snapshot, &Listing::default(), Style::default());
    out.write_all(words.as_bytes())?;
    Ok(out.flush()?)
}

/// From now on, writes every stack of our own process to `out` whenever `signal` (its number) arrives; at most once for
/// several that arrive together.
///
/// The handler only wakes a thread, made here, that does the rest. If a dump fails, the reason is written instead.
///
/// # Errors
/// If the signal can't be handled, as SIGKILL, or the thread can't be made.
pub fn dump_on_signal(signal: i32, mut out: impl Write + Send + 'static) -> io::Result<()> {
    let mut requests = Requests::by_signal(signal)?;
    let dump = move || {
        loop {
            requests.wait();
            if let Err(error) = dump_self_to(&mut out) {
                // If not even that can be written, there is nowhere to report it.
                let _ = writeln!(out, "stackscope: {error}");
            }
        }
    };
    std::thread::Builder::new().name("stackscope-dump".into()).spawn(dump).map(drop)
}
