//! By what a stack is known from one look at a process to the next.

use super::Stack;

/// What a stack and its user have alone in one process, for as long as they last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Identity {
    /// The high end of the stack: nothing else can lie there.
    High(u64),
    /// The thread that is on it.
    Thread(i32),
}

impl Identity {
    /// That of a stack that `thread` is on; `None` where nothing tells it from others.
    pub(crate) fn of(stack: &Stack, thread: Option<i32>) -> Option<Identity> {
        let high = stack.bounds.high.map(|high| Identity::High(high.0));
        high.or(thread.map(Identity::Thread))
    }
}
