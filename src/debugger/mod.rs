//! Every context as a thread of a debugger: serves gdb's remote protocol, which gdb, lldb and IDEs speak.
//!
//! The protocol is the crate gdbstub's (gdb's manual, appendix "Remote Serial Protocol"); here is what it asks for: the
//! contexts as threads, their registers, the memory, and the files that the program has mapped.
//! It only reads. What a debugger wants changed is refused by a [`Notice`], and a program goes on when its debugger says
//! so, leaves, or dies.
//!
//! Words: the *client* is the debugger at the other end.

mod client;
mod files;
mod maps;
mod monitor;
mod notice;
mod open_files;
mod program;
mod refused;
mod registers;
mod session;
mod target;
mod threads;

pub use client::Client;
pub use notice::{Notice, Refusal};
pub use program::Program;
pub use session::{ServeError, serve};
