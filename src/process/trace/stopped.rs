//! A process that stands still, and what is left of it after it was let go.

use std::fmt;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::errand::{Errand, ErrandError};
use super::hold::{Held, Hold};
use super::tracer;
use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::mapping::{Mapping, mapping_at};
use crate::memory::{Memory, Unreadable};
use crate::process::error::StopError;
use crate::process::live::overlay::{Kept, Overlay};
use crate::process::live::pagemap::Pagemap;
use crate::process::live::remote::RemoteMemory;
use crate::process::live::touched::TouchedCopy;
use crate::process::live::{Live, memory, procfs};
use crate::process::{Pages, PagesUnknown, Process, Target, Thread, auxv};
use crate::registers::Registers;

/// Up to how many mappings a changed map is read again while the program stands: about 2 ms' worth.
/// A larger one is read again as soon as it runs on.
const MAPPINGS_READ_IN_STOP: usize = 4096;

/// A process whose threads stand still. Dropping it lets them go on.
pub struct Stopped<'live> {
    hold: Box<dyn Hold>,
    live: Seen<'live>,
    threads: Vec<Thread>,
    all_seen: bool,
    mappings: Arc<[Mapping]>,
    /// Whether `mappings` is older than the stop and known to differ from the map in it.
    map_is_old: bool,
    memory: Overlay,
    /// The `/proc` directory of a thread that stands still.
    directory: PathBuf,
    /// Opened when first asked for, so that it is of the program that runs in the stop.
    pagemap: OnceLock<Option<Pagemap>>,
}

/// What is kept of a process that was stopped and runs on.
#[derive(Debug)]
pub struct Released {
    /// From the moment the first thread was asked to stop until the last one was let go.
    pub stopped_for: Duration,
    /// Which process it was in the stop.
    pub process: Process,
    /// Its CPU.
    pub arch: &'static Arch,
    /// Its threads as they were.
    pub threads: Vec<Thread>,
    /// Its memory map.
    pub mappings: Arc<[Mapping]>,
    /// The memory that was read in the stop.
    pub memory: Kept,
    /// `None` if the kernel did not show it.
    pagemap: Option<Pagemap>,
}

/// A process's map as it was before a stop, and what shows whether it still holds. A large one takes long to read.
#[derive(Clone, Debug)]
pub struct KnownMap {
    before: Fingerprint,
    mappings: Arc<[Mapping]>,
}

impl KnownMap {
    fn read(live: &Live) -> KnownMap {
        let before = Fingerprint::take(&live.directory());
        KnownMap { before, mappings: live.mappings().unwrap_or_default().into() }
    }

    /// Whether it is better read again before a stop: a large one only where it has changed.
    fn is_worth_reading_again(&self, live: &Live) -> bool {
        self.mappings.len() <= MAPPINGS_READ_IN_STOP || Fingerprint::take(&live.directory()) != self.before
    }

    /// The mappings, sorted by address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
}

impl Live {
    /// Stops all its threads, waiting at most `limit` for the last one. They go on when the result is dropped.
    ///
    /// No signal is sent and none is lost, a program that is stopped already stays so, and if we are killed meanwhile the
    /// kernel lets it go on. Only what every stop does to a program shows: a few system calls return early with `EINTR`
    /// (signal(7), "Interruption of system calls … by stop signals").
    ///
    /// # Errors
    /// A thread that cannot be stopped in time is no error: it is listed with the reason.
    pub fn stop(&self, limit: Duration) -> Result<Stopped<'_>, StopError> {
        self.stop_as_mapped(self.known_map(), limit)
    }

    /// The same with a map that was read shortly before.
    ///
    /// # Errors
    /// As [`Live::stop`].
    pub fn stop_as_mapped(&self, map: KnownMap, limit: Duration) -> Result<Stopped<'_>, StopError> {
        let (pid, arch) = (self.process().pid, self.arch());
        Stopped::held_by(self, map, || match self.line() {
            Some(line) => line.stop(pid, arch, limit),
            None => {
                let (tracer, held) = tracer::stop(pid, arch, limit)?;
                Ok((Box::new(tracer) as Box<dyn Hold>, held))
            }
        })
    }

    /// Its memory map as it is now, for a stop soon.
    pub fn known_map(&self) -> KnownMap {
        KnownMap::read(self)
    }

    /// The same where `earlier` was read a moment ago.
    pub fn known_map_after(&self, earlier: &KnownMap) -> KnownMap {
        if earlier.is_worth_reading_again(self) { self.known_map() } else { earlier.clone() }
    }
}

