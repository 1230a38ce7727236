//! Brings the watch, the keys, the signals, the program's terminal and the screen together until the user leaves.
//!
//! The watch has a thread of its own, which also arranges each look for the screen, and never waits for it. The screen
//! is drawn when something has happened and not otherwise.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;

use super::arrange::{self, Ask};
use super::input::Keys;
use super::model::{Effect, Message, Model};
use super::pane::Output;
use super::picture::{Picture, Wanted};
use super::terminal::{self, Screen};
use super::theme::Look;
use super::update::update;
use super::view::{self, layout};
use crate::filter::Filter;
use crate::image::Progress;
use crate::process::{self, Inbox, Pty, Received, TerminalSize};
use crate::report::usage;
use crate::watch::{Attached, Control, EventKind, Launched, Looked, News, Watched};

/// Within this time a second interrupt is meant for us.
const TWICE: Duration = Duration::from_secs(2);

/// How often it is shown how far the first whole look has come.
const TICK: Duration = Duration::from_millis(200);

/// What the user asked of the screen and of the report.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time from one look to the next that was asked for.
    pub interval: Duration,
    /// What it looks like.
    pub look: Look,
    /// Whether it stays when the program has ended, until the user leaves.
    pub stay: bool,
    /// Whether the mouse is taken; without, the terminal selects text with it.
    pub mouse: bool,
    /// What the sizes that the report suggests are of the most that a stack held.
    pub margin: f64,
    /// Which stacks are shown at first.
    pub filter: Filter,
}

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
    Signal(Received),
    /// What was seen so far.
    SoFar(Arc<Watched>),
    /// The watch has ended; without a result where it failed.
    Done(Option<Box<Watched>>),
    /// The terminal sends no more keys.
    NoKeys(io::Error),
}

/// Shows a watch on a program that runs already, until the user leaves; then the terminal is as it was, and the program
/// runs on.
///
/// # Errors
/// The terminal can't be used, or the watch failed.
pub fn attach(attached: Attached, inbox: &Inbox, options: &Options) -> Result<Watched, TuiError> {
    let watch = Shown { first: attached.first(), control: attached.control(), progress: attached.progress() };
    show(watch, None, inbox, options, move |tell| attached.watch(tell))
}

/// Shows a watch on a program that was launched on `pty`, until it ends or the user leaves; then the terminal is as it
/// was, but for the last lines that the program wrote.
///
/// # Errors
/// As for [`attach`].
pub fn run(launched: Launched, pty: Pty, inbox: &Inbox, options: &Options) -> Result<Watched, TuiError> {
    let watch = Shown { first: launched.unseen(), control: launched.control(), progress: launched.progress() };
    show(watch, Some(pty), inbox, options, move |tell| launched.watch(tell))
}

/// The size that the terminal of a program is to have which is launched for [`run`].
///
/// # Errors
/// There is no terminal.
pub fn program_size() -> io::Result<TerminalSize> {
    let pane = layout::pane(terminal::size()?);
    Ok(TerminalSize { columns: pane.width, rows: pane.height })
}

/// What is shown of a watch.
struct Shown {
    first: Looked,
    control: Control,
    progress: Progress,
}

fn show(
    shown: Shown,
    pty: Option<Pty>,
    inbox: &Inbox,
    options: &Options,
    watch: impl FnOnce(&mut dyn FnMut(News)) -> Watched + Send + 'static,
) -> Result<Watched, TuiError> {
    let Shown { first, control, progress } = shown;
    let (sender, inputs) = mpsc::channel();
    let wanted = Wanted { filter: options.filter.clone(), ..Wanted::default() };
    let first = Arc::new(Picture::new(&first, &wanted));
    let screen = Screen::open(options.look, options.mouse).map_err(TuiError::Terminal)?;
    let mut model = Model::new(first, options.interval, screen.size(), options.look);
    model.launched = pty.is_some();
    model.loading = Some(progress.now());
    let signals = sender.clone();
    let heard = move |received: Received| {
        let _ = signals.send(Input::Signal(received));
    };
    inbox.listen(heard).map_err(TuiError::Prepare)?;
    let keys = read_keys(&sender)?;
    let output = pty.map(|pty| play(pty, &screen, &sender)).transpose()?;
    let arranged = sender.clone();
    let tell = move |message| {
        let _ = arranged.send(Input::Message(message));
    };
    let arranger = arrange::start(model.wanted.clone(), tell).map_err(TuiError::Prepare)?;
    let (told, looks) = (sender.clone(), arranger.clone());
    let body = move || watch_on(watch, &told, &looks);
    thread::Builder::new().name("stackscope-watch".into()).spawn(body).map_err(TuiError::Prepare)?;
    Session {
        keys: Some(keys),
        model,
        screen,
        control,
        arranger,
        output,
        sender,
        inputs,
        progress,
        watched: None,
        interrupted: None,
        options: options.clone(),
        gone: false,
    }
    .run()
}

