//! A launched program and all that it starts, followed on a thread of its own: its signals, forks, threads and ends.
//!
//! It takes the process before it becomes the program, reports what happens, and can have any of the processes
//! stand still for a look. The kernel ties tracees to the thread that seized them, and lets all of them go when that
//! thread ends, however it ends: so dropping [`Tracees`], or our being killed, leaves the program running by itself.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::armed::CodeWatch;
use super::follow::{self, Request};
use super::happening::Happened;
use super::line::Line;
use crate::addr::Addr;
use crate::process::error::{OpenError, StopError};
use crate::process::live::Live;

/// The following thread, seen from outside. Dropping it lets everything go.
#[derive(Debug)]
pub struct Tracees {
    line: Line,
    thread: Option<JoinHandle<()>>,
}

impl Tracees {
    /// Seizes process `pid`, which has one thread, and from then on reports what happens to it and to all that it
    /// starts.
    ///
    /// # Errors
    /// The kernel does not let us trace it, or there is no thread for it.
    pub fn seize(pid: i32, tell: impl Fn(Happened) + Send + 'static) -> Result<Tracees, StopError> {
        Tracees::seized(pid, false, tell)
    }

    /// The same; and a program's code is told of before it runs ([`Happening::Mapped`](super::Happening::Mapped)), for
    /// the code that its loader maps when it starts.
    ///
    /// # Errors
    /// As [`Tracees::seize`].
    pub fn seize_with_starts(pid: i32, tell: impl Fn(Happened) + Send + 'static) -> Result<Tracees, StopError> {
        Tracees::seized(pid, true, tell)
    }

    fn seized(pid: i32, follows_starts: bool, tell: impl Fn(Happened) + Send + 'static) -> Result<Tracees, StopError> {
        let (requests, asked) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        let no_thread = |error: nix::Error| StopError::NoTracerThread(io::Error::from(error));
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(no_thread)?);
        let rung = Arc::clone(&bell);
        let body = move || follow::follow(pid, &asked, &rung, &report, follows_starts, &tell);
        let thread = thread::Builder::new()
            .name("stackscope-follow".into())
            .stack_size(256 << 10)
            .spawn(body)
            .map_err(StopError::NoTracerThread)?;
        reported.recv().map_err(|_| StopError::TracerDied { pid })??;
        let line = Line::new(requests, bell);
        Ok(Tracees { line, thread: Some(thread) })
    }

    /// Opens a followed process. [`Live::stop`] then asks us to have its threads stand.
    ///
    /// # Errors
    /// As [`Live::open`].
    pub fn open(&self, pid: i32) -> Result<Live, OpenError> {
        Live::followed(pid, self.line.clone())
    }

    /// Has each new program stop at its entry, from now on: what it is linked with is mapped then.
    pub fn watch_entries(&self) {
        self.line.ask(Request::WatchEntries);
    }

    /// Has the threads of a process stop at places in their code, from now on, and no others.
    pub fn watch(&self, pid: i32, watch: CodeWatch) {
        self.line.ask(Request::Watch { pid, watch });
    }

    /// Lets a process go on that stands because a thread has reached such a place.
    pub fn let_pass(&self, pid: i32) {
        self.line.ask(Request::LetPass { pid });
    }

    /// Lets a process go on that stands after [`Happening::Fault`](super::Happening::Fault).
    pub fn let_handle(&self, pid: i32) {
        self.line.ask(Request::LetHandle { pid });
    }

    /// Lets a process go on that stands after [`Happening::Fatal`](super::Happening::Fatal) or [`Happening::Ending`](super::Happening::Ending).
    pub fn release(&self, pid: i32) {
        self.line.ask(Request::LetEnd { pid });
    }
}

impl Tracees {
    /// Lets a process go on that stands after [`Happening::Mapped`](super::Happening::Mapped).
    pub fn begin(&self, pid: i32) {
        self.line.ask(Request::Begin { pid });
    }

    /// From now on, children that begin with a copy of the process's memory get these bytes at these places.
    pub fn hand_on(&self, pid: i32, bytes: Vec<(Addr, Vec<u8>)>) {
        self.line.ask(Request::Hand { pid, bytes });
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
