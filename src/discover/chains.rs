//! Unwinds a hypothesis: it may be a context only if its chain of frames leads to a believable root.

use std::collections::HashSet;
use std::num::NonZero;
use std::ops::ControlFlow;

use super::contexts::{self, Hypothesis, Scene};
use super::ends::{CodeView, Ends};
use super::sites::{Origin, Sites};
use crate::addr::{Addr, AddrRange, Pc};
use crate::mapping::{Mapping, mapping_at};
use crate::registers::{Register, Registers};
use crate::unwind::{Ended, FoundBy, Frame, Rules, Tables, walk_from};

/// The most frames of one chain.
const MOST_FRAMES: usize = 1 << 16;

/// The most frames that are looked at in all, or one for so many bytes of memory where that is more: it bounds time and
/// memory on a heap full of false contexts. 100,000 coroutines of a debug build have 16 million, most of them left over.
const MOST_FRAMES_IN_ALL: usize = 1 << 23;
const BYTES_FOR_A_FRAME: usize = 32;

/// More threads than this do not unwind faster: each compiles the rules that it meets anew.
const MOST_THREADS: usize = 4;

/// A thread is not worth starting for fewer hypotheses than this.
const FEWEST_EACH: usize = 4096;

/// Code without unwind rules is a library's start code if it lies this close to a switch routine, in bytes.
const NEAR: u64 = 1024;

/// A CFA that an expression gives may lie this far above a register of its frame, in bytes, to count as one of the
/// same stack: functions that realign their stack keep the caller's stack pointer close by.
const REALIGNED: u64 = 1024;

/// Why a chain has no more frames on its stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Root {
    /// The rules or a zero say that nobody called the outermost frame, or its return address was put there by hand.
    Marked,
    /// The outermost frame's rules, or those of one behind it that never runs, lead to whoever resumed it last.
    Link,
    /// The outermost frame stands in a library's start code, for which there are no rules.
    StartCode,
    /// The next return address would lie above the memory that holds the stack.
    TopOfMemory,
}

/// A hypothesis that unwinds to a root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Where it was found.
    pub hypothesis: Hypothesis,
    /// The stack pointer with which it goes on.
    pub sp: Addr,
    /// Its frames: a range of [`Chains::frames`].
    pub frames: std::ops::Range<usize>,
    /// Where it ended.
    pub root: Root,
    /// The highest address that its frames reach.
    pub top: Addr,
    /// Why there are no more frames.
    pub ended: Ended,
}

/// Chains and their frames.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chains {
    /// Those that unwind to a root.
    pub chains: Vec<Chain>,
    /// The frames of all, each chain's innermost first.
    pub frames: Vec<Frame>,
    /// Whether the limit was reached, so that there may be more.
    pub cut: bool,
}

impl Chains {
    fn append(&mut self, other: Chains) {
        let offset = self.frames.len();
        self.frames.extend(other.frames);
        self.chains.extend(
            other
                .chains
                .into_iter()
                .map(|chain| Chain { frames: chain.frames.start + offset..chain.frames.end + offset, ..chain }),
        );
        self.cut |= other.cut;
    }

    /// The frames of `chain`.
    pub fn frames_of(&self, chain: &Chain) -> &[Frame] {
        &self.frames[chain.frames.clone()]
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
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(MOST_THREADS).min(hypotheses.len().div_ceil(FEWEST_EACH)).max(1);
    let bytes: usize = scene.memory.iter().map(|(_, bytes)| bytes.len()).sum();
    let most_frames = MOST_FRAMES_IN_ALL.max(bytes / BYTES_FOR_A_FRAME);
    let work = |part: &[Hypothesis]| {
        let mut rules = Rules::new(tables);
        let (rules, big_frames, left) = (&mut rules, HashSet::new(), most_frames / threads);
        Unwinding { scene, sites, mappings, rules, ends: Ends::new(code), big_frames, left }.unwind_all(part)
    };
    let mut parts = hypotheses.chunks(hypotheses.len().div_ceil(threads).max(1));
    std::thread::scope(|scope| {
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let mut found = work(first);
        for other in others {
            match other.join() {
                Ok(other) => found.append(other),
                Err(_) => found.cut = true,
            }
        }
        found
    })
}

/// Unwinds hypotheses one after another.
struct Unwinding<'u, 't, 'd> {
    scene: &'u Scene<'u>,
    sites: &'u Sites,
    mappings: &'u [Mapping],
    rules: &'u mut Rules<'t, 'd>,
    ends: Ends<'u>,
    /// How many more frames may be looked at.
    left: usize,
    /// Places whose frames are so big that their CFA lies far from every register, though it is counted from one.
    big_frames: HashSet<Pc>,
}

