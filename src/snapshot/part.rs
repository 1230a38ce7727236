//! Part of a snapshot: one stitched backtrace, kept when the rest, which may be very many stacks, is dropped.

use super::{Snapshot, Stack, ThreadEntry};

impl Snapshot {
    /// A snapshot of only the stitched backtrace that begins at `stack`, which is its stack 0.
    ///
    /// [`Snapshot::id`] returns which stacks they were; what concerns the whole look is not in it.
    pub(crate) fn part(&self, stack: usize) -> Snapshot {
        let chain: Vec<usize> = self.stitched(stack).collect();
        let place = |id: usize| chain.iter().position(|other| *other == id);
        let stacks: Vec<Stack> = chain
            .iter()
            .filter_map(|id| self.stacks.get(*id))
            .map(|stack| Stack { resumed_by: stack.resumed_by.and_then(place), ..stack.clone() })
            .collect();
        let threads: Vec<ThreadEntry> = self
            .threads
            .iter()
            .filter_map(|thread| {
                let stack = place(thread.stack)?;
                Some(ThreadEntry { stack, ..thread.clone() })
            })
            .collect();
        let pcs = stacks.iter().flat_map(|stack| &stack.frames).map(|frame| frame.frame.pc);
        Snapshot {
            process: self.process.clone(),
            arch: self.arch,
            stopped: self.stopped,
            places: self.places.part(pcs),
            moved: Vec::new(),
            ids: chain.iter().map(|id| self.id(*id)).collect(),
            stacks,
            fault: self.fault.filter(|fault| threads.iter().any(|thread| thread.tid == fault.thread)),
            threads,
            abort_message: self.abort_message.clone(),
            warnings: Vec::new(),
            blind_spots: Vec::new(),
            complete: self.complete,
        }
    }

    /// A snapshot of two stitched backtraces, of which the second goes on where this one, which begins at stack 0, ends:
    /// what was caught on the one was raised again on the other. A stack's id is its index in it.
    pub(crate) fn joined(&self, other: &Snapshot) -> Snapshot {
        let first = self.stacks.len();
        let moved = |stack: &Stack| Stack { resumed_by: stack.resumed_by.map(|id| id + first), ..stack.clone() };
        let mut stacks: Vec<Stack> = self.stacks.iter().cloned().chain(other.stacks.iter().map(moved)).collect();
        if let Some(last) = first.checked_sub(1).and_then(|last| stacks.get_mut(last)) {
            last.resumed_by = Some(first);
        }
        let moved = |thread: &ThreadEntry| ThreadEntry { stack: thread.stack + first, ..thread.clone() };
        let known = |thread: &&ThreadEntry| self.threads.iter().all(|other| other.tid != thread.tid);
        let others = other.threads.iter().filter(known).map(moved);
        Snapshot {
            process: self.process.clone(),
            arch: self.arch,
            stopped: self.stopped,
            threads: self.threads.iter().cloned().chain(others).collect(),
            places: self.places.joined(&other.places),
            moved: Vec::new(),
            ids: Vec::new(),
            stacks,
            fault: None,
            abort_message: None,
            warnings: Vec::new(),
            blind_spots: Vec::new(),
            complete: self.complete && other.complete,
        }
    }

    /// The id that a stack had in the look: in a whole snapshot its index.
    pub(crate) fn id(&self, stack: usize) -> usize {
        self.ids.get(stack).copied().unwrap_or(stack)
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::testing::Draft;
    use crate::snapshot::{Kind, Snapshot, State};

    #[test]
    fn a_backtrace_stays_what_it_was() {
        let mut draft = Draft::new();
        draft.stack(Kind::Coroutine, State::Suspended, 65536, 0, &[("other", 1, 64)]);
        let inner = draft.stack(Kind::Coroutine, State::Running, 65536, 0, &[("leaf", 1, 64), ("body", 2, 640)]);
        let outer = draft.stack(Kind::Coroutine, State::Resuming, 65536, 0, &[("middle", 3, 64)]);
        let thread = draft.stack(Kind::Thread, State::Resuming, 1 << 20, 0, &[("main", 4, 64)]);
        draft.run(77, "worker", inner, &[outer, thread]);
        let whole = draft.finish();
        let part = whole.part(inner);
        assert_eq!((part.stacks.len(), part.threads.len(), part.threads[0].stack), (3, 1, 0));
        assert_eq!([0, 1, 2].map(|stack| part.id(stack)), [inner, outer, thread]);
        assert!(part.stitched(0).eq([0, 1, 2]));
        for (stack, id) in [inner, outer, thread].into_iter().enumerate() {
            let functions = |snapshot: &Snapshot, stack: usize| -> Vec<_> {
                let frames = snapshot.stacks[stack].frames.iter();
                frames.map(|frame| snapshot.place(frame.frame.pc).names[0].function.clone()).collect()
            };
            assert_eq!(functions(&part, stack), functions(&whole, id));
        }
        assert_eq!((part.part(1).id(0), part.part(1).stacks.len()), (outer, 2));
    }

    #[test]
    fn one_backtrace_goes_on_with_another() {
        let mut draft = Draft::new();
        let inner = draft.stack(Kind::Coroutine, State::Running, 65536, 0, &[("leaf", 1, 64)]);
        draft.run(77, "worker", inner, &[]);
        let first = draft.finish().part(inner);
        let mut draft = Draft::new();
        let outer = draft.stack(Kind::Coroutine, State::Running, 65536, 0, &[("resumes", 3, 64)]);
        let thread = draft.stack(Kind::Thread, State::Resuming, 1 << 20, 0, &[("main", 4, 64)]);
        draft.run(77, "worker", outer, &[thread]);
        let joined = first.joined(&draft.finish().part(outer));
        assert!(joined.stitched(0).eq([0, 1, 2]));
        assert_eq!(([0, 1, 2].map(|stack| joined.id(stack)), joined.threads.len()), ([0, 1, 2], 1));
        assert_eq!(joined.holder(2, 0).map(|name| &**name), Some("main"));
    }
}
