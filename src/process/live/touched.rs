//! A copy of all memory that a process has written to, taken while it stands still.
//!
//! Stacks fill their pages in part. So memory is read into a small buffer, which stays in the processor's cache, and of
//! each page only the part from the first line that is not zero to the last one is kept: a third to two thirds of it.
//! The room for that is reserved before the stop: the first touch of a fresh page costs more than filling it.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::limit;
use crate::addr::{Addr, AddrRange};
use crate::mapping::Mapping;
use crate::memory::Slices;
use crate::process::live::remote::RemoteMemory;
use crate::process::{Pages, PagesUnknown};
use crate::share;

/// In a run of pages of the length of the buffer, pages that can't be read are skipped at most this often.
const MOST_TRIES: u32 = 8;

/// Bytes that are made ready between two checks whether they are still wanted.
const STEP: usize = 32 << 20;

/// A second thread is started if each has at least this many bytes to copy.
const WORTH_A_THREAD: u64 = 4 << 20;

/// Bytes that are read at once: they fit in a processor's own cache.
const BUFFER: usize = 256 << 10;

/// Ranges that one system call takes at most.
const RANGES: usize = 1024;

/// Pages that are sampled before the stop, to estimate how much of all pages will be kept.
const SAMPLES: usize = 256;

const PAGE: usize = crate::addr::PAGE as usize;

/// What is kept of a page begins and ends at multiples of this.
const LINE: usize = 64;

/// Room for a copy, and then the copy.
#[derive(Debug, Default)]
pub struct TouchedCopy {
    /// By address; each is filled by a thread of its own.
    parts: Vec<Part>,
    missing: bool,
}

/// The copy of what lies in one range of addresses.
#[derive(Debug)]
struct Part {
    range: AddrRange,
    /// How many bytes may be read.
    most: u64,
    /// How many bytes were left out because they are beyond `most`.
    left_out: u64,
    room: Vec<u8>,
    /// What is held, by address: where it lies in `room`.
    pieces: Vec<(Addr, Range<usize>)>,
    /// What was read.
    known: Vec<AddrRange>,
    missing: bool,
}

impl TouchedCopy {
    /// How many bytes would be read for what `pages` say.
    pub fn bytes_for(pages: &Pages) -> u64 {
        pages.touched().map(|range| range.len()).sum()
    }

    /// Room for about as much as `pages` of `source` say. It is made ready to be written to until `given_up` is set.
    pub fn with_room_for(pages: &Pages, source: &RemoteMemory, given_up: &AtomicBool) -> TouchedCopy {
        let kept = share_kept(pages, source);
        let middle = middle(pages);
        let (first, last) = (Addr(0), Addr(u64::MAX));
        let ranges = match middle {
            Some(middle) => vec![AddrRange::new(first, middle), AddrRange::new(middle, last)],
            None => vec![AddrRange::new(first, last)],
        };
        let most = limit::most_copied() / ranges.len() as u64;
        let part = |range| Part::with_room_for(&pages.within(range), range, most, kept, given_up);
        // The kernel clears each page, which one processor alone does slower than memory could be filled.
        let parts = share::among(ranges, part);
        TouchedCopy { parts, missing: false }
    }

    /// Copies what was touched, and returns the pages; `pages_of` returns those of a range.
    pub(in crate::process) fn fill(
        &mut self,
        source: &RemoteMemory,
        mappings: &[Mapping],
        pages_of: &(dyn Fn(AddrRange) -> Result<Pages, PagesUnknown> + Sync),
    ) -> Result<Pages, PagesUnknown> {
        let filled = share::among(self.parts.iter_mut().collect(), |part: &mut Part| {
            let pages = pages_of(part.range)?;
            let (ranges, left_out) = limit::within(&pages, mappings, part.most);
            part.left_out = left_out;
            part.fill(source, ranges);
            Ok(pages)
        });
        self.missing |= filled.iter().any(Result::is_err);
        filled.into_iter().reduce(|low, high| Ok(low?.followed_by(high?))).unwrap_or(Err(PagesUnknown))
    }

