//! The registers of our own process's other threads, handed over by the threads themselves.
//!
//! Each thread is sent a signal of its own. The handler writes down the registers that the signal interrupted, and then
//! holds the thread where it is until the look is over, so that all of them stand still at one moment. It waits for a
//! bounded time only: whatever happens to the look, the program goes on.
//!
//! Between [`Captured::ask`] and the end of the look nothing may be allocated and no lock taken: a thread may have been
//! interrupted while it held any of them.

#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::futex;
use crate::process::live::procfs::{self, Status};
use crate::registers::{Register, Registers};

/// The most threads that are captured in one look.
const MOST: usize = 4096;

/// How long the others are waited for.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How long we wait for a thread that blocks the signal to return from a handler.
const BLOCKED_LIMIT: Duration = Duration::from_millis(20);

/// The longest time for which a thread stands still, whatever the look does.
const HOLD_LIMIT: Duration = Duration::from_secs(2);

/// The place where one thread hands its registers over.
struct Slot {
    tid: AtomicI32,
    state: AtomicU32,
    words: [AtomicU64; WORDS],
}

/// Nobody is asked.
const IDLE: u32 = 0;
/// The thread is to write its registers down.
const ASKED: u32 = 1;
/// It is doing so.
const ANSWERING: u32 = 2;
/// It has, and stands still.
const ANSWERED: u32 = 3;
/// It did not want to stand still any longer.
const LEFT: u32 = 4;

static SLOTS: [Slot; MOST] = [const {
    Slot { tid: AtomicI32::new(0), state: AtomicU32::new(IDLE), words: [const { AtomicU64::new(0) }; WORDS] }
}; MOST];

/// How many slots are in use.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Counts answers; whoever asks waits for it to change.
static ANSWERS: AtomicU32 = AtomicU32::new(0);

/// Counts looks that are over; threads that stand still wait for it to change.
static RELEASES: AtomicU32 = AtomicU32::new(0);

/// One look at a time.
static LOOK: Mutex<()> = Mutex::new(());

/// How a thread answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// It stood still with these registers and this thread pointer.
    Stood(Box<Registers>, u64),
    /// It blocks the signal.
    Blocked,
    /// It did not answer in time.
    Silent,
}

/// The threads of a look. They go on when it is dropped.
pub(super) struct Captured {
    tids: Vec<(i32, bool)>,
    _look: MutexGuard<'static, ()>,
}

impl Captured {
    /// Prepares to ask all threads except the calling one.
    ///
    /// # Errors
    /// The threads can't be listed, or no signal is free.
    pub(super) fn prepare(pid: i32, own: i32) -> io::Result<Captured> {
        let look = LOOK.lock().unwrap_or_else(PoisonError::into_inner);
        let signal = signal()?;
        let others = procfs::threads(pid)?.into_iter().filter(|tid| *tid != own);
        let mut tids: Vec<(i32, bool)> = others.map(|tid| (tid, blocks(signal, pid, tid))).collect();
        // In a signal handler, such as the one that asked for this look, a thread blocks signals for a moment only.
        let deadline = Instant::now() + BLOCKED_LIMIT;
        while tids.iter().any(|(_, is_blocked)| *is_blocked) && Instant::now() < deadline {
            std::thread::yield_now();
            for (tid, is_blocked) in tids.iter_mut().filter(|(_, is_blocked)| *is_blocked) {
                *is_blocked = blocks(signal, pid, *tid);
            }
        }
        Ok(Captured { tids, _look: look })
    }

    /// Asks the threads, and waits until they stand still or the time is over.
    pub(super) fn ask(&self, pid: i32) {
        let Ok(signal) = signal() else { return };
        let asked = self.tids.iter().filter(|(_, is_blocked)| !is_blocked).take(MOST);
        let mut count = 0;
        for ((tid, _), slot) in asked.clone().zip(&SLOTS) {
            slot.tid.store(*tid, Ordering::Relaxed);
            slot.state.store(ASKED, Ordering::Relaxed);
            count += 1;
        }
        // Released, so that a handler that sees the number sees the slots.
        USED.store(count, Ordering::Release);
        for ((tid, _), slot) in asked.zip(&SLOTS) {
            // SAFETY: sends a signal that has a handler to a thread of our own; one that has ended is an error.
            if unsafe { libc::syscall(libc::SYS_tgkill, pid, *tid, signal) } != 0 {
                slot.state.store(IDLE, Ordering::Relaxed);
            }
        }
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let seen = ANSWERS.load(Ordering::Acquire);
            let is_waiting = |slot: &Slot| matches!(slot.state.load(Ordering::Acquire), ASKED | ANSWERING);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !SLOTS[..count].iter().any(is_waiting) {
                return;
            }
            futex::wait(&ANSWERS, seen, left);
        }
    }

    /// Lets the threads go on; returns how each answered. Call it when the moment is over.
    pub(super) fn release(self) -> Vec<(i32, Answer)> {
        let count = USED.load(Ordering::Relaxed);
        // A thread that has not answered by now, or has gone on by itself, was not part of the moment.
        let mut stood = [false; MOST];
        for (slot, stood) in SLOTS[..count].iter().zip(&mut stood) {
            *stood = slot.state.swap(IDLE, Ordering::AcqRel) == ANSWERED;
        }
        RELEASES.fetch_add(1, Ordering::Release);
        futex::wake_all(&RELEASES);
        let mut slots = SLOTS[..count].iter().zip(stood);
        let answers = self.tids.iter().map(|(tid, is_blocked)| {
            let answer = match is_blocked {
                true => Answer::Blocked,
                false => match slots.next() {
                    Some((slot, true)) => slot.answer(),
                    _ => Answer::Silent,
                },
            };
            (*tid, answer)
        });
        answers.collect()
    }
}

