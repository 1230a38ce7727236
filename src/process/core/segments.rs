//! The parts of a core file, by its program headers: what is in it, what should be, and where files lay.
//!
//! A core file may be cut or made up: of each table the part that is there is read, and each number in it is checked.

use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::{LittleEndian, pod};

use super::{CoreWarning, notes};
use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::mapping::{Access, MappedFile, Mapping, Origin};
use crate::process::core::notes::{FileRange, Notes};

const LE: LittleEndian = LittleEndian;

type Header = ProgramHeader64<LittleEndian>;

/// A part of the address space that the core file describes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub range: AddrRange,
    pub access: Access,
    /// Where in the core file its bytes begin.
    pub offset: u64,
    /// How many of its bytes the core file has.
    pub held: u64,
}

/// The program headers that the file has.
pub(super) fn headers<'data>(data: &'data [u8], warnings: &mut Vec<CoreWarning>) -> &'data [Header] {
    let Ok((header, _)) = pod::from_bytes::<FileHeader64<LittleEndian>>(data) else { return &[] };
    let needs = header_count(header, data, warnings);
    let start = usize::try_from(header.e_phoff.get(LE)).unwrap_or(usize::MAX);
    let table = data.get(start..).unwrap_or_default();
    let size = size_of::<Header>();
    let has = match usize::from(header.e_phentsize.get(LE)) == size {
        true => usize::try_from(needs).unwrap_or(usize::MAX).min(table.len() / size),
        false => 0,
    };
    let headers = pod::slice_from_bytes(table, has).map_or(&[][..], |(headers, _)| headers);
    if (headers.len() as u64) < needs {
        warnings.push(CoreWarning::SegmentsCut { has: headers.len() as u64, needs });
    }
    headers
}

/// If the count does not fit in the ELF header, the first section header has it (`PN_XNUM`, elf(5)).
fn header_count(header: &FileHeader64<LittleEndian>, data: &[u8], warnings: &mut Vec<CoreWarning>) -> u64 {
    let count = header.e_phnum.get(LE);
    if count != elf::PN_XNUM {
        return u64::from(count);
    }
    let start = usize::try_from(header.e_shoff.get(LE)).ok().filter(|start| *start != 0).unwrap_or(usize::MAX);
    let section = pod::from_bytes::<SectionHeader64<LittleEndian>>(data.get(start..).unwrap_or_default());
    // gcore and the kernel put that header at the file's end, where it is the first to be lost.
    match section {
        Ok((section, _)) => u64::from(section.sh_info.get(LE)),
        Err(()) => {
            let at_least = u64::from(count);
            warnings.push(CoreWarning::SegmentCountLost { at_least });
            at_least
        }
    }
}

/// The part of the notes that the file has.
pub(super) fn notes(data: &[u8], headers: &[Header], arch: &'static Arch, warnings: &mut Vec<CoreWarning>) -> Notes {
    let Some(header) = headers.iter().find(|header| header.p_type.get(LE) == elf::PT_NOTE) else {
        warnings.push(CoreWarning::NoNotes);
        return Notes::default();
    };
    let start = header.p_offset.get(LE);
    let end = start.saturating_add(header.p_filesz.get(LE));
    let length = data.len() as u64;
    let content = data.get(start.min(length) as usize..end.min(length) as usize).unwrap_or_default();
    let mut notes = notes::parse(content, arch);
    notes.cut |= end > length;
    if notes.cut {
        warnings.push(match notes.threads.len() {
            0 => CoreWarning::NotesLost,
            threads => CoreWarning::NotesCut { threads },
        });
    }
    if !notes.has_file_table && !notes.cut {
        warnings.push(CoreWarning::NoFileTable);
    }
    notes
}

/// The segments that hold memory, sorted by address. Of two that overlap, the earlier header keeps its place.
pub(super) fn load(headers: &[Header], length: u64, warnings: &mut Vec<CoreWarning>) -> Vec<Segment> {
    let needs = headers.iter().map(|header| header.p_offset.get(LE).saturating_add(header.p_filesz.get(LE))).max();
    if let Some(needs) = needs.filter(|needs| *needs > length) {
        warnings.insert(0, CoreWarning::Truncated { has: length, needs });
    }
    let loads = headers.iter().filter(|header| header.p_type.get(LE) == elf::PT_LOAD);
    let mut segments: Vec<Segment> = loads.map(|header| segment(header, length)).collect();
    segments.retain(|segment| !segment.range.is_empty());
    segments.sort_by_key(|segment| segment.range.low);
    without_overlaps(segments, warnings)
}

