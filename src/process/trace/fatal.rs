//! What ends a process: signals that nobody takes, and the kernel's order to its threads; and why a thread does not stand.

use crate::process::NotStopped;
use crate::process::live::procfs;

/// Whether the kernel has ordered a thread to end.
pub(super) fn is_told_to_end(pid: i32, tid: i32) -> bool {
    let Ok(status) = procfs::Status::read(&procfs::thread_directory(pid, tid)) else { return true };
    status.bits("SigPnd").is_some_and(|pending| pending & bit(libc::SIGKILL) != 0)
}

/// Whether a signal about to be given to a thread ends its process: nobody handles or ignores it, and the kernel's own
/// action is to end (signal(7)).
pub(super) fn ends_process(pid: i32, tid: i32, signal: i32) -> bool {
    const HARMLESS: [i32; 8] = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    if HARMLESS.contains(&signal) {
        return false;
    }
    let Ok(status) = procfs::Status::read(&procfs::thread_directory(pid, tid)) else { return false };
    let taken = status.bits("SigCgt").zip(status.bits("SigIgn")).map(|(caught, ignored)| caught | ignored);
    taken.is_some_and(|taken| taken & bit(signal) == 0)
}

/// A signal's bit in the sets that `/proc` shows.
fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1).ok().and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// Why a thread does not stand.
pub(super) fn not_stopped(pid: i32, tid: i32) -> NotStopped {
    match procfs::stat(&procfs::thread_directory(pid, tid)) {
        Some(stat) if stat.state == b'D' => NotStopped::Uninterruptible,
        Some(stat) if !stat.has_ended() => NotStopped::TimedOut,
        _ => NotStopped::Ended,
    }
}
