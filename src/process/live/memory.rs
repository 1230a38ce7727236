//! Writing to another process's memory (proc(5), `/proc/PID/mem`), and whether two processes have the same.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::procfs;
use crate::addr::Addr;

/// Writes these bytes to these places, in order, up to the first that can't be written; returns whether all were.
///
/// It also writes where the program itself may not, as debuggers do: to a page of its own in place of a file's.
pub(in crate::process) fn write(tid: i32, parts: &[(Addr, Vec<u8>)]) -> bool {
    let opened = OpenOptions::new().write(true).open(procfs::directory(tid).join("mem"));
    opened.is_ok_and(|memory| parts.iter().all(|(at, bytes)| memory.write_all_at(bytes, at.0).is_ok()))
}

/// Sets the length of a file, whatever the limit of ours on the length of files (`RLIMIT_FSIZE`) was meant for.
///
/// # Errors
/// The kernel's; also if the limit can't be raised that far.
pub fn set_length(file: &File, length: u64) -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if hard < length {
        // To try would end us (SIGXFSZ).
        return Err(Errno::EFBIG.into());
    }
    setrlimit(Resource::RLIMIT_FSIZE, soft.max(length), hard)?;
    let outcome = file.set_len(length);
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard)?;
    outcome
}

/// Whether a new process is known to have a memory of its own, and not that of its parent, as after `vfork`.
pub(in crate::process) fn is_copy(parent: i32, child: i32) -> bool {
    /// `KCMP_VM` (kcmp(2)).
    const KCMP_VM: libc::c_long = 1;
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, parent, child, KCMP_VM, 0, 0) };
    order > 0
}
