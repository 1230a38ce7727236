//! Signals that ask for something: the handler only wakes whoever waits for them.

#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use super::futex;

/// Linux has signals up to this number (`_NSIG`).
const LAST: usize = 64;

/// How often each signal has arrived.
static ARRIVED: [AtomicU32; LAST + 1] = [const { AtomicU32::new(0) }; LAST + 1];

/// The arrivals of one signal.
#[derive(Debug)]
pub struct Requests {
    arrived: &'static AtomicU32,
    seen: u32,
}

impl Requests {
    /// Handles `signal` from now on: it asks, and does nothing else. What handled it before no longer does.
    ///
    /// # Errors
    /// If there is no such signal, or it can't be handled.
    pub fn by_signal(signal: i32) -> io::Result<Requests> {
        let arrived = usize::try_from(signal).ok().and_then(|signal| ARRIVED.get(signal));
        let arrived = arrived.ok_or(io::ErrorKind::InvalidInput)?;
        let seen = arrived.load(Ordering::Acquire);
        // SAFETY: all zeroes is a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // An alternate stack may have no room for the frames of two signals, and the dump interrupts its thread by one.
        // SAFETY: writes the mask.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        // SAFETY: the handler calls nothing that is not allowed in one.
        match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
            0 => Ok(Requests { arrived, seen }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until the signal has arrived since the last time.
    pub fn wait(&mut self) {
        loop {
            let now = self.arrived.load(Ordering::Acquire);
            if now != self.seen {
                self.seen = now;
                return;
            }
            futex::wait(self.arrived, now, Duration::MAX);
        }
    }
}

/// The handler.
extern "C" fn count(signal: i32) {
    let errno = Errno::last_raw();
    if let Some(arrived) = usize::try_from(signal).ok().and_then(|signal| ARRIVED.get(signal)) {
        arrived.fetch_add(1, Ordering::Release);
        futex::wake_all(arrived);
    }
    Errno::set_raw(errno);
}
