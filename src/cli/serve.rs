//! `stackscope serve`: every context as a thread of a debugger that speaks gdb's remote protocol.

use std::fs::{self, Permissions};
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use super::core_files::CoreOptions;
use super::output;
use crate::debugger::{Client, Notice, Program, ServeError, serve};
use crate::image::names::Lines;
use crate::look::{Looker, Wish};
use crate::process::{CacheFolder, Live, LookError};

/// Arguments of `serve`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    /// A process's number, or the path of a core file (./1234 for a file whose name is a number)
    #[arg(value_name = "PID|CORE")]
    target: String,

    /// Wait at ADDR for one debugger, instead of stdin and stdout
    #[arg(
        long,
        value_name = "ADDR",
        long_help = "Wait at ADDR for one debugger, instead of stdin and stdout: a loopback address and a port \
                     (127.0.0.1:2345; port 0 takes a free one), or the path of a socket file, with a slash in it.\n\
                     Every user of this machine can reach a port, and read the program's memory through it; a socket \
                     file is only for you."
    )]
    listen: Option<Listen>,

    #[command(flatten)]
    core_files: CoreOptions,
}

const HELP: &str = "\
The program stands while the debugger looks at it; it goes on when the debugger lets it, leaves, or dies, and also if \
stackscope is killed. Nothing is ever written to the program: breakpoints, and changes of memory or registers, are \
refused.

A context that no thread runs has the thread number 10000000 plus the number of its stack. 'monitor stacks', \
'monitor filter EXPR' and 'monitor stack N' in gdb show what 'stackscope dump' does.

EXIT CODE:
  0 the debugger left, or the program ended; 125 failed; 2 wrong usage

EXAMPLES:
  gdb -ex 'target remote | stackscope serve 48213'
  stackscope serve --listen 127.0.0.1:2345 ./core
  lldb -o 'gdb-remote 127.0.0.1:2345'";

/// Where a debugger is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Listen {
    Port(SocketAddr),
    File(PathBuf),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Listen, &'static str> {
        if text.contains('/') {
            return Ok(Listen::File(text.into()));
        }
        let address: SocketAddr = text.parse().map_err(|_| "neither ADDRESS:PORT nor a path with a slash in it")?;
        match address.ip().is_loopback() {
            true => Ok(Listen::Port(address)),
            false => Err("not a loopback address; from another machine, use ssh: ssh -L 2345:127.0.0.1:2345 HOST"),
        }
    }
}

/// The debugger can't be reached.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("cannot use stdin and stdout for the debugger")]
    Streams(#[source] io::Error),
    #[error("cannot wait for a debugger at {place}")]
    Listen { place: String, source: io::Error },
}

/// Serves the process or core file to one debugger.
pub(super) fn run(args: &Args) -> ExitCode {
    if args.listen.is_none() && (io::stdin().is_terminal() || io::stdout().is_terminal()) {
        return output::wrong_usage(&format!(
            "serve is for a debugger, not for a terminal; in gdb: target remote | stackscope serve {}",
            args.target
        ));
    }
    if let Some(wrong) = args.core_files.misplaced(&args.target) {
        return output::wrong_usage(wrong);
    }
    match take(args) {
        Ok(code) => code,
        Err(error) => output::fail_with_remedy(&error, error.remedy()),
    }
}

/// Opens the program before a debugger is waited for.
fn take(args: &Args) -> Result<ExitCode, LookError> {
    let mut looker = Looker::in_folder(CacheFolder::of_user());
    if let Ok(pid) = args.target.parse() {
        let live = Live::open(pid)?;
        return client(args.listen.as_ref()).map_or_else(
            |error| Ok(output::fail(&error)),
            |client| Ok(serve_to(&mut Program::live(&live, looker)?, client)),
        );
    }
    let mut core = args.core_files.open(args.target.as_ref())?;
    let snapshot = Arc::clone(&looker.core_whole(&mut core, Wish::all(Lines::Cheap)).snapshot);
    Ok(match client(args.listen.as_ref()) {
        Ok(client) => serve_to(&mut Program::core(&core, snapshot), client),
        Err(error) => output::fail(&error),
    })
}

fn serve_to(program: &mut Program<'_>, client: Client) -> ExitCode {
    match serve(program, client, &mut tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Stop(error)) => {
            let error = LookError::from(error);
            output::fail_with_remedy(&error, error.remedy())
        }
        Err(error) => output::fail(&error),
    }
}

/// A debugger that started us shows what we write to stderr.
fn tell(notice: &Notice) {
    say(&notice.to_string());
}

fn say(line: &str) {
    // If stderr is closed, there is nowhere to report it.
    let _ = writeln!(io::stderr(), "stackscope: {line}");
}

/// The first debugger that comes; no other can connect after it.
fn client(listen: Option<&Listen>) -> Result<Client, ClientError> {
    match listen {
        None => streams().map_err(ClientError::Streams),
        Some(Listen::Port(address)) => {
            at_port(*address).map_err(|source| ClientError::Listen { place: address.to_string(), source })
        }
        Some(Listen::File(path)) => {
            at_file(path).map_err(|source| ClientError::Listen { place: path.display().to_string(), source })
        }
    }
}

fn streams() -> io::Result<Client> {
    let own = |stream: &dyn AsFd| stream.as_fd().try_clone_to_owned();
    Ok(Client::new(own(&io::stdin())?, own(&io::stdout())?))
}

fn at_port(address: SocketAddr) -> io::Result<Client> {
    let listener = TcpListener::bind(address)?;
    say(&format!("waiting for a debugger at {}", listener.local_addr()?));
    let (stream, _): (TcpStream, _) = listener.accept()?;
    // Every packet waits for the answer to the one before.
    stream.set_nodelay(true)?;
    both_ways(stream.into())
}

fn at_file(path: &Path) -> io::Result<Client> {
    let listener = UnixListener::bind(path)?;
    let accepted = fs::set_permissions(path, Permissions::from_mode(0o600)).and_then(|()| {
        say(&format!("waiting for a debugger at {}", path.display()));
        listener.accept()
    });
    // It is ours, and nobody can use it any more.
    let _ = fs::remove_file(path);
    both_ways(accepted?.0.into())
}

fn both_ways(socket: OwnedFd) -> io::Result<Client> {
    Ok(Client::new(socket.try_clone()?, socket))
}
