//! The command as tests run it, and its JSON as they read it.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod contexts;
#[cfg(feature = "tui")]
pub(crate) mod terminal;

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the command, and gives its exit code and what it wrote.
pub(crate) fn stackscope(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    // What a developer's runs left must not decide what a test sees.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.args(arguments).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// `dump --json` of a process or core file; panics where that fails, and passes over warnings.
pub(crate) fn dump(target: &str) -> Value {
    parsed(target, &stackscope(&["dump", "--json", target]))
}

/// The same with the inlined functions of the system's libraries, as gdb shows them.
pub(crate) fn dump_whole(target: &str) -> Value {
    parsed(target, &stackscope(&["dump", "--json", "--system-lines", target]))
}

fn parsed(target: &str, output: &Output) -> Value {
    assert!(matches!(output.status.code(), Some(0 | 3)), "dump {target}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("dump {target}: {error}: {output:?}"))
}

/// The ids of the stacks of a stitched backtrace that begins at stack `id`.
pub(crate) fn stitched(dump: &Value, id: u64) -> Vec<u64> {
    let next = |id: &u64| dump["stacks"][*id as usize]["resumed_by"]["stack"].as_u64();
    std::iter::successors(Some(id), next).collect()
}

/// The frames of the stitched backtrace of a thread, innermost first, inlined ones included.
pub(crate) fn frames(dump: &Value, thread: &Value) -> Vec<Value> {
    let start = thread["stack"].as_u64().expect("a stack");
    let stacks = stitched(dump, start).into_iter();
    stacks.flat_map(|id| dump["stacks"][id as usize]["frames"].as_array().expect("frames").clone()).collect()
}

/// The number in a JSON address, `"0x…"`.
pub(crate) fn address(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x")).unwrap_or_else(|| panic!("address: {value}"));
    u64::from_str_radix(text, 16).unwrap_or_else(|error| panic!("address {value}: {error}"))
}

/// The function of a frame; empty where it has none.
pub(crate) fn function(frame: &Value) -> &str {
    frame["function"].as_str().unwrap_or_default()
}

/// A field of `/proc/PID/status`; empty where there is no such process.
pub(crate) fn status_field(pid: i32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// The bytes of all code of a process, as they are in its memory now.
pub(crate) fn code_in_memory(pid: i32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && !line.contains("[v"));
    let ranges = code.filter_map(|line| line.split(' ').next()?.split_once('-'));
    let bytes = ranges.flat_map(|(low, high)| {
        let [low, high] = [low, high].map(|end| u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; (high - low) as usize];
        memory.read_exact_at(&mut bytes, low).unwrap();
        bytes
    });
    let bytes: Vec<u8> = bytes.collect();
    assert!(!bytes.is_empty(), "{maps}");
    bytes
}

/// Whether the process takes interrupts as messages, rather than being ended by them.
pub(crate) fn blocks_interrupts(pid: i32) -> bool {
    let interrupt = 1 << (libc::SIGINT - 1);
    u64::from_str_radix(&status_field(pid, "SigBlk"), 16).is_ok_and(|blocked| blocked & interrupt != 0)
}
