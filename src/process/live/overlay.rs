//! A stopped process's memory, each page read at most once.
//!
//! What was read in the stop is kept: later reads see the same bytes, even after the process runs on ([`Kept`]).
//! A read that hits the page of the last one costs a few nanoseconds; unwinding reads most words that way.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::addr::{Addr, AddrRange, PAGE};
use crate::memory::{Memory, Unreadable};
use crate::process::live::remote::RemoteMemory;

/// The memory of a stopped process; what was read of it is kept.
#[derive(Debug)]
pub struct Overlay {
    source: RemoteMemory,
    kept: RefCell<Kept>,
    /// Number and place of the page that was read last.
    last: Cell<(u64, u32)>,
}

/// Pages of a process's memory as they stood in a stop. What was not read in the stop is unreadable.
#[derive(Default)]
pub struct Kept {
    /// The place in `pages` of each page number that was asked for; [`MISSING`] for one that could not be read.
    places: HashMap<u64, u32, BuildHasherDefault<PageHasher>>,
    pages: Vec<u8>,
}

const MISSING: u32 = u32::MAX;

impl Overlay {
    /// Keeps what is read of `source`, which must stand still from now on.
    pub(in crate::process) fn new(source: RemoteMemory) -> Overlay {
        Overlay { source, kept: RefCell::default(), last: Cell::new((u64::MAX, MISSING)) }
    }

    /// Reads the pages that these ranges touch, in as few system calls as possible. Pages that can't be read are
    /// skipped.
    ///
    /// One call of this reads at most `limit` bytes, the first ranges first.
    pub fn prefetch(&self, ranges: &[AddrRange], limit: usize) {
        let mut kept = self.kept.borrow_mut();
        let missing = kept.missing_pages(ranges, limit / PAGE as usize);
        kept.fetch(&self.source, &missing);
    }

    /// Where it reads from.
    pub(in crate::process) fn source(&self) -> &RemoteMemory {
        &self.source
    }

    /// What was read so far.
    pub(in crate::process) fn into_kept(self) -> Kept {
        self.kept.into_inner()
    }

    /// The place of a page, which is read if it was not before.
    fn place(&self, page: u64) -> Option<u32> {
        let (last, place) = self.last.get();
        if last == page {
            return Some(place);
        }
        let known = self.kept.borrow().places.get(&page).copied();
        let place = known.or_else(|| {
            let mut kept = self.kept.borrow_mut();
            kept.fetch(&self.source, &[page]);
            kept.places.get(&page).copied()
        });
        let place = place.filter(|place| *place != MISSING)?;
        self.last.set((page, place));
        Some(place)
    }
}

impl Memory for Overlay {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        read_by_page(at, into, |page, offset, part| {
            let place = self.place(page)?;
            self.kept.borrow().copy(place, offset, part)
        })
    }

    #[inline]
    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        let (last, place) = self.last.get();
        if at.0 / PAGE == last
            && let Some(word) = self.kept.borrow().word(place, (at.0 % PAGE) as usize)
        {
            return Ok(word);
        }
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl Kept {
    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        self.pages.len()
    }

    /// The numbers of the pages of `ranges` that were not asked for yet, at most `limit`.
    fn missing_pages(&self, ranges: &[AddrRange], limit: usize) -> Vec<u64> {
        let pages_of = |range: &AddrRange| range.low.0 / PAGE..range.high.0.div_ceil(PAGE);
        let mut missing: Vec<u64> = ranges
            .iter()
            .filter(|range| !range.is_empty())
            .flat_map(pages_of)
            .filter(|page| !self.places.contains_key(page))
            .take(limit)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Reads `pages`, sorted and none kept yet.
    fn fetch(&mut self, source: &RemoteMemory, pages: &[u64]) {
        let range = |page: u64| AddrRange::new(Addr(page * PAGE), Addr((page * PAGE).saturating_add(PAGE)));
        let ranges: Vec<AddrRange> = pages.iter().copied().map(range).collect();
        let start = self.pages.len();
        self.pages.resize(start + pages.len() * PAGE as usize, 0);
        let lengths = source.read_many(&ranges, &mut self.pages[start..]);
        let first = start / PAGE as usize;
        for (position, (page, length)) in pages.iter().zip(lengths).enumerate() {
            let place = u32::try_from(first + position).ok().filter(|_| length == PAGE as usize);
            self.places.insert(*page, place.unwrap_or(MISSING));
        }
        if pages.len() == 1 && self.places.get(&pages[0]) == Some(&MISSING) {
            // A page that can't be read takes no room when it is asked for alone, as reads of wild addresses do.
            self.pages.truncate(start);
        }
    }

    fn copy(&self, place: u32, offset: usize, into: &mut [u8]) -> Option<()> {
        let start = place as usize * PAGE as usize + offset;
        into.copy_from_slice(self.pages.get(start..start + into.len())?);
        Some(())
    }

    /// The word at `offset` of the page at `place`, if it lies in it whole.
    #[inline]
    fn word(&self, place: u32, offset: usize) -> Option<u64> {
        if offset + 8 > PAGE as usize {
            return None;
        }
        let start = place as usize * PAGE as usize + offset;
        Some(u64::from_le_bytes(self.pages.get(start..start + 8)?.try_into().ok()?))
    }
}

