//! One ELF file: its bytes, what its headers say, and what is worked out from them on demand.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::debug_files::{self, DebugFiles};
use super::dwarf::UnitIndex;
use super::elf::{Headers, NotElf, Section, Segment};
use super::names::KnownNames;
use super::symbols::{FunctionSymbol, Table};
use super::unwind_sections::{self, UnwindSections};
use super::{BuildId, Bytes, CodeBytes, Files, Opened, Stamp, compressed};
use crate::arch::Arch;

/// One ELF file, or the parts of it that a target's memory shows.
///
/// Opening it reads its headers only; everything else is read, unpacked and kept when it is first asked for.
pub struct Image {
    bytes: Bytes,
    headers: Headers,
    build_id: Option<BuildId>,
    source: ImageSource,
    stamp: Option<Stamp>,
    /// Compressed sections once unpacked, by index; `None` inside if that failed.
    unpacked: Box<[OnceLock<Option<Vec<u8>>>]>,
    mini_debug_info: OnceLock<Option<Arc<Image>>>,
    unit_index: UnitIndex,
    debug_files: DebugFiles,
    known_names: KnownNames,
}

/// Sections of code at most this many bytes apart have nothing else between them.
const PADDING: usize = 4096;

/// Where an image's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageSource {
    /// The file itself.
    File,
    /// The target's memory: of its segments only those that unwinding and names need are there.
    Memory {
        /// The module's bias, which the loader may have added to addresses inside.
        bias: u64,
    },
}

impl Image {
    /// The image whose file content is `bytes`.
    ///
    /// # Errors
    /// If the bytes are not an ELF file for a CPU that is known here.
    pub fn parse(bytes: Bytes) -> Result<Image, NotElf> {
        let headers = Headers::parse((*bytes).as_ref())?;
        Ok(Image::new(bytes, headers, ImageSource::File))
    }

    pub(crate) fn new(bytes: Bytes, headers: Headers, source: ImageSource) -> Image {
        let build_id = headers.build_id((*bytes).as_ref());
        let unpacked = headers.sections.iter().map(|_| OnceLock::new()).collect();
        Image {
            bytes,
            headers,
            build_id,
            source,
            stamp: None,
            unpacked,
            mini_debug_info: OnceLock::new(),
            unit_index: UnitIndex::default(),
            debug_files: DebugFiles::default(),
            known_names: KnownNames::default(),
        }
    }

    /// The image in an opened file.
    ///
    /// # Errors
    /// As [`parse`](Image::parse).
    pub fn open(opened: &Opened) -> Result<Image, NotElf> {
        Ok(Image { stamp: opened.stamp, ..Image::parse(opened.bytes.clone())? })
    }

