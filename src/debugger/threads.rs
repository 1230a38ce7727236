//! Contexts as threads: which number each has.
//!
//! A context that a thread runs has that thread's number, any other has 10,000,000 plus the number that its stack had
//! when it was first seen: as in the core files that we write.

use std::collections::{HashMap, HashSet};

use crate::process::FIRST_MADE_UP_TID;
use crate::snapshot::{Identity, Snapshot};

/// The threads that a debugger sees, and the numbers that stacks keep from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// In the order in which they are listed: first those that run, and of these the one that a signal ended.
    listed: Vec<i32>,
    /// By number, the stack that its context is on.
    stacks: HashMap<i32, usize>,
    /// The numbers of the stacks that the last look showed.
    known: HashMap<Identity, i32>,
    /// The first number that no stack had yet.
    next: i32,
}

impl Threads {
    /// Those of the next look at the same program.
    pub(super) fn renew(&mut self, snapshot: &Snapshot) {
        let is_first = self.next == 0;
        self.next = self.next.max(FIRST_MADE_UP_TID);
        let (mut known, mut taken) = (HashMap::new(), HashSet::new());
        let mut numbers = Vec::with_capacity(snapshot.stacks.len());
        for stack in &snapshot.stacks {
            let identity = Identity::of(stack, None);
            let before = identity.and_then(|identity| self.known.get(&identity).copied());
            let number = before.filter(|number| !is_first && taken.insert(*number)).unwrap_or_else(|| {
                let new = self.next;
                self.next = self.next.saturating_add(1);
                new
            });
            known.extend(identity.map(|identity| (identity, number)));
            numbers.push(stack.thread.unwrap_or(number));
        }
        self.known = known;
        let ended_it =
            |number: i32| snapshot.threads.iter().any(|thread| thread.tid == number && thread.signal.is_some());
        let is_context = |id: &usize| snapshot.stacks[*id].registers.is_some() || snapshot.stacks[*id].thread.is_some();
        let contexts = (0..numbers.len()).filter(is_context).map(|id| (numbers[id], id));
        self.stacks = contexts.collect();
        self.listed = self.stacks.keys().copied().collect();
        self.listed.sort_by_key(|number| {
            let leads = *number == snapshot.process.pid;
            (*number >= FIRST_MADE_UP_TID, !ended_it(*number), !leads, *number)
        });
    }

    /// All numbers, in the order in which they are listed.
    pub(super) fn listed(&self) -> &[i32] {
        &self.listed
    }

    /// The stack that a thread's context is on.
    pub(super) fn stack(&self, number: i32) -> Option<usize> {
        self.stacks.get(&number).copied()
    }
}
