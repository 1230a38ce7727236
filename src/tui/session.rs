//! Brings the watch, the keys, the signals and the screen together until the user leaves.
//!
//! The watch has a thread of its own, which also arranges each look for the screen, and never waits for it. The screen
//! is drawn when something has happened and not otherwise.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use log::debug;

use super::input::Keys;
use super::model::{Effect, Message, Model};
use super::picture::Picture;
use super::terminal::Screen;
use super::theme::Look;
use super::update::update;
use crate::target::{self, Inbox};
use crate::watch::{Attached, Control, Watched};

/// Why the screen could not be shown to the end. The terminal is restored then, and the program runs on.
#[derive(Debug, thiserror::Error)]
pub enum TuiError {
    /// The terminal can't be used.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot get ready to watch")]
    Prepare(#[source] io::Error),
    /// The thread that watched the program failed.
    #[error("the watch ended early")]
    WatchDied,
    /// We were asked to end at once while the report was not ready.
    #[error("ended before there was a report")]
    Interrupted,
}

/// What comes in.
enum Input {
    Message(Message),
    Signal(i32),
    /// The watch has ended; without a result where it failed.
    Done(Option<Box<Watched>>),
    /// The terminal gives no more keys.
    NoKeys(io::Error),
}

/// Shows a watch on the terminal until the user leaves; then the terminal is as it was, and the program runs on.
///
/// # Errors
/// The terminal can't be used, or the watch failed.
pub fn watch(attached: Attached, interval: Duration, inbox: &Inbox, look: Look) -> Result<Watched, TuiError> {
    let (sender, inputs) = mpsc::channel();
    let first = Arc::new(Picture::new(attached.first()));
    let control = attached.control();
    let screen = Screen::open(look).map_err(TuiError::Terminal)?;
    let model = Model::new(first, interval, screen.size(), look);
    let signals = sender.clone();
    let heard = move |received: target::Received| {
        let _ = signals.send(Input::Signal(received.signal));
    };
    inbox.listen(heard).map_err(TuiError::Prepare)?;
    let keys = read_keys(&sender)?;
    let told = sender.clone();
    let body = move || watch_on(attached, &told);
    thread::Builder::new().name("stackscope-watch".into()).spawn(body).map_err(TuiError::Prepare)?;
    Session { keys: Some(keys), model, screen, control, sender, inputs, watched: None }.run()
}

fn read_keys(sender: &Sender<Input>) -> Result<Keys, TuiError> {
    let sender = sender.clone();
    let tell = move |message: Result<Message, io::Error>| {
        let _ = sender.send(message.map_or_else(Input::NoKeys, Input::Message));
    };
    Keys::read(tell).map_err(TuiError::Prepare)
}

/// Sends each look, arranged, and at last the result; that there is none where the watch panics.
fn watch_on(attached: Attached, sender: &Sender<Input>) {
    struct Farewell<'s>(&'s Sender<Input>, Option<Box<Watched>>);
    impl Drop for Farewell<'_> {
        fn drop(&mut self) {
            let _ = self.0.send(Input::Done(self.1.take()));
        }
    }
    let mut farewell = Farewell(sender, None);
    let watched = attached.watch(&mut |looked| {
        let _ = sender.send(Input::Message(Message::Looked(Arc::new(Picture::new(looked)))));
    });
    farewell.1 = Some(Box::new(watched));
}

struct Session {
    /// `None` while the terminal is given back until we are continued.
    keys: Option<Keys>,
    model: Model,
    screen: Screen,
    control: Control,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
    /// What was seen, once the watch has ended.
    watched: Option<Box<Watched>>,
}

impl Session {
    fn run(mut self) -> Result<Watched, TuiError> {
        self.draw()?;
        while let Ok(input) = self.inputs.recv() {
            // All that is there already is taken in before anything is drawn.
            let mut next = Some(input);
            let mut changed = false;
            while let Some(input) = next {
                match self.take_in(input)? {
                    Taken::Leave => return self.leave(),
                    Taken::Changed => changed = true,
                    Taken::Unchanged => {}
                }
                next = self.inputs.try_recv().ok();
            }
            if changed {
                self.draw()?;
            }
        }
        Err(TuiError::WatchDied)
    }

    fn draw(&mut self) -> Result<(), TuiError> {
        if self.keys.is_none() {
            return Ok(());
        }
        self.screen.draw(&self.model).map_err(TuiError::Terminal)
    }

    fn take_in(&mut self, input: Input) -> Result<Taken, TuiError> {
        match input {
            Input::Message(message) => {
                let shows = self.model.shows(&message);
                match update(&mut self.model, message) {
                    Some(Effect::Leave) => return Ok(Taken::Leave),
                    Some(Effect::Suspend) => self.suspend(),
                    Some(Effect::Interval(interval)) => self.control.set_interval(interval),
                    Some(Effect::Redraw) => self.screen.clear().map_err(TuiError::Terminal)?,
                    None => {}
                }
                Ok(if shows { Taken::Changed } else { Taken::Unchanged })
            }
            Input::Signal(signal) => self.signal(signal),
            Input::Done(Some(watched)) => {
                update(&mut self.model, Message::Ended(watched.end));
                self.watched = Some(watched);
                Ok(Taken::Changed)
            }
            Input::Done(None) => Err(TuiError::WatchDied),
            Input::NoKeys(error) => {
                debug!("the terminal gives no more keys: {error}");
                Ok(Taken::Leave)
            }
        }
    }

    fn signal(&mut self, signal: i32) -> Result<Taken, TuiError> {
        match signal {
            libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => return Ok(Taken::Leave),
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.suspend(),
            libc::SIGCONT => self.continued()?,
            _ => return Ok(Taken::Unchanged),
        }
        Ok(Taken::Changed)
    }

    /// Gives the terminal back and stops ourselves, between two looks.
    fn suspend(&mut self) {
        self.keys = None;
        self.screen.leave();
        match self.watched {
            None => self.control.suspend(),
            // The watch has ended, and with it who would do so.
            Some(_) => target::stop_ourselves(),
        }
    }

    fn continued(&mut self) -> Result<(), TuiError> {
        match self.screen.enter_again().map_err(TuiError::Terminal)? {
            true if self.keys.is_none() => self.keys = Some(read_keys(&self.sender)?),
            true => {}
            false => self.suspend(),
        }
        Ok(())
    }

    /// Restores the terminal at once, and then waits for what the watch has to tell.
    fn leave(self) -> Result<Watched, TuiError> {
        drop(self.keys);
        drop(self.screen);
        self.control.leave();
        if let Some(watched) = self.watched {
            return Ok(*watched);
        }
        while let Ok(input) = self.inputs.recv() {
            match input {
                Input::Done(Some(watched)) => return Ok(*watched),
                Input::Done(None) => return Err(TuiError::WatchDied),
                Input::Signal(libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) => {
                    return Err(TuiError::Interrupted);
                }
                Input::Message(_) | Input::Signal(_) | Input::NoKeys(_) => {}
            }
        }
        Err(TuiError::WatchDied)
    }
}

/// What came of an input.
enum Taken {
    Changed,
    Unchanged,
    Leave,
}
