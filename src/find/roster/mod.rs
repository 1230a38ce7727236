//! Reads a roster: the list that a program keeps of its own stacks in its memory (`docs/ROSTER.md`).
//!
//! Everything in it is another program's memory and may be wrong: chunks and entries are bounded in number, and an entry
//! whose bounds make no sense is passed over. What the program itself says of a stack is the best that is known of it,
//! but for an entry that was being changed.

pub(crate) mod listed;

use crate::addr::{Addr, AddrRange};
use crate::arch::{AARCH64, Arch, X86_64};
use crate::memory::Memory;
use crate::registers::{Register, Registers};

/// What a roster begins with.
pub const MAGIC: [u8; 16] = *b"stackscope ROST\x01";

/// The version that is known here; later ones may only append to an entry.
const VERSION: u32 = 1;

/// The size of an entry in version 1, in bytes.
const ENTRY: usize = 128;

/// The largest size of an entry that is believed, in bytes.
const LARGEST_ENTRY: usize = 4096;

/// The most entries that are read.
const MOST_ENTRIES: usize = 1 << 20;

/// A chunk counts as at least this many entries, so that a ring of empty ones ends soon.
const LEAST_CHUNK: usize = 64;

/// What the program says of one of its stacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Where it lies.
    pub range: AddrRange,
    /// What it is used for at the moment.
    pub state: Use,
    /// The saved stack pointer of a coroutine that waits to be resumed.
    pub saved_sp: Option<Addr>,
    /// How the stack was made.
    pub source: String,
    /// What the program calls it; may be empty.
    pub name: String,
    /// Whether the entry was in the middle of a change.
    pub in_flux: bool,
}

/// What a listed stack is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// For nothing: it waits for a user.
    Idle,
    /// By a coroutine that has not been resumed yet.
    New,
    /// By a coroutine that has been resumed, and is not over.
    Started,
    /// By a coroutine that is over.
    Finished,
    /// As a piece that another stack has grown by.
    Segment,
}

/// The stacks that the roster at `at` lists, and whether all of it could be read. `None` where there is no roster.
pub fn read(memory: &dyn Memory, at: Addr) -> Option<(Vec<Listed>, bool)> {
    let mut head = [0; 32];
    memory.read(at, &mut head).ok()?;
    let entry_size = word32(&head, 20) as usize;
    if !head.starts_with(&MAGIC) || word32(&head, 16) < VERSION || !(ENTRY..=LARGEST_ENTRY).contains(&entry_size) {
        return None;
    }
    let mut lines = Vec::new();
    let mut left = MOST_ENTRIES;
    let mut chunk = word64(&head, 24);
    while chunk != 0 {
        let mut head = [0; 16];
        if memory.read(Addr(chunk), &mut head).is_err() {
            return Some((lines, false));
        }
        let length = word64(&head, 8);
        match usize::try_from(length).ok().and_then(|length| left.checked_sub(length.max(LEAST_CHUNK))) {
            Some(rest) => left = rest,
            None => return Some((lines, false)),
        }
        for index in 0..length {
            let mut entry = [0; ENTRY];
            let at = chunk.wrapping_add(64).wrapping_add(index.wrapping_mul(entry_size as u64));
            if memory.read(Addr(at), &mut entry).is_err() {
                return Some((lines, false));
            }
            lines.extend(line(&entry, memory));
        }
        chunk = word64(&head, 0);
    }
    Some((lines, true))
}

fn line(entry: &[u8; ENTRY], memory: &dyn Memory) -> Option<Listed> {
    let state = match word32(entry, 4) {
        1 => Use::Idle,
        2 => Use::New,
        3 => Use::Started,
        4 => Use::Finished,
        5 => Use::Segment,
        _ => return None,
    };
    let range = AddrRange::new(Addr(word64(entry, 8)), Addr(word64(entry, 16)));
    let word = Some(Addr(word64(entry, 24))).filter(|word| word.0 != 0);
    let waits = matches!(state, Use::New | Use::Started);
    let saved = word.filter(|_| waits).and_then(|word| memory.read_u64(word).ok()).map(Addr);
    let is_line = range.low < range.high;
    is_line.then(|| Listed {
        range,
        state,
        saved_sp: saved.filter(|sp| range.contains(*sp)),
        source: text(&entry[32..48]),
        name: text(&entry[48..128]),
        in_flux: !word32(entry, 0).is_multiple_of(2),
    })
}