fn read_keys(sender: &Sender<Input>) -> Result<Keys, TuiError> {
    let sender = sender.clone();
    let tell = move |message: Result<Message, io::Error>| {
        let _ = sender.send(message.map_or_else(Input::NoKeys, Input::Message));
    };
    Keys::read(tell).map_err(TuiError::Prepare)
}

fn play(pty: Pty, screen: &Screen, sender: &Sender<Input>) -> Result<Output, TuiError> {
    let sender = sender.clone();
    let tell = move |pane| {
        let _ = sender.send(Input::Message(Message::Output(pane)));
    };
    Output::start(pty, layout::pane(screen.size()), tell).map_err(TuiError::Prepare)
}

/// Sends each look, arranged, and at last the result; that there is none where the watch panics.
fn watch_on(watch: impl FnOnce(&mut dyn FnMut(News)) -> Watched, sender: &Sender<Input>, arranger: &Sender<Ask>) {
    struct Farewell<'s>(&'s Sender<Input>, Option<Box<Watched>>);
    impl Drop for Farewell<'_> {
        fn drop(&mut self) {
            let _ = self.0.send(Input::Done(self.1.take()));
        }
    }
    let mut farewell = Farewell(sender, None);
    let watched = watch(&mut |news| {
        let message = match news {
            News::Looked(looked) => {
                let _ = arranger.send(Ask::Looked(looked));
                return;
            }
            News::Event(event) => {
                if event.kind == EventKind::Exit {
                    let _ = arranger.send(Ask::Ended(event.pid));
                }
                Message::Event(event)
            }
            News::Paused(paused) => Message::Paused(paused),
            News::SoFar(watched) => {
                let _ = sender.send(Input::SoFar(watched));
                return;
            }
        };
        let _ = sender.send(Input::Message(message));
    });
    farewell.1 = Some(Box::new(watched));
}

/// The report in lines, as it would stand on the normal screen of this width.
fn report(watched: &Watched, options: &Options, width: u16) -> Vec<String> {
    let mut text = String::new();
    let width = usize::from(width).saturating_sub(view::report::MARGIN);
    // Writing to memory does not fail.
    let _ = usage::write_within(&mut text, watched, options.margin, options.look.signs(), Some(width));
    text.lines().map(str::to_owned).collect()
}

struct Session {
    /// `None` while the terminal is given back until we are continued, or for good.
    keys: Option<Keys>,
    model: Model,
    screen: Screen,
    control: Control,
    arranger: Sender<Ask>,
    /// The terminal of a program that we launched.
    output: Option<Output>,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
    /// How far the naming of the first whole look has come.
    progress: Progress,
    /// What was seen, once the watch has ended.
    watched: Option<Box<Watched>>,
    /// When the program was last sent an interrupt.
    interrupted: Option<Instant>,
    options: Options,
    /// Whether the terminal was given back for good, and the program's end is waited for.
    gone: bool,
}

