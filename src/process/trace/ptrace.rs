//! The ptrace(2) requests of a stop and of following a program from its start, one function each.
//!
//! Only `PTRACE_SEIZE` is used to attach: it sends no signal and changes nothing that the target or its parent can see.
//! The kernel ties a tracee to the *thread* that seized it; all functions but [`collect_end`] must be called from that
//! one.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use crate::process::fault::SIGINFO;

const _: () = assert!(SIGINFO == size_of::<libc::siginfo_t>());

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

/// What the kernel reports of a tracee.
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
    /// It stands at the entry of a system call, or at its end.
    Call,
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

/// A system call that a tracee is about to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CallEntry {
    /// Its number.
    pub(super) number: u64,
    /// The address after the instruction.
    pub(super) pc: u64,
    /// Its third argument.
    pub(super) third: u64,
}

/// A thread's general registers, in the kernel's order (`user_regs_struct` of x86-64).
pub(super) type Words = [u64; 27];

/// `NT_PRSTATUS` in `elf.h`.
const NT_PRSTATUS: usize = 1;

/// `PTRACE_GET_SYSCALL_INFO` (Linux 5.3), and the length of its `ptrace_syscall_info`, which some C libraries' headers
/// lack.
const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const CALL_INFO: usize = 88;

/// `PTRACE_EVENT_STOP`, which the headers of some C libraries lack.
const EVENT_STOP: i32 = 128;

/// What our tracees report to us, and their children, which become our tracees too.
/// `PTRACE_O_EXITKILL` is not among them: if we end, the program goes on.
const OPTIONS: i32 = libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEEXIT
    | libc::PTRACE_O_TRACESYSGOOD;

/// What `PTRACE_O_TRACESYSGOOD` has a system call's stop say.
const CALL: i32 = libc::SIGTRAP | 0x80;

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

/// Lets a stopped tracee go, with `signal` (0: none) if it stopped before that was delivered.
///
/// The kernel keeps the signal's `siginfo`, and puts a member of a stopped group back into the group's stop.
pub(super) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: PTRACE_DETACH takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0usize, signal) })
}

/// Asks what is new of a tracee, without waiting and without collecting the report.
///
/// The stop is read and left in place (`WNOWAIT`): the kernel keeps the signal in it for as long as nobody collects
/// it, so that even if we are killed in this moment the signal reaches the target once.
pub(super) fn news(tid: i32) -> News {
    let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let Ok(id) = libc::id_t::try_from(tid) else { return News::Gone };
    match wait(libc::P_PID, id, flags) {
        Ok(None) => News::None,
        Err(_) => News::Gone,
        Ok(Some(Report { code: libc::CLD_TRAPPED | libc::CLD_STOPPED, status, .. })) => {
            let by_event = status >> 8 == EVENT_STOP;
            News::Stopped { signal: if by_event { 0 } else { status & 0x7f } }
        }
        Ok(Some(_)) => News::Gone,
    }
}

/// Collects the end of a traced thread, which stays a zombie until then; not for a process's first thread,
/// whose end belongs to its parent. May be called from any thread of the tracer's process.
pub(super) fn collect_end(tid: i32) {
    // It does not matter if there is nothing to collect.
    if let Ok(id) = libc::id_t::try_from(tid) {
        let _ = wait(libc::P_PID, id, libc::WEXITED | libc::WNOHANG | libc::__WALL);
    }
}

/// Fills `block` with a register set (`NT_…` in `elf.h`) of a stopped tracee; returns the part that the kernel filled.
pub(super) fn register_set(tid: i32, set: u32, block: &mut [u8]) -> io::Result<&[u8]> {
    let mut vector = libc::iovec { iov_base: block.as_mut_ptr().cast(), iov_len: block.len() };
    // SAFETY: `vector` points to `block`, which lives through the call, and the kernel writes at most `iov_len` bytes.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set as usize, &raw mut vector) })?;
    Ok(&block[..vector.iov_len.min(block.len())])
}

/// Becomes the tracer of `tid` and of all that it will start, without stopping it.
pub(super) fn seize_following(tid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0usize, OPTIONS as usize) })
}

/// Lets a tracee that stands go on, with `signal` (0: none).
pub(super) fn go_on(tid: i32, signal: i32) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: PTRACE_CONT takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_CONT, tid, 0usize, signal) })
}

/// The same, up to the entry or the end of the next system call.
pub(super) fn go_on_to_call(tid: i32, signal: i32) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: PTRACE_SYSCALL takes plain numbers and reads no memory of ours.
    checked(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0usize, signal) })
}

/// The system call at whose entry a tracee stands; `None` if it is the end of one, or the kernel does not say.
pub(super) fn call_entry(tid: i32) -> Option<CallEntry> {
    let mut info = [0; CALL_INFO];
    // SAFETY: the kernel writes at most `CALL_INFO` bytes to `info`.
    checked(unsafe { libc::ptrace(GET_SYSCALL_INFO as _, tid, CALL_INFO, info.as_mut_ptr()) }).ok()?;
    let word = |at: usize| Some(u64::from_le_bytes(info.get(at..at + 8)?.try_into().ok()?));
    /// `PTRACE_SYSCALL_INFO_ENTRY`.
    const ENTRY: u8 = 1;
    (info[0] == ENTRY).then_some(CallEntry { pc: word(8)?, number: word(24)?, third: word(48)? })
}

