//! Stops and follows the threads of a process by ptrace(2), each by the only thread that may.
//!
//! [`tracer`] holds a process still for one look; [`follow`] stays with one that is watched from its start, and says
//! what happens to it.

mod armed;
mod breakpoint;
pub(in crate::process) mod errand;
mod fatal;
mod follow;
mod followed;
pub(in crate::process) mod happening;
mod hold;
mod inbox;
pub(in crate::process) mod line;
mod ptrace;
mod rate;
mod regset;
mod start;
mod stopped;
mod tracees;
#[cfg(test)]
mod tracees_tests;
mod tracer;
pub(in crate::process) mod vanish;

pub use armed::CodeWatch;
pub use breakpoint::try_breakpoint;
pub use errand::{Argument, Call, Errand, ErrandError};
pub use happening::{Happened, Happening, Outcome, Reached, Signalled, TooBusy};
pub use inbox::{Inbox, Received, pass_on, stop_ourselves};
pub use stopped::{KnownMap, Released, Stopped};
pub use tracees::Tracees;
pub use vanish::{Ends, await_vanishing};