/// The registers of the context that was saved at `sp` by the switch routines of this crate (`src/switch/arch`): those
/// that matter to a walk. `None` for a CPU that they are not made for.
pub fn saved_registers(arch: &Arch, memory: &dyn Memory, sp: Addr) -> Option<Registers> {
    let (size, words): (i64, &[(Register, i64)]) = match arch.elf_machine {
        machine if machine == X86_64.elf_machine => (24, &[(Register(3), 0), (Register(6), 8), (X86_64.pc, 16)]),
        machine if machine == AARCH64.elf_machine => (32, &[(Register(29), 0), (AARCH64.pc, 8), (Register(19), 16)]),
        _ => return None,
    };
    let mut registers = Registers::unknown();
    for (register, offset) in words {
        registers.set(*register, memory.read_u64(sp.offset(*offset)).ok()?);
    }
    registers.set(arch.sp, sp.offset(size).0);
    Some(registers)
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// The text up to its first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Copied;
    use crate::process::{Target, This};
    use crate::switch::{Coroutine, State as Resumed, Yielder, roster_address};

    fn own() -> Vec<Listed> {
        let (lines, complete) = This::with(|this| read(this, Addr(roster_address() as u64))).unwrap().unwrap();
        assert!(complete);
        lines
    }

    #[test]
    fn the_own_roster_says_what_a_coroutine_is_and_where_it_goes_on() {
        let mut coroutine = Coroutine::new(|yielder: &Yielder<(), ()>, ()| yielder.suspend(())).unwrap();
        coroutine.set_name("listed");
        let find = || own().into_iter().find(|line| line.name == "listed").unwrap();
        assert_eq!((find().state, find().source.as_str(), find().in_flux), (Use::New, "guarded", false));
        assert_eq!(coroutine.resume(()), Resumed::Yielded(()));
        let line = find();
        let range = coroutine.stack().range();
        assert_eq!(line.range, AddrRange::new(Addr(range.base().addr() as u64), Addr(range.top().addr() as u64)));
        assert_eq!(line.state, Use::Started);
        let sp = line.saved_sp.unwrap();
        let code = This::with(|this| {
            let registers = saved_registers(this.arch(), this, sp).unwrap();
            let pc = registers.addr(this.arch().pc).unwrap();
            this.mappings().iter().any(|mapping| mapping.access.execute && mapping.range.contains(pc))
        });
        assert!(code.unwrap());
        assert_eq!(coroutine.resume(()), Resumed::Returned(()));
        assert_eq!((find().state, find().saved_sp), (Use::Finished, None));
    }

    /// A roster at 0x1000 with these entry size, and one chunk at 0x2000 with these link and length.
    fn made_up(entry_size: u32, next: u64, length: u64) -> Copied {
        let mut memory = Copied::default();
        let head = [&MAGIC[..], &1_u32.to_le_bytes(), &entry_size.to_le_bytes(), &0x2000_u64.to_le_bytes()].concat();
        memory.insert(Addr(0x1000), head.into());
        let mut chunk = vec![0; 64 + 128];
        chunk[..8].copy_from_slice(&next.to_le_bytes());
        chunk[8..16].copy_from_slice(&length.to_le_bytes());
        chunk[68] = 1;
        chunk[72..80].copy_from_slice(&0x5000_u64.to_le_bytes());
        chunk[80..88].copy_from_slice(&0x6000_u64.to_le_bytes());
        memory.insert(Addr(0x2000), chunk.into());
        memory
    }

    #[test]
    fn hostile_rosters_end() {
        let lines = |memory: &Copied| read(memory, Addr(0x1000)).map(|(lines, complete)| (lines.len(), complete));
        assert_eq!(lines(&made_up(128, 0, 1)), Some((1, true)));
        assert_eq!(lines(&made_up(128, 0, 2)), Some((1, false)), "its second entry is not there");
        assert_eq!(lines(&made_up(128, 0, u64::MAX)), Some((0, false)));
        assert_eq!(lines(&made_up(128, 0x9000, 1)), Some((1, false)));
        assert_eq!(lines(&made_up(128, 0x2000, 0)).map(|(_, complete)| complete), Some(false), "a ring");
        assert_eq!(lines(&made_up(0, 0, 1)), None);
        assert_eq!(read(&made_up(128, 0, 1), Addr(0x2000)), None);
    }
}
