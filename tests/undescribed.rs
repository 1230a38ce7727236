//! Frames in code that nothing describes, and in code that is gone: what is shown is true, and says how it was found.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::fs;

use serde_json::Value;

use common::{address, dump, frames, function};
use stackscope_harness::{Running, built, eu_stack_core, kernel_core_of, scratch};

/// The frames of the only thread from `look_for_me` to `main`: each one's function, or how it was found where it has
/// none; and the stack.
fn only(mode: &str) -> (Vec<String>, Value) {
    let running = Running::start("undescribed", &[mode]);
    let dump = dump(&running.pid().to_string());
    let frames = frames(&dump, &dump["threads"][0]);
    let name = |frame: &Value| match function(frame) {
        "" => frame["found_by"].as_str().unwrap().to_owned(),
        name => name.to_owned(),
    };
    let names: Vec<String> = frames.iter().map(name).collect();
    let first = names.iter().position(|name| name == "look_for_me").unwrap();
    let last = names.iter().position(|name| name == "main").unwrap_or(names.len() - 1);
    (names[first..=last].to_vec(), dump["stacks"][0].clone())
}

/// How sure the stack is, and why its frames end.
fn verdict(stack: &Value) -> (&str, &str) {
    (stack["confidence"].as_str().unwrap(), stack["ended"].as_str().unwrap())
}

#[test]
fn a_call_at_the_end_of_undescribed_code_belongs_to_it() {
    let (names, stack) = only("noreturn");
    assert_eq!(names, ["look_for_me", "never", "ends_with_a_call", "main"]);
    assert_eq!(verdict(&stack), ("likely", "root"));
}

#[test]
fn frames_that_are_returned_to_after_a_jump_are_found_by_their_chain() {
    let (names, stack) = only("jumps");
    let jumps = ["cfi", "frame_pointer", "frame_pointer", "frame_pointer", "frame_pointer", "frame_pointer"];
    assert_eq!(names, [&["look_for_me"][..], &jumps, &["run_jumps", "main"]].concat());
    assert_eq!(verdict(&stack), ("likely", "root"));
}

/// Below the large frame lie whole chains of the dynamic linker, and in it nothing says where it ends.
#[test]
fn a_frame_pointer_of_zero_by_chance_is_no_end() {
    let (names, stack) = only("zero");
    assert_eq!(names, ["look_for_me", "large"]);
    assert_eq!(verdict(&stack), ("certain", "no_rule"));
}

/// The frames of each thread in a core file, without names.
fn addresses(dump: &Value) -> Vec<(i64, Vec<u64>)> {
    let threads = dump["threads"].as_array().unwrap().iter();
    let of = |thread: &Value| {
        let physical = frames(dump, thread).into_iter().filter(|frame| frame["inlined"] != true);
        (thread["tid"].as_i64().unwrap(), physical.map(|frame| address(&frame["pc"])).collect())
    };
    threads.map(of).collect()
}

/// A core file of a fixture whose executable is gone, and the addresses that eu-stack showed while it was there.
fn without_executable(fixture: &str) -> (Value, Vec<(i64, Vec<u64>)>) {
    let folder = scratch("gone");
    let program = folder.join("program");
    fs::copy(built(fixture), &program).unwrap();
    let core = kernel_core_of(&program, &["3"], &folder);
    let truth = eu_stack_core(&core, &program);
    fs::remove_file(&program).unwrap();
    let truth = truth.into_iter().map(|thread| (i64::from(thread.tid), thread.pcs)).collect();
    (dump(core.to_str().unwrap()), truth)
}

#[test]
fn without_their_executable_frames_are_found_by_frame_pointers() {
    let (dump, truth) = without_executable("threads_frame_pointers");
    for (thread, frames) in addresses(&dump) {
        let (_, theirs) = truth.iter().find(|(tid, _)| *tid == thread).unwrap();
        assert_eq!(frames, *theirs, "thread {thread}");
    }
    let stacks = dump["stacks"].as_array().unwrap();
    assert!(stacks.iter().all(|stack| verdict(stack) == ("likely", "root")), "{dump:#}");
}

#[test]
fn code_that_cannot_be_read_is_no_end() {
    let (dump, truth) = without_executable("threads");
    assert_eq!(dump["complete"], false);
    for (thread, frames) in addresses(&dump) {
        let (_, theirs) = truth.iter().find(|(tid, _)| *tid == thread).unwrap();
        let is_part = frames
            .iter()
            .try_fold(0, |from, frame| theirs[from..].iter().position(|other| other == frame).map(|at| from + at + 1));
        assert!(is_part.is_some(), "thread {thread}: {frames:x?} are not among {theirs:x?}");
        let stack = dump["stacks"].as_array().unwrap().iter().find(|stack| stack["thread"] == thread).unwrap();
        let allowed =
            if frames == *theirs { verdict(stack).1 == "root" } else { verdict(stack) != ("certain", "root") };
        assert!(allowed, "{stack:#}");
    }
}
