//! The program's terminal as the screen shows it: read on a thread of its own, which plays the terminal.
//!
//! Whatever the program writes is taken at once, so that it never waits for the screen. What it looks like then is told
//! as an immutable [`Pane`], at most so often as eyes can follow.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ratatui::buffer::Buffer;
use ratatui::layout::{Rect, Size};
use ratatui::style::{Color, Modifier, Style};
use vt100::{Callbacks, Parser, Screen};

use crate::process::{Pty, TerminalSize};

/// How many lines above the screen are kept.
const KEPT: usize = 10_000;
/// The time between two pictures of a program that writes all the time.
const PACE: Duration = Duration::from_millis(50);
/// How often a terminal that no program has open is looked at again.
const UNUSED_PACE: Duration = Duration::from_millis(100);
/// How much is read before the requests are looked at.
const READS_AT_ONCE: usize = 16;
/// The most that may be typed ahead of a program that does not read.
const MOST_TYPED: usize = 1 << 16;

/// What the program's terminal shows.
#[derive(Debug)]
pub(super) struct Pane {
    pub(super) cells: Buffer,
    /// Where its cursor is, where it shows one.
    pub(super) cursor: Option<(u16, u16)>,
    /// The last line that is not empty.
    pub(super) last_line: String,
    /// How many lines above the screen there are, and how many of these are seen.
    pub(super) kept: usize,
    pub(super) scrolled: usize,
    /// How the program wants some keys to be told.
    pub(super) modes: Modes,
}

/// What changes the bytes that keys are told as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Modes {
    /// Cursor keys are those of applications (DECCKM).
    pub(super) application_cursor: bool,
    /// What is pasted is marked as such.
    pub(super) bracketed_paste: bool,
}

enum Ask {
    Type(Vec<u8>),
    Resize(Size),
    Scroll(usize),
    /// Read no more: the terminal is another's for a time.
    HandOver,
    TakeBack,
    /// Read what is there, hand out the last lines, and end.
    Finish(Sender<String>),
}

/// The thread, seen from outside.
pub(super) struct Output {
    asks: Sender<Ask>,
    bell: Arc<EventFd>,
    pty: Arc<Pty>,
}

impl Output {
    /// Begins to read; each picture goes to `tell`.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn start(pty: Pty, size: Size, tell: impl Fn(Arc<Pane>) + Send + 'static) -> io::Result<Output> {
        let (asks, asked) = mpsc::channel();
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let pty = Arc::new(pty);
        let (rung, read) = (Arc::clone(&bell), Arc::clone(&pty));
        let body = move || Reader::new(read, rung, asked, size).run(&tell);
        thread::Builder::new().name("stackscope-output".into()).spawn(body)?;
        Ok(Output { asks, bell, pty })
    }

    /// Types into the program's terminal.
    pub(super) fn type_in(&self, bytes: Vec<u8>) {
        self.ask(Ask::Type(bytes));
    }

    /// Gives the program's terminal another size.
    pub(super) fn resize(&self, size: Size) {
        self.ask(Ask::Resize(size));
    }

    /// Shows the screen from this many lines further up.
    pub(super) fn scroll(&self, lines: usize) {
        self.ask(Ask::Scroll(lines));
    }

    /// Sends a signal to the foreground job, as a key of its terminal would.
    pub(super) fn signal(&self, signal: i32) {
        self.pty.signal(signal);
    }

    /// Lets what the program writes go to our own terminal for a time.
    pub(super) fn hand_over(&self) {
        self.ask(Ask::HandOver);
    }

    /// Takes it back.
    pub(super) fn take_back(&self) {
        self.ask(Ask::TakeBack);
    }

    /// Ends; from now on what the program writes goes to our own terminal. Gives the last lines that it wrote.
    pub(super) fn finish(self) -> String {
        let (sender, lines) = mpsc::channel();
        self.ask(Ask::Finish(sender));
        lines.recv().unwrap_or_default()
    }

    fn ask(&self, ask: Ask) {
        // Nobody there means that it has ended.
        let _ = self.asks.send(ask);
        let _ = self.bell.write(1);
    }
}

struct Reader {
    pty: Arc<Pty>,
    bell: Arc<EventFd>,
    asked: Receiver<Ask>,
    parser: Parser<Answers>,
    typed: Vec<u8>,
    scrolled: usize,
    /// Whether what the program writes comes to us.
    ours: bool,
    /// Whether nobody had the terminal open at the last look.
    unused: bool,
    /// Whether there is something that was not told yet, and when something was told last.
    changed: bool,
    told: Option<Instant>,
    room: Vec<u8>,
}

