//! Images as a target's memory shows them.
//!
//! Used for code without a file (the vdso), for a file that is gone or replaced, and to check that a file is the one
//! that runs. The loader leaves the ELF header and the program headers in memory, and by them the rest is found.

use std::sync::Arc;

use super::elf::{self, Headers, NotElf, Segment};
use super::file::{Image, ImageSource};
use super::{BuildId, Bytes};
use crate::addr::{Addr, AddrRange};
use crate::memory::Memory;

/// The most that is copied of all images of a target, in bytes.
pub(super) const MOST_COPIED: u64 = 256 << 20;

/// How far into its file the last needed byte of an image may lie.
const LONGEST_FILE: u64 = 1 << 32;

/// An image's headers, read from memory.
pub(super) struct InMemory {
    headers: Headers,
    /// The first page of the file: the ELF header and the program headers.
    first_page: Vec<u8>,
    bias: u64,
}

impl InMemory {
    /// Reads the headers at `base`, where the first byte of the file is mapped.
    pub(super) fn read(memory: &dyn Memory, base: Addr) -> Option<InMemory> {
        const PAGE: usize = 4096;
        let mut first_page = vec![0; PAGE];
        memory.read(base, &mut first_page).ok()?;
        let headers = Headers::parse(&first_page).ok()?;
        let first = headers.segments.iter().find(|segment| segment.offset == 0)?;
        let bias = base.0.wrapping_sub(first.svma);
        Some(InMemory { headers, first_page, bias })
    }

    /// The build-id in its notes.
    pub(super) fn build_id(&self, memory: &dyn Memory) -> Option<BuildId> {
        const LONGEST_NOTES: u64 = 1 << 16;
        self.headers.notes.iter().find_map(|note| {
            let mut bytes = vec![0; note.file_size.min(LONGEST_NOTES) as usize];
            memory.read(self.addr(note.svma), &mut bytes).ok()?;
            BuildId::in_notes(&bytes, note.align)
        })
    }

    /// Whether `file` states the same segments. Section headers may differ: `strip` moves these.
    pub(super) fn begins_like(&self, file: &Headers) -> bool {
        self.headers.segments == file.segments && self.headers.dynamic == file.dynamic
    }

    /// Copies what unwinding and names need: segments that hold no code, and those of the others that hold tables.
    pub(super) fn copy(mut self, memory: &dyn Memory, budget: &mut u64) -> Option<Image> {
        let wanted: Vec<Segment> = self.headers.segments.iter().copied().filter(|part| self.is_wanted(part)).collect();
        let end =
            wanted.iter().chain(&self.headers.dynamic).map(|part| part.offset.saturating_add(part.file_size)).max()?;
        let length = Some(end).filter(|end| *end <= LONGEST_FILE)?.max(self.first_page.len() as u64);
        // Pages that nothing is copied to take no memory.
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        bytes[..self.first_page.len()].copy_from_slice(&self.first_page);
        for index in 0..self.headers.segments.len() {
            let part = self.headers.segments[index];
            let copied = if self.is_wanted(&part) { self.copy_part(memory, &part, budget, &mut bytes) } else { 0 };
            self.headers.segments[index].present = copied;
        }
        if let Some(dynamic) = self.headers.dynamic {
            self.copy_part(memory, &dynamic, budget, &mut bytes);
        }
        Some(Image::new(Arc::new(bytes), self.headers, ImageSource::Memory { bias: self.bias }))
    }

    fn is_wanted(&self, part: &Segment) -> bool {
        let holds_tables = self.headers.eh_frame_hdr.is_some_and(|header| part.contains(header.svma));
        !part.write && (!part.execute || holds_tables || part.offset == 0)
    }

    /// Copies `part` up to the first byte that can't be read; returns how many bytes that were.
    fn copy_part(&self, memory: &dyn Memory, part: &Segment, budget: &mut u64, bytes: &mut [u8]) -> u64 {
        const CHUNK: usize = 1 << 16;
        let size = part.file_size.min(*budget) as usize;
        let Some(into) = usize::try_from(part.offset).ok().and_then(|start| bytes.get_mut(start..)) else { return 0 };
        let length = size.min(into.len());
        let mut copied = 0;
        for chunk in into[..length].chunks_mut(CHUNK) {
            if memory.read(self.addr(part.svma.wrapping_add(copied)), chunk).is_err() {
                break;
            }
            copied += chunk.len() as u64;
        }
        *budget -= copied;
        copied
    }

    fn addr(&self, svma: u64) -> Addr {
        Addr(self.bias.wrapping_add(svma))
    }
}

/// What the loader added to the addresses of the file whose first byte is mapped at `base`, and its headers.
pub(crate) fn headers_at(memory: &dyn Memory, base: Addr) -> Option<(u64, Headers)> {
    InMemory::read(memory, base).map(|image| (image.bias, image.headers))
}

/// The image whose whole file is mapped at `range`, as the vdso's is.
pub(super) fn whole(memory: &dyn Memory, range: AddrRange) -> Result<Image, NotElf> {
    const LONGEST: u64 = 1 << 20;
    let mut bytes = vec![0; range.len().min(LONGEST) as usize];
    memory.read(range.low, &mut bytes).map_err(|_| NotElf::Magic)?;
    let headers = elf::Headers::parse(&bytes)?;
    let bytes: Bytes = Arc::new(bytes);
    let bias = range.low.0.wrapping_sub(headers.span().start);
    Ok(Image::new(bytes, headers, ImageSource::Memory { bias }))
}
