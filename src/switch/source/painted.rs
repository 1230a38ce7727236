//! Stacks filled with a pattern, so that their deepest use can be told exactly.

#![allow(unsafe_code)]

use super::{Stack, StackError, StackSource};

/// The pattern: no address, no small number, and not what fresh memory holds.
const PAINT: usize = 0xA5A5_A5A5_A5A5_A5A5_u64 as usize;

/// Fills each stack with a pattern before it is used.
///
/// [`peak`](StackSource::peak) is then exact to a word, but for a lowest word that was written with the very pattern.
/// The price is that all of each stack's memory is touched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Painted<S> {
    source: S,
}

impl<S: StackSource> Painted<S> {
    /// Paints the stacks of `source`.
    pub const fn new(source: S) -> Painted<S> {
        Painted { source }
    }

    /// The lowest word that is for painting: a canary below stays as it is.
    fn lowest(&self, stack: Stack) -> *mut usize {
        stack.base().cast::<usize>().wrapping_add(usize::from(self.source.has_canary()))
    }
}

// SAFETY: as the source below: the words written lie inside its stacks, above a canary.
unsafe impl<S: StackSource> StackSource for Painted<S> {
    fn name(&self) -> &'static str {
        "painted"
    }

    fn allocate(&self, size: usize) -> Result<Stack, StackError> {
        let stack = self.source.allocate(size)?;
        let mut word = self.lowest(stack);
        while word < stack.top().cast() {
            // SAFETY: inside the stack, which is ours until it is handed out, and aligned as its base is.
            unsafe { word.write(PAINT) };
            word = word.wrapping_add(1);
        }
        Ok(stack)
    }

    unsafe fn release(&self, stack: Stack) {
        // SAFETY: the caller's promise; what we give out is what the source gave us.
        unsafe { self.source.release(stack) };
    }

    fn has_canary(&self) -> bool {
        self.source.has_canary()
    }

    fn peak(&self, stack: Stack) -> Option<usize> {
        let mut word = self.lowest(stack);
        // SAFETY: inside the stack and aligned; code that runs on it may be writing there, hence volatile.
        while word < stack.top().cast() && unsafe { word.read_volatile() } == PAINT {
            word = word.wrapping_add(1);
        }
        Some(stack.top().addr() - word.addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{Guarded, OwnedStack};

    #[test]
    fn the_deepest_word_written_is_the_peak() {
        static PAINTED: Painted<Guarded> = Painted::new(Guarded);
        let stack = OwnedStack::from_source(&PAINTED, 8192).unwrap();
        assert_eq!(stack.peak(), Some(0));
        for depth in [8, 64, 8192] {
            // SAFETY: inside the stack, on which nothing runs.
            unsafe { stack.range().top().wrapping_sub(depth).write(1) };
            assert_eq!(stack.peak(), Some(depth));
        }
    }
}
