//! A launched program and all that it starts, followed on a thread of its own: its signals, forks, threads and ends.
//!
//! You give the process, before it becomes the program; you get told what happens, and may have any of the processes
//! stand still for a look. The kernel ties tracees to the thread that seized them, and lets all of them go when that
//! thread ends, however it ends: so dropping [`Tracees`], or our being killed, leaves the program running by itself.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::follow;
use crate::arch::Arch;
use crate::process::error::{OpenError, StopError};
use crate::process::live::Live;
use crate::process::trace::stopped::{Hold, KnownMap, Stopped};
use crate::process::trace::tracer::Held;

/// Something that happened to the program, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Happened {
    /// When we saw it.
    pub at: Instant,
    /// What it was.
    pub what: Happening,
}

/// What can happen to a followed program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happening {
    /// A process has a new child.
    Forked {
        /// The process.
        parent: i32,
        /// Its child, which is followed as well.
        child: i32,
    },
    /// A process became another program, with new memory and one thread.
    Executed {
        /// The process.
        pid: i32,
    },
    /// A process has a new thread.
    ThreadStarted {
        /// The process.
        pid: i32,
        /// Its thread.
        tid: i32,
    },
    /// A thread has ended, and its process lives on.
    ThreadEnded {
        /// The process.
        pid: i32,
        /// Its thread.
        tid: i32,
    },
    /// A signal was passed on.
    Signal(Signalled),
    /// A signal that will end the process is about to be passed on. The process stands until [`Tracees::release`].
    Fatal(Signalled),
    /// All threads of a process are about to end. Its memory is still there, and it stands until [`Tracees::release`].
    Ending {
        /// The process.
        pid: i32,
    },
    /// A process was stopped by a signal, as `SIGSTOP` and the terminal's suspend key do.
    Paused {
        /// The process.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// A process has ended.
    Ended {
        /// The process.
        pid: i32,
        /// How.
        outcome: Outcome,
    },
    /// We follow no longer, since that would slow the program down too much. It runs on by itself.
    LetGo(TooBusy),
}

/// A signal on its way to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signalled {
    /// The process.
    pub pid: i32,
    /// The thread that takes it.
    pub tid: i32,
    /// Its number.
    pub signal: i32,
    /// The process that sent it; `None` where the kernel did.
    pub from: Option<i32>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal.
    Killed {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
}

/// What there was too much of to go on following.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooBusy {
    /// More signals in a second than this.
    Signals(u32),
    /// Far more processes and threads started and ended in a second than this.
    Starts(u32),
}

/// A request to the following thread.
pub(super) enum Request {
    /// Have a process stand, and answer when it does.
    Stop { pid: i32, arch: &'static Arch, limit: Duration, answer: Sender<Held> },
    /// It has stood long enough for who asked to [`Request::Stop`] it.
    Release { pid: i32 },
    /// A process that stands before its end was told of may end.
    LetEnd { pid: i32 },
    /// Let everything go.
    LetGo,
}

/// The following thread, seen from outside. Dropping it lets everything go.
#[derive(Debug)]
pub struct Tracees {
    line: Line,
    thread: Option<JoinHandle<()>>,
}

/// The way to the following thread.
#[derive(Clone, Debug)]
pub(in crate::process) struct Line {
    requests: Arc<Mutex<Sender<Request>>>,
    bell: Arc<EventFd>,
}

impl Line {
    fn ask(&self, request: Request) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody there means that everything was let go already.
        let _ = requests.send(request);
        let _ = self.bell.write(1);
    }

    /// Has all threads of a followed process stand still, waiting at most `limit` for the last one.
    pub(in crate::process) fn stop<'live>(
        &self,
        live: &'live Live,
        map: KnownMap,
        limit: Duration,
    ) -> Result<Stopped<'live>, StopError> {
        let (pid, arch) = (live.process().pid, live.arch());
        Stopped::held_by(live, map, || {
            let began = Instant::now();
            let (answer, answered) = mpsc::channel();
            self.ask(Request::Stop { pid, arch, limit, answer });
            // The answer's other end is dropped where there is no such process any more.
            let held = answered.recv().map_err(|_| StopError::Ended { pid })?;
            let standing = Standing { line: self.clone(), pid, began, released: false };
            Ok((Box::new(standing) as Box<dyn Hold>, held))
        })
    }
}

impl Tracees {
    /// Seizes process `pid`, which has one thread, and from then on tells what happens to it and to all that it starts.
    ///
    /// # Errors
    /// The kernel does not let us trace it, or there is no thread for it.
    pub fn seize(pid: i32, tell: impl Fn(Happened) + Send + 'static) -> Result<Tracees, StopError> {
        let (requests, asked) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        let no_thread = |error: nix::Error| StopError::NoTracerThread(io::Error::from(error));
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(no_thread)?);
        let rung = Arc::clone(&bell);
        let body = move || follow::follow(pid, &asked, &rung, &report, &tell);
        let thread = thread::Builder::new()
            .name("stackscope-follow".into())
            .stack_size(256 << 10)
            .spawn(body)
            .map_err(StopError::NoTracerThread)?;
        reported.recv().map_err(|_| StopError::TracerDied { pid })??;
        let line = Line { requests: Arc::new(Mutex::new(requests)), bell };
        Ok(Tracees { line, thread: Some(thread) })
    }

    /// Opens a followed process. [`Live::stop`] then asks us to have its threads stand.
    ///
    /// # Errors
    /// As [`Live::open`].
    pub fn open(&self, pid: i32) -> Result<Live, OpenError> {
        Live::followed(pid, self.line.clone())
    }

    /// Lets a process go on that stands after [`Happening::Fatal`] or [`Happening::Ending`].
    pub fn release(&self, pid: i32) {
        self.line.ask(Request::LetEnd { pid });
    }
}

impl Drop for Tracees {
    fn drop(&mut self) {
        self.line.ask(Request::LetGo);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A followed process that stands still until this is dropped.
struct Standing {
    line: Line,
    pid: i32,
    began: Instant,
    released: bool,
}

impl Hold for Standing {
    fn let_go(&mut self) -> Duration {
        if !std::mem::replace(&mut self.released, true) {
            self.line.ask(Request::Release { pid: self.pid });
        }
        self.began.elapsed()
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.let_go();
    }
}
