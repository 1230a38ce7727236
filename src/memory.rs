//! Reading a target's memory.
//!
//! Unwinding needs only [`Memory`] of a target. [`Copied`] is memory kept from a moment when the target
//! stood still; a survey leaves it for later work, and tests assemble it by hand.

use std::cell::Cell;

use crate::addr::{Addr, AddrRange};

/// Some byte of what was asked for could not be read: nothing is mapped there, or a core file does not hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("memory at {at} cannot be read")]
pub struct Unreadable {
    /// The start of the read that failed.
    pub at: Addr,
}

/// A target's memory. A read at an address returns all of its bytes, or [`Unreadable`].
pub trait Memory {
    /// Fills `into` with the bytes at `at`. On an error the content of `into` is unspecified.
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable>;

    /// The little-endian word of eight bytes at `at`, which need not be aligned.
    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The bytes from `at` on that are held ready in one piece; empty if none are.
    /// What is not held may still be readable.
    fn held(&self, at: Addr) -> &[u8] {
        let _ = at;
        &[]
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(at, into)
    }

    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        (**self).read_u64(at)
    }

    fn held(&self, at: Addr) -> &[u8] {
        (**self).held(at)
    }
}

/// Copies of parts of a target's memory, none overlapping another.
#[derive(Clone, Default, Debug)]
pub struct Copied {
    /// Sorted by address.
    pieces: Vec<(Addr, Box<[u8]>)>,
}

impl Copied {
    /// Adds the bytes that were at `at`. A piece that overlaps an earlier one is dropped: the first copy stays.
    pub fn insert(&mut self, at: Addr, bytes: Box<[u8]>) {
        let end = at.0.saturating_add(bytes.len() as u64);
        let position = self.pieces.partition_point(|(start, _)| *start < at);
        let after_previous = position == 0 || self.range(position - 1).high <= at;
        let before_next = position == self.pieces.len() || end <= self.pieces[position].0.0;
        if after_previous && before_next && !bytes.is_empty() {
            self.pieces.insert(position, (at, bytes));
        }
    }

    /// The bytes from `at` to the end of the piece that holds it.
    pub fn tail(&self, at: Addr) -> Option<&[u8]> {
        let position = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, bytes) = &self.pieces[position];
        bytes.get(usize::try_from(at.0 - start.0).ok()?..).filter(|tail| !tail.is_empty())
    }

    /// How many bytes are kept in all.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn range(&self, position: usize) -> AddrRange {
        let (start, bytes) = &self.pieces[position];
        AddrRange::new(*start, start.offset(bytes.len() as i64))
    }
}

impl Memory for Copied {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        let tail = self.tail(at).and_then(|tail| tail.get(..into.len())).ok_or(Unreadable { at })?;
        into.copy_from_slice(tail);
        Ok(())
    }

    fn held(&self, at: Addr) -> &[u8] {
        self.tail(at).unwrap_or(&[])
    }
}

/// Parts of a target's memory that already lie somewhere in ours: in a buffer, or in a mapped core file.
///
/// What is known of memory may be more than its pieces hold: the rest of it is zero.
#[derive(Clone, Default, Debug)]
pub struct Slices<'a> {
    /// Sorted by address, none overlapping another.
    pieces: Vec<(Addr, &'a [u8])>,
    /// What is known: all pieces lie in it. Sorted, none overlapping another.
    known: Vec<AddrRange>,
}

