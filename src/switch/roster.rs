//! The list of all stacks made here, for those who look from outside: a debugger, `stackscope dump`, a core file.
//!
//! `docs/ROSTER.md` describes the layout for other programs and other languages; this file is its source.
//! A stack is listed as long as its memory exists. Its line changes when a coroutine is made, begins, ends or is named,
//! and never at a switch: the line says where the coroutine keeps its saved stack pointer, and a null there says that it
//! runs.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError, RwLock};

/// What is found through the symbol `stackscope_roster`, through the note, or by its first bytes.
#[repr(C)]
struct Roster {
    magic: [u8; 16],
    version: u32,
    entry_size: u32,
    /// The chunk made last; each points to the one made before it.
    chunks: AtomicPtr<Chunk>,
}

/// A number of lines that never moves and is never freed.
#[repr(C)]
struct Chunk {
    next: *mut Chunk,
    length: u64,
    entries: [Entry; LENGTH],
}

const LENGTH: usize = 63;

/// One stack's line.
#[repr(C, align(64))]
pub(super) struct Entry {
    /// Odd while the line is being changed.
    sequence: AtomicU32,
    state: AtomicU32,
    low: AtomicU64,
    high: AtomicU64,
    /// The address of a word that holds the saved stack pointer, null while the coroutine runs; 0 where there is none.
    context: AtomicU64,
    source: Text<2>,
    name: Text<10>,
}

const _: () = assert!(size_of::<Entry>() == 128, "docs/ROSTER.md says so");
const _: () = assert!(size_of::<Roster>() == 32, "docs/ROSTER.md says so");

/// UTF-8 in words of eight bytes, ended by a zero byte.
#[repr(C)]
struct Text<const WORDS: usize>([AtomicU64; WORDS]);

/// What `state` may be. A suspended coroutine is one that has started and has a saved stack pointer.
pub(super) mod state {
    /// The line is not in use.
    pub(in super::super) const UNUSED: u32 = 0;
    /// A stack that waits for a user.
    pub(in super::super) const IDLE: u32 = 1;
    /// A coroutine that has not been resumed yet.
    pub(in super::super) const NEW: u32 = 2;
    /// A coroutine that has been resumed and is not over.
    pub(in super::super) const STARTED: u32 = 3;
    /// A coroutine that is over.
    pub(in super::super) const FINISHED: u32 = 4;
    /// A segment that `grow` put under another stack.
    pub(in super::super) const SEGMENT: u32 = 5;
}

#[unsafe(no_mangle)]
#[used]
#[allow(non_upper_case_globals)]
static stackscope_roster: Roster = Roster {
    magic: *b"stackscope ROST\x01",
    version: 1,
    entry_size: size_of::<Entry>() as u32,
    chunks: AtomicPtr::new(std::ptr::null_mut()),
};

// The note that leads to the roster in a stripped program: name "stackscope", type 1, and how far from the second word
// of its contents the roster is.
#[cfg(target_os = "linux")]
core::arch::global_asm!(
    ".pushsection .note.stackscope, \"a\", %note",
    ".balign 4",
    ".long 11, 8, 1",
    ".asciz \"stackscope\"",
    ".balign 4",
    "2: .quad {roster} - 2b",
    ".balign 4",
    ".popsection",
    roster = sym stackscope_roster,
);

/// Where the roster lies in this process, for those who read it as they would another's.
pub fn roster_address() -> usize {
    (&raw const stackscope_roster).addr()
}

/// Lines that are not in use.
static FREE: Mutex<Vec<&'static Entry>> = Mutex::new(Vec::new());

/// The stacks that exist, low end by high end.
static BOUNDS: RwLock<BTreeMap<usize, usize>> = RwLock::new(BTreeMap::new());

/// Counts the changes of [`BOUNDS`]; never 0 once there was one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A number that changes whenever a stack is listed or taken off the list.
#[inline]
pub(super) fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// The bounds of the listed stack that `address` is on.
pub(super) fn bounds(address: usize) -> Option<(usize, usize)> {
    let bounds = BOUNDS.read().unwrap_or_else(PoisonError::into_inner);
    let (&high, &low) = bounds.range(address + 1..).next()?;
    (low <= address).then_some((low, high))
}

/// A listed stack that was overflowed.
#[cfg(target_os = "linux")]
pub(super) struct Overflowed {
    pub(super) name: Name,
    pub(super) low: usize,
    pub(super) high: usize,
    pub(super) is_segment: bool,
}