    /// Whether something that was to be copied is not in it.
    pub fn is_missing_some(&self) -> bool {
        self.missing || self.parts.iter().any(|part| part.missing)
    }

    /// How many bytes were touched and not copied because there were too many.
    pub fn left_out(&self) -> u64 {
        self.parts.iter().map(|part| part.left_out).sum()
    }

    /// How many bytes were read, and how many of them are held: the others are zero.
    pub fn bytes(&self) -> (u64, usize) {
        let known = self.parts.iter().flat_map(|part| &part.known);
        (known.map(|range| range.len()).sum(), self.parts.iter().map(|part| part.room.len()).sum())
    }

    /// The copy as memory.
    pub fn slices(&self) -> Slices<'_> {
        let pieces =
            self.parts.iter().flat_map(|part| part.pieces.iter().map(|(at, place)| (*at, &part.room[place.clone()])));
        let known = self.parts.iter().flat_map(|part| &part.known);
        Slices::within(pieces.collect(), known.copied().collect())
    }
}

impl Part {
    /// Room for that share of `pages`, which lie in `range`.
    fn with_room_for(pages: &Pages, range: AddrRange, most: u64, share: f64, given_up: &AtomicBool) -> Part {
        let all = TouchedCopy::bytes_for(pages).min(most);
        // A running process touches more until it is stopped. The kernel gives no memory to what is not needed.
        let all = usize::try_from(all + all / 32).unwrap_or(usize::MAX) + (1 << 20);
        let mut room = Vec::new();
        // If there is no room, nothing is copied, and the copy says so.
        if room.try_reserve_exact(all).is_ok() {
            let likely = (all as f64 * share * 1.1) as usize;
            let wanted = room.spare_capacity_mut();
            let end = likely.min(wanted.len());
            for step in wanted[..end].chunks_mut(STEP).take_while(|_| !given_up.load(Ordering::Relaxed)) {
                make_ready(step);
            }
        }
        let (pieces, known) = (Vec::with_capacity(pages.runs.len()), Vec::with_capacity(pages.runs.len()));
        Part { range, most, left_out: 0, room, pieces, known, missing: false }
    }

    /// Copies `runs` of pages.
    fn fill(&mut self, source: &RemoteMemory, runs: Vec<AddrRange>) {
        let mut buffer = vec![0; BUFFER];
        let mut runs = runs.into_iter();
        // The next ones, in reverse order.
        let mut waiting: Vec<(AddrRange, u32)> = Vec::new();
        loop {
            let batch = next_batch(&mut waiting, &mut runs);
            if batch.is_empty() {
                return;
            }
            let ranges: Vec<AddrRange> = batch.iter().map(|(range, _)| *range).collect();
            let lengths = source.read_many(&ranges, &mut buffer);
            let mut bytes = &buffer[..];
            for ((range, tries), length) in batch.into_iter().zip(lengths) {
                let (of_range, rest) = bytes.split_at(range.len() as usize);
                bytes = rest;
                self.keep(range.low, &of_range[..length]);
                let behind = range.low.offset(length as i64).offset(1).align_up(PAGE as u64);
                if length < of_range.len() && behind < range.high {
                    match tries < MOST_TRIES {
                        true => waiting.push((AddrRange::new(behind, range.high), tries + 1)),
                        false => self.missing = true,
                    }
                }
            }
        }
    }

