//! The process that this library is part of, as a target.

mod capture;
mod frozen;
mod futex;
mod requests;
mod this;

pub use frozen::{FreezeError, Frozen};
pub use requests::Requests;
pub use this::This;
