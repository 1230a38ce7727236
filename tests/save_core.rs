//! `--save-core`: debuggers that know of threads alone show every coroutine, under the names that `dump` shows.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use common::contexts::{own_functions, short, shown_by, shown_by_us, stacks, tid};
use common::{dump, function, stackscope};
use stackscope_harness::{Running, built, eu_stack_core, gcore, gdb_core, scratch};

const COUNT: &str = "1000";

/// `dump --json --save-core FILE`.
fn saved(target: &str, file: &Path) -> Value {
    let output = stackscope(&["dump", "--json", "--save-core", file.to_str().unwrap(), target]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check_debuggers(program: &str) {
    let folder = scratch(program);
    let core = folder.join("saved.core");
    let truth = folder.join("truth.json");
    let fixture = Running::start(program, &[COUNT, "guard", truth.to_str().unwrap()]);
    let dump = saved(&fixture.pid().to_string(), &core);
    let own = own_functions(&dump);
    assert!(["rest", "plain", "buffer", "block", "body"].iter().all(|name| own.contains(*name)), "{own:?}");
    let expected = shown_by_us(&dump, &own);
    assert!(expected.len() > 900, "{program}: {} contexts", expected.len());
    let file = built(program);
    for (debugger, shown) in [("eu-stack", eu_stack_core(&core, &file)), ("gdb", gdb_core(&core, &file))] {
        let shown = shown_by(&shown, &own);
        assert_eq!(shown.len(), expected.len(), "{program}, {debugger}");
        for (tid, names) in &expected {
            assert_eq!(shown.get(tid), Some(names), "{program}, {debugger}, thread {tid}");
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn debuggers_show_contexts_of_the_c_library() {
    check_debuggers("co_ucontext");
}

#[test]
fn debuggers_show_boost_contexts() {
    check_debuggers("co_fcontext");
}

#[test]
fn debuggers_show_coroutines_of_corosensei() {
    check_debuggers("co_corosensei");
}

/// What is the same however a program is looked at.
fn essence(dump: &Value) -> Vec<String> {
    let stacks = stacks(dump).iter().map(|stack| {
        let frames = stack["frames"].as_array().unwrap();
        let pcs: Vec<&Value> = frames.iter().map(|frame| &frame["pc"]).collect();
        format!("{} {} {} {pcs:?}", stack["kind"], stack["state"], stack["sp"])
    });
    let mut stacks: Vec<String> = stacks.collect();
    stacks.sort();
    stacks
}

#[test]
fn our_own_core_files_are_read_again() {
    let folder = scratch("save_core_again");
    let (first, second) = (folder.join("first.core"), folder.join("second.core"));
    let fixture = Running::start("co_asm", &["200", "slab"]);
    let live = saved(&fixture.pid().to_string(), &first);
    assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(essence(&dump(first.to_str().unwrap())), essence(&live));
    // From a core file of another's, and from one of ours.
    let theirs = gcore(fixture.pid(), &folder);
    for core in [&theirs, &first] {
        let again = saved(core.to_str().unwrap(), &second);
        assert_eq!(essence(&again), essence(&live), "{}", core.display());
        assert_eq!(essence(&dump(second.to_str().unwrap())), essence(&live), "{}", core.display());
        assert_eq!(eu_stack_core(&second, &built("co_asm")).len(), stacks(&live).len(), "{}", core.display());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A thread that runs a coroutine stands for two contexts: the coroutine's, and its own below.
#[test]
fn a_resumer_is_a_context_of_its_own() {
    let folder = scratch("save_core_nested");
    let core = folder.join("nested.core");
    let fixture = Running::start("corosensei_nested", &[]);
    let live = saved(&fixture.pid().to_string(), &core);
    let shown = eu_stack_core(&core, &built("corosensei_nested"));
    for stack in stacks(&live) {
        let innermost = stack["frames"].as_array().unwrap().iter().find(|frame| frame["inlined"] == false).unwrap();
        let thread = shown.iter().find(|thread| thread.tid == tid(stack)).unwrap_or_else(|| panic!("{stack}"));
        assert_eq!(short(&thread.functions[0]), short(function(innermost)), "{stack}");
    }
    assert!(stacks(&live).len() > 2, "{live}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_told() {
    let fixture = Running::start("threads", &["2"]);
    let output = stackscope(&["dump", "--save-core", "/nonexistent/core", &fixture.pid().to_string()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("/nonexistent/core: No such file"), "{said}");
}