impl Reader {
    fn new(pty: Arc<Pty>, bell: Arc<EventFd>, asked: Receiver<Ask>, size: Size) -> Reader {
        let (rows, columns) = dimensions(size);
        Reader {
            pty,
            bell,
            asked,
            parser: Parser::new_with_callbacks(rows, columns, KEPT, Answers::default()),
            typed: Vec::new(),
            scrolled: 0,
            ours: true,
            unused: false,
            changed: true,
            told: None,
            room: vec![0; 1 << 14],
        }
    }

    fn run(mut self, tell: &dyn Fn(Arc<Pane>)) {
        loop {
            self.wait();
            while let Ok(ask) = self.asked.try_recv() {
                if let Ask::Finish(lines) = ask {
                    while self.ours && self.read() {}
                    let text = last_lines(self.parser.screen_mut());
                    drop(self);
                    let _ = lines.send(text);
                    return;
                }
                self.take(ask);
            }
            if self.ours {
                let _ = (0..READS_AT_ONCE).all(|_| self.read());
                self.write();
            }
            if self.changed && self.told.is_none_or(|told| told.elapsed() >= PACE) {
                (self.changed, self.told) = (false, Some(Instant::now()));
                tell(Arc::new(self.pane()));
            }
        }
    }

    /// Waits until there is something to read, to write, to do or to hand out.
    fn wait(&mut self) {
        let mut wanted = PollFlags::empty();
        if self.ours && !self.unused {
            wanted |= PollFlags::POLLIN;
            wanted.set(PollFlags::POLLOUT, !self.typed.is_empty());
        }
        let due = self.changed.then(|| self.told.map_or(Duration::ZERO, |told| PACE.saturating_sub(told.elapsed())));
        let pace = [due, (self.ours && self.unused).then_some(UNUSED_PACE)].into_iter().flatten().min();
        // Rounded up to whole milliseconds, or it would wait for nothing at the end.
        let timeout = pace.and_then(|pace| PollTimeout::try_from(pace + Duration::from_millis(1)).ok());
        let mut events = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        if !wanted.is_empty() {
            events.push(PollFd::new(self.pty.master().as_fd(), wanted));
        }
        let _ = poll(&mut events, timeout.unwrap_or(PollTimeout::NONE));
        let _ = self.bell.read();
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Type(bytes) => {
                if self.typed.len() + bytes.len() <= MOST_TYPED {
                    self.typed.extend(bytes);
                }
            }
            Ask::Resize(size) => {
                let (rows, columns) = dimensions(size);
                self.parser.screen_mut().set_size(rows, columns);
                self.pty.resize(TerminalSize { columns: columns.get(), rows: rows.get() });
                self.changed = true;
            }
            Ask::Scroll(lines) => (self.scrolled, self.changed, self.told) = (lines, true, None),
            Ask::HandOver => {
                self.ours = false;
                self.pty.hand_over();
            }
            Ask::TakeBack => {
                self.pty.take_back();
                self.ours = true;
            }
            Ask::Finish(_) => {}
        }
    }

    /// Reads once; whether there may be more at once.
    fn read(&mut self) -> bool {
        match self.pty.master().read(&mut self.room) {
            Ok(0) => self.unused = true,
            Ok(count) => {
                self.unused = false;
                self.parser.process(&self.room[..count]);
                self.changed = true;
                let answers = std::mem::take(&mut self.parser.callbacks_mut().answers);
                self.take(Ask::Type(answers));
                return true;
            }
            Err(error) => self.unused = error.raw_os_error() == Some(libc::EIO),
        }
        false
    }

    fn write(&mut self) {
        if self.typed.is_empty() {
            return;
        }
        match self.pty.master().write(&self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.typed.clear(),
        }
    }

    fn pane(&mut self) -> Pane {
        let screen = self.parser.screen_mut();
        let kept = screen.scrollback_len();
        let scrolled = self.scrolled.min(kept);
        screen.set_scrollback(scrolled);
        let modes =
            Modes { application_cursor: screen.application_cursor(), bracketed_paste: screen.bracketed_paste() };
        let (row, column) = screen.cursor_position();
        let cursor = (!screen.hide_cursor() && scrolled == 0).then_some((column, row));
        let cells = cells(screen);
        screen.set_scrollback(0);
        Pane { last_line: last_line(screen), cells, cursor, kept, scrolled, modes }
    }
}

