//! `stackscope gdb`: the installed gdb, with every context as a thread.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::core_files::CoreOptions;
use super::output;
use crate::process::{Live, LookError};

/// Arguments of `gdb`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    core_files: CoreOptions,

    /// A process's number, or the path of a core file (./1234 for a file whose name is a number)
    #[arg(value_name = "PID|CORE")]
    target: String,

    /// Further arguments of gdb; its commands run once the program is there
    #[arg(value_name = "GDB-ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<OsString>,
}

const HELP: &str = "\
The program stands while gdb looks at it; it goes on when you say 'continue' or 'detach', when gdb ends, and also if \
gdb or stackscope is killed. Nothing is ever written to the program: breakpoints, single steps, and changes of memory \
or registers are refused.

A context that no thread runs has the thread number 10000000 plus the number of its stack.

EXIT CODE:
  that of gdb; 125 failed before gdb was started; 2 wrong usage

EXAMPLES:
  stackscope gdb 48213
  stackscope gdb ./core
  stackscope gdb 48213 -batch -ex 'thread apply all bt'";

/// What to type first.
const HINTS: &str = "\
info threads            every stack\\n\
thread N, bt, up        go to one, and see its frames\\n\
info locals             what they hold\\n\
monitor stacks          the text of stackscope dump; monitor help says more\\n\
continue, Ctrl-C        let the program run, and find its stacks anew\\n";

/// gdb can't be started.
#[derive(Debug, thiserror::Error)]
enum GdbError {
    #[error("gdb is not installed")]
    Missing,
    #[error("cannot start gdb")]
    Start(#[source] io::Error),
    #[error("the path of this program is not known, so gdb could not start it again")]
    Ourselves(#[source] io::Error),
}

impl GdbError {
    fn remedy(&self) -> Option<String> {
        matches!(self, GdbError::Missing)
            .then(|| "install the package gdb, for example: sudo apt-get install gdb".to_owned())
    }
}

/// Becomes gdb; returns only if that is not possible.
pub(super) fn run(args: &Args) -> ExitCode {
    if let Some(wrong) = args.core_files.misplaced(&args.target) {
        return output::wrong_usage(wrong);
    }
    let files_are_ours = match check(args) {
        Ok(ours) => ours,
        Err(error) => return output::fail_with_remedy(&error, error.remedy()),
    };
    let error = start(args, files_are_ours);
    output::fail_with_remedy(&error, error.remedy())
}

/// Whether the files that the program has mapped are those that gdb would find at their paths. If not, it gets them
/// from us.
fn check(args: &Args) -> Result<bool, LookError> {
    match args.target.parse() {
        Ok(pid) => Ok(Live::open(pid)?.files_are_ours()),
        Err(_) => {
            args.core_files.open(args.target.as_ref())?;
            Ok(false)
        }
    }
}

fn start(args: &Args, files_are_ours: bool) -> GdbError {
    let ourselves = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return GdbError::Ourselves(error),
    };
    let mut serve = OsString::from("target remote | ");
    serve.push(quoted(ourselves.as_os_str()));
    serve.push(" serve");
    for word in args.core_files.words().chain([args.target.as_ref()]) {
        serve.push(" ");
        serve.push(quoted(word));
    }
    let mut gdb = Command::new("gdb");
    // gdb waits two seconds for an answer; the first one takes as long as the look.
    gdb.args(["-q", "-iex", "set remotetimeout 3600"]);
    if files_are_ours {
        gdb.args(["-iex", "set sysroot /"]);
    }
    gdb.arg("-ex").arg(serve);
    if io::stdin().is_terminal() {
        gdb.args(["-ex", &format!("echo \\n{HINTS}")]);
    }
    match gdb.args(&args.further).exec() {
        error if error.kind() == ErrorKind::NotFound => GdbError::Missing,
        error => GdbError::Start(error),
    }
}

/// A word for the shell by which gdb starts us.
fn quoted(word: &OsStr) -> OsString {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(quoted(OsStr::new("it's a $core")), OsStr::new("'it'\\''s a $core'"));
    }
}
