//! Unwinds a hypothesis: it may be a context only if its chain of frames leads to a believable root.

use std::ops::Range;

use super::contexts;
use crate::addr::{Addr, Pc};
use crate::arch::X86_64;
use crate::find::sites::{Origin, Sites};
use crate::find::suspended::climb::{Climb, Climbed, Known, Stop};
use crate::find::suspended::contexts::{Hypothesis, Scene};
use crate::find::suspended::ends::CodeView;
use crate::mapping::{Mapping, mapping_at};
use crate::memory::{Memory as _, Nearby};
use crate::share;
use crate::unwind::{Ended, FoundBy, Frame, Rules, Tables, walk_from};

/// The most frames of one chain.
const MOST_FRAMES: usize = 1 << 16;

/// The most frames that are looked at in all, or one for so many bytes of memory where that is more: it bounds time and
/// memory on a heap full of false contexts. 100,000 coroutines of a debug build have 16 million, most of them left over.
const MOST_FRAMES_IN_ALL: usize = 1 << 23;
const BYTES_FOR_A_FRAME: usize = 32;

/// Chains have about so many frames.
const FRAMES_EACH: usize = 8;

/// So many bytes of a stack are read ahead of a walk.
const READ_AHEAD: usize = 1024;

/// A thread is not worth starting for fewer hypotheses than this.
const FEWEST_EACH: usize = 4096;

/// Code without unwind rules is a library's start code if it lies this close to a switch routine, in bytes.
const NEAR: u64 = 1024;

/// Addresses of programs have so many bits (Linux, `Documentation/arch/x86/x86_64/mm.rst`).
const USER_BITS: u32 = 47;

/// Why a chain has no more frames on its stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Root {
    /// The rules, or a zero or another number that is no address, say that nobody called the outermost frame, or its
    /// return address was put there by hand.
    Marked,
    /// The outermost frame's rules, or those of one behind it that never runs, lead to whoever resumed it last.
    Link,
    /// The outermost frame stands in a library's start code, for which there are no rules.
    StartCode,
    /// A context that never ran would begin at an ordinary function. Its address may be on a stack for other reasons.
    Function,
    /// The next return address would lie above the memory that holds the stack.
    TopOfMemory,
}

/// A hypothesis that unwinds to a root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Where it was found.
    pub hypothesis: Hypothesis,
    /// The stack pointer with which it goes on, or where it has segments, with which the first of them was called.
    pub sp: Addr,
    /// Its frames: a range of a list in [`Chains::frames`].
    pub frames: Range<usize>,
    /// Which list that is.
    pub list: usize,
    /// Further memory that functions were called on to have more room, innermost first.
    pub segments: Vec<Segment>,
    /// Where it ended.
    pub root: Root,
    /// The highest address that its frames reach.
    pub top: Addr,
    /// Why there are no more frames.
    pub ended: Ended,
}

impl Chain {
    /// The stack pointer with which it goes on, on a segment or on its stack.
    pub fn innermost_sp(&self) -> Addr {
        self.segments.first().map_or(self.sp, |segment| segment.sp)
    }

    /// The lowest address of its stack that is in use.
    pub fn low(&self) -> Addr {
        if self.segments.is_empty() { self.hypothesis.saved_sp } else { self.sp }
    }
}

/// The part of a chain that lies on a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The stack pointer there.
    pub sp: Addr,
    /// Its frames: a range of the same list as its chain's.
    pub frames: Range<usize>,
    /// The highest address that they reach.
    pub top: Addr,
}

/// Chains and their frames.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chains {
    /// Those that unwind to a root.
    pub chains: Vec<Chain>,
    /// The frames of all, each chain's innermost first, in as many lists as threads made them.
    pub frames: Vec<Vec<Frame>>,
    /// Whether the limit was reached, so that there may be more.
    pub cut: bool,
}

impl Chains {
    /// All frames of `chain`, those on segments too, innermost first. The last frame of a segment ends where the stack
    /// that its function was called on goes on.
    pub fn all_frames_of(&self, chain: &Chain) -> impl Iterator<Item = Frame> {
        let called_on = chain.segments.iter().skip(1).map(|segment| segment.sp).chain([chain.sp]);
        let segments = chain.segments.iter().zip(called_on).flat_map(|(segment, sp)| {
            let (last, others) = self.frames_on(chain, segment).split_last().unzip();
            let crossing = last.map(|frame| Frame { cfa: Some(sp), ..*frame });
            others.unwrap_or_default().iter().copied().chain(crossing)
        });
        segments.chain(self.frames_of(chain).iter().copied())
    }

