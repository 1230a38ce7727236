//! The headers of an ELF file: what is loaded where, and which sections there are.
//!
//! Reads headers only, so that a file of any size costs the same. What they say is kept as plain numbers and checked
//! against the file where they are used; of a range that reaches beyond the file, the part in the file is used.
//!
//! An *svma* is an address as the file states it, before the loader moved the file by its *bias*.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader};

use super::BuildId;
use crate::arch::Arch;

/// What an ELF file's headers say.
#[derive(Debug)]
pub(crate) struct Headers {
    pub(crate) arch: &'static Arch,
    /// Where the program begins; 0 for a library.
    pub(crate) start: u64,
    /// Whether it is linked to lie at the very addresses that it states.
    pub(crate) is_fixed: bool,
    /// Loaded segments (`PT_LOAD`), in the file's order.
    pub(crate) segments: Vec<Segment>,
    /// Where `PT_GNU_EH_FRAME` lies.
    pub(crate) eh_frame_hdr: Option<Segment>,
    /// Where `PT_DYNAMIC` lies.
    pub(crate) dynamic: Option<Segment>,
    /// What the loader makes read-only once it has filled it in (`PT_GNU_RELRO`).
    pub(crate) relro: Option<Segment>,
    /// Where each `PT_NOTE` lies.
    pub(crate) notes: Vec<Segment>,
    /// The sections, the empty one at index 0 included; empty if there are none or they can't be read.
    pub(crate) sections: Vec<Section>,
    /// The index of the section with the sections' names.
    pub(crate) section_names: u32,
}

/// A part of a file that is loaded into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it begins, before relocation.
    pub svma: u64,
    /// How many bytes it takes in memory.
    pub memory_size: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes the file holds of it.
    pub file_size: u64,
    /// Whether its bytes may be executed.
    pub execute: bool,
    /// Whether its bytes may be written.
    pub write: bool,
    pub(crate) align: u64,
    /// How many of its bytes are present: all that the file holds, unless the image was copied from memory.
    pub(crate) present: u64,
}

impl Segment {
    /// Whether `svma` lies in it.
    pub fn contains(&self, svma: u64) -> bool {
        svma.checked_sub(self.svma).is_some_and(|offset| offset < self.memory_size)
    }

    /// The bytes of `file` that it shows, as many as are present.
    pub(crate) fn data<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        slice(file, self.offset, self.present)
    }
}

/// One entry of the section table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    pub(crate) name: u32,
    pub(crate) kind: elf::SectionType,
    pub(crate) compressed: bool,
    pub(crate) svma: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// For a symbol table: the section with its names.
    pub(crate) link: u32,
    pub(crate) align: u64,
    /// Whether it lies in memory when the program runs.
    pub(crate) is_loaded: bool,
    /// Whether it holds instructions.
    pub(crate) is_code: bool,
}

impl Section {
    /// The bytes of `file` that belong to it, cut at the file's end; none for a section without content.
    pub(crate) fn data<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        if self.kind == elf::SHT_NOBITS { &[] } else { slice(file, self.offset, self.size) }
    }

    /// Whether `svma` lies in it.
    pub(crate) fn contains(&self, svma: u64) -> bool {
        svma.checked_sub(self.svma).is_some_and(|offset| offset < self.size)
    }
}

/// Why bytes are not an ELF file that can be used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotElf {
    /// The first four bytes are not `\x7fELF`.
    #[error("it is not an ELF file")]
    Magic,
    /// It is made for another word size or byte order.
    #[error("it is not a 64-bit little-endian ELF file")]
    Class,
    /// It is made for this `e_machine`, which is not known here.
    #[error("it is made for a CPU that is not known here (ELF machine {0})")]
    Machine(u16),
    /// Its program headers cannot be read.
    #[error("its program headers are damaged")]
    ProgramHeaders,
}

/// At most this many sections are read: no linked program has more.
const MOST_SECTIONS: usize = 1 << 16;

impl Headers {
    /// Reads the headers of `file`. Sections that can't be read are left out: a running program needs none.
    pub(crate) fn parse(file: &[u8]) -> Result<Headers, NotElf> {
        if !file.starts_with(&elf::ELFMAG) {
            return Err(NotElf::Magic);
        }
        let header = FileHeader64::<LE>::parse(file).map_err(|_| NotElf::Class)?;
        if !header.is_little_endian() {
            return Err(NotElf::Class);
        }
        let machine = header.e_machine(LE).0;
        let arch = Arch::of_elf_machine(machine).ok_or(NotElf::Machine(machine))?;
        let program = header.program_headers(LE, file).map_err(|_| NotElf::ProgramHeaders)?;
        let of_type = |wanted| program.iter().filter(move |entry| entry.p_type(LE) == wanted).map(segment);
        Ok(Headers {
            arch,
            start: header.e_entry(LE),
            is_fixed: header.e_type(LE) == elf::ET_EXEC,
            segments: of_type(elf::PT_LOAD).collect(),
            eh_frame_hdr: of_type(elf::PT_GNU_EH_FRAME).next(),
            dynamic: of_type(elf::PT_DYNAMIC).next(),
            relro: of_type(elf::PT_GNU_RELRO).next(),
            notes: of_type(elf::PT_NOTE).collect(),
            sections: sections(header, file),
            section_names: header.shstrndx(LE, file).unwrap_or(0),
        })
    }

