//! Which stacks there are: the ranges of memory that a target's chains of frames lie on, and what is suspended on them.
//!
//! Pure functions over what a survey of the target gave; nothing here reads the target or judges an unwinding rule.

pub mod bounds;
mod calls;
pub mod chain;
pub mod chains;
pub mod choose;
pub mod classify;
mod climb;
pub mod contexts;
pub mod descriptors;
pub mod ends;
pub mod heap;
pub mod lineage;
mod meeting;
pub mod midway;
pub mod roster;
pub mod sites;
pub mod spans;
mod stored;
#[cfg(test)]
mod testing;
