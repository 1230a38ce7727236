//! The files that a client has open, and parts of their content.

use crate::image::Bytes;

/// The most files that are open at once.
const MOST_OPEN: usize = 256;

/// Open files by number.
#[derive(Default)]
pub(super) struct OpenFiles(Vec<Option<Bytes>>);

impl OpenFiles {
    /// The number of one more; `None` if too many are open.
    pub(super) fn add(&mut self, content: Bytes) -> Option<u32> {
        let free = self.0.iter().position(Option::is_none);
        let place = free.or((self.0.len() < MOST_OPEN).then_some(self.0.len()))?;
        if place == self.0.len() {
            self.0.push(None);
        }
        self.0[place] = Some(content);
        u32::try_from(place).ok()
    }

    /// Closes one; `None` if there is none with this number.
    pub(super) fn remove(&mut self, number: u32) -> Option<()> {
        self.0.get_mut(usize::try_from(number).ok()?)?.take().map(drop)
    }

    /// The content of one; `None` if there is none with this number.
    pub(super) fn content(&self, number: u32) -> Option<&[u8]> {
        let content = self.0.get(usize::try_from(number).ok()?)?.as_ref()?;
        Some((**content).as_ref())
    }
}

/// Copies the part of `content` at `offset`, of at most `length` bytes; returns how many bytes that are.
pub(super) fn part(content: &[u8], offset: u64, length: usize, into: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
    let length = rest.len().min(length).min(into.len());
    into[..length].copy_from_slice(&rest[..length]);
    length
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn numbers_are_used_again_and_have_an_end() {
        let mut files = OpenFiles::default();
        let numbers: Vec<u32> = std::iter::from_fn(|| files.add(Arc::new(vec![7]))).collect();
        assert_eq!(numbers.len(), MOST_OPEN);
        assert_eq!((files.remove(3), files.remove(3), files.content(3)), (Some(()), None, None));
        assert_eq!(files.add(Arc::new(vec![1, 2])), Some(3));
        assert_eq!(files.content(3), Some(&[1, 2][..]));
        assert_eq!(files.content(u32::MAX), None);
    }

    #[test]
    fn a_part_ends_with_its_content_and_its_room() {
        let parts = |offset, length, room: usize| part(b"stack", offset, length, &mut vec![0; room]);
        assert_eq!([parts(0, 9, 9), parts(3, 9, 9), parts(3, 9, 1), parts(0, 4, 9)], [5, 2, 1, 4]);
        assert_eq!([parts(5, 9, 9), parts(u64::MAX, usize::MAX, 9)], [0, 0]);
    }
}
