//! Blocks of glibc's `malloc`, found by walking from header to header.
//!
//! The word before a block holds its size and three flags (glibc `malloc/malloc.c`, "malloc_chunk"); the next header lies
//! that far on. Walked are the heap that grows by `brk`, and blocks so big that each was mapped by itself. Other allocators
//! keep other books: then the walk ends at once and finds nothing.

use crate::addr::{Addr, AddrRange};
use crate::memory::{Memory, Slices};

/// The flags in the low bits of a size.
const FLAGS: u64 = 7;
/// `IS_MMAPPED`: the block has a mapping to itself.
const MAPPED: u64 = 2;
/// Two words: the size of the block before, and the size of this one with its flags.
const HEADER: u64 = 16;
const SMALLEST: u64 = 32;

/// More blocks than this are not walked over.
const MOST_BLOCKS: usize = 1 << 22;

/// The end of a block without a header is looked for at this many places.
const MOST_PLACES: i64 = 1 << 16;

/// What a static program has at the start of its heap, before the first header, is at most so many units of 16 bytes long.
const LONGEST_START: i64 = 1 << 10;

/// A heap that does not begin with a header has at least this many blocks.
const FEWEST_BLOCKS: usize = 3;

/// The block in the mapping `range` that holds each of `places`, which are sorted; `None` where no walk leads there.
///
/// Free blocks count too: what was a stack is still one while its memory says so.
pub fn blocks_around(memory: &Slices<'_>, range: AddrRange, places: &[Addr]) -> Vec<Option<AddrRange>> {
    let mut found = vec![None; places.len()];
    if places.is_empty() {
        return found;
    }
    let mut next = 0;
    let first = first_header(memory, range);
    let mut at = first;
    for _ in 0..MOST_BLOCKS {
        let known = block(memory, range, at);
        let lost = || (at != first).then(|| block_without_header(memory, range, at, places[next])).flatten();
        let Some(block) = known.or_else(lost) else { break };
        let count = places[next..].iter().take_while(|place| **place < block.high).count();
        // Where two stacks have run over their headers, it is not known where the first one ends.
        let is_told = known.is_some() || count == 1;
        for (found, place) in found[next..].iter_mut().zip(&places[next..]).take(count) {
            *found = (is_told && block.contains(*place)).then_some(block);
        }
        next += count;
        if next == places.len() {
            break;
        }
        at = if known.is_some() { chunk_end(memory, at) } else { block.high.offset(-8) };
    }
    found
}

/// Where the first chunk begins: at the start, or behind the thread-local variables of a static program's first thread,
/// which the C library takes from the same heap before (glibc `csu/libc-tls.c`, `__libc_setup_tls`).
fn first_header(memory: &Slices<'_>, range: AddrRange) -> Addr {
    if block(memory, range, range.low).is_some() {
        return range.low;
    }
    let mut left = MOST_BLOCKS;
    let starts = (1..LONGEST_START).map(|index| range.low.offset(16 * index));
    let mut starts = starts.take_while(|start| *start < range.high);
    let is_first =
        |start: &Addr| blocks_to_end(memory, range, *start, &mut left).is_some_and(|count| count >= FEWEST_BLOCKS);
    starts.find(is_first).unwrap_or(range.low)
}

/// How many blocks there are from the one that begins at `start` to the end of the heap; `None` where the headers do not
/// lead there, or over more than `left` blocks.
fn blocks_to_end(memory: &Slices<'_>, range: AddrRange, start: Addr, left: &mut usize) -> Option<usize> {
    let mut next = start;
    let mut count = 0;
    while *left > 0 && next < range.high && block(memory, range, next).is_some() {
        *left -= 1;
        count += 1;
        next = chunk_end(memory, next);
    }
    (next == range.high && count > 0).then_some(count)
}

/// The user's part of the chunk that begins at `at`, if what stands there can be one.
fn block(memory: &Slices<'_>, range: AddrRange, at: Addr) -> Option<AddrRange> {
    let word = word(memory, at.offset(8))?;
    let size = word & !FLAGS;
    let end = at.0.checked_add(size)?;
    let fits = size >= SMALLEST && size.is_multiple_of(16) && end <= range.high.0;
    // A chunk lends its last word from the next one's header; one that is mapped has no next one.
    let lent = if word & MAPPED == 0 { 8 } else { 0 };
    fits.then(|| AddrRange::new(Addr(at.0 + HEADER), Addr(end + lent)))
}