    /// The frames of `chain` on the stack that it began on.
    pub fn frames_of(&self, chain: &Chain) -> &[Frame] {
        &self.frames[chain.list][chain.frames.clone()]
    }

    /// Those on one of its segments.
    pub fn frames_on(&self, chain: &Chain, segment: &Segment) -> &[Frame] {
        &self.frames[chain.list][segment.frames.clone()]
    }
}

/// Unwinds every hypothesis; those that lead nowhere are dropped. The work is shared by as many threads as help.
pub fn unwind(
    scene: &Scene<'_>,
    sites: &Sites,
    mappings: &[Mapping],
    tables: &Tables<'_>,
    code: CodeView<'_>,
    hypotheses: &[Hypothesis],
) -> Chains {
    let threads = share::threads(hypotheses.len(), FEWEST_EACH);
    let bytes: u64 = scene.memory.known().iter().map(|range| range.len()).sum();
    let most_frames = MOST_FRAMES_IN_ALL.max(usize::try_from(bytes).unwrap_or(usize::MAX) / BYTES_FOR_A_FRAME);
    let parts = hypotheses.chunks(hypotheses.len().div_ceil(threads).max(1)).enumerate().collect();
    let found = share::among(parts, |(list, part): (usize, &[Hypothesis])| {
        let nearby = Nearby::new(scene.memory);
        let scene = &scene.through(&nearby);
        let mut rules = Rules::new(tables);
        let (rules, known, left) = (&mut rules, Known::new(code), most_frames / threads);
        Unwinding { scene, sites, mappings, rules, known, list, left }.unwind_all(part)
    });
    let mut all = Chains::default();
    let mut chains = Vec::new();
    for (of_part, frames, cut) in found {
        chains.push(of_part);
        all.frames.push(frames);
        all.cut |= cut;
    }
    Chains { chains: share::joined(chains), ..all }
}

/// Unwinds hypotheses one after another.
struct Unwinding<'u, 'a, 't, 'd> {
    scene: &'u Scene<'u, Nearby<'u, 'a>>,
    sites: &'u Sites,
    mappings: &'u [Mapping],
    rules: &'u mut Rules<'t, 'd>,
    known: Known<'u>,
    /// The list of [`Chains::frames`] that its frames will be.
    list: usize,
    /// How many more frames may be looked at.
    left: usize,
}

impl Unwinding<'_, '_, '_, '_> {
    /// The chains, their frames, and whether there may be more.
    fn unwind_all(mut self, hypotheses: &[Hypothesis]) -> (Vec<Chain>, Vec<Frame>, bool) {
        // To grow a large list takes longer than to fill it in.
        let mut frames = Vec::with_capacity((FRAMES_EACH * hypotheses.len()).min(self.left));
        let mut chains = Vec::with_capacity(hypotheses.len());
        for hypothesis in hypotheses {
            if self.left == 0 {
                return (chains, frames, true);
            }
            let start = frames.len();
            match self.unwind(hypothesis.clone(), &mut frames) {
                Some(chain) => chains.push(chain),
                None => frames.truncate(start),
            }
        }
        (chains, frames, false)
    }

