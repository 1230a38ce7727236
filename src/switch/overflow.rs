//! Says which coroutine has overflowed its stack, as the standard library does for threads.
//!
//! A coroutine that runs into the guard below its stack dies of a bare SIGSEGV. Where this was asked for, a handler first
//! writes its name and its stack's bounds to standard error; then the process ends by the same signal, and a core file
//! is written as before. Every other fault goes to whatever handled it before: nothing else is called an overflow.
//!
//! The handler needs an alternate signal stack, which Rust's own threads have; on others the process ends as before.

#![allow(unsafe_code)]

use std::fmt::Write as _;
use std::io;
use std::ptr;
use std::sync::OnceLock;

use super::roster::{self, Overflowed};

/// The signals that an access to a guard comes as.
const SIGNALS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// What handled [`SIGNALS`] before.
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

/// From now on, a coroutine or a segment that overflows its stack is named on standard error before the process ends.
///
/// Asking twice changes nothing. Handlers that are installed later must call the one that they replace.
///
/// # Errors
/// Where the system refuses the handlers.
pub fn report_overflows() -> io::Result<()> {
    let mut previous = [none(); 2];
    for (signal, before) in SIGNALS.into_iter().zip(&mut previous) {
        // SAFETY: only asks.
        if unsafe { libc::sigaction(signal, ptr::null(), before) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The handler finds them from its first call on.
    if PREVIOUS.set(previous).is_err() {
        return Ok(());
    }
    for signal in SIGNALS {
        let mut action = none();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler calls nothing that is not allowed in one.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The action of a signal that nobody handles.
fn none() -> libc::sigaction {
    // SAFETY: all zeroes is a valid `sigaction`: the default one.
    unsafe { std::mem::zeroed() }
}

/// The handler. It allocates nothing and takes no lock.
extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with `SA_SIGINFO` the kernel gives both.
    let known = unsafe { &*info };
    // SAFETY: both signals come with an address.
    let at = unsafe { known.si_addr() }.addr();
    // SAFETY: as above.
    let sp = stack_pointer(unsafe { &*context.cast::<libc::ucontext_t>() });
    match roster::overflowed(at, sp) {
        Some(overflowed) => {
            say(&overflowed);
            set(signal, &none());
        }
        None => pass_on(signal, info, context),
    }
}

/// Hands the signal to whatever handled it before. Where nothing did, the fault happens again and ends the process.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let index = usize::from(signal != SIGNALS[0]);
    let Some(previous) = PREVIOUS.get().map(|previous| previous[index]) else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => set(signal, &previous),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with this flag, the number is the address of such a function.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without the flag, the number is the address of such a function.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}

fn set(signal: i32, action: &libc::sigaction) {
    // SAFETY: an action that was in place before, or the default one.
    unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
}

fn say(overflowed: &Overflowed) {
    let Overflowed { name, low, high, is_segment } = overflowed;
    let what = if *is_segment { "segment" } else { "coroutine" };
    let mut line = Line { bytes: [0; 256], length: 0 };
    // A line that is too long is cut.
    let _ = writeln!(
        line,
        "\n{what} '{}' has overflowed its stack: {low:#x} to {high:#x}, {} bytes",
        name.as_str(),
        high - low
    );
    // SAFETY: the bytes are there. Nothing is to be done where standard error is closed.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.length) };
}

/// Text of a bounded length, without an allocation.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.length..];
        let fitting = text.len().min(room.len());
        room[..fitting].copy_from_slice(&text.as_bytes()[..fitting]);
        self.length += fitting;
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}
