//! The signals that are sent to us while we watch a program: received on a thread of their own instead of ending us.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::thread;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, raise, signal};
use nix::unistd::Pid;

use crate::process::launch::Inherited;

/// The signals that we receive. `SIGCHLD` is only blocked: it wakes the thread that waits for tracees.
const TAKEN: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// A signal that was sent to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The process that sent it to us; `None` if the kernel did, as it does for keys of the terminal, which go to all
    /// processes of the foreground group and so to the program too.
    pub from: Option<i32>,
}

/// Our signals, blocked since this was made.
#[derive(Debug)]
pub struct Inbox {
    inherited: Inherited,
}

impl Inbox {
    /// Blocks the signals for this thread and those it will start. Make it before any other thread starts.
    ///
    /// # Errors
    /// The kernel's, if it can't change the mask.
    pub fn open() -> io::Result<Inbox> {
        let mut blocked = SigSet::from_iter(TAKEN);
        blocked.add(Signal::SIGCHLD);
        let mask = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        // Children whose end is ignored vanish without a status.
        // SAFETY: no handler is set, only a default.
        let former = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
        Ok(Inbox { inherited: Inherited { mask, ignores_children: matches!(former, SigHandler::SigIgn) } })
    }

    /// What a program that we launch is to inherit.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// Hands every signal to `tell`, on a thread that lasts as long as we do.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn listen(&self, tell: impl Fn(Received) + Send + 'static) -> io::Result<()> {
        let body = move || {
            loop {
                if let Some(received) = wait() {
                    tell(received);
                }
            }
        };
        thread::Builder::new().name("stackscope-signals".into()).stack_size(128 << 10).spawn(body).map(drop)
    }
}

/// Waits for the next signal; `None` if the wait was interrupted.
fn wait() -> Option<Received> {
    let set = SigSet::from_iter(TAKEN);
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: both pointers are to values of ours of the right type.
    let signal = unsafe { libc::sigwaitinfo(set.as_ref(), info.as_mut_ptr()) };
    // SAFETY: all bytes were set to zero above, which is a valid siginfo_t, before the kernel filled it.
    let info = unsafe { info.assume_init() };
    (signal > 0).then(|| Received { signal, from: sender(&info) })
}

/// The process that sent a signal by `kill` or a similar call; these have a code of at most zero (sigaction(2)).
fn sender(info: &libc::siginfo_t) -> Option<i32> {
    if info.si_code > 0 {
        return None;
    }
    // SAFETY: the codes up to zero are those of signals sent by a process, for which the kernel fills `si_pid`.
    Some(unsafe { info.si_pid() })
}

/// Sends `signal` to one of our processes; one that has ended does not need it.
pub fn pass_on(pid: i32, signal: i32) {
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Stops ourselves, as the shell's job control would have, until somebody sends us `SIGCONT`.
pub fn stop_ourselves() {
    let _ = raise(Signal::SIGSTOP);
}
