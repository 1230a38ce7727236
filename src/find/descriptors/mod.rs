//! What the code of an image says about switching stacks: which instructions move the stack pointer to another stack,
//! and where a context that left there keeps its registers.
//!
//! You give an image's code and a way to ask where functions begin; you get its [`Descriptor`]s and [`StartLabel`]s.
//! All of it is derived from the instructions. No library is known by its name: one name stands for different layouts in
//! different libraries, and stripped programs have no names.
//!
//! Words: a *switch site* is an instruction that gives the stack pointer a value from elsewhere. The *saved stack pointer*
//! is the number that the program keeps to come back. The *resume word* is the word, at a fixed distance from it or in the
//! same block, that holds the code address at which execution goes on. A *block* is a structure that holds saved registers.
//!
//! It looks at x86-64 code only; for other CPUs nothing is found.

mod buffer;
mod caller;
mod departures;
mod flow;
mod handed;
mod inlined;
mod labelled;
mod machine;
mod routine;
mod start;
#[cfg(test)]
mod tests;

pub(in crate::find) use caller::{Kept, kept_at};
pub use departures::{Departure, departures};

use crate::image::{CodeBytes, stack_pointer_writes};
use crate::registers::Register;
use flow::Reader;
use serde::{Deserialize, Serialize};

/// The executable parts of an image, at the addresses that its file names.
#[derive(Clone, Copy)]
pub struct ImageCode<'a> {
    /// Its code, sorted by address.
    pub parts: &'a [CodeBytes<'a>],
    /// The start of the function that covers an address, from unwind tables and symbols; `None` where neither knows.
    pub function_start: &'a dyn Fn(u64) -> Option<u64>,
    /// The starts of functions that have a symbol, each at most so many bytes before one of these sorted addresses.
    pub named_starts: &'a dyn Fn(&[u64], u64) -> Vec<u64>,
}

/// Where a saved word lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// On the suspended stack, so many bytes above the saved stack pointer.
    Stack(i64),
    /// In the block, so many bytes above its start.
    Block(i64),
}

/// How glibc hides pointers in a `jmp_buf` (`PTR_MANGLE`): `stored = rotate_left(value ^ guard, rotation)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mangling {
    /// The guard is the word so many bytes above the thread pointer.
    pub guard: u32,
    /// Bits.
    pub rotation: u8,
}

impl Mangling {
    /// What is stored for `value`.
    pub fn hide(self, value: u64, guard: u64) -> u64 {
        (value ^ guard).rotate_left(u32::from(self.rotation))
    }

    /// The value that is stored as `word`.
    pub fn reveal(self, word: u64, guard: u64) -> u64 {
        word.rotate_right(u32::from(self.rotation)) ^ guard
    }
}

/// Where a context that left through one switch keeps what it needs to go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// Where the resume word is.
    pub resume_word: Place,
    /// Where on the stack a copy of it stays as long as the context is suspended, in bytes above the saved stack pointer.
    pub stack_copy: Option<i64>,
    /// Where in the block the saved stack pointer is; `None` where it is only handed on in a register.
    pub sp_slot: Option<i64>,
    /// Bits that the kept stack pointer may have besides: what it leaves free is used for something else.
    pub tags: u8,
    /// The stack pointer after resuming, in bytes above the saved one.
    pub sp_after: i64,
    /// Saved registers.
    pub registers: Vec<(Register, Place)>,
    /// How the resume word, the saved stack pointer and the frame pointer in the block are hidden.
    pub mangling: Option<Mangling>,
}

impl Layout {
    /// Whether a block holds registers, and not the stack pointer alone.
    pub fn has_registers_in_block(&self) -> bool {
        self.registers.iter().any(|(_, place)| matches!(place, Place::Block(_)))
    }
}

/// At which code addresses a context that left can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Resume {
    /// Behind each call of the routine that begins here.
    AfterCallsOf(u64),
    /// At this label inside a function, from where a few instructions lead to `goes_on`, where [`Layout`] holds.
    Label {
        /// The resume word.
        label: u64,
        /// Where the registers are what the layout says.
        goes_on: u64,
    },
}

/// A way to leave a stack, and what is saved by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    /// The switch site; for a routine that only saves, like `setjmp`, the site in the one that restores.
    pub site: u64,
    /// Where a context goes on that left here.
    pub resume: Resume,
    /// What it saved.
    pub layout: Layout,
    /// Where a context that never ran has its words, if the block itself names the code to begin with; what a switch
    /// leaves there is a place that only returns.
    pub fresh: Option<Layout>,
    /// Whether the routine only saves and returns: the context runs on, and what it saved may never be used (`setjmp`).
    pub saves_only: bool,
}

