//! The stacks that threads run on, or wait on for one that they resumed.

pub mod cut;
pub mod detours;
pub(crate) mod room;
pub(crate) mod segments;
pub(crate) mod stacks;
pub(crate) mod threads;
