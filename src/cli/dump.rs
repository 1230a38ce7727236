//! `stackscope dump`: one look at a running program or a core file.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Common, exit, output};
use crate::image::names::Lines;
use crate::report::{json, text};
use crate::snapshot::{self, Snapshot};
use crate::target::{Core, Live, LookError};

/// Arguments of `dump`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A process's number, or the path of a core file (./1234 for a file whose name is a number)
    #[arg(value_name = "PID|CORE")]
    target: String,

    /// Write JSON instead of text
    #[arg(long)]
    json: bool,

    /// Write to FILE instead of stdout
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Show lines and inlined functions of the system's libraries too, where debug packages are installed
    #[arg(
        long,
        long_help = "Show lines and inlined functions of the system's libraries too, where debug packages are installed.\n\
                     Their debug information is packed; unpacking that of the C library takes tens of milliseconds."
    )]
    system_lines: bool,

    /// Show every stack by itself instead of equal ones together
    #[arg(long)]
    all: bool,
}

/// Takes the look and writes it.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    let snapshot = match take(args) {
        Ok(snapshot) => snapshot,
        Err(error) => return output::fail_with_remedy(&error, error.remedy()),
    };
    match write(args, common, &snapshot) {
        Err(error) => output::fail(&error),
        Ok(()) if snapshot.complete => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(exit::PARTIAL),
    }
}

fn take(args: &Args) -> Result<Snapshot, LookError> {
    let lines = if args.system_lines { Lines::Everywhere } else { Lines::Cheap };
    Ok(match args.target.parse() {
        Ok(pid) => snapshot::of_live(&Live::open(pid)?, lines)?,
        Err(_) => snapshot::of_core(&mut Core::open(args.target.as_ref())?, lines),
    })
}

fn write(args: &Args, common: &Common, snapshot: &Snapshot) -> Result<(), output::OutputError> {
    let mut content = Vec::new();
    if args.json {
        // Writing to memory does not fail.
        let _ = json::write(&mut content, snapshot);
    } else {
        let listing = if args.all { text::Listing::Singly } else { text::Listing::Grouped };
        let mut report = String::new();
        let _ = text::write(&mut report, snapshot, listing, output::style(common, args.output.as_deref()));
        content = report.into_bytes();
    }
    output::write(args.output.as_deref(), &content)
}
