//! Stacks fresh from the operating system, with a guard page below.

#![allow(unsafe_code)]

use super::{OwnedStack, Stack, StackError, StackSource, os};

/// Maps each stack when it is asked for and unmaps it when it is dropped.
///
/// The page below its base cannot be accessed, so an overflow ends in a fault instead of someone else's memory.
/// (Compiled Rust code touches every page of a large frame in order, and cannot step over the guard.)
/// The system gives memory only for what is touched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guarded;

// SAFETY: the page below each stack faults.
unsafe impl StackSource for Guarded {
    fn name(&self) -> &'static str {
        "guarded"
    }

    fn allocate(&'static self, size: usize) -> Result<OwnedStack, StackError> {
        let page = os::page_size();
        let usable = size
            .max(1)
            .checked_next_multiple_of(page)
            .filter(|&usable| usable <= isize::MAX as usize - page)
            .ok_or(StackError::TooLarge { size })?;
        let base = os::map(usable, page).map_err(|os_error| StackError::Refused { size, os_error })?;
        // SAFETY: just mapped: `usable` bytes of whole pages, zeroed.
        let memory = unsafe { Stack::new(base, usable) };
        // SAFETY: nobody else knows of it, and `release` unmaps it only when it is given back.
        unsafe { OwnedStack::new(memory, self) }
    }

    fn release(&self, stack: OwnedStack) {
        let memory = stack.into_memory();
        // SAFETY: `allocate` mapped it with a guard of one page, and its owner gave it up.
        unsafe { os::unmap(memory.base(), memory.size(), os::page_size()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::owned::DESCRIPTOR;

    #[test]
    fn stacks_are_as_large_as_asked_for_and_zero() {
        for asked in [0, 1, 4096, 4097, 100_000] {
            let stack = Guarded.allocate(asked).unwrap();
            assert!(stack.range().size() + DESCRIPTOR >= asked);
            // SAFETY: the lowest word of a stack, which is aligned.
            assert_eq!(unsafe { stack.range().base().cast::<usize>().read() }, 0);
        }
    }

    #[test]
    fn sizes_beyond_the_address_space_are_errors() {
        for size in [usize::MAX, isize::MAX as usize] {
            assert_eq!(Guarded.allocate(size).unwrap_err(), StackError::TooLarge { size });
        }
        let size = 1 << 60;
        assert!(
            matches!(Guarded.allocate(size).unwrap_err(), StackError::Refused { size: asked, .. } if asked == size)
        );
    }
}
