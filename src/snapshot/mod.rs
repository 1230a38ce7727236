//! A snapshot: one consistent, immutable picture of a target, with its stacks, the frames on them, and their names.
//!
//! The model alone: [`crate::find`] says which stacks there are, [`crate::look`] puts a snapshot together; reports and
//! screens read it. Nothing here prints. What could not be read is a warning in the snapshot, and the snapshot is then
//! not `complete`.

mod bounds;
pub(crate) mod entry;
mod fault;
mod identity;
mod moved;
mod part;
mod peak;
pub(crate) mod places;
#[cfg(test)]
pub(crate) mod testing;
mod warning;
mod words;

use std::sync::Arc;
use std::time::Duration;

use crate::addr::{Addr, AddrRange, Pc};
use crate::arch::{AARCH64, Arch, X86_64};
use crate::process::{Process, Source};
use crate::registers::Registers;
use crate::unwind::{Ended, Frame};

pub use bounds::{Bounds, BoundsFrom, Guard};
pub use fault::{Fault, Land};
pub(crate) use identity::Identity;
pub use peak::{Apart, Method, Peak};
pub use places::{Place, Places};
pub use warning::{BlindSpot, BlindSpotKind, Warning};

/// One look at a target.
#[derive(Debug)]
pub struct Snapshot {
    /// The process.
    pub process: Process,
    /// The CPU that it is made for.
    pub arch: &'static Arch,
    /// How long the target stood still for the look; zero for a core file.
    pub stopped: Duration,
    /// Its threads, the first one first.
    pub threads: Vec<ThreadEntry>,
    /// Its stacks; a stack's id is its index here.
    pub stacks: Vec<Stack>,
    /// What the code addresses of all frames mean.
    pub places: Places,
    /// By stack, whether it moved since an earlier look; empty if there was none ([`Snapshot::compare_with`]).
    pub(crate) moved: Vec<Option<bool>>,
    /// By stack, the id that it had in the look; empty if all of its stacks are here.
    pub(crate) ids: Vec<usize>,
    /// The signal that one of the threads is about to take, if the look was taken because of that.
    pub(crate) fault: Option<Fault>,
    /// What the C library kept of why the program aborts.
    pub(crate) abort_message: Option<String>,
    /// What could not be read or was found wrong.
    pub warnings: Vec<Warning>,
    /// What is known to be not seen.
    pub blind_spots: Vec<BlindSpot>,
    /// Whether there are no warnings and no blind spots.
    pub complete: bool,
}

/// A thread, and the stack that it runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThreadEntry {
    /// The kernel's number for it.
    pub tid: i32,
    /// Its name, if it is known.
    pub name: Option<String>,
    /// The stack that its registers are on: an index into [`Snapshot::stacks`].
    pub stack: usize,
    /// The signal that ended the process in this thread, in a core file.
    pub signal: Option<i32>,
}

/// A stack with the frames on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stack {
    /// What it serves.
    pub kind: Kind,
    /// What the program calls it, or else the name of the thread that it belongs to.
    pub name: Option<String>,
    /// How it was made, if the program says so.
    pub source: Option<String>,
    /// Whether anything runs on it.
    pub state: State,
    /// The thread whose registers are on it now.
    pub thread: Option<i32>,
    /// Where it lies, and what lies below.
    pub bounds: Bounds,
    /// The stack pointer, if it has a context.
    pub sp: Option<Addr>,
    /// The most bytes that it ever held.
    pub peak: Option<Peak>,
    /// The outermost function of the program's own code.
    pub entry: Option<Arc<str>>,
    /// Its own frames, innermost first.
    pub frames: Vec<StackFrame>,
    /// Why there are no more frames.
    pub ended: Ended,
    /// Where the stitched backtrace goes on: the stack that resumed this one, an index into [`Snapshot::stacks`].
    pub resumed_by: Option<usize>,
    /// How sure it is that the stack is there, in this state, and with these frames.
    pub confidence: Confidence,
    /// The registers with which execution continues here, if the snapshot keeps them.
    pub registers: Option<Box<Registers>>,
}

/// What a stack serves. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A thread began on it.
    Thread,
    /// A thread that began on another stack runs on it.
    Coroutine,
    /// A function was called on it, to have more room.
    Segment,
    /// Signal handlers run on it (`sigaltstack`).
    Signal,
    /// It is not known whether a thread began on it.
    Unknown,
}

