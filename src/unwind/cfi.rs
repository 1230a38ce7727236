//! Finding the frame description entry (FDE) that covers an address.
//!
//! You give the unwind sections of one image; you get, for each address in its code, the entry that describes it.
//! `.eh_frame_hdr` is a table sorted by address, made by the linker (Linux Standard Base Core 5.0, section 10.6.2), and a
//! binary search in it is all that most look-ups need. Where it is missing, encoded in an unusual way, cut short,
//! unsorted or wrong, an index of the same kind is built from the entries themselves, once. `.debug_frame` (DWARF 5,
//! section 6.4) has no such table and is always indexed; it is asked for what `.eh_frame` does not cover.
//!
//! Addresses here are those that the file names ("svma"), before the loader moved it.
//! No look-up walks through the entries one by one: in a big program that takes half a millisecond.

use std::collections::HashMap;
use std::sync::OnceLock;

use gimli::{BaseAddresses, EndianSlice, LittleEndian, Section as _, UnwindOffset, UnwindSection};

use super::entry::{Cies, Entry};
use crate::image::{SectionBytes, UnwindSections};

/// The bytes of an unwind section.
pub(super) type Slice<'d> = EndianSlice<'d, LittleEndian>;
/// What entries have in common.
pub(super) type Cie<'d> = gimli::CommonInformationEntry<Slice<'d>>;

/// The section that an entry stands in, which its expressions are read from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    EhFrame,
    DebugFrame,
}

/// The entries of one image, ready to be searched.
#[derive(Debug)]
pub(super) struct Entries<'d> {
    pub(super) bases: BaseAddresses,
    header: Option<Header<'d>>,
    pub(super) eh_frame: gimli::EhFrame<Slice<'d>>,
    pub(super) debug_frame: gimli::DebugFrame<Slice<'d>>,
    /// Whether the header was found to tell the truth; empty until a look-up gave reason to ask.
    header_is_sound: OnceLock<bool>,
    eh_frame_index: OnceLock<Index>,
    debug_frame_index: OnceLock<Index>,
}

impl<'d> Entries<'d> {
    pub(super) fn new(sections: &UnwindSections<'d>, vendor: gimli::Vendor) -> Entries<'d> {
        let bytes = |section: Option<SectionBytes<'d>>| section.map_or(&[][..], |section| section.bytes);
        let mut eh_frame = gimli::EhFrame::new(bytes(sections.eh_frame), LittleEndian);
        eh_frame.set_vendor(vendor);
        let mut debug_frame = gimli::DebugFrame::new(bytes(sections.debug_frame), LittleEndian);
        debug_frame.set_vendor(vendor);
        let header = match (sections.eh_frame_hdr, sections.eh_frame) {
            (Some(header), Some(eh_frame)) => Header::parse(header, eh_frame),
            _ => None,
        };
        Entries {
            bases: sections.bases(),
            header,
            eh_frame,
            debug_frame,
            header_is_sound: OnceLock::new(),
            eh_frame_index: OnceLock::new(),
            debug_frame_index: OnceLock::new(),
        }
    }

    /// Builds the indexes that look-ups will surely need.
    pub(super) fn prepare(&self) {
        if self.header.is_none() {
            self.eh_frame_index();
        }
        self.debug_frame_index();
    }

    /// The entry that covers `address`. A CIE that was met before is taken from `cies`.
    pub(super) fn find<'t>(&'t self, address: u64, cies: &mut Cies<'d>) -> Option<Entry<'t, 'd>> {
        match &self.header {
            Some(header) if self.header_is_sound.get() != Some(&false) => {
                if let Some(line) = header.find(address) {
                    let entry = Entry::at(self, Source::EhFrame, line.offset, cies);
                    if entry.as_ref().is_some_and(|entry| entry.start == line.start && entry.covers(address)) {
                        return entry;
                    }
                }
                if !self.header_is_sound.get_or_init(|| header.agrees_with(&self.eh_frame, &self.bases)) {
                    return self.find(address, cies);
                }
            }
            _ => {
                let offset = self.eh_frame_index().find(address);
                let entry = offset.and_then(|offset| Entry::at(self, Source::EhFrame, offset, cies));
                if entry.as_ref().is_some_and(|entry| entry.covers(address)) {
                    return entry;
                }
            }
        }
        let entry = Entry::at(self, Source::DebugFrame, self.debug_frame_index().find(address)?, cies);
        entry.filter(|entry| entry.covers(address))
    }

    fn eh_frame_index(&self) -> &Index {
        self.eh_frame_index.get_or_init(|| Index::build(&self.eh_frame, &self.bases))
    }

    fn debug_frame_index(&self) -> &Index {
        self.debug_frame_index.get_or_init(|| Index::build(&self.debug_frame, &self.bases))
    }
}

/// One line of a sorted table.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// The first address that the entry covers.
    start: u64,
    /// Where the entry stands in its section.
    offset: usize,
}

