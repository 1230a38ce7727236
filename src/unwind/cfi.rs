//! Finding the frame description entry (FDE) that covers an address.
//!
//! In the unwind sections of one image it finds, for each address in the image's code, the entry that describes it.
//! `.eh_frame_hdr` is a table sorted by address, made by the linker (Linux Standard Base Core 5.0, section 10.6.2), and
//! a binary search in it is enough for most look-ups. If it is missing, encoded in an unusual way, cut short, unsorted
//! or wrong, an index of the same kind is built from the entries themselves, once. `.debug_frame` (DWARF 5, section
//! 6.4) has no such table and is always indexed; it is used for what `.eh_frame` does not cover.
//!
//! Addresses here are those that the file names ("svma"), before the loader moved it.
//! No look-up walks through the entries one by one: in a big program that takes half a millisecond.

use std::collections::HashMap;
use std::sync::OnceLock;

use gimli::{BaseAddresses, UnwindOffset, UnwindSection};

use super::entry::{Cies, Entry};
use super::sections::{Cie, Sections, Slice, Source};
use crate::image::{SectionBytes, UnwindSections};

/// The entries of one image, ready to be searched.
#[derive(Debug)]
pub(super) struct Entries<'d> {
    sections: Sections<'d>,
    header: Option<Header<'d>>,
    /// Whether the header was found to tell the truth; empty until a look-up gave reason to ask.
    header_is_sound: OnceLock<bool>,
    eh_frame_index: OnceLock<Index>,
    debug_frame_index: OnceLock<Index>,
}

impl<'d> Entries<'d> {
    pub(super) fn new(sections: &UnwindSections<'d>, vendor: gimli::Vendor) -> Entries<'d> {
        let header = match (sections.eh_frame_hdr, sections.eh_frame) {
            (Some(header), Some(eh_frame)) => Header::parse(header, eh_frame),
            _ => None,
        };
        Entries {
            sections: Sections::new(sections, vendor),
            header,
            header_is_sound: OnceLock::new(),
            eh_frame_index: OnceLock::new(),
            debug_frame_index: OnceLock::new(),
        }
    }

    /// Builds the indexes that look-ups are certain to need.
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
                for line in header.lines_down_from(address).take(MOST_EMPTY + 1) {
                    let entry = Entry::at(&self.sections, Source::EhFrame, line.offset, cies);
                    let entry = entry.filter(|entry| entry.start() == line.start);
                    if entry.as_ref().is_some_and(|entry| entry.covers(address)) {
                        return entry;
                    }
                    // Linkers write entries for nothing beside the one that counts, before or after it.
                    if !entry.is_some_and(|entry| entry.is_empty()) {
                        break;
                    }
                }
                if !self
                    .header_is_sound
                    .get_or_init(|| header.agrees_with(&self.sections.eh_frame, &self.sections.bases))
                {
                    return self.find(address, cies);
                }
            }
            _ => {
                let offset = self.eh_frame_index().find(address);
                let entry = offset.and_then(|offset| Entry::at(&self.sections, Source::EhFrame, offset, cies));
                if entry.as_ref().is_some_and(|entry| entry.covers(address)) {
                    return entry;
                }
            }
        }
        let entry = Entry::at(&self.sections, Source::DebugFrame, self.debug_frame_index().find(address)?, cies);
        entry.filter(|entry| entry.covers(address))
    }

    fn eh_frame_index(&self) -> &Index {
        self.eh_frame_index.get_or_init(|| Index::build(&self.sections.eh_frame, &self.sections.bases))
    }

    fn debug_frame_index(&self) -> &Index {
        self.debug_frame_index.get_or_init(|| Index::build(&self.sections.debug_frame, &self.sections.bases))
    }
}

/// How many entries that cover nothing are passed over before the one that covers an address.
const MOST_EMPTY: usize = 8;

/// How many lines of a header are checked before it is trusted.
const SAMPLE: usize = 64;

