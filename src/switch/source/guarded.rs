//! Stacks fresh from the operating system, with a guard page below.

#![allow(unsafe_code)]

use super::{Stack, StackError, StackSource, os};

/// Maps each stack when it is asked for and unmaps it when it is dropped.
///
/// The page below its base cannot be accessed, so an overflow ends in a fault instead of someone else's memory.
/// (Compiled Rust code touches every page of a large frame in order, and cannot step over the guard.)
/// The system gives memory only for what is touched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guarded;

// SAFETY: the memory is mapped for this stack alone, page-aligned, read-write, and the page below it faults.
unsafe impl StackSource for Guarded {
    fn name(&self) -> &'static str {
        "guarded"
    }

    fn allocate(&self, size: usize) -> Result<Stack, StackError> {
        let page = os::page_size();
        let usable = size.max(1).checked_next_multiple_of(page).filter(|&usable| usable <= isize::MAX as usize - page);
        let usable = usable.ok_or(StackError::TooLarge { size })?;
        let base = os::map(usable, page).map_err(|os_error| StackError::Refused { size, os_error })?;
        // SAFETY: just mapped, `usable` bytes of whole pages.
        Ok(unsafe { Stack::new(base, usable) })
    }

    unsafe fn release(&self, stack: Stack) {
        // SAFETY: the caller gives back what `allocate` mapped with a guard of one page.
        unsafe { os::unmap(stack.base(), stack.size(), os::page_size()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::OwnedStack;

    #[test]
    fn stacks_are_whole_pages_and_zero() {
        for asked in [0, 1, 4096, 4097, 100_000] {
            let stack = OwnedStack::from_source(&Guarded, asked).unwrap().range();
            assert!(stack.size() >= asked.max(1) && stack.size().is_multiple_of(os::page_size()));
        }
    }

    #[test]
    fn sizes_beyond_the_address_space_are_errors() {
        assert_eq!(Guarded.allocate(usize::MAX), Err(StackError::TooLarge { size: usize::MAX }));
        assert_eq!(Guarded.allocate(isize::MAX as usize), Err(StackError::TooLarge { size: isize::MAX as usize }));
        let size = 1 << 60;
        assert!(matches!(Guarded.allocate(size), Err(StackError::Refused { size: refused, .. }) if refused == size));
    }
}