    /// Keeps what is not zero of pages that were read.
    fn keep(&mut self, at: Addr, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let high = at.offset(bytes.len() as i64);
        match self.known.last_mut() {
            Some(last) if last.high == at => last.high = high,
            _ => self.known.push(AddrRange::new(at, high)),
        }
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            let Some(part) = without_zeros(page) else { continue };
            let start = self.room.len();
            if self.room.try_reserve(part.len()).is_err() {
                self.missing = true;
                return;
            }
            let low = at.offset((index * PAGE + part.start) as i64);
            self.room.extend_from_slice(&page[part]);
            match self.pieces.last_mut() {
                Some((last, place)) if last.offset(place.len() as i64) == low => place.end = self.room.len(),
                _ => self.pieces.push((low, start..self.room.len())),
            }
        }
    }
}

/// What is to be read next: as much of what waits, and of the next runs, as one system call takes.
fn next_batch(
    waiting: &mut Vec<(AddrRange, u32)>,
    runs: &mut impl Iterator<Item = AddrRange>,
) -> Vec<(AddrRange, u32)> {
    let (mut batch, mut left) = (Vec::new(), BUFFER as u64);
    while left > 0
        && batch.len() < RANGES
        && let Some((range, tries)) = waiting.pop().or_else(|| Some((runs.next()?, 0)))
    {
        let end = range.high.min(range.low.offset(left as i64));
        batch.push((AddrRange::new(range.low, end), tries));
        left -= end.0 - range.low.0;
        if end < range.high {
            waiting.push((AddrRange::new(end, range.high), 0));
        }
    }
    batch
}

/// The part of a page from its first line that is not zero to its last one; `None` if all of it is zero.
fn without_zeros(page: &[u8]) -> Option<Range<usize>> {
    let (lines, rest) = page.as_chunks::<LINE>();
    // Without a branch for each word; a comparison with zeros would be a call.
    let any = |line: &[u8; LINE]| line.as_chunks().0.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word));
    let holds = |line: &[u8; LINE]| any(line) != 0;
    let end = if rest.is_empty() { (lines.iter().rposition(holds)? + 1) * LINE } else { page.len() };
    let first = lines.iter().position(holds).unwrap_or(lines.len());
    Some(first * LINE..end)
}

/// Where a second thread is to take over: half of what is to be read lies below. `None` where one is enough.
fn middle(pages: &Pages) -> Option<Addr> {
    let half = TouchedCopy::bytes_for(pages) / 2;
    if half < WORTH_A_THREAD {
        return None;
    }
    let mut before = 0;
    let run = pages.touched().find(|range| {
        before += range.len();
        before > half
    })?;
    // A long run is cut in the middle as well.
    Some(run.high.offset(-((before - half) as i64)).align_down(PAGE as u64))
}

/// How much of `pages` will be kept, by some of them: from 0 to 1.
fn share_kept(pages: &Pages, source: &RemoteMemory) -> f64 {
    let all = TouchedCopy::bytes_for(pages) as usize / PAGE;
    let step = all.div_ceil(SAMPLES).max(1);
    let (mut next, mut before) = (0, 0);
    let mut samples = Vec::new();
    for range in pages.touched() {
        let count = range.len() as usize / PAGE;
        while next < before + count {
            let low = range.low.offset(((next - before) * PAGE) as i64);
            samples.push(AddrRange::new(low, low.offset(PAGE as i64)));
            next += step;
        }
        before += count;
    }
    let mut bytes = vec![0; samples.len() * PAGE];
    source.read_many(&samples, &mut bytes);
    let kept: usize = bytes.chunks(PAGE).filter_map(without_zeros).map(|part| part.len()).sum();
    kept as f64 / bytes.len().max(1) as f64
}

