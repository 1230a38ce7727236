//! Groups stacks that are equal in something: their stitched backtraces, what they were started for, where they are.

use std::cmp::Reverse;
#[cfg(feature = "tui")]
use std::hash::DefaultHasher;
use std::hash::{Hash, Hasher};

use foldhash::HashMap;

use crate::addr::Pc;
use crate::filter::Filter;
use crate::share;
use crate::snapshot::{Confidence, Kind, Snapshot, Stack, StackFrame, State};
use crate::unwind::{Ended, FoundBy};

/// What stacks are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupBy {
    /// Equal stitched backtraces, function by function.
    Stack,
    /// The outermost function of the program's own code.
    Entry,
    /// The innermost function of the program's own code.
    Top,
    /// What they do.
    State,
}

/// Stacks that are equal in what they were grouped by.
#[derive(Debug)]
pub(crate) struct Group {
    /// Their ids, the deepest first.
    pub(crate) stacks: Vec<usize>,
}

/// What must be equal for two stacks to be in one group, for each stack of the stitched backtrace.
#[derive(PartialEq, Eq, Hash)]
struct Shape<C> {
    kind: Kind,
    state: State,
    confidence: Confidence,
    ended: Ended,
    frames: Vec<(C, FoundBy)>,
}

/// A function, or only the address if no function is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Code<'s> {
    Function(&'s str),
    Address(Pc),
}

/// The backtraces to show of those stacks that are wanted, each alone: one for each stack that no other of them leads
/// to.
pub(super) fn singly(snapshot: &Snapshot, filter: &Filter) -> Vec<Group> {
    let stacks = sorted(snapshot, starts(snapshot, filter));
    stacks.into_iter().map(|id| Group { stacks: vec![id] }).collect()
}

/// The wanted stacks in groups. Those of backtraces begin where no other wanted stack leads; else each stack counts.
pub(crate) fn by(snapshot: &Snapshot, filter: &Filter, key: GroupBy) -> Vec<Group> {
    let stack = |id: usize| &snapshot.stacks[id];
    match key {
        GroupBy::Stack => by_backtrace(snapshot, filter),
        GroupBy::Entry => largest_first(snapshot, filter, |id| (stack(id).kind, stack(id).entry.as_deref())),
        GroupBy::Top => largest_first(snapshot, filter, |id| (stack(id).kind, snapshot.top(id).map(AsRef::as_ref))),
        GroupBy::State => largest_first(snapshot, filter, |id| (stack(id).kind, stack(id).state)),
    }
}

/// What the stacks of a group have in common; `None` if it is not known, or a whole backtrace.
pub(super) fn common<'s>(snapshot: &'s Snapshot, group: &Group, key: GroupBy) -> Option<&'s str> {
    let first = *group.stacks.first()?;
    match key {
        GroupBy::Stack => None,
        GroupBy::Entry => snapshot.stacks[first].entry.as_deref(),
        GroupBy::Top => snapshot.top(first).map(AsRef::as_ref),
        GroupBy::State => Some(snapshot.stacks[first].state.word()),
    }
}

fn by_backtrace(snapshot: &Snapshot, filter: &Filter) -> Vec<Group> {
    let starts = starts(snapshot, filter);
    let (sorted, shape_of) = share::both(|| sorted(snapshot, starts.clone()), || numbered_shapes(snapshot, &starts));
    gathered(sorted.into_iter(), |id| shape_of[id])
}

/// A number for the backtrace of each of `starts`, the same if they are equal; by stack.
fn numbered_shapes(snapshot: &Snapshot, starts: &[usize]) -> Vec<usize> {
    let mut numbers = Numbers::default();
    let (mut known, mut by_address) = (HashMap::default(), HashMap::default());
    let mut shape_of = vec![0; snapshot.stacks.len()];
    for id in starts {
        shape_of[*id] = *by_address.entry(Backtrace { snapshot, id: *id }).or_insert_with(|| {
            let next = known.len();
            *known.entry(shapes(snapshot, *id, |pc| numbers.of(snapshot, pc))).or_insert(next)
        });
    }
    shape_of
}

/// A stitched backtrace, compared by code addresses. Equal ones are equal in functions as well, and most have many
/// equals.
struct Backtrace<'s> {
    snapshot: &'s Snapshot,
    id: usize,
}

impl Backtrace<'_> {
    fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.snapshot.stitched(self.id).map(|id| &self.snapshot.stacks[id])
    }
}

impl PartialEq for Backtrace<'_> {
    fn eq(&self, other: &Backtrace<'_>) -> bool {
        let head = |stack: &Stack| (stack.kind, stack.state, stack.confidence, stack.ended);
        let place = |frame: &StackFrame| (frame.frame.pc, frame.frame.found_by);
        let alike = |left: &Stack, right: &Stack| {
            head(left) == head(right) && left.frames.iter().map(place).eq(right.frames.iter().map(place))
        };
        self.stacks().count() == other.stacks().count()
            && self.stacks().zip(other.stacks()).all(|(left, right)| alike(left, right))
    }
}

impl Eq for Backtrace<'_> {}

