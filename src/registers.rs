//! The registers of one context, each known or unknown.
//!
//! Registers are numbered as the platform's DWARF supplement numbers them; [`crate::arch`] says which numbers a CPU
//! has.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::addr::Addr;

/// A register by its DWARF number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Register(pub u8);

/// The values of those of a context's general registers that are known.
///
/// Unknown is not zero: a register that a callee was free to change, and that nobody saved, has no value.
#[derive(Clone, PartialEq, Eq)]
pub struct Registers {
    known: u64,
    values: [u64; Registers::LIMIT],
}

impl Registers {
    /// One more than the highest register number that is kept (aarch64: x0–x30, sp, pc and two of pointer
    /// authentication).
    pub const LIMIT: usize = 35;

    /// A context of which no register is known.
    pub fn unknown() -> Registers {
        Registers { known: 0, values: [0; Registers::LIMIT] }
    }

    /// The value of `register`, if it is known.
    #[inline]
    pub fn get(&self, register: Register) -> Option<u64> {
        let value = *self.values.get(usize::from(register.0))?;
        (self.known >> register.0 & 1 == 1).then_some(value)
    }

    /// Sets `register` to `value`. A number that is not kept is skipped: vector and float registers are not needed.
    #[inline]
    pub fn set(&mut self, register: Register, value: u64) {
        if let Some(slot) = self.values.get_mut(usize::from(register.0)) {
            *slot = value;
            self.known |= 1 << register.0;
        }
    }

    /// Forgets every register but those in `keeps`, and takes those in `saves` for known (bit number = register
    /// number): the caller then sets their values by [`Registers::set_known`].
    #[inline]
    pub(crate) fn change(&mut self, keeps: u64, saves: u64) {
        self.known = self.known & keeps | saves;
    }

    /// Sets the value of a register that is known already.
    #[inline]
    pub(crate) fn set_known(&mut self, register: Register, value: u64) {
        if let Some(slot) = self.values.get_mut(usize::from(register.0)) {
            *slot = value;
        }
    }

    /// Forgets the value of `register`.
    #[inline]
    pub fn forget(&mut self, register: Register) {
        if usize::from(register.0) < Registers::LIMIT {
            self.known &= !(1 << register.0);
        }
    }

    /// Forgets every register whose bit is not set in `mask` (bit number = register number).
    #[inline]
    pub fn retain(&mut self, mask: u64) {
        self.known &= mask;
    }

    /// The values of those that are known.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        (0..Registers::LIMIT as u8).filter_map(|number| self.get(Register(number)))
    }

    /// The registers that are known, a bit for each.
    pub fn known_mask(&self) -> u64 {
        self.known
    }

    /// The value of `register` as an address, if it is known.
    #[inline]
    pub fn addr(&self, register: Register) -> Option<Addr> {
        self.get(register).map(Addr)
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for number in 0..Registers::LIMIT as u8 {
            if let Some(value) = self.get(Register(number)) {
                map.entry(&number, &format_args!("{value:#x}"));
            }
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_zero() {
        let mut registers = Registers::unknown();
        assert_eq!(registers.get(Register(3)), None);
        registers.set(Register(3), 0);
        assert_eq!(registers.get(Register(3)), Some(0));
        registers.forget(Register(3));
        assert_eq!(registers.get(Register(3)), None);
    }

    #[test]
    fn a_number_out_of_range_is_never_known() {
        let mut registers = Registers::unknown();
        registers.set(Register(200), 7);
        registers.forget(Register(200));
        assert_eq!(registers.get(Register(200)), None);
        assert_eq!(registers.known_mask(), 0);
    }
}