impl Unwinding<'_, '_, '_> {
    fn unwind_all(mut self, hypotheses: &[Hypothesis]) -> Chains {
        let mut found = Chains::default();
        for hypothesis in hypotheses {
            if self.left == 0 {
                found.cut = true;
                break;
            }
            let start = found.frames.len();
            match self.unwind(hypothesis.clone(), &mut found.frames) {
                Some(chain) => found.chains.push(chain),
                None => found.frames.truncate(start),
            }
        }
        found
    }

    fn unwind(&mut self, hypothesis: Hypothesis, frames: &mut Vec<Frame>) -> Option<Chain> {
        let registers = contexts::registers(self.scene, self.sites, &hypothesis);
        let pc = contexts::resumes_at(self.scene, self.sites, &hypothesis)?;
        let is_fresh = self.sites.sites[hypothesis.site as usize].origin == Origin::Fresh;
        let sp = if is_fresh { hypothesis.saved_sp } else { Addr(registers.get(STACK_POINTER)?) };
        // A stack lies in memory of no file; tables of addresses, which look like fresh ones, often do not.
        let mapping = mapping_at(self.mappings, hypothesis.saved_sp)?;
        let memory = mapping.range;
        if mapping.file().is_some() || !mapping.access.write {
            return None;
        }
        let start = frames.len();
        if is_fresh && contexts::begins_at_label(self.sites, &hypothesis) {
            // Nobody called what begins there, and the words above are arguments.
            let frame = Frame { pc, cfa: None, found_by: FoundBy::Context, signal: false };
            frames.push(frame);
            let (top, ended) = (hypothesis.word_at.offset(8), Ended::Root);
            return Some(Chain { hypothesis, sp, frames: start..frames.len(), root: Root::StartCode, top, ended });
        }
        let (climb, ended) = loop {
            frames.truncate(start);
            let (big_frames, ends) = (&self.big_frames, &mut self.ends);
            let mut climb = Climb { memory, top: sp, stop: None, is_marked: false, big_frames, ends };
            let ended =
                walk_from(self.rules, self.scene.memory, pc, registers.clone(), MOST_FRAMES, |frame, registers| {
                    climb.visit(frame, registers, frames)
                });
            let (top, stop) = (climb.top, climb.stop);
            self.left = self.left.saturating_sub(frames.len() - start + 1);
            match (stop, frames.last()) {
                (Some(Stop::Leaves { on_this_stack }), Some(last)) => {
                    let is_link = self.rules.cfa_is_expression(last.pc, self.scene.memory);
                    // Each time around one more place is known, and a chain has a limited number of them.
                    match is_link || !on_this_stack || !self.big_frames.insert(last.pc) {
                        true if is_link => break ((top, stop), ended),
                        true => return None,
                        false => {}
                    }
                }
                _ => break ((top, stop), ended),
            }
        };
        let (top, stop) = climb;
        let last = frames[start..].last()?;
        let in_start_code = last.cfa.is_none() && is_near_switch(self.sites, last.pc);
        let root = match (stop, ended) {
            (Some(Stop::Leaves { .. } | Stop::Linked), _) => Root::Link,
            (Some(Stop::Guessed), _) | (None, Ended::NoRule) if in_start_code => Root::StartCode,
            (Some(Stop::Guessed), _) => return None,
            (None, Ended::Root) => Root::Marked,
            (None, Ended::Unreadable(at)) if at >= memory.high.offset(-8) => Root::TopOfMemory,
            (None, _) if is_fresh && frames.len() == start + 1 => Root::StartCode,
            (None, _) => return None,
        };
        let ended = if stop.is_some() { Ended::Root } else { ended };
        Some(Chain { hypothesis, sp, frames: start..frames.len(), root, top, ended })
    }
}

const STACK_POINTER: Register = Register(7);
const FRAME_POINTER: Register = Register(6);

/// Why a walk was stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// A frame's CFA is far from its registers, or below the last one, or in another mapping.
    Leaves {
        /// Whether it may nevertheless be of the same stack.
        on_this_stack: bool,
    },
    /// The next frame stands for the stack that this one was resumed from last.
    Linked,
    /// The next frame would be a guess.
    Guessed,
}

/// A walk up one stack.
struct Climb<'b, 'e> {
    /// The mapping that holds the stack.
    memory: AddrRange,
    /// The highest CFA so far.
    top: Addr,
    stop: Option<Stop>,
    /// Whether the last frame is marked as a signal's. A library marks its outermost frame so where the next one lies on
    /// another stack, for debuggers to go on.
    is_marked: bool,
    big_frames: &'b HashSet<Pc>,
    ends: &'b mut Ends<'e>,
}

impl Climb<'_, '_> {
    fn visit(&mut self, frame: &Frame, registers: &Registers, frames: &mut Vec<Frame>) -> ControlFlow<()> {
        if matches!(frame.found_by, FoundBy::FramePointer | FoundBy::Scan) {
            self.stop = Some(Stop::Guessed);
            return ControlFlow::Break(());
        }
        // What a signal interrupted has all its registers from the kernel.
        let is_behind_mark = std::mem::replace(&mut self.is_marked, frame.signal) && frame.found_by == FoundBy::Cfi;
        let Some(cfa) = frame.cfa else {
            frames.push(*frame);
            return ControlFlow::Continue(());
        };
        let on_this_stack = self.top < cfa && cfa <= self.memory.high;
        if is_behind_mark && (!on_this_stack || self.ends.is_end(frame.pc.addr())) {
            self.stop = Some(Stop::Linked);
            return ControlFlow::Break(());
        }
        let is_close = |register| registers.get(register).is_some_and(|value| cfa.0.wrapping_sub(value) <= REALIGNED);
        let is_plain = is_close(STACK_POINTER) || is_close(FRAME_POINTER) || self.big_frames.contains(&frame.pc);
        if on_this_stack && is_plain {
            self.top = cfa;
            frames.push(*frame);
            return ControlFlow::Continue(());
        }
        frames.push(Frame { cfa: None, ..*frame });
        self.stop = Some(Stop::Leaves { on_this_stack });
        ControlFlow::Break(())
    }
}

/// Whether code lies close to a switch routine.
fn is_near_switch(sites: &Sites, pc: Pc) -> bool {
    let at = pc.addr().0;
    let next = sites.entries.partition_point(|entry| *entry < at.saturating_sub(NEAR));
    sites.entries.get(next).is_some_and(|entry| *entry <= at.saturating_add(NEAR))
}
