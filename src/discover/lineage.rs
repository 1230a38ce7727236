//! Finds out who resumed the coroutine that a thread runs, where no rules lead there.
//!
//! Whoever resumed it left its own context behind as any suspended one does. The program finds it again by way of the
//! running coroutine: on its stack, in the record that also holds that stack's addresses, or by a pointer on that stack.

use super::classify::{Context, State};
use crate::addr::{Addr, AddrRange};
use crate::memory::{Memory, Slices};

/// A record of a coroutine is taken to reach at most this many bytes around a place in it.
const RECORD: i64 = 64;

/// The part of a stack that is looked through for pointers, in bytes.
const MOST_SEARCHED: u64 = 1 << 20;

/// Stacks, for telling which of them an address belongs to.
pub struct Tops(Vec<Addr>);

impl Tops {
    /// Those with these highest addresses.
    pub fn new(tops: impl Iterator<Item = Addr>) -> Tops {
        let mut tops: Vec<Addr> = tops.collect();
        tops.sort_unstable();
        tops.dedup();
        Tops(tops)
    }

    /// The top of the stack that `at` may lie on: the next one above.
    fn above(&self, at: Addr) -> Option<Addr> {
        self.0.get(self.0.partition_point(|top| *top <= at)).copied()
    }
}

/// Which of `contexts` resumed what stands on the stack `live`, from its stack pointer to its top; only those that
/// `may_resume` counts. `None` where there is no sign of any, or of several.
pub fn resumer(
    memory: &Slices<'_>,
    live: AddrRange,
    contexts: &[&Context],
    tops: &Tops,
    may_resume: impl Fn(usize) -> bool,
) -> Option<usize> {
    let words = words(memory, AddrRange::new(live.low, live.high.min(Addr(live.low.0.saturating_add(MOST_SEARCHED)))));
    let is_sign = |context: &Context| {
        let Some(holder) = context.holder else { return false };
        let is_pointed_to = words.binary_search(&holder.0).is_ok()
            || context.block.is_some_and(|block| words.binary_search(&block.0).is_ok());
        live.contains(holder) || is_pointed_to || is_in_record(memory, holder, live.high, tops)
    };
    let mut found = (0..contexts.len())
        .filter(|index| contexts[*index].state == State::Suspended && may_resume(*index) && is_sign(contexts[*index]));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Whether the address of a stack that lies closest to `holder` is one of the stack that ends at `top`.
fn is_in_record(memory: &Slices<'_>, holder: Addr, top: Addr, tops: &Tops) -> bool {
    let stack_at = |offset: i64| {
        let word = Addr(memory.read_u64(holder.offset(offset)).ok()?);
        // What is not on a stack is far from the next one, or in no writable memory.
        let above = tops.above(word).filter(|above| above.0 - word.0 < MOST_SEARCHED)?;
        memory.knows(word).then_some(above)
    };
    let around = (1..=RECORD / 8).flat_map(|words| [-8 * words, 8 * words]);
    around.filter_map(stack_at).next() == Some(top)
}

/// The words in `range` that are not zero, sorted.
fn words(memory: &Slices<'_>, range: AddrRange) -> Vec<u64> {
    let range = AddrRange::new(range.low.align_up(8).min(range.high), range.high);
    let chunks = memory.pieces_in(range).flat_map(|(_, bytes)| bytes.as_chunks::<8>().0);
    let mut words: Vec<u64> = chunks.map(|word| u64::from_le_bytes(*word)).collect();
    words.sort_unstable();
    words
}