/// The general registers of a tracee that stands, on x86-64.
pub(super) fn words(tid: i32) -> io::Result<Words> {
    let mut words: Words = [0; 27];
    let mut vector = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of::<Words>() };
    // SAFETY: `vector` points to `words`, which lives through the call, and the kernel writes at most `iov_len` bytes.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &raw mut vector) })?;
    match vector.iov_len == size_of::<Words>() {
        true => Ok(words),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Gives a tracee that stands these general registers.
pub(super) fn set_words(tid: i32, words: &Words) -> io::Result<()> {
    let mut words = *words;
    let mut vector = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of::<Words>() };
    // SAFETY: `vector` points to `words`, which lives through the call, and the kernel reads at most `iov_len` bytes.
    checked(unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &raw mut vector) })
}

/// The signals that a tracee blocks.
pub(super) fn signal_mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    // SAFETY: the kernel writes eight bytes to `mask`.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, tid, size_of::<u64>(), &raw mut mask) })?;
    Ok(mask)
}

/// Waits for the next change of tracee `tid`, and leaves it in place.
pub(super) fn await_change(tid: i32) -> Option<Change> {
    let id = libc::id_t::try_from(tid).ok()?;
    let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
    loop {
        match wait(libc::P_PID, id, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            waited => return waited.ok().flatten().map(|report| report.change()),
        }
    }
}

/// Sends a signal to one thread.
pub(super) fn send(tid: i32, signal: i32) {
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_tkill, tid, signal) };
}

/// Leaves a tracee in its group's stop, and has the kernel report when the group goes on.
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

/// The `siginfo_t` of the signal that a tracee is about to get.
pub(super) fn signal_info(tid: i32) -> Option<[u8; SIGINFO]> {
    let mut info = [0; SIGINFO];
    // SAFETY: the kernel writes one siginfo_t, which is as long as `info`.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, 0usize, info.as_mut_ptr()) }).ok()?;
    Some(info)
}

/// The file descriptor, as its owner numbers it, that sent the signal that a tracee is about to get (`si_fd` of
/// sigaction(2)); `None` if none did.
pub(super) fn descriptor(tid: i32) -> Option<RawFd> {
    let mut info = SignalInfo { signal: 0, error: 0, code: 0, padding: 0, band: 0, descriptor: -1, rest: [0; 25] };
    // SAFETY: the kernel writes one siginfo_t, of 128 bytes, to `info`, which has as many.
    checked(unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, 0usize, &raw mut info) }).ok()?;
    (1..=LAST_POLL_CODE).contains(&info.code).then_some(info.descriptor)
}

/// `siginfo_t` of a signal that a file descriptor sends (`_sigpoll` in `asm-generic/siginfo.h`, 64 bits).
#[repr(C)]
struct SignalInfo {
    signal: i32,
    error: i32,
    code: i32,
    padding: i32,
    band: i64,
    descriptor: RawFd,
    rest: [i32; 25],
}

/// `POLL_HUP`, the last of the codes of `_sigpoll`.
const LAST_POLL_CODE: i32 = 6;

/// The next change of any tracee of this thread, left in place.
///
/// As in [`news`], a signal that nobody collects reaches the target even if we are killed in this moment.
pub(super) fn any_change() -> Option<(i32, Change)> {
    change(libc::P_ALL, 0, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)
}

/// The next change of tracee `tid`, left in place.
pub(super) fn change_of(tid: i32) -> Option<(i32, Change)> {
    change(libc::P_PID, libc::id_t::try_from(tid).ok()?, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)
}

/// Collects the report of a change, so that [`any_change`] gets to others. There must be no signal in it.
pub(super) fn collect(tid: i32) {
    if let Ok(id) = libc::id_t::try_from(tid) {
        let _ = change(libc::P_PID, id, libc::WSTOPPED | libc::WEXITED);
    }
}

fn change(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> Option<(i32, Change)> {
    let report = wait(kind, id, flags | libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD).ok()??;
    Some((report.pid, report.change()))
}

/// What `waitid` says of a child (waitid(2)).
struct Report {
    pid: i32,
    /// `si_code`.
    code: i32,
    /// `si_status`.
    status: i32,
}

impl Report {
    fn change(&self) -> Change {
        let status = self.status;
        match self.code {
            libc::CLD_EXITED => Change::Exited(status),
            libc::CLD_KILLED => Change::Killed { signal: status, core: false },
            libc::CLD_DUMPED => Change::Killed { signal: status, core: true },
            _ => match (status >> 8, status & 0xff) {
                (0, CALL) => Change::Call,
                (0, signal) => Change::Signal(signal),
                (EVENT_STOP, libc::SIGTRAP) => Change::Trap,
                (EVENT_STOP, signal) => Change::Group(signal),
                (event, _) => Change::Event(event),
            },
        }
    }
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<Report>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is a siginfo_t of ours for the kernel to fill.
    let outcome = unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) };
    checked(outcome.into())?;
    // SAFETY: all bytes of `info` were set to zero above, which is a valid siginfo_t, before the kernel filled it.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the fields of a child's change, or leaves the zeros.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok((pid != 0).then_some(Report { pid, code: info.si_code, status }))
}

fn checked(outcome: libc::c_long) -> io::Result<()> {
    match outcome {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
