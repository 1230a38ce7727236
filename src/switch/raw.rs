//! Switching contexts by hand: the three functions everything else here is made of.
//!
//! A context that does not run is one pointer to what it saved on its own stack.
//! [`init`] makes the first such pointer for a stack; each switch saves the context it leaves, hands its pointer and one
//! word to the context it goes to, and comes back with the pointer and the word of whoever returns.
//!
//! - [`swap_and_link_stacks`] is the way *in*: it notes in the stack it goes to who resumed it, so that a backtrace
//!   taken there goes on here. Use it for each resume.
//! - [`swap`] is the way *back*: to whoever resumed this stack.
//!   It also resumes, but then backtraces lead to the previous resumer, and every return on the way is predicted wrongly.
//!
//! Pictures of the stacks stand at the top of `src/switch/arch/x86_64_unix.rs`.
//!
//! ```
//! # #![allow(unsafe_code)]
//! use stackscope::switch::{Stack, raw};
//!
//! unsafe extern "C" fn add_up(mut number: usize, mut resumer: *mut usize) {
//!     let mut sum = 0;
//!     loop {
//!         sum += number;
//!         // SAFETY: `resumer` waits for us to come back, and is resumed once for each time that it came.
//!         (number, resumer) = unsafe { raw::swap(sum, resumer, std::ptr::null_mut()) };
//!     }
//! }
//!
//! let mut memory = vec![0_u128; 4096];
//! // SAFETY: the memory is aligned and outlives all use of the stack.
//! let stack = unsafe { Stack::new(memory.as_mut_ptr().cast(), size_of_val(&memory[..])) };
//! let top = stack.top().cast();
//! // SAFETY: the stack is used for nothing else, and `add_up` never returns.
//! let context = unsafe { raw::init(stack, add_up) };
//! // SAFETY: each context is resumed once, with the top of its stack.
//! let (three, context) = unsafe { raw::swap_and_link_stacks(3, context, top) };
//! // SAFETY: as above.
//! let (ten, _context) = unsafe { raw::swap_and_link_stacks(7, context, top) };
//! assert_eq!((three, ten), (3, 10));
//! ```

#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use super::arch;
use super::stack::Stack;

/// Prepares `stack` so that the first switch to it calls `f`; gives the pointer to switch to.
///
/// `f` gets the word that was handed over and the context of whoever resumed it.
/// It must not return; where it does, the process ends with a message.
///
/// # Panics
/// In debug builds, where `stack` has no room for the first frame.
///
/// # Safety
/// The stack's memory is used for nothing else as long as the context or anything on the stack is used.
#[track_caller]
pub unsafe fn init(stack: Stack, f: unsafe extern "C" fn(usize, *mut usize)) -> *mut usize {
    debug_assert!(stack.size() >= arch::ROOT_SIZE, "a stack of {} bytes has no room for its root", stack.size());
    // SAFETY: the caller gives the stack to us alone, and it is aligned and large enough.
    unsafe { arch::init(stack.base(), stack.top().cast(), f as *const () as usize) }
}

/// Switches to the context `new_sp` on the stack whose top is `sp`, and links that stack to this one.
///
/// Comes back when somebody switches to the context that the other side is given, with the word and the context of that
/// somebody.
///
/// # Safety
/// - `new_sp` came from [`init`] or from a switch, and nobody switched to it since.
/// - `sp` is the [`Stack::top`] of the stack that `new_sp` was made on by [`init`].
/// - Everything the other context refers to is still there, and may be used on this thread.
/// - No unwinding crosses the switch: a panic must be caught on its own stack.
#[inline(always)]
pub unsafe fn swap_and_link_stacks(arg: usize, new_sp: *mut usize, sp: *mut usize) -> (usize, *mut usize) {
    // SAFETY: the caller's promises are those that `enter` asks for.
    let (word, other, _) = unsafe { arch::enter(MaybeUninit::new(arg), new_sp, sp) };
    // SAFETY: whoever came here used one of the two functions of this module, and both hand over a whole word.
    (unsafe { word.assume_init() }, other)
}

/// Switches to the context `new_sp`, without a link.
///
/// `sp` is not used: the two functions have one signature, so that either can be chosen at run time.
/// The link of the stack that is left stays as it is and tells, from outside, who resumed it last.
///
/// # Safety
/// As for [`swap_and_link_stacks`], but for what is said of `sp`.
#[inline(always)]
pub unsafe fn swap(arg: usize, new_sp: *mut usize, sp: *mut usize) -> (usize, *mut usize) {
    // SAFETY: the caller's promises are those that `leave` asks for.
    let (word, other, _) = unsafe { arch::leave(MaybeUninit::new(arg), new_sp, sp) };
    // SAFETY: as in `swap_and_link_stacks`.
    (unsafe { word.assume_init() }, other)
}
