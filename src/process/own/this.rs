//! Our own process as a target, for a library that wants to show the stacks of the program that it is part of.
//!
//! Nothing is stopped: the calling thread stands still because it is here, and of the other threads only the names are
//! known. Memory is read by the same system call as that of other processes, so a bad address is an error, not a fault.

#![allow(unsafe_code)]

use std::arch::naked_asm;
use std::io;
use std::path::Path;

use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::image::{Bytes, Files, Opened};
use crate::mapping::Mapping;
use crate::memory::{Memory, Unreadable};
use crate::process::live::pagemap::Pagemap;
use crate::process::live::remote::RemoteMemory;
use crate::process::live::{self, maps, procfs};
use crate::process::{NotStopped, Pages, PagesUnknown, Process, Source, Target, Thread, files};
use crate::registers::{Register, Registers};

/// Our own process, seen from one of its threads.
#[derive(Debug)]
pub struct This {
    process: Process,
    threads: Vec<Thread>,
    mappings: Vec<Mapping>,
    memory: RemoteMemory,
}

impl This {
    /// Calls `look` with a view of our own process. The calling thread's stack begins with the frame of this function,
    /// which stays in place while `look` runs.
    ///
    /// # Errors
    /// `/proc` is missing, or can't be read.
    #[inline(never)]
    pub fn with<R>(look: impl FnOnce(&This) -> R) -> io::Result<R> {
        let words = captured();
        let this = This::of_registers(&words)?;
        Ok(std::hint::black_box(look(&this)))
    }

    fn of_registers(words: &Words) -> io::Result<This> {
        let pid = std::process::id() as i32;
        let (registers, thread_pointer) = registers(words);
        let own = nix::unistd::gettid().as_raw();
        let mut threads: Vec<Thread> = procfs::threads(pid)?
            .into_iter()
            .map(|tid| Thread {
                tid,
                name: procfs::thread_name(pid, tid),
                registers: if tid == own { Ok(registers.clone()) } else { Err(NotStopped::Ourselves) },
                thread_pointer: (tid == own).then_some(thread_pointer),
                signal: None,
            })
            .collect();
        threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
        Ok(This {
            process: Process { pid, command: procfs::command(Path::new(OWN)), source: Source::This },
            threads,
            mappings: maps::read(Path::new(OWN))?,
            memory: RemoteMemory::of_thread(own),
        })
    }
}

/// Through the calling thread: the first one may have ended.
const OWN: &str = "/proc/thread-self";

impl Memory for This {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.memory.read(at, into)
    }
}

impl Target for This {
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
        let pagemap = Pagemap::open(Path::new(OWN)).map_err(|_| PagesUnknown)?;
        pagemap.pages(range, &self.mappings, &self.memory).map_err(|_| PagesUnknown)
    }
}

impl Files for This {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        files::open_mapped(Path::new("/proc/self"), mapping)
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        files::open(Path::new("/proc/self"), path)
    }
}

/// The DWARF numbers of the registers that `capture` writes, in its order; the thread pointer follows them.
#[cfg(target_arch = "x86_64")]
const CAPTURED: [u8; 8] = [3, 6, 12, 13, 14, 15, 7, 16];
/// The DWARF numbers of the registers that `capture` writes, in its order; the thread pointer follows them.
#[cfg(target_arch = "aarch64")]
const CAPTURED: [u8; 14] = [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32];

/// How many words `capture` writes.
const WORDS: usize = CAPTURED.len() + 1;

/// What `capture` writes.
pub(super) type Words = [u64; WORDS];

/// The registers of the function that this is inlined into, as they are at that place.
#[inline(always)]
pub(super) fn captured() -> Words {
    let mut words = [0; WORDS];
    // SAFETY: `words` has room for the words that `capture` writes.
    unsafe { capture(&mut words) };
    words
}

/// The registers and the thread pointer that were captured.
pub(super) fn registers(words: &Words) -> (Registers, u64) {
    let mut registers = Registers::unknown();
    for (number, word) in CAPTURED.iter().zip(words) {
        registers.set(Register(*number), *word);
    }
    (registers, words[WORDS - 1])
}

/// Writes the registers that a function keeps for its caller, as they are right after this call.
///
/// # Safety
/// `into` has room for all words.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn capture(into: &mut Words) {
    // On entry, rdi holds `into`, and [rsp] the return address: the caller's stack pointer after the call is rsp + 8.
    naked_asm!(
        ".cfi_startproc",
        "mov [rdi], rbx",
        "mov [rdi + 8], rbp",
        "mov [rdi + 16], r12",
        "mov [rdi + 24], r13",
        "mov [rdi + 32], r14",
        "mov [rdi + 40], r15",
        "lea rax, [rsp + 8]",
        "mov [rdi + 48], rax",
        "mov rax, [rsp]",
        "mov [rdi + 56], rax",
        // The first word of the thread's control block is its own address (ELF Handling For Thread-Local Storage,
        // 3.4.6).
        "mov rax, fs:[0]",
        "mov [rdi + 64], rax",
        "ret",
        ".cfi_endproc",
    )
}

/// Writes the registers that a function keeps for its caller, as they are right after this call.
///
/// # Safety
/// `into` has room for all words.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn capture(into: &mut Words) {
    // On entry, x0 holds `into`, and x30 the return address, which is the caller's program counter after the call.
    naked_asm!(
        ".cfi_startproc",
        "stp x19, x20, [x0]",
        "stp x21, x22, [x0, 16]",
        "stp x23, x24, [x0, 32]",
        "stp x25, x26, [x0, 48]",
        "stp x27, x28, [x0, 64]",
        "stp x29, x30, [x0, 80]",
        "mov x9, sp",
        "stp x9, x30, [x0, 96]",
        "mrs x9, tpidr_el0",
        "str x9, [x0, 112]",
        "ret",
        ".cfi_endproc",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::mapping_at;

    #[test]
    fn the_calling_thread_is_seen_where_it_stands() {
        let local = std::hint::black_box(0x1234_5678_9abc_def0u64);
        let at = Addr(&raw const local as u64);
        let seen = This::with(|this| {
            let own = nix::unistd::gettid().as_raw();
            let thread = this.threads().iter().find(|thread| thread.tid == own).unwrap();
            let registers = thread.registers.as_ref().unwrap();
            let (pc, sp) = (registers.addr(this.arch().pc).unwrap(), registers.addr(this.arch().sp).unwrap());
            let code = Addr(This::of_registers as *const () as u64);
            assert_eq!(
                mapping_at(this.mappings(), pc).unwrap().range,
                mapping_at(this.mappings(), code).unwrap().range
            );
            assert!(sp < at && at.0 - sp.0 < 1 << 20);
            assert_eq!(this.read_u64(Addr(thread.thread_pointer.unwrap())).ok(), thread.thread_pointer);
            let others = this.threads().iter().filter(|other| other.tid != own);
            assert!(others.into_iter().all(|other| other.registers == Err(NotStopped::Ourselves)));
            this.read_u64(at)
        });
        assert_eq!(seen.unwrap(), Ok(local));
    }

    #[test]
    fn the_pages_of_the_own_stack_are_touched() {
        let local = 1u8;
        let here = Addr(&raw const local as u64);
        let page = AddrRange::new(here.align_down(4096), here.align_down(4096).offset(4096));
        let pages = This::with(|this| this.pages(page)).unwrap().unwrap();
        assert_eq!(pages.runs.len(), 1);
    }
}
