//! A copy of all memory that a process has written to, taken while it stands still.
//!
//! The room is made ready before the stop: the first touch of a fresh page costs more than filling it.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::remote::RemoteMemory;
use super::{PageState, Pages};
use crate::addr::{Addr, AddrRange};
use crate::memory::Slices;

/// More than this is not copied, in bytes: it bounds our memory and the time that the process stands.
const MOST_COPIED: usize = 4 << 30;

/// A run with pages in it that can't be read is taken up again behind them at most this often.
const MOST_ROUNDS: usize = 8;

/// So many bytes are made ready before the next look whether they are still wanted.
const PART: usize = 32 << 20;

/// A second thread is started where each has so many bytes to copy.
const WORTH_A_THREAD: usize = 4 << 20;

const PAGE: u64 = 4096;

/// Room for a copy, and then the copy.
#[derive(Debug, Default)]
pub struct TouchedCopy {
    room: Vec<u8>,
    pieces: Vec<(Addr, Range<usize>)>,
    missing: bool,
}

impl TouchedCopy {
    /// How many bytes of room are needed for what `pages` say.
    pub fn bytes_for(pages: &Pages) -> usize {
        let bytes: u64 = touched(pages).map(|range| range.len()).sum();
        // A process that runs touches more until it is stopped.
        usize::try_from(bytes + bytes / 32).unwrap_or(MOST_COPIED).min(MOST_COPIED) + (1 << 20)
    }

    /// Room for about as much as `pages` say, ready to be written to, as far as that got until `given_up`.
    pub fn with_room_for(pages: &Pages, given_up: &AtomicBool) -> TouchedCopy {
        let bytes = TouchedCopy::bytes_for(pages);
        let mut room = vec![0; bytes];
        let parts = Mutex::new(room.chunks_mut(PART));
        let work = || {
            while !given_up.load(Ordering::Relaxed)
                && let Some(part) = parts.lock().ok().and_then(|mut parts| parts.next())
            {
                make_ready(part);
            }
        };
        // The kernel clears each page, which one processor alone does slower than memory could be filled.
        std::thread::scope(|scope| {
            if bytes > PART {
                scope.spawn(work);
            }
            work();
        });
        TouchedCopy { room, pieces: Vec::new(), missing: false }
    }

    /// Copies what `pages` say was touched.
    pub(super) fn fill(&mut self, source: &RemoteMemory, pages: &Pages) {
        let needed: u64 = touched(pages).map(|range| range.len()).sum();
        let needed = usize::try_from(needed).unwrap_or(MOST_COPIED).min(MOST_COPIED);
        if needed > self.room.len() {
            self.room.resize(needed, 0);
        }
        let mut ranges: Vec<AddrRange> = touched(pages).collect();
        let mut filled = 0;
        for _ in 0..MOST_ROUNDS {
            if ranges.is_empty() {
                break;
            }
            ranges = self.fill_once(source, &ranges, &mut filled);
        }
        self.missing |= !ranges.is_empty();
    }

    /// One pass; gives what is left of ranges behind a page that could not be read.
    fn fill_once(&mut self, source: &RemoteMemory, ranges: &[AddrRange], filled: &mut usize) -> Vec<AddrRange> {
        let lengths = read_by_two(source, ranges, &mut self.room[*filled..]);
        let mut left = Vec::new();
        for (range, length) in ranges.iter().zip(lengths) {
            let whole = usize::try_from(range.len()).unwrap_or(usize::MAX);
            if whole > self.room.len() - *filled {
                self.missing = true;
                break;
            }
            if length > 0 {
                self.pieces.push((range.low, *filled..*filled + length));
            }
            let behind = range.low.offset(length as i64).offset(1).align_up(PAGE);
            if length < whole && behind < range.high {
                left.push(AddrRange::new(behind, range.high));
            }
            *filled += whole;
        }
        left
    }

    /// Whether something that was touched is not in it.
    pub fn is_missing_some(&self) -> bool {
        self.missing
    }

    /// How many bytes were copied.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, place)| place.len()).sum()
    }

    /// The copy as memory.
    pub fn slices(&self) -> Slices<'_> {
        Slices::new(self.pieces.iter().map(|(at, place)| (*at, &self.room[place.clone()])).collect())
    }
}

/// [`RemoteMemory::read_many`], on two processors where it is much: the one that the target stands on is free.
fn read_by_two(source: &RemoteMemory, ranges: &[AddrRange], room: &mut [u8]) -> Vec<usize> {
    let size = |ranges: &[AddrRange]| ranges.iter().map(|range| range.len()).sum::<u64>();
    let mut before = 0;
    let half = size(ranges) / 2;
    let middle = ranges.iter().position(|range| {
        before += range.len();
        before > half
    });
    let (first, second) = ranges.split_at(middle.unwrap_or_default());
    let split = usize::try_from(size(first)).ok().filter(|split| *split >= WORTH_A_THREAD);
    let Some((first_room, second_room)) = split.and_then(|split| room.split_at_mut_checked(split)) else {
        return source.read_many(ranges, room);
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| source.read_many(second, second_room));
        let mut lengths = source.read_many(first, first_room);
        // A panic there would be a mistake of ours, and goes on here.
        lengths.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        lengths
    })
}

fn touched(pages: &Pages) -> impl Iterator<Item = AddrRange> {
    pages.runs.iter().filter(|run| run.state == PageState::Touched).map(|run| run.range)
}

/// Makes the kernel give memory to every page of `room` now (madvise(2); `MADV_POPULATE_WRITE` since Linux 5.14).
fn make_ready(room: &mut [u8]) {
    let start = room.as_mut_ptr().addr().next_multiple_of(PAGE as usize);
    let end = (room.as_mut_ptr().addr() + room.len()) / PAGE as usize * PAGE as usize;
    if end <= start {
        return;
    }
    let first = room.as_mut_ptr().wrapping_add(start - room.as_mut_ptr().addr());
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE] {
        // SAFETY: the range lies within `room`, which is borrowed for writing; the advice changes no byte of it.
        let _ = unsafe { libc::madvise(first.cast(), end - start, advice) };
    }
}
