//! The `stackscope` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    stackscope::cli::main()
}
