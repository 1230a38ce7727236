//! The `stackscope` command: verbs, options and exit codes.

mod attach;
#[cfg(feature = "tui")]
mod config;
mod core_files;
mod demo;
mod doctor;
mod dump;
mod gdb;
mod generate;
mod log;
mod output;
mod run;
mod save;
#[cfg(feature = "tui")]
mod screen;
mod serve;
mod sizes;
mod watching;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

/// The exit codes other than 0.
pub(crate) mod exit {
    /// Something could not be read; the output says what.
    pub(crate) const PARTIAL: u8 = 3;
    /// `run`, `attach`: an event was seen that `--fail-on` names, and nothing else went wrong.
    pub(crate) const SEEN: u8 = 120;
    /// We failed.
    pub(crate) const FAILED: u8 = 125;
    /// Wrong usage, of every verb but `run`.
    pub(crate) const USAGE: u8 = 2;
    /// `run`: the program exists and can't be executed.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// `run`: there is no such program.
    pub(crate) const NOT_FOUND: u8 = 127;
    /// `doctor` found that programs cannot be launched and looked at.
    pub(crate) const NO_LAUNCH: u8 = 1;
}

/// See every stack of any native program.
#[derive(Parser, Debug)]
#[command(name = "stackscope", version, max_term_width = 100, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
EXAMPLES:
  stackscope run ./server               run a program, and see at the end what its stacks needed
  stackscope attach 48213               watch a program that runs already
  stackscope dump 48213                 every stack of a running program
  stackscope dump ./core --all          every stack of a core file, each by itself
  stackscope dump 48213 --json | jq .   the same for programs
  stackscope gdb 48213                  gdb with every stack as a thread
  stackscope sizes ./server parse       what the functions called *parse* need, read from the code
  stackscope doctor                     what works on this machine, and what to do about the rest";

/// Options of every verb.
#[derive(clap::Args, Debug)]
struct Common {
    /// When to colour text
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,

    /// Write only ASCII characters; the default if the locale is not UTF-8
    #[arg(long, global = true)]
    ascii: bool,

    /// Log to stderr what is being done
    #[arg(short, long, global = true)]
    verbose: bool,

    /// Log to FILE what is being done
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<std::path::PathBuf>,
}

/// The hidden verb of the child that `doctor` starts.
const STAND: &str = "stand";

/// The hidden verb of the program that `run` watches if none is named.
const DEMO: &str = "demo";

/// When to colour text.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run a program and report what its stacks needed
    Run(run::Args),
    /// Watch a program that runs already, and report what its stacks needed
    Attach(attach::Args),
    /// Show every stack of a running program or a core file, once
    Dump(dump::Args),
    /// Start gdb with every stack as a thread
    Gdb(gdb::Args),
    /// Serve every stack as a thread to a debugger that speaks gdb's remote protocol
    Serve(serve::Args),
    /// Tell how much stack a program's functions need, read from its code
    Sizes(sizes::Args),
    /// Tell what works on this machine, what does not, and the remedy
    Doctor(doctor::Args),
    /// Print completions for a shell
    Completions(generate::CompletionsArgs),
    /// Print the manual page
    Man,
    /// Let coroutines take turns for some seconds: what `run` watches if no program is named
    #[command(name = DEMO, hide = true)]
    Demo(demo::Args),
    /// Stand until stdin ends: what `doctor` looks at
    #[command(name = STAND, hide = true)]
    Stand,
}

/// Runs the command with its words; returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Err(error) = log::start(&cli.common) {
        return output::fail(&error);
    }
    match &cli.verb {
        Verb::Run(args) => run::run(args, &cli.common),
        Verb::Attach(args) => attach::run(args, &cli.common),
        Verb::Dump(args) => dump::run(args, &cli.common),
        Verb::Gdb(args) => gdb::run(args),
        Verb::Serve(args) => serve::run(args),
        Verb::Sizes(args) => sizes::run(args, &cli.common),
        Verb::Doctor(args) => doctor::run(args, &cli.common),
        Verb::Completions(args) => generate::completions(args, &mut Cli::command()),
        Verb::Man => generate::man(Cli::command()),
        Verb::Demo(args) => demo::run(args),
        Verb::Stand => stand(),
    }
}

fn stand() -> ExitCode {
    // However this ends, the process that waits for us has closed its end.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}

/// Help and version go to stdout and are no error; wrong usage goes to stderr.
fn usage(error: &clap::Error) -> ExitCode {
    // Only a closed pipe can make this fail, and then nobody reads it.
    let _ = error.print();
    let is_run = std::env::args_os().nth(1).is_some_and(|verb| verb == "run");
    let wrong = if is_run { exit::FAILED } else { exit::USAGE };
    ExitCode::from(if error.use_stderr() { wrong } else { 0 })
}