/// The process as it was opened, or, after an `execve`, as it is now.
enum Seen<'live> {
    AsOpened(&'live Live),
    Replaced(Box<Live>),
}

impl Deref for Seen<'_> {
    type Target = Live;

    fn deref(&self) -> &Live {
        match self {
            Seen::AsOpened(live) => live,
            Seen::Replaced(live) => live,
        }
    }
}

impl<'live> Stopped<'live> {
    /// The process as `stop` stops it. The stop only checks that the map still holds.
    fn held_by(
        live: &'live Live,
        map: KnownMap,
        stop: impl FnOnce() -> Result<(Box<dyn Hold>, Held), StopError>,
    ) -> Result<Stopped<'live>, StopError> {
        let KnownMap { before, mappings } = map;
        let (hold, held) = stop()?;
        let witness = living_thread(&held.threads, live);
        let mut stopped = Stopped {
            hold,
            memory: Overlay::new(RemoteMemory::of_thread(witness)),
            directory: procfs::directory(witness),
            live: Seen::AsOpened(live),
            threads: held.threads,
            all_seen: held.all_seen,
            mappings,
            map_is_old: false,
            pagemap: OnceLock::new(),
        };
        stopped.refresh(&before)?;
        Ok(stopped)
    }

    /// Brings the map up to date if it changed since `before`.
    fn refresh(&mut self, before: &Fingerprint) -> Result<(), StopError> {
        let now = Fingerprint::take(&self.directory);
        let replaced = now.program != before.program;
        if replaced {
            self.live = Seen::Replaced(Box::new(self.live.reopen().map_err(StopError::Replaced)?));
        }
        if !replaced && now == *before && self.map_holds_all_threads() {
            return Ok(());
        }
        if !replaced && self.mappings.len() > MAPPINGS_READ_IN_STOP {
            self.map_is_old = true;
            return Ok(());
        }
        self.mappings = self.live.mappings().unwrap_or_default().into();
        Ok(())
    }

    /// A program counter or a stack pointer outside the map is a sign of a new mapping that replaced an old one of its
    /// size.
    fn map_holds_all_threads(&self) -> bool {
        let arch = self.live.arch();
        let places = self.threads.iter().filter_map(|thread| thread.registers.as_ref().ok());
        let mut places = places.flat_map(|registers| [registers.addr(arch.pc), registers.addr(arch.sp)]);
        places.all(|place| place.is_none_or(|place| mapping_at(&self.mappings, place).is_some()))
    }

    /// Whether it is certain that every thread is listed. A program that starts threads faster than they can be found,
    /// for as long as the limit lasts, may have more.
    pub fn all_threads_seen(&self) -> bool {
        self.all_seen
    }

    /// The memory; [`Overlay::prefetch`] reads much of it at once.
    pub fn overlay(&self) -> &Overlay {
        &self.memory
    }

    /// Fills `copy` with all memory that was ever touched, and returns the pages of all memory.
    ///
    /// # Errors
    /// If the kernel does not show which pages those are.
    pub fn copy_touched(&self, copy: &mut TouchedCopy) -> Result<Pages, PagesUnknown> {
        let pagemap = self.pagemap.get_or_init(|| Pagemap::open(&self.directory).ok());
        let pagemap = pagemap.as_ref().ok_or(PagesUnknown)?;
        let (mappings, source) = (&*self.mappings, self.memory.source());
        copy.fill(source, mappings, &|range| pagemap.pages(range, mappings, source).map_err(|_| PagesUnknown))
    }

    /// Has one of its threads make system calls, which change nothing of where it is.
    ///
    /// # Errors
    /// Nothing was done, unless the thread ended meanwhile.
    pub fn run(&self, errand: Errand) -> Result<(), ErrandError> {
        self.hold.run(errand)
    }

    /// Writes to its memory, also where the program itself may only read; returns whether all was written.
    ///
    /// Only what no thread is in the middle of may be changed.
    pub fn write(&self, parts: &[(Addr, Vec<u8>)]) -> bool {
        memory::write(living_thread(&self.threads, &self.live), parts)
    }

    /// Lets `change` change what is known of the threads' registers; their own stay as they are.
    pub fn change_registers(&mut self, change: impl Fn(&mut Registers)) {
        self.threads.iter_mut().filter_map(|thread| thread.registers.as_mut().ok()).for_each(change);
    }

    /// Lets the process go on, and keeps what was read of it.
    pub fn release(mut self) -> Released {
        let stopped_for = self.hold.let_go();
        let mappings = match self.map_is_old {
            true => self.live.mappings().map_or(self.mappings, Arc::from),
            false => self.mappings,
        };
        let directory = self.live.directory();
        let pagemap = self.pagemap.into_inner().unwrap_or_else(|| Pagemap::open(&directory).ok());
        Released {
            stopped_for,
            process: self.live.process().clone(),
            arch: self.live.arch(),
            threads: self.threads,
            mappings,
            memory: self.memory.into_kept(),
            pagemap,
        }
    }
}