/// The block that begins at `at` and holds `place`, where a stack has run over its header: it ends where the headers
/// begin again that lead to the end of the heap.
fn block_without_header(memory: &Slices<'_>, range: AddrRange, at: Addr, place: Addr) -> Option<AddrRange> {
    let first = place.max(at.offset(SMALLEST as i64)).align_up(16);
    let mut left = MOST_BLOCKS;
    let mut leads_to_end = |start: Addr| blocks_to_end(memory, range, start, &mut left).is_some();
    let end = (0..MOST_PLACES).map(|index| first.offset(16 * index)).find(|end| leads_to_end(*end))?;
    (at <= place).then(|| AddrRange::new(Addr(at.0 + HEADER), Addr(end.0 + 8)))
}

fn chunk_end(memory: &Slices<'_>, at: Addr) -> Addr {
    let size = word(memory, at.offset(8)).map_or(0, |word| word & !FLAGS);
    Addr(at.0.saturating_add(size))
}

fn word(memory: &Slices<'_>, at: Addr) -> Option<u64> {
    memory.read_u64(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heap of chunks of these sizes with their flags.
    fn heap(sizes: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for size in sizes {
            let start = bytes.len();
            bytes.resize(start + (size & !FLAGS) as usize, 0);
            bytes[start + 8..start + 16].copy_from_slice(&size.to_le_bytes());
        }
        bytes
    }

    fn check(sizes: &[u64], place: u64, expected: Option<(u64, u64)>) {
        let bytes = heap(sizes);
        let range = AddrRange::new(Addr(0x1000), Addr(0x1000 + bytes.len() as u64));
        let memory = Slices::new(vec![(range.low, &bytes)]);
        let expected = expected.map(|(low, high)| AddrRange::new(Addr(low), Addr(high)));
        assert_eq!(blocks_around(&memory, range, &[Addr(place)]), [expected]);
    }

    #[test]
    fn a_block_reaches_into_the_next_header() {
        check(&[0x291, 0x101, 0x41], 0x1300, Some((0x12a0, 0x1398)));
        check(&[0x291, 0x101, 0x41], 0x1010, Some((0x1010, 0x1298)));
        check(&[0x1002], 0x1800, Some((0x1010, 0x2000)));
    }

    #[test]
    fn a_stack_that_ran_over_its_header_ends_where_headers_begin_again() {
        let mut bytes = heap(&[0x291, 0x41, 0x101, 0x201]);
        bytes[0x298..0x2a0].fill(0xee);
        let range = AddrRange::new(Addr(0x1000), Addr(0x1000 + bytes.len() as u64));
        let memory = Slices::new(vec![(range.low, &bytes)]);
        let expected = AddrRange::new(Addr(0x12a0), Addr(0x12d8));
        assert_eq!(blocks_around(&memory, range, &[Addr(0x12b8)]), [Some(expected)]);
    }

    #[test]
    fn of_two_that_ran_over_their_headers_nothing_is_told() {
        let mut bytes = heap(&[0x291, 0x41, 0x101, 0x41, 0x201]);
        bytes[0x298..0x2a0].fill(0xee);
        let range = AddrRange::new(Addr(0x1000), Addr(0x1000 + bytes.len() as u64));
        let (first, second, last) = (Addr(0x12b8), Addr(0x13f0), Addr(0x1500));
        let block = |low, high| Some(AddrRange::new(Addr(low), Addr(high)));
        let told = |bytes: &[u8], places: &[Addr]| blocks_around(&Slices::new(vec![(range.low, bytes)]), range, places);
        let of_last = block(0x1420, 0x1618);
        assert_eq!(told(&bytes, &[first, second, last]), [block(0x12a0, 0x12d8), block(0x13e0, 0x1418), of_last]);
        bytes[0x3d8..0x3e0].fill(0xee);
        assert_eq!(told(&bytes, &[first, second, last]), [None, None, of_last]);
    }

    #[test]
    fn a_heap_may_begin_behind_something_else() {
        let bytes = [vec![0xee; 0x120], heap(&[0x291, 0x101, 0x41])].concat();
        let range = AddrRange::new(Addr(0x1000), Addr(0x1000 + bytes.len() as u64));
        let memory = Slices::new(vec![(range.low, &bytes)]);
        let expected = AddrRange::new(Addr(0x13c0), Addr(0x14b8));
        assert_eq!(blocks_around(&memory, range, &[Addr(0x1420)]), [Some(expected)]);
    }

    #[test]
    fn what_is_no_heap_has_no_blocks() {
        check(&[0x29, 0x101], 0x1030, None);
        check(&[0x291, 0x101], 0x5000, None);
        let zeros = [0; 64];
        let range = AddrRange::new(Addr(0x1000), Addr(0x9000));
        let memory = Slices::new(vec![(range.low, &zeros)]);
        assert_eq!(blocks_around(&memory, range, &[Addr(0x1010), Addr(0x2000)]), [None, None]);
    }
}
