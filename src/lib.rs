//! Sees every stack of any native Linux program, without the program's help.
//!
//! `docs/ARCHITECTURE.md` shows the layers: a module uses only those to its left there.
//! `switch` builds on Unix and Windows; everything that inspects is Linux only and needs the feature `std`.

#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(all(feature = "std", target_os = "linux"))]
pub mod addr;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod arch;
#[cfg(all(feature = "cli", target_os = "linux"))]
pub mod cli;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod filter;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod find;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod image;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod look;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod mapping;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod memory;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod own;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod process;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod registers;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod report;
#[cfg(all(feature = "std", target_os = "linux"))]
mod share;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod snapshot;
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", not(windows))))]
pub mod switch;
#[cfg(all(feature = "tui", target_os = "linux"))]
pub mod tui;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod unwind;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod watch;

#[cfg(all(feature = "std", target_os = "linux"))]
pub use own::{dump_on_signal, dump_self, dump_self_to};
