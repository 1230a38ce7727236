//! The first moments of a program, in which its loader maps code: when there is new code that has not run yet.
//!
//! The thread is followed from system call to system call. The loader makes those that map files one after the other,
//! and others after them, before any of that code runs; the first call from elsewhere shows that the loader is done.

use super::ptrace::CallEntry;
use crate::addr::{Addr, AddrRange};
use crate::mapping::{Mapping, mapping_at};
use crate::process::auxv;
use crate::process::live::{maps, procfs};

/// So many calls are followed at most: a loader makes some six for each library.
const MOST_CALLS: u32 = 8192;

/// The calls that a loader makes while it maps files.
const MAPPING: [libc::c_long; 15] = [
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_uname,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
];

/// The older forms of these, which only some CPUs have.
#[cfg(target_arch = "x86_64")]
const OLD: [libc::c_long; 6] =
    [libc::SYS_access, libc::SYS_lstat, libc::SYS_open, libc::SYS_readlink, libc::SYS_stat, libc::SYS_mprotect];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [libc::c_long; 1] = [libc::SYS_mprotect];

/// A program that is starting.
#[derive(Debug)]
pub(super) struct Start {
    /// The loader's own memory; none if there is no loader.
    loader: Vec<AddrRange>,
    /// Whether code was mapped that nobody was told of.
    is_new: bool,
    calls: u32,
}

/// What a system call of a starting program shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shown {
    /// There is code that has not run yet.
    pub(super) is_new: bool,
    /// The loader is done.
    pub(super) is_over: bool,
}

impl Start {
    /// Of a process that has just become another program.
    pub(super) fn of(pid: i32) -> Start {
        let directory = procfs::directory(pid);
        let base = auxv::value(&auxv::read(&directory), auxv::AT_BASE).map(Addr);
        let mappings = maps::read(&directory).unwrap_or_default();
        Start { loader: base.map_or_else(Vec::new, |base| file_at(&mappings, base)), is_new: true, calls: 0 }
    }

    /// Takes in a call that is about to be made.
    pub(super) fn call(&mut self, call: CallEntry) -> Shown {
        self.calls += 1;
        let by_loader = self.loader.iter().any(|range| range.contains(Addr(call.pc)));
        let is_over = !by_loader || self.calls >= MOST_CALLS;
        let number = call.number as libc::c_long;
        let goes_on_mapping = MAPPING.contains(&number) || OLD.contains(&number);
        let is_new = self.is_new && (is_over || !goes_on_mapping);
        self.is_new &= !is_new;
        self.is_new |= number == libc::SYS_mmap && call.third & libc::PROT_EXEC as u64 != 0;
        Shown { is_new, is_over }
    }
}

/// Where the file lies that is mapped at `addr`.
fn file_at(mappings: &[Mapping], addr: Addr) -> Vec<AddrRange> {
    let Some(file) = mapping_at(mappings, addr).and_then(Mapping::file) else { return Vec::new() };
    let is_same = |mapping: &&Mapping| mapping.file().is_some_and(|other| other.path == file.path);
    mappings.iter().filter(is_same).map(|mapping| mapping.range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: libc::c_long, pc: u64, third: u64) -> CallEntry {
        CallEntry { number: number as u64, pc, third }
    }

    #[test]
    fn code_is_told_of_once_the_loader_has_mapped_it_and_before_it_runs() {
        let loader = vec![AddrRange::new(Addr(0x1000), Addr(0x2000))];
        let mut start = Start { loader, is_new: true, calls: 0 };
        let nothing = Shown { is_new: false, is_over: false };
        let told = Shown { is_new: true, is_over: false };
        assert_eq!(start.call(call(libc::SYS_openat, 0x1100, 0)), nothing);
        assert_eq!(start.call(call(libc::SYS_mmap, 0x1100, libc::PROT_EXEC as u64)), nothing);
        assert_eq!(start.call(call(libc::SYS_close, 0x1100, 0)), nothing);
        assert_eq!(start.call(call(libc::SYS_set_tid_address, 0x1100, 0)), told);
        assert_eq!(start.call(call(libc::SYS_getrandom, 0x1100, 0)), nothing, "once");
        assert_eq!(start.call(call(libc::SYS_mmap, 0x1100, libc::PROT_EXEC as u64)), nothing);
        assert_eq!(start.call(call(libc::SYS_mmap, 0x9100, 0)), Shown { is_new: true, is_over: true });
    }

    #[test]
    fn a_program_without_a_loader_is_over_at_its_first_call() {
        let mut start = Start { loader: Vec::new(), is_new: true, calls: 0 };
        assert_eq!(start.call(call(libc::SYS_brk, 0x40_1000, 0)), Shown { is_new: true, is_over: true });
    }
}
