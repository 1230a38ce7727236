//! Starts a program as if the shell had started it, except that it waits, just before its `execve`, until it is traced.
//!
//! It inherits everything: the three streams, the process group and with it the terminal, the signal mask and ignored
//! signals, limits and environment. Nothing is sent to it and nothing stops it. If our screen takes the terminal,
//! the program gets one of its own ([`launch_on_terminal`]).

#![allow(unsafe_code)]

mod keeper;
mod pty;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2, setpgid, tcsetpgrp};

use crate::process::trace::happening::Outcome;
use crate::process::trace::vanish;
use keeper::Ends;
use pty::Fresh;

pub use pty::{Pty, TerminalSize};

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such file.
    #[error("cannot find {}", .0.display())]
    NotFound(OsString),
    /// There is one, but it can't be executed.
    #[error("cannot execute {}", .0.display())]
    NotExecutable(OsString, #[source] io::Error),
    /// A word of the command line holds a zero byte.
    #[error("the word {0:?} of the command line holds a zero byte")]
    ZeroByte(OsString),
    /// The kernel can make no process or no pipe.
    #[error("cannot start a process")]
    NoProcess(#[source] io::Error),
    /// There is no terminal for it.
    #[error("cannot make a terminal for the program")]
    NoTerminal(#[source] io::Error),
}

/// What a launched program inherits of how we were started, though we changed it for ourselves.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// The signals that were blocked.
    pub(super) mask: SigSet,
    /// Whether the end of children was ignored.
    pub(super) ignores_children: bool,
}

/// A started process that waits for [`Launched::go`]. Dropping it instead ends the process before it was a program.
#[derive(Debug)]
pub struct Launched {
    pid: i32,
    program: OsString,
    go: File,
    failed: File,
}

/// Starts a process that is to become `program`, looked for in `PATH` unless its name holds a slash.
///
/// # Errors
/// Only those of the process itself; [`Launched::go`] reports a missing program.
pub fn launch(program: &OsStr, arguments: &[OsString], inherited: Inherited) -> Result<Launched, LaunchError> {
    let start = Start::new(program, arguments, inherited)?;
    // SAFETY: until it becomes another program or ends, the child only calls functions that are safe after a fork
    // (signal-safety(7)) and touches only what was made before.
    match unsafe { fork() }.map_err(no_process)? {
        ForkResult::Parent { child } => Ok(start.launched(child.as_raw(), program)),
        ForkResult::Child => start.become_program(),
    }
}

/// The same, but those of stdin, stdout and stderr that are a terminal become the program's own terminal, of this size.
/// It is the terminal of a session of its own, so that shells and editors work in it. A stream that is no terminal
/// stays as it is.
///
/// # Errors
/// As for [`launch`]; or no terminal can be made.
pub fn launch_on_terminal(
    program: &OsStr,
    arguments: &[OsString],
    inherited: Inherited,
    size: TerminalSize,
) -> Result<(Launched, Pty), LaunchError> {
    let start = Start::new(program, arguments, inherited)?;
    let Fresh { master, slave, outer } = Fresh::open(size).map_err(LaunchError::NoTerminal)?;
    let (ours, words) = UnixStream::pair().map_err(LaunchError::NoTerminal)?;
    let (number_read, number_write) = pipe2(OFlag::O_CLOEXEC).map_err(no_process)?;
    let streams = pty::terminals();
    // SAFETY: until they become another program or end, the child and its sibling only call functions that are safe
    // after a fork (signal-safety(7)) and touch only what was made before.
    match unsafe { fork() }.map_err(no_process)? {
        ForkResult::Parent { .. } => {
            drop((number_write, words, slave));
            let mut number = [0; 4];
            File::from(number_read).read_exact(&mut number).map_err(LaunchError::NoTerminal)?;
            let launched = start.launched(i32::from_ne_bytes(number), program);
            Ok((launched, Pty::new(master, ours)))
        }
        ForkResult::Child => match keeper::lead(&slave).and_then(|()| keeper::fork_sibling()) {
            Ok(0) => {
                move_in(&slave, streams);
                start.become_program()
            }
            Ok(program) => {
                let _ = nix::unistd::write(&number_write, &program.to_ne_bytes());
                let ends = Ends { words: words.as_raw_fd(), master: master.as_raw_fd(), outer: outer.as_raw_fd() };
                keeper::keep(ends, program)
            }
            // SAFETY: ends the process without running anything of its parent's.
            Err(_) => unsafe { libc::_exit(127) },
        },
    }
}

/// Makes this process the foreground job of the terminal, which takes the place of these streams.
fn move_in(slave: &OwnedFd, streams: [bool; 3]) {
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    // The signal that a background job gets for this is blocked until the program begins.
    let _ = tcsetpgrp(slave, getpid());
    for (number, is_terminal) in (0..).zip(streams) {
        if is_terminal {
            // SAFETY: the call takes two numbers; nothing of ours uses the stream in this process.
            unsafe { libc::dup2(slave.as_raw_fd(), number) };
        }
    }
}

/// All that a new process needs to become the program, made before the fork.
struct Start {
    /// What `pointers` point to.
    _words: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
    go_read: OwnedFd,
    go_write: OwnedFd,
    failed_read: OwnedFd,
    failed_write: OwnedFd,
    inherited: Inherited,
}

impl Start {
    fn new(program: &OsStr, arguments: &[OsString], inherited: Inherited) -> Result<Start, LaunchError> {
        let words: Vec<CString> = std::iter::once(program)
            .chain(arguments.iter().map(OsString::as_os_str))
            .map(|word| CString::new(word.as_bytes()).map_err(|_| LaunchError::ZeroByte(word.to_owned())))
            .collect::<Result<_, _>>()?;
        let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let (go_read, go_write) = pipe2(OFlag::O_CLOEXEC).map_err(no_process)?;
        let (failed_read, failed_write) = pipe2(OFlag::O_CLOEXEC).map_err(no_process)?;
        Ok(Start { _words: words, pointers, go_read, go_write, failed_read, failed_write, inherited })
    }

    /// The parent's part.
    fn launched(self, pid: i32, program: &OsStr) -> Launched {
        let (go, failed) = (File::from(self.go_write), File::from(self.failed_read));
        Launched { pid, program: program.to_owned(), go, failed }
    }

    /// The child's part.
    fn become_program(self) -> ! {
        // The other end must not keep ours open.
        drop(self.go_write);
        become_program(&self.pointers, &self.go_read, &self.failed_write, self.inherited)
    }
}

fn no_process(error: Errno) -> LaunchError {
    LaunchError::NoProcess(error.into())
}

impl Launched {
    /// The number of the process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it become the program. When this returns, it has, or never will.
    ///
    /// # Errors
    /// The program is missing or can't be executed; the process then ends by itself.
    pub fn go(mut self) -> Result<(), LaunchError> {
        // If the process is gone already, the other pipe shows it.
        let _ = self.go.write_all(&[1]);
        let mut number = [0; 4];
        match self.failed.read_exact(&mut number) {
            // Closed by the execve: the program runs.
            Err(_) => Ok(()),
            Ok(()) => {
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
                Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => LaunchError::NotFound(self.program),
                    _ => LaunchError::NotExecutable(self.program, error),
                })
            }
        }
    }
}

