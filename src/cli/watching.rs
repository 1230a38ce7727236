//! What `run` and `attach` have in common: how often to look, and where the report goes.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::{Common, output};
use crate::report::{usage, usage_json};
use crate::watch::{EventKind, Watched};

/// Options of every verb that watches a program.
#[derive(clap::Args, Debug)]
pub(super) struct Watching {
    /// Write JSON instead of text
    #[arg(long)]
    json: bool,

    /// Write the report to FILE instead of stderr
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Time from one look at the stacks to the next, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,

    /// The ratio of a suggested size to the most that a stack held
    #[arg(long, value_name = "FACTOR", default_value_t = 1.5, value_parser = margin)]
    margin: f64,

    /// Exit with 120 if the program returns 0 and an event of this kind was seen
    #[arg(long, value_name = "KIND")]
    fail_on: Vec<Failing>,
}

fn margin(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=100.0).contains(&factor) { Ok(factor) } else { Err("not from 1 to 100".to_owned()) }
}

/// A kind of event that is to fail a program that does not fail by itself.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Failing {
    /// A Rust program panicked, caught or not.
    Panic,
    /// Something else was raised, as C++'s throw does.
    Exception,
    /// A stack was run out of.
    Overflow,
    /// A stack has come close to its end.
    High,
}

impl Failing {
    fn kind(self) -> EventKind {
        match self {
            Failing::Panic => EventKind::Panic,
            Failing::Exception => EventKind::Exception,
            Failing::Overflow => EventKind::Overflow,
            Failing::High => EventKind::High,
        }
    }
}

/// Where the report goes.
pub(super) struct Destination(Option<File>);

impl Watching {
    /// The time from one look to the next.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval)
    }

    /// The ratio of suggested sizes to the most that a stack held.
    #[cfg(feature = "tui")]
    pub(super) fn margin(&self) -> f64 {
        self.margin
    }

    /// Whether something was seen on which we are to fail.
    pub(super) fn fails(&self, watched: &Watched) -> bool {
        self.fail_on.iter().any(|failing| watched.events.kinds.contains(&failing.kind()))
    }

    /// Opens the report's file, so that an error is reported before anything is watched.
    pub(super) fn destination(&self) -> Result<Destination, output::OutputError> {
        self.output.as_deref().map(output::create).transpose().map(Destination)
    }

    /// Writes the report.
    pub(super) fn write(
        &self,
        common: &Common,
        watched: &Watched,
        destination: Destination,
    ) -> Result<(), output::OutputError> {
        let mut content = Vec::new();
        // Writing to memory does not fail.
        if self.json {
            let _ = usage_json::write(&mut content, watched, self.margin);
        } else {
            let style = output::report_style(common, self.output.as_deref());
            let mut report = String::new();
            let width = output::terminal_width().filter(|_| self.output.is_none());
            let _ = usage::write_within(&mut report, watched, self.margin, style, width);
            content = report.into_bytes();
        }
        let written = match destination.0 {
            Some(mut file) => file.write_all(&content),
            None => io::stderr().write_all(&content),
        };
        let place = self.output.as_ref().map_or("stderr".into(), |path| path.display().to_string());
        written.map_err(|error| output::OutputError::new(place, error))
    }
}
