//! The terminal: `/dev/tty` and nothing else, taken over for a time and given back on every way out.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{getpgrp, tcgetpgrp};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture};
use ratatui::crossterm::style::force_color_output;
use ratatui::crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use ratatui::crossterm::{execute, queue};
use ratatui::layout::{Position, Rect, Size};

use super::model::Model;
use super::theme::Look;
use super::view;
use crate::image::printable;

/// Whether the terminal is taken over, for the panic hook.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether there is a terminal to draw on, which we may use now.
///
/// One of stdout and stderr has to be a terminal: where both were redirected, nobody expects a screen. A job in the
/// background has no right to it, `TERM=dumb` cannot show it, and in continuous integration (`CI`) nobody looks at it.
pub fn is_usable() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    let expected = io::stdout().is_terminal() || io::stderr().is_terminal();
    expected && !dumb && !set("CI") && open().is_ok_and(|terminal| is_foreground(&terminal))
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn is_foreground(terminal: &File) -> bool {
    tcgetpgrp(terminal) == Ok(getpgrp())
}

/// The terminal's size.
pub(super) fn size() -> io::Result<Size> {
    let (width, height) = ratatui::crossterm::terminal::size()?;
    Ok(Size::new(width, height))
}

/// How many columns the terminal has.
///
/// # Errors
/// There is no terminal.
pub fn terminal_width() -> io::Result<usize> {
    Ok(usize::from(size()?.width))
}

/// Writes lines of text to the terminal where no screen is on it, harmless to it.
pub(super) fn write_lines(text: &str) {
    if let Ok(mut tty) = open() {
        for line in text.lines() {
            // What fails is passed over: there is nobody to read it.
            let _ = writeln!(tty, "{}", printable(line));
        }
    }
}

/// The screen on the terminal. Dropping it gives the terminal back.
pub(super) struct Screen {
    /// Whether the terminal reports the mouse.
    mouse: bool,
    terminal: Terminal<CrosstermBackend<BufWriter<File>>>,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn open(look: Look, mouse: bool) -> io::Result<Screen> {
        // Without colours, what the backend writes to reset them names none. crossterm reads NO_COLOR itself, too.
        force_color_output(look.colors());
        restore_on_panic();
        take_over(mouse)?;
        let opened = open().and_then(|tty| Terminal::new(CrosstermBackend::new(BufWriter::new(tty))));
        opened.map(|terminal| Screen { mouse, terminal }).inspect_err(|_| give_back())
    }

    /// Its size.
    pub(super) fn size(&self) -> Size {
        self.terminal.size().unwrap_or_default()
    }

    /// Draws what has changed, all at once where the terminal can do so.
    pub(super) fn draw(&mut self, model: &Model) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            return Err(io::Error::other("it was given back after a panic"));
        }
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| view::view(model, frame))?;
        execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)
    }

    /// Has the next drawing write everything.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // `Terminal::clear` would ask the terminal for its cursor, and the thread that reads keys would get the answer.
        self.terminal.resize(Rect::from((Position::ORIGIN, self.size())))
    }

    /// Gives the terminal back for a time.
    pub(super) fn leave(&self) {
        give_back();
    }

    /// Takes it over again, if we may: after a suspension the shell may have put us in the background.
    pub(super) fn enter_again(&mut self) -> io::Result<bool> {
        if !open().is_ok_and(|terminal| is_foreground(&terminal)) {
            return Ok(false);
        }
        take_over(self.mouse)?;
        self.clear()?;
        Ok(true)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take_over(mouse: bool) -> io::Result<()> {
    let mut tty = open()?;
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let mut taken = execute!(tty, EnterAlternateScreen, EnableBracketedPaste, Hide);
    if mouse {
        taken = taken.and_then(|()| execute!(tty, EnableMouseCapture));
    }
    taken.inspect_err(|_| give_back())
}

/// Gives the terminal back if it is taken over; what fails is passed over, for there is nothing left to do about it.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        if let Ok(mut tty) = open() {
            let _ = execute!(
                tty,
                EndSynchronizedUpdate,
                DisableMouseCapture,
                DisableBracketedPaste,
                LeaveAlternateScreen,
                Show
            );
            let _ = tty.flush();
        }
        let _ = disable_raw_mode();
    }
}

/// A panic in any thread of ours gives the terminal back before its message is written.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            former(panic);
        }));
    });
}
