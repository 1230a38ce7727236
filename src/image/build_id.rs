//! The build-id: the number that a linker puts into what it links.
//!
//! It is the note `NT_GNU_BUILD_ID` of the owner `GNU` (the linkers' `--build-id`), kept in a loaded segment, so that
//! both a file and a running program show it. Equal build-ids mean equal code.

use std::fmt;

use object::LittleEndian;
use object::elf::{FileHeader64, NT_GNU_BUILD_ID};
use object::read::elf::NoteIterator;

/// A build-id; it prints as the hexadecimal digits that tools and debug file directories use.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Box<[u8]>);

impl BuildId {
    /// SHA-1 makes 20 bytes and `--build-id=0x…` any number; a longer one than this is not a build-id.
    const LONGEST: usize = 64;

    /// The build-id with these bytes; `None` if they are too few or too many to be one.
    pub fn new(bytes: &[u8]) -> Option<BuildId> {
        (2..=BuildId::LONGEST).contains(&bytes.len()).then(|| BuildId(bytes.into()))
    }

    /// The build-id in the content of a `PT_NOTE` segment or `SHT_NOTE` section aligned to `align` bytes.
    pub(crate) fn in_notes(notes: &[u8], align: u64) -> Option<BuildId> {
        let notes = NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, align, notes).ok()?;
        notes
            .map_while(Result::ok)
            .find(|note| note.name() == b"GNU" && note.n_type(LittleEndian) == NT_GNU_BUILD_ID)
            .and_then(|note| BuildId::new(note.desc()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_note_and_passes_over_others() {
        let mut notes = Vec::new();
        for (owner, kind, content) in [(b"XYZ\0", 3u32, [1, 2, 3, 4]), (b"GNU\0", 3, [0xab, 0xcd, 0xef, 1])] {
            notes.extend_from_slice(&4u32.to_le_bytes());
            notes.extend_from_slice(&4u32.to_le_bytes());
            notes.extend_from_slice(&kind.to_le_bytes());
            notes.extend_from_slice(owner);
            notes.extend_from_slice(&content);
        }
        assert_eq!(BuildId::in_notes(&notes, 4).unwrap().to_string(), "abcdef01");
        assert_eq!(BuildId::in_notes(&notes[..30], 4), None);
    }
}