/// Whether a thread of process `pid` blocks `signal` now.
fn blocks(signal: i32, pid: i32, tid: i32) -> bool {
    let status = Status::read(&procfs::thread_directory(pid, tid)).ok();
    status.and_then(|status| status.bits("SigBlk")).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

impl Slot {
    fn answer(&self) -> Answer {
        let mut registers = Registers::unknown();
        for (number, word) in (0..).zip(&self.words[..WORDS - 1]) {
            registers.set(Register(number), word.load(Ordering::Relaxed));
        }
        Answer::Stood(Box::new(registers), self.words[WORDS - 1].load(Ordering::Relaxed))
    }
}

/// The signal by which threads are asked: the highest real-time signal that the program had no handler for when it was
/// first needed. Its handler stays: a signal may arrive late.
fn signal() -> io::Result<i32> {
    static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();
    let found = SIGNAL.get_or_init(|| (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|signal| install(*signal)));
    found.ok_or_else(|| io::Error::other("the program has handlers for all real-time signals"))
}

/// Installs the handler, unless there is one.
fn install(signal: i32) -> bool {
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the action of a signal.
    let known = unsafe { libc::sigaction(signal, ptr::null(), &raw mut before) } == 0;
    if !known || before.sa_sigaction != libc::SIG_DFL {
        return false;
    }
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = hand_over as *const () as usize;
    // On the alternate stack if there is one: a coroutine's own stack may be small.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: nothing of ours may interrupt a thread that stands still; `sigfillset` writes the mask.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    // SAFETY: the handler calls nothing that is not allowed in one.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) == 0 }
}

/// The handler. It allocates nothing, takes no lock, and keeps `errno`. It also takes little of the stack: on an
/// alternate stack of the least size, a handler of the program's may have left only a kilobyte.
extern "C" fn hand_over(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let errno = Errno::last_raw();
    // SAFETY: asks for a number.
    let tid = unsafe { libc::gettid() };
    let used = USED.load(Ordering::Acquire).min(MOST);
    let own = SLOTS[..used].iter().find(|slot| slot.tid.load(Ordering::Relaxed) == tid);
    let is_asked =
        |slot: &&Slot| slot.state.compare_exchange(ASKED, ANSWERING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if let Some(slot) = own.filter(is_asked) {
        let releases = RELEASES.load(Ordering::Acquire);
        // SAFETY: with `SA_SIGINFO` the kernel gives the handler the context that it interrupted.
        write_down(&slot.words, unsafe { &*context.cast::<libc::ucontext_t>() });
        let answered = slot.state.compare_exchange(ANSWERING, ANSWERED, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        ANSWERS.fetch_add(1, Ordering::Release);
        futex::wake_all(&ANSWERS);
        if answered {
            stand(releases);
            let _ = slot.state.compare_exchange(ANSWERED, LEFT, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
    Errno::set_raw(errno);
}

/// Waits until the look that began after `releases` others is over, but not for ever.
fn stand(releases: u32) {
    let deadline = Instant::now() + HOLD_LIMIT;
    while RELEASES.load(Ordering::Acquire) == releases {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        futex::wait(&RELEASES, releases, left);
    }
}

/// The registers by their DWARF numbers, and the thread pointer.
#[cfg(target_arch = "x86_64")]
const WORDS: usize = 18;

#[cfg(target_arch = "x86_64")]
fn write_down(words: &[AtomicU64; WORDS], context: &libc::ucontext_t) {
    use libc::{
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX, REG_RBP, REG_RBX, REG_RCX,
        REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP,
    };
    // System V ABI, AMD64 supplement, figure 3.36.
    static ORDER: [i32; WORDS - 1] = [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10, REG_R11,
        REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP,
    ];
    for (word, register) in words.iter().zip(&ORDER) {
        word.store(context.uc_mcontext.gregs[*register as usize].cast_unsigned(), Ordering::Relaxed);
    }
    let thread_pointer: u64;
    // SAFETY: the first word of the thread's control block is its own address.
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) thread_pointer, options(nostack, readonly, preserves_flags)) };
    words[WORDS - 1].store(thread_pointer, Ordering::Relaxed);
}

/// The registers by their DWARF numbers (0 to 32: x0 to x30, sp, pc), and the thread pointer.
#[cfg(target_arch = "aarch64")]
const WORDS: usize = 34;

#[cfg(target_arch = "aarch64")]
fn write_down(words: &[AtomicU64; WORDS], context: &libc::ucontext_t) {
    let saved = &context.uc_mcontext;
    for (word, register) in words.iter().zip(saved.regs.iter().chain([&saved.sp, &saved.pc])) {
        word.store(*register, Ordering::Relaxed);
    }
    let thread_pointer: u64;
    // SAFETY: reads one register.
    unsafe { std::arch::asm!("mrs {}, tpidr_el0", out(reg) thread_pointer, options(nomem, nostack, preserves_flags)) };
    words[WORDS - 1].store(thread_pointer, Ordering::Relaxed);
}
