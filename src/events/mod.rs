//! What happens to a program while it runs, understood: what a signal comes from, what was raised, and the way that it
//! took.
//!
//! Pure functions over memory, rules and a snapshot of the moment; [`crate::watch`] has the program stop, and asks.
//!
//! Words: what is *raised* is a panic, an exception or a forced unwinding; a *raise* is one run of the unwinder, from
//! where it starts to where it lands for good. One panic may be raised several times: caught at the root of a coroutine,
//! and raised again by whoever resumed it. A *verdict* says what a signal comes from.

mod lsda;
mod overflow;
mod raise;
mod route;
mod unwinders;
mod verdict;
#[cfg(test)]
mod verdict_tests;

pub use overflow::{On, Overflow, Way};
pub(crate) use raise::{Language, Origin, Raised, panic_at};
pub use route::{By, Did, Fate, Route, Step};
pub(crate) use route::{Key, Landing, Leg, Raise, Relation};
pub(crate) use unwinders::{Unwinders, loads_more};
pub use verdict::{Cause, Verdict, judge};
