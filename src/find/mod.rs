//! Which stacks there are: the ranges of memory that a target's chains of frames lie on, and what is suspended on them.
//!
//! Pure functions over what a survey of the target gave; nothing here reads the target or judges an unwinding rule.

pub mod descriptors;
pub mod extent;
pub(crate) mod ground;
pub mod roster;
pub mod running;
pub mod sites;
pub mod suspended;
#[cfg(test)]
mod testing;
