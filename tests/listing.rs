//! Which stacks `dump` lists, and what it shows together: `--filter`, `--group`, `--all`.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::BTreeSet;

use serde_json::Value;

use common::stackscope;
use stackscope_harness::Running;

const COUNT: u64 = 200;

fn json(arguments: &[&str]) -> Value {
    let output = stackscope(&[&["dump", "--json"], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

fn text(arguments: &[&str]) -> String {
    let output = stackscope(&[&["dump"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ids<'v>(stacks: impl IntoIterator<Item = &'v Value>) -> BTreeSet<u64> {
    stacks.into_iter().map(|stack| stack["id"].as_u64().unwrap()).collect()
}

fn stacks(dump: &Value) -> &[Value] {
    dump["stacks"].as_array().unwrap()
}

fn runs(stack: &Value, function: &str) -> bool {
    stack["frames"].as_array().unwrap().iter().any(|frame| frame["function"].as_str().unwrap().contains(function))
}

#[test]
fn a_filter_picks_what_the_json_says() {
    let fixture = Running::start("co_asm", &[&COUNT.to_string(), "guard"]);
    let pid = fixture.pid().to_string();
    let whole = json(&[&pid]);
    type Fits = fn(&Value) -> bool;
    let cases: [(&str, Fits); 5] = [
        ("kind:coro peak>20% !fn:buffer", |stack| {
            let percent = stack["peak"]["bytes"].as_u64().unwrap() * 100 / stack["size"].as_u64().unwrap();
            stack["kind"] == "coroutine" && percent > 20 && !runs(stack, "buffer")
        }),
        ("state=finished", |stack| stack["state"] == "finished"),
        ("kind:coro used>=500", |stack| stack["kind"] == "coroutine" && stack["used"].as_u64().unwrap() >= 500),
        ("top:leave entry:run_body", |stack| stack["top"] == "leave" && stack["entry"] == "run_body"),
        ("thread:1", |_| false),
    ];
    for (filter, fits) in cases {
        let picked = json(&["--filter", filter, &pid]);
        assert_eq!(ids(stacks(&picked)), ids(stacks(&whole).iter().filter(|stack| fits(stack))), "{filter}");
        assert_eq!((&picked["stacks_total"], &picked["totals"]), (&whole["stacks_total"], &whole["totals"]));
    }
    let shown = text(&["--filter", "state:new", &pid]);
    assert!(shown.contains("\n4 of 201 fit the filter state:new\n\n4 coroutines, new"), "{shown}");
    assert!(!shown.contains("Thread"), "{shown}");
}

#[test]
fn groups_hold_every_stack_once() {
    let fixture = Running::start("co_asm", &[&COUNT.to_string(), "guard"]);
    let pid = fixture.pid().to_string();
    for key in ["stack", "entry", "top", "state"] {
        let dump = json(&["--group", key, "--filter", "kind:coro", &pid]);
        let groups = dump["groups"].as_array().unwrap();
        let members: Vec<u64> = groups
            .iter()
            .flat_map(|group| group["stacks"].as_array().unwrap())
            .map(|id| id.as_u64().unwrap())
            .collect();
        assert_eq!(members.len() as u64, COUNT, "{key}");
        assert_eq!(members.into_iter().collect::<BTreeSet<u64>>(), ids(stacks(&dump)), "{key}");
        assert!(groups.iter().all(|group| group["count"] == group["stacks"].as_array().unwrap().len()), "{key}");
    }
    let by_state = json(&["--group", "state", &pid]);
    let counts: Vec<(&Value, &Value)> =
        by_state["groups"].as_array().unwrap().iter().map(|group| (&group["common"], &group["count"])).collect();
    assert_eq!(format!("{counts:?}").matches("String").count(), 4, "{counts:?}");
    let by_entry = text(&["--group", "entry", &pid]);
    assert!(by_entry.contains("196 coroutines, started for run_body: "), "{by_entry}");
    assert!(by_entry.contains("\n  suspended 176, finished (likely) 20\n"), "{by_entry}");
    let singly = text(&["--all", &pid]);
    assert_eq!(singly.matches("\nCoroutine ").count() as u64, COUNT);
}

#[test]
fn a_wrong_filter_is_wrong_usage() {
    let output = stackscope(&["dump", "--filter", "kind:coro peak>lots", "1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("column 16: 'lots' is no size"), "{said}");
}

#[test]
fn two_looks_tell_what_did_not_move() {
    let fixture = Running::start("co_asm", &["50", "guard"]);
    let pid = fixture.pid().to_string();
    let dump = json(&["--twice", "0.01", &pid]);
    assert!(stacks(&dump).iter().all(|stack| stack["moved"] == false), "{dump}");
    assert!(stacks(&json(&[&pid])).iter().all(|stack| stack["moved"].is_null()));
    let shown = text(&["--twice", "0.01", "--group", "state", &pid]);
    assert!(shown.contains("\n  44 of 44 did not move\n"), "{shown}");

    let output = stackscope(&["dump", "--twice", "1", "./core"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("a core file does not change"), "{said}");
}
