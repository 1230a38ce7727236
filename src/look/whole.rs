//! A snapshot with all that a core file needs: the registers of every context, and the memory of the same moment.
//!
//! A [`Whole`] writes a core file with one thread for each context, so that debuggers, which know only
//! threads, show every coroutine. A context without a thread gets a made-up number: [`process::FIRST_MADE_UP_TID`] and
//! the number of its stack. Memory shared with other processes is not in it, nor what the files still hold.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::addr::{Addr, PAGE};
use crate::mapping::{Mapping, Origin};
use crate::memory::{Memory, Slices};
use crate::process::{self, Core, CoreContent, CoreThread, Live, Target, Thread, TouchedCopy};
use crate::snapshot::Snapshot;

/// A mapping longer than this, in bytes, is not the kernel's own code.
const LONGEST_VDSO: u64 = 64 << 10;

/// A snapshot of which a core file can be written.
#[derive(Debug)]
pub struct Whole<'t> {
    /// The snapshot; its stacks have their registers.
    pub snapshot: Arc<Snapshot>,
    threads: Vec<Thread>,
    mappings: Arc<[Mapping]>,
    auxv: Vec<u8>,
    siginfo: Option<Vec<u8>>,
    memory: Kind<'t>,
}

/// Where the memory is.
#[derive(Debug)]
enum Kind<'t> {
    Copied { copy: Option<TouchedCopy>, pages: Vec<(Addr, Vec<u8>)> },
    Core(&'t Core),
}

/// What a look keeps for a core file.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) copy: Option<TouchedCopy>,
    pub(super) mappings: Arc<[Mapping]>,
    pub(super) threads: Vec<Thread>,
}

/// Why there is no core file.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// What is in use of the program's memory is not known, so it was not copied.
    #[error("the kernel does not show which pages of the program are in use, so its memory was not copied")]
    NoCopy,
    /// The file can't be written.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The pages that nobody wrote to and that debuggers still need: the first one of each file, and the kernel's code.
fn first_pages(mappings: &[Mapping], memory: &dyn Memory) -> Vec<(Addr, Vec<u8>)> {
    let wanted = mappings.iter().filter_map(|mapping| match &mapping.origin {
        Origin::File(file) if file.offset == 0 => Some((mapping.range.low, PAGE.min(mapping.range.len()))),
        Origin::Vdso => Some((mapping.range.low, mapping.range.len().min(LONGEST_VDSO))),
        _ => None,
    });
    let read = wanted.filter_map(|(at, length)| {
        let mut bytes = vec![0; length as usize];
        memory.read(at, &mut bytes).ok()?;
        bytes.starts_with(b"\x7fELF").then_some((at, bytes))
    });
    read.collect()
}

impl<'t> Whole<'t> {
    pub(super) fn of_live(live: &Live, snapshot: Snapshot, remains: Remains) -> Whole<'static> {
        let pages = first_pages(&remains.mappings, &live.memory());
        Whole {
            snapshot: Arc::new(snapshot),
            threads: remains.threads,
            mappings: remains.mappings,
            auxv: live.auxv(),
            siginfo: None,
            memory: Kind::Copied { copy: remains.copy, pages },
        }
    }

    pub(super) fn of_core(core: &'t Core, snapshot: Snapshot) -> Whole<'t> {
        Whole {
            snapshot: Arc::new(snapshot),
            threads: core.threads().to_vec(),
            mappings: core.mappings().into(),
            auxv: core.auxv().to_vec(),
            siginfo: core.siginfo().map(<[u8]>::to_vec),
            memory: Kind::Core(core),
        }
    }

    /// Writes the core file, readable only by its owner; returns the number of its threads. `progress` gets the bytes
    /// written so far, and the bytes in all.
    ///
    /// # Errors
    /// [`SaveError`]. What was written of a file by then is left.
    pub fn write_core(&self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<usize, SaveError> {
        let memory = match &self.memory {
            Kind::Core(core) => core.everything(),
            Kind::Copied { copy, pages } => {
                let copied = copy.as_ref().ok_or(SaveError::NoCopy)?.slices();
                let pages = pages.iter().map(|(at, bytes)| (*at, bytes.as_slice()));
                // What was written to is in the copy already.
                let pages = pages.filter(|(at, _)| !copied.knows(*at));
                Slices::within(copied.iter().chain(pages).collect(), copied.known().to_vec())
            }
        };
        let content = CoreContent {
            arch: self.snapshot.arch,
            process: &self.snapshot.process,
            threads: self.threads(),
            mappings: &self.mappings,
            auxv: &self.auxv,
            siginfo: self.siginfo.as_deref(),
            memory,
        };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        file.and_then(|file| process::write_core(&file, &content, progress))
            .map_err(|error| SaveError::File { path: path.to_owned(), error })?;
        Ok(content.threads.len())
    }

    /// A thread for each context: first those that run, and of these the one that a signal ended.
    fn threads(&self) -> Vec<CoreThread> {
        let contexts = self.snapshot.stacks.iter().enumerate().filter_map(|(id, stack)| {
            let thread = stack.thread.and_then(|tid| self.threads.iter().find(|thread| thread.tid == tid));
            let made_up = process::FIRST_MADE_UP_TID.checked_add(i32::try_from(id).ok()?)?;
            Some(CoreThread {
                tid: stack.thread.unwrap_or(made_up),
                registers: stack.registers.as_deref()?.clone(),
                thread_pointer: thread.and_then(|thread| thread.thread_pointer),
                signal: thread.and_then(|thread| thread.signal),
            })
        });
        let mut threads: Vec<CoreThread> = contexts.collect();
        threads.sort_by_key(|thread| (thread.signal.is_none(), thread.tid >= process::FIRST_MADE_UP_TID));
        threads
    }
}