/// The linker's own table, in the one encoding that linkers use: addresses as 32 bits relative to the table.
#[derive(Debug)]
struct Header<'d> {
    /// The address of the section.
    base: u64,
    /// Pairs of (start of the function, its entry), eight bytes each.
    table: &'d [[u8; 8]],
    eh_frame: u64,
}

impl<'d> Header<'d> {
    /// Version 1; `.eh_frame`'s address in any encoding (it is known already); count udata4; table datarel | sdata4.
    /// `None` for a table in another encoding, or one that is shorter than it says.
    fn parse(header: SectionBytes<'d>, eh_frame: SectionBytes<'d>) -> Option<Header<'d>> {
        let ([1, pointer, 0x03, 0x3b], rest) = header.bytes.split_first_chunk()? else { return None };
        let pointer_size = match pointer & 0x0f {
            0x03 | 0x0b => 4,
            0x00 | 0x04 | 0x0c => 8,
            _ => return None,
        };
        let (count, table) = rest.get(pointer_size..)?.split_first_chunk()?;
        let (table, _) = table.as_chunks::<8>();
        let table = table.get(..usize::try_from(u32::from_le_bytes(*count)).ok()?)?;
        Some(Header { base: header.svma, table, eh_frame: eh_frame.svma })
    }

    /// The last line that starts at or below `address`.
    fn find(&self, address: u64) -> Option<Line> {
        let next = self.table.partition_point(|line| self.start(line) <= address);
        self.line(self.table.get(next.checked_sub(1)?)?)
    }

    fn start(&self, line: &[u8; 8]) -> u64 {
        let [a, b, c, d, ..] = *line;
        self.base.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])))
    }

    fn line(&self, line: &[u8; 8]) -> Option<Line> {
        let [.., a, b, c, d] = *line;
        let entry = self.base.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        Some(Line { start: self.start(line), offset: usize::try_from(entry.checked_sub(self.eh_frame)?).ok()? })
    }

    /// Whether the table is sorted, and has a line for each entry of `eh_frame`.
    fn agrees_with(&self, eh_frame: &gimli::EhFrame<Slice<'d>>, bases: &BaseAddresses) -> bool {
        let is_fde = |offset: &usize| eh_frame.partial_fde_from_offset(bases, (*offset).into()).is_ok();
        let count = EntryOffsets { section: eh_frame.reader().slice(), next: 0 }.filter(is_fde).count();
        count == self.table.len() && self.table.is_sorted_by_key(|line| self.start(line))
    }
}

/// Where the entries of a section stand: hops from length to length.
struct EntryOffsets<'d> {
    section: &'d [u8],
    next: usize,
}

impl Iterator for EntryOffsets<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let offset = self.next;
        let rest = self.section.get(offset..)?;
        let (length, after) = rest.split_first_chunk()?;
        let (length, header) = match u32::from_le_bytes(*length) {
            u32::MAX => (u64::from_le_bytes(*after.first_chunk()?), 12),
            length => (u64::from(length), 4),
        };
        self.next = offset.checked_add(header)?.checked_add(usize::try_from(length).ok()?)?;
        Some(offset)
    }
}

/// A sorted table that we make ourselves.
#[derive(Debug, Default)]
struct Index(Vec<Line>);

impl Index {
    /// Reads every entry of a section once; one that can't be understood is left out.
    fn build<'d, S>(section: &S, bases: &BaseAddresses) -> Index
    where
        S: UnwindSection<Slice<'d>> + gimli::Section<Slice<'d>>,
    {
        // Only a CIE that the pass itself came by is taken: to parse whatever an FDE points at, once for each FDE,
        // would let a small file cost hours.
        let mut cies: HashMap<usize, Cie<'d>> = HashMap::new();
        let mut lines = Vec::new();
        for offset in (EntryOffsets { section: section.reader().slice(), next: 0 }) {
            match section.partial_fde_from_offset(bases, offset.into()) {
                Ok(partial) => {
                    let known = |_: &S, _: &BaseAddresses, at: S::Offset| {
                        cies.get(&UnwindOffset::into(at)).cloned().ok_or(gimli::Error::NotCieId(0))
                    };
                    if let Some(fde) = partial.parse(known).ok().filter(|fde| fde.len() > 0) {
                        lines.push(Line { start: fde.initial_address(), offset });
                    }
                }
                Err(gimli::Error::NotCiePointer(_)) => {
                    cies.extend(section.cie_from_offset(bases, offset.into()).ok().map(|cie| (offset, cie)));
                }
                Err(_) => {}
            }
        }
        lines.sort_by_key(|line| line.start);
        Index(lines)
    }

    /// Where the entry stands that starts at or below `address`, the nearest of them.
    fn find(&self, address: u64) -> Option<usize> {
        let next = self.0.partition_point(|line| line.start <= address);
        Some(self.0.get(next.checked_sub(1)?)?.offset)
    }
}
