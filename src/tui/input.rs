//! Reads the terminal's keys on a thread of its own, which lets go of them when it is told to.
//!
//! Keys that are typed after the screen was given back are the shell's: the thread has ended by then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind, MouseEventKind};
use ratatui::layout::Size;

use super::model::Message;

/// How long it may take until the thread has seen that it is to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// The thread. It ends when this is dropped.
pub(super) struct Keys {
    end: Arc<AtomicBool>,
    /// Nothing is ever sent: it is closed when the thread ends.
    ended: Receiver<()>,
}

impl Keys {
    /// Hands keys and new sizes to `tell`, and at the end the reason why there are no more.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn read(tell: impl Fn(Result<Message, io::Error>) + Send + 'static) -> io::Result<Keys> {
        let end = Arc::new(AtomicBool::new(false));
        let told_to_end = Arc::clone(&end);
        let (ends, ended) = mpsc::channel::<()>();
        let body = move || {
            let _ends = ends;
            while !told_to_end.load(Ordering::Relaxed) {
                match next() {
                    Ok(Some(message)) => tell(Ok(message)),
                    Ok(None) => {}
                    Err(error) => return tell(Err(error)),
                }
            }
        };
        thread::Builder::new().name("stackscope-keys".into()).spawn(body)?;
        Ok(Keys { end, ended })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Once the terminal is gone, crossterm's wait never ends; then there are no keys to let go of, and the thread ends
        // with us.
        let _ = self.ended.recv_timeout(4 * PATIENCE);
    }
}

fn next() -> io::Result<Option<Message>> {
    if !event::poll(PATIENCE)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(Message::Key(key)),
        Event::Mouse(event)
            if !matches!(event.kind, MouseEventKind::Moved | MouseEventKind::Drag(_) | MouseEventKind::Up(_)) =>
        {
            Some(Message::Mouse(event))
        }
        Event::Paste(text) => Some(Message::Pasted(text)),
        Event::Resize(width, height) => Some(Message::Resized(Size::new(width, height))),
        _ => None,
    })
}
