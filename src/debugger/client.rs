//! The two directions of a connection to a client.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use gdbstub::conn::Connection;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::Ends;

/// What a client may send before it is looked at, in bytes.
const READ_AT_ONCE: usize = 4096;

/// An answer is sent in parts of about this many bytes, so that none needs more memory.
const SEND_AT_ONCE: usize = 64 << 10;

/// A connection to a client.
#[derive(Debug)]
pub struct Client {
    input: File,
    output: File,
}

impl Client {
    /// One that sends to `input` and reads from `output`, which may be the same socket.
    pub fn new(input: OwnedFd, output: OwnedFd) -> Client {
        Client { input: input.into(), output: output.into() }
    }

    pub(super) fn split(self) -> (Input, Output) {
        let input = Input { file: self.input, bytes: [0; READ_AT_ONCE], next: 0, filled: 0 };
        (input, Output { file: self.output, unsent: Vec::new() })
    }
}

/// What the client sends.
pub(super) struct Input {
    file: File,
    bytes: [u8; READ_AT_ONCE],
    next: usize,
    filled: usize,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// The client sent this byte.
    Byte(u8),
    /// It sends no more.
    Closed,
    /// The program has ended.
    Ended,
}

impl Input {
    /// Waits for the client, and for the end of the program if it runs.
    pub(super) fn next(&mut self, ends: Option<&Ends>) -> io::Result<Event> {
        if self.next == self.filled {
            if let Some(ends) = ends
                && self.is_quiet_until_end(ends)?
            {
                return Ok(Event::Ended);
            }
            (self.next, self.filled) = (0, self.read()?);
        }
        let byte = self.bytes[..self.filled].get(self.next);
        self.next += 1;
        Ok(byte.map_or(Event::Closed, |byte| Event::Byte(*byte)))
    }

    /// Waits until the client sends something, or the program has ended: then `true`.
    fn is_quiet_until_end(&self, ends: &Ends) -> io::Result<bool> {
        loop {
            let mut files = [self.file.as_fd(), ends.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
            match poll(&mut files, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(files[0].any() != Some(true)),
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        loop {
            match self.file.read(&mut self.bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                read => return read,
            }
        }
    }
}

/// Where in a packet the client is: `$`, the packet, `#`, two digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Between,
    Inside,
    /// That many digits are still to come.
    Checksum(u8),
}

impl Place {
    /// The place after one more byte.
    pub(super) fn after(self, byte: u8) -> Place {
        match (self, byte) {
            (Place::Between, b'$') => Place::Inside,
            (Place::Inside, b'#') => Place::Checksum(2),
            (Place::Checksum(2), _) => Place::Checksum(1),
            (Place::Checksum(_), _) => Place::Between,
            (place, _) => place,
        }
    }

    /// Whether the byte asks for the last answer once more. On a connection that loses nothing, that only means that the
    /// client has waited for long, and the answer comes.
    pub(super) fn is_impatience(self, byte: u8) -> bool {
        self == Place::Between && byte == b'-'
    }
}

/// What is sent to the client.
pub(super) struct Output {
    file: File,
    unsent: Vec<u8>,
}

impl Output {
    fn send(&mut self) -> io::Result<()> {
        let sent = self.file.write_all(&self.unsent);
        self.unsent.clear();
        sent
    }
}

impl Connection for Output {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        let is_acknowledgement = byte == b'+' && self.unsent.is_empty();
        self.unsent.push(byte);
        // What an answer takes may be longer than the client waits before it sends its packet again.
        if is_acknowledgement || self.unsent.len() >= SEND_AT_ONCE { self.send() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
