//! The programs of `fixtures/switch`, on every platform.
//!
//! Where the whole suite runs they are built when they are asked for. For the other platforms the scripts in
//! `tests/platforms` build them, and say where they are and what runs them.

use std::process::Command;

/// A call of the fixture `name`.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn fixture(name: &str) -> Command {
    Command::new(stackscope_harness::built(name))
}

/// A call of the fixture `name`: `SWITCH_FIXTURES` is where Cargo put it, `SWITCH_RUNNER` the emulator, if one is needed.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn fixture(name: &str) -> Command {
    let folder = std::env::var_os("SWITCH_FIXTURES").expect("tests/platforms sets SWITCH_FIXTURES");
    let (profile, program) = name.strip_suffix("_abort").map_or(("debug", name), |program| ("abort", program));
    let program =
        std::path::Path::new(&folder).join(profile).join(program).with_extension(std::env::consts::EXE_EXTENSION);
    let runner = std::env::var("SWITCH_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(program) };
    let mut command = Command::new(emulator);
    command.args(words).arg(program);
    command
}
