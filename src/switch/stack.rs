//! A stack as a range of memory.
//!
//! It owns nothing and knows nothing of where the memory is from; `OwnedStack` does.

#![allow(unsafe_code)]

use core::fmt;
use core::ptr::NonNull;

use super::arch;

/// A range of memory to be used as a stack: readable, writable, and aligned at both ends. It owns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: two numbers; whoever uses the memory behind them must be unsafe code with its own reasons.
unsafe impl Send for Stack {}
// SAFETY: as above.
unsafe impl Sync for Stack {}

impl Stack {
    /// What both ends of a stack must be a multiple of, in bytes.
    pub const ALIGN: usize = arch::STACK_ALIGN;

    /// The stack `base..base + size`; `base` is the low address.
    ///
    /// # Panics
    /// In debug builds, where the contract is broken, with a message that says how.
    ///
    /// # Safety
    /// - `base` and `base + size` are multiples of [`Stack::ALIGN`] and `size` is at most `isize::MAX`.
    /// - The memory stays valid for reads and writes, and is used for nothing else, as long as the stack is used.
    #[track_caller]
    pub unsafe fn new(base: *mut u8, size: usize) -> Stack {
        if cfg!(debug_assertions) {
            Stack::check(base, size);
        }
        // SAFETY: memory that can be read and written does not lie at null.
        Stack { base: unsafe { NonNull::new_unchecked(base) }, size }
    }

    /// The lowest address.
    #[inline]
    pub fn base(self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The first address above, from where the stack grows down.
    #[inline]
    pub fn top(self) -> *mut u8 {
        self.base().wrapping_add(self.size)
    }

    /// Its length in bytes.
    #[inline]
    pub fn size(self) -> usize {
        self.size
    }

    /// Panics with a message that says which part of the contract on a stack's memory is broken, if one is.
    #[track_caller]
    pub(super) fn check(base: *mut u8, size: usize) {
        let base = base.addr();
        assert!(base != 0, "the stack's base is null");
        assert!(base.is_multiple_of(Stack::ALIGN), "the stack's base {base:#x} is not a multiple of {}", Stack::ALIGN);
        assert!(size.is_multiple_of(Stack::ALIGN), "the stack's size {size} is not a multiple of {}", Stack::ALIGN);
        assert!(isize::try_from(size).is_ok(), "the stack's size {size} is more than isize::MAX");
        assert!(base.checked_add(size).is_some(), "the stack's range {base:#x} + {size:#x} wraps around");
    }
}

/// Why there is no stack to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// There is too little room for what is put at the high end before any code runs.
    TooSmall {
        /// The size asked for or given, in bytes.
        size: usize,
        /// The least that would do, in bytes.
        least: usize,
    },
    /// The size does not fit into the address space.
    TooLarge {
        /// The size asked for, in bytes.
        size: usize,
    },
    /// The operating system gave no memory.
    Refused {
        /// The size asked for, in bytes.
        size: usize,
        /// The system's error number: `errno`, or `GetLastError` on Windows.
        os_error: i32,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            StackError::TooSmall { size, least } => {
                write!(f, "making a stack of {size} bytes: at least {least} are needed")
            }
            StackError::TooLarge { size } => {
                write!(f, "making a stack of {size} bytes: that is more than the address space can hold")
            }
            StackError::Refused { size, os_error } => {
                write!(f, "making a stack of {size} bytes: the operating system refused (error {os_error})")
            }
        }
    }
}

impl core::error::Error for StackError {}

/// The word at the base of a stack that no page guards; whoever overflows the stack by a little overwrites it.
pub(super) const CANARY: usize = 0x5AFE_C0DE_5AFE_C0DE_u64 as usize;
