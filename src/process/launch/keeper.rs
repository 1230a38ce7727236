//! The process that keeps the program's terminal: it leads the terminal's session, has our end of it, and outlives us.
//!
//! While we live it waits. Once we have ended, in whatever way, or have told it to, it passes what the program writes
//! on to our own terminal, so that the program can go on writing as if we had never run. It ends when nobody can
//! use the program's terminal any more, or, after our end, with our own terminal: the program is then hung up on, as
//! every program of a terminal is.
//!
//! The program is not its child but ours (`CLONE_PARENT`), and no other process of the session is ever signalled
//! because the program ends: that would happen if the program led the session itself.
//!
//! What runs here runs after a `fork` and before no `execve`: it calls only functions that are safe then
//! (signal-safety(7)), and allocates nothing.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::{getpgrp, read, setsid, tcsetpgrp, write};

use super::pty::{self, Word};
use crate::process::trace::vanish;

/// How much is read from the program before our terminal has taken it.
const ROOM: usize = 1 << 14;

/// After how many milliseconds a terminal that nobody has open is looked at again: the program may open it later.
const PACE: libc::c_int = 200;

/// What the keeper needs, by number.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// Orders from us come here; the end of this stream is our end.
    pub(super) words: RawFd,
    /// Our end of the program's terminal.
    pub(super) master: RawFd,
    /// Our own terminal.
    pub(super) outer: RawFd,
}

