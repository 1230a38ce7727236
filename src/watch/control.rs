//! What may be asked for while a watch runs.

use std::sync::mpsc::Sender;
use std::time::Duration;

use super::run::Input;
use crate::process::Received;

/// The way to a watch, from any thread.
#[derive(Clone, Debug)]
pub struct Control(Sender<Input>);

impl Control {
    pub(super) fn new(sender: Sender<Input>) -> Control {
        Control(sender)
    }

    /// Ends the watch; the program runs on.
    pub fn leave(&self) {
        self.ask(Input::Leave);
    }

    /// Stops ourselves as job control does, between two looks so that the program does not stand with us.
    pub fn suspend(&self) {
        self.ask(Input::Suspend);
    }

    /// Looks each `interval` from now on, if the looks are short enough for it.
    pub fn set_interval(&self, interval: Duration) {
        self.ask(Input::Interval(interval));
    }

    /// Stops the program until [`Control::resume`], or until we end, in whatever way.
    pub fn pause(&self) {
        self.ask(Input::Pause);
    }

    /// Lets a program that was paused run on.
    pub fn resume(&self) {
        self.ask(Input::Resume);
    }

    /// Reports that we were sent a signal, which is passed on to a program that we launched.
    pub fn signal(&self, received: Received) {
        self.ask(Input::Signal(received));
    }

    /// Sends the program a signal.
    pub fn send(&self, signal: i32) {
        self.ask(Input::Send(signal));
    }

    /// Asks for what was seen so far.
    pub fn report(&self) {
        self.ask(Input::Report);
    }

    fn ask(&self, input: Input) {
        // If nobody receives it, the watch has ended.
        let _ = self.0.send(input);
    }
}