/// Whether anything runs on a stack. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum State {
    /// A thread's registers are on it.
    Running,
    /// It resumed another stack and waits for that one to come back.
    Resuming,
    /// It waits for someone to resume it.
    Suspended,
    /// It was prepared, and nothing has run on it yet.
    New,
    /// What ran on it has ended, and it is kept.
    Finished,
}

/// A frame, and its size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StackFrame {
    /// What the walk found.
    pub frame: Frame,
    /// The bytes between its own and its caller's stack pointer; `None` if that lies on another stack.
    pub bytes: Option<u64>,
}

/// How sure it is that a context is one, and in that state. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Confidence {
    /// Nothing contradicts it.
    Certain,
    /// There was more than one way to read memory, or nothing to compare it with. Or it has frames that were found by
    /// frame pointers.
    Likely,
    /// Something that a context should have is missing. Or it has frames that a search of the stack found.
    Guess,
}

/// How close a stack is to its end. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Below 70 % of its size.
    Ok,
    /// From 70 % of its size.
    Warn,
    /// From 85 % of its size.
    High,
    /// Past its end.
    Over,
}

impl Stack {
    /// A stack of which nothing else is known.
    pub(crate) fn new(kind: Kind, state: State) -> Stack {
        Stack {
            kind,
            name: None,
            source: None,
            state,
            thread: None,
            bounds: Bounds::UNKNOWN,
            sp: None,
            peak: None,
            entry: None,
            frames: Vec::new(),
            ended: Ended::NoRule,
            resumed_by: None,
            confidence: Confidence::Certain,
            registers: None,
        }
    }

    /// Its usable bytes, where both ends are known.
    pub fn size(&self) -> Option<u64> {
        self.bounds.range().map(AddrRange::len)
    }

    /// The bytes in use now: from its high end down to the stack pointer.
    pub fn used(&self) -> Option<u64> {
        self.bounds.high?.0.checked_sub(self.sp?.0)
    }

    /// The most bytes it is known to have held: its peak, or what is in use now if the peak is unknown or less.
    pub fn most_used(&self) -> Option<u64> {
        self.peak.map(|peak| peak.bytes).max(self.used())
    }

    /// How close it is to its end; `None` if its size or use is unknown.
    pub fn level(&self) -> Option<Level> {
        Some(Level::of(self.most_used()?, self.size()?))
    }
}

impl Level {
    /// How close a stack of `size` bytes that holds `used` bytes is to its end.
    pub fn of(used: u64, size: u64) -> Level {
        let percent = |of: u64| u128::from(used) * 100 >= u128::from(size) * u128::from(of);
        match () {
            () if used > size => Level::Over,
            () if percent(85) => Level::High,
            () if percent(70) => Level::Warn,
            () => Level::Ok,
        }
    }
}

impl Snapshot {
    /// The snapshot of a process that was not looked at yet.
    pub(crate) fn of_nothing(pid: i32, command: Vec<String>) -> Snapshot {
        Snapshot {
            process: Process { pid, command, source: Source::Live },
            arch: if cfg!(target_arch = "aarch64") { &AARCH64 } else { &X86_64 },
            stopped: Duration::ZERO,
            threads: Vec::new(),
            stacks: Vec::new(),
            places: Places::default(),
            moved: Vec::new(),
            ids: Vec::new(),
            fault: None,
            abort_message: None,
            warnings: Vec::new(),
            blind_spots: Vec::new(),
            complete: true,
        }
    }

    /// What the code address of a frame means.
    pub fn place(&self, pc: Pc) -> &Place {
        self.places.get(pc)
    }

    /// The innermost function of the program's own code on a stack: where it runs or waits. The innermost known
    /// function if none is its own.
    pub fn top(&self, stack: usize) -> Option<&Arc<str>> {
        entry::top(&self.stacks.get(stack)?.frames, &self.places)
    }

    /// The function that a frame of a stack is a part of, as people see it: itself or the nearest one outside it that is
    /// of the program's own code, else of a package's.
    pub fn holder(&self, stack: usize, frame: usize) -> Option<&Arc<str>> {
        entry::holder(self.stacks.get(stack)?.frames.get(frame..)?, &self.places)
    }

    /// Whether a code address is in the program's own code.
    pub fn is_own(&self, pc: Pc) -> bool {
        entry::has_own(self.place(pc))
    }

    /// The stack ids of a stitched backtrace, from `stack` to whoever resumed it, and on to the end.
    pub fn stitched(&self, stack: usize) -> impl Iterator<Item = usize> {
        // No chain visits a stack twice; the count bounds the walk nevertheless.
        std::iter::successors(Some(stack), |id| self.stacks.get(*id)?.resumed_by).take(self.stacks.len())
    }
}
