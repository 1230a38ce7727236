//! A look, arranged for the screen once, so that drawing and sorting have little to do.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::sort::{Order, Sort, names_first};
use crate::filter::Filter;
use crate::report::GroupBy;
use crate::report::group::{self, Group};
use crate::snapshot::{Identity, Kind, Level, Snapshot, Stack, State};
use crate::watch::Looked;

/// Which stacks are shown, in which order, and by what they stand together.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Wanted {
    pub(super) filter: Filter,
    pub(super) group_by: GroupBy,
    pub(super) stack_order: Order,
    pub(super) group_order: Order,
    /// The process; `None` for the one with the most stacks.
    pub(super) process: Option<i32>,
}

impl Default for Wanted {
    /// All stacks of the largest process, those in danger first; the largest groups first.
    fn default() -> Wanted {
        Wanted {
            filter: Filter::default(),
            group_by: GroupBy::Stack,
            stack_order: Order { sort: Sort::Danger, reversed: false },
            group_order: Order { sort: Sort::Size, reversed: false },
            process: None,
        }
    }
}

/// A snapshot, its rows and groups, and what the head of the screen says.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(super) snapshot: Arc<Snapshot>,
    /// When the look was taken, from the start of the watch.
    pub(super) time: Duration,
    /// The time to the next look.
    pub(super) next: Duration,
    /// How it was arranged.
    pub(super) wanted: Wanted,
    /// The thread whose chain of frames leads over each stack.
    threads: Vec<Option<i32>>,
    /// The stacks that are wanted, in their order.
    pub(super) stacks: Arc<[usize]>,
    /// The same in groups.
    pub(super) groups: Vec<Cluster>,
    /// The groups in their order.
    pub(super) group_rows: Arc<[usize]>,
    /// How many stacks there are of each kind.
    pub(super) kinds: Vec<(Kind, usize)>,
    /// How many stacks are close to their end: at 70 % of it, at 85 %, past it.
    pub(super) warn: usize,
    pub(super) high: usize,
    pub(super) over: usize,
    /// All processes that were looked at, and how many stacks each has.
    pub(super) processes: Vec<(i32, usize)>,
}

/// A group and what its row shows.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) group: Group,
    /// What stands for it from look to look.
    pub(super) fingerprint: u64,
    /// The stack that is closest to its end.
    pub(super) worst: usize,
    /// The sum of the bytes in use.
    pub(super) used: u64,
    /// What its stacks do, and how many of them; what most do comes first.
    pub(super) states: Vec<(State, usize)>,
}

/// By what a row's stack is found again in another look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RowKey {
    /// By what it is known.
    Stack(Identity),
    /// Nothing but its place in the list is known.
    Index(usize),
}

impl Picture {
    /// Arranges a look.
    pub(crate) fn new(looked: &Looked, wanted: &Wanted) -> Picture {
        let snapshot = Arc::clone(&looked.snapshot);
        let mut threads = vec![None; snapshot.stacks.len()];
        for thread in &snapshot.threads {
            for id in snapshot.stitched(thread.stack) {
                if let Some(slot) = threads.get_mut(id) {
                    *slot = Some(thread.tid);
                }
            }
        }
        let groups = group::by(&snapshot, &wanted.filter, wanted.group_by).into_iter();
        let groups = groups.map(|group| Cluster::new(group, &snapshot, wanted.group_by)).collect();
        let kinds = [Kind::Thread, Kind::Coroutine, Kind::Segment, Kind::Signal, Kind::Unknown];
        let of_kind = |kind: Kind| snapshot.stacks.iter().filter(|stack| stack.kind == kind).count();
        let at = |level| snapshot.stacks.iter().filter(|stack| stack.level() == Some(level)).count();
        let mut picture = Picture {
            threads,
            stacks: (0..snapshot.stacks.len()).filter(|id| wanted.filter.matches(&snapshot, *id)).collect(),
            groups,
            group_rows: Arc::new([]),
            kinds: kinds.map(|kind| (kind, of_kind(kind))).into_iter().filter(|(_, count)| *count > 0).collect(),
            warn: at(Level::Warn),
            high: at(Level::High),
            over: at(Level::Over),
            processes: vec![(snapshot.process.pid, snapshot.stacks.len())],
            snapshot,
            time: looked.time,
            next: looked.next,
            wanted: wanted.clone(),
        };
        picture.stacks = sorted_stacks(&picture, wanted.stack_order).into();
        picture.group_rows = sorted_groups(&picture, wanted.group_order).into();
        picture
    }

    /// The look that it was made of.
    pub(super) fn looked(&self) -> Looked {
        Looked { snapshot: Arc::clone(&self.snapshot), time: self.time, next: self.next }
    }

    /// The stacks of a group, in the order of all stacks.
    pub(super) fn members(&self, fingerprint: u64) -> Option<Arc<[usize]>> {
        let cluster = self.groups.iter().find(|cluster| cluster.fingerprint == fingerprint)?;
        let mut is_member = vec![false; self.snapshot.stacks.len()];
        for id in &cluster.group.stacks {
            if let Some(slot) = is_member.get_mut(*id) {
                *slot = true;
            }
        }
        Some(self.stacks.iter().copied().filter(|id| is_member.get(*id) == Some(&true)).collect())
    }

    /// A stack by its id.
    pub(super) fn stack(&self, id: usize) -> Option<&Stack> {
        self.snapshot.stacks.get(id)
    }

    /// The thread whose chain leads over a stack.
    pub(super) fn thread(&self, id: usize) -> Option<i32> {
        self.threads.get(id).copied().flatten()
    }