    /// The first section called `name`, with its index.
    pub(crate) fn section(&self, file: &[u8], name: &[u8]) -> Option<(usize, &Section)> {
        let names = self.sections.get(self.section_names as usize)?.data(file);
        let is_called = |section: &Section| {
            let tail = names.get(section.name as usize..).unwrap_or_default();
            tail.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
        };
        self.sections.iter().enumerate().find(|(_, section)| is_called(section))
    }

    /// The loaded segment that holds `svma`.
    pub(crate) fn segment_at(&self, svma: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.contains(svma))
    }

    /// The loaded segment whose pages show the file at `offset`, executable or not as asked.
    ///
    /// The loader maps whole pages, so a mapping may begin before its segment's first byte.
    pub(crate) fn segment_mapping(&self, offset: u64, execute: bool) -> Option<&Segment> {
        const SMALLEST_PAGE: u64 = 4096;
        const LARGEST_PAGE: u64 = 65536;
        self.segments.iter().find(|segment| {
            let first = segment.offset & !segment.align.clamp(SMALLEST_PAGE, LARGEST_PAGE).wrapping_sub(1);
            segment.execute == execute && first <= offset && offset - segment.offset.min(offset) < segment.file_size
        })
    }

    /// The build-id in the notes.
    pub(crate) fn build_id(&self, file: &[u8]) -> Option<BuildId> {
        let in_segments = self.notes.iter().find_map(|note| BuildId::in_notes(note.data(file), note.align));
        // A separate debug file's note segments may show bytes that the file no longer has; its sections are right.
        let notes = self.sections.iter().filter(|section| section.kind == elf::SHT_NOTE);
        let in_sections = || notes.filter_map(|note| BuildId::in_notes(note.data(file), note.align)).next();
        in_segments.or_else(in_sections)
    }

    /// The content of the notes with this owner and type, each with its address.
    pub(crate) fn notes_of<'a>(&self, file: &'a [u8], owner: &[u8], kind: u32) -> Vec<(u64, &'a [u8])> {
        let in_segment = |segment: &Segment| {
            let (svma, data) = (segment.svma, segment.data(file));
            let notes = NoteIterator::<FileHeader64<LE>>::new(LE, segment.align, data).ok();
            let notes = notes.into_iter().flatten().map_while(Result::ok);
            let wanted = notes.filter(|note| note.name() == owner && note.n_type(LE).0 == kind);
            let located = wanted.map(|note| note.desc()).map(|content| {
                let offset = content.as_ptr().addr().saturating_sub(data.as_ptr().addr());
                (svma.wrapping_add(offset as u64), content)
            });
            located.collect::<Vec<_>>()
        };
        self.notes.iter().flat_map(in_segment).collect()
    }

    /// One byte past the last byte of the file that a loaded segment shows.
    pub(crate) fn loaded_end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.offset.saturating_add(segment.file_size)).max().unwrap_or(0)
    }

    /// The svmas that its segments take, from the lowest to the highest.
    pub(crate) fn span(&self) -> Range<u64> {
        let low = self.segments.iter().map(|segment| segment.svma).min().unwrap_or(0);
        let high = self.segments.iter().map(|segment| segment.svma.saturating_add(segment.memory_size)).max();
        low..high.unwrap_or(0).max(low)
    }
}

fn segment(header: &elf::ProgramHeader64<LE>) -> Segment {
    let flags = header.p_flags(LE);
    Segment {
        svma: header.p_vaddr(LE),
        memory_size: header.p_memsz(LE),
        offset: header.p_offset(LE),
        file_size: header.p_filesz(LE),
        execute: flags.contains(elf::PF_X),
        write: flags.contains(elf::PF_W),
        align: header.p_align(LE).checked_next_power_of_two().unwrap_or(1),
        present: header.p_filesz(LE),
    }
}

fn sections(header: &FileHeader64<LE>, file: &[u8]) -> Vec<Section> {
    let headers = header.section_headers(LE, file).unwrap_or_default();
    let read = |header: &elf::SectionHeader64<LE>| Section {
        name: header.sh_name(LE),
        kind: header.sh_type(LE),
        compressed: header.sh_flags(LE).contains(elf::SHF_COMPRESSED),
        svma: header.sh_addr(LE),
        offset: header.sh_offset(LE),
        size: header.sh_size(LE),
        link: header.sh_link(LE),
        align: header.sh_addralign(LE),
        is_loaded: header.sh_flags(LE).contains(elf::SHF_ALLOC),
        is_code: header.sh_flags(LE).contains(elf::SHF_EXECINSTR),
    };
    headers.iter().take(MOST_SECTIONS).map(read).collect()
}

/// The `size` bytes at `offset`, cut to what there is.
pub(crate) fn slice(bytes: &[u8], offset: u64, size: u64) -> &[u8] {
    let tail = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    &tail[..usize::try_from(size).unwrap_or(usize::MAX).min(tail.len())]
}
