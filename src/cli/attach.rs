//! `stackscope attach`: watches a program that runs already, until it ends or we are asked to leave.

use std::io;
use std::process::ExitCode;

use super::watching::Watching;
use super::{Common, exit, output};
use crate::process::Inbox;
#[cfg(feature = "tui")]
use crate::tui;
use crate::watch::{AttachError, Attached, Control, Watched};

/// Arguments of `attach`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    watching: Watching,

    #[cfg(feature = "tui")]
    #[command(flatten)]
    screen: super::screen::Screen,

    /// The process
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

const HELP: &str = "\
On a terminal a screen shows every stack; ? there lists its keys. It is drawn on the terminal itself, never on stdout. \
After it, or if there is no terminal, a report says what was seen.

The program is looked at from time to time and let alone in between. However stackscope ends, the program runs on. \
Processes that the program starts are not looked at.

SIGINT, SIGTERM, SIGHUP and SIGQUIT end the watch; the report then says what was seen.

EXIT CODE:
  0 complete, 3 something could not be read (the report says what), 125 failed, 2 wrong usage
  120 an event was seen that --fail-on names

EXAMPLES:
  stackscope attach 48213
  stackscope attach --json -o stacks.json 48213";

/// Watches the process and reports.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    // Before any other thread: from here on signals come as messages.
    let inbox = match Inbox::open() {
        Ok(inbox) => inbox,
        Err(error) => return unprepared(error),
    };
    let destination = match args.watching.destination() {
        Ok(destination) => destination,
        Err(error) => return output::fail(&error),
    };
    let attached = match Attached::open(args.pid, args.watching.interval()) {
        Ok(attached) => attached,
        Err(error) => return refused(&error),
    };
    let watched = match watch(args, common, attached, &inbox) {
        Ok(watched) => watched,
        Err(failed) => return failed,
    };
    match args.watching.write(common, &watched, destination) {
        Err(error) => output::fail(&error),
        Ok(()) if args.watching.fails(&watched) => ExitCode::from(exit::SEEN),
        Ok(()) if watched.missed.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(exit::PARTIAL),
    }
}

/// Watches with a screen if there is a terminal for it.
#[cfg(feature = "tui")]
fn watch(args: &Args, common: &Common, attached: Attached, inbox: &Inbox) -> Result<Watched, ExitCode> {
    let screen = args.screen.options(common, args.watching.interval(), args.watching.margin());
    match screen.map_err(|error| output::fail(&error))? {
        Some(options) => tui::attach(attached, inbox, &options).map_err(|error| output::fail(&error)),
        None => plain(attached, inbox),
    }
}

/// Watches; there is no screen in this build.
#[cfg(not(feature = "tui"))]
fn watch(_: &Args, _: &Common, attached: Attached, inbox: &Inbox) -> Result<Watched, ExitCode> {
    plain(attached, inbox)
}

/// Watches without showing anything.
fn plain(attached: Attached, inbox: &Inbox) -> Result<Watched, ExitCode> {
    let control = attached.control();
    inbox.listen(move |received| heed(received.signal, &control)).map_err(unprepared)?;
    Ok(attached.watch(&mut |_| {}))
}

/// Does what a signal asks for.
fn heed(signal: i32, control: &Control) {
    match signal {
        libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT => control.leave(),
        libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => control.suspend(),
        _ => {}
    }
}

fn refused(error: &AttachError) -> ExitCode {
    let remedy = match error {
        AttachError::Look(error) => error.remedy(),
        AttachError::Wait { .. } => None,
    };
    output::fail_with_remedy(error, remedy)
}

/// Our own signals or threads can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot get ready to watch")]
struct Unprepared(#[source] io::Error);

fn unprepared(error: io::Error) -> ExitCode {
    output::fail(&Unprepared(error))
}
