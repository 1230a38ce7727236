//! Shell completions and the manual page, made from the same definitions as the command line.

use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use super::output;

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell to print completions for
    shell: Shell,
}

/// Prints completions for a shell.
pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "stackscope", &mut script);
    print(&script)
}

/// Prints the manual page.
pub(super) fn man(command: Command) -> ExitCode {
    let mut page = Vec::new();
    match clap_mangen::Man::new(command).render(&mut page) {
        Ok(()) => print(&page),
        Err(error) => output::fail(&error),
    }
}

fn print(text: &[u8]) -> ExitCode {
    match output::write(None, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error),
    }
}
