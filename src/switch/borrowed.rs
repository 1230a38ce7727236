//! Stacks in memory that somebody else owns: a static, an arena, a microcontroller's RAM.
//!
//! No page guards such a stack. A word at its low end, the canary, is checked at each switch of a coroutine on it:
//! that finds an overflow after the fact, and only one that wrote over that word.

#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::arch;
use super::stack::{CANARY, Stack, StackError};

/// The least that a borrowed stack must hold besides its canary.
const LEAST: usize = arch::ROOT_SIZE + Stack::ALIGN;

/// A stack in borrowed memory, with a canary at its low end.
#[derive(Debug)]
pub struct Borrowed<'a> {
    stack: Stack,
    memory: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

impl<'a> Borrowed<'a> {
    /// The largest aligned stack inside `memory`.
    ///
    /// # Errors
    /// [`StackError::TooSmall`] where nothing useful is left of it.
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Result<Borrowed<'a>, StackError> {
        let given = memory.len();
        let too_small = StackError::TooSmall { size: given, least: LEAST + 2 * Stack::ALIGN };
        let skipped = memory.as_ptr().align_offset(Stack::ALIGN);
        let size = given.checked_sub(skipped).ok_or(too_small)? / Stack::ALIGN * Stack::ALIGN;
        if size < LEAST {
            return Err(too_small);
        }
        let base = memory.as_mut_ptr().wrapping_add(skipped).cast::<u8>();
        // SAFETY: the range is aligned at both ends and inside `memory`, which is borrowed for `'a`.
        let stack = unsafe { Stack::new(base, size) };
        // SAFETY: the first word of that range, aligned to 16 and ours alone.
        unsafe { base.cast::<usize>().write(CANARY) };
        Ok(Borrowed { stack, memory: PhantomData })
    }

    /// The range of memory, the canary included.
    pub fn range(&self) -> Stack {
        self.stack
    }

    /// Whether the canary is unharmed; if not, the stack has overflowed.
    pub fn is_intact(&self) -> bool {
        // SAFETY: the first word of our memory; code running on the stack may change it, hence volatile.
        unsafe { self.stack.base().cast::<usize>().read_volatile() == CANARY }
    }
}

#[cfg(all(test, feature = "switch"))]
mod tests {
    use super::*;

    #[test]
    fn unaligned_memory_is_trimmed_at_both_ends() {
        let mut memory = [MaybeUninit::<u8>::uninit(); 1024];
        let range = memory.as_ptr_range();
        for cut in 1..16 {
            let stack = Borrowed::new(&mut memory[cut..1024 - cut]).unwrap();
            assert!(stack.range().base().addr().is_multiple_of(16) && stack.range().size().is_multiple_of(16));
            assert!(stack.range().base().addr() >= range.start.addr() + cut);
            assert!(stack.range().top().addr() <= range.end.addr() - cut);
            assert!(stack.is_intact());
        }
    }

    #[test]
    fn too_little_memory_is_an_error_with_both_sizes() {
        for size in 0..LEAST {
            let mut memory = vec![MaybeUninit::<u8>::uninit(); size];
            let error = Borrowed::new(&mut memory).unwrap_err();
            assert_eq!(error, StackError::TooSmall { size, least: LEAST + 32 });
        }
    }

    #[test]
    fn a_write_over_the_low_end_shows() {
        let mut memory = [MaybeUninit::<u8>::uninit(); 1024];
        let stack = Borrowed::new(&mut memory).unwrap();
        // SAFETY: the first byte of the borrowed memory.
        unsafe { stack.range().base().write(0) };
        assert!(!stack.is_intact());
    }
}
