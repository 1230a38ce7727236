//! Says of each suspended context whether it will run on, was prepared and never ran, or is finished, and how sure that is.
//!
//! A library that finishes a coroutine with one more switch leaves behind what looks like a suspended context. It is
//! told from the others by where its outer frames stand: behind the place where those of its siblings stand, in code
//! that leads neither back there nor out of its function, or out to the end of the program only.

use std::hash::{Hash, Hasher};

use foldhash::{HashMap, HashSet};

use super::chains;
use crate::addr::{Addr, Pc};
use crate::find::sites::{Origin, Sites};
use crate::find::suspended::chains::{Chain, Chains, Root};
use crate::find::suspended::choose::{Choice, Holder};
use crate::find::suspended::ends::{CodeView, Ends};
use crate::share;
pub(in crate::find) use crate::snapshot::Confidence;
use crate::unwind::{Ended, Frame};

/// A finished coroutine's chain has at most this many frames: the user's are gone.
const MOST_FINISHED: usize = 6;

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

/// A context that no thread is running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    /// The stack pointer with which it goes on.
    pub sp: Addr,
    /// The highest address that its frames reach.
    pub top: Addr,
    /// Its frames, innermost first.
    pub frames: Vec<Frame>,
    /// Further memory that it stands on, innermost first; then `sp` and `frames` are those of the stack that it began on.
    pub segments: Vec<Segment>,
    /// Why there are no more.
    pub ended: Ended,
    /// What it will do.
    pub state: State,
    /// How sure that is.
    pub confidence: Confidence,
    /// Where the program keeps its stack pointer.
    pub holder: Option<Addr>,
    /// The block that holds its stack pointer, where it is in one.
    pub block: Option<Addr>,
    /// Whether that holds registers too.
    pub has_registers_in_block: bool,
}

/// The part of a context that lies on a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The stack pointer there.
    pub sp: Addr,
    /// The highest address that its frames reach.
    pub top: Addr,
    /// Its frames, innermost first.
    pub frames: Vec<Frame>,
}

/// Classifies the chosen chains, in their order.
pub fn classify(chains: &Chains, sites: &Sites, choices: &[Choice], code: CodeView<'_>) -> Vec<Context> {
    let siblings = Siblings::new(chains, choices, code);
    let context = |choice: &Choice, ends: &mut Ends<'_>| {
        let chain = &chains.chains[choice.chain];
        let frames = chains.frames_of(chain);
        let origin = sites.sites[chain.hypothesis.site as usize].origin;
        let (state, is_sure) = match origin {
            Origin::Fresh => (State::New, true),
            _ if choice.holder == Holder::None => (State::Finished, true),
            _ => siblings.state(chain.root, frames, ends),
        };
        Context {
            sp: chain.sp,
            top: chain.top,
            frames: frames.to_vec(),
            segments: segments(chains, chain),
            ended: chain.ended,
            state,
            confidence: confidence(chain, choice, origin, state, is_sure && siblings.differ(frames)),
            holder: chain.hypothesis.holder.filter(|_| choice.holder != Holder::None),
            block: chain.hypothesis.block,
            has_registers_in_block: sites.layouts[chain.hypothesis.layout as usize].has_registers_in_block(),
        }
    };
    share::in_parts(choices, |part| {
        let mut ends = Ends::new(code);
        part.iter().map(|choice| context(choice, &mut ends)).collect()
    })
}

fn segments(chains: &Chains, chain: &Chain) -> Vec<Segment> {
    let segment =
        |part: &chains::Segment| Segment { sp: part.sp, top: part.top, frames: chains.frames_on(chain, part).to_vec() };
    chain.segments.iter().map(segment).collect()
}

fn confidence(chain: &Chain, choice: &Choice, origin: Origin, state: State, differ: bool) -> Confidence {
    match (origin, choice.holder) {
        (_, Holder::None) => Confidence::Guess,
        _ if chain.root == Root::TopOfMemory => Confidence::Guess,
        (_, Holder::Register) => Confidence::Likely,
        _ if state != State::Suspended || choice.candidates > 1 || !differ => Confidence::Likely,
        _ => Confidence::Certain,
    }
}

