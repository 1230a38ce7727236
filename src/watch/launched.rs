//! A watch on a program that we launch, and on all that it starts, until it ends.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::control::Control;
use super::missed::NotFollowed;
use super::run::{Input, Looked, News, Watch};
use super::switches::Noting;
use super::{RunError, Watched};
use crate::image::Progress;
use crate::process::{self, Facts, Inbox, Pty, TerminalSize, Tracees};
use crate::snapshot::Snapshot;

/// What to run, and how often to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program, searched for in `PATH` unless its name holds a slash.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The time from one look to the next, if the looks are short enough for it.
    pub interval: Duration,
    /// Whether its switch sites are to be probed, so that every switch is counted.
    pub probes: bool,
}

/// Launches a program and watches it to its end.
///
/// Call it before any other thread starts, because it blocks signals for all of them.
///
/// # Errors
/// The program could not be started or followed. What goes wrong later is a warning in the result.
pub fn run(options: &Options) -> Result<Watched, RunError> {
    let inbox = Inbox::open()?;
    let mut launched = Launched::prepare(options, &inbox)?;
    let control = launched.control();
    inbox.listen(move |received| control.signal(received))?;
    launched.go()?;
    Ok(launched.watch(&mut |_| {}))
}

/// A program that was launched, and is followed.
pub struct Launched {
    watch: Watch,
    inputs: Receiver<Input>,
    control: Control,
    waiting: Option<process::Launched>,
}

impl Launched {
    /// Starts a process that is to become the program, and follows it. It has our streams and our terminal.
    ///
    /// # Errors
    /// No process can be made, or it can't be followed.
    pub fn prepare(options: &Options, inbox: &Inbox) -> Result<Launched, RunError> {
        let launched = process::launch(&options.program, &options.arguments, inbox.inherited())?;
        Launched::follow(options, launched)
    }

    /// The same, with a terminal of its own instead of ours. Signals that we are sent are then all passed on: none of
    /// them reaches the program otherwise.
    ///
    /// # Errors
    /// As for [`Launched::prepare`], or no terminal can be made.
    pub fn prepare_on_terminal(
        options: &Options,
        inbox: &Inbox,
        size: TerminalSize,
    ) -> Result<(Launched, Pty), RunError> {
        let (program, arguments) = (&options.program, &options.arguments);
        let (launched, pty) = process::launch_on_terminal(program, arguments, inbox.inherited(), size)?;
        let mut launched = Launched::follow(options, launched)?;
        launched.watch.relay.pass_all();
        Ok((launched, pty))
    }

    fn follow(options: &Options, launched: process::Launched) -> Result<Launched, RunError> {
        let (sender, inputs) = mpsc::channel();
        let control = Control::new(sender.clone());
        let happenings = sender.clone();
        let words = std::iter::once(&options.program).chain(&options.arguments);
        let command = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let mut watch = Watch::new(launched.pid(), command, options.interval, sender);
        if process::gains_rights(&options.program) && !Facts::gather().ptrace_capability {
            watch.go_unfollowed(NotFollowed::WouldLoseRights, Duration::ZERO);
        } else {
            let tell = move |happened| {
                let _ = happenings.send(Input::Program(happened));
            };
            let tracees = match options.probes {
                true => Tracees::seize_with_starts(launched.pid(), tell),
                false => Tracees::seize(launched.pid(), tell),
            };
            let tracees = tracees.map_err(RunError::Follow)?;
            tracees.watch_entries();
            watch.noting = options.probes.then(Noting::new);
            watch.tracees = Some(tracees);
        }
        Ok(Launched { watch, inputs, control, waiting: Some(launched) })
    }

    /// Lets the process become the program. When this returns, it has, or never will.
    ///
    /// # Errors
    /// The program is missing or can't be executed.
    pub fn go(&mut self) -> Result<(), RunError> {
        Ok(self.waiting.take().map_or(Ok(()), process::Launched::go)?)
    }

    /// The way to ask for something while [`Launched::watch`] runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// How far the naming of a look has come, which may take long the first time.
    pub fn progress(&self) -> Progress {
        self.watch.progress.clone()
    }

    /// What is known before the first look: only which program it is.
    pub fn unseen(&self) -> Looked {
        let command = self.watch.command.clone();
        self.watch.looked(Arc::new(Snapshot::of_nothing(self.watch.pid, command)))
    }

    /// Watches until the program has ended or its `Control` leaves it, and reports what there is to see to `tell`.
    pub fn watch(mut self, tell: &mut dyn FnMut(News)) -> Watched {
        let end = self.watch.watch_to_end(&self.inputs, tell);
        self.watch.finish(end)
    }
}
