//! Suspended coroutines, compared one by one with the truth that each fixture writes down.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

#[path = "common/truth.rs"]
mod truth;

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use stackscope::workshop::image::names::Lines;
use stackscope::workshop::look::{Looker, Wish};
use stackscope::workshop::process::{Core, Live};
use stackscope::workshop::report::json;
use stackscope::workshop::snapshot::Snapshot;
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
    shown(&Looker::new().live(&Live::open(fixture.pid()).unwrap(), Wish::all(Lines::Cheap)).unwrap())
}

/// How often a program is looked at while it goes on switching.
const LOOKS: usize = 3;

/// Compares what is shown of `program` with the truth, its stacks allocated in each of `ways`: live and, for the first
/// way, from a core file and while it goes on switching.
fn check(program: &str, ways: &[&str]) {
    check_standing(program, ways);
    check_busy(program, ways[0]);
}

/// What is seen while it goes on switching.
fn check_busy(program: &str, way: &str) {
    let truth = scratch(program).join("truth.json");
    let fixture = Running::start_busy(program, &[&COUNT.to_string(), way, truth.to_str().unwrap(), "busy"]);
    for _ in 0..LOOKS {
        let found = differences(&Truth::read(&truth), &live(&fixture));
        assert!(found.is_empty(), "{program}, {way}, busy: {found:?}");
    }
}

