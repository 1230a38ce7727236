//! Whether a thread has run out of its stack, and how.
//!
//! ```text
//! high ┐ frames        A stack is used from its high end down. A frame that is small against the guard touches it;
//!      │ …             one that is larger may begin below it, in whatever lies there, and touch nothing on the way.
//! low  ┤ ← the limit   An access counts as the stack's own from the frames down to a little below the stack pointer:
//!      │ guard         where a call puts its return address, and where a leaf function keeps its data (the red zone).
//!      ┤
//!      │ whose memory?
//! ```

use crate::addr::Addr;
use crate::snapshot::{Guard, Kind, Snapshot, Stack};

/// A stack of a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct On {
    /// Its id in the look.
    pub id: usize,
    /// What it serves.
    pub kind: Kind,
}

impl On {
    fn of(snapshot: &Snapshot, stack: usize) -> On {
        On { id: snapshot.id(stack), kind: snapshot.stacks[stack].kind }
    }
}

/// A stack that was run out of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overflow {
    /// The stack.
    pub stack: On,
    /// How far below its lowest usable address it was used, in bytes.
    pub past: u64,
    /// How it got there.
    pub way: Way,
    /// Bytes that were left above the limit for the innermost frame; 0 if a frame lies over the limit already.
    pub left: u64,
    /// Which of the stack's frames lies over the limit; `None` if all of them are above it, and the next one has no room.
    pub frame: Option<usize>,
    /// The stack whose memory it runs in, if there is one.
    pub neighbour: Option<On>,
}

/// How a stack was run out of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It ran into the guard.
    IntoGuard,
    /// One frame was larger than what was left and the guard together, and passed it.
    OverGuard,
    /// There is no guard.
    Unguarded,
    /// The kernel's limit for a stack that grows was reached.
    ToLimit,
}

impl Way {
    /// The word of the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Way::IntoGuard => "into_guard",
            Way::OverGuard => "over_guard",
            Way::Unguarded => "unguarded",
            Way::ToLimit => "to_limit",
        }
    }
}

/// Whether `stack`, on which a thread runs, was run out of: by its stack pointer alone, or by an access to `fault`.
pub(super) fn overflow(snapshot: &Snapshot, stack: usize, fault: Option<Addr>) -> Option<Overflow> {
    let on = snapshot.stacks.get(stack)?;
    let (low, high, sp) = (on.bounds.low?, on.bounds.high?, on.sp?);
    // What code may use below the stack pointer, and a pushed word.
    let reach = snapshot.arch.red_zone as i64 + 8;
    let is_own = |address: &Addr| (sp.offset(-reach)..high).contains(address) && *address < low;
    let touched = fault.filter(is_own);
    if sp >= low && touched.is_none() {
        return None;
    }
    let deepest = touched.map_or(sp, |touched| touched.min(sp));
    let frame = on.frames.iter().position(|frame| frame.frame.cfa.is_some_and(|cfa| cfa > low)).filter(|_| sp < low);
    let way = match on.bounds.guard {
        Guard::Grows => Way::ToLimit,
        Guard::Ok(guard) if deepest < guard.low => Way::OverGuard,
        Guard::Ok(_) => Way::IntoGuard,
        // What can't be touched there is a guard, whoever put it there.
        Guard::Unknown if fault.is_some() => Way::IntoGuard,
        Guard::None | Guard::Unknown => Way::Unguarded,
    };
    Some(Overflow {
        stack: On::of(snapshot, stack),
        past: low.0 - deepest.0.min(low.0),
        way,
        left: sp.0.saturating_sub(low.0),
        frame,
        neighbour: holder(snapshot, stack, deepest),
    })
}

/// The stack other than `but` that an address lies on.
fn holder(snapshot: &Snapshot, but: usize, address: Addr) -> Option<On> {
    let holds = |stack: &Stack| stack.bounds.range().is_some_and(|range| range.contains(address));
    snapshot
        .stacks
        .iter()
        .enumerate()
        .find(|(id, stack)| *id != but && holds(stack))
        .map(|(id, _)| On::of(snapshot, id))
}

/// The stack whose guard an address lies in.
pub(super) fn guarded(snapshot: &Snapshot, address: Addr) -> Option<On> {
    let holds = |stack: &Stack| matches!(stack.bounds.guard, Guard::Ok(guard) if guard.contains(address));
    snapshot.stacks.iter().position(holds).map(|id| On::of(snapshot, id))
}
