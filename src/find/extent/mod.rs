//! Where stacks begin and end, and what lies below them.

pub mod bounds;
pub mod heap;
pub mod spans;