impl<'a> Slices<'a> {
    /// Of pieces that overlap, the one that begins first stays. Nothing else is known.
    pub fn new(pieces: Vec<(Addr, &'a [u8])>) -> Slices<'a> {
        Slices::within(pieces, Vec::new())
    }

    /// The same in memory of which `known` is known: the parts of it that no piece holds are zero.
    pub fn within(mut pieces: Vec<(Addr, &'a [u8])>, mut known: Vec<AddrRange>) -> Slices<'a> {
        pieces.sort_by_key(|(at, _)| *at);
        let mut end = 0;
        pieces.retain(|(at, bytes)| {
            let stays = at.0 >= end && !bytes.is_empty();
            if stays {
                end = at.0.saturating_add(bytes.len() as u64);
            }
            stays
        });
        known.extend(pieces.iter().map(|(at, bytes)| range_of(*at, bytes)));
        known.sort_unstable();
        known.dedup_by(|next, last| {
            let touches = next.low <= last.high;
            if touches {
                last.high = last.high.max(next.high);
            }
            touches
        });
        Slices { pieces, known }
    }

    /// The pieces in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, &'a [u8])> + '_ {
        self.pieces.iter().copied()
    }

    /// What is known, in the order of the addresses.
    pub fn known(&self) -> &[AddrRange] {
        &self.known
    }

    /// Whether the byte at `at` is known.
    pub fn knows(&self, at: Addr) -> bool {
        self.known_around(at).is_some()
    }

    /// The bytes from `at` to the end of the piece that holds it; empty if none does.
    pub fn tail(&self, at: Addr) -> &'a [u8] {
        let position = self.pieces.partition_point(|(start, _)| *start <= at);
        let Some((start, bytes)) = position.checked_sub(1).and_then(|position| self.pieces.get(position)) else {
            return &[];
        };
        usize::try_from(at.0 - start.0).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default()
    }

    /// The parts of pieces that lie in `range`, in the order of their addresses.
    pub fn pieces_in(&self, range: AddrRange) -> impl Iterator<Item = (Addr, &'a [u8])> + '_ {
        let first = self.pieces.partition_point(|(start, bytes)| range_of(*start, bytes).high <= range.low);
        let pieces = self.pieces[first..].iter().take_while(move |(start, _)| *start < range.high);
        pieces.filter_map(move |(start, bytes)| {
            let part = range_of(*start, bytes).intersection(range)?;
            let place = |at: Addr| (at.0 - start.0) as usize;
            Some((part.low, bytes.get(place(part.low)..place(part.high))?))
        })
    }

    /// All pieces in `count` lists of about as many bytes each, long pieces cut at whole words.
    pub fn shared_out(&self, count: usize) -> Vec<Vec<(Addr, &'a [u8])>> {
        let all: usize = self.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        let share = all.div_ceil(count.max(1)).next_multiple_of(8).max(8);
        let (mut shares, mut share_now, mut left) = (Vec::new(), Vec::new(), share);
        for (mut at, mut bytes) in self.iter() {
            while bytes.len() > left {
                let (now, later) = bytes.split_at(left);
                share_now.push((at, now));
                shares.push(std::mem::take(&mut share_now));
                (at, bytes, left) = (at.offset(now.len() as i64), later, share);
            }
            left -= bytes.len();
            share_now.push((at, bytes));
        }
        shares.push(share_now);
        shares
    }

    fn known_around(&self, at: Addr) -> Option<AddrRange> {
        let next = self.known.partition_point(|range| range.low <= at);
        self.known.get(next.checked_sub(1)?).copied().filter(|range| range.contains(at))
    }

    /// Fills `into` from several pieces, or with zeros between them.
    #[cold]
    fn assemble(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        let range = range_of(at, into);
        let is_known = self.known_around(at).is_some_and(|known| range.high <= known.high);
        if !is_known || range.len() != into.len() as u64 {
            return Err(Unreadable { at });
        }
        into.fill(0);
        for (start, bytes) in self.pieces_in(range) {
            let offset = (start.0 - at.0) as usize;
            if let Some(part) = into.get_mut(offset..offset + bytes.len()) {
                part.copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

/// Where bytes lie that begin at `at`.
fn range_of(at: Addr, bytes: &[u8]) -> AddrRange {
    AddrRange::new(at, Addr(at.0.saturating_add(bytes.len() as u64)))
}

impl Memory for Slices<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        match self.tail(at).get(..into.len()) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => self.assemble(at, into)?,
        }
        Ok(())
    }

    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        if let Some(word) = self.tail(at).first_chunk() {
            return Ok(u64::from_le_bytes(*word));
        }
        let mut word = [0; 8];
        self.assemble(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn held(&self, at: Addr) -> &[u8] {
        self.tail(at)
    }
}

/// [`Slices`] for reads that stay close together: the piece of the last one is remembered.
#[derive(Debug)]
pub struct Nearby<'s, 'a> {
    all: &'s Slices<'a>,
    last: Cell<(Addr, &'a [u8])>,
}

impl<'s, 'a> Nearby<'s, 'a> {
    /// Reads from `all`.
    pub fn new(all: &'s Slices<'a>) -> Nearby<'s, 'a> {
        Nearby { all, last: Cell::new((Addr(0), &[])) }
    }

    /// As [`Slices::tail`].
    #[inline]
    fn tail(&self, at: Addr) -> &'a [u8] {
        let (start, bytes) = self.last.get();
        match usize::try_from(at.0.wrapping_sub(start.0)).ok().and_then(|offset| bytes.get(offset..)) {
            Some(tail) if !tail.is_empty() => tail,
            _ => self.tail_elsewhere(at),
        }
    }

    /// Reads those of the `length` bytes from `at` on that are held, so that they are in the processor's cache: read in
    /// order, many cache lines come at once, while a walk waits for one before it knows the next.
    pub(crate) fn warm(&self, at: Addr, length: usize) {
        const LINE: usize = 64;
        let ahead = self.tail(at);
        let lines = ahead[..length.min(ahead.len())].iter().step_by(LINE);
        std::hint::black_box(lines.fold(0, |all, byte| all ^ byte));
    }

    #[cold]
    fn tail_elsewhere(&self, at: Addr) -> &'a [u8] {
        let tail = self.all.tail(at);
        if !tail.is_empty() {
            self.last.set((at, tail));
        }
        tail
    }
}

impl Memory for Nearby<'_, '_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        match self.tail(at).get(..into.len()) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => self.all.assemble(at, into)?,
        }
        Ok(())
    }

    #[inline]
    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        match self.tail(at).first_chunk() {
            Some(word) => Ok(u64::from_le_bytes(*word)),
            None => self.all.read_u64(at),
        }
    }