/// How contexts with the same outermost frame differ.
struct Siblings<'c> {
    /// By the outermost function and distance from it: the places where their frames stand.
    places: HashMap<(Addr, usize), HashMap<Pc, Standing<'c>>>,
    /// By the outermost place: the chains' innermost ones, to know whether all are alike.
    shapes: HashMap<Pc, HashSet<(Addr, usize)>>,
    /// The places from which their functions called something as the last thing they do, behind one where others wait for
    /// what they called by its address; and the routine that is called there.
    last_calls: HashMap<Pc, Addr>,
}

/// Frames, compared by where they stand in the code.
struct Path<'c>(&'c [Frame]);

impl Path<'_> {
    fn pcs(&self) -> impl Iterator<Item = Pc> {
        self.0.iter().map(|frame| frame.pc)
    }
}

impl PartialEq for Path<'_> {
    fn eq(&self, other: &Path<'_>) -> bool {
        self.pcs().eq(other.pcs())
    }
}

impl Eq for Path<'_> {}

impl Hash for Path<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pcs().for_each(|pc| pc.hash(state));
    }
}

/// What is called from one place, over all contexts that have a frame there.
#[derive(Clone, Copy)]
struct Standing<'c> {
    /// The most frames that any of them has inside.
    deepest: usize,
    /// Those frames, if they are the same in all; `None` where they differ.
    inside: Option<&'c [Frame]>,
}

impl<'c> Standing<'c> {
    fn add(&mut self, inside: &'c [Frame]) {
        self.deepest = self.deepest.max(inside.len());
        self.inside = self.inside.filter(|known| Path(known) == Path(inside));
    }
}

/// The chains of contexts that are held, without those that stand at the very places where others do: most add nothing to
/// what those tell.
fn distinct_paths<'c>(chains: &'c Chains, choices: &[Choice]) -> HashSet<Path<'c>> {
    let distinct = |part: &[Choice]| {
        let held = part.iter().filter(|choice| choice.holder != Holder::None);
        let paths = held.map(|choice| Path(chains.frames_of(&chains.chains[choice.chain])));
        paths.collect::<HashSet<_>>().into_iter().collect()
    };
    share::in_parts(choices, distinct).into_iter().collect()
}

