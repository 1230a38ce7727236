//! How much stack functions can use, read from their code: nothing is run.
//!
//! You give the [`Modules`](crate::image::Modules) of a program; you get its functions with their frames and calls
//! ([`Graph`]), what each needs together with all that it calls ([`Costs`]), and for one of them the deepest path and
//! all that is not known on the way ([`answer()`]). `docs/SIZES.md` says what that means.
//!
//! An answer is a bound only where nothing is unknown below a function. What is not known is listed, never guessed.
//! Everything read is taken for hostile: work and memory are bounded by the size of the files.
//!
//! *CFA*: the stack pointer that the caller had before the call. All sizes count down from there, so that the return
//! address is the callee's. *Frame*: what a function takes of the stack itself. *Need*: that, and all that it calls.

mod answer;
mod asked;
mod code;
mod costs;
mod endings;
mod frames;
mod graph;
mod link;
mod machine;
mod rules;
mod words;

pub use answer::{Answer, Circle, Step, Unknown, answer};
pub use asked::{Answered, Asked, place};
pub use costs::{Costs, Ways};
pub use graph::{Edge, Function, FunctionId, Gap, GapKind, Graph};
