//! A process as a core file keeps it (core(5)), written by the kernel or by gdb's `gcore`.
//!
//! Whatever the file still holds is shown, and [`Core::warnings`] says what it does not: a core file may be cut
//! anywhere, by a limit or a full disk. Pages of files that the program only read are not in it; they are taken from
//! the files once a caller who made sure that they are the right ones passed them to [`Core::supply`].

mod elsewhere;
mod listed;
mod notes;
mod save;
mod segments;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{PageState, Pages, PagesUnknown, Process, Source, Target, Thread, header};
use crate::addr::{Addr, AddrRange, PAGE};
use crate::arch::Arch;
use crate::image::{Bytes, Files, Opened};
use crate::mapping::Mapping;
use crate::memory::{Memory, Slices, Unreadable};
use crate::process::error::OpenError;
use crate::process::fault::Fault;
use crate::process::header::Foreign;
use crate::process::mapped::MappedBytes;
use crate::process::pages::Runs;
use segments::Segment;

pub use elsewhere::CoreFiles;
pub use save::{CoreContent, CoreThread, FIRST_MADE_UP_TID, write_core};

/// A core file.
#[derive(Debug)]
pub struct Core {
    file: File,
    bytes: MappedBytes,
    arch: &'static Arch,
    process: Process,
    threads: Vec<Thread>,
    /// Sorted by address, none overlapping another.
    segments: Vec<Segment>,
    mappings: Vec<Mapping>,
    /// The files given by [`Core::supply`], one place for each mapping.
    supplied: Vec<Option<Supplied>>,
    fault: Option<Fault>,
    siginfo: Option<Vec<u8>>,
    auxv: Vec<u8>,
    warnings: Vec<CoreWarning>,
    elsewhere: CoreFiles,
    /// The path of the program that ran.
    program: Option<PathBuf>,
}

struct Supplied(Bytes);

impl std::fmt::Debug for Supplied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Supplied")
    }
}

/// What a core file lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CoreWarning {
    /// It is shorter than its own tables say.
    #[error("the core file is truncated: it has {has} of {needs} bytes, so memory is missing")]
    Truncated {
        /// Its length in bytes.
        has: u64,
        /// The length that its tables describe.
        needs: u64,
    },
    /// The table of its parts is cut.
    #[error("the core file is truncated in its table of segments: {has} of {needs} can be read")]
    SegmentsCut {
        /// How many entries are there.
        has: u64,
        /// How many there should be.
        needs: u64,
    },
    /// The count of its segments, kept at the file's end if there are very many, is cut off.
    #[error("the core file is truncated: it has at least {at_least} segments, and how many more is lost")]
    SegmentCountLost {
        /// The least number that there can be.
        at_least: u64,
    },
    /// The notes with the threads' registers lie beyond its end, as gcore's do in a file that is cut, or are no notes.
    #[error("the threads and their registers are lost: the notes that hold them are cut off or overwritten")]
    NotesLost,
    /// The notes end early.
    #[error(
        "the notes of the core file end early: {threads} threads stand before that, others are lost if there were any"
    )]
    NotesCut {
        /// How many threads were read.
        threads: usize,
    },
    /// There are no notes.
    #[error(
        "the core file has no notes: nothing is known of its threads; the kernel and gcore always write notes, so \
         another program made or changed this file: use the original"
    )]
    NoNotes,
    /// Neither the notes nor the program's loader name files, so no code can be attributed.
    #[error(
        "the core file does not say which files were mapped, and without the program they are not known: name it by \
         --executable, and the folder that stands for its root by --sysroot"
    )]
    NoFileTable,
    /// Two segments claim the same memory; the first one in the file is used.
    #[error("the core file describes the memory at {at} twice")]
    Overlap {
        /// The address.
        at: Addr,
    },
}

impl Core {
    /// Opens the core file at `path`.
    ///
    /// # Errors
    /// Only if nothing at all can be read. What is missing from a core file otherwise is a warning.
    pub fn open(path: &Path) -> Result<Core, OpenError> {
        Core::open_with(path, CoreFiles::default())
    }

