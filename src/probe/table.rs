//! The table in which stubs note switches, as it is laid out in the program's memory, and as we read it.
//!
//! It has a *slot* for each page of user space, which is its index: a stack's switches are noted in the slots of the
//! pages that its stack pointer was in. Only the thread on a stack writes to its slots, so that what they count is
//! exact; two stacks in one page share a slot. The memory file behind it (memfd_create(2)) is thin, and outlives the
//! program for as long as we have it open.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek64};

/// The bits of an address in user space.
pub const ADDRESS_BITS: u32 = 47;
/// The bits of an address within its page.
pub const PAGE_BITS: u32 = 12;
/// The bytes of a slot.
pub const SLOT: u64 = 64;
/// The bytes of the table.
pub const SIZE: u64 = SLOT << (ADDRESS_BITS - PAGE_BITS);

/// Where the stack pointer is in a slot; its upper two bytes are those of [`SITE`].
pub const SP: i64 = 0;
/// Where the number of the site is at which the stack was left, in two bytes.
pub const SITE: i64 = 6;
/// Where it is counted how often the stack was entered, in four bytes.
pub const INS: i64 = 8;
/// Where the stack pointer of the stack is that it was last entered from.
pub const FROM: i64 = 16;
/// The bit that is set in a stack pointer while its stack runs.
pub const RUNS: u64 = 1;
/// How many kinds of site are counted apart.
pub const CLASSES: usize = 10;
/// Where a site's own slot has the stack pointers of the last switch there, left and entered.
pub const PAIR: i64 = 0;

/// Sites have numbers from 1 up to this; the slots of these numbers are of pages that no stack lies in.
pub const MOST_SITES: u16 = 999;

/// So many slots are read at most: more than 500,000 stacks have.
const MOST_SLOTS: usize = 1 << 20;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Where in a slot it is counted how often the stack was left at a site of this class, in four bytes.
pub const fn outs(class: usize) -> i64 {
    24 + 4 * class as i64
}

/// What is known of one page that stacks were switched in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// The stack pointer when it was last left or entered.
    pub sp: u64,
    /// Whether it was entered last: a thread runs there, or on another page of the same stack.
    pub runs: bool,
    /// The site at which it was last left, if it does not run.
    pub site: u16,
    /// The stack pointer of the stack that it was last entered from.
    pub from: u64,
    /// How often it was entered.
    pub ins: u64,
    /// How often it was left, by class of the site.
    pub outs: [u64; CLASSES],
    /// The counters as they were last read.
    raw: [u32; CLASSES + 1],
}

/// The table of one program.
#[derive(Debug)]
pub struct Table {
    file: File,
    slots: HashMap<u64, Slot>,
    /// The last switch at each site that keeps it, by the number of the site: the stack left, and the stack entered.
    pairs: HashMap<u16, (u64, u64)>,
    is_cut: bool,
}

impl Table {
    /// The table in a memory file.
    pub fn new(file: File) -> Table {
        Table { file, slots: HashMap::new(), pairs: HashMap::new(), is_cut: false }
    }

    /// The slots by the number of their page, as they were last read.
    pub fn slots(&self) -> &HashMap<u64, Slot> {
        &self.slots
    }

    /// The stack pointers, left and entered, of the last switch at a site.
    pub fn pair(&self, site: u16) -> Option<(u64, u64)> {
        self.pairs.get(&site).copied()
    }