impl Hash for Backtrace<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let frames = self.stacks().flat_map(|stack| &stack.frames);
        frames.for_each(|frame| frame.frame.pc.addr().hash(state));
    }
}

/// A number for each function, to compare by. Names would be read again for each of a hundred thousand stacks.
#[derive(Default)]
struct Numbers<'s> {
    by_pc: HashMap<Pc, usize>,
    by_code: HashMap<Code<'s>, usize>,
}

impl<'s> Numbers<'s> {
    fn of(&mut self, snapshot: &'s Snapshot, pc: Pc) -> usize {
        *self.by_pc.entry(pc).or_insert_with(|| {
            let next = self.by_code.len();
            *self.by_code.entry(code(snapshot, pc)).or_insert(next)
        })
    }
}

/// Groups of equal keys, the largest first.
fn largest_first<K: Eq + Hash>(snapshot: &Snapshot, filter: &Filter, key: impl Fn(usize) -> K) -> Vec<Group> {
    let stacks = sorted(snapshot, wanted(snapshot, filter).collect());
    let mut groups = gathered(stacks.into_iter(), key);
    groups.sort_by_key(|group| Reverse(group.stacks.len()));
    groups
}

/// Groups stacks with equal keys, in the order in which the first of each comes.
fn gathered<K: Eq + Hash>(stacks: impl Iterator<Item = usize>, key: impl Fn(usize) -> K) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<K, usize> = HashMap::default();
    for id in stacks {
        let index = *known.entry(key(id)).or_insert(groups.len());
        match groups.get_mut(index) {
            Some(group) => group.stacks.push(id),
            None => groups.push(Group { stacks: vec![id] }),
        }
    }
    groups
}

#[cfg(feature = "tui")]
/// A number that stands for the group of a stack in all looks at one process.
pub(crate) fn fingerprint(snapshot: &Snapshot, id: usize, key: GroupBy) -> u64 {
    let mut hasher = DefaultHasher::new();
    let stack = &snapshot.stacks[id];
    match key {
        GroupBy::Stack => shapes(snapshot, id, |pc| code(snapshot, pc)).hash(&mut hasher),
        GroupBy::Entry => (stack.kind, stack.entry.as_deref()).hash(&mut hasher),
        GroupBy::Top => (stack.kind, snapshot.top(id)).hash(&mut hasher),
        GroupBy::State => (stack.kind, stack.state).hash(&mut hasher),
    }
    hasher.finish()
}

/// What the stacks of a stitched backtrace are like; `code` identifies functions.
fn shapes<C>(snapshot: &Snapshot, id: usize, mut code: impl FnMut(Pc) -> C) -> Vec<Shape<C>> {
    snapshot.stitched(id).map(|id| shape(&snapshot.stacks[id], &mut code)).collect()
}

fn wanted(snapshot: &Snapshot, filter: &Filter) -> impl Iterator<Item = usize> {
    (0..snapshot.stacks.len()).filter(|id| filter.matches(snapshot, *id))
}

/// Wanted stacks from which a stitched backtrace starts: those that no other wanted one leads to.
fn starts(snapshot: &Snapshot, filter: &Filter) -> Vec<usize> {
    let mut is_reached = vec![false; snapshot.stacks.len()];
    for id in wanted(snapshot, filter) {
        let mut next = snapshot.stacks[id].resumed_by;
        // After one that was reached before, all were.
        while let Some(slot) = next.and_then(|id| is_reached.get_mut(id)).filter(|is_reached| !**is_reached) {
            *slot = true;
            next = next.and_then(|id| snapshot.stacks[id].resumed_by);
        }
    }
    wanted(snapshot, filter).filter(|id| !is_reached[*id]).collect()
}

fn sorted(snapshot: &Snapshot, mut stacks: Vec<usize>) -> Vec<usize> {
    stacks.sort_by_cached_key(|id| deepest_first(snapshot, *id));
    stacks
}

/// Stacks in danger first, then by bytes in use, then by id.
fn deepest_first(snapshot: &Snapshot, id: usize) -> impl Ord + use<> {
    let worst = snapshot.stitched(id).filter_map(|id| snapshot.stacks[id].level()).max();
    let used = snapshot.stitched(id).filter_map(|id| snapshot.stacks[id].used()).sum::<u64>();
    let in_danger = worst.filter(|level| *level != crate::snapshot::Level::Ok);
    (Reverse(in_danger), Reverse(used), id)
}

fn shape<C>(stack: &Stack, code: &mut impl FnMut(Pc) -> C) -> Shape<C> {
    Shape {
        kind: stack.kind,
        state: stack.state,
        confidence: stack.confidence,
        ended: stack.ended,
        frames: stack.frames.iter().map(|frame| (code(frame.frame.pc), frame.frame.found_by)).collect(),
    }
}

/// The function at `pc`.
fn code(snapshot: &Snapshot, pc: Pc) -> Code<'_> {
    let function = snapshot.place(pc).names.last().and_then(|name| name.function.as_deref());
    function.map_or(Code::Address(pc), Code::Function)
}