/// One line of a sorted table: where an entry begins to hold.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// The first address that the entry covers.
    start: u64,
    /// Where the entry lies in its section.
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

    /// The lines that start at or below `address`, the last one first.
    fn lines_down_from(&self, address: u64) -> impl Iterator<Item = Start> {
        let next = self.table.partition_point(|line| self.start(line) <= address);
        self.table[..next].iter().rev().map_while(|line| self.line(line))
    }

    fn start(&self, line: &[u8; 8]) -> u64 {
        let [a, b, c, d, ..] = *line;
        self.base.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])))
    }

    fn line(&self, line: &[u8; 8]) -> Option<Start> {
        let [.., a, b, c, d] = *line;
        let entry = self.base.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        Some(Start { start: self.start(line), offset: usize::try_from(entry.checked_sub(self.eh_frame)?).ok()? })
    }

    /// Whether the table can be trusted when it has no line for an address: it is sorted, has as many lines as
    /// `eh_frame` has entries, and a sample of its lines is right. To check all of them would take as long as an index.
    fn agrees_with(&self, eh_frame: &gimli::EhFrame<Slice<'d>>, bases: &BaseAddresses) -> bool {
        let is_fde = |offset: &usize| eh_frame.partial_fde_from_offset(bases, (*offset).into()).is_ok();
        let is_true = |line: &[u8; 8]| {
            let line = self.line(line)?;
            let fde = eh_frame.fde_from_offset(bases, line.offset.into(), gimli::EhFrame::cie_from_offset).ok()?;
            Some(fde.initial_address() == line.start)
        };
        let mut sample = self.table.iter().step_by(self.table.len().div_ceil(SAMPLE).max(1));
        self.table.is_sorted_by_key(|line| self.start(line))
            && sample.all(|line| is_true(line) == Some(true))
            && EntryOffsets::of(eh_frame).filter(is_fde).count() == self.table.len()
    }
}

/// Where the entries of a section stand: hops from length to length.
pub(crate) struct EntryOffsets<'d> {
    section: &'d [u8],
    next: usize,
}

