//! Says of each suspended context whether it will run on, was prepared and never ran, or is finished, and how sure that is.
//!
//! A library that finishes a coroutine with one more switch leaves behind what looks like a suspended context. It is
//! told from the others by where its outer frames stand: behind the place where those of its siblings stand, in code
//! that leads neither back there nor out of its function.

use std::collections::{HashMap, HashSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::chains::{Chain, Chains, Root};
use super::choose::{Choice, Holder};
use super::sites::{Origin, Sites};
use crate::addr::{Addr, Pc};
use crate::memory::Memory;
use crate::unwind::{Ended, Frame};

/// A finished coroutine's chain has at most this many frames: the user's are gone.
const MOST_FINISHED: usize = 6;

/// At most this many instructions of a function are looked at.
const MOST_INSTRUCTIONS: usize = 512;

/// Calls of functions that never return are followed this deep to find out.
const DEEPEST: usize = 3;

/// The target's code, and what it jumps through.
#[derive(Clone, Copy)]
pub struct CodeView<'a> {
    /// Fills a buffer with the code at an address; `false` where there is none.
    pub read: &'a dyn Fn(Addr, &mut [u8]) -> bool,
    /// The start of the function that covers an address, where it is known.
    pub function_start: &'a dyn Fn(Addr) -> Option<Addr>,
    /// Where jumps through memory find their targets.
    pub memory: &'a dyn Memory,
}

/// What a context will do when it is switched to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum State {
    /// Go on where it left.
    Suspended,
    /// Begin.
    New,
    /// Nothing: it has ended, and its stack is kept.
    Finished,
}

/// How sure it is that a context is one, and in that state. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Confidence {
    /// Nothing speaks against it.
    Certain,
    /// There was more than one way to read memory, or nothing to compare it with.
    Likely,
    /// Something that a context should have is missing.
    Guess,
}

/// A context that no thread is running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    /// The stack pointer with which it goes on.
    pub sp: Addr,
    /// The highest address that its frames reach.
    pub top: Addr,
    /// Its frames, innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub ended: Ended,
    /// What it will do.
    pub state: State,
    /// How sure that is.
    pub confidence: Confidence,
    /// Where the program keeps its stack pointer.
    pub holder: Option<Addr>,
}

/// Classifies the chosen chains, in their order.
pub fn classify(chains: &Chains, sites: &Sites, choices: &[Choice], code: CodeView<'_>) -> Vec<Context> {
    let siblings = Siblings::new(chains, choices);
    let mut ends = Ends { code, known: HashMap::new() };
    let mut context = |choice: &Choice| {
        let chain = &chains.chains[choice.chain];
        let frames = chains.frames_of(chain);
        let origin = sites.sites[chain.hypothesis.site as usize].origin;
        let state = match origin {
            Origin::Fresh => State::New,
            _ if choice.holder == Holder::None => State::Finished,
            _ => siblings.state(frames, &mut ends),
        };
        Context {
            sp: chain.sp,
            top: chain.top,
            frames: frames.to_vec(),
            ended: chain.ended,
            state,
            confidence: confidence(chain, choice, origin, state, siblings.differ(frames)),
            holder: chain.hypothesis.holder,
        }
    };
    choices.iter().map(&mut context).collect()
}

fn confidence(chain: &Chain, choice: &Choice, origin: Origin, state: State, differ: bool) -> Confidence {
    match (origin, choice.holder) {
        (_, Holder::None) => Confidence::Guess,
        _ if chain.root == Root::TopOfMemory => Confidence::Guess,
        _ if state != State::Suspended || choice.candidates > 1 || !differ => Confidence::Likely,
        _ => Confidence::Certain,
    }
}

/// How contexts with the same outermost frame differ.
struct Siblings {
    /// By root: by distance from the root, by function's call place, how many stand there.
    places: HashMap<(Pc, usize), HashMap<Addr, usize>>,
    /// By root: the chains' innermost places, to know whether all are alike.
    shapes: HashMap<Pc, HashSet<(Addr, usize)>>,
}

