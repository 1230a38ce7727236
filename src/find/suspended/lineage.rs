//! Finds out who resumed the coroutine that a thread runs, where no rules lead there.
//!
//! Whoever resumed it left its own context behind as any suspended one does. The program finds it again by way of the
//! running coroutine: on its stack, in the record that also holds that stack's addresses, or by a pointer on that stack.

use std::collections::HashSet;

use foldhash::HashMap;

use crate::addr::{Addr, AddrRange};
use crate::find::suspended::classify::{Context, State};
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

/// For each of `contexts`, whether it stands where all are held as `parked` ones are: those in which threads wait for what
/// they resumed.
///
/// A record that keeps both a coroutine's stack pointer and its resumer's has each at its place.
/// How far from a thread's stack pointer such a record has the coroutine's therefore tells who else is kept as a resumer.
/// Where registers are kept beside it, as in glibc's `ucontext_t`, what is close is one of them.
pub fn held_as(memory: &Slices<'_>, contexts: &[&Context], parked: &[&Context], tops: &Tops) -> Vec<bool> {
    let distance = |context: &Context| {
        let holder = context.holder.filter(|_| !context.has_registers_in_block)?;
        let (distance, top) = closest(memory, holder, tops)?;
        (top != context.top).then_some(distance)
    };
    let known: HashSet<i64> = parked.iter().filter_map(|context| distance(context)).collect();
    let mut all_at: HashMap<Addr, bool> = HashMap::default();
    if known.is_empty() {
        return vec![false; contexts.len()];
    }
    let place = |context: &Context| context.frames.first().map(|frame| frame.pc.addr());
    for context in contexts.iter().filter(|context| context.state == State::Suspended) {
        let Some(place) = place(context) else { continue };
        let all = all_at.entry(place).or_insert(true);
        *all = *all && distance(context).is_some_and(|distance| known.contains(&distance));
    }
    let stands_there = |context: &&Context| place(context).is_some_and(|place| all_at.get(&place) == Some(&true));
    contexts.iter().map(stands_there).collect()
}

/// Whether the address of a stack that lies closest to `holder` is one of the stack that ends at `top`.
fn is_in_record(memory: &Slices<'_>, holder: Addr, top: Addr, tops: &Tops) -> bool {
    closest(memory, holder, tops).is_some_and(|(_, closest)| closest == top)
}

/// The address of a stack that lies closest to `holder`: how far from it, and the top of that stack.
fn closest(memory: &Slices<'_>, holder: Addr, tops: &Tops) -> Option<(i64, Addr)> {
    let stack_at = |offset: i64| {
        let word = Addr(memory.read_u64(holder.offset(offset)).ok()?);
        // What is not on a stack is far from the next one, or in no writable memory.
        let above = tops.above(word).filter(|above| above.0 - word.0 < MOST_SEARCHED)?;
        memory.knows(word).then_some((offset, above))
    };
    (1..=RECORD / 8).flat_map(|words| [-8 * words, 8 * words]).find_map(stack_at)
}

/// The words in `range` that are not zero, sorted.
fn words(memory: &Slices<'_>, range: AddrRange) -> Vec<u64> {
    let range = AddrRange::new(range.low.align_up(8).min(range.high), range.high);
    let chunks = memory.pieces_in(range).flat_map(|(_, bytes)| bytes.as_chunks::<8>().0);
    let mut words: Vec<u64> = chunks.map(|word| u64::from_le_bytes(*word)).collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Pc;
    use crate::find::testing::{HEAP, STACK, Words};
    use crate::snapshot::Confidence;
    use crate::unwind::{Ended, FoundBy, Frame};

    const SIZE: u64 = 0x1000;
    const IN_THREAD: u64 = 0x10_0000;
    const IN_OUTER: u64 = 0x10_0400;
    const IN_RESTING: u64 = 0x10_0800;

    /// An address on the stack with this number.
    fn on(stack: u64) -> u64 {
        STACK + SIZE * stack + 0x800
    }

    fn context(stack: u64, pc: u64, holder: u64) -> Context {
        let pc = Pc::After(Addr(pc));
        let top = Addr(STACK + SIZE * (stack + 1));
        Context {
            sp: Addr(on(stack)),
            top,
            frames: vec![Frame { pc, cfa: Some(top), found_by: FoundBy::Cfi, signal: false }],
            segments: Vec::new(),
            ended: Ended::Root,
            state: State::Suspended,
            confidence: Confidence::Certain,
            holder: Some(Addr(holder)),
            block: None,
            has_registers_in_block: false,
        }
    }

    /// A thread on stack 0 resumed the coroutine on stack 1, which waits in one that runs on stack 2; on stack 3 one rests
    /// that was last resumed from stack 1. Of each coroutine a record has where it left its stack, and its resumer.
    fn check(resting_at: u64, has_registers: bool, expected: [bool; 2]) {
        let stacks = vec![0; 4 * SIZE as usize / 8];
        let [outer, inner, resting] = [HEAP, HEAP + 0x80, HEAP + 0x100];
        let words = Words::new(&[
            (HEAP, &[on(1) - 64, on(0)]),
            (inner, &[on(2) - 64, on(1)]),
            (resting, &[on(3), on(1) - 32]),
            (STACK, &stacks),
        ]);
        let memory = &words.slices();
        let mut contexts =
            [context(0, IN_THREAD, outer + 8), context(1, IN_OUTER, inner + 8), context(3, resting_at, resting)];
        contexts.iter_mut().for_each(|context| context.has_registers_in_block = has_registers);
        let contexts: Vec<&Context> = contexts.iter().collect();
        let tops = Tops::new((1..=4).map(|stack| Addr(STACK + SIZE * stack)));
        let held = held_as(memory, &contexts, &contexts[..1], &tops);
        assert_eq!(held[1..], expected);
        let who = |live: u64| {
            let live = AddrRange::new(Addr(on(live)), Addr(STACK + SIZE * (live + 1)));
            resumer(memory, live, &contexts, &tops, |index| index > 0 && held[index])
        };
        assert_eq!(who(2), expected[0].then_some(1));
        assert_eq!(who(1), None);
    }

    #[test]
    fn a_resumer_is_held_where_threads_are() {
        check(IN_RESTING, false, [true, false]);
    }

    #[test]
    fn where_some_only_rest_nobody_waits_for_another() {
        check(IN_OUTER, false, [false, false]);
    }

    #[test]
    fn a_register_is_no_link() {
        check(IN_RESTING, true, [false, false]);
    }
}
