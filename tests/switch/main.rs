//! Our own stack switching, from outside: what debuggers see, what each instruction leaves to an unwinder, and how it
//! behaves under random use.

#![cfg(feature = "switch")]
#![allow(clippy::unwrap_used, reason = "a failure fails the test")]
#![allow(unsafe_code, reason = "the raw functions and the promises of `Coroutine` are what is tested")]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod backtraces;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod cfi_doc;
mod chain;
mod edges;
mod fixture;
mod model;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod program;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod steps;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod valgrind;
