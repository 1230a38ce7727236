//! Stacks that programs list themselves: names, exact bounds, states and sources, live and in core files.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use serde_json::Value;

use common::dump;
use stackscope_harness::{Running, gcore, scratch};

/// Compares what is shown of the listed coroutines with the truth.
fn check(truth: &Value, dump: &Value, source: &str, what: &str) {
    let stacks = dump["stacks"].as_array().unwrap();
    let truth = truth.as_array().unwrap();
    for one in truth {
        let mut found = stacks.iter().filter(|stack| stack["low"] == one["low"]);
        let stack = found.next().unwrap_or_else(|| panic!("{what}: no {one}"));
        assert_eq!(found.next(), None, "{what}: shown twice");
        assert_eq!(
            (&stack["name"], &stack["state"], &stack["high"]),
            (&one["name"], &one["kind"], &one["high"]),
            "{what}"
        );
        assert_eq!((&stack["bounds_from"], &stack["source"]), (&"registered".into(), &source.into()), "{what}");
        assert_eq!((&stack["kind"], &stack["confidence"]), (&"coroutine".into(), &"certain".into()), "{what}");
        if one["kind"] == "suspended" {
            check_chain(stack, source, what);
        }
        if let Some(bytes) = one.get("bytes").filter(|bytes| !bytes.is_null()) {
            assert_eq!(stack["peak"], serde_json::json!({ "bytes": bytes, "method": "exact" }), "{what}: {stack}");
        }
    }
    assert_eq!(stacks.iter().filter(|stack| stack["kind"] != "thread").count(), truth.len(), "{what}");
}

/// A suspended coroutine has the frames of its function up to the start of its stack, and none of who resumed it.
fn check_chain(stack: &Value, source: &str, what: &str) {
    assert_eq!(stack["ended"], "root", "{what}: {stack}");
    let frames = stack["frames"].as_array().unwrap();
    let own = frames.iter().filter(|frame| frame["inlined"] == false).map(|frame| frame["function"].as_str());
    let own: Vec<&str> = own.map(Option::unwrap_or_default).collect();
    if source == "painted" {
        assert!(own[0].ends_with("::suspend"), "{what}: {own:#?}");
        assert_eq!(own[1..3], ["switch_listed::wait", "switch_listed::make::{{closure}}"], "{what}");
        assert!(own.last().unwrap().ends_with("::start_returning"), "{what}: {own:#?}");
    }
    assert!(!own.is_empty(), "{what}: {stack}");
}

fn check_live_and_core(program: &str, source: &str) {
    let folder = scratch(program);
    let truth = folder.join("truth.json");
    let fixture = Running::start(program, &[truth.to_str().unwrap()]);
    let truth: Value = serde_json::from_slice(&std::fs::read(truth).unwrap()).unwrap();
    check(&truth, &dump(&fixture.pid().to_string()), source, program);
    let core = gcore(fixture.pid(), &folder);
    check(&truth, &dump(core.to_str().unwrap()), source, &format!("{program}, core file"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_library_may_list_its_stacks_by_the_header() {
    check_live_and_core("roster", "one block");
}

#[test]
fn a_stripped_programs_roster_is_found_by_its_note() {
    check_live_and_core("roster_stripped", "one block");
}

#[test]
fn our_own_coroutines_are_listed_with_exact_peaks() {
    check_live_and_core("switch_listed", "painted");
}