fn segment(header: &Header, length: u64) -> Segment {
    let low = Addr(header.p_vaddr.get(LE));
    let offset = header.p_offset.get(LE);
    let range = AddrRange::new(low, Addr(low.0.saturating_add(header.p_memsz.get(LE))));
    let flags = header.p_flags.get(LE);
    let has = |flag: elf::ProgramFlags| flags.0 & flag.0 != 0;
    let access = Access { read: has(elf::PF_R), write: has(elf::PF_W), execute: has(elf::PF_X) };
    let held = header.p_filesz.get(LE).min(length.saturating_sub(offset)).min(range.len());
    Segment { range, access, offset, held }
}

fn without_overlaps(sorted: Vec<Segment>, warnings: &mut Vec<CoreWarning>) -> Vec<Segment> {
    let mut kept: Vec<Segment> = Vec::with_capacity(sorted.len());
    let mut overlap = None;
    for segment in sorted {
        match kept.last() {
            Some(last) if last.range.high > segment.range.low => overlap = overlap.or(Some(segment.range.low)),
            _ => kept.push(segment),
        }
    }
    warnings.extend(overlap.map(|at| CoreWarning::Overlap { at }));
    kept
}

/// The memory map: the segments, with the files that the notes name for them, and what only the notes name.
pub(super) fn mappings(segments: &[Segment], notes: &Notes) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = segments.iter().flat_map(|segment| pieces(segment, notes)).collect();
    let named_alone = notes.files.iter().flat_map(|file| named_alone(file, segments));
    mappings.extend(named_alone);
    mappings.sort_by_key(|mapping| mapping.range.low);
    mappings
}

/// The parts of a file's range that no segment describes: gcore leaves out what has not changed, such as code. What the
/// program may do there is not said.
fn named_alone(file: &FileRange, segments: &[Segment]) -> Vec<Mapping> {
    let part = |low, high| Mapping {
        range: AddrRange::new(low, high),
        access: Access::default(),
        shared: false,
        origin: origin(file, low),
    };
    let (mut parts, mut low) = (Vec::new(), file.range.low);
    let first = segments.partition_point(|segment| segment.range.high <= low);
    for segment in segments[first..].iter().take_while(|segment| segment.range.low < file.range.high) {
        parts.push(part(low, segment.range.low));
        low = segment.range.high.min(file.range.high);
    }
    parts.push(part(low, file.range.high));
    parts.retain(|part| !part.range.is_empty());
    parts
}

/// One segment may show several files, or a file and what follows it: a piece for each.
fn pieces(segment: &Segment, notes: &Notes) -> Vec<Mapping> {
    let mut pieces = Vec::new();
    let mut low = segment.range.low;
    let first = notes.files.partition_point(|file| file.range.high <= low);
    let files = notes.files[first..].iter().take_while(|file| file.range.low < segment.range.high);
    for file in files {
        let Some(part) = AddrRange::new(low, segment.range.high).intersection(file.range) else { continue };
        if low < part.low {
            pieces.push(anonymous(AddrRange::new(low, part.low), segment, notes));
        }
        pieces.push(Mapping { range: part, access: segment.access, shared: false, origin: origin(file, part.low) });
        low = part.high;
    }
    if low < segment.range.high {
        pieces.push(anonymous(AddrRange::new(low, segment.range.high), segment, notes));
    }
    pieces
}

fn origin(file: &FileRange, low: Addr) -> Origin {
    let offset = file.offset.saturating_add(low.0 - file.range.low.0);
    // The kernel writes the mark of a deleted file after its path here too.
    let text = file.path.to_string_lossy();
    let (path, deleted) = match text.strip_suffix(" (deleted)") {
        Some(path) => (path.into(), true),
        None => (file.path.clone(), false),
    };
    Origin::File(MappedFile { path, deleted, offset, identity: None })
}

fn anonymous(range: AddrRange, segment: &Segment, notes: &Notes) -> Mapping {
    let holds = |at: Option<Addr>| at.is_some_and(|at| range.contains(at));
    let origin = match () {
        () if holds(notes.vdso) => Origin::Vdso,
        () if holds(notes.main_stack) => Origin::MainStack,
        () => Origin::Anonymous,
    };
    Mapping { range, access: segment.access, shared: false, origin }
}