impl<'c> Siblings<'c> {
    fn new(chains: &'c Chains, choices: &[Choice], code: CodeView<'_>) -> Siblings<'c> {
        let mut siblings =
            Siblings { places: HashMap::default(), shapes: HashMap::default(), last_calls: HashMap::default() };
        for Path(frames) in distinct_paths(chains, choices) {
            let Some(root) = frames.last().map(|frame| frame.pc) else { continue };
            let outermost = code.function_of(root);
            for (distance, frame) in frames.iter().rev().enumerate().take(MOST_FINISHED) {
                let inside = &frames[..frames.len() - 1 - distance];
                let places = siblings.places.entry((outermost, distance)).or_default();
                places.entry(frame.pc).or_insert(Standing { deepest: 0, inside: Some(inside) }).add(inside);
            }
            let inner = frames.first().map_or(Addr(0), |frame| frame.pc.addr());
            siblings.shapes.entry(root).or_default().insert((inner, frames.len()));
        }
        siblings.last_calls = siblings.places.values().flat_map(|places| last_calls(places, code)).collect();
        siblings
    }

    /// Whether what stands inside one of the outermost frames is left from before: that frame has called something else
    /// since, as the last thing it does.
    fn is_left_over(&self, frames: &[Frame], code: CodeView<'_>) -> bool {
        let calls_another = |pair: &[Frame]| {
            let (Some(called), Some(inside)) = (self.last_calls.get(&pair[1].pc), pair.first()) else { return false };
            (code.function_start)(inside.pc.lookup()).is_some_and(|function| function != *called)
        };
        !self.last_calls.is_empty() && frames.windows(2).rev().take(MOST_FINISHED).any(calls_another)
    }

    /// Whether contexts with the same root stand in different places.
    fn differ(&self, frames: &[Frame]) -> bool {
        let shapes = frames.last().and_then(|frame| self.shapes.get(&frame.pc));
        shapes.is_some_and(|shapes| shapes.len() > 1)
    }

    /// Finished is what has nothing to come where its siblings' work hangs from another call: neither in that function, nor
    /// a round more of a loop in one that it called. The second value is false where it may have nothing to come.
    fn state(&self, end: Root, frames: &[Frame], ends: &mut Ends<'_>) -> (State, bool) {
        let mut is_sure = true;
        let Some(root) = frames.last().map(|frame| frame.pc) else { return (State::Suspended, is_sure) };
        if self.is_left_over(frames, ends.code) {
            return (State::Finished, is_sure);
        }
        if frames.len() > MOST_FINISHED {
            return (State::Suspended, is_sure);
        }
        let outermost = ends.code.function_of(root);
        for (distance, frame) in frames.iter().rev().enumerate() {
            let caller = match frames.get(frames.len() - distance) {
                Some(caller) if ends.is_end(caller.pc.addr()) => match ends.is_stuck(caller.pc.addr()) {
                    true => Caller::Stuck,
                    false => Caller::Ends,
                },
                None if end == Root::Marked => Caller::None,
                _ => Caller::GoesOn,
            };
            let over = self.over((outermost, distance), frame.pc, caller, ends);
            let inside = frames[..frames.len() - 1 - distance].iter();
            if over != Over::No && !inside.map(|frame| frame.pc.addr()).any(|at| ends.is_in_loop(at)) {
                match over {
                    Over::Yes => return (State::Finished, is_sure),
                    _ => is_sure = false,
                }
            }
        }
        (State::Suspended, is_sure)
    }

    /// Whether there is nothing to come at `at`, where all that stand have the same frames inside, fewer than others of
    /// `function` have.
    fn over(&self, function: (Addr, usize), at: Pc, caller: Caller, ends: &mut Ends<'_>) -> Over {
        let Some(places) = self.places.get(&function) else { return Over::No };
        let Some((standing, inside)) = places.get(&at).and_then(|standing| Some((standing, standing.inside?))) else {
            return Over::No;
        };
        // Only where switch code is inlined a context goes on at a place that is not behind a call.
        if matches!(at, Pc::At(_)) && !inside.is_empty() {
            return Over::No;
        }
        let address = at.addr();
        let (code, is_end) = (ends.code, ends.is_end(address));
        if !is_end && (caller == Caller::GoesOn || ends.is_in_loop(address)) {
            return Over::No;
        }
        let working = places.iter().filter(|(_, other)| other.deepest > standing.deepest).map(|(other, _)| *other);
        let mut working = working.filter(|other| !ends.reaches(address, other.addr()));
        let is_earlier = |other: &Pc| code.is_earlier(*other, at);
        match (is_end, caller) {
            // The two ways of a branch may lie in any order.
            (true, _) if working.any(|other| is_earlier(&other) || code.is_earlier(at, other)) => Over::Yes,
            (true, _) => Over::No,
            // A library calls what is given to it by its address. Else this may be the last thing that work waits for.
            (false, _) => match working.filter(is_earlier).map(|other| code.called(other).is_none()).max() {
                Some(true) if caller == Caller::None => Over::Yes,
                // No coroutine rests for the end of the whole program to come next.
                Some(_) if caller == Caller::Stuck && ends.only_return(inside, address) => Over::Yes,
                Some(_) => Over::Maybe,
                None => Over::No,
            },
        }
    }
}

/// Of the places in one function where contexts have a frame, those that are [`Siblings::last_calls`].
fn last_calls(places: &HashMap<Pc, Standing<'_>>, code: CodeView<'_>) -> Vec<(Pc, Addr)> {
    let mut ends = Ends::new(code);
    let waits_before = |at: Pc| {
        let mut others = places.iter().filter(|(other, standing)| standing.deepest > 0 && code.is_earlier(**other, at));
        others.any(|(other, _)| code.called(*other).is_none())
    };
    let mut called_last = |at: Pc| {
        let Pc::After(address) = at else { return None };
        let routine = (ends.is_end(address) && waits_before(at)).then(|| code.routine_called(at))??;
        // It may have become what stands there.
        (!ends.may_jump_away(routine)).then_some(routine)
    };
    places.keys().filter_map(|at| Some((*at, called_last(*at)?))).collect()
}

