//! Where a stack lies, how that is known, and what lies below it.

use crate::addr::{Addr, AddrRange};

/// How the bounds of a stack are known. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum BoundsFrom {
    /// The program says so itself, in its roster.
    Registered,
    /// They were the arguments of a call: `sigaltstack`, whose arguments the kernel keeps in each signal frame.
    Call,
    /// A guard page lies below.
    Guard,
    /// The stack has a mapping to itself.
    Mapping,
    /// It lies in a block of the allocator, whose header says how long the block is.
    Malloc,
    /// It is a thread's own: the kernel's `[stack]`, or the mapping that holds the thread's descriptor.
    Thread,
    /// None of these: nothing certain is known.
    Inferred,
}

/// What lies below a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Pages that can't be accessed.
    Ok(AddrRange),
    /// Nothing that would stop an overflow at once.
    None,
    /// The kernel lets the stack grow down to its limit, and keeps a gap below that.
    Grows,
    /// It is not known.
    Unknown,
}

/// Where a stack lies, and how that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The lowest usable address: above the guard, if there is one.
    pub low: Option<Addr>,
    /// The first address above the stack.
    pub high: Option<Addr>,
    /// How that is known.
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

    /// The usable part, if both ends are known.
    pub fn range(&self) -> Option<AddrRange> {
        Some(AddrRange::new(self.low?, self.high?))
    }
}