    /// By what a stack will be found in other looks.
    pub(super) fn key(&self, id: usize) -> RowKey {
        let identity = self.stack(id).and_then(|stack| Identity::of(stack, self.thread(id)));
        identity.map_or(RowKey::Index(id), RowKey::Stack)
    }

    /// The stack that is found by `key`.
    pub(super) fn find(&self, key: RowKey) -> Option<usize> {
        match key {
            RowKey::Index(id) => (id < self.snapshot.stacks.len()).then_some(id),
            RowKey::Stack(_) => (0..self.snapshot.stacks.len()).find(|id| self.key(*id) == key),
        }
    }

    /// The number that people know a stack by: the thread's, or `#` and its id.
    pub(super) fn number(&self, id: usize) -> String {
        match (self.stack(id).map(|stack| stack.kind), self.thread(id)) {
            (Some(Kind::Thread), Some(tid)) => tid.to_string(),
            _ => format!("#{id}"),
        }
    }

    /// What a stack is called: by its thread, or by what it was started for.
    pub(super) fn name(&self, id: usize) -> &str {
        let stack = self.stack(id);
        stack.and_then(|stack| stack.name.as_deref().or(stack.entry.as_deref())).unwrap_or("")
    }

    /// Where the program's own code is on a stack: its innermost function outside the system's libraries.
    pub(super) fn whereabouts(&self, id: usize) -> Option<&str> {
        let places = self.stack(id)?.frames.iter().map(|frame| self.snapshot.place(frame.frame.pc));
        let named = |system_too: bool| {
            let mut fitting = places.clone().filter(|place| system_too || !place.system);
            fitting.find_map(|place| place.names.iter().find_map(|name| name.function.as_deref()))
        };
        named(false).or_else(|| named(true))
    }
}

impl Cluster {
    fn new(group: Group, snapshot: &Snapshot, key: GroupBy) -> Cluster {
        let first = group.stacks[0];
        let closeness = |id: &usize| snapshot.stacks.get(*id).map_or(0, danger);
        let worst = group.stacks.iter().copied().max_by_key(closeness).unwrap_or(first);
        let stacks = || group.stacks.iter().filter_map(|id| snapshot.stacks.get(*id));
        let used = stacks().filter_map(Stack::used).sum();
        let mut counts = BTreeMap::new();
        stacks().for_each(|stack| *counts.entry(stack.state).or_default() += 1);
        let mut states: Vec<(State, usize)> = counts.into_iter().collect();
        states.sort_by_key(|(_, count)| Reverse(*count));
        Cluster { fingerprint: group::fingerprint(snapshot, first, key), worst, used, states, group }
    }
}

/// The wanted stacks in order.
fn sorted_stacks(picture: &Picture, Order { sort, reversed }: Order) -> Vec<usize> {
    let mut rows: Vec<usize> = picture.stacks.to_vec();
    let stack = |id: &usize| picture.stack(*id);
    // Ties are in order of numbers, so that rows do not jump from look to look.
    match sort {
        Sort::Danger => rows.sort_by_cached_key(|id| (Reverse(stack(id).map(danger)), *id)),
        Sort::Now => rows.sort_by_cached_key(|id| (Reverse(stack(id).and_then(|stack| stack.used())), *id)),
        Sort::Peak => rows.sort_by_cached_key(|id| (Reverse(stack(id).and_then(|stack| stack.most_used())), *id)),
        Sort::Size => rows.sort_by_cached_key(|id| (Reverse(stack(id).and_then(|stack| stack.size())), *id)),
        Sort::Name => rows.sort_by(|a, b| names_first(picture.name(*a), picture.name(*b)).then(a.cmp(b))),
        Sort::Number => rows.sort_unstable(),
    }
    if reversed {
        rows.reverse();
    }
    rows
}

/// The groups in order.
fn sorted_groups(picture: &Picture, Order { sort, reversed }: Order) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..picture.groups.len()).collect();
    let worst = |row: usize| picture.stack(picture.groups[row].worst);
    match sort {
        Sort::Danger => rows.sort_by_cached_key(|row| (Reverse(worst(*row).map(danger)), *row)),
        Sort::Now => rows.sort_by_key(|row| (Reverse(picture.groups[*row].used), *row)),
        Sort::Peak => rows.sort_by_key(|row| (Reverse(worst(*row).and_then(|stack| stack.most_used())), *row)),
        Sort::Size => rows.sort_by_key(|row| (Reverse(picture.groups[*row].group.stacks.len()), *row)),
        Sort::Name => {
            let name = |row: usize| picture.whereabouts(picture.groups[row].worst).unwrap_or("");
            rows.sort_by(|a, b| names_first(name(*a), name(*b)).then(a.cmp(b)));
        }
        Sort::Number => rows.sort_by_key(|row| picture.groups[*row].worst),
    }
    if reversed {
        rows.reverse();
    }
    rows
}

/// How close a stack is to its end, in hundredths of a percent of its size; 0 where that is unknown.
pub(super) fn danger(stack: &Stack) -> u64 {
    match (stack.most_used(), stack.size()) {
        (Some(used), Some(size)) if size > 0 => {
            u64::try_from(u128::from(used) * 10_000 / u128::from(size)).unwrap_or(u64::MAX)
        }
        _ => 0,
    }
}

/// A stack's state in one letter.
pub(super) fn state_letter(state: State) -> char {
    match state {
        State::Running => 'R',
        State::Resuming => 'W',
        State::Suspended => 'S',
        State::New => 'N',
        State::Finished => 'F',
    }
}
