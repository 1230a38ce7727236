//! Suspended coroutines, compared one by one with the truth that each fixture writes down.

#![cfg(feature = "std")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

#[path = "common/truth.rs"]
mod truth;

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use stackscope::image::names::Lines;
use stackscope::report::json;
use stackscope::snapshot::{self, Snapshot};
use stackscope::target::{Core, Live};
use stackscope_harness::{Running, gcore, kernel_core, scratch};
use truth::{Dump, Truth, differences};

const COUNT: usize = 1000;

/// What `dump --json` shows of a snapshot.
fn shown<T: DeserializeOwned>(snapshot: &Snapshot) -> T {
    let mut bytes = Vec::new();
    json::write(&mut bytes, snapshot).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn live<T: DeserializeOwned>(fixture: &Running) -> T {
    shown(&snapshot::of_live(&Live::open(fixture.pid()).unwrap(), Lines::Cheap).unwrap())
}

/// Compares what is shown of `program` with the truth, its stacks allocated in each of `ways`.
fn check(program: &str, ways: &[&str]) {
    for way in ways {
        let truth = scratch(program).join("truth.json");
        let fixture = Running::start(program, &[&COUNT.to_string(), way, truth.to_str().unwrap()]);
        let found = differences(&Truth::read(&truth), &live(&fixture));
        assert!(found.is_empty(), "{program}, {way}: {found:?}");
    }
}

const ALL: &[&str] = &["guard", "slab", "madvise", "malloc"];

#[test]
fn own_assembly_called_directly() {
    check("co_asm", ALL);
}

#[test]
fn own_assembly_called_through_a_pointer() {
    check("co_asm_pointer", &["guard", "slab"]);
}

#[test]
fn own_assembly_unoptimised_stripped_and_static() {
    check("co_asm_debug", &["guard"]);
    check("co_asm_stripped", &["guard", "malloc"]);
    check("co_asm_static", &["slab"]);
}

#[test]
fn contexts_of_the_c_library() {
    check("co_ucontext", ALL);
    check("co_ucontext_stripped", &["slab"]);
    check("co_ucontext_static", &["guard"]);
}

#[test]
fn boost_contexts() {
    check("co_fcontext", ALL);
    // Here pointers to finished ones stay below the frames of others.
    check("co_fcontext_o1", &["slab"]);
    check("co_fcontext_stripped", &["guard"]);
}

#[test]
fn coroutines_of_corosensei() {
    check("co_corosensei", &["guard", "slab"]);
}

#[test]
fn coroutines_of_generator() {
    check("co_generator", &["guard"]);
}

/// Four of the outer ones wait for the inner one that they resumed, on a thread each.
#[test]
fn nested_coroutines_on_four_threads() {
    check("co_nested", ALL);
}

#[test]
fn fibers_of_wasmtime() {
    check("co_wasmtime", &["guard"]);
}

/// Threads keep jump buffers on their own stacks, and the C library keeps the stacks of threads that ended.
#[test]
fn programs_without_coroutines_have_none() {
    for (program, arguments) in [("threads", &["20"][..]), ("python_threads", &[]), ("leader_exited", &[])] {
        let fixture = Running::start(program, arguments);
        let dump: Dump = live(&fixture);
        let others = dump.stacks.iter().filter(|stack| stack.kind != "thread");
        assert_eq!(others.count(), 0, "{program}");
    }
}

#[test]
fn contexts_saved_by_sigsetjmp() {
    check("co_sigsetjmp", ALL);
}

/// Go keeps its stacks side by side in a heap that holds the threads' descriptors too, and leaves them by a routine that
/// calls the scheduler on the other stack.
#[test]
fn goroutines() {
    let fixture = Running::start("goroutines", &[]);
    let dump: Value = live(&fixture);
    let mut by_depth: BTreeMap<usize, usize> = BTreeMap::new();
    for stack in dump["stacks"].as_array().unwrap().iter().filter(|stack| stack["state"] == "suspended") {
        let names = stack["frames"].as_array().unwrap().iter().filter_map(|frame| frame["function"].as_str());
        let names: Vec<&str> = names.collect();
        assert_eq!(names.last(), Some(&"runtime.goexit"), "{names:?}");
        if names.contains(&"main.descend") {
            *by_depth.entry(names.iter().filter(|name| **name == "main.descend").count()).or_default() += 1;
        }
        // Where one goroutine's stack ends is known to Go alone.
        assert_eq!(stack["size"], Value::Null);
    }
    assert_eq!(by_depth, (1..=10).map(|depth| (depth, 10)).collect());
}

#[test]
fn a_core_file_shows_the_same() {
    for program in ["co_asm", "co_asm_static", "co_nested", "co_ucontext", "co_fcontext"] {
        let folder = scratch(program);
        let truth = folder.join("truth.json");
        let arguments = [&COUNT.to_string(), "slab", truth.to_str().unwrap()];
        let core_file = gcore(Running::start(program, &arguments).pid(), &folder);
        check_core(&core_file, &truth);
        std::fs::remove_file(core_file).unwrap();
        // The kernel leaves out what files hold.
        check_core(&kernel_core(program, &arguments, &folder), &truth);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

fn check_core(file: &Path, truth: &Path) {
    let mut core = Core::open(file).unwrap();
    let found = differences(&Truth::read(truth), &shown(&snapshot::of_core(&mut core, Lines::Cheap)));
    assert!(found.is_empty(), "{}: {found:?}", file.display());
}

#[test]
fn a_program_that_goes_on_switching() {
    let guarded = ["co_asm", "co_ucontext", "co_fcontext", "co_sigsetjmp", "co_corosensei", "co_wasmtime"];
    let all = guarded.map(|program| (program, "guard")).into_iter().chain([("co_asm", "slab")]);
    for (program, way) in all {
        let truth = scratch(program).join("truth.json");
        let arguments = [&COUNT.to_string(), way, truth.to_str().unwrap(), "busy"];
        let fixture = Running::start_busy(program, &arguments);
        for _ in 0..5 {
            let found = differences(&Truth::read(&truth), &live(&fixture));
            assert!(found.is_empty(), "{program}: {found:?}");
        }
    }
}

/// The stack of the tutorials: 48 bytes of the heap, and what was called there took more.
#[test]
fn a_thread_on_a_block_of_48_bytes() {
    let fixture = Running::start("stack_jump", &[]);
    let dump: Value = live(&fixture);
    let stack = dump["stacks"].as_array().unwrap().iter().find(|stack| stack["thread"] == fixture.pid()).unwrap();
    assert_eq!(stack["kind"], "coroutine");
    assert_eq!(stack["bounds_from"], "malloc");
    // A block is as long as the next multiple of 16 allows, and a word.
    assert_eq!(stack["size"], 56);
    assert_eq!(stack["guard"]["state"], "none");
    assert_eq!(stack["level"], "over");
    assert_eq!(stack["entry"], "stack_jump::hello");
}