impl Memory for Stopped<'_> {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.memory.read(at, into)
    }

    #[inline]
    fn read_u64(&self, at: Addr) -> Result<u64, Unreadable> {
        self.memory.read_u64(at)
    }
}

impl Target for Stopped<'_> {
    fn arch(&self) -> &'static Arch {
        self.live.arch()
    }

    fn process(&self) -> &Process {
        self.live.process()
    }

    fn threads(&self) -> &[Thread] {
        &self.threads
    }

    fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    fn pages(&self, range: AddrRange) -> Result<Pages, PagesUnknown> {
        let pagemap = self.pagemap.get_or_init(|| Pagemap::open(&self.directory).ok());
        let pagemap = pagemap.as_ref().ok_or(PagesUnknown)?;
        pagemap.pages(range, &self.mappings, &self.memory).map_err(|_| PagesUnknown)
    }
}

impl fmt::Debug for Stopped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stopped({}, {} threads)", self.live.process().pid, self.threads.len())
    }
}

impl Released {
    /// Which pages of `range` hold something by now: the process runs on, and may have touched more since the stop.
    ///
    /// # Errors
    /// If the kernel does not show them, or the process has ended.
    pub fn pages(&self, range: AddrRange) -> Result<Pages, PagesUnknown> {
        let pagemap = self.pagemap.as_ref().ok_or(PagesUnknown)?;
        pagemap.pages(range, &self.mappings, &self.memory).map_err(|_| PagesUnknown)
    }
}

impl Memory for Released {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.memory.read(at, into)
    }
}

/// What nearly always differs when a process's map does.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fingerprint {
    /// Sizes in pages: of all mappings, of code, of data (proc(5), `statm`).
    sizes: Vec<u8>,
    /// The auxiliary vector: an `execve` puts other addresses in it.
    program: Vec<u8>,
}

impl Fingerprint {
    fn take(directory: &Path) -> Fingerprint {
        let statm = fs::read(directory.join("statm")).unwrap_or_default();
        let words = statm.split(u8::is_ascii_whitespace);
        // The second and third word count pages in memory, which come and go in an unchanged map.
        let sizes = words
            .enumerate()
            .filter(|(index, _)| matches!(index, 0 | 3 | 5))
            .flat_map(|(_, word)| [word, b" "].concat());
        Fingerprint { sizes: sizes.collect(), program: auxv::read(directory) }
    }
}

fn living_thread(threads: &[Thread], live: &Live) -> i32 {
    let stopped = threads.iter().find(|thread| thread.registers.is_ok());
    stopped.map_or_else(|| live.living_thread(), |thread| thread.tid)
}
