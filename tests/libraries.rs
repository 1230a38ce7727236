//! Libraries of the distribution that switch stacks, at 1,000 each: all are found, as many as the library itself counts,
//! each at its depth.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::BTreeMap;

use serde_json::Value;
use stackscope_harness::{Running, gcore, scratch};

use common::{dump, function};

const COUNT: usize = 1000;

/// How many wait at each depth of `level`.
fn wanted() -> BTreeMap<usize, usize> {
    let mut wanted = BTreeMap::new();
    (0..COUNT).for_each(|number| *wanted.entry(number % 9 + 1).or_default() += 1);
    wanted
}

/// The same of a dump, which must show all others as threads or as the library's own; none of them ends early or is a
/// guess.
fn depths(fixture: &str, dump: &Value) -> BTreeMap<usize, usize> {
    let mut depths = BTreeMap::new();
    for stack in dump["stacks"].as_array().unwrap().iter().filter(|stack| stack["kind"] != "thread") {
        let frames = stack["frames"].as_array().unwrap();
        let levels = frames.iter().filter(|frame| function(frame).starts_with("level")).count();
        assert_eq!(
            (&stack["kind"], &stack["state"]),
            (&"coroutine".into(), &"suspended".into()),
            "{fixture}: {stack:#}"
        );
        assert!(stack["ended"] == "root" && stack["confidence"] != "guess", "{fixture}: {stack:#}");
        *depths.entry(levels).or_default() += 1;
    }
    depths
}

/// `own` is how many contexts the library has for itself, such as a scheduler.
fn check(fixture: &str, own: usize) {
    let running = Running::start(fixture, &[&COUNT.to_string()]);
    assert_eq!(running.mark, COUNT.to_string(), "the library's own count");
    let live = dump(&running.pid().to_string());
    let folder = scratch(fixture);
    let core = dump(gcore(running.pid(), &folder).to_str().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
    for dump in [live, core] {
        let mut found = depths(fixture, &dump);
        assert_eq!(found.remove(&0).unwrap_or(0), own, "{fixture}");
        assert_eq!(found, wanted(), "{fixture}");
        assert_eq!(dump["complete"], true, "{fixture}: {} {}", dump["warnings"], dump["blind_spots"]);
    }
}

#[test]
fn gnu_pth() {
    check("library_pth", 1);
}

#[test]
fn state_threads() {
    check("library_st", 1);
}

#[test]
fn boost() {
    check("library_boost_coroutine2", 0);
    check("library_boost_coroutine", 0);
    check("library_boost_fiber", 1);
}

/// Its coroutines have frames of the interpreter alone, all alike.
#[test]
fn coro_of_perl() {
    let running = Running::start("library_coro", &[&COUNT.to_string()]);
    assert_eq!(running.mark, COUNT.to_string(), "the library's own count");
    let dump = dump(&running.pid().to_string());
    assert_eq!(depths("library_coro", &dump), BTreeMap::from([(0, COUNT)]));
    let sorts = |stack: &&Value| stack["frames"].to_string().contains("Perl_pp_sort");
    assert_eq!(dump["stacks"].as_array().unwrap().iter().filter(sorts).count(), COUNT);
}