/// The same for one that does not go on switching.
fn check_standing(program: &str, ways: &[&str]) {
    for (index, way) in ways.iter().enumerate() {
        let folder = scratch(program);
        let truth = folder.join("truth.json");
        let fixture = Running::start(program, &[&COUNT.to_string(), way, truth.to_str().unwrap()]);
        let found = differences(&Truth::read(&truth), &live(&fixture));
        assert!(found.is_empty(), "{program}, {way}: {found:?}");
        if index == 0 {
            check_core(&gcore(fixture.pid(), &folder), &truth);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

const ALL: &[&str] = &["guard", "slab", "madvise", "malloc"];

#[test]
fn own_assembly_called_directly() {
    check("co_asm", ALL);
    check("co_asm", &["guarded_slab"]);
}

#[test]
fn own_assembly_called_through_a_pointer() {
    check("co_asm_pointer", &["guard", "slab"]);
    check("co_asm_pointer_stripped", &["malloc"]);
}

#[test]
fn own_assembly_called_both_ways_and_jumped_to() {
    check("co_asm_operations", &["guard", "malloc"]);
    check("co_asm_tail_call", &["guard", "malloc"]);
}

#[test]
fn stacks_in_memory_that_could_be_shared() {
    check("co_asm", &["shared", "memfd"]);
    check("co_ucontext", &["memfd"]);
}

#[test]
fn stack_pointers_that_move_in_other_ways() {
    for way in ["pops", "adds", "frame_pointer", "tags", "thread_local"] {
        check(&format!("co_moves_{way}"), &["guard", "malloc"]);
    }
}

#[test]
fn switches_that_call_functions_on_their_way() {
    for way in ["asks", "asks_stripped", "helped", "calls"] {
        check(&format!("co_moves_{way}"), &["guard", "slab"]);
    }
}

#[test]
fn a_switch_with_two_layouts() {
    check("co_moves_shadow_stacks", &["guard", "malloc"]);
}

/// Nothing points to what is kept as a distance. It is said not to be seen, rather than to have ended.
#[test]
fn stack_pointers_that_are_kept_as_distances_are_a_blind_spot() {
    let truth = scratch("co_asm_distance").join("truth.json");
    let fixture = Running::start("co_asm_distance", &[&COUNT.to_string(), "guard", truth.to_str().unwrap()]);
    let dump: Value = live(&fixture);
    let spots = dump["blind_spots"].as_array().unwrap();
    assert_eq!(spots.len(), 1, "{spots:?}");
    assert_eq!(
        (spots[0]["kind"].as_str(), spots[0]["module"].as_str()),
        (Some("switch_not_understood"), Some("co_asm_distance"))
    );
    assert!(spots[0]["count"].as_u64().unwrap() > COUNT as u64 * 8 / 10, "{spots:?}");
    let stacks = dump["stacks"].as_array().unwrap();
    assert!(stacks.iter().all(|stack| stack["state"] != "finished"), "nothing is said to have ended");
    let sure = stacks.iter().filter(|stack| stack["state"] == "suspended" && stack["confidence"] != "guess");
    assert_eq!(sure.count(), 0);
}

#[test]
fn a_switch_that_saves_the_frame_pointer_alone() {
    check("co_bare", &["guard", "malloc"]);
}

#[test]
fn stacks_that_a_signal_began() {
    check_standing("co_signal", &["guard", "slab"]);
}

#[test]
fn labels_after_which_more_is_popped() {
    check("co_label", &["guard", "slab"]);
    check("co_label_stripped", &["malloc"]);
}

#[test]
fn own_assembly_unoptimised_stripped_and_static() {
    check("co_asm_debug", &["guard"]);
    check("co_asm_stripped", &["guard", "malloc"]);
    check("co_asm_static", &["slab", "malloc"]);
}

#[test]
fn contexts_of_the_c_library() {
    check("co_ucontext", ALL);
    check("co_ucontext_debug", &["guard"]);
    check("co_ucontext_stripped", &["slab"]);
    check("co_ucontext_static", &["guard"]);
}

#[test]
fn boost_contexts() {
    check("co_fcontext", ALL);
    // Here what has ended could still return, to the end of the program.
    check("co_fcontext_debug", ALL);
    check("co_fcontext_stripped", &["guard"]);
    check("co_fcontext_static", &["guard", "madvise"]);
    // Here pointers to finished ones stay below the frames of others.
    check("co_fcontext_o1", &["slab"]);
}

#[test]
fn jump_buffers_of_the_c_library() {
    check("co_sigsetjmp", ALL);
    check("co_sigsetjmp_debug", &["slab"]);
    check("co_sigsetjmp_stripped", &["guard"]);
    check("co_sigsetjmp_static", &["malloc"]);
}

#[test]
fn coroutines_of_corosensei() {
    for program in ["co_corosensei", "co_corosensei_release", "co_corosensei_stripped"] {
        check(program, &["guard", "slab"]);
    }
}

#[test]
fn coroutines_of_generator() {
    for program in ["co_generator", "co_generator_release", "co_generator_stripped"] {
        check(program, &["guard"]);
    }
}

/// Four of the outer ones wait for the inner one that they resumed, on a thread each.
#[test]
fn nested_coroutines_on_four_threads() {
    check_standing("co_nested", ALL);
    check_standing("co_nested_debug", &["slab"]);
    // Here the switch is part of functions that rest nowhere else.
    check_standing("co_nested_stripped", ALL);
    check_standing("co_nested_static", ALL);
}

/// Their outermost frame would return to no address, and what has ended stands in the function that called it.
#[test]
fn registers_kept_in_a_block() {
    check("co_block", ALL);
    check("co_block_stripped", &["slab"]);
    check("co_block_late", &["guard", "malloc"]);
}

/// Some of them rest on one or two segments, from where their chains lead back to their own stacks.
#[test]
fn coroutines_on_segments() {
    check("co_grown", ALL);
}

#[test]
fn fibers_of_wasmtime() {
    for program in ["co_wasmtime", "co_wasmtime_release", "co_wasmtime_stripped"] {
        check(program, &["guard"]);
    }
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

/// The kernel leaves out what files hold.
#[test]
fn a_core_file_of_the_kernel_shows_the_same() {
    for program in
        ["co_asm", "co_asm_static", "co_nested", "co_grown", "co_ucontext", "co_fcontext", "co_corosensei_stripped"]
    {
        let folder = scratch(program);
        let truth = folder.join("truth.json");
        let arguments = [&COUNT.to_string(), "slab", truth.to_str().unwrap()];
        check_core(&kernel_core(program, &arguments, &folder), &truth);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

fn check_core(file: &Path, truth: &Path) {
    let mut core = Core::open(file).unwrap();
    let found = differences(&Truth::read(truth), &shown(&Looker::new().core(&mut core, Wish::all(Lines::Cheap))));
    assert!(found.is_empty(), "{}: {found:?}", file.display());
}

/// The stack of the tutorials: 48 bytes of the heap, and what was called there took more.
#[test]
fn a_thread_on_a_block_of_48_bytes() {
    check_block_of_48_bytes(&Running::start("stack_jump", &[]), "stack_jump::hello", &["over"]);
    // Once what ran over the block has returned, the block says nothing of how far it was used.
    let example = Running::start_busy("green_threads_example", &[]);
    check_block_of_48_bytes(&example, "green_threads_example::hello", &["over", "ok"]);
}

/// Nothing keeps where the thread left its own stack: no caller is made up.
fn check_block_of_48_bytes(fixture: &Running, entry: &str, levels: &[&str]) {
    let dump: Value = live(fixture);
    let stack = dump["stacks"].as_array().unwrap().iter().find(|stack| stack["thread"] == fixture.pid()).unwrap();
    assert_eq!(stack["kind"], "coroutine");
    assert_eq!(stack["bounds_from"], "malloc");
    // A block is as long as the next multiple of 16 allows, and a word.
    assert_eq!(stack["size"], 56);
    assert_eq!(stack["guard"]["state"], "none");
    assert!(levels.contains(&stack["level"].as_str().unwrap()), "{stack}");
    assert_eq!(stack["entry"], entry);
    let frames = stack["frames"].as_array().unwrap();
    assert_eq!(frames.last().unwrap()["function"], entry);
    assert_eq!((&stack["resumed_by"], &stack["last_resumer"]), (&Value::Null, &Value::Null));
}