/// The listed stack that code with the stack pointer `sp` overflowed when it touched `at`: the address lies in the stack's
/// guard, and the stack pointer on the stack or in the guard. Takes no lock, as it is asked by a signal handler.
#[cfg(target_os = "linux")]
pub(super) fn overflowed(at: usize, sp: usize) -> Option<Overflowed> {
    let guard = super::source::guard_size();
    let mut chunk = stackscope_roster.chunks.load(Ordering::Acquire).cast_const();
    // SAFETY: null or a chunk, which is never freed and whose entries are atomics.
    while let Some(found) = unsafe { chunk.as_ref() } {
        for entry in &found.entries {
            let state = entry.state.load(Ordering::Acquire);
            let (low, high) = (entry.low.load(Ordering::Relaxed) as usize, entry.high.load(Ordering::Relaxed) as usize);
            let end = low.saturating_sub(guard);
            if !matches!(state, state::UNUSED | state::IDLE) && (end..low).contains(&at) && (end..high).contains(&sp) {
                return Some(Overflowed { name: entry.name.bytes(), low, high, is_segment: state == state::SEGMENT });
            }
        }
        chunk = found.next;
    }
    None
}

/// Lists the idle stack `low..high`.
pub(super) fn list(low: usize, high: usize, source: &str) -> &'static Entry {
    BOUNDS.write().unwrap_or_else(PoisonError::into_inner).insert(high, low);
    GENERATION.fetch_add(1, Ordering::AcqRel);
    let entry = unused();
    entry.change(|| {
        entry.low.store(low as u64, Ordering::Relaxed);
        entry.high.store(high as u64, Ordering::Relaxed);
        entry.context.store(0, Ordering::Relaxed);
        entry.source.set(source);
        entry.name.set("");
        entry.state.store(state::IDLE, Ordering::Relaxed);
    });
    entry
}

/// Takes a stack off the list.
pub(super) fn unlist(entry: &'static Entry) {
    let high = entry.high.load(Ordering::Relaxed) as usize;
    BOUNDS.write().unwrap_or_else(PoisonError::into_inner).remove(&high);
    GENERATION.fetch_add(1, Ordering::AcqRel);
    entry.change(|| entry.state.store(state::UNUSED, Ordering::Relaxed));
    FREE.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
}

/// A line that is not in use, made where there is none.
fn unused() -> &'static Entry {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(entry) = free.pop() {
        return entry;
    }
    let next = stackscope_roster.chunks.load(Ordering::Relaxed);
    let chunk =
        Box::leak(Box::new(Chunk { next, length: LENGTH as u64, entries: [const { Entry::unused() }; LENGTH] }));
    // Written under the lock only; released, so that a reader who sees the chunk sees what is in it.
    stackscope_roster.chunks.store(chunk, Ordering::Release);
    // SAFETY: the chunk was leaked just now and is only ever read from here on.
    let chunk: &'static Chunk = unsafe { &*stackscope_roster.chunks.load(Ordering::Relaxed) };
    free.extend(chunk.entries[1..].iter().rev());
    &chunk.entries[0]
}

impl Entry {
    const fn unused() -> Entry {
        Entry {
            sequence: AtomicU32::new(0),
            state: AtomicU32::new(state::UNUSED),
            low: AtomicU64::new(0),
            high: AtomicU64::new(0),
            context: AtomicU64::new(0),
            source: Text([const { AtomicU64::new(0) }; 2]),
            name: Text([const { AtomicU64::new(0) }; 10]),
        }
    }

    /// Makes a change of several words, between which a reader knows that the line is in flux.
    fn change(&self, stores: impl FnOnce()) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        stores();
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The stack has a new user, whose saved stack pointer is in the word at `context`.
    #[inline]
    pub(super) fn occupy(&self, context: *const usize) {
        self.context.store(context.addr() as u64, Ordering::Relaxed);
        self.state.store(state::NEW, Ordering::Release);
    }

    /// The user of the stack has come to another state.
    #[inline]
    pub(super) fn set_state(&self, state: u32) {
        self.state.store(state, Ordering::Release);
    }

    /// The stack has no user any more.
    #[inline]
    pub(super) fn vacate(&self) {
        self.state.store(state::IDLE, Ordering::Release);
        self.context.store(0, Ordering::Relaxed);
        if self.name.0[0].load(Ordering::Relaxed) != 0 {
            self.set_name("");
        }
    }

