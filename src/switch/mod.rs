//! Stack switching that every debugger can see through.
//!
//! From the bottom up:
//! - [`raw`]: a saved context is one pointer, and a switch is one call.
//! - [`on_stack()`], [`replace_stack()`]: run one function on another stack.
//! - [`Stack`], [`OwnedStack`] and the [`StackSource`]s: where stacks come from.
//! - [`maybe_grow`] and its like: deep recursion on stacks that grow by segments.
//! - [`Coroutine`]: a function that can be suspended and resumed, with typed values both ways. No `unsafe` to use it.
//!
//! Each routine that touches the stack pointer has call frame information for each of its instructions,
//! so a backtrace taken anywhere on a stack made here goes on to whoever resumed it: in a panic message, in a debugger,
//! and in this crate's own `dump`.
//!
//! Words: a *stack* is a range of memory; a *context* is a place where execution can go on, on some stack; to *resume*
//! a context is to go there from a caller that waits; to *suspend* is to go back to that caller.
//!
//! Without the feature `switch` there are `raw`, the `on_stack` family and [`Borrowed`] stacks, which need no operating
//! system.
//!
//! ```
//! use stackscope::switch::{Coroutine, State};
//!
//! let mut squares = Coroutine::new(|yielder, mut n: u64| {
//!     while n != 0 {
//!         n = yielder.suspend(n * n);
//!     }
//!     "done"
//! })?;
//! assert_eq!(squares.resume(3), State::Yielded(9));
//! assert_eq!(squares.resume(5), State::Yielded(25));
//! assert_eq!(squares.resume(0), State::Returned("done"));
//! # Ok::<(), stackscope::switch::StackError>(())
//! ```

mod arch;
#[cfg(feature = "switch")]
mod asan;
mod borrowed;
mod on_stack;
pub mod raw;
mod stack;

#[cfg(feature = "switch")]
mod coroutine;
#[cfg(feature = "switch")]
mod grow;
#[cfg(feature = "switch")]
mod origin;
#[cfg(all(feature = "switch", target_os = "linux"))]
mod overflow;
#[cfg(feature = "switch")]
mod owned;
#[cfg(feature = "switch")]
mod roster;
#[cfg(feature = "switch")]
mod source;
#[cfg(feature = "switch")]
mod valgrind;

pub use borrowed::Borrowed;
pub use on_stack::{StackDirection, on_stack, replace_stack, stack_direction, stack_pointer};
pub use stack::{Stack, StackError};

#[cfg(feature = "switch")]
pub use coroutine::{Coroutine, SendCoroutine, State, Yielder};
#[cfg(feature = "switch")]
pub use grow::{Budget, Crossing, GrowError, crossings, grow, maybe_grow, remaining_stack, try_grow};
#[cfg(feature = "switch")]
pub use origin::keep_panic_backtraces;
#[cfg(all(feature = "switch", target_os = "linux"))]
pub use overflow::report_overflows;
#[cfg(feature = "switch")]
pub use owned::{OwnedStack, StackSource};
#[cfg(feature = "switch")]
pub use roster::roster_address;
#[cfg(feature = "switch")]
#[doc(hidden)]
pub use source::set_default_source;
#[cfg(feature = "switch")]
pub use source::{DEFAULT_SIZE, Guarded, Painted, Pooled, default_source};

/// Says what went wrong and ends the process: for states from which no code on this stack may go on.
#[cfg(feature = "switch")]
#[cold]
fn fatal(message: &str) -> ! {
    use std::io::Write as _;
    // Nothing is left to do where standard error is closed.
    let _ = writeln!(std::io::stderr(), "stackscope: {message}");
    std::process::abort()
}

/// Without an operating system, the panic handler of the program decides how the message is shown.
/// The function cannot unwind, so a handler that tries to ends the program.
#[cfg(not(feature = "switch"))]
#[cold]
extern "C" fn fatal_panic(message: &&str) -> ! {
    panic!("stackscope: {message}")
}

#[cfg(not(feature = "switch"))]
#[cold]
fn fatal(message: &str) -> ! {
    fatal_panic(&message)
}