    /// Opens the core file at `path`, whose files are where `elsewhere` says.
    ///
    /// # Errors
    /// As [`Core::open`].
    pub fn open_with(path: &Path, elsewhere: CoreFiles) -> Result<Core, OpenError> {
        for given in [&elsewhere.sysroot, &elsewhere.executable].into_iter().flatten() {
            std::fs::metadata(given).map_err(|source| OpenError::File { path: given.clone(), source })?;
        }
        let failed = |source: io::Error| OpenError::File { path: path.to_owned(), source };
        let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).clone();
        let file = options.open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() {
            let what = match kind {
                _ if kind.is_dir() => "a directory",
                _ if kind.is_fifo() => "a pipe",
                _ => "a device",
            };
            return Err(OpenError::NotAFile { path: path.to_owned(), what });
        }
        let bytes = MappedBytes::map(&file).map_err(failed)?;
        let arch = header::check(path, bytes.as_ref())?;
        Core::of_bytes(file, bytes, arch, elsewhere).map_err(|kernel| OpenError::Foreign {
            path: path.to_owned(),
            what: kernel.what,
            remedy: kernel.remedy,
        })
    }

    fn of_bytes(
        file: File,
        bytes: MappedBytes,
        arch: &'static Arch,
        elsewhere: CoreFiles,
    ) -> Result<Core, &'static Foreign> {
        let mut warnings = Vec::new();
        let data = bytes.as_ref();
        let headers = segments::headers(data, &mut warnings);
        let mut notes = segments::notes(data, headers, arch, &mut warnings);
        if notes.is_of_kernel {
            return Err(&header::KERNEL_DUMP);
        }
        let segments = segments::load(headers, data.len() as u64, &mut warnings);
        let mappings = segments::mappings(&segments, &notes);
        let pid = notes.process.as_ref().map(|process| process.0).or(notes.threads.first().map(|thread| thread.tid));
        let pid = pid.unwrap_or_default();
        let command = notes.process.take().map_or_else(Vec::new, |process| process.1);
        let mut threads = std::mem::take(&mut notes.threads);
        // In our own core files these threads stand for suspended contexts, which are found in the memory again.
        threads.retain(|thread| thread.tid < FIRST_MADE_UP_TID);
        threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
        threads.dedup_by_key(|thread| thread.tid);
        let mut core = Core {
            process: Process { pid, command, source: Source::Core },
            supplied: Vec::new(),
            fault: notes.fault,
            siginfo: notes.siginfo.take(),
            auxv: std::mem::take(&mut notes.auxv),
            file,
            bytes,
            arch,
            threads,
            segments,
            mappings,
            warnings,
            elsewhere,
            program: None,
        };
        if notes.files.is_empty() {
            let (files, is_listed) = listed::files(&core, &core.elsewhere);
            notes.files = files;
            core.mappings = segments::mappings(&core.segments, &notes);
            core.warnings.retain(|warning| *warning != CoreWarning::NoFileTable || !is_listed);
        }
        core.program = listed::program_path(&notes.files, &core.auxv).map(Path::to_owned);
        core.supplied = core.mappings.iter().map(|_| None).collect();
        Ok(core)
    }

    /// What the file lacks, the most important first.
    pub fn warnings(&self) -> &[CoreWarning] {
        &self.warnings
    }

    /// The signal that ended the process, with its details, if the file has them.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The same as the kernel's `siginfo_t`.
    pub fn siginfo(&self) -> Option<&[u8]> {
        self.siginfo.as_deref()
    }

    /// The path of the program that ran, as it was mapped; `None` if that is not known.
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// The auxiliary vector (getauxval(3)); empty if the file has none.
    pub fn auxv(&self) -> &[u8] {
        &self.auxv
    }

    /// Supplies the content of a file that was mapped, for the pages that the core file leaves out.
    ///
    /// The caller makes sure that it is the file that was mapped, by its build-id for example: it can't be checked
    /// here.
    pub fn supply(&mut self, path: &Path, content: &Bytes) {
        for (mapping, place) in self.mappings.iter().zip(&mut self.supplied) {
            if mapping.file().is_some_and(|file| file.path == path) {
                *place = Some(Supplied(content.clone()));
            }
        }
    }

    /// The content of a mapped file that was supplied, by its path or one that leads there.
    pub(crate) fn supplied_file(&self, path: &Path) -> Option<&Bytes> {
        let of = |path: &Path| {
            let named = |mapping: &Mapping| mapping.file().is_some_and(|file| file.path == path);
            let mut files = self.mappings.iter().zip(&self.supplied).filter(|(mapping, _)| named(mapping));
            files.find_map(|(_, supplied)| supplied.as_ref())
        };
        let supplied = of(path).or_else(|| of(&path.canonicalize().ok()?));
        supplied.map(|Supplied(content)| content)
    }

    /// The writable memory that the file holds, in place in the mapped file.
    pub fn writable(&self) -> Slices<'_> {
        self.slices(|segment| segment.access.write)
    }

    /// All memory that the file holds.
    pub fn everything(&self) -> Slices<'_> {
        self.slices(|_| true)
    }

    fn slices(&self, wanted: impl Fn(&Segment) -> bool) -> Slices<'_> {
        let pieces = self.segments.iter().filter(|segment| wanted(segment)).filter_map(|segment| {
            let part = self.held(segment.range.low, usize::MAX)?;
            Some((segment.range.low, self.bytes.as_ref().get(part)?))
        });
        Slices::new(pieces.collect())
    }

    /// Where the bytes at `at` lie in the core file: as many as one segment holds, at most `limit`.
    fn held(&self, at: Addr, limit: usize) -> Option<Range<usize>> {
        let next = self.segments.partition_point(|segment| segment.range.low <= at);
        let segment = self.segments.get(next.checked_sub(1)?)?;
        let into = at.0 - segment.range.low.0;
        let left = segment.held.checked_sub(into).filter(|left| *left > 0)?;
        let length = usize::try_from(left).map_or(limit, |left| left.min(limit));
        let start = usize::try_from(segment.offset.checked_add(into)?).ok()?;
        Some(start..start.checked_add(length)?)
    }

    /// Copies from the core file. If that was shortened since it was opened, what it lost is unreadable, not zero.
    fn copy(&self, part: Range<usize>, into: &mut [u8]) -> Option<()> {
        into.copy_from_slice(self.bytes.as_ref().get(part.clone())?);
        let is_lost = self.bytes.shrank() && self.file.metadata().map_or(0, |now| now.len()) < part.end as u64;
        (!is_lost).then_some(())
    }

    /// The bytes at `at` that the file supplied for the mapping there has, at most `limit`.
    fn of_file(&self, at: Addr, limit: usize) -> Option<&[u8]> {
        let next = self.mappings.partition_point(|mapping| mapping.range.low <= at);
        let index = next.checked_sub(1)?;
        let mapping = self.mappings.get(index).filter(|mapping| mapping.range.contains(at))?;
        let Supplied(content) = self.supplied.get(index)?.as_ref()?;
        let start = mapping.file()?.offset.checked_add(at.0 - mapping.range.low.0)?;
        let content = (**content).as_ref().get(usize::try_from(start).ok()?..)?;
        let left = usize::try_from(mapping.range.high.0 - at.0).map_or(limit, |left| left.min(limit));
        content.get(..left.min(content.len())).filter(|part| !part.is_empty())
    }

    /// The parts of `segment` within `range` that the file stores, without holes.
    fn stored(&self, segment: &Segment, range: AddrRange) -> Vec<AddrRange> {
        let held = AddrRange::new(segment.range.low, Addr(segment.range.low.0.saturating_add(segment.held)));
        let Some(part) = held.intersection(range) else { return Vec::new() };
        let to_offset = |at: Addr| segment.offset + (at.0 - segment.range.low.0);
        let (mut from, end) = (to_offset(part.low), to_offset(part.high));
        let mut stored = Vec::new();
        while from < end {
            let Some((start, stop)) = self.next_data(from, end) else { break };
            let low = Addr(segment.range.low.0 + (start - segment.offset));
            stored.push(AddrRange::new(low, low.offset((stop - start) as i64)));
            from = stop;
        }
        stored
    }

    /// The next part of the file from `from` on that is no hole (lseek(2)).
    fn next_data(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let seek = |at: u64, whence| lseek(&self.file, at.try_into().map_err(|_| Errno::EOVERFLOW)?, whence);
        match seek(from, Whence::SeekData) {
            Ok(start) => {
                let start = u64::try_from(start).ok().filter(|start| *start < end)?;
                let stop = seek(start, Whence::SeekHole).map_or(end, |stop| stop as u64);
                Some((start, stop.clamp(start + 1, end)))
            }
            Err(Errno::ENXIO) => None,
            // The file system has no holes.
            Err(_) => Some((from, end)),
        }
    }
}