impl Siblings {
    fn new(chains: &Chains, choices: &[Choice]) -> Siblings {
        let mut siblings = Siblings { places: HashMap::new(), shapes: HashMap::new() };
        let held = choices.iter().filter(|choice| choice.holder != Holder::None);
        for frames in held.map(|choice| chains.frames_of(&chains.chains[choice.chain])) {
            let Some(root) = frames.last().map(|frame| frame.pc) else { continue };
            for (distance, frame) in frames.iter().rev().enumerate().take(MOST_FINISHED) {
                *siblings.places.entry((root, distance)).or_default().entry(frame.pc.addr()).or_default() += 1;
            }
            let inner = frames.first().map_or(Addr(0), |frame| frame.pc.addr());
            siblings.shapes.entry(root).or_default().insert((inner, frames.len()));
        }
        siblings
    }

    /// Whether contexts with the same root stand in different places.
    fn differ(&self, frames: &[Frame]) -> bool {
        let shapes = frames.last().and_then(|frame| self.shapes.get(&frame.pc));
        shapes.is_some_and(|shapes| shapes.len() > 1)
    }

    fn state(&self, frames: &[Frame], ends: &mut Ends<'_>) -> State {
        let Some(root) = frames.last().map(|frame| frame.pc) else { return State::Suspended };
        if frames.len() > MOST_FINISHED {
            return State::Suspended;
        }
        for (distance, frame) in frames.iter().rev().enumerate() {
            let Some(places) = self.places.get(&(root, distance)) else { continue };
            let at = frame.pc.addr();
            let earlier = places.keys().any(|place| is_shortly_before(*place, at));
            if matches!(frame.pc, Pc::After(_)) && earlier && ends.is_end(at) {
                return State::Finished;
            }
        }
        State::Suspended
    }
}

/// Whether `place` may be an earlier place in the function that `at` lies in.
fn is_shortly_before(place: Addr, at: Addr) -> bool {
    const LONGEST_FUNCTION: u64 = 4096;
    place < at && at.0 - place.0 < LONGEST_FUNCTION
}

/// Finds out whether code leads anywhere.
struct Ends<'a> {
    code: CodeView<'a>,
    known: HashMap<Addr, bool>,
}

impl Ends<'_> {
    /// Whether from this return address on neither a return nor the call before it can be reached again.
    fn is_end(&mut self, at: Addr) -> bool {
        if let Some(known) = self.known.get(&at) {
            return *known;
        }
        let is_end = !self.goes_on(at, Some(at), DEEPEST);
        self.known.insert(at, is_end);
        is_end
    }

    /// Whether code from `start` on can return, or come to `again`; what can't be followed is taken to.
    fn goes_on(&self, start: Addr, again: Option<Addr>, depth: usize) -> bool {
        let mut waiting = vec![start];
        let mut visited = HashSet::new();
        while let Some(at) = waiting.pop() {
            if !visited.insert(at) {
                continue;
            }
            if visited.len() > MOST_INSTRUCTIONS {
                return true;
            }
            let Some(instruction) = self.instruction(at) else { return true };
            let next = Addr(instruction.next_ip());
            match instruction.flow_control() {
                FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt => {}
                FlowControl::Next => waiting.push(next),
                FlowControl::UnconditionalBranch => waiting.push(Addr(instruction.near_branch_target())),
                FlowControl::ConditionalBranch => waiting.extend([next, Addr(instruction.near_branch_target())]),
                FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                    if Some(next) == again {
                        return true;
                    }
                    // Behind a call that never returns, the compiler puts nothing.
                    let same_function = (self.code.function_start)(next) == (self.code.function_start)(at);
                    if same_function && self.returns(Addr(instruction.near_branch_target()), depth) {
                        waiting.push(next);
                    }
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    if Some(next) == again {
                        return true;
                    }
                    waiting.push(next);
                }
                FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                    let slot = Addr(instruction.ip_rel_memory_address());
                    let Ok(target) = self.code.memory.read_u64(slot) else { return true };
                    waiting.push(Addr(target));
                }
                FlowControl::Exception => {}
                _ => return true,
            }
        }
        false
    }

    fn returns(&self, function: Addr, depth: usize) -> bool {
        depth == 0 || self.goes_on(function, None, depth - 1)
    }

    fn instruction(&self, at: Addr) -> Option<Instruction> {
        // An instruction near the end of a page of code is read in what pieces there are.
        let mut bytes = [0; 15];
        let length = (1..=bytes.len()).rev().find(|length| (self.code.read)(at, &mut bytes[..*length]))?;
        let instruction = Decoder::with_ip(64, &bytes[..length], at.0, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }
}
