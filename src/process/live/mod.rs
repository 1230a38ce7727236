//! A live process, looked at from outside.
//!
//! Opening it checks whether it can be looked at and says why not; it stops nothing. [`Live::stop`] does, for a moment.

pub(in crate::process) mod facts;
mod limit;
pub(in crate::process) mod maps;
pub(in crate::process) mod memory;
pub(in crate::process) mod overlay;
pub(in crate::process) mod pagemap;
pub(in crate::process) mod permission;
pub(in crate::process) mod procfs;
pub(in crate::process) mod remote;
pub(in crate::process) mod touched;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{Pages, PagesUnknown, Process, Source, auxv, error, files};
use crate::addr::AddrRange;
use crate::arch::Arch;
use crate::image::{Bytes, Files, Opened};
use crate::mapping::Mapping;
use crate::process::error::OpenError;
use crate::process::trace::line::Line;
use pagemap::Pagemap;
use procfs::{Stat, Status};

pub use facts::{Facts, signal_frame};
pub use overlay::{Kept, Overlay};
pub use pagemap::PageScan;
pub use permission::Refusal;
pub use procfs::program;
pub use remote::RemoteMemory;
pub use touched::TouchedCopy;

/// How often a process that looks dead is looked at again.
const OPEN_TRIES: usize = 8;

/// A process that runs, and may be stopped for a look.
#[derive(Debug)]
pub struct Live {
    process: Process,
    arch: &'static Arch,
    /// A thread that lived when the process was opened: `/proc` shows no memory by a first thread that has ended.
    witness: i32,
    /// Who stops it, if it is followed: a thread has one tracer.
    followed: Option<Line>,
}

impl Live {
    /// Opens process `pid`. Nothing is stopped, and nothing about the process changes.
    ///
    /// # Errors
    /// Each reason why it cannot be looked at is a variant of its own; [`super::LookError::remedy`] says what to do
    /// about it.
    pub fn open(pid: i32) -> Result<Live, OpenError> {
        if pid == std::process::id() as i32 {
            return Err(OpenError::Ourselves { pid });
        }
        let mut tries = 0;
        loop {
            match check(pid).and_then(|witness| Live::of_witness(pid, witness)) {
                // In the middle of an `execve`, while a thread takes the first one's number, a living process looks
                // dead.
                Err(OpenError::NoProcess { .. } | OpenError::Zombie { .. } | OpenError::Proc { .. })
                    if tries < OPEN_TRIES && procfs::stat(&procfs::directory(pid)).is_some() =>
                {
                    tries += 1;
                    std::thread::yield_now();
                }
                opened => return opened,
            }
        }
    }

    /// Opens a process that we follow by `line`; that we trace it is no reason to refuse it.
    pub(super) fn followed(pid: i32, line: Line) -> Result<Live, OpenError> {
        let live = Live::of_witness(pid, living_thread(pid).ok_or(OpenError::NoProcess { pid })?)?;
        Ok(Live { followed: Some(line), ..live })
    }

    /// Reads what changes when the program is replaced by `execve`.
    fn of_witness(pid: i32, witness: i32) -> Result<Live, OpenError> {
        let directory = procfs::directory(witness);
        check_access(pid, &directory)?;
        let arch = program_arch(pid, &directory)?;
        let process = Process { pid, command: procfs::command(&directory), source: Source::Live };
        Ok(Live { process, arch, witness, followed: None })
    }

    /// The same process after its program was replaced.
    pub(super) fn reopen(&self) -> Result<Live, OpenError> {
        let pid = self.process.pid;
        let live = Live::of_witness(pid, living_thread(pid).unwrap_or(pid))?;
        Ok(Live { followed: self.followed.clone(), ..live })
    }

    /// Which process it is.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The CPU that its program is made for.
    pub fn arch(&self) -> &'static Arch {
        self.arch
    }

    /// Its memory map as it is now, sorted by address. Empty once the process has ended.
    pub fn mappings(&self) -> io::Result<Vec<Mapping>> {
        maps::read(&self.directory())
    }

    /// Its memory, read while it runs: what is read may change in the next moment.
    pub fn memory(&self) -> RemoteMemory {
        RemoteMemory::of_thread(self.living_thread())
    }

    /// Whether a filter of system calls watches it that does not watch us as well.
    pub fn is_filtered(&self) -> bool {
        let filters = |directory: &Path| Some(Status::read(directory).ok()?.number("Seccomp_filters").unwrap_or(0));
        filters(&self.directory()) != filters(Path::new("/proc/self"))
    }

    /// Which pages of `range` in these mappings hold something now: in the next moment there may be more.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn pages(&self, range: AddrRange, mappings: &[Mapping]) -> Result<Pages, PagesUnknown> {
        let pagemap = Pagemap::open(&self.directory()).map_err(|_| PagesUnknown)?;
        pagemap.pages(range, mappings, &self.memory()).map_err(|_| PagesUnknown)
    }

    /// The auxiliary vector that the kernel passed to the program (getauxval(3)); empty if it can't be read.
    pub fn auxv(&self) -> Vec<u8> {
        auxv::read(&self.directory())
    }

    /// The content of the file at `path`, as the process sees it, if that is one of those that `mappings` show.
    ///
    /// # Errors
    /// It is none of them, or can't be opened.
    pub(crate) fn open_if_mapped(&self, path: &Path, mappings: &[Mapping]) -> io::Result<Bytes> {
        match mappings.iter().find(|mapping| mapping.file().is_some_and(|file| file.path == path)) {
            Some(mapping) => Ok(files::open_mapped(&self.directory(), mapping)?.bytes),
            None => files::open_if_mapped(&self.directory(), path, mappings),
        }
    }

    /// Whether the files that it has mapped are those that we find at their paths.
    pub(crate) fn files_are_ours(&self) -> bool {
        let is_gone = |mapping: &Mapping| mapping.file().is_some_and(|file| file.deleted) && !mapping.is_memory();
        files::sees_as_we_do(&self.directory()) && !self.mappings().unwrap_or_default().iter().any(is_gone)
    }

    /// The limit of the main stack's size in bytes (`RLIMIT_STACK`); `None` if there is none or it can't be read.
    pub fn stack_limit(&self) -> Option<u64> {
        procfs::stack_limit(&self.directory())
    }

    /// By whom it is stopped, if it is followed: a thread has one tracer.
    pub(super) fn line(&self) -> Option<&Line> {
        self.followed.as_ref()
    }

    /// The `/proc` directory through which the process's memory and files are seen.
    pub(super) fn directory(&self) -> PathBuf {
        procfs::directory(self.living_thread())
    }

    /// The witness, or another thread if that one has ended.
    pub(super) fn living_thread(&self) -> i32 {
        let lives = procfs::stat(&procfs::thread_directory(self.process.pid, self.witness))
            .is_some_and(|stat| !stat.has_ended());
        if lives { self.witness } else { living_thread(self.process.pid).unwrap_or(self.witness) }
    }
}

