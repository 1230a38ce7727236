//! Where a stack lies, what that rests on, and what lies below it.

use crate::addr::{Addr, AddrRange};

/// What the bounds of a stack rest on. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum BoundsFrom {
    /// The program says so itself, in its roster.
    Registered,
    /// A call was given them: `sigaltstack`, whose arguments the kernel keeps in each signal frame.
    Call,
    /// A guard page lies below.
    Guard,
    /// The stack has a mapping to itself.
    Mapping,
    /// The allocator's own header says how long the block is that it lies in.
    Malloc,
    /// It is a thread's own: the kernel's `[stack]`, or the mapping that holds the thread's descriptor.
    Thread,
    /// None of these; nothing sure is known.
    Inferred,
}

/// What lies below a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Pages that may not be touched.
    Ok(AddrRange),
    /// Nothing that would stop an overflow at once.
    None,
    /// The kernel lets the stack grow down to its limit, and keeps a gap below that.
    Grows,
    /// It can't be told.
    Unknown,
}

/// Where a stack lies, and what that rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The lowest usable address: above the guard, if there is one.
    pub low: Option<Addr>,
    /// The first address above the stack.
    pub high: Option<Addr>,
    /// What that rests on.
    pub from: BoundsFrom,
    /// What lies below.
    pub guard: Guard,
}

impl Bounds {
    /// Nothing is known.
    pub const UNKNOWN: Bounds = Bounds { low: None, high: None, from: BoundsFrom::Inferred, guard: Guard::Unknown };

    /// Those of `range`.
    pub fn of(range: AddrRange, from: BoundsFrom, guard: Guard) -> Bounds {
        Bounds { low: Some(range.low), high: Some(range.high), from, guard }
    }

    /// The usable part, where both ends are known.
    pub fn range(&self) -> Option<AddrRange> {
        Some(AddrRange::new(self.low?, self.high?))
    }
}
