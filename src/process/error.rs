//! Why a target can't be opened or stopped.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::live::permission::Refusal;
use crate::process::live::procfs::{self, Status};

/// Why a process or a core file can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoProcess {
        /// What was asked for.
        pid: i32,
    },
    /// The kernel forbids it. What to do about it is part of `LookError`.
    #[error("process {pid} may not be looked at: {why}")]
    NoPermission {
        /// What was asked for.
        pid: i32,
        /// The reason.
        why: Refusal,
    },
    /// It has ended.
    #[error("process {pid} has ended; it is a zombie until its parent, process {parent}, collects its exit status")]
    Zombie {
        /// What was asked for.
        pid: i32,
        /// The process that has to collect it.
        parent: i32,
    },
    /// It is a thread of the kernel.
    #[error("process {pid} ({name}) is a thread of the kernel and has no stack of a program")]
    KernelThread {
        /// What was asked for.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// It is a 32-bit program.
    #[error("process {pid} runs a 32-bit program; only 64-bit ones can be looked at")]
    Narrow {
        /// What was asked for.
        pid: i32,
    },
    /// Its program is made for a CPU that is not known here.
    #[error("process {pid} runs a program for {}; only x86_64 and aarch64 are known", machine_name(*machine))]
    OtherCpu {
        /// What was asked for.
        pid: i32,
        /// `e_machine` of its program.
        machine: u16,
    },
    /// Another program traces it, and there can be only one.
    #[error("process {pid} is traced by process {tracer}{}; let that one detach first", in_brackets(tracer_name))]
    OtherTracer {
        /// What was asked for.
        pid: i32,
        /// Who traces it.
        tracer: i32,
        /// The tracer's name.
        tracer_name: Option<String>,
    },
    /// It is our own process, which can't stop itself: [`crate::snapshot_self`] looks at it.
    #[error("process {pid} is this process itself, which can't be stopped from within")]
    Ourselves {
        /// Our own number.
        pid: i32,
    },
    /// It is the number of a thread.
    #[error("{tid} is a thread, not a process; its process is {process}")]
    ThreadNumber {
        /// What was asked for.
        tid: i32,
        /// The process that it belongs to.
        process: i32,
    },
    /// A file of the process in `/proc` can't be read, for none of the reasons above.
    #[error("cannot read {} of process {pid}", path.display())]
    Proc {
        /// What was asked for.
        pid: i32,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The core file can't be opened or read.
    #[error("cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("{} is {what}, not a core file", path.display())]
    NotAFile {
        /// What was asked for.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// It is empty.
    #[error("{} is empty: the core file was never written, often for want of space or by a limit", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is compressed.
    #[error("{} is compressed with {format}; unpack it first: {command}", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The compression's name.
        format: &'static str,
        /// What unpacks it.
        command: String,
    },
    /// It is an ELF file of another kind.
    #[error("{} is {what}, not a core file", path.display())]
    OtherElf {
        /// The file.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// It is a dump of another kind.
    #[error("{} is {what}, not a core file of a process: {remedy}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
        /// What to do with it.
        remedy: &'static str,
    },
    /// It is no ELF file.
    #[error("{} is not a core file: it does not begin as an ELF file does", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// It ends within the ELF header.
    #[error("{} ends after {length} bytes, within the ELF header: nothing in it can be read", path.display())]
    HeaderCut {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// It is the core file of a 32-bit program.
    #[error("{} is the core file of a 32-bit program; only 64-bit ones can be looked at", path.display())]
    NarrowCore {
        /// The file.
        path: PathBuf,
    },
    /// It is a core file of a CPU that is not known here.
    #[error("{} is a core file of {}; only x86_64 and aarch64 are known", path.display(), machine_name(*machine))]
    CoreOfOtherCpu {
        /// The file.
        path: PathBuf,
        /// `e_machine` of its header.
        machine: u16,
    },
}

/// Why a process can't be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It has ended since it was opened.
    #[error("process {pid} has ended")]
    Ended {
        /// The process.
        pid: i32,
    },
    /// Another program traces one of its threads.
    #[error("thread {tid} of process {pid} is traced by process {tracer}; let that one detach first")]
    OtherTracer {
        /// The process.
        pid: i32,
        /// Its thread.
        tid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// The kernel forbids it.
    #[error("process {pid} may not be stopped: {why}")]
    NoPermission {
        /// The process.
        pid: i32,
        /// The reason.
        why: Refusal,
    },
    /// The kernel delays us, as it does while the program is being replaced by `execve`.
    #[error("the kernel did not let us stop process {pid} within {limit:?}")]
    Blocked {
        /// The process.
        pid: i32,
        /// How long we waited.
        limit: Duration,
    },
    /// The thread that was to stop it could not be started.
    #[error("cannot start the thread that stops the process")]
    NoTracerThread(#[source] io::Error),
    /// The thread that was to stop it ended without an answer; with it, every stop has ended.
    #[error("the thread that stops process {pid} ended early")]
    TracerDied {
        /// The process.
        pid: i32,
    },
    /// After an `execve` it is a program that can't be looked at.
    #[error("the program was replaced")]
    Replaced(#[source] OpenError),
}

/// Why there is no look at a target: it can't be opened, or it can't be stopped.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
}

impl LookError {
    /// What to do about it, if the kernel forbids the look.
    pub fn remedy(&self) -> Option<String> {
        match self {
            LookError::Open(OpenError::NoPermission { pid, why })
            | LookError::Stop(StopError::NoPermission { pid, why }) => Some(why.remedy(*pid)),
            _ => None,
        }
    }

    /// Whether it only says that the process is no more.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            LookError::Open(OpenError::NoProcess { .. } | OpenError::Zombie { .. })
                | LookError::Stop(StopError::Ended { .. })
        )
    }
}

impl StopError {
    /// Why thread `tid` of `pid` could not be seized.
    pub(super) fn of_refused_thread(pid: i32, tid: i32, directory: &Path) -> StopError {
        match tracer(directory) {
            Some(tracer) => StopError::OtherTracer { pid, tid, tracer },
            None => StopError::NoPermission { pid, why: Refusal::of(pid) },
        }
    }
}

/// Who traces the process or thread of this `/proc` directory.
pub(super) fn tracer(directory: &Path) -> Option<i32> {
    let tracer = Status::read(directory).ok()?.number("TracerPid")?;
    i32::try_from(tracer).ok().filter(|tracer| *tracer != 0)
}

/// A process's name, for a message.
pub(super) fn name(pid: i32) -> Option<String> {
    procfs::thread_name(pid, pid)
}

fn in_brackets(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(" ({name})"))
}

/// The usual name of an `e_machine`, or its number.
fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "i386",
        8 => "MIPS",
        20 => "32-bit PowerPC",
        21 => "64-bit PowerPC",
        22 => "s390",
        40 => "32-bit Arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => return format!("CPU number {machine}"),
    };
    name.to_owned()
}
