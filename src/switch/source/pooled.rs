//! Stacks kept for reuse.

#![allow(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{OwnedStack, StackError, StackSource, os};
use crate::switch::owned::DESCRIPTOR;

/// Sizes are rounded up to one of this many powers of two, counted in pages; larger stacks are not kept.
const CLASSES: usize = 20;

/// Keeps stacks that are given back, and hands them out again before it asks its source for new ones.
///
/// Sizes are rounded up to a power of two pages, so that stacks of nearly the same size share a list.
/// A stack taken out again is as its last user left it: its memory is still there, and its peak is that of all its users.
#[derive(Debug)]
pub struct Pooled<S> {
    source: S,
    keep: usize,
    classes: [Mutex<Vec<OwnedStack>>; CLASSES],
}

impl<S: StackSource> Pooled<S> {
    /// A pool over `source` that keeps at most `keep` stacks of each size.
    pub const fn new(source: S, keep: usize) -> Pooled<S> {
        Pooled { source, keep, classes: [const { Mutex::new(Vec::new()) }; CLASSES] }
    }

    /// How many stacks wait for reuse now.
    pub fn kept(&self) -> usize {
        self.classes.iter().map(|class| lock(class).len()).sum()
    }

    /// Gives all stacks that wait for reuse back to the source.
    pub fn clear(&self) {
        for class in &self.classes {
            for stack in std::mem::take(&mut *lock(class)) {
                self.source.release(stack);
            }
        }
    }

    /// The list of stacks of at least `size` bytes, and the least size of all stacks in it.
    fn class(&self, size: usize) -> Option<(&Mutex<Vec<OwnedStack>>, usize)> {
        let pages = size.max(1).div_ceil(os::page_size()).checked_next_power_of_two()?;
        let class = self.classes.get(pages.trailing_zeros() as usize)?;
        Some((class, pages * os::page_size()))
    }

    /// The list that `stack` belongs into: that of the largest class it can serve.
    fn class_of(&self, stack: &OwnedStack) -> Option<&Mutex<Vec<OwnedStack>>> {
        let pages = (stack.range().size() + DESCRIPTOR) / os::page_size();
        self.classes.get(pages.checked_ilog2()? as usize)
    }
}

/// A panic while the lock is held cannot leave a list half changed.
fn lock(class: &Mutex<Vec<OwnedStack>>) -> MutexGuard<'_, Vec<OwnedStack>> {
    class.lock().unwrap_or_else(PoisonError::into_inner)
}

// SAFETY: as the source below, whose stacks are not changed.
unsafe impl<S: StackSource> StackSource for Pooled<S> {
    fn name(&self) -> &'static str {
        "pooled"
    }

    fn allocate(&'static self, size: usize) -> Result<OwnedStack, StackError> {
        let Some((class, size)) = self.class(size) else { return self.source.allocate(size) };
        if let Some(kept) = lock(class).pop() {
            return Ok(kept);
        }
        Ok(self.source.allocate(size)?.with_source(self))
    }

    fn release(&self, stack: OwnedStack) {
        if let Some(class) = self.class_of(&stack) {
            let mut kept = lock(class);
            if kept.len() < self.keep {
                kept.push(stack);
                return;
            }
        }
        self.source.release(stack);
    }

    fn peak(&self, stack: &OwnedStack) -> Option<usize> {
        self.source.peak(stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::Guarded;

    #[test]
    fn a_stack_given_back_is_handed_out_again() {
        static POOL: Pooled<Guarded> = Pooled::new(Guarded, 2);
        let first = OwnedStack::from_source(&POOL, 10_000).unwrap();
        let base = first.range().base();
        assert_eq!(first.range().size(), 16_384 - DESCRIPTOR);
        drop(first);
        assert_eq!(POOL.kept(), 1);
        let again = OwnedStack::from_source(&POOL, 16_000).unwrap();
        assert_eq!((again.range().base(), POOL.kept()), (base, 0));
    }

    #[test]
    fn no_more_than_asked_for_are_kept() {
        static POOL: Pooled<Guarded> = Pooled::new(Guarded, 2);
        let stacks: Vec<_> = (0..5).map(|_| OwnedStack::from_source(&POOL, 4096).unwrap()).collect();
        drop(stacks);
        assert_eq!(POOL.kept(), 2);
        POOL.clear();
        assert_eq!(POOL.kept(), 0);
    }

    #[test]
    fn very_large_stacks_pass_through() {
        static POOL: Pooled<Guarded> = Pooled::new(Guarded, 2);
        drop(OwnedStack::from_source(&POOL, 3 << 30).unwrap());
        assert_eq!(POOL.kept(), 0);
    }
}
