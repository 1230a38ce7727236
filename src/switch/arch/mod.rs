//! The assembly of each platform, behind one set of names.
//!
//! Each file has `init`, `enter`, `leave`, `on_stack`, `replace_stack`, `stack_pointer`, and the constants `STACK_ALIGN`
//! and `ROOT_SIZE`. [`x86_64_unix`] is the reference and has the pictures.
//! `docs/CFI.md` explains every byte of call frame information that these files give rise to.

use core::mem::MaybeUninit;

#[cfg(all(target_arch = "aarch64", not(windows)))]
mod aarch64_unix;
#[cfg(all(target_arch = "x86_64", not(windows)))]
mod x86_64_unix;
#[cfg(all(target_arch = "x86_64", windows))]
mod x86_64_windows;

#[cfg(all(target_arch = "aarch64", not(windows)))]
pub(crate) use aarch64_unix::*;
#[cfg(all(target_arch = "x86_64", not(windows)))]
pub(crate) use x86_64_unix::*;
#[cfg(all(target_arch = "x86_64", windows))]
pub(crate) use x86_64_windows::*;

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(windows)))))]
compile_error!("stackscope's `switch` knows x86_64, and aarch64 other than on Windows");

/// One register's worth of value on its way to the other side of a switch; a small value may leave part of it unset.
pub(crate) type Word = MaybeUninit<usize>;

/// Where `start` ends up when the function of a context returns, which has nowhere to return to.
extern "C" fn entry_returned() -> ! {
    super::fatal(
        "the function of a stack made by `switch::raw::init` returned: it must switch away and never come back",
    )
}