    fn held(&self, at: Addr) -> &[u8] {
        self.tail(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_what_one_piece_holds_whole() {
        let mut copied = Copied::default();
        copied.insert(Addr(0x2000), Box::new([1; 16]));
        copied.insert(Addr(0x1000), Box::new([2; 8]));
        assert_eq!(copied.read_u64(Addr(0x2008)), Ok(0x0101_0101_0101_0101));
        assert_eq!(copied.read_u64(Addr(0x1000)), Ok(0x0202_0202_0202_0202));
        assert_eq!(copied.read_u64(Addr(0x2009)), Err(Unreadable { at: Addr(0x2009) }));
        assert_eq!(copied.read_u64(Addr(0xfff)), Err(Unreadable { at: Addr(0xfff) }));
    }

    #[test]
    fn the_first_copy_of_a_place_stays() {
        let mut copied = Copied::default();
        copied.insert(Addr(0x1000), Box::new([1; 16]));
        copied.insert(Addr(0x1008), Box::new([2; 16]));
        copied.insert(Addr(0xff8), Box::new([3; 16]));
        assert_eq!(copied.bytes(), 16);
        copied.insert(Addr(0x1010), Box::new([4; 8]));
        assert_eq!(copied.bytes(), 24);
    }

    #[test]
    fn slices_are_read_where_they_lie() {
        let (low, high) = ([1; 16], [2; 16]);
        let slices = Slices::new(vec![(Addr(0x2000), &high), (Addr(0x1000), &low), (Addr(0x1008), &high)]);
        assert_eq!(slices.iter().count(), 2);
        assert_eq!(slices.read_u64(Addr(0x1008)), Ok(0x0101_0101_0101_0101));
        assert_eq!(slices.read_u64(Addr(0x2008)), Ok(0x0202_0202_0202_0202));
        assert_eq!(slices.read_u64(Addr(0x1009)), Err(Unreadable { at: Addr(0x1009) }));
        assert_eq!(slices.read_u64(Addr(0xff8)), Err(Unreadable { at: Addr(0xff8) }));
        assert!(slices.tail(Addr(u64::MAX)).is_empty());
    }

    /// Two pieces of a page of which the rest is zero, and a page of zeros after it.
    fn with_zeros<'a>(low: &'a [u8], high: &'a [u8]) -> Slices<'a> {
        let known = vec![AddrRange::new(Addr(0x2000), Addr(0x3000)), AddrRange::new(Addr(0x1000), Addr(0x2000))];
        Slices::within(vec![(Addr(0x1f00), high), (Addr(0x1040), low)], known)
    }

    #[test]
    fn what_is_known_and_not_held_is_zero() {
        let (low, high) = ([1; 64], [2; 64]);
        let slices = with_zeros(&low, &high);
        assert_eq!(slices.known(), [AddrRange::new(Addr(0x1000), Addr(0x3000))]);
        let nearby = Nearby::new(&slices);
        let check = |at: u64, expected: Result<u64, Unreadable>| {
            assert_eq!((slices.read_u64(Addr(at)), nearby.read_u64(Addr(at))), (expected, expected), "{at:#x}");
        };
        check(0x1078, Ok(0x0101_0101_0101_0101));
        check(0x107c, Ok(0x0101_0101));
        check(0x103c, Ok(0x0101_0101_0000_0000));
        check(0x1efc, Ok(0x0202_0202_0000_0000));
        check(0x1800, Ok(0));
        check(0x2ff8, Ok(0));
        check(0x2ffc, Err(Unreadable { at: Addr(0x2ffc) }));
        check(0xffc, Err(Unreadable { at: Addr(0xffc) }));
        check(u64::MAX - 3, Err(Unreadable { at: Addr(u64::MAX - 3) }));
        let mut all = [9; 0x1000];
        nearby.read(Addr(0x1000), &mut all).unwrap();
        assert_eq!((all[0x3f], all[0x40], all[0x80], all[0xf3f], all[0xfff]), (0, 1, 0, 2, 0));
    }

    #[test]
    fn pieces_are_cut_to_a_range() {
        let (low, high) = ([1; 64], [2; 64]);
        let slices = with_zeros(&low, &high);
        let within = |low, high| {
            let pieces = slices.pieces_in(AddrRange::new(Addr(low), Addr(high)));
            pieces.map(|(at, bytes)| (at.0, bytes.len())).collect::<Vec<_>>()
        };
        assert_eq!(within(0x1000, 0x3000), [(0x1040, 64), (0x1f00, 64)]);
        assert_eq!(within(0x1050, 0x1f10), [(0x1050, 48), (0x1f00, 16)]);
        assert_eq!(within(0x1080, 0x1f00), []);
    }

    #[test]
    fn shares_are_equal_and_hold_everything() {
        let bytes: Vec<u8> = (0..=255).collect();
        let slices = Slices::new(vec![(Addr(0x1000), &bytes[..8]), (Addr(0x2000), &bytes[8..])]);
        let shares = slices.shared_out(4);
        let sizes: Vec<usize> = shares.iter().map(|share| share.iter().map(|(_, bytes)| bytes.len()).sum()).collect();
        assert_eq!(sizes, [64; 4]);
        let all: Vec<u8> = shares.iter().flatten().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        assert_eq!(all, bytes);
        assert_eq!(shares[1][0].0, Addr(0x2000 + 56));
        assert!(Slices::default().shared_out(3).iter().all(Vec::is_empty));
    }
}