/// Makes the kernel give memory to every page of `room` now (madvise(2); `MADV_POPULATE_WRITE` since Linux 5.14).
///
/// In small pages: the time that the kernel takes to clear a huge one varies twentyfold on a virtual machine.
fn make_ready(room: &mut [MaybeUninit<u8>]) {
    let start = room.as_mut_ptr().addr().next_multiple_of(PAGE);
    let end = (room.as_mut_ptr().addr() + room.len()) / PAGE * PAGE;
    if end <= start {
        return;
    }
    let first = room.as_mut_ptr().wrapping_add(start - room.as_mut_ptr().addr());
    // SAFETY: the range lies within `room`, which is borrowed for writing; the advice changes no byte of it.
    let _ = unsafe { libc::madvise(first.cast(), end - start, libc::MADV_POPULATE_WRITE) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::process::{PageRun, PageState};

    fn pages(ranges: &[AddrRange]) -> Pages {
        let runs = ranges.iter().map(|range| PageRun { range: *range, state: PageState::Touched });
        Pages { runs: runs.collect(), sees_guards: true }
    }

    /// Memory of our own that begins at a page: 32 MiB, of which every third page holds something.
    fn sparse() -> (Vec<u8>, AddrRange) {
        let mut bytes = vec![0_u8; (32 << 20) + PAGE];
        let start = bytes.as_ptr().addr().next_multiple_of(PAGE);
        let offset = start - bytes.as_ptr().addr();
        for page in (0..(32 << 20) / PAGE).step_by(3) {
            bytes[offset + page * PAGE + page % PAGE] = 1 + (page % 7) as u8;
        }
        (bytes, AddrRange::new(Addr(start as u64), Addr((start + (32 << 20)) as u64)))
    }

    fn own() -> RemoteMemory {
        RemoteMemory::of_thread(std::process::id() as i32)
    }

    #[test]
    fn the_copy_reads_as_the_memory_did() {
        let (bytes, range) = sparse();
        let all = pages(&[range]);
        let mut copy = TouchedCopy::with_room_for(&all, &own(), &AtomicBool::new(false));
        assert_eq!(copy.parts.len(), 2);
        let filled = copy.fill(&own(), &[], &|range| Ok(all.within(range))).unwrap();
        assert_eq!(filled, all);
        let (known, held) = copy.bytes();
        assert_eq!((known, held, copy.is_missing_some()), (32 << 20, (32 << 20) / PAGE / 3 * LINE + LINE, false));
        let mut read = vec![7; 32 << 20];
        copy.slices().read(range.low, &mut read).unwrap();
        let offset = range.low.0 as usize - bytes.as_ptr().addr();
        assert!(read == bytes[offset..offset + (32 << 20)]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let (bytes, range) = sparse();
        let wild = AddrRange::new(Addr(PAGE as u64), Addr(3 * PAGE as u64));
        let all = pages(&[wild, range]);
        let mut copy = TouchedCopy::with_room_for(&all, &own(), &AtomicBool::new(true));
        copy.fill(&own(), &[], &|range| Ok(all.within(range))).unwrap();
        assert_eq!(copy.slices().known(), [range]);
        drop(bytes);
    }

    #[test]
    fn batches_hold_what_one_call_takes() {
        let range = |low: u64, pages: u64| AddrRange::new(Addr(low), Addr(low + pages * PAGE as u64));
        let runs = [range(0x10000, 1), range(0x1000_0000, 100), range(0x2000_0000, 1)];
        let (mut waiting, mut runs) = (Vec::new(), runs.into_iter());
        let mut sizes = || {
            let batch = next_batch(&mut waiting, &mut runs);
            batch.iter().map(|(range, _)| range.len() / PAGE as u64).collect::<Vec<_>>()
        };
        assert_eq!((sizes(), sizes(), sizes()), (vec![1, 63], vec![37, 1], vec![]));
    }

    #[test]
    fn zeros_around_are_left_out() {
        let mut page = [0; PAGE];
        assert_eq!(without_zeros(&page), None);
        page[PAGE - 1] = 1;
        assert_eq!(without_zeros(&page), Some(PAGE - LINE..PAGE));
        page[130] = 1;
        assert_eq!(without_zeros(&page), Some(128..PAGE));
        page[PAGE - 1] = 0;
        assert_eq!(without_zeros(&page), Some(128..192));
    }
}