/// Whether `program` gets other rights by being executed: it is set-uid or set-gid. The kernel withholds these rights
/// from a program that is traced by one who lacks them (execve(2)), so that it would not work as it does without us.
pub fn gains_rights(program: &OsStr) -> bool {
    let is_privileged = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.mode() & (libc::S_ISUID | libc::S_ISGID) != 0)
    };
    if program.as_bytes().contains(&b'/') {
        return is_privileged(Path::new(program));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(program));
    paths.find(|path| path.is_file()).is_some_and(|path| is_privileged(&path))
}

/// Calls `tell` when one of our children, which nobody follows, has ended; on a thread of its own, or, if there can be
/// none, before this returns.
pub fn await_end(pid: i32, tell: impl Fn(Outcome) + Send + Sync + 'static) {
    let tell = Arc::new(tell);
    let told = Arc::clone(&tell);
    let body = move || told(wait_for_end(pid));
    let started = thread::Builder::new().name("stackscope-wait".into()).stack_size(128 << 10).spawn(body);
    if started.is_err() {
        tell(wait_for_end(pid));
    }
}

/// Waits by a file descriptor first: `waitpid` would take away the stops of looks, which another of our threads waits
/// for, whatever its options ("we see ptrace'd stopped tasks regardless of options", `wait_task_stopped` in
/// kernel/exit.c).
fn wait_for_end(pid: i32) -> Outcome {
    if let Ok(process) = vanish::open(pid) {
        vanish::wait(&process);
    }
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one int to `status`.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if waited == -1 && Errno::last() == Errno::EINTR || waited == pid && libc::WIFSTOPPED(status) {
            continue;
        }
        return match libc::WIFSIGNALED(status) {
            true => Outcome::Killed { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) },
            false => Outcome::Exited(libc::WEXITSTATUS(status)),
        };
    }
}

/// The child's part: waits for the byte, undoes what we changed for ourselves, and becomes the program.
fn become_program(words: &[*const libc::c_char], go: &OwnedFd, failed: &OwnedFd, inherited: Inherited) -> ! {
    let mut word = 0u8;
    // SAFETY: `word` is one byte of ours.
    let read = unsafe { libc::read(go.as_raw_fd(), (&raw mut word).cast(), 1) };
    if read == 1 {
        // The Rust runtime ignores SIGPIPE for us; what it was before is not known, and this is what shells leave.
        // SAFETY: no handler is set, only a default.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        if inherited.ignores_children {
            // SAFETY: no handler is set, only that it is ignored.
            let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
        }
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&inherited.mask), None);
        // SAFETY: `words` holds pointers to strings that end in zero bytes, and a null pointer at its end.
        unsafe { libc::execvp(words[0], words.as_ptr()) };
        let number = Errno::last_raw().to_ne_bytes();
        // SAFETY: `number` is four bytes of ours.
        unsafe { libc::write(failed.as_raw_fd(), number.as_ptr().cast(), number.len()) };
    }
    // SAFETY: ends the process without running anything of its parent's.
    unsafe { libc::_exit(127) }
}
