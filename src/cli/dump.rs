//! `stackscope dump`: one look at a running program or a core file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::core_files::CoreOptions;
use super::save::save_core;
use super::{Common, exit, output};
use crate::filter::Filter;
use crate::image::names::Lines;
use crate::look::{Looker, Whole, Wish};
use crate::process::{CacheFolder, Live, LookError};
use crate::report::{GroupBy, json, text};
use crate::snapshot::Snapshot;

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

    /// Show lines and inlined functions of the system's libraries too, if debug packages are installed
    #[arg(
        long,
        long_help = "Show lines and inlined functions of the system's libraries too, if debug packages are installed.\n\
                     Their debug information is packed; unpacking that of the C library takes tens of milliseconds."
    )]
    system_lines: bool,

    /// Do not keep what files say on disk, and do not use what was kept
    #[arg(
        long,
        long_help = "Do not keep what files say on disk, and do not use what was kept.\n\
                     What the code of unchanged files says about switching stacks is otherwise kept in\n\
                     $XDG_CACHE_HOME/stackscope or ~/.cache/stackscope, which saves some milliseconds."
    )]
    no_cache: bool,

    /// Show every stack by itself instead of equal ones together
    #[arg(long, conflicts_with = "group")]
    all: bool,

    /// Show stacks together that are equal in KEY [default: stack]
    #[arg(
        long,
        value_name = "KEY",
        long_help = "Show stacks together that are equal in KEY. [default: stack]\n\
                     If there are very many groups, the page only counts the rest; --json has them all, in the list 'groups'."
    )]
    group: Option<Key>,

    /// Show only stacks that fit EXPR, for example 'kind:coro peak>80% !fn:decode'
    #[arg(long, value_name = "EXPR", long_help = FILTER)]
    filter: Option<Filter>,

    /// Write a core file with one thread for each context too, for gdb and others
    #[arg(
        long,
        value_name = "FILE",
        long_help = "Write a core file with one thread for each context too: gdb's 'thread apply all bt' and \
                     'eu-stack --core FILE' then show every coroutine.\n\
                     A context that no thread runs gets the thread number 10000000 plus the number of its stack. The file \
                     holds the memory that the program wrote to, and only you can read it."
    )]
    save_core: Option<PathBuf>,

    /// Look twice, SECONDS apart, and report which contexts did not move in between
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        conflicts_with = "save_core",
        long_help = "Look twice, SECONDS apart, and report which contexts did not move in between: 'moved' in the JSON.\n\
                     One that was resumed in between and waits at the same place again counts as not moved."
    )]
    twice: Option<Duration>,

    #[command(flatten)]
    core_files: CoreOptions,
}

const FILTER: &str = "\
Show only stacks that fit EXPR: terms with spaces between them, all of which must fit; '!' negates a term.
  kind: state: level: guard: confidence:   a word of the JSON or its beginning; '=' takes the whole word
  name: entry: top: fn:                    a part of the text; '=' takes all of it; fn is any function on the stack,
                                           entry and top are the outermost and innermost of the program's own
  id thread                                a number, after : = < <= > >=
  used peak size free                      bytes (64K, 1.5M) or percent of the size (80%), after the same
A value with spaces needs double quotes. Examples:
  'kind:coro peak>80% !fn:decode'   'state:suspended top:read'   'guard:none used>=4K'";

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not above 0 and at most a day".to_owned())
    }
}

/// By what stacks are shown together.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    /// Equal backtraces, function by function.
    Stack,
    /// The outermost function of the program's own code: what they were started for.
    Entry,
    /// The innermost function of the program's own code: where they run or wait.
    Top,
    /// What they do.
    State,
}

impl Key {
    fn group_by(self) -> GroupBy {
        match self {
            Key::Stack => GroupBy::Stack,
            Key::Entry => GroupBy::Entry,
            Key::Top => GroupBy::Top,
            Key::State => GroupBy::State,
        }
    }
}

/// Takes the look and writes it.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    if args.twice.is_some() && args.target.parse::<i32>().is_err() {
        return output::wrong_usage("--twice needs a running program: a core file does not change between two looks");
    }
    if let Some(wrong) = args.core_files.misplaced(&args.target) {
        return output::wrong_usage(wrong);
    }
    match &args.save_core {
        None => match take(args) {
            Ok(snapshot) => {
                let code = shown(args, common, &snapshot);
                // The process ends: the kernel frees all memory at once faster than we free each list.
                std::mem::forget(snapshot);
                code
            }
            Err(error) => output::fail_with_remedy(&error, error.remedy()),
        },
        Some(path) => match with_whole(args, |whole| (save_core(whole, path), shown(args, common, &whole.snapshot))) {
            Ok((Ok(()), code)) => code,
            Ok((Err(error), _)) => output::fail(&error),
            Err(error) => output::fail_with_remedy(&error, error.remedy()),
        },
    }
}

fn shown(args: &Args, common: &Common, snapshot: &Snapshot) -> ExitCode {
    match write(args, common, snapshot) {
        Err(error) => output::fail(&error),
        Ok(()) if snapshot.complete => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(exit::PARTIAL),
    }
}

fn wish(args: &Args) -> Wish {
    Wish::all(if args.system_lines { Lines::Everywhere } else { Lines::Cheap })
}

fn take(args: &Args) -> Result<Snapshot, LookError> {
    let mut looker = looker(args);
    Ok(match args.target.parse() {
        Ok(pid) => {
            let live = Live::open(pid)?;
            let first = looker.live(&live, wish(args))?;
            match args.twice {
                None => first,
                Some(apart) => {
                    wait(apart);
                    let mut second = looker.live(&live, wish(args))?;
                    second.compare_with(&first);
                    second
                }
            }
        }
        Err(_) => looker.core(&mut args.core_files.open(args.target.as_ref())?, wish(args)),
    })
}

fn wait(time: Duration) {
    let (_sender, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(time);
}

/// A looker with what earlier runs stored for it.
fn looker(args: &Args) -> Looker {
    Looker::in_folder(if args.no_cache { None } else { CacheFolder::of_user() })
}

/// Calls `then` with a look that keeps what a core file is made of.
fn with_whole<T>(args: &Args, then: impl FnOnce(&Whole<'_>) -> T) -> Result<T, LookError> {
    Ok(match args.target.parse() {
        Ok(pid) => then(&looker(args).live_whole(&Live::open(pid)?, wish(args))?),
        Err(_) => then(&looker(args).core_whole(&mut args.core_files.open(args.target.as_ref())?, wish(args))),
    })
}

fn write(args: &Args, common: &Common, snapshot: &Snapshot) -> Result<(), output::OutputError> {
    let mut content = Vec::new();
    let filter = args.filter.clone().unwrap_or_default();
    let group = args.group.map(Key::group_by);
    if args.json {
        // Writing to memory does not fail.
        let _ = json::write_picked(&mut content, snapshot, &filter, group);
    } else {
        let group = if args.all { None } else { Some(group.unwrap_or(GroupBy::Stack)) };
        let mut report = String::new();
        let style = output::style(common, args.output.as_deref());
        let _ = text::write(&mut report, snapshot, &text::Listing { filter, group }, style);
        content = report.into_bytes();
    }
    output::write(args.output.as_deref(), &content)
}