impl<'d> EntryOffsets<'d> {
    pub(crate) fn of(section: &impl gimli::Section<Slice<'d>>) -> EntryOffsets<'d> {
        EntryOffsets { section: section.reader().slice(), next: 0 }
    }
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

/// How many CIEs an index is built with, so that no section costs hundreds of megabytes. A program has one for each
/// object file at most.
const MOST_CIES: usize = 1 << 16;

/// A sorted table that we make ourselves.
#[derive(Debug, Default)]
struct Index(Vec<Start>);

impl Index {
    /// Reads every entry of a section once; one that can't be understood is left out.
    fn build<'d, S>(section: &S, bases: &BaseAddresses) -> Index
    where
        S: UnwindSection<Slice<'d>> + gimli::Section<Slice<'d>>,
    {
        // Only a CIE that this pass has read is used: to parse whatever an FDE points at, once for each FDE,
        // would let a small file take hours.
        let mut cies: HashMap<usize, Cie<'d>> = HashMap::new();
        let mut lines = Vec::new();
        for offset in EntryOffsets::of(section) {
            match section.partial_fde_from_offset(bases, offset.into()) {
                Ok(partial) => {
                    let known = |_: &S, _: &BaseAddresses, at: S::Offset| {
                        cies.get(&UnwindOffset::into(at)).cloned().ok_or(gimli::Error::NotCieId(0))
                    };
                    if let Some(fde) = partial.parse(known).ok().filter(|fde| fde.len() > 0) {
                        lines.push(Start { start: fde.initial_address(), offset });
                    }
                }
                Err(gimli::Error::NotCiePointer(_)) if cies.len() < MOST_CIES => {
                    cies.extend(section.cie_from_offset(bases, offset.into()).ok().map(|cie| (offset, cie)));
                }
                Err(_) => {}
            }
        }
        lines.sort_by_key(|line| line.start);
        Index(lines)
    }

    /// The offset of the nearest entry that starts at or below `address`.
    fn find(&self, address: u64) -> Option<usize> {
        let next = self.0.partition_point(|line| line.start <= address);
        Some(self.0.get(next.checked_sub(1)?)?.offset)
    }
}

#[cfg(test)]
mod tests {
    use gimli::Vendor;
    use gimli::constants::*;

    use super::super::testing::{Cfi, EH_FRAME, EH_FRAME_HDR, header};
    use super::*;
    use crate::arch::X86_64;

    /// Entries for the addresses from 0x1000 to 0x1fff, 0x100 bytes each, in the order of `starts`.
    fn section(starts: &[u64]) -> (Cfi, Vec<(u64, usize)>) {
        let mut cfi = Cfi::default();
        let cie = cfi.cie("", X86_64.pc, &[DW_CFA_def_cfa.0, 7, 8, DW_CFA_offset.0 | 16, 1]);
        let mut lines: Vec<_> = starts.iter().map(|start| (*start, cfi.fde(cie, *start, 0x100, &[]))).collect();
        lines.sort_unstable();
        (cfi, lines)
    }

    fn start_of_entry(header: Option<&[u8]>, cfi: &[u8], address: u64) -> Option<u64> {
        let section = |svma, bytes| SectionBytes { svma, bytes };
        let sections = UnwindSections {
            eh_frame_hdr: header.map(|bytes| section(EH_FRAME_HDR, bytes)),
            eh_frame: Some(section(EH_FRAME, cfi)),
            ..UnwindSections::default()
        };
        let entries = Entries::new(&sections, Vendor::Default);
        entries.prepare();
        let found = entries.find(address, &mut Cies::default()).map(|entry| entry.start());
        assert_eq!(entries.find(address, &mut Cies::default()).map(|entry| entry.start()), found, "the second time");
        found
    }

    /// All addresses must be found, whatever the header says.
    fn check(what: &str, header: Option<&[u8]>, cfi: &Cfi) {
        for (address, start) in
            [(0x1000, 0x1000), (0x10ff, 0x1000), (0x1180, 0x1100), (0x1300, 0x1300), (0x1fff, 0x1f00)]
        {
            assert_eq!(start_of_entry(header, &cfi.bytes, address), Some(start), "{what}: {address:#x}");
        }
        for address in [0, 0xfff, 0x1200, 0x12ff, 0x2000, u64::MAX] {
            assert_eq!(start_of_entry(header, &cfi.bytes, address), None, "{what}: {address:#x}");
        }
    }

    const STARTS: [u64; 5] = [0x1300, 0x1000, 0x1f00, 0x1100, 0x1e00];

    #[test]
    fn a_true_header_is_enough() {
        let (cfi, lines) = section(&STARTS);
        check("true", Some(&header(&lines)), &cfi);
        let sections = UnwindSections {
            eh_frame_hdr: Some(SectionBytes { svma: EH_FRAME_HDR, bytes: &header(&lines) }),
            eh_frame: Some(SectionBytes { svma: EH_FRAME, bytes: &cfi.bytes }),
            ..UnwindSections::default()
        };
        let entries = Entries::new(&sections, Vendor::Default);
        entries.prepare();
        assert!(entries.find(0x1000, &mut Cies::default()).is_some());
        assert!(entries.find(0x1200, &mut Cies::default()).is_none());
        assert!(entries.eh_frame_index.get().is_none(), "no index was needed");
    }

    /// As mold writes them for an empty function that a label follows.
    #[test]
    fn entries_for_nothing_hide_no_others() {
        let mut cfi = Cfi::default();
        let cie = cfi.cie("", X86_64.pc, &[DW_CFA_def_cfa.0, 7, 8, DW_CFA_offset.0 | 16, 1]);
        let mut entry = |start, length| (start, cfi.fde(cie, start, length, &[]));
        let (real, empty, inside) = (entry(0x1000, 0x100), entry(0x1000, 0), entry(0x1080, 0));
        for lines in [vec![real, empty], vec![empty, real], vec![real, empty, inside], vec![empty, empty, real, inside]]
        {
            for address in [0x1000, 0x107f, 0x1080, 0x10ff] {
                assert_eq!(start_of_entry(Some(&header(&lines)), &cfi.bytes, address), Some(0x1000), "{address:#x}");
            }
            assert_eq!(start_of_entry(Some(&header(&lines)), &cfi.bytes, 0x1100), None);
        }
    }

    #[test]
    fn a_header_that_is_missing_or_lies_is_done_without() {
        let (cfi, lines) = section(&STARTS);
        check("missing", None, &cfi);
        check("empty", Some(&[]), &cfi);
        check("no lines", Some(&header(&[])), &cfi);
        let mut unsorted = lines.clone();
        unsorted.reverse();
        check("unsorted", Some(&header(&unsorted)), &cfi);
        check("lines are left out", Some(&header(&lines[2..])), &cfi);
        let shifted: Vec<_> = lines.iter().map(|(start, offset)| (start + 0x10, *offset)).collect();
        check("wrong starts", Some(&header(&shifted)), &cfi);
        let wild: Vec<_> = lines.iter().map(|(start, _)| (*start, 0x7000_0000)).collect();
        check("offsets out of the section", Some(&header(&wild)), &cfi);
        let at_cie: Vec<_> = lines.iter().map(|(start, _)| (*start, 0)).collect();
        check("offsets of a CIE", Some(&header(&at_cie)), &cfi);
        let mut endless = header(&lines);
        endless[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        check("more lines than there are", Some(&endless), &cfi);
        let mut other = header(&lines);
        other[3] = 0x3c;
        check("another encoding", Some(&other), &cfi);
        for length in 0..header(&lines).len() {
            check("cut short", Some(&header(&lines)[..length]), &cfi);
        }
    }

    #[test]
    fn debug_frame_is_asked_for_the_rest() {
        let (cfi, lines) = section(&[0x1000]);
        // CIE: length, id, version 4, no augmentation, address size 8, segment size 0, factors 1 and -8, column 16.
        let mut debug_frame = vec![20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 4, 0, 8, 0, 1, 0x78, 16];
        debug_frame.extend_from_slice(&[DW_CFA_def_cfa.0, 7, 8, 0, 0, 0, 0, 0, 0]);
        // FDE in 64-bit DWARF: escape, length, offset of the CIE, start, length.
        debug_frame.extend_from_slice(&u32::MAX.to_le_bytes());
        for word in [24u64, 0, 0x1800, 0x100] {
            debug_frame.extend_from_slice(&word.to_le_bytes());
        }
        let bytes = header(&lines);
        for eh_frame_hdr in [None, Some(SectionBytes { svma: EH_FRAME_HDR, bytes: &bytes })] {
            let sections = UnwindSections {
                eh_frame_hdr,
                eh_frame: Some(SectionBytes { svma: EH_FRAME, bytes: &cfi.bytes }),
                debug_frame: Some(SectionBytes { svma: 0, bytes: &debug_frame }),
                ..UnwindSections::default()
            };
            let entries = Entries::new(&sections, Vendor::Default);
            let start = |address| entries.find(address, &mut Cies::default()).map(|entry| entry.start());
            assert_eq!(start(0x1080), Some(0x1000));
            assert_eq!(start(0x1880), Some(0x1800));
            assert_eq!(start(0x1700), None);
        }
    }

    #[test]
    fn lengths_that_lead_nowhere_end_the_index() {
        let (cfi, _) = section(&STARTS);
        for broken in [0xffff_fff0u32, 0x7fff_ffff, 1, 3] {
            let mut bytes = cfi.bytes.clone();
            bytes.extend_from_slice(&broken.to_le_bytes());
            bytes.extend_from_slice(&[0xff; 8]);
            check("a broken length at the end", None, &Cfi { bytes });
        }
        // The escape of 64-bit DWARF with a length that overflows, at the very start: nothing can be found.
        let mut bytes = vec![0xff; 12];
        bytes.extend_from_slice(&cfi.bytes);
        assert_eq!(start_of_entry(None, &bytes, 0x1000), None);
    }
}