impl Memory for Kept {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        read_by_page(at, into, |page, offset, part| {
            let place = self.places.get(&page).copied().filter(|place| *place != MISSING)?;
            self.copy(place, offset, part)
        })
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} pages)", self.pages.len() / PAGE as usize)
    }
}

/// Splits a read at page borders; `copy` gets the page's number, the offset in it, and the part to fill.
fn read_by_page(
    at: Addr,
    into: &mut [u8],
    copy: impl Fn(u64, usize, &mut [u8]) -> Option<()>,
) -> Result<(), Unreadable> {
    at.0.checked_add(into.len() as u64).ok_or(Unreadable { at })?;
    let mut done = 0;
    while done < into.len() {
        let here = at.0 + done as u64;
        let offset = (here % PAGE) as usize;
        let length = (into.len() - done).min(PAGE as usize - offset);
        copy(here / PAGE, offset, &mut into[done..done + length]).ok_or(Unreadable { at })?;
        done += length;
    }
    Ok(())
}

/// Page numbers differ in their low bits; one multiplication spreads these over the word.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The odd number next to 2^64 divided by the golden ratio (Knuth, "Sorting and Searching", 6.4).
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Overlay {
        Overlay::new(RemoteMemory::of_thread(std::process::id() as i32))
    }

    #[test]
    fn what_was_read_stays_as_it_was() {
        let mut word = Box::new(std::hint::black_box(1u64));
        let at = Addr(&raw const *word as u64);
        let overlay = own();
        assert_eq!(overlay.read_u64(at), Ok(1));
        *std::hint::black_box(&mut *word) = 2;
        assert_eq!(overlay.read_u64(at), Ok(1));
        assert_eq!(overlay.into_kept().read_u64(at), Ok(1));
        assert_eq!(own().read_u64(at), Ok(2));
    }

    #[test]
    fn reads_cross_pages_and_prefetched_pages_are_kept() {
        let bytes: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
        let low = Addr(bytes.as_ptr() as u64);
        let overlay = own();
        overlay.prefetch(&[AddrRange::new(low, low.offset(20_000))], 1 << 20);
        let fetched = overlay.kept.borrow().bytes();
        assert!((20_480..=24_576).contains(&fetched), "{fetched}");
        let mut into = vec![0; 40_000];
        overlay.read(low, &mut into).unwrap();
        assert_eq!(into, bytes);
        for offset in [0i64, 1, 4089, 4092, 8190, 19_000] {
            let expected = u64::from_le_bytes(bytes[offset as usize..][..8].try_into().unwrap());
            assert_eq!(overlay.read_u64(low.offset(offset)), Ok(expected));
        }
    }

    #[test]
    fn unreadable_pages_take_no_room_and_are_asked_for_once() {
        let overlay = own();
        for page in 0..16 {
            assert!(overlay.read_u64(Addr(page * PAGE)).is_err());
        }
        assert!(overlay.read_u64(Addr(u64::MAX - 7)).is_err());
        assert!(overlay.read_u64(Addr(u64::MAX - 2)).is_err());
        assert_eq!(overlay.kept.borrow().bytes(), 0);
        assert!(overlay.kept.borrow().read_u64(Addr(0)).is_err());
    }

    #[test]
    fn a_prefetch_is_bounded() {
        let overlay = own();
        overlay.prefetch(&[AddrRange::new(Addr(0), Addr(u64::MAX))], 64 << 10);
        assert!(overlay.kept.borrow().bytes() <= 64 << 10);
    }
}