    fn unwind(&mut self, hypothesis: Hypothesis, frames: &mut Vec<Frame>) -> Option<Chain> {
        self.scene.memory.warm(hypothesis.saved_sp, READ_AHEAD);
        let registers = contexts::registers(self.scene, self.sites, &hypothesis);
        let pc = contexts::resumes_at(self.scene, self.sites, &hypothesis)?;
        let is_fresh = self.sites.sites[hypothesis.site as usize].origin == Origin::Fresh;
        let sp = if is_fresh { hypothesis.saved_sp } else { Addr(registers.get(X86_64.sp)?) };
        // Stacks are rarely a program's own data; tables of addresses, which look like fresh ones, often are.
        let mapping = mapping_at(self.mappings, hypothesis.saved_sp)?;
        let memory = mapping.range;
        if !mapping.access.write || is_fresh && !mapping.is_memory() {
            return None;
        }
        let start = frames.len();
        if is_fresh && contexts::begins_at_label(self.sites, &hypothesis) {
            // Nobody called what begins there, and the words above are arguments.
            let frame = Frame { pc, cfa: None, found_by: FoundBy::Context, signal: false };
            frames.push(frame);
            let (top, ended) = (hypothesis.word_at.offset(8), Ended::Root);
            let (frames, segments) = (start..frames.len(), Vec::new());
            let is_function = self.rules.is_entry_of_called(pc.addr(), self.scene.memory);
            let root = if is_function { Root::Function } else { Root::StartCode };
            return Some(Chain { hypothesis, sp, frames, list: self.list, segments, root, top, ended });
        }
        let (climb, ended) = loop {
            frames.truncate(start);
            let mut climb = Climb::new(self.sites, self.mappings, &mut self.known, memory, sp, start);
            let registers = registers.clone();
            let ended = walk_from(self.rules, self.scene.memory, pc, registers, MOST_FRAMES, |frame, registers| {
                climb.visit(frame, registers, frames)
            });
            let climb = climb.end(frames);
            self.left = self.left.saturating_sub(frames.len() - start + 1);
            // Each time around one more place is known, and a chain has a limited number of them.
            if is_planted(&frames[climb.first..], climb.stop, ended) {
                break (Climbed { stop: None, ..climb }, ended);
            }
            if !self.learns(&climb, frames)? {
                break (climb, ended);
            }
        };
        let last = frames[climb.first..].last()?;
        let in_start_code = last.cfa.is_none() && is_near_switch(self.sites, last.pc);
        let root = match (climb.stop, ended) {
            (Some(Stop::Leaves { .. } | Stop::Linked), _) => Root::Link,
            (Some(Stop::Guessed), _) | (None, Ended::NoRule) if in_start_code => Root::StartCode,
            (Some(Stop::Guessed), _) => return None,
            (None, Ended::Root) => Root::Marked,
            (None, Ended::NoRule) if self.returns_nowhere(last) => Root::Marked,
            (None, Ended::Unreadable(at)) if at >= climb.memory.high.offset(-8) => Root::TopOfMemory,
            (None, _) if is_fresh && frames.len() == start + 1 => Root::StartCode,
            (None, _) => return None,
        };
        let ended = if climb.stop.is_some() || root == Root::Marked { Ended::Root } else { ended };
        let (sp, frames, segments, top) = (climb.sp, climb.first..frames.len(), climb.segments, climb.top);
        Some(Chain { hypothesis, sp, frames, list: self.list, segments, root, top, ended })
    }

    /// Whether a frame's return address is a number that can't be an address of a program's: a mark of the library's.
    fn returns_nowhere(&self, frame: &Frame) -> bool {
        // It lies right below the CFA (System V ABI, AMD64 supplement, figure 3.3).
        let word = frame.cfa.and_then(|cfa| self.scene.memory.read_u64(cfa.offset(-8)).ok());
        word.is_some_and(|word| word >> USER_BITS != 0)
    }

    /// Whether a climb has to be made again, as it has told something about a place; `None` where it leads nowhere.
    fn learns(&mut self, climb: &Climbed, frames: &[Frame]) -> Option<bool> {
        let memory = self.scene.memory;
        let crossings = climb.segments.iter().filter_map(|segment| frames[segment.frames.clone()].last());
        let links: Vec<Pc> =
            crossings.map(|frame| frame.pc).filter(|pc| self.rules.may_lead_elsewhere(*pc, memory)).collect();
        if !links.is_empty() {
            self.known.links.extend(links);
            return Some(true);
        }
        let (Some(Stop::Leaves { on_this_stack }), Some(last)) = (climb.stop, frames.last()) else {
            return Some(false);
        };
        match self.rules.may_lead_elsewhere(last.pc, memory) {
            true => Some(false),
            false => (on_this_stack && self.known.big_frames.insert(last.pc)).then_some(true),
        }
    }
}

/// Whether a chain ends with a function that nobody called, at its very beginning: its address was put where the outermost
/// function will return to. Where that is the highest word of all, the function's frame has no room any more.
fn is_planted(frames: &[Frame], stop: Option<Stop>, ended: Ended) -> bool {
    let is_at_start = |frame: &Frame| matches!(frame.pc, Pc::At(_)) && !frame.signal && frame.cfa.is_none();
    let leaves = matches!(stop, Some(Stop::Leaves { on_this_stack: false }));
    leaves && ended == Ended::Root && frames.len() > 1 && frames.last().is_some_and(is_at_start)
}

/// Whether code lies close to a switch routine.
fn is_near_switch(sites: &Sites, pc: Pc) -> bool {
    let at = pc.addr().0;
    let next = sites.entries.partition_point(|entry| *entry < at.saturating_sub(NEAR));
    sites.entries.get(next).is_some_and(|entry| *entry <= at.saturating_add(NEAR))
}

#[cfg(test)]
#[path = "chains_tests.rs"]
mod tests;