    /// Whether there is more in it than is read.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Reads what is new. Counters have four bytes: read it at least once each two seconds.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; PIECE];
        let mut at = 0;
        while let Some(data) = seek(&self.file, at, Whence::SeekData)? {
            at = seek(&self.file, data, Whence::SeekHole)?.unwrap_or(SIZE).min(SIZE);
            for piece in (data..at).step_by(PIECE) {
                let length = PIECE.min((at - piece) as usize);
                self.file.read_exact_at(&mut bytes[..length], piece)?;
                let slots = bytes[..length].as_chunks::<{ SLOT as usize }>().0.iter().zip(piece / SLOT..);
                slots
                    .filter(|(slot, _)| slot.iter().any(|byte| *byte != 0))
                    .for_each(|(slot, page)| self.take(page, slot));
            }
            if at >= SIZE {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, page: u64, bytes: &[u8; SLOT as usize]) {
        let word = |at: i64| u64::from_le_bytes(array(bytes, at));
        if let Some(site) = u16::try_from(page).ok().filter(|site| *site <= MOST_SITES) {
            self.pairs.insert(site, (word(PAIR), word(PAIR + 8)));
            return;
        }
        if self.slots.len() >= MOST_SLOTS && !self.slots.contains_key(&page) {
            self.is_cut = true;
            return;
        }
        let slot = self.slots.entry(page).or_default();
        let sp = word(SP);
        slot.runs = sp & RUNS != 0;
        slot.site = if slot.runs { 0 } else { (sp >> (8 * SITE)) as u16 };
        slot.sp = sp & ((1 << ADDRESS_BITS) - 1) & !RUNS;
        slot.from = word(FROM);
        let counted = |at: i64, before: &mut u32| {
            let now = u32::from_le_bytes(array(bytes, at));
            u64::from(now.wrapping_sub(std::mem::replace(before, now)))
        };
        let [ins, outs_before @ ..] = &mut slot.raw;
        slot.ins += counted(INS, ins);
        for (class, (count, before)) in slot.outs.iter_mut().zip(outs_before).enumerate() {
            *count += counted(outs(class), before);
        }
    }
}

/// The bytes of a slot from `at` on.
fn array<const N: usize>(bytes: &[u8; SLOT as usize], at: i64) -> [u8; N] {
    std::array::from_fn(|index| bytes.get(at as usize + index).copied().unwrap_or_default())
}

/// The next place at or after `at` where there is data, or none; `None` if there is none up to the end.
fn seek(file: &File, at: u64, what: Whence) -> io::Result<Option<u64>> {
    match lseek64(file, at as i64, what) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn table() -> (Table, File) {
        let file = File::from(memfd_create("stackscope-test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(SIZE).unwrap();
        (Table::new(file.try_clone().unwrap()), file)
    }

    #[test]
    fn counters_that_overflow_are_added_up() {
        let (mut table, file) = table();
        let page = 0x7fff_1234_5000_u64 >> PAGE_BITS;
        let write = |field: i64, bytes: &[u8]| file.write_all_at(bytes, page * SLOT + field as u64).unwrap();
        write(SP, &(0x7fff_1234_5670_u64 | 7 << 48).to_le_bytes());
        write(outs(2), &(u32::MAX - 1).to_le_bytes());
        table.read().unwrap();
        assert_eq!(table.slots()[&page].outs[2], u64::from(u32::MAX) - 1);
        write(outs(2), &5_u32.to_le_bytes());
        write(INS, &9_u32.to_le_bytes());
        table.read().unwrap();
        table.read().unwrap();
        let slot = &table.slots()[&page];
        assert_eq!((slot.outs[2], slot.ins), (u64::from(u32::MAX) + 6, 9));
        assert_eq!((slot.sp, slot.site, slot.runs), (0x7fff_1234_5670, 7, false));
        write(SP, &(0x7fff_1234_5670_u64 | RUNS).to_le_bytes());
        table.read().unwrap();
        let slot = &table.slots()[&page];
        assert_eq!((slot.sp, slot.site, slot.runs), (0x7fff_1234_5670, 0, true));
    }

    #[test]
    fn a_site_keeps_its_last_pair_and_the_highest_page_has_a_slot() {
        let (mut table, file) = table();
        file.write_all_at(&0x1000_u64.to_le_bytes(), 3 * SLOT).unwrap();
        file.write_all_at(&0x2000_u64.to_le_bytes(), 3 * SLOT + 8).unwrap();
        let last = (1_u64 << (ADDRESS_BITS - PAGE_BITS)) - 1;
        file.write_all_at(&1_u32.to_le_bytes(), last * SLOT + INS as u64).unwrap();
        table.read().unwrap();
        assert_eq!(table.pair(3), Some((0x1000, 0x2000)));
        assert_eq!(table.slots().keys().collect::<Vec<_>>(), [&last]);
        assert!(!table.is_cut());
    }
}
