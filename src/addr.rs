//! Addresses in a target, and ranges of them.
//!
//! A target's address is not one of our pointers: it may belong to another process, to a core file, or to another CPU.
//! All of them are 64 bits wide here; a 32-bit target is rejected when it is opened.

use std::fmt;

/// The unit in bytes in which stacks, guards and touched pages are measured: the page of x86_64, and the smallest of
/// aarch64. What the kernel of this machine maps in one piece may be larger (sysconf(3), `_SC_PAGESIZE`).
pub const PAGE: u64 = 4096;

/// The addresses of programs on any CPU known here: the kernel's own begin above.
pub const EVERYTHING: AddrRange = AddrRange { low: Addr(0), high: Addr(1 << 56) };

/// An address in the target's address space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub u64);

impl Addr {
    /// This address moved by `offset` bytes, wrapping around as the CPU does.
    #[must_use]
    pub fn offset(self, offset: i64) -> Addr {
        Addr(self.0.wrapping_add_signed(offset))
    }

    /// This address rounded down to a multiple of `unit`, a power of two.
    #[must_use]
    pub fn align_down(self, unit: u64) -> Addr {
        Addr(self.0 & !(unit - 1))
    }

    /// This address rounded up to a multiple of `unit`, a power of two; the last multiple if there is none above.
    #[must_use]
    pub fn align_up(self, unit: u64) -> Addr {
        Addr(self.0.saturating_add(unit - 1)).align_down(unit)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A half-open range of addresses: `low` belongs to it, `high` does not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct AddrRange {
    /// The lowest address of the range.
    pub low: Addr,
    /// The first address above the range.
    pub high: Addr,
}

impl AddrRange {
    /// The range from `low` up to, not including, `high`; empty if `high` is not above `low`.
    pub fn new(low: Addr, high: Addr) -> AddrRange {
        AddrRange { low, high: high.max(low) }
    }

    /// Its length in bytes.
    pub fn len(self) -> u64 {
        self.high.0 - self.low.0
    }

    /// Whether there is no address in it.
    pub fn is_empty(self) -> bool {
        self.low == self.high
    }

    /// Whether `addr` lies in it.
    pub fn contains(self, addr: Addr) -> bool {
        self.low <= addr && addr < self.high
    }

    /// The part that both ranges have; `None` if that is empty.
    pub fn intersection(self, other: AddrRange) -> Option<AddrRange> {
        let low = self.low.max(other.low);
        let high = self.high.min(other.high);
        (low < high).then_some(AddrRange { low, high })
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:x},{:x})", self.low.0, self.high.0)
    }
}

/// Where execution is in a frame, and which instruction to look up for that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pc {
    /// The instruction at this address is the next to run: the innermost frame, or one that a signal interrupted.
    At(Addr),
    /// A return address: the call lies *before* it, and may be the last instruction of its function.
    After(Addr),
}

impl Pc {
    /// The address itself, as registers or memory held it.
    pub fn addr(self) -> Addr {
        match self {
            Pc::At(addr) | Pc::After(addr) => addr,
        }
    }

    /// The address by which to look up code, rules and lines: one less for a return address.
    pub fn lookup(self) -> Addr {
        match self {
            Pc::At(addr) => addr,
            Pc::After(addr) => addr.offset(-1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_address_is_looked_up_one_byte_before() {
        assert_eq!(Pc::After(Addr(0x1000)).lookup(), Addr(0xfff));
        assert_eq!(Pc::At(Addr(0x1000)).lookup(), Addr(0x1000));
    }

    #[test]
    fn ranges_are_half_open() {
        let range = AddrRange::new(Addr(16), Addr(32));
        assert!(range.contains(Addr(16)) && !range.contains(Addr(32)));
        assert_eq!(range.intersection(AddrRange::new(Addr(32), Addr(64))), None);
        assert_eq!(range.intersection(AddrRange::new(Addr(24), Addr(64))), Some(AddrRange::new(Addr(24), Addr(32))));
    }

    #[test]
    fn rounding_stays_in_the_address_space() {
        assert_eq!(Addr(0x1fff).align_down(0x1000), Addr(0x1000));
        assert_eq!(Addr(0x1001).align_up(0x1000), Addr(0x2000));
        assert_eq!(Addr(u64::MAX).align_up(0x1000), Addr(!0xfff));
    }
}