    /// What distinguishes its file from all others and from later states of itself, if that is known.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// The CPU it is made for.
    pub fn arch(&self) -> &'static Arch {
        self.headers.arch
    }

    /// Its build-id, if it has one.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// The content of its notes with this owner and type, each with the address that the file states for it.
    pub fn notes(&self, owner: &[u8], kind: u32) -> Vec<(u64, &[u8])> {
        self.headers.notes_of((*self.bytes).as_ref(), owner, kind)
    }

    /// Where its bytes come from.
    pub fn source(&self) -> ImageSource {
        self.source
    }

    /// The content of its file; `None` for one that memory shows.
    pub fn content(&self) -> Option<&Bytes> {
        (self.source == ImageSource::File).then_some(&self.bytes)
    }

    /// The svma at which the program or the loader begins (`e_entry`); `None` in a file that nothing begins in.
    pub(crate) fn entry(&self) -> Option<u64> {
        Some(self.headers.start).filter(|start| *start != 0)
    }

    /// What its headers say.
    pub(crate) fn into_headers(self) -> Headers {
        self.headers
    }

    /// Its loaded segments, in the file's order.
    pub fn segments(&self) -> &[Segment] {
        &self.headers.segments
    }

    /// Whether the file ends before its loaded segments do.
    pub fn is_truncated(&self) -> bool {
        (self.bytes().len() as u64) < self.headers.loaded_end()
    }

    /// Fills `into` with the bytes that the file loads at `svma`; `false` if it does not have all of them.
    pub fn read(&self, svma: u64, into: &mut [u8]) -> bool {
        let Some(bytes) = self.loaded_tail(svma).and_then(|tail| tail.get(..into.len())) else { return false };
        into.copy_from_slice(bytes);
        true
    }

    /// Its code, by address: of its executable segments the parts that sections call code, or all if no section does.
    ///
    /// Linkers may put tables into these segments as well, tens of megabytes of them.
    pub fn code(&self) -> Vec<CodeBytes<'_>> {
        let executable = self.headers.segments.iter().filter(|segment| segment.execute);
        let mut code: Vec<_> = executable.flat_map(|segment| self.code_of(segment)).collect();
        code.sort_by_key(|part| part.svma);
        code
    }

    fn code_of(&self, segment: &Segment) -> Vec<CodeBytes<'_>> {
        let bytes = segment.data(self.bytes());
        let inside = |svma: u64| svma.checked_sub(segment.svma).and_then(|offset| usize::try_from(offset).ok());
        let range = |section: &Section| {
            let start = inside(section.svma)?.min(bytes.len());
            Some(start..start.saturating_add(usize::try_from(section.size).ok()?).min(bytes.len()))
        };
        let sections = self.headers.sections.iter().filter(|section| section.is_code && section.is_loaded);
        let mut ranges: Vec<Range<usize>> = sections.filter_map(range).filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        // What lies between two neighbours is padding; what begins inside the other is not counted twice.
        ranges.dedup_by(|next, known| {
            let is_near = next.start <= known.end.saturating_add(PADDING);
            known.end = if is_near { known.end.max(next.end) } else { known.end };
            is_near
        });
        if ranges.is_empty() {
            ranges.push(0..bytes.len());
        }
        let part = |range: Range<usize>| CodeBytes {
            svma: segment.svma.wrapping_add(range.start as u64),
            bytes: &bytes[range],
        };
        ranges.into_iter().map(part).collect()
    }

    /// The starts of code that has a symbol in this file, each at most `within` bytes before one of `svmas`, which are
    /// sorted. Routines in assembly often have no other description.
    pub fn named_starts(&self, svmas: &[u64], within: u64) -> Vec<u64> {
        let tables = [Table::full(self), Table::dynamic(self)];
        tables.iter().flatten().flat_map(|table| table.starts_before(svmas, within)).collect()
    }

    /// The functions that have a symbol: in the full table or the one in `.gnu_debugdata`, and in the dynamic one.
    pub fn function_symbols(&self) -> Vec<FunctionSymbol<'_>> {
        let full = Table::full(self).or_else(|| Table::full(self.mini_debug_info()?));
        [full, Table::dynamic(self)].iter().flatten().flat_map(Table::functions).collect()
    }

    /// The functions that other images can call by their names.
    pub fn exported_functions(&self) -> Vec<FunctionSymbol<'_>> {
        let table = Table::dynamic(self);
        table.iter().flat_map(Table::functions).filter(|function| !function.is_local).collect()
    }

    /// The functions with these names, in whatever table has a symbol of them, each symbol once.
    pub fn functions_named(&self, wanted: &[&[u8]]) -> Vec<FunctionSymbol<'_>> {
        let full = Table::full(self).or_else(|| Table::full(self.mini_debug_info()?));
        let tables = [Table::dynamic(self), full];
        let named = |function: &FunctionSymbol<'_>| wanted.contains(&function.name);
        let mut found: Vec<FunctionSymbol<'_>> =
            tables.iter().flatten().flat_map(|table| table.functions().filter(named)).collect();
        found.sort_by_key(|function| function.svma);
        found.dedup_by_key(|function| function.svma);
        found
    }

    /// The svma of a variable that this image defines for others.
    pub(crate) fn exported_variable(&self, name: &[u8]) -> Option<u64> {
        let tables = [Table::dynamic(self), Table::full(self)];
        tables.into_iter().flatten().find_map(|table| table.variable(name))
    }

    /// The call frame information that the file itself holds. Cheap, unless a `.debug_frame` must be unpacked.
    pub fn unwind_sections(&self) -> UnwindSections<'_> {
        unwind_sections::of(self)
    }

    /// The symbols and `.debug_frame` that a stripped file carries inside itself (`.gnu_debugdata`).
    pub fn mini_debug_info(&self) -> Option<&Arc<Image>> {
        let unpack = || {
            let unpacked = compressed::xz(self.section_data(b".gnu_debugdata")?)?;
            Image::parse(Arc::new(unpacked)).ok().map(Arc::new)
        };
        self.mini_debug_info.get_or_init(unpack).as_ref()
    }

    /// The file that holds the debug information of this one, which lies at `path`; searched for once.
    pub fn debug_file(&self, path: Option<&Path>, files: &dyn Files) -> Option<&Arc<Image>> {
        debug_files::separate(self, path, files)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    pub(crate) fn bias_in_memory(&self) -> Option<u64> {
        match self.source {
            ImageSource::File => None,
            ImageSource::Memory { bias } => Some(bias),
        }
    }

    pub(crate) fn unit_index(&self) -> &UnitIndex {
        &self.unit_index
    }

    pub(crate) fn known_names(&self) -> &KnownNames {
        &self.known_names
    }

    pub(crate) fn debug_files(&self) -> &DebugFiles {
        &self.debug_files
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The bytes from `svma` to the end of what the file holds of its segment.
    pub(crate) fn loaded_tail(&self, svma: u64) -> Option<&[u8]> {
        let segment = self.headers.segment_at(svma)?;
        segment.data(self.bytes()).get(usize::try_from(svma - segment.svma).ok()?..).filter(|tail| !tail.is_empty())
    }

    /// The section called `name`.
    pub(crate) fn section(&self, name: &[u8]) -> Option<&Section> {
        self.headers.section(self.bytes(), name).map(|(_, section)| section)
    }

    /// Whether the section called `name`, or its compressed forerunner, holds anything.
    pub(crate) fn has_section(&self, name: &[u8]) -> bool {
        self.find_section(name).is_some_and(|(_, section)| !section.data(self.bytes()).is_empty())
    }

    /// Whether the section called `name` would have to be unpacked to be read.
    pub(crate) fn is_packed(&self, name: &[u8]) -> bool {
        self.find_section(name).is_some_and(|(_, section)| section.compressed || self.section(name).is_none())
    }

    /// What the section called `name` holds, unpacked; `None` if it holds nothing or is damaged.
    ///
    /// A name that begins with `.debug_` also finds its compressed forerunner `.zdebug_`.
    pub(crate) fn section_data(&self, name: &[u8]) -> Option<&[u8]> {
        let (index, section) = self.find_section(name)?;
        let data = section.data(self.bytes());
        if section.compressed {
            self.unpacked(index, data, compressed::section)
        } else if data.starts_with(b"ZLIB") && self.section(name).is_none() {
            self.unpacked(index, data, compressed::zdebug_section)
        } else {
            Some(data).filter(|data| !data.is_empty())
        }
    }

    fn find_section(&self, name: &[u8]) -> Option<(usize, &Section)> {
        let find = |name: &[u8]| self.headers.section(self.bytes(), name);
        find(name)
            .or_else(|| find(&[b".z", name.strip_prefix(b".")?].concat()).filter(|_| name.starts_with(b".debug_")))
    }

    fn unpacked(&self, index: usize, data: &[u8], unpack: fn(&[u8]) -> Option<Vec<u8>>) -> Option<&[u8]> {
        self.unpacked.get(index)?.get_or_init(|| unpack(data)).as_deref()
    }
}
