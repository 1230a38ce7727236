//! A terminal of the program's own: a pseudo-terminal whose one end the program has, and whose other end is ours.
//!
//! A second process, the *keeper*, has that end as well and outlives us: see [`super::keeper`].

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};

/// Our end of the program's terminal. Once it is dropped, what the program writes goes to our own terminal.
#[derive(Debug)]
pub struct Pty {
    master: File,
    keeper: UnixStream,
}

/// Columns and rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TerminalSize {
    /// How many characters fit into a row.
    pub columns: u16,
    /// How many rows there are.
    pub rows: u16,
}

/// What we tell the keeper, a byte each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Word {
    /// Pass on what the program writes.
    Pass = b'p',
    /// Wait again; answered with a byte.
    Wait = b'w',
}

/// A pseudo-terminal that nobody uses yet.
pub(super) struct Fresh {
    /// Our end; reads and writes do not wait.
    pub(super) master: OwnedFd,
    /// The program's end.
    pub(super) slave: OwnedFd,
    /// Our own terminal, to which the keeper writes without waiting.
    pub(super) outer: OwnedFd,
}

impl Pty {
    pub(super) fn new(master: OwnedFd, keeper: UnixStream) -> Pty {
        Pty { master: File::from(master), keeper }
    }

    /// The end to read what the program writes and to write what it reads. Neither waits; while nobody has the other
    /// end open, reading fails with `EIO`.
    pub fn master(&self) -> &File {
        &self.master
    }

    /// Tells the program that its terminal has another size.
    pub fn resize(&self, size: TerminalSize) {
        resize(self.master.as_fd(), size);
    }

    /// Sends a signal to the foreground job of the program's terminal, as the terminal's keys do.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the call takes a descriptor of ours and a number (`pty_signal` in drivers/tty/pty.c).
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSIG, signal) };
    }

    /// From now on what the program writes goes to our own terminal, for as long as we do not [`Pty::take_back`].
    pub fn hand_over(&self) {
        let _ = (&self.keeper).write_all(&[Word::Pass as u8]);
    }

    /// From now on what the program writes comes to us again.
    pub fn take_back(&self) {
        let _ = (&self.keeper).write_all(&[Word::Wait as u8]);
        // Until it answers, it may still be reading. If it is gone, so is the program's terminal.
        let _ = (&self.keeper).read_exact(&mut [0]);
    }
}

impl Fresh {
    /// A terminal like our own, of another size.
    pub(super) fn open(size: TerminalSize) -> io::Result<Fresh> {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let outer = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/tty")?;
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = peer(master.as_raw_fd())?;
        if let Ok(settings) = tcgetattr(&outer) {
            tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
        }
        resize(master.as_fd(), size);
        Ok(Fresh { master: OwnedFd::from(master), slave, outer: outer.into() })
    }
}

/// Which of stdin, stdout and stderr are a terminal.
pub(super) fn terminals() -> [bool; 3] {
    [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()]
}

/// Opens the program's end by ours: `/dev/pts` need not be mounted for that (ioctl_tty(2), Linux 4.13).
pub(super) fn peer(master: i32) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the call takes a descriptor and a number.
    let number = Errno::result(unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn resize(master: BorrowedFd<'_>, size: TerminalSize) {
    let size = libc::winsize { ws_row: size.rows.max(1), ws_col: size.columns.max(1), ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one `winsize` of ours.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}
