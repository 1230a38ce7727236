//! The stacks that threads run on, or wait on for one that they resumed.

pub(crate) mod chain;
pub mod cut;
pub(crate) mod segments;
pub(crate) mod stacks;