fn dimensions(size: Size) -> (NonZeroU16, NonZeroU16) {
    let at_least_one = |number| NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN);
    (at_least_one(size.height), at_least_one(size.width))
}

fn cells(screen: &Screen) -> Buffer {
    let (rows, columns) = screen.size();
    let area = Rect::new(0, 0, columns.get(), rows.get());
    let mut buffer = Buffer::empty(area);
    for position in area.positions() {
        let (Some(cell), Some(drawn)) = (screen.cell(position.y, position.x), buffer.cell_mut(position)) else {
            continue;
        };
        if cell.has_contents() {
            drawn.set_symbol(cell.contents());
        }
        let mut style = Style::new().fg(color(cell.fgcolor())).bg(color(cell.bgcolor()));
        let modifiers = [
            (cell.bold(), Modifier::BOLD),
            (cell.dim(), Modifier::DIM),
            (cell.italic(), Modifier::ITALIC),
            (cell.underline(), Modifier::UNDERLINED),
            (cell.inverse(), Modifier::REVERSED),
        ];
        for (_, modifier) in modifiers.into_iter().filter(|(is_set, _)| *is_set) {
            style = style.add_modifier(modifier);
        }
        drawn.set_style(style);
    }
    buffer
}

fn color(color: vt100::Color) -> Color {
    match color {
        vt100::Color::Default => Color::Reset,
        vt100::Color::Idx(index) => Color::Indexed(index),
        vt100::Color::Rgb(red, green, blue) => Color::Rgb(red, green, blue),
    }
}

fn last_line(screen: &Screen) -> String {
    let (_, columns) = screen.size();
    let mut last = String::new();
    for row in screen.rows(0, columns.get()) {
        if !row.trim().is_empty() {
            last = row;
        }
    }
    last
}

/// The lines that stand on the screen, the empty ones at its end left out. That of an editor's or pager's own screen is
/// gone with it.
fn last_lines(screen: &mut Screen) -> String {
    let (_, columns) = screen.size();
    let mut text = String::new();
    if screen.alternate_screen() {
        return text;
    }
    for row in screen.rows(0, columns.get()) {
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text.truncate(text.trim_end().len());
    text
}

/// Answers what programs ask their terminal.
#[derive(Default)]
struct Answers {
    answers: Vec<u8>,
}

impl Callbacks for Answers {
    fn unhandled_csi(&mut self, screen: &mut Screen, i1: Option<u8>, _: Option<u8>, params: &[&[u16]], sign: char) {
        let first = params.first().and_then(|param| param.first()).copied().unwrap_or(0);
        match (i1, sign, first) {
            // Device status: all is well (DSR).
            (None, 'n', 5) => self.answers.extend(b"\x1b[0n"),
            // Where the cursor is (CPR).
            (None, 'n', 6) => {
                let (row, column) = screen.cursor_position();
                self.answers.extend(format!("\x1b[{};{}R", row + 1, column + 1).into_bytes());
            }
            // Which terminal this is: a VT100 with advanced video (DA1).
            (None, 'c', 0) => self.answers.extend(b"\x1b[?1;2c"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(written: &[u8]) -> Parser<Answers> {
        let (rows, columns) = dimensions(Size::new(20, 4));
        let mut parser = Parser::new_with_callbacks(rows, columns, 10, Answers::default());
        parser.process(written);
        parser
    }

    #[test]
    fn the_screen_is_played() {
        let mut parser = screen(b"\x1b[31mred\x1b[0m\r\nplain\x1b[5;1H\x1b[6n\x1b[c");
        let drawn = cells(parser.screen());
        assert_eq!((drawn[(0, 0)].symbol(), drawn[(0, 0)].fg), ("r", Color::Indexed(1)));
        assert_eq!(last_line(parser.screen()), "plain");
        assert_eq!(last_lines(parser.screen_mut()), "red\nplain");
        assert_eq!(parser.callbacks().answers, b"\x1b[4;1R\x1b[?1;2c");
    }

    #[test]
    fn what_an_editor_showed_is_gone_with_it() {
        let mut parser = screen(b"before\r\n\x1b[?1049hediting");
        assert_eq!(last_lines(parser.screen_mut()), "");
        parser.process(b"\x1b[?1049l");
        assert_eq!(last_lines(parser.screen_mut()), "before");
    }
}
