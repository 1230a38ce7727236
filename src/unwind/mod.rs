//! Walking a stack: from the registers of one context to the frames of its callers.
//!
//! From registers, memory, and [`Tables`] of the rules that the program's images carry, it makes frames, innermost
//! first, each with every register that can be known there, and a reason why there are no more.
//!
//! Nothing here talks to the operating system, and nothing knows what a stack is: a CFA may go up or down, and a step
//! that leads to another stack is a step like any other. The layers above decide whether that makes sense.
//! Everything that is read is hostile: work and memory are bounded, and no input makes it panic.
//!
//! *CFA* (canonical frame address): the stack pointer that the caller had before the call.
//! *Row*: the rules for one program counter. *Root*: the outermost frame, which has no caller.

mod cache;
mod cfi;
mod entry;
mod expr;
mod fallback;
mod follow;
mod frame;
mod passed;
mod program;
mod rules;
mod sections;
mod signal;
mod tables;
mod unwinder;
mod walk;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use cfi::EntryOffsets;
pub use frame::{Ended, FoundBy, Frame};
pub(crate) use sections::Slice;
pub use tables::{Code, Exceptions, FunctionStarts, Placed, Tables};
pub use unwinder::Rules;
pub use walk::{walk, walk_from};
