//! `stackscope run`: launches a program, watches its stacks, and reports once it has ended.

use std::ffi::OsString;
use std::process::ExitCode;

use super::watching::Watching;
use super::{Common, exit, output};
#[cfg(feature = "tui")]
use crate::process::Inbox;
use crate::process::{LaunchError, Outcome};
#[cfg(feature = "tui")]
use crate::tui;
#[cfg(feature = "tui")]
use crate::watch::Launched;
use crate::watch::{self, End, Options, RunError, Watched};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    watching: Watching,

    #[cfg(feature = "tui")]
    #[command(flatten)]
    screen: super::screen::Screen,

    /// Keep the screen when the program has ended, until a key leaves it
    #[cfg(feature = "tui")]
    #[arg(long)]
    stay: bool,

    /// Count every stack switch: a few instructions of the program are replaced by jumps to code that counts (docs/PROBES.md)
    #[arg(long, overrides_with = "no_probes")]
    probes: bool,

    /// Leave the program's code alone, as is the default
    #[arg(long, overrides_with = "probes")]
    no_probes: bool,

    /// The program and its arguments; without one, a demo with coroutines is run
    #[arg(trailing_var_arg = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

const HELP: &str = "\
On a terminal a screen shows every stack; ? there tells its keys. It is drawn on the terminal itself, never on stdout. \
Those of the program's stdin, stdout and stderr that are a terminal are then a terminal of its own, which the screen \
shows and types into; files and pipes stay as they are. When the program ends, the screen does, and the program's last \
lines and a report follow.

If there is no terminal, or with --no-tui, the program keeps its stdin, stdout, stderr and terminal; stackscope \
writes only the report, after the program has ended.

Signals that processes send to stackscope are passed on to the program. If stackscope is killed, the program goes on; \
what it writes to a terminal of its own then goes to stackscope's.

The program stands still for at most 1 % of the time: if a look takes long, the next ones are farther apart, and the \
report says how far.

EXIT CODE:
  that of the program, or 128+N if signal N ended it
  120 the program returned 0, and an event was seen that --fail-on names
  125 stackscope failed, 126 the program can't be executed, 127 it was not found

EXAMPLES:
  stackscope run
  stackscope run ./server --port 9000
  stackscope run --json -o stacks.json -- make test";

/// How many seconds the demo lasts if there is a screen.
#[cfg(feature = "tui")]
const DEMO_ON_SCREEN: &str = "600";

/// Runs the program and reports.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    // If the report can't be written, the user must know before the program runs.
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
    let probes = args.probes && !args.no_probes;
    let options = Options { program, arguments, interval: args.watching.interval(), probes };
    let watched = match watch(args, common, &options) {
        Ok(watched) => watched,
        Err(failed) => return failed,
    };
    if let Err(error) = args.watching.write(common, &watched, destination) {
        // The program's own end matters more than the loss of the report.
        output::fail(&error);
    }
    match code(watched.end) {
        0 if args.watching.fails(&watched) => ExitCode::from(exit::SEEN),
        code => ExitCode::from(code),
    }
}

/// Watches with a screen if there is a terminal for it.
#[cfg(feature = "tui")]
fn watch(args: &Args, common: &Common, options: &Options) -> Result<Watched, ExitCode> {
    let (interval, margin) = (args.watching.interval(), args.watching.margin());
    match args.screen.options(common, interval, margin).map_err(|error| output::fail(&error))? {
        Some(screen) => {
            let mut options = options.clone();
            if args.command.is_empty() {
                // There is time to look around; a user who has seen enough ends it.
                options.arguments.push(DEMO_ON_SCREEN.into());
            }
            on_screen(&options, &tui::Options { stay: args.stay || screen.stay, ..screen })
        }
        None => watch::run(options).map_err(|error| refused(&error)),
    }
}

/// Watches; there is no screen in this build.
#[cfg(not(feature = "tui"))]
fn watch(_: &Args, _: &Common, options: &Options) -> Result<Watched, ExitCode> {
    watch::run(options).map_err(|error| refused(&error))
}

#[cfg(feature = "tui")]
fn on_screen(options: &Options, screen: &tui::Options) -> Result<Watched, ExitCode> {
    // Before any other thread: from here on signals come as messages.
    let launched = || {
        let inbox = Inbox::open()?;
        let (mut launched, pty) = Launched::prepare_on_terminal(options, &inbox, tui::program_size()?)?;
        launched.go()?;
        Ok::<_, RunError>((inbox, launched, pty))
    };
    let (inbox, launched, pty) = launched().map_err(|error| refused(&error))?;
    tui::run(launched, pty, &inbox, screen).map_err(|error| output::fail(&error))
}

fn refused(error: &RunError) -> ExitCode {
    output::fail_with_remedy(error, error.remedy());
    ExitCode::from(match error {
        RunError::Launch(LaunchError::NotFound(_)) => exit::NOT_FOUND,
        RunError::Launch(LaunchError::NotExecutable(..)) => exit::NOT_EXECUTABLE,
        _ => exit::FAILED,
    })
}

/// The program's exit code, as a shell reports it.
fn code(end: End) -> u8 {
    match end {
        End::Ended(Outcome::Exited(code)) => code as u8,
        End::Ended(Outcome::Killed { signal, .. }) => (128 + signal) as u8,
        // It runs on, as the user has decided.
        End::Left => 0,
        // What we launched is our child: its end is reported.
        End::Vanished => exit::FAILED,
    }
}