impl Memory for Core {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut done = 0;
        while done < into.len() {
            let here = at.0.checked_add(done as u64).map(Addr).ok_or(Unreadable { at })?;
            let rest = &mut into[done..];
            done += match self.held(here, rest.len()) {
                Some(part) => {
                    let length = part.len();
                    self.copy(part, &mut rest[..length]).ok_or(Unreadable { at })?;
                    length
                }
                None => {
                    let part = self.of_file(here, rest.len()).ok_or(Unreadable { at })?;
                    rest[..part.len()].copy_from_slice(part);
                    part.len()
                }
            };
        }
        Ok(())
    }
}

impl Target for Core {
    fn arch(&self) -> &'static Arch {
        self.arch
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn threads(&self) -> &[Thread] {
        &self.threads
    }

    fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// A page that is not all zero was written to. Pages of files that the program could not write to are left out.
    fn pages(&self, range: AddrRange) -> Result<Pages, PagesUnknown> {
        let mut runs = Runs::default();
        for segment in self.segments.iter().filter(|segment| segment.access.write) {
            for stored in self.stored(segment, range) {
                let mut low = stored.low.align_down(PAGE).max(segment.range.low);
                while low < stored.high {
                    // The last page of the address space has no address after it.
                    let next = low.0.checked_add(PAGE).map_or(segment.range.high, |next| Addr(next).align_down(PAGE));
                    let page = AddrRange::new(low, next.min(segment.range.high));
                    let part = self.held(low, page.len() as usize).ok_or(PagesUnknown)?;
                    if self.bytes.as_ref().get(part).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)) {
                        runs.add(page, PageState::Touched);
                    }
                    low = page.high;
                }
            }
        }
        Ok(runs.finish(false))
    }
}

/// Files are searched for where the core file says they were, on this machine or in a folder that stands for the other
/// one. None is known to be the same: compare build-ids.
impl Files for Core {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        let file = mapping.file().ok_or(io::ErrorKind::NotFound)?;
        self.elsewhere.open_mapped(&file.path, self.program.as_ref() == Some(&file.path))
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        self.elsewhere.open(path)
    }
}

#[cfg(test)]
mod tests;
