//! Waits for a process's end by a process file descriptor (pidfd_open(2), Linux 5.3): it need not be our child, and a
//! number that another process got in the meantime misleads nobody.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Calls `tell` once process `pid` has ended, on a thread of its own; at once if there is no such process.
/// Only its parent learns how it ended.
///
/// # Errors
/// The kernel knows no process file descriptors, or no thread can be started.
pub fn await_vanishing(pid: i32, tell: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let process = match open(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            tell();
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let body = move || {
        wait(&process);
        tell();
    };
    thread::Builder::new().name("stackscope-wait".into()).stack_size(128 << 10).spawn(body).map(drop)
}

/// The end of a process, which can be waited for together with other files: it is readable as soon as that has come.
#[derive(Debug)]
pub struct Ends(OwnedFd);

impl Ends {
    /// That of process `pid`.
    ///
    /// # Errors
    /// There is no such process, or the kernel knows no process file descriptors.
    pub fn of(pid: i32) -> io::Result<Ends> {
        open(pid).map(Ends)
    }
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file descriptor that stands for process `pid`.
pub(in crate::process) fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two plain numbers and touches no memory of ours.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let number = i32::try_from(Errno::result(number)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Waits until a process has ended.
pub(in crate::process) fn wait(process: &OwnedFd) {
    let mut ends = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    while poll(&mut ends, PollTimeout::NONE) == Err(Errno::EINTR) {}
}
