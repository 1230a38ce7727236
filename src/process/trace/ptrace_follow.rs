//! The ptrace(2) requests that following a program from its start needs, besides those of a stop in [`super::ptrace`].

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

use super::inbox;
use crate::process::trace::ptrace::checked;

/// What the kernel tells of a tracee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It stands, about to be given this signal.
    Signal(i32),
    /// It stands as a member of a stopped group, stopped by this signal.
    Group(i32),
    /// It stands because it was asked to, is new, or its group goes on.
    Trap,
    /// It stands at one of the `PTRACE_EVENT_` places.
    Event(i32),
    /// It has ended with this exit code.
    Exited(i32),
    /// A signal has ended it.
    Killed {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
}

/// `PTRACE_EVENT_STOP` in the kernel's `include/uapi/linux/ptrace.h`.
const EVENT_STOP: i32 = 128;

/// What a tracee of ours reports to us from now on, and its children's, which become our tracees too.
/// `PTRACE_O_EXITKILL` is not among them: if we end, the program goes on.
const OPTIONS: i32 = libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEEXIT;

/// Becomes the tracer of `tid` and of all that it will start, without stopping it.
pub(super) fn seize_following(tid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0usize, OPTIONS as usize) })
}

/// Lets a tracee that stands go on, handing it `signal` (0: none).
pub(super) fn go_on(tid: i32, signal: i32) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: PTRACE_CONT takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_CONT, tid, 0usize, signal) })
}

/// Leaves a tracee in its group's stop, and has the kernel tell us when the group goes on.
pub(super) fn listen(tid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_LISTEN takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_LISTEN, tid, 0usize, 0usize) })
}

/// The number that belongs to an event: of the new process or thread, or the former number of one that called `execve`.
pub(super) fn event_number(tid: i32) -> Option<i32> {
    let mut number: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned long to `number`.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0usize, &raw mut number) }).ok()?;
    i32::try_from(number).ok()
}

/// The process that sent the signal that a tracee is about to be given; `None` where the kernel did.
pub(super) fn sender(tid: i32) -> Option<i32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes one siginfo_t to `info`.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, 0usize, info.as_mut_ptr()) }).ok()?;
    // SAFETY: all bytes were set to zero above, which is a valid siginfo_t, before the kernel filled it.
    let info = unsafe { info.assume_init() };
    inbox::sender(&info)
}

/// The next change of any tracee of this thread, left in place.
///
/// As in [`crate::process::trace::ptrace::news`], a signal that nobody collects reaches the target even if we are killed in this moment.
pub(super) fn any_change() -> Option<(i32, Change)> {
    wait(libc::P_ALL, 0, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)
}

/// The next change of tracee `tid`, left in place.
pub(super) fn change_of(tid: i32) -> Option<(i32, Change)> {
    wait(libc::P_PID, libc::id_t::try_from(tid).ok()?, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)
}

/// Takes the news of a change away, so that [`any_change`] comes to others. No signal may be in it.
pub(super) fn collect(tid: i32) {
    if let Ok(id) = libc::id_t::try_from(tid) {
        let _ = wait(libc::P_PID, id, libc::WSTOPPED | libc::WEXITED);
    }
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> Option<(i32, Change)> {
    let flags = flags | libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is a siginfo_t of ours for the kernel to fill.
    checked(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) }.into()).ok()?;
    // SAFETY: all bytes were set to zero above, which is a valid siginfo_t, before the kernel filled it.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the fields of a child's change, or leaves the zeros.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let change = match info.si_code {
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED => Change::Killed { signal: status, core: false },
        libc::CLD_DUMPED => Change::Killed { signal: status, core: true },
        _ => match (status >> 8, status & 0xff) {
            (0, signal) => Change::Signal(signal),
            (EVENT_STOP, libc::SIGTRAP) => Change::Trap,
            (EVENT_STOP, signal) => Change::Group(signal),
            (event, _) => Change::Event(event),
        },
    };
    (pid != 0).then_some((pid, change))
}
