//! What a walk shows: frames, how each was found, and why there are no more.

use crate::addr::{Addr, Pc};

/// One frame of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Where execution stands in it.
    pub pc: Pc,
    /// Its canonical frame address; `None` where nothing tells it.
    pub cfa: Option<Addr>,
    /// How it was found.
    pub found_by: FoundBy,
    /// Whether it is a signal trampoline: the frame after it is the code that the signal interrupted.
    pub signal: bool,
}

/// How a frame was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FoundBy {
    /// Its registers were saved whole: the context that the walk started at, or one that the kernel saved for a signal.
    Context,
    /// What its switch routine saved. No walk finds it: it is where one starts that the finder makes.
    Descriptor,
    /// Call frame information of the frame it called.
    Cfi,
    /// The chain of frame pointers: a guess that was checked. Frames may be missing before it.
    FramePointer,
    /// A word on the stack (or the link register) that looks like a return address: a guess that was checked.
    Scan,
}

impl FoundBy {
    /// Whether it is a guess. Whatever a guess leads to is one as well.
    pub fn is_guess(self) -> bool {
        matches!(self, FoundBy::FramePointer | FoundBy::Scan)
    }
}

/// Why a walk has no more frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// The last frame is the outermost: its rules say so, or its return address is zero, or it was put on the stack by
    /// hand as the place to return to at last.
    Root,
    /// Nothing says where the last frame returns to, or what does leads to no code.
    NoRule,
    /// The word that holds the last frame's return address could not be read.
    Unreadable(Addr),
    /// The next frame was there before: the chain is a ring.
    Repeats,
    /// The limit was reached, or the visitor asked to stop.
    TooDeep,
}
