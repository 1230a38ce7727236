//! The ptrace(2) requests that a stop needs, one function each.
//!
//! Only `PTRACE_SEIZE` is used to attach: it sends no signal and changes nothing that the target or its parent can see.
//! The kernel ties a tracee to the *thread* that seized it; all functions but [`exited`] must be called from that one.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// What is new of a tracee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// It runs, or sleeps in a system call.
    None,
    /// It stands still, with this signal on its way to it (0: none).
    Stopped {
        /// What to hand on when it is let go.
        signal: i32,
    },
    /// It has ended, or is no tracee of this thread.
    Gone,
}

/// `PTRACE_EVENT_STOP`, where libc's headers of some C libraries lack it.
const EVENT_STOP: i32 = 128;

/// Becomes the tracer of `tid` without stopping it.
pub(super) fn seize(tid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0usize, 0usize) })
}

/// Asks a seized tracee to stop; it does so at its next step out of the kernel.
pub(super) fn interrupt(tid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_INTERRUPT takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0usize, 0usize) })
}

/// Lets a stopped tracee go, handing it `signal` (0: none) where it stopped on its way to it.
///
/// The kernel keeps the signal's `siginfo`, and puts a member of a stopped group back into the group's stop.
pub(super) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: PTRACE_DETACH takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0usize, signal) })
}

/// Asks what is new of a tracee, without waiting and without taking the news away.
///
/// The stop is looked at and left in place (`WNOWAIT`): the kernel keeps the signal in it for as long as nobody collects
/// it, so that even if we are killed in this moment the signal reaches the target once.
pub(super) fn news(tid: i32) -> News {
    let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    match wait(tid, flags) {
        Ok(None) => News::None,
        Err(_) => News::Gone,
        Ok(Some(Change { code: libc::CLD_TRAPPED | libc::CLD_STOPPED, status })) => {
            let by_event = status >> 8 == EVENT_STOP;
            News::Stopped { signal: if by_event { 0 } else { status & 0x7f } }
        }
        Ok(Some(_)) => News::Gone,
    }
}

/// Collects the end of a traced thread, which stays a zombie until then; not to be asked of a process's first thread,
/// whose end belongs to its parent. May be called from any thread of the tracer's process.
pub(super) fn collect_end(tid: i32) {
    // Nothing to collect is as good as collected.
    let _ = wait(tid, libc::WEXITED | libc::WNOHANG | libc::__WALL);
}

/// Fills `block` with a register set (`NT_…` in `elf.h`) of a stopped tracee; gives the part that the kernel filled.
pub(super) fn register_set(tid: i32, set: u32, block: &mut [u8]) -> io::Result<&[u8]> {
    let mut vector = libc::iovec { iov_base: block.as_mut_ptr().cast(), iov_len: block.len() };
    // SAFETY: `vector` points to `block`, which lives through the call, and the kernel writes at most `iov_len` bytes.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set as usize, &raw mut vector) })?;
    Ok(&block[..vector.iov_len.min(block.len())])
}

struct Change {
    code: i32,
    status: i32,
}

fn wait(tid: i32, flags: i32) -> io::Result<Option<Change>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = libc::id_t::try_from(tid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `info` is a siginfo_t of ours for the kernel to fill.
    let outcome = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), flags) };
    checked(outcome.into())?;
    // SAFETY: all bytes of `info` were set to zero above, which is a valid siginfo_t, before the kernel filled it.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the fields of a child's change, or leaves the zeros.
    let (pid, status) = unsafe { child_fields(&info) };
    Ok((pid != 0).then_some(Change { code: info.si_code, status }))
}

/// # Safety
/// `info` was filled by `waitid`.
unsafe fn child_fields(info: &libc::siginfo_t) -> (i32, i32) {
    // SAFETY: `waitid` sets `si_pid`, says the caller.
    let pid = unsafe { info.si_pid() };
    // SAFETY: `waitid` sets `si_status`, says the caller.
    let status = unsafe { info.si_status() };
    (pid, status)
}

pub(super) fn checked(outcome: libc::c_long) -> io::Result<()> {
    match outcome {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