/// What a function returns to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// To nobody.
    None,
    /// To code that then has nothing more to do.
    Ends,
    /// To code that can only end the program.
    Stuck,
    /// To code that goes on.
    GoesOn,
}

/// Whether there is nothing to come at a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Yes,
    /// Only returns to the end of the stack.
    Maybe,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::suspended::contexts::Hypothesis;
    use crate::memory::Slices;
    use crate::unwind::FoundBy;

    const TRAMPOLINE: u64 = 0x40_0000;
    /// So far apart functions lie.
    const FUNCTION: u64 = 0x100;
    const FINISH: u64 = TRAMPOLINE + FUNCTION;
    const USER: u64 = FINISH + FUNCTION;
    /// Behind the call of a function that was given, and behind that of `FINISH`.
    const CALLED_USER: u64 = TRAMPOLINE + 0x12;
    const CALLED_FINISH: u64 = TRAMPOLINE + 0x17;

    /// Sixteen nops, call rax, call `FINISH`, hlt; there and elsewhere only returns.
    fn read(at: Addr, into: &mut [u8]) -> bool {
        let mut code = vec![0xc3; 3 * FUNCTION as usize];
        code[..16].fill(0x90);
        code[16..24].copy_from_slice(&[0xff, 0xd0, 0xe8, 0xe9, 0, 0, 0, 0xf4]);
        let tail = at.0.checked_sub(TRAMPOLINE).and_then(|offset| code.get(offset as usize..));
        let bytes = tail.and_then(|tail| tail.get(..into.len()));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }

    fn states(chains_of: &[[u64; 2]]) -> Vec<State> {
        let mut chains = Chains::default();
        for (index, pcs) in chains_of.iter().enumerate() {
            let (sp, top) = (Addr(0x1000 * index as u64), Addr(0x1000 * index as u64 + 0x800));
            let frame = |pc| Frame { pc: Pc::After(Addr(pc)), cfa: Some(top), found_by: FoundBy::Cfi, signal: false };
            chains.frames.push(pcs.map(frame).to_vec());
            let holder = Some(Addr(0x10_0000));
            let hypothesis = Hypothesis { site: 0, layout: 0, word_at: sp, saved_sp: sp, holder, block: None };
            let (root, ended, segments) = (Root::Marked, Ended::Root, Vec::new());
            chains.chains.push(Chain { hypothesis, sp, frames: 0..2, list: index, segments, root, top, ended });
        }
        let choice = |chain| Choice { chain, candidates: 1, holder: Holder::Elsewhere };
        let choices: Vec<Choice> = (0..chains_of.len()).map(choice).collect();
        let function_start = |at: Addr| Some(at.align_down(FUNCTION));
        let (memory, unbound) = (Slices::default(), |_, _| None);
        let code = CodeView { read: &read, function_start: &function_start, memory: &memory, unbound: &unbound };
        let siblings = Siblings::new(&chains, &choices, code);
        let mut ends = Ends::new(code);
        let state = |chain: &Chain| siblings.state(chain.root, chains.frames_of(chain), &mut ends).0;
        chains.chains.iter().map(state).collect()
    }

    #[test]
    fn what_its_caller_has_not_called_is_left_from_before() {
        let (works, left, finishes) = ([USER + 8, CALLED_USER], [USER + 8, CALLED_FINISH], [FINISH + 8, CALLED_FINISH]);
        assert_eq!(states(&[works, left]), [State::Suspended, State::Finished]);
        assert_eq!(states(&[works, finishes, left])[1..], [State::Suspended, State::Finished]);
        // Without others that work, nothing tells.
        assert_eq!(states(&[left]), [State::Suspended]);
    }
}