impl Session {
    fn run(mut self) -> Result<Watched, TuiError> {
        self.draw()?;
        while let Some(input) = self.next()? {
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

    /// Waits for what comes in. Until there is a whole look, it is shown how far that has come.
    fn next(&mut self) -> Result<Option<Input>, TuiError> {
        while self.model.loading.is_some() {
            match self.inputs.recv_timeout(TICK) {
                Ok(input) => return Ok(Some(input)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let message = Message::Loading(self.progress.now());
            if self.model.shows(&message) {
                update(&mut self.model, message);
                self.draw()?;
            }
        }
        Ok(self.inputs.recv().ok())
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
                if let (Message::Resized(size), Some(output)) = (&message, &self.output) {
                    output.resize(layout::pane(*size));
                }
                match update(&mut self.model, message) {
                    Some(Effect::Leave) => return Ok(Taken::Leave),
                    Some(effect) => self.perform(effect)?,
                    None => {}
                }
                Ok(if shows { Taken::Changed } else { Taken::Unchanged })
            }
            Input::Signal(received) => self.signal(received),
            Input::Done(Some(watched)) => {
                update(&mut self.model, Message::Ended(watched.end));
                self.show_report(&watched);
                self.watched = Some(watched);
                let stays = !self.gone && (self.options.stay || self.output.is_none() || self.model.frozen);
                Ok(if stays { Taken::Changed } else { Taken::Leave })
            }
            Input::SoFar(watched) => {
                self.show_report(&watched);
                Ok(if self.model.frozen { Taken::Unchanged } else { Taken::Changed })
            }
            Input::Done(None) => Err(TuiError::WatchDied),
            Input::NoKeys(error) => {
                debug!("the terminal gives no more keys: {error}");
                Ok(self.step_back())
            }
        }
    }

    fn show_report(&mut self, watched: &Watched) {
        let lines = report(watched, &self.options, self.screen.size().width);
        update(&mut self.model, Message::Report(lines));
    }

    fn perform(&mut self, effect: Effect) -> Result<(), TuiError> {
        match (effect, &self.output) {
            (Effect::Leave, _) => {}
            (Effect::Suspend, _) => self.suspend(),
            (Effect::Interval(interval), _) => self.control.set_interval(interval),
            (Effect::Redraw, _) => self.screen.clear().map_err(TuiError::Terminal)?,
            (Effect::Pause, _) => self.control.pause(),
            (Effect::Resume, _) => self.control.resume(),
            (Effect::Send(signal), _) => {
                // What stands still would not hear of it.
                self.control.resume();
                self.control.send(signal);
            }
            (Effect::Interrupt, _) => self.interrupt(),
            (Effect::Type(bytes), Some(output)) => output.type_in(bytes),
            (Effect::Scroll(lines), Some(output)) => output.scroll(lines),
            (Effect::Report, _) => match self.watched.take() {
                Some(watched) => {
                    self.show_report(&watched);
                    self.watched = Some(watched);
                }
                None => self.control.report(),
            },
            (Effect::Arrange, _) => {
                let frozen = self.model.frozen.then(|| self.model.picture.looked());
                let _ = self.arranger.send(Ask::Arrange(self.model.wanted.clone(), frozen));
            }
            (Effect::Dump(path), _) => {
                let _ = self.arranger.send(self.model.dump(path));
            }
            (Effect::Type(_) | Effect::Scroll(_), None) => {}
        }
        Ok(())
    }

    /// Interrupts the program, as the key does without us; soon after that it is the user who wants to leave.
    fn interrupt(&mut self) {
        let is_second = self.interrupted.is_some_and(|before| before.elapsed() < TWICE);
        self.interrupted = (!is_second).then(Instant::now);
        match &self.output {
            Some(output) if !is_second => output.signal(libc::SIGINT),
            _ => drop(update(&mut self.model, Message::WantsToLeave)),
        }
    }

    fn signal(&mut self, received: Received) -> Result<Taken, TuiError> {
        if self.output.is_some() {
            // It is passed on to the program that is ours.
            self.control.signal(received);
        }
        match received.signal {
            libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => return Ok(self.step_back()),
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.suspend(),
            libc::SIGCONT => self.continued()?,
            _ => return Ok(Taken::Unchanged),
        }
        Ok(Taken::Changed)
    }

    /// Gives the terminal back for good: leaves a program that is not ours, and waits for the end of one that is.
    fn step_back(&mut self) -> Taken {
        let Some(output) = self.output.as_ref().filter(|_| self.watched.is_none()) else { return Taken::Leave };
        if !std::mem::replace(&mut self.gone, true) {
            self.keys = None;
            self.screen.leave();
            output.hand_over();
            self.control.resume();
        }
        Taken::Unchanged
    }

    /// Gives the terminal back and stops ourselves, between two looks.
    fn suspend(&mut self) {
        if self.gone {
            return process::stop_ourselves();
        }
        self.keys = None;
        self.screen.leave();
        if let Some(output) = &self.output {
            output.hand_over();
        }
        match self.watched {
            None => self.control.suspend(),
            // The watch has ended, and with it who would do so.
            Some(_) => process::stop_ourselves(),
        }
    }

    fn continued(&mut self) -> Result<(), TuiError> {
        if self.gone {
            return Ok(());
        }
        if !self.screen.enter_again().map_err(TuiError::Terminal)? {
            self.suspend();
            return Ok(());
        }
        if self.keys.is_none() {
            self.keys = Some(read_keys(&self.sender)?);
        }
        if let Some(output) = &self.output {
            output.take_back();
            output.resize(layout::pane(self.screen.size()));
        }
        update(&mut self.model, Message::Resized(self.screen.size()));
        Ok(())
    }

    /// Restores the terminal at once, and then waits for what the watch reports.
    fn leave(self) -> Result<Watched, TuiError> {
        drop(self.keys);
        drop(self.screen);
        if let Some(lines) = self.output.map(Output::finish).filter(|lines| !lines.is_empty()) {
            terminal::write_lines(&lines);
        }
        self.control.leave();
        if let Some(watched) = self.watched {
            return Ok(*watched);
        }
        while let Ok(input) = self.inputs.recv() {
            match input {
                Input::Done(Some(watched)) => return Ok(*watched),
                Input::Done(None) => return Err(TuiError::WatchDied),
                Input::Signal(Received {
                    signal: libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT, ..
                }) => {
                    return Err(TuiError::Interrupted);
                }
                Input::Message(_) | Input::Signal(_) | Input::NoKeys(_) | Input::SoFar(_) => {}
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
