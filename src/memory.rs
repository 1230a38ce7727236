//! Reading a target's memory.
//!
//! [`Memory`] is all that unwinding needs to know of a target. [`Copied`] is memory kept from a moment when the target
//! stood still; it is what a survey leaves behind for later work, and what tests assemble by hand.

use crate::addr::{Addr, AddrRange};

/// Some byte of what was asked for could not be read: nothing is mapped there, or a core file does not hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("memory at {at} cannot be read")]
pub struct Unreadable {
    /// The start of the read that failed.
    pub at: Addr,
}

/// A target's memory. You give an address; you get bytes, whole, or [`Unreadable`].
pub trait Memory {
    /// Fills `into` with the bytes at `at`. On an error the content of `into` is unspecified.
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable>;

    /// The little-endian word of eight bytes at `at`, which need not be aligned.
    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Bytes from `at` on that are held ready, as many as follow each other in one piece; empty where none are.
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
    /// Adds the bytes that stood at `at`. A piece that overlaps an earlier one is dropped: the first copy stays.
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
#[derive(Clone, Default, Debug)]
pub struct Slices<'a> {
    /// Sorted by address, none overlapping another.
    pieces: Vec<(Addr, &'a [u8])>,
}

impl<'a> Slices<'a> {
    /// Of pieces that overlap, the one that begins first stays.
    pub fn new(mut pieces: Vec<(Addr, &'a [u8])>) -> Slices<'a> {
        pieces.sort_by_key(|(at, _)| *at);
        let mut end = 0;
        pieces.retain(|(at, bytes)| {
            let stays = at.0 >= end && !bytes.is_empty();
            if stays {
                end = at.0.saturating_add(bytes.len() as u64);
            }
            stays
        });
        Slices { pieces }
    }

    /// The pieces in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, &'a [u8])> + '_ {
        self.pieces.iter().copied()
    }

    /// The bytes from `at` to the end of the piece that holds it; empty where none does.
    pub fn tail(&self, at: Addr) -> &'a [u8] {
        let position = self.pieces.partition_point(|(start, _)| *start <= at);
        let Some((start, bytes)) = position.checked_sub(1).and_then(|position| self.pieces.get(position)) else {
            return &[];
        };
        usize::try_from(at.0 - start.0).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default()
    }
}

impl Memory for Slices<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        into.copy_from_slice(self.tail(at).get(..into.len()).ok_or(Unreadable { at })?);
        Ok(())
    }

    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        self.tail(at).first_chunk().map(|word| u64::from_le_bytes(*word)).ok_or(Unreadable { at })
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
}
