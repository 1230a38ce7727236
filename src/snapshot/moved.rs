//! Which contexts did not move between two looks at one process.
//!
//! A context that was resumed in between and returned to exactly the same place looks like one that stood still:
//! nothing counts its switches.

use std::collections::HashMap;

use super::{Identity, Snapshot, Stack};

fn identity(stack: &Stack) -> Option<Identity> {
    Identity::of(stack, stack.thread)
}

impl Snapshot {
    /// Notes which contexts moved since an earlier look at the same process.
    pub fn compare_with(&mut self, earlier: &Snapshot) {
        let known = earlier.stacks.iter().filter_map(|stack| Some((identity(stack)?, stack)));
        let known: HashMap<Identity, &Stack> = known.collect();
        let moved = |stack: &Stack| Some(!stands_as(stack, known.get(&identity(stack)?)?));
        self.moved = self.stacks.iter().map(moved).collect();
    }

    /// Whether a context moved between two looks; `None` if there was one look, or the context was not in the first.
    pub fn moved(&self, stack: usize) -> Option<bool> {
        self.moved.get(stack).copied().flatten()
    }
}

/// Whether both are the same context at the same place.
fn stands_as(stack: &Stack, before: &Stack) -> bool {
    let place = |stack: &Stack| (stack.state, stack.thread, stack.sp);
    let frames = |stack: &Stack| stack.frames.iter().map(|frame| (frame.frame.pc, frame.frame.cfa)).collect::<Vec<_>>();
    place(stack) == place(before) && frames(stack) == frames(before)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Draft;
    use super::super::{Kind, State};
    use crate::snapshot::Snapshot;

    fn look(waits_in: &'static str, more: bool) -> Snapshot {
        let mut draft = Draft::new();
        draft.stack(Kind::Coroutine, State::Suspended, 1 << 16, 0, &[("read", 1, 64), ("run", 2, 96)]);
        draft.stack(Kind::Coroutine, State::Suspended, 1 << 16, 0, &[(waits_in, 3, 64), ("run", 2, 96)]);
        if more {
            draft.stack(Kind::Coroutine, State::New, 1 << 16, 0, &[]);
        }
        draft.finish()
    }

    #[test]
    fn what_stands_elsewhere_has_moved() {
        let mut second = look("write", true);
        assert_eq!(second.moved(0), None);
        second.compare_with(&look("read", false));
        assert_eq!([0, 1, 2, 3].map(|id| second.moved(id)), [Some(false), Some(true), None, None]);
    }
}
