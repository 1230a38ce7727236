//! `stackscope run`: launches a program, watches its stacks, and reports once it has ended.

use std::ffi::OsString;
use std::process::ExitCode;

use super::watching::Watching;
use super::{Common, exit, output};
use crate::target::{LaunchError, Outcome};
use crate::watch::{self, End, Options, RunError};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    watching: Watching,

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

/// Runs the program and reports.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    // A report that can't be written is to be known before the program runs.
    let destination = match args.watching.destination() {
        Ok(destination) => destination,
        Err(error) => return output::fail(&error),
    };
    let (program, arguments) = match args.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => match std::env::current_exe() {
            Ok(ourselves) => (ourselves.into_os_string(), vec![super::DEMO.into()]),
            Err(error) => return output::fail(&error),
        },
    };
    let options = Options { program, arguments, interval: args.watching.interval() };
    let watched = match watch::run(&options) {
        Ok(watched) => watched,
        Err(error) => return refused(&error),
    };
    if let Err(error) = args.watching.write(common, &watched, destination) {
        // The program's own end counts for more than the loss of the report.
        output::fail(&error);
    }
    ExitCode::from(code(watched.end))
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
fn code(end: End) -> u8 {
    match end {
        End::Ended(Outcome::Exited(code)) => code as u8,
        End::Ended(Outcome::Killed { signal, .. }) => (128 + signal) as u8,
        // What we launched is ours: its end is told, and nothing asks us to leave it.
        End::Vanished | End::Left => exit::FAILED,
    }
}
