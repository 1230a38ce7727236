//! Where stacks begin and end, and what lies below them.

pub(crate) mod blocks;
pub mod bounds;
pub mod heap;
pub(crate) mod neighbours;
pub(crate) mod peaks;
pub mod rooms;
pub mod spans;