/// Makes this process, which was just forked, the leader of a session whose terminal is `slave`.
pub(super) fn lead(slave: &OwnedFd) -> nix::Result<()> {
    setsid()?;
    // SAFETY: the call takes a descriptor and a number.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Forks the process that becomes the program: a sibling of this one, in its session. 0 in the new process.
pub(super) fn fork_sibling() -> nix::Result<i32> {
    let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as libc::c_ulong;
    let zero: libc::c_ulong = 0;
    // SAFETY: without a stack and without CLONE_VM this is a fork: the new process has a copy of all memory.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero) })?;
    Ok(number as i32)
}

/// Keeps the terminal of `program` until nobody needs it any more.
pub(super) fn keep(ends: Ends, program: i32) -> ! {
    if let Ok(process) = vanish::open(program)
        && let Some(mut keeper) = Keeper::new(ends, &process)
    {
        while keeper.step() {}
        keeper.farewell();
    }
    // SAFETY: ends the process without running anything of its parent's.
    unsafe { libc::_exit(0) }
}

struct Keeper {
    words: OwnedFd,
    master: OwnedFd,
    outer: OwnedFd,
    /// The program (pidfd_open(2), Linux 5.3).
    process: OwnedFd,
    /// Whether we pass on what the program writes.
    passes: bool,
    /// Whether the one who launched the program is gone.
    alone: bool,
    /// Whether our own terminal is gone.
    hung_up: bool,
    /// Whether the program has ended.
    ended: bool,
    /// Whether nobody had the program's terminal open at the last look.
    unused: bool,
    room: [u8; ROOM],
    /// What of `room` has not reached our terminal yet.
    from: usize,
    to: usize,
}

impl Keeper {
    /// Moves what it needs to low numbers and closes everything else, because others may wait for the end of those
    /// streams.
    fn new(ends: Ends, process: &OwnedFd) -> Option<Keeper> {
        const FIRST: RawFd = 3;
        let taken = [ends.words, ends.master, ends.outer, process.as_raw_fd()];
        // First out of each other's way.
        let moved = taken.map(|number| {
            // SAFETY: the call takes three numbers.
            unsafe { libc::fcntl(number, libc::F_DUPFD, FIRST + 4) }
        });
        let mut index = 0;
        let [words, master, outer, process] = moved.map(|number| {
            let place = FIRST + index;
            index += 1;
            // SAFETY: the call takes two numbers; nothing uses what it may replace.
            let placed = unsafe { libc::dup2(number, place) };
            // SAFETY: it was just made, and nothing else has it.
            (placed == place).then(|| unsafe { OwnedFd::from_raw_fd(placed) })
        });
        let keeper = Keeper {
            words: words?,
            master: master?,
            outer: outer?,
            process: process?,
            passes: false,
            alone: false,
            hung_up: false,
            ended: false,
            unused: false,
            room: [0; ROOM],
            from: 0,
            to: 0,
        };
        close_all_but(FIRST, FIRST + 4);
        Some(keeper)
    }

    /// Waits for something to do and does it; returns whether anything is left to do.
    fn step(&mut self) -> bool {
        let holds = self.from < self.to;
        let looks_again = self.passes && self.unused;
        let reads = self.passes && !holds && !self.unused;
        let asked = |asks: bool, file: &OwnedFd, events| libc::pollfd {
            // The kernel skips negative numbers.
            fd: if asks { file.as_raw_fd() } else { -1 },
            events,
            revents: 0,
        };
        let mut news = [
            asked(!self.alone, &self.words, libc::POLLIN),
            asked(!self.hung_up, &self.outer, if holds { libc::POLLOUT } else { 0 }),
            asked(!self.ended, &self.process, libc::POLLIN),
            asked(reads, &self.master, libc::POLLIN),
        ];
        // SAFETY: the array is ours, and its length is given.
        let count = unsafe { libc::poll(news.as_mut_ptr(), 4, if looks_again { PACE } else { -1 }) };
        if count < 0 {
            return true;
        }
        let [word, outer, process, program] = news.map(|news| news.revents);
        self.ended |= process != 0;
        self.hung_up |= outer & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
        if word != 0 {
            self.take_word();
        }
        if program != 0 || looks_again {
            self.read_program();
        }
        self.write_out();
        let is_over = self.unused && self.ended && self.from == self.to;
        !(self.alone && (self.hung_up || is_over))
    }

    fn take_word(&mut self) {
        let mut word = [0];
        match read(&self.words, &mut word) {
            Ok(1) if word[0] == Word::Pass as u8 => self.passes = true,
            Ok(1) => {
                self.passes = false;
                let _ = write(&self.words, &word);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) | Err(_) => (self.alone, self.passes) = (true, true),
        }
    }

    fn read_program(&mut self) {
        if self.from < self.to {
            return;
        }
        (self.from, self.to) = (0, 0);
        match read(&self.master, &mut self.room) {
            Ok(0) | Err(Errno::EIO) => self.unused = true,
            Ok(count) => (self.unused, self.to) = (false, count),
            Err(Errno::EAGAIN) => self.unused = false,
            Err(_) => {}
        }
    }

    /// Writes to our terminal as much as it takes; if it is gone, the output is dropped.
    fn write_out(&mut self) {
        if self.from == self.to {
            return;
        }
        if self.hung_up {
            self.from = self.to;
            return;
        }
        match write(&self.outer, &self.room[self.from..self.to]) {
            Ok(count) => self.from += count,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.hung_up = true,
        }
    }

    /// Takes leave of the terminal. A session's end is a hangup for the foreground job of its terminal: unless we are
    /// here for a hangup, that job is made our own first, so that nobody else hears of it.
    fn farewell(&self) {
        if !self.hung_up
            && let Ok(slave) = pty::peer(self.master.as_raw_fd())
        {
            let _ = tcsetpgrp(&slave, getpgrp());
        }
    }
}

/// Closes all descriptors except `first..end`; the three streams lead nowhere from now on.
fn close_all_but(first: RawFd, end: RawFd) {
    // SAFETY: the call takes a string that ends in a zero byte, and a number.
    let nothing = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
    for stream in 0..first {
        // SAFETY: the call takes two numbers; nothing in this process uses its streams.
        unsafe { libc::dup2(nothing, stream) };
    }
    // SAFETY: the call takes three numbers (close_range(2), Linux 5.9); nothing in this process uses the others.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, end, libc::c_uint::MAX, 0) };
    if closed == -1 {
        for number in end..1024 {
            // SAFETY: as above.
            unsafe { libc::close(number) };
        }
    }
}
