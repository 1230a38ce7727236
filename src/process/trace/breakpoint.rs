//! A place in a thread's code at which the kernel reports that it was reached: a hardware breakpoint of
//! perf_event_open(2), which goes with its file descriptor.
//!
//! The thread is sent [`SIGNAL`] as it reaches the place, before the instruction there runs, so that its tracer sees it
//! stop exactly there and takes the signal away. Other ways to stop at a place endanger the program: it dies of a
//! `SIGTRAP` that nobody takes away any more if we are killed after `int3` or a debug register was set, and also
//! between the hit of a perf event with `sigtrap` and our taking note of it. This signal is ignored by default.
//!
//! A thread that blocks the signal stops only when it no longer does, somewhere else.

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::addr::Addr;

/// What a thread is sent at a breakpoint. By default it is ignored, and programs that handle it must expect it without a
/// cause (signal(7); the Go runtime chose it for that reason).
pub(super) const SIGNAL: i32 = libc::SIGURG;

/// One breakpoint of one thread. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Breakpoint {
    /// The address of the instruction.
    pub(super) at: Addr,
    event: OwnedFd,
}

/// `struct perf_event_attr` up to what breakpoints need (`PERF_ATTR_SIZE_VER1` in `linux/perf_event.h`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
    breakpoint_length: u64,
}

/// `PERF_TYPE_BREAKPOINT`.
const TYPE_BREAKPOINT: u32 = 5;
/// `HW_BREAKPOINT_X` in `linux/hw_breakpoint.h`.
const EXECUTES: u32 = 4;
/// `exclude_kernel` and `exclude_hv`: without them, unprivileged users are refused.
const USER_ONLY: u64 = 1 << 5 | 1 << 6;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

impl Breakpoint {
    /// Sets a breakpoint at `at` for thread `tid`, which counts; it stops the thread once [`Breakpoint::stops`] says so.
    ///
    /// # Errors
    /// What perf_event_open(2) says: `ENOSPC` if the thread has all the breakpoints that the CPU knows, `EACCES` or
    /// `EPERM` if the machine's settings or a container forbid it.
    pub(super) fn set(tid: i32, at: Addr) -> io::Result<Breakpoint> {
        let attributes = Attributes {
            kind: TYPE_BREAKPOINT,
            size: size_of::<Attributes>() as u32,
            sample_period: 1,
            flags: USER_ONLY,
            breakpoint_type: EXECUTES,
            breakpoint_address: at.0,
            breakpoint_length: size_of::<libc::c_long>() as u64,
            ..Attributes::default()
        };
        let (any_cpu, no_group) = (-1, -1);
        let number =
            // SAFETY: `attributes` is a valid perf_event_attr of the size that it names; the kernel only reads it.
            unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, tid, any_cpu, no_group, CLOSE_ON_EXEC) };
        let number = RawFd::try_from(Errno::result(number)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else has it.
        let breakpoint = Breakpoint { at, event: unsafe { OwnedFd::from_raw_fd(number) } };
        let owner = Owner { kind: OWNER_THREAD, number: tid };
        // SAFETY: F_SETOWN_EX reads one f_owner_ex, which `owner` is.
        Errno::result(unsafe { libc::fcntl(number, SET_OWNER, &raw const owner) })?;
        // SAFETY: F_SETSIG takes plain numbers.
        Errno::result(unsafe { libc::fcntl(number, SET_SIGNAL, SIGNAL) })?;
        Ok(breakpoint)
    }

    /// Whether the thread is sent the signal from now on, or the kernel only counts.
    pub(super) fn stops(&self, whether: bool) -> io::Result<()> {
        let flags = if whether { libc::O_ASYNC } else { 0 };
        // SAFETY: F_SETFL takes plain numbers.
        Errno::result(unsafe { libc::fcntl(self.number(), libc::F_SETFL, flags) })?;
        Ok(())
    }

    /// How often the thread has reached it; also after the thread's end.
    pub(super) fn count(&self) -> u64 {
        let mut count = [0; 8];
        // `None` is never returned for an event without groups; an error would be one of the kernel's.
        nix::unistd::read(&self.event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// The number of its descriptor, which the signal names.
    pub(super) fn number(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Whether this machine lets threads have breakpoints: tries it on our own thread, at a place that is never reached.
///
/// # Errors
/// As perf_event_open(2) says.
pub fn try_breakpoint() -> io::Result<()> {
    const NEVER_REACHED: Addr = Addr(0x1000);
    Breakpoint::set(nix::unistd::gettid().as_raw(), NEVER_REACHED).map(drop)
}

/// `struct f_owner_ex` of fcntl(2).
#[repr(C)]
struct Owner {
    kind: i32,
    number: i32,
}

/// `F_OWNER_TID`, `F_SETOWN_EX` and `F_SETSIG` of fcntl(2), in `asm-generic/fcntl.h`.
const OWNER_THREAD: i32 = 0;
const SET_OWNER: i32 = 15;
const SET_SIGNAL: i32 = 10;