/// A code address that a fresh context has as its resume word: it was prepared and never run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct StartLabel(pub u64);

/// What was derived from the code of an image. Addresses are as the file names them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Switches {
    /// The ways to leave a stack.
    pub descriptors: Vec<Descriptor>,
    /// Where fresh contexts may begin.
    pub starts: Vec<StartLabel>,
    /// Those that contexts begin at whose block names them, for descriptors that say how such a block looks.
    pub named_by_blocks: Vec<StartLabel>,
}

impl Switches {
    /// Adds descriptors; of those that find the same words by the same places, only that which knows most registers.
    fn add(&mut self, found: impl IntoIterator<Item = Descriptor>) {
        for found in found {
            let places = |it: &Descriptor| (it.resume, it.layout.resume_word, it.layout.stack_copy, it.layout.sp_slot);
            match self.descriptors.iter_mut().find(|known| places(known) == places(&found)) {
                Some(known) if known.layout.registers.len() < found.layout.registers.len() => *known = found,
                Some(_) => {}
                None => self.descriptors.push(found),
            }
        }
    }

    /// Adds what functions save with a label's address, but of those that are known to switch by their calls.
    fn add_labelled(&mut self, found: Vec<Descriptor>, reader: &Reader<'_>) {
        let entry = |it: &Descriptor| match it.resume {
            Resume::AfterCallsOf(entry) => Some(entry),
            Resume::Label { label, .. } => reader.function_start(label),
        };
        let known: Vec<_> = self.descriptors.iter().filter_map(entry).collect();
        self.add(found.into_iter().filter(|it| entry(it).is_none_or(|entry| !known.contains(&entry))));
    }
}

/// More candidate instructions than this are not looked at: a big program has about 70 in 200 MB of code.
const MOST_CANDIDATES: usize = 4096;

/// Derives all there is to know of stack switching from an image's code.
pub fn derive(code: &ImageCode<'_>) -> Switches {
    let writes = code.parts.iter().flat_map(|part| stack_pointer_writes(*part));
    let candidates: Vec<u64> = writes.take(MOST_CANDIDATES).collect();
    let mut reader = Reader::new(code);
    // Most candidates lie inside other instructions, or in functions that go on with what they do.
    let sites: Vec<u64> = candidates.iter().copied().filter(|site| reader.leads_away(*site)).collect();
    let trampolines: Vec<u64> =
        candidates.into_iter().filter(|site| start::may_be_in_trampoline(&reader, *site)).collect();
    reader.learn_entries(sites.iter().chain(&trampolines));
    let mut switches = Switches { descriptors: handed::derive(&reader, &sites), ..Switches::default() };
    let (mut loaders, mut jumps) = (Vec::new(), Vec::new());
    for site in &sites {
        let findings = routine::derive(&reader, *site);
        let is_new = |loader: &routine::Loader| loaders.iter().all(|known: &routine::Loader| !known.loads_like(loader));
        loaders.extend(findings.loader.filter(is_new));
        let is_new = |jump: &routine::BlockJump| jumps.iter().all(|known: &routine::BlockJump| !known.is_like(jump));
        jumps.extend(findings.jump.filter(is_new));
        if switches.descriptors.iter().all(|known| known.site != *site) {
            match inlined::derive(&reader, *site) {
                Some(inlined) => switches.add([inlined]),
                None => switches.add(findings.descriptors),
            }
        }
    }
    let stores: Vec<u64> = loaders.iter().flat_map(|loader| buffer::places(&reader, loader)).collect();
    reader.learn_entries(stores.iter());
    for loader in &loaders {
        let savers = buffer::savers(&reader, loader).into_iter();
        let is_new = |saver: &Descriptor| switches.descriptors.iter().all(|known| known.resume != saver.resume);
        let savers: Vec<_> = savers.filter(is_new).collect();
        switches.add(savers);
    }
    switches.add_labelled(labelled::derive(&reader, &jumps), &reader);
    switches.starts = start::labels(&reader, &switches.descriptors, &trampolines);
    switches.named_by_blocks = start::named_by_blocks(&reader, &switches.descriptors);
    switches
}
