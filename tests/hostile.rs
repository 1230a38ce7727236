//! Programs whose memory misleads whoever looks: rings, a million frames, as many mappings as there may be, stacks that
//! are used anew at any moment, contexts that are none, and names that would take over a terminal.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;
#[path = "common/truth.rs"]
mod truth;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use stackscope_harness::{Running, built, gcore, scratch};

use common::{frames, function};
use truth::{Dump, Truth, differences, impossible, possible_chains};

/// Runs the command in at most so many KiB of address space.
fn within(kilobytes: u64, arguments: &[&str]) -> Output {
    let script = format!("ulimit -v {kilobytes} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.args(["-c", &script, env!("CARGO_BIN_EXE_stackscope")]).args(arguments).output().unwrap()
}

fn dump(target: &str) -> Value {
    let output = within(1 << 20, &["dump", "--json", target]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn dump_to(file: &Path, pid: i32, kilobytes: u64) -> Dump {
    let output = within(kilobytes, &["dump", "--json", "-o", file.to_str().unwrap(), &pid.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// What a thread's frames are, how each was found, and why they end.
fn chain(dump: &Value, thread: &Value) -> (Vec<String>, bool, Value) {
    let frames = frames(dump, thread);
    let names = frames.iter().map(|frame| function(frame).to_owned()).collect();
    let is_guessed =
        frames.iter().any(|frame| ["frame_pointer", "scan"].contains(&frame["found_by"].as_str().unwrap()));
    let last = common::stitched(dump, thread["stack"].as_u64().unwrap()).pop().unwrap();
    (names, is_guessed, dump["stacks"][last as usize]["ended"].clone())
}

fn check_cycles(dump: &Value) {
    let threads = dump["threads"].as_array().unwrap();
    assert_eq!(threads.len(), 5);
    let chains: Vec<_> = threads.iter().map(|thread| chain(dump, thread)).collect();
    let of = |name: &str| {
        let found = chains.iter().find(|(names, ..)| names.iter().any(|other| other == name));
        found.unwrap_or_else(|| panic!("no {name} in {chains:?}"))
    };
    for ring in ["leads_down_and_up", "each_others_parent"] {
        let (names, is_guessed, ended) = of(ring);
        assert_eq!((&names[..], *is_guessed), (&["pause", "look_for_me", ring, ring].map(String::from)[..], false));
        assert_eq!(ended, "repeats");
    }
    // Beyond the ring a caller is looked for, and marked as a guess.
    for ring in ["points_to_itself", "point_to_each_other"] {
        let (names, is_guessed, _) = of(ring);
        assert_eq!(names[..3], ["pause", "look_for_me", ring].map(String::from));
        assert!(names.len() < 10 && *is_guessed, "{names:?}");
    }
}

#[test]
fn rings_of_frames_end_where_they_close() {
    let fixture = Running::start("cycles", &[]);
    check_cycles(&dump(&fixture.pid().to_string()));
    let folder = scratch("cycles");
    check_cycles(&dump(gcore(fixture.pid(), &folder).to_str().unwrap()));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_million_frames_are_shown_as_one_row() {
    let fixture = Running::start("recursion", &[]);
    let output = within(1 << 20, &["dump", &fixture.pid().to_string()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("descend (recursion.c:14)  ×1000000\n"), "{text}");
    assert!(text.lines().count() < 40, "{text}");
}

/// Those without a guard lie side by side in one mapping, behind 65,000 others and in a reservation of 1 TiB.
#[test]
fn as_many_mappings_as_there_may_be() {
    const COUNT: &str = "100000";
    let folder = scratch("limit");
    let (truth, shown) = (folder.join("truth.json"), folder.join("dump.json"));
    let fixture = Running::start("co_asm", &[COUNT, "limit", truth.to_str().unwrap()]);
    let mappings = fs::read_to_string(format!("/proc/{}/maps", fixture.pid())).unwrap().lines().count();
    let limit: usize = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    assert!(mappings >= limit.min(200_000), "{mappings} of {limit}");
    let found = differences(&Truth::read(&truth), &dump_to(&shown, fixture.pid(), 2 << 20));
    assert!(found.is_empty(), "{found:?}");
    fs::remove_dir_all(folder).unwrap();
}

/// A coroutine moves between threads, ends, and its stack is another's, while it is looked at.
#[test]
fn no_backtrace_is_of_two_coroutines() {
    for way in ["guard", "slab", "malloc"] {
        let folder = scratch("migrants");
        let (truth, shown) = (folder.join("truth.json"), folder.join("dump.json"));
        let fixture = Running::start_busy("migrants", &[way, truth.to_str().unwrap()]);
        let possible = possible_chains();
        for _ in 0..10 {
            let wrong = impossible(&Truth::read(&truth), &dump_to(&shown, fixture.pid(), 1 << 20), &possible);
            assert!(wrong.is_empty(), "{way}: {wrong:?}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Real ones are found as ever, and of nothing else it is said that it is one for certain.
#[test]
fn a_heap_full_of_false_contexts() {
    for way in ["guard", "slab", "malloc"] {
        let folder = scratch("fakes");
        let (truth_file, shown) = (folder.join("truth.json"), folder.join("dump.json"));
        let fixture = Running::start("fakes", &["200", way, truth_file.to_str().unwrap()]);
        let truth = Truth::read(&truth_file);
        let mut dump = dump_to(&shown, fixture.pid(), 1 << 20);
        dump.drop_unsure(&truth);
        let found = differences(&truth, &dump);
        assert!(found.is_empty(), "{way}: {found:?}");
        fs::remove_dir_all(folder).unwrap();
    }
}

/// An escape sequence that a terminal obeys, in the name of a file, of its functions, and of a thread.
#[test]
fn names_do_not_reach_a_terminal_as_they_are() {
    const ESCAPES: &[u8] = b"\x1b[31m\x07\x9b2J";
    let folder = scratch("escapes");
    let mut program = fs::read(built("threads")).unwrap();
    let places: Vec<usize> =
        program.windows(11).enumerate().filter(|(_, name)| *name == b"look_for_me").map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        program[at..at + ESCAPES.len()].copy_from_slice(ESCAPES);
    }
    // The kernel names the first thread by the file.
    let file = folder.join(OsStr::from_bytes(ESCAPES));
    fs::write(&file, program).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let fixture = Running::start_command(Command::new(&file).arg("2"));
    stackscope_harness::settle(fixture.pid());
    let pid = fixture.pid().to_string();
    for arguments in [&["dump", "--color", "never", &pid][..], &["dump", "--color", "never", "--all", &pid]] {
        let output = within(1 << 20, arguments);
        let harmless = |text: &[u8]| text.iter().all(|byte| !(byte.is_ascii_control() && *byte != b'\n'));
        assert!(harmless(&output.stdout) && harmless(&output.stderr), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("no byte of a control sequence stands alone");
        assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text:?}");
        assert!(text.contains("[31m") && text.contains("descend"), "{text}");
    }
    // JSON spells them out.
    let json = within(1 << 20, &["dump", "--json", &pid]);
    assert!(!json.stdout.contains(&0x1b), "{json:?}");
    serde_json::from_slice::<Value>(&json.stdout).unwrap();
    fs::remove_dir_all(folder).unwrap();
}
