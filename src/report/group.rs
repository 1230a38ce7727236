//! Puts stacks with equal stitched backtraces together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
#[cfg(feature = "tui")]
use std::hash::{DefaultHasher, Hasher};

use crate::addr::Pc;
use crate::snapshot::{Confidence, Kind, Snapshot, Stack, State};
use crate::unwind::{Ended, FoundBy};

/// Stacks whose stitched backtraces are equal, function by function.
#[derive(Debug)]
pub(crate) struct Group {
    /// Their ids, the deepest first.
    pub(crate) stacks: Vec<usize>,
}

/// What must be equal for two stacks to stand in one group, for each stack of the stitched backtrace.
#[derive(PartialEq, Eq, Hash)]
struct Shape<'s> {
    kind: Kind,
    state: State,
    confidence: Confidence,
    ended: Ended,
    frames: Vec<(Code<'s>, FoundBy)>,
}

/// A function, or the bare address where no function is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Code<'s> {
    Function(&'s str),
    Address(Pc),
}

/// The backtraces to show, one for each stack that no other resumed stack leads to: each alone.
pub(super) fn singly(snapshot: &Snapshot) -> Vec<Group> {
    let mut stacks = starts(snapshot);
    stacks.sort_by_key(|id| deepest_first(snapshot, *id));
    stacks.into_iter().map(|id| Group { stacks: vec![id] }).collect()
}

/// The same, equal ones together: the group with the deepest stack first.
pub(crate) fn by_stack(snapshot: &Snapshot) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Vec<Shape>, usize> = HashMap::new();
    for single in singly(snapshot) {
        let index = *known.entry(shapes(snapshot, single.stacks[0])).or_insert(groups.len());
        match groups.get_mut(index) {
            Some(group) => group.stacks.extend(single.stacks),
            None => groups.push(single),
        }
    }
    groups
}

#[cfg(feature = "tui")]
/// A number that stands for a stack's group in all looks at one process.
pub(crate) fn fingerprint(snapshot: &Snapshot, id: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    shapes(snapshot, id).hash(&mut hasher);
    hasher.finish()
}

fn shapes(snapshot: &Snapshot, id: usize) -> Vec<Shape<'_>> {
    snapshot.stitched(id).map(|id| shape(snapshot, &snapshot.stacks[id])).collect()
}

/// Stacks from which a stitched backtrace starts: those that wait for no other stack.
fn starts(snapshot: &Snapshot) -> Vec<usize> {
    (0..snapshot.stacks.len()).filter(|id| snapshot.stacks[*id].state != State::Resuming).collect()
}

/// Stacks in danger first, then by bytes in use, then by id.
fn deepest_first(snapshot: &Snapshot, id: usize) -> impl Ord + use<> {
    let worst = snapshot.stitched(id).filter_map(|id| snapshot.stacks[id].level()).max();
    let used = snapshot.stitched(id).filter_map(|id| snapshot.stacks[id].used()).sum::<u64>();
    let in_danger = worst.filter(|level| *level != crate::snapshot::Level::Ok);
    (Reverse(in_danger), Reverse(used), id)
}

fn shape<'s>(snapshot: &'s Snapshot, stack: &Stack) -> Shape<'s> {
    let frames = stack.frames.iter().map(|frame| {
        let pc = frame.frame.pc;
        let function = snapshot.place(pc).names.last().and_then(|name| name.function.as_deref());
        (function.map_or(Code::Address(pc), Code::Function), frame.frame.found_by)
    });
    Shape {
        kind: stack.kind,
        state: stack.state,
        confidence: stack.confidence,
        ended: stack.ended,
        frames: frames.collect(),
    }
}
