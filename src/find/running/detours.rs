//! Code that stands in for other code: what a program that is probed executes in place of a few instructions.
//!
//! Each *arena* is memory of no file whose first words list the detours in it, so that whoever looks at the program
//! sees where in its own code a thread stands, with the registers that it would have there.
//! `crate::probe` makes them; `docs/PROBES.md` has the layout.

use crate::addr::{Addr, AddrRange};
use crate::arch::X86_64;
use crate::mapping::{Mapping, Origin};
use crate::memory::Memory;
use crate::registers::{Register, Registers};

/// The first word of an arena.
pub const MAGIC: u64 = u64::from_le_bytes(*b"stkprobe");
/// The version of the layout.
pub const VERSION: u32 = 1;
/// The bytes of an arena's header.
pub const HEADER: usize = 32;
/// The bytes of a detour's record, of which an arena's header is followed by one for each.
pub const RECORD: usize = 128;
/// The longest window, in bytes.
pub const LONGEST: usize = 24;
/// The most instructions of a window, and the jump after them.
pub const MOST_PLACES: usize = 10;

/// Arenas have at most so many detours, and a program so many arenas; what is beyond is no work of ours.
const MOST: usize = 1024;

/// What is carried out in place of a window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detour {
    /// Where the window lies.
    pub window: u64,
    /// The bytes that were there.
    pub original: Vec<u8>,
    /// Where what stands in for it lies.
    pub stub: u64,
    /// The bytes of that.
    pub length: u16,
    /// Where in it the note begins: with an instruction that moves the stack pointer down by `room`.
    pub note: u16,
    /// From where on the registers that it needs are kept.
    pub kept: u16,
    /// Where the note ends, with everything as before it.
    pub noted: u16,
    /// By how much the stack pointer is moved in between.
    pub room: u16,
    /// Where each instruction of the window begins in what stands in for it, and in the window, in order.
    pub places: Vec<(u16, u16)>,
}

/// The registers that a note keeps, by their numbers in DWARF, in order from the moved stack pointer up.
const KEPT: [Register; 4] = [Register(0), Register(2), Register(1), Register(8)];

/// All detours of a target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Detours(Vec<Detour>);

impl Detours {
    /// The detours that a target's memory lists.
    pub fn read(mappings: &[Mapping], memory: &dyn Memory) -> Detours {
        let may_be =
            |mapping: &&Mapping| mapping.access.execute && !mapping.access.write && mapping.origin == Origin::Anonymous;
        let arenas = mappings.iter().filter(may_be).filter(|mapping| memory.read_u64(mapping.range.low) == Ok(MAGIC));
        let detours = arenas.take(MOST).flat_map(|arena| read_arena(arena.range, memory));
        Detours(detours.take(MOST).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The detours.
    pub fn iter(&self) -> std::slice::Iter<'_, Detour> {
        self.0.iter()
    }

    /// Gives a thread that stands in a detour the registers that it would have without.
    pub fn see_through(&self, registers: &mut Registers, memory: &dyn Memory) {
        let Some(pc) = registers.get(X86_64.pc) else { return };
        let inside = |detour: &&Detour| pc.wrapping_sub(detour.stub) < u64::from(detour.length);
        let Some(detour) = self.0.iter().find(inside) else { return };
        let offset = (pc - detour.stub) as u16;
        if (detour.note + 1..detour.noted).contains(&offset)
            && let Some(sp) = registers.addr(X86_64.sp)
        {
            if offset >= detour.kept {
                for (register, place) in KEPT.into_iter().zip((0..).step_by(8)) {
                    match memory.read_u64(sp.offset(place)) {
                        Ok(value) => registers.set(register, value),
                        Err(_) => registers.forget(register),
                    }
                }
            }
            registers.set(X86_64.sp, sp.0.wrapping_add(u64::from(detour.room)));
        }
        // In the note, the instruction after it is next.
        let from = if (detour.note..detour.noted).contains(&offset) { detour.noted } else { offset };
        if let Some((_, place)) = detour.places.iter().rev().find(|(begin, _)| *begin <= from) {
            registers.set(X86_64.pc, detour.window.wrapping_add(u64::from(*place)));
        }
    }
}

fn read_arena(arena: AddrRange, memory: &dyn Memory) -> Vec<Detour> {
    let mut header = [0; HEADER];
    let is_read = memory.read(arena.low, &mut header).is_ok();
    let number = |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes);
    if !is_read || number(8) != VERSION {
        return Vec::new();
    }
    let record = |index: usize| {
        let mut bytes = [0; RECORD];
        let at = arena.low.offset((HEADER + index * RECORD) as i64);
        memory.read(at, &mut bytes).ok()?;
        Detour::decode(&bytes).filter(|detour| arena.contains(Addr(detour.stub)))
    };
    (0..(number(12) as usize).min(MOST)).map_while(record).collect()
}

/// The header of an arena with so many detours, whose switches are noted in a table at `table`.
pub fn header(table: u64, count: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&count.to_le_bytes());
    bytes[16..24].copy_from_slice(&table.to_le_bytes());
    bytes
}