    /// What the stack's user is called.
    pub(super) fn set_name(&self, name: &str) {
        self.change(|| self.name.set(name));
    }

    /// Which source the stack goes back to.
    pub(super) fn set_source(&self, source: &str) {
        self.change(|| self.source.set(source));
    }
}

impl<const WORDS: usize> Text<WORDS> {
    /// Stores as many whole characters of `text` as fit.
    fn set(&self, text: &str) {
        let fitting = &text.as_bytes()[..text.floor_char_boundary(WORDS * 8 - 1)];
        for (index, word) in self.0.iter().enumerate() {
            let mut bytes = [0; 8];
            let part = fitting.chunks(8).nth(index).unwrap_or_default();
            bytes[..part.len()].copy_from_slice(part);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// The text, for tests.
    #[cfg(test)]
    fn get(&self) -> String {
        self.bytes().as_str().to_owned()
    }

    #[cfg(any(test, target_os = "linux"))]
    fn bytes(&self) -> Name {
        let mut bytes = [0; 80];
        for (word, part) in self.0.iter().zip(bytes.chunks_exact_mut(8)) {
            part.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Name(bytes)
    }
}

/// A copy of a text, without an allocation.
#[cfg(any(test, target_os = "linux"))]
pub(super) struct Name([u8; 80]);

#[cfg(any(test, target_os = "linux"))]
impl Name {
    /// The text; a question mark where it was read in the middle of a change.
    pub(super) fn as_str(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).unwrap_or("?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{Coroutine, Guarded, OwnedStack, Yielder};

    fn saved_sp(entry: &Entry) -> usize {
        let context = std::ptr::with_exposed_provenance::<usize>(entry.context.load(Ordering::Relaxed) as usize);
        // SAFETY: the entry of a coroutine that exists.
        unsafe { context.read_volatile() }
    }

    #[test]
    fn a_line_follows_its_coroutine() {
        let stack = OwnedStack::from_source(&Guarded, 8192).unwrap();
        let (entry, range) = (stack.entry(), stack.range());
        assert_eq!(
            (entry.low.load(Ordering::Relaxed), entry.high.load(Ordering::Relaxed)),
            (range.base().addr() as u64, range.top().addr() as u64)
        );
        assert_eq!((entry.state.load(Ordering::Relaxed), entry.source.get().as_str()), (state::IDLE, "guarded"));

        let mut coroutine = Coroutine::on(stack, move |yielder: &Yielder<(), ()>, ()| {
            assert_eq!((entry.state.load(Ordering::Relaxed), saved_sp(entry)), (state::STARTED, 0));
            yielder.suspend(());
        })
        .unwrap();
        coroutine.set_name("a worker");
        assert_eq!((entry.state.load(Ordering::Relaxed), entry.name.get().as_str()), (state::NEW, "a worker"));
        let _ = coroutine.resume(());
        assert!((range.base().addr()..range.top().addr()).contains(&saved_sp(entry)));
        let _ = coroutine.resume(());
        assert_eq!(entry.state.load(Ordering::Relaxed), state::FINISHED);

        let stack = coroutine.into_stack().unwrap();
        assert_eq!((entry.state.load(Ordering::Relaxed), entry.name.get().as_str()), (state::IDLE, ""));
        drop(stack);
        assert!(entry.sequence.load(Ordering::Relaxed).is_multiple_of(2));
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let text = Text::<2>([const { AtomicU64::new(0) }; 2]);
        text.set("fourteen bytesä");
        assert_eq!(text.get(), "fourteen bytes");
        text.set("short");
        assert_eq!(text.get(), "short");
    }

    #[test]
    fn the_list_leads_to_every_line() {
        let stacks: Vec<_> = (0..3 * LENGTH).map(|_| OwnedStack::from_source(&Guarded, 4096).unwrap()).collect();
        let mut listed = std::collections::HashSet::new();
        let mut chunk = stackscope_roster.chunks.load(Ordering::Acquire).cast_const();
        // SAFETY: null or a chunk that was leaked.
        while let Some(found) = unsafe { chunk.as_ref() } {
            listed.extend(found.entries.iter().map(|entry| entry.low.load(Ordering::Relaxed) as usize));
            chunk = found.next;
        }
        assert!(stacks.iter().all(|stack| listed.contains(&stack.range().base().addr())));
    }
}
