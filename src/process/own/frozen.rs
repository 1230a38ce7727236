//! Our own process at one moment: all of its memory, and the registers of each of its threads.
//!
//! While the other threads stand still in a signal handler ([`super::capture`]), the kernel makes a copy of the
//! process, as `fork` does, in which nothing ever runs; then the threads go on. The copy is looked at like any other
//! process, for as long as that takes, and is ended when the [`Frozen`] is dropped. So no thread waits for more than
//! the copy of the page tables, nothing is allocated while one waits, and suspended coroutines are seen at the same
//! moment.

#![allow(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use findshlibs::{SharedLibrary, TargetSharedLibrary};
use nix::errno::Errno;

use super::this;
use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::image::{Bytes, Files, Opened};
use crate::mapping::Mapping;
use crate::memory::{Memory, Unreadable};
use crate::process::live::pagemap::Pagemap;
use crate::process::live::remote::RemoteMemory;
use crate::process::live::{self, maps, procfs};
use crate::process::own::capture::{Answer, Captured};
use crate::process::own::this::Words;
use crate::process::{NotStopped, Pages, PagesUnknown, Process, Source, Target, Thread, files};

/// Our own process as it was at one moment.
#[derive(Debug)]
pub struct Frozen {
    process: Process,
    threads: Vec<Thread>,
    mappings: Vec<Mapping>,
    images: Vec<AddrRange>,
    memory: RemoteMemory,
    copy: Still,
}

/// Why our own process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// `/proc` is not there or does not say what is needed, or no signal is free to ask the threads by.
    #[error("looking at our own process: {0}")]
    System(#[from] io::Error),
    /// There is not enough memory, or no further process is allowed.
    #[error("copying our own process for a look: {0}")]
    NoCopy(io::Error),
    /// The kernel lets nobody look at the copy: the process is set-user-ID or gave up being dumpable, or
    /// `kernel.yama.ptrace_scope` is above 1.
    #[error("our own copy may not be looked at (prctl(PR_SET_DUMPABLE), kernel.yama.ptrace_scope)")]
    Forbidden,
}

impl Frozen {
    /// Takes the moment, and calls `look` with a view of it. The calling thread's stack begins with the frame of this
    /// function.
    ///
    /// Threads that block the signal by which they are asked, or do not answer within half a second, are listed without
    /// registers. System calls that a thread was in are restarted if the kernel restarts them after a signal.
    ///
    /// # Errors
    /// [`FreezeError`].
    #[inline(never)]
    pub fn with<R>(look: impl FnOnce(&Frozen) -> R) -> Result<R, FreezeError> {
        let words = this::captured();
        let frozen = Frozen::take(&words)?;
        Ok(std::hint::black_box(look(&frozen)))
    }

    fn take(words: &Words) -> Result<Frozen, FreezeError> {
        let pid = std::process::id() as i32;
        let own = nix::unistd::gettid().as_raw();
        let images = images();
        let captured = Captured::prepare(pid, own)?;
        captured.ask(pid);
        let copy = Still::make();
        let answers = captured.release();
        let copy = copy?;

        let (registers, thread_pointer) = this::registers(words);
        let mut threads = vec![thread(pid, own, Ok(registers), Some(thread_pointer))];
        threads.extend(answers.into_iter().map(|(tid, answer)| match answer {
            Answer::Stood(registers, pointer) => thread(pid, tid, Ok(*registers), Some(pointer)),
            Answer::Blocked => thread(pid, tid, Err(NotStopped::SignalBlocked), None),
            Answer::Silent => thread(pid, tid, Err(NotStopped::TimedOut), None),
        }));
        // One that has ended since it was listed did not answer either.
        let living = procfs::threads(pid)?;
        threads.retain(|thread| thread.registers.is_ok() || living.contains(&thread.tid));
        threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
        let frozen = Frozen {
            process: Process { pid, command: procfs::command(Path::new("/proc/self")), source: Source::This },
            threads,
            mappings: maps::read(&copy.directory())?,
            images,
            memory: RemoteMemory::of_thread(copy.pid),
            copy,
        };
        let code = Addr(Frozen::take as *const () as u64);
        frozen.read(code, &mut [0]).map_err(|_| FreezeError::Forbidden)?;
        Ok(frozen)
    }

    /// Where the images lie that the loader knows of: the program, its libraries, and the kernel's.
    pub fn images(&self) -> &[AddrRange] {
        &self.images
    }

