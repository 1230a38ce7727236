//! `stackscope run`: launches a program, watches its stacks, and reports once it has ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Common, exit, output};
use crate::report::{usage, usage_json};
use crate::target::{LaunchError, Outcome};
use crate::watch::{self, Options, RunError, Watched};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    /// Write JSON instead of text
    #[arg(long)]
    json: bool,

    /// Write the report to FILE instead of stderr
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Time from one look at the stacks to the next, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,

    /// What the suggested size is of the most that a stack held
    #[arg(long, value_name = "FACTOR", default_value_t = 1.5, value_parser = margin)]
    margin: f64,

    /// The program and its arguments; without one, a demo with coroutines is run
    #[arg(trailing_var_arg = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

const HELP: &str = "\
The program keeps its stdin, stdout, stderr and terminal; stackscope writes nothing but the report, after the program \
has ended. Signals that processes send to stackscope are passed on to the program. If stackscope is killed, the program \
goes on.

The program stands still for at most 1 % of the time: if a look takes long, the next ones are farther apart, and the \
report tells how far.

EXIT CODE:
  that of the program, or 128+N where signal N ended it
  125 stackscope failed, 126 the program can't be executed, 127 it was not found

EXAMPLES:
  stackscope run
  stackscope run ./server --port 9000
  stackscope run --json -o stacks.json -- make test";

fn margin(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=100.0).contains(&factor) { Ok(factor) } else { Err("not from 1 to 100".to_owned()) }
}

/// Runs the program and reports.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    // A report that can't be written is to be known before the program runs.
    let file = match args.output.as_deref().map(output::create).transpose() {
        Ok(file) => file,
        Err(error) => return output::fail(&error),
    };
    let (program, arguments) = match args.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => match std::env::current_exe() {
            Ok(ourselves) => (ourselves.into_os_string(), vec![super::DEMO.into()]),
            Err(error) => return output::fail(&error),
        },
    };
    let options = Options { program, arguments, interval: Duration::from_millis(args.interval) };
    let watched = match watch::run(&options) {
        Ok(watched) => watched,
        Err(error) => return refused(&error),
    };
    if let Err(error) = write(args, common, &watched, file) {
        // The program's own end counts for more than the loss of the report.
        output::fail(&error);
    }
    ExitCode::from(code(watched.outcome))
}

fn refused(error: &RunError) -> ExitCode {
    output::fail(error);
    ExitCode::from(match error {
        RunError::Launch(LaunchError::NotFound(_)) => exit::NOT_FOUND,
        RunError::Launch(LaunchError::NotExecutable(..)) => exit::NOT_EXECUTABLE,
        _ => exit::FAILED,
    })
}

/// The program's exit code, as a shell tells it.
fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Exited(code) => code as u8,
        Outcome::Killed { signal, .. } => (128 + signal) as u8,
    }
}

fn write(args: &Args, common: &Common, watched: &Watched, file: Option<File>) -> Result<(), output::OutputError> {
    let mut content = Vec::new();
    // Writing to memory does not fail.
    if args.json {
        let _ = usage_json::write(&mut content, watched, args.margin);
    } else {
        let style = output::report_style(common, args.output.as_deref());
        let mut report = String::new();
        let _ = usage::write(&mut report, watched, args.margin, style);
        content = report.into_bytes();
    }
    let written = match file {
        Some(mut file) => file.write_all(&content),
        None => io::stderr().write_all(&content),
    };
    let place = args.output.as_ref().map_or("stderr".into(), |path| path.display().to_string());
    written.map_err(|error| output::OutputError::new(place, error))
}
