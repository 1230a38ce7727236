//! Threads whose stacks grow by segments: each chain is whole, over all of them.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;
#[path = "common/truth.rs"]
mod truth;

use serde_json::Value;
use stackscope_harness::{Running, gcore, kernel_core, scratch};

use common::{address, dump, stitched};
use truth::{Address, Grown, Truth};

/// A stack of a dump that lies on one or, where they lie side by side, on several of a thread's segments.
fn segment_of<'g>(stack: &Value, grown: &'g Grown) -> Option<&'g (Address, Address)> {
    let sp = Address::at(address(&stack["sp"]));
    grown.segments.iter().find(|(low, high)| (*low..=*high).contains(&sp))
}

/// The stacks of a thread as they are shown, innermost first; the last is the thread's own.
fn stacks_of<'d>(dump: &'d Value, grown: &Grown) -> Vec<&'d Value> {
    let stack = |id: u64| &dump["stacks"][id as usize];
    let threads = dump["threads"].as_array().unwrap().iter().map(|thread| thread["stack"].as_u64().unwrap());
    let innermost: Vec<u64> = threads.filter(|id| segment_of(stack(*id), grown).is_some()).collect();
    assert_eq!(innermost.len(), 1, "one thread runs on these segments");
    stitched(dump, innermost[0]).into_iter().map(stack).collect()
}

/// Compares what is shown of each thread with the truth, and gives the segments that are shown for each.
fn check<'d>(what: &str, truth: &Truth, dump: &'d Value) -> Vec<Vec<&'d Value>> {
    assert!(!truth.threads.is_empty());
    let shown = truth.threads.iter().map(|grown| {
        let mut stacks = stacks_of(dump, grown);
        let frames = stacks.iter().flat_map(|stack| stack["frames"].as_array().unwrap());
        let pcs = frames.filter(|frame| frame["inlined"] == false).map(|frame| address(&frame["pc"]));
        let chain: Vec<&str> = pcs.filter_map(|pc| truth.name(Address::at(pc))).collect();
        assert_eq!(chain, grown.chain, "{what}");
        let own = stacks.pop().unwrap();
        assert_eq!(own["kind"], "thread", "{what}");
        assert!(!stacks.is_empty());
        for stack in &stacks {
            assert_eq!(stack["kind"], "segment", "{what}: {stack}");
            assert!(segment_of(stack, grown).is_some(), "{what}: {stack}");
            assert_eq!(stack["confidence"], "certain", "{what}: {stack}");
        }
        stacks
    });
    shown.collect()
}

/// Checks `program` live, from gcore's core and from the kernel's; `each` sees the segments of each thread.
fn check_everywhere(program: &str, arguments: &[&str], each: impl Fn(&Grown, &[&Value])) {
    let folder = scratch(program);
    let file = folder.join("truth.json");
    let arguments = [arguments, &[file.to_str().unwrap()]].concat();
    let check_one = |what: &str, target: &str| {
        let (truth, dump) = (Truth::read(&file), dump(target));
        for (grown, stacks) in truth.threads.iter().zip(check(&format!("{program}, {what}"), &truth, &dump)) {
            each(grown, &stacks);
        }
    };
    let fixture = Running::start(program, &arguments);
    check_one("live", &fixture.pid().to_string());
    check_one("gcore", gcore(fixture.pid(), &folder).to_str().unwrap());
    drop(fixture);
    check_one("the kernel's core", kernel_core(program, &arguments, &folder).to_str().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
}

/// Each of them has a guard, so that the bounds are known to the byte.
#[test]
fn segments_of_stacker() {
    for program in ["stacker_levels", "stacker_levels_release", "stacker_levels_stripped"] {
        check_everywhere(program, &[], |grown, stacks| {
            let lows: Vec<Address> = stacks.iter().map(|stack| Address::at(address(&stack["low"]))).collect();
            let wanted: Vec<Address> = grown.segments.iter().map(|(low, _)| *low).collect();
            assert!(lows == wanted && lows.len() > 4, "{program}: {stacks:#?}");
        });
    }
}

/// They have no guards, and those that lie side by side in memory are not told apart.
#[test]
fn segments_of_gcc() {
    for program in ["split_stack", "split_stack_debug", "split_stack_stripped"] {
        check_everywhere(program, &["40"], |grown, _| assert!(grown.segments.len() > 4));
    }
}
