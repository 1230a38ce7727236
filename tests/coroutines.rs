//! Suspended coroutines, compared one by one with the truth that each fixture writes down.

#![cfg(feature = "std")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;
use stackscope::image::names::Lines;
use stackscope::report::json;
use stackscope::snapshot;
use stackscope::target::{Core, Live};
use stackscope_harness::{Running, gcore, kernel_core, scratch};

const COUNT: usize = 1000;

/// What a fixture wrote about itself.
struct Truth {
    /// By name, the addresses of each function that may stand in a chain.
    functions: HashMap<String, (u64, u64)>,
    /// By the low end of its stack.
    coroutines: BTreeMap<u64, Coroutine>,
}

struct Coroutine {
    high: u64,
    state: String,
    chain: Vec<String>,
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

impl Truth {
    fn read(path: &Path) -> Truth {
        let truth: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let functions = truth["functions"].as_object().unwrap().iter();
        let coroutines = truth["coroutines"].as_array().unwrap().iter().map(|coroutine| {
            let chain = coroutine["chain"].as_array().unwrap().iter().map(text).collect();
            let entry = Coroutine { high: number(&coroutine["high"]), state: text(&coroutine["state"]), chain };
            (number(&coroutine["low"]), entry)
        });
        Truth {
            functions: functions.map(|(name, ends)| (name.clone(), (number(&ends[0]), number(&ends[1])))).collect(),
            coroutines: coroutines.collect(),
        }
    }

    /// The name of the function that a return address leads into.
    fn name(&self, pc: u64) -> Option<&str> {
        let found = self.functions.iter().find(|(_, (low, high))| (low + 1..=*high).contains(&pc));
        found.map(|(name, _)| name.as_str())
    }

    /// The coroutine whose stack holds `sp`, by its low end.
    fn at(&self, sp: u64) -> Option<(u64, &Coroutine)> {
        let (low, coroutine) = self.coroutines.range(..=sp).next_back()?;
        (sp <= coroutine.high).then_some((*low, coroutine))
    }
}

/// What is known to be shown less well than it could be.
#[derive(Clone, Copy, Default)]
struct Weakness {
    /// Contexts that never ran are not found.
    new_is_missed: bool,
}

impl Weakness {
    fn of(program: &str) -> Weakness {
        Weakness {
            // The function that a fresh fiber begins in looks like any other near its switch.
            new_is_missed: program == "co_wasmtime",
        }
    }
}

/// How the truth and what was shown differ, by what is wrong: empty where nothing is.
fn differences(truth: &Truth, dump: &Value, weakness: Weakness) -> BTreeMap<String, usize> {
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let mut note = |what: String| *wrong.entry(what).or_default() += 1;
    let stacks = dump["stacks"].as_array().unwrap();
    for stack in stacks.iter().filter(|stack| stack["kind"] != "thread") {
        let Some((low, coroutine)) = truth.at(number(&stack["sp"])) else {
            note("invented".to_owned());
            continue;
        };
        *seen.entry(low).or_default() += 1;
        let frames = stack["frames"].as_array().unwrap().iter().filter(|frame| frame["inlined"] == false);
        let chain: Vec<&str> = frames.filter_map(|frame| truth.name(number(&frame["pc"]))).collect();
        let state = text(&stack["state"]);
        // A fixture that goes on switching is running one of them.
        if state != coroutine.state && state != "running" {
            note(format!("{} shown as {state}", coroutine.state));
        }
        if coroutine.state == "suspended" && state == "suspended" && chain != coroutine.chain {
            note("wrong chain".to_owned());
        }
        let bounds = (number(&stack["low"]), number(&stack["high"]));
        // A block of the heap is up to a header longer than was asked for.
        if bounds.0 != low || !(coroutine.high..coroutine.high + 32).contains(&bounds.1) {
            note(format!("wrong bounds from {}", stack["bounds_from"]));
        }
    }
    for (low, coroutine) in &truth.coroutines {
        match seen.get(low) {
            Some(1) => {}
            Some(_) => note("shown twice".to_owned()),
            // What has ended may have left nothing behind.
            None if coroutine.state == "finished" => {}
            None if coroutine.state == "new" && weakness.new_is_missed => {}
            None => note(format!("missed {}", coroutine.state)),
        }
    }
    wrong
}

fn dump(snapshot: &snapshot::Snapshot) -> Value {
    let mut bytes = Vec::new();
    json::write(&mut bytes, snapshot).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn live(fixture: &Running) -> Value {
    dump(&snapshot::of_live(&Live::open(fixture.pid()).unwrap(), Lines::Cheap).unwrap())
}

/// Compares what is shown of `program` with the truth, its stacks allocated in each of `ways`.
fn check(program: &str, ways: &[&str]) {
    for way in ways {
        let truth = scratch(program).join("truth.json");
        let fixture = Running::start(program, &[&COUNT.to_string(), way, truth.to_str().unwrap()]);
        let found = differences(&Truth::read(&truth), &live(&fixture), Weakness::of(program));
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
    check("co_fcontext_stripped", &["guard"]);
}

#[test]
fn coroutines_of_corosensei() {
    check("co_corosensei", &["guard"]);
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
        let dump = live(&fixture);
        let others = dump["stacks"].as_array().unwrap().iter().filter(|stack| stack["kind"] != "thread");
        assert_eq!(others.count(), 0, "{program}: {}", dump["totals"]);
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
    let dump = live(&fixture);
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
    for program in ["co_asm", "co_asm_static", "co_ucontext", "co_fcontext"] {
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
    let found =
        differences(&Truth::read(truth), &dump(&snapshot::of_core(&mut core, Lines::Cheap)), Weakness::default());
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
            let found = differences(&Truth::read(&truth), &live(&fixture), Weakness::of(program));
            assert!(found.is_empty(), "{program}: {found:?}");
        }
    }
}
