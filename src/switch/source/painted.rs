//! Stacks filled with a pattern, so that their deepest use can be told exactly.

#![allow(unsafe_code)]

use super::{OwnedStack, StackError, StackSource};
use crate::switch::valgrind;

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
    fn lowest(stack: &OwnedStack) -> *mut usize {
        stack.range().base().cast::<usize>().wrapping_add(usize::from(stack.has_canary()))
    }
}

// SAFETY: as the source below: its stacks are only written to, above a canary.
unsafe impl<S: StackSource> StackSource for Painted<S> {
    fn name(&self) -> &'static str {
        "painted"
    }

    fn allocate(&'static self, size: usize) -> Result<OwnedStack, StackError> {
        let stack = self.source.allocate(size)?;
        valgrind::allow(stack.range().base(), stack.range().top());
        let mut word = Self::lowest(&stack);
        while word < stack.range().top().cast() {
            // SAFETY: inside the stack, which is ours until it is handed out, and aligned as its base is.
            unsafe { word.write(PAINT) };
            word = word.wrapping_add(1);
        }
        Ok(stack.with_source(self))
    }

    fn release(&self, stack: OwnedStack) {
        self.source.release(stack);
    }

    fn peak(&self, stack: &OwnedStack) -> Option<usize> {
        let top = stack.range().top();
        valgrind::allow(stack.range().base(), top);
        let mut word = Self::lowest(stack);
        // SAFETY: inside the stack and aligned; code that runs on it may be writing there, hence volatile.
        while word < top.cast() && unsafe { word.read_volatile() } == PAINT {
            word = word.wrapping_add(1);
        }
        Some(top.addr() - word.addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::Guarded;

    #[test]
    fn the_deepest_word_written_is_the_peak() {
        static PAINTED: Painted<Guarded> = Painted::new(Guarded);
        let stack = OwnedStack::from_source(&PAINTED, 8192).unwrap();
        assert_eq!(stack.peak(), Some(0));
        for depth in [8, 64, 4096] {
            // SAFETY: inside the stack, on which nothing runs.
            unsafe { stack.range().top().wrapping_sub(depth).write(1) };
            assert_eq!(stack.peak(), Some(depth));
        }
    }
}
