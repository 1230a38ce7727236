//! Sees every stack of any native Linux program, without the program's help: threads, coroutines and fibers of any
//! library, running or suspended.
//!
//! - A [`Looker`] looks at a process or a core file, and a [`Wish`] says what you want to know. You get a [`Snapshot`]:
//!   each [`Stack`] with its frames, names, bounds, guard and peak, and who resumed it. A process is stopped for that,
//!   for milliseconds, and goes on as it was.
//! - [`dump_self`] and [`dump_on_signal`] show the stacks of the program that this library is
//!   part of.
//! - [`switch`] is for programs that switch stacks themselves: coroutines and more, which every debugger can see
//!   through.
//!
//! It is not for interpreters' own frames, not for profiles, and not for variables: it only reads, and shows native
//! frames.
//!
//! ```
//! use std::process::{Command, Stdio};
//!
//! use stackscope::{Lines, Live, Looker, Wish};
//!
//! let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
//!
//! let live = Live::open(child.id() as i32)?;
//! let snapshot = Looker::new().live(&live, Wish::all(Lines::Cheap))?;
//! for stack in &snapshot.stacks {
//!     println!("{:?}, {:?} of {:?} bytes", stack.state, stack.used(), stack.size());
//!     for frame in &stack.frames {
//!         let place = snapshot.place(frame.frame.pc);
//!         println!("  {:?} in {:?}", place.names.last(), place.module);
//!     }
//! }
//! assert!(!snapshot.stacks.is_empty());
//!
//! drop(child.stdin.take());
//! child.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! | feature | what it brings | what it needs |
//! |---|---|---|
//! | none | the switches of [`switch`] that need no operating system | `core` |
//! | `switch` | all of [`switch`] | `std`, `libc` |
//! | `inspect` | everything that looks at programs; Linux only | gimli, object and others |
//! | `cli`, `tui` | the command `stackscope`, and its screen | clap, ratatui |
//!
//! `docs/ARCHITECTURE.md` shows how it is built.

#![cfg_attr(not(feature = "switch"), no_std)]
// What the workshop's modules make public is only for the tests, benches and fuzz targets of this repository.
#![cfg_attr(not(feature = "workshop"), allow(dead_code, unreachable_pub, unused_imports))]

#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", not(windows))))]
pub mod switch;

#[cfg(all(feature = "cli", target_os = "linux"))]
#[doc(hidden)]
pub mod cli;

#[cfg(all(feature = "inspect", target_os = "linux"))]
mod addr;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod arch;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod debugger;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod events;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod filter;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod find;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod image;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod look;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod mapping;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod memory;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod own;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod probe;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod process;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod registers;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod report;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod share;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod sizes;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod snapshot;
#[cfg(all(feature = "tui", target_os = "linux"))]
mod tui;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod unwind;
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod watch;

#[cfg(all(feature = "inspect", target_os = "linux"))]
pub use front::*;

/// The library's front: all names that users may rely on, apart from [`switch`].
#[cfg(all(feature = "inspect", target_os = "linux"))]
mod front {
    pub use crate::addr::{Addr, AddrRange, Pc};
    pub use crate::filter::Filter;
    pub use crate::image::names::Lines;
    pub use crate::look::{Contexts, Held, Looker, Naming, SaveError, Whole, Wish};
    pub use crate::own::{DumpError, dump_on_signal, dump_self, dump_self_to, snapshot_self};
    pub use crate::process::{CacheFolder, Core, CoreFiles, FreezeError, Live, LookError, OpenError, StopError};
    pub use crate::report::json::write as write_json;
    pub use crate::report::text::{Listing, write as write_text};
    pub use crate::report::{GroupBy, style::Style};
    pub use crate::snapshot::{
        BlindSpot, BlindSpotKind, Bounds, BoundsFrom, Confidence, Guard, Kind, Level, Method, Peak, Place, Snapshot,
        Stack, StackFrame, State, ThreadEntry, Warning,
    };
    pub use crate::unwind::{Ended, FoundBy, Frame};
    pub use crate::watch::{Attached, Launched, Options, Watched};
}

/// The parts that the library is made of, only for the tests, benches and fuzz targets of this repository: nothing here
/// is stable.
#[cfg(all(feature = "workshop", feature = "inspect", target_os = "linux"))]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod workshop {
    pub mod addr {
        pub use crate::addr::*;
    }
    pub mod arch {
        pub use crate::arch::*;
    }
    #[cfg(feature = "cli")]
    pub mod debugger {
        pub use crate::debugger::*;
    }
    pub mod events {
        pub use crate::events::*;
    }
    pub mod filter {
        pub use crate::filter::*;
    }
    pub mod find {
        pub use crate::find::*;
    }
    pub mod image {
        pub use crate::image::*;
    }
    pub mod look {
        pub use crate::look::*;
    }
    pub mod mapping {
        pub use crate::mapping::*;
    }
    pub mod memory {
        pub use crate::memory::*;
    }
    pub mod probe {
        pub use crate::probe::*;
    }
    pub mod process {
        pub use crate::process::*;
    }
    pub mod registers {
        pub use crate::registers::*;
    }
    pub mod report {
        pub use crate::report::*;
    }
    pub mod sizes {
        pub use crate::sizes::*;
    }
    pub mod snapshot {
        pub use crate::snapshot::*;
    }
    #[cfg(feature = "tui")]
    pub mod tui {
        pub use crate::tui::*;
    }
    pub mod unwind {
        pub use crate::unwind::*;
    }
    pub mod watch {
        pub use crate::watch::*;
    }
}
