//! The way on which a followed process is asked to stand, and let go.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use super::errand::{Errand, ErrandError};
use super::follow::Request;
use super::hold::{Held, Hold};
use crate::arch::Arch;
use crate::process::error::StopError;

/// The way to the following thread.
#[derive(Clone, Debug)]
pub(in crate::process) struct Line {
    requests: Arc<Mutex<Sender<Request>>>,
    bell: Arc<EventFd>,
}

impl Line {
    /// The way on which `requests` go; `bell` wakes who takes them.
    pub(super) fn new(requests: Sender<Request>, bell: Arc<EventFd>) -> Line {
        Line { requests: Arc::new(Mutex::new(requests)), bell }
    }

    pub(super) fn ask(&self, request: Request) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody there means that everything was let go already.
        let _ = requests.send(request);
        let _ = self.bell.write(1);
    }

    /// Has all threads of a followed process stand still, waiting at most `limit` for the last one.
    pub(super) fn stop(
        &self,
        pid: i32,
        arch: &'static Arch,
        limit: Duration,
    ) -> Result<(Box<dyn Hold>, Held), StopError> {
        let began = Instant::now();
        let (answer, answered) = mpsc::channel();
        self.ask(Request::Stop { pid, arch, limit, answer });
        // The answer's other end is dropped where there is no such process any more.
        let held = answered.recv().map_err(|_| StopError::Ended { pid })?;
        let standing = Standing { line: self.clone(), pid, began, released: false };
        Ok((Box::new(standing), held))
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

    fn run(&self, errand: Errand) -> Result<(), ErrandError> {
        let (answer, answered) = mpsc::channel();
        self.line.ask(Request::Run { pid: self.pid, errand, answer });
        answered.recv().unwrap_or(Err(ErrandError::Ended))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.let_go();
    }
}