impl Detour {
    /// Its record; `None` if its window is too long for one.
    pub fn encode(&self) -> Option<[u8; RECORD]> {
        let mut bytes = [0; RECORD];
        if self.original.len() > LONGEST || self.places.len() > MOST_PLACES {
            return None;
        }
        bytes[..8].copy_from_slice(&self.window.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.stub.to_le_bytes());
        let numbers = [self.length, self.note, self.kept, self.noted, self.room];
        let counts = [self.original.len() as u16, self.places.len() as u16];
        let places = self.places.iter().flat_map(|(stub, window)| [*stub, *window]);
        for (index, number) in numbers.into_iter().chain(counts).chain(places).enumerate() {
            bytes[16 + 2 * index..][..2].copy_from_slice(&number.to_le_bytes());
        }
        bytes[RECORD - LONGEST..][..self.original.len()].copy_from_slice(&self.original);
        Some(bytes)
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Detour> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let number = |index: usize| {
            let at = 16 + 2 * index;
            Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
        };
        let (window_length, places) = (usize::from(number(5)?), usize::from(number(6)?));
        if window_length > LONGEST || places > MOST_PLACES {
            return None;
        }
        let place = |index: usize| Some((number(7 + 2 * index)?, number(8 + 2 * index)?));
        Some(Detour {
            window: word(0)?,
            original: bytes.get(RECORD - LONGEST..)?.get(..window_length)?.to_vec(),
            stub: word(8)?,
            length: number(0)?,
            note: number(1)?,
            kept: number(2)?,
            noted: number(3)?,
            room: number(4)?,
            places: (0..places).map(place).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Access;
    use crate::memory::Slices;

    const ARENA: u64 = 0x10_0000;

    fn detour() -> Detour {
        Detour {
            window: 0x40_0000,
            original: vec![0x48, 0x89, 0x27, 0x48, 0x8b, 0x26],
            stub: ARENA + 0x400,
            length: 0x100,
            note: 3,
            kept: 0x20,
            noted: 0xe0,
            room: 160,
            places: vec![(0, 0), (0xe0, 3), (0xe3, 6)],
        }
    }

    fn seen(memory: &[u8], pc: u64) -> Registers {
        let access = Access { read: true, write: false, execute: true };
        let range = AddrRange::new(Addr(ARENA), Addr(ARENA + memory.len() as u64));
        let mapping = Mapping { range, access, shared: false, origin: Origin::Anonymous };
        let memory = Slices::new(vec![(Addr(ARENA), memory)]);
        let mut registers = Registers::unknown();
        registers.set(X86_64.pc, pc);
        registers.set(X86_64.sp, ARENA + 0x800);
        registers.set(Register(0), 1);
        registers.set(Register(3), 3);
        Detours::read(&[mapping], &memory).see_through(&mut registers, &memory);
        registers
    }

    fn arena() -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        bytes[..HEADER].copy_from_slice(&header(0x2000_0000_0000, 1));
        bytes[HEADER..HEADER + RECORD].copy_from_slice(&detour().encode().unwrap());
        bytes[0x800..0x808].copy_from_slice(&77_u64.to_le_bytes());
        bytes
    }

    #[test]
    fn a_thread_in_a_detour_is_where_it_would_be_without() {
        let memory = arena();
        let at = |offset: u64| {
            let registers = seen(&memory, ARENA + 0x400 + offset);
            let moved = registers.get(X86_64.sp).unwrap() - (ARENA + 0x800);
            (registers.get(X86_64.pc).unwrap(), moved, registers.get(Register(0)).unwrap())
        };
        assert_eq!(at(0), (0x40_0000, 0, 1), "the first instruction of the window");
        assert_eq!(at(3), (0x40_0003, 0, 1), "the note has not begun");
        assert_eq!(at(8), (0x40_0003, 160, 1), "nothing is kept yet");
        assert_eq!(at(0x20), (0x40_0003, 160, 77), "what is kept is taken from there");
        assert_eq!(at(0xdf), (0x40_0003, 160, 77));
        assert_eq!(at(0xe0), (0x40_0003, 0, 1), "noted");
        assert_eq!(at(0xe3), (0x40_0006, 0, 1), "the jump back");
        assert_eq!(at(0x100), (ARENA + 0x500, 0, 1), "not in it");
    }

    #[test]
    fn what_only_looks_like_an_arena_is_left_alone() {
        let stays = |memory: &[u8]| assert_eq!(seen(memory, ARENA + 0x404).get(X86_64.pc), Some(ARENA + 0x404));
        let mut memory = arena();
        memory[8] = 9;
        stays(&memory);
        let mut memory = arena();
        memory[HEADER + 16 + 12] = 200;
        stays(&memory);
        let mut memory = arena();
        memory[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(seen(&memory, ARENA + 0x404).get(X86_64.pc), Some(0x40_0003), "records as far as there is memory");
        stays(&memory[..HEADER + 4]);
        stays(&[]);
    }
}