    /// The soft `RLIMIT_STACK` in bytes; `None` if it is unlimited or unknown.
    pub fn stack_limit(&self) -> Option<u64> {
        procfs::stack_limit(Path::new("/proc/self"))
    }
}

fn thread(
    pid: i32,
    tid: i32,
    registers: Result<crate::registers::Registers, NotStopped>,
    thread_pointer: Option<u64>,
) -> Thread {
    Thread { tid, name: procfs::thread_name(pid, tid), registers, thread_pointer, signal: None }
}

/// Asks the loader. It takes a lock for that, so it is asked before any thread stands still.
fn images() -> Vec<AddrRange> {
    let mut images = Vec::new();
    TargetSharedLibrary::each(|library| {
        let low = library.actual_load_addr().0 as u64;
        images.push(AddrRange::new(Addr(low), Addr(low.saturating_add(library.len() as u64))));
    });
    images.sort_unstable();
    images
}

impl Memory for Frozen {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.memory.read(at, into)
    }
}

impl Target for Frozen {
    fn arch(&self) -> &'static Arch {
        live::own_arch()
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

    fn pages(&self, range: AddrRange) -> Result<Pages, PagesUnknown> {
        let pagemap = Pagemap::open(&self.copy.directory()).map_err(|_| PagesUnknown)?;
        pagemap.pages(range, &self.mappings, &self.memory).map_err(|_| PagesUnknown)
    }
}

impl Files for Frozen {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        files::open_mapped(Path::new("/proc/self"), mapping)
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        files::open(Path::new("/proc/self"), path)
    }
}

/// A copy of our process in which nothing runs; ended on drop.
#[derive(Debug)]
struct Still {
    pid: i32,
}

impl Still {
    /// Makes the copy. It shares our files, sends no signal at its end that the program could take for one of its
    /// children's (`wait` does not see it without `__WALL`), and ends with the thread that made it.
    fn make() -> Result<Still, FreezeError> {
        let parent = std::process::id() as i32;
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: writes the set.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // The copy must not run the program's handlers: it keeps all signals blocked.
        // SAFETY: the set is filled in, and the old one has room.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        let flags = libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_UNTRACED;
        // SAFETY: without `CLONE_VM` this is a fork: both go on from here, each with its own memory.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            stand_for_ever(parent);
        }
        let failed = io::Error::last_os_error();
        // SAFETY: the set that was written above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
        match i32::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Still { pid }),
            _ => Err(FreezeError::NoCopy(failed)),
        }
    }

    fn directory(&self) -> PathBuf {
        procfs::directory(self.pid)
    }
}

/// All that the copy ever does: it asks to end when its maker does, and waits for a signal that never comes.
fn stand_for_ever(parent: i32) -> ! {
    // SAFETY: a system call that concerns only the copy itself.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    // SAFETY: asks for a number.
    if unsafe { libc::getppid() } != parent {
        // SAFETY: ends the copy without running anything of the program's.
        unsafe { libc::_exit(0) }
    }
    loop {
        // SAFETY: waits; no memory is given but a null, which asks for no time limit.
        unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 8) };
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // SAFETY: waits for that child; its status is not asked for.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && Errno::last() == Errno::EINTR
        {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_stands_while_the_process_goes_on() {
        let mut local = std::hint::black_box(1_u64);
        let at = Addr(&raw mut local as u64);
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = ended.recv();
        });
        let tid = told.recv().unwrap();
        Frozen::with(|frozen| {
            // SAFETY: the variable outlives the look.
            unsafe { std::ptr::with_exposed_provenance_mut::<u64>(at.0 as usize).write_volatile(2) };
            assert_eq!(frozen.read_u64(at), Ok(1));
            let thread = frozen.threads().iter().find(|thread| thread.tid == tid).unwrap();
            let registers = thread.registers.as_ref().unwrap();
            let (pc, sp) = (registers.addr(frozen.arch().pc).unwrap(), registers.addr(frozen.arch().sp).unwrap());
            let holds = |addr: Addr| frozen.mappings().iter().find(|mapping| mapping.range.contains(addr)).unwrap();
            assert!(holds(pc).access.execute && holds(sp).access.write);
            assert!(frozen.images().iter().any(|image| image.contains(Addr(Frozen::take as *const () as u64))));
        })
        .unwrap();
        drop(end);
        other.join().unwrap();
    }
}