impl Files for Live {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        files::open_mapped(&self.directory(), mapping)
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        files::open(&self.directory(), path)
    }

    fn open_ours(&self, path: &Path) -> io::Result<Bytes> {
        match files::sees_as_we_do(&self.directory()) {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(files::open_plain(path)?.bytes),
        }
    }

    fn pid(&self) -> Option<u32> {
        Status::read(&self.directory()).ok()?.own_pid()
    }
}

/// Checks that `pid` is a process of a program; returns a living thread of it.
fn check(pid: i32) -> Result<i32, OpenError> {
    let directory = procfs::directory(pid);
    let (Ok(status), Some(stat)) = (Status::read(&directory), procfs::stat(&directory)) else {
        return Err(missing(pid));
    };
    match status.number("Tgid").and_then(|process| i32::try_from(process).ok()) {
        Some(process) if process != pid => return Err(OpenError::ThreadNumber { tid: pid, process }),
        _ => {}
    }
    if stat.is_kernel_thread() {
        return Err(OpenError::KernelThread { pid, name: error::name(pid).unwrap_or_default() });
    }
    let witness = living_thread(pid).ok_or_else(|| ended(pid, stat))?;
    match error::tracer(&procfs::thread_directory(pid, witness)) {
        Some(tracer) => Err(OpenError::OtherTracer { pid, tracer, tracer_name: error::name(tracer) }),
        None => Ok(witness),
    }
}

/// Why there is no `/proc/PID`.
fn missing(pid: i32) -> OpenError {
    match kill(Pid::from_raw(pid), None) {
        Ok(()) | Err(Errno::EPERM) if pid > 0 => OpenError::NoPermission { pid, why: Refusal::Hidden },
        _ => OpenError::NoProcess { pid },
    }
}

fn ended(pid: i32, stat: Stat) -> OpenError {
    match stat.has_ended() {
        true => OpenError::Zombie { pid, parent: stat.parent },
        // It ended between the two checks.
        false => OpenError::NoProcess { pid },
    }
}

/// The first thread, or another one if that has ended.
pub(super) fn living_thread(pid: i32) -> Option<i32> {
    let lives = |tid: &i32| procfs::stat(&procfs::thread_directory(pid, *tid)).is_some_and(|stat| !stat.has_ended());
    lives(&pid).then_some(pid).or_else(|| procfs::threads(pid).ok()?.into_iter().find(lives))
}

/// To open a process's memory, the kernel makes the same check as for attaching, except for filters of system calls.
fn check_access(pid: i32, directory: &Path) -> Result<(), OpenError> {
    let path = directory.join("mem");
    match File::open(&path) {
        Ok(_) if facts::ptrace_is_filtered() => Err(OpenError::NoPermission { pid, why: Refusal::Seccomp }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(OpenError::NoPermission { pid, why: Refusal::of(pid) })
        }
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            Err(OpenError::NoProcess { pid })
        }
        Err(source) => Err(OpenError::Proc { pid, path, source }),
    }
}

/// The CPU by the ELF header of the program.
fn program_arch(pid: i32, directory: &Path) -> Result<&'static Arch, OpenError> {
    let path = directory.join("exe");
    let mut header = [0; 20];
    let read = File::open(&path).and_then(|mut program| program.read_exact(&mut header));
    match read {
        Ok(()) => {}
        // A file system may refuse even root, as FUSE does: then the program is taken for one of this machine.
        Err(_) if fs::symlink_metadata(&path).is_ok() => return Ok(own_arch()),
        Err(source) => return Err(OpenError::Proc { pid, path, source }),
    }
    const CLASS_64: u8 = 2;
    if header[4] != CLASS_64 {
        return Err(OpenError::Narrow { pid });
    }
    let machine = u16::from_le_bytes([header[18], header[19]]);
    Arch::of_elf_machine(machine).ok_or(OpenError::OtherCpu { pid, machine })
}

/// The CPU that we are made for.
pub(super) fn own_arch() -> &'static Arch {
    if cfg!(target_arch = "aarch64") { &crate::arch::AARCH64 } else { &crate::arch::X86_64 }
}
