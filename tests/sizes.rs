//! `stackscope sizes`: frames beside those that compilers state, bounds beside painted stacks, and reasons.

#![cfg(all(target_os = "linux", target_arch = "x86_64", feature = "cli"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use stackscope::workshop::process::AtRest;
use stackscope::workshop::sizes::Graph;
use stackscope_harness::{Running, built};

use common::stackscope;

/// What `sizes --json` says of each of these functions.
fn sizes(target: &str, functions: &[&str]) -> HashMap<String, Value> {
    let wanted = functions.iter().map(|function| format!("={function}"));
    let arguments: Vec<String> = ["sizes", "--json", target].map(str::to_owned).into_iter().chain(wanted).collect();
    let output = stackscope(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{target}: {output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    check_schema(&report);
    let answers = report["functions"].as_array().unwrap().iter();
    let answers: HashMap<String, Value> =
        answers.map(|answer| (answer["name"].as_str().unwrap().to_owned(), answer.clone())).collect();
    assert_eq!(answers.len(), functions.len(), "{target}: {report}");
    answers
}

fn check_schema(report: &Value) {
    let schema = std::fs::read_to_string("docs/stackscope-sizes-1.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// What the functions of a fixture used of their painted stacks.
fn peaks(fixture: &str) -> Vec<(String, u64)> {
    let running = Running::start(fixture, &[]);
    let peaks = running.mark.split(' ').map(|word| {
        let (name, bytes) = word.split_once('=').unwrap();
        (name.to_owned(), bytes.parse().unwrap())
    });
    peaks.collect()
}

/// A bound, or why there is none: the kind of what is not known, or `recursion`.
type Expected<'e> = (&'e str, Result<&'e [&'e str], &'e [&'e str]>);

/// The deepest paths of `fixtures/c/sizes.c`, or the reasons why there is no bound.
const PATHS: [Expected<'_>; 15] = [
    ("direct", Ok(&["direct", "middle", "bottom", "red_zone"])),
    ("tail", Ok(&["tail", "bottom", "red_zone"])),
    ("mutual", Err(&["recursion"])),
    ("jumping", Ok(&["jumping", "ping", "bottom", "red_zone"])),
    ("pointer", Err(&["indirect_call"])),
    ("constant_table", Ok(&["constant_table", "middle", "bottom", "red_zone"])),
    ("virtual_call", Err(&["indirect_call"])),
    ("room", Err(&["room"])),
    ("callback", Err(&["indirect_call"])),
    ("large", Ok(&["large", "fill"])),
    ("aligned", Ok(&["aligned", "fill"])),
    ("arguments", Ok(&["arguments", "many", "fill"])),
    ("switching", Ok(&["switching", "middle", "bottom", "red_zone"])),
    ("ends", Ok(&["ends", "small"])),
    ("rarely", Ok(&["rarely", "rare", "middle", "bottom", "red_zone"])),
];

#[test]
fn known_paths_have_bounds_or_the_right_reasons() {
    let answers = sizes(built("sizes").to_str().unwrap(), &PATHS.map(|(function, _)| function));
    for (function, expected) in PATHS {
        let answer = &answers[function];
        let texts = |list: &str, key: &str| -> Vec<String> {
            let list = answer[list].as_array().unwrap().iter();
            list.map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(answer["bound"].as_bool(), Some(expected.is_ok()), "{function}: {answer:#}");
        match expected {
            Ok(path) => assert_eq!(texts("path", "name"), path, "{function}: {answer:#}"),
            Err(reasons) => {
                let mut told = texts("unknown", "kind");
                told.extend(answer["recursion"].as_array().unwrap().iter().map(|_| "recursion".to_owned()));
                assert!(reasons.iter().all(|reason| told.iter().any(|told| told == reason)), "{function}: {answer:#}");
            }
        }
    }
}

#[test]
fn no_painted_peak_is_deeper_than_a_bound() {
    for fixture in ["sizes", "sizes_debug", "sizes_frame_pointers", "sizes_static"] {
        let peaks = peaks(fixture);
        let functions: Vec<&str> = peaks.iter().map(|(function, _)| function.as_str()).collect();
        let answers = sizes(built(fixture).to_str().unwrap(), &functions);
        let mut bounded = 0;
        for (function, peak) in peaks.iter().map(|(function, peak)| (function, *peak)) {
            let answer = &answers[function];
            let need = answer["need"].as_u64().unwrap();
            if answer["bound"].as_bool().unwrap() {
                bounded += 1;
                assert!(peak <= need, "{fixture}: {function} used {peak} of {need}");
                // All of these run their deepest path and use nearly all of each frame.
                assert!(need - peak < 400, "{fixture}: {function} used {peak} of {need}");
            }
        }
        assert!(bounded >= 8, "{fixture}: {bounded}");
    }
}

#[test]
fn a_process_gives_what_its_file_does() {
    let running = Running::start("sizes", &[]);
    let (pid, program) = (running.pid().to_string(), built("sizes"));
    let functions = ["direct", "callback"];
    let [live, file] = [&pid, program.to_str().unwrap()].map(|target| sizes(target, &functions));
    for function in functions {
        let [live, file] = [&live, &file].map(|answers| &answers[function]);
        for key in ["need", "bound", "frame", "svma", "unknown_total"] {
            assert_eq!(live[key], file[key], "{function}: {key}");
        }
    }
}

/// By svma, the frames of a file's own functions.
fn frames(file: &Path) -> HashMap<u64, u64> {
    let at_rest = AtRest::open(file).unwrap();
    let graph = Graph::of(at_rest.modules());
    let own = graph.functions().filter(|(_, function)| function.module == 0);
    own.map(|(_, function)| (function.svma, function.frame)).collect()
}

#[test]
fn a_stripped_file_has_the_same_frames() {
    let [whole, stripped] = ["sizes", "sizes_stripped"].map(|fixture| frames(&built(fixture)));
    let described = whole.iter().filter(|(_, frame)| **frame > 8);
    for (svma, frame) in described.clone() {
        assert_eq!(stripped.get(svma), Some(frame), "{svma:#x}");
    }
    assert!(described.count() > 15, "{whole:?}");
}

#[test]
fn what_fits_no_function_is_refused() {
    let program = built("sizes");
    let output = stackscope(&["sizes", program.to_str().unwrap(), "=no such function"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no function fits"), "{output:?}");
    let output = stackscope(&["sizes", "Cargo.toml"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no program or library"), "{output:?}");
}

#[test]
fn folded_stacks_add_up_to_the_need() {
    let program = built("sizes");
    let output = stackscope(&["sizes", program.to_str().unwrap(), "=direct", "--folded"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let bytes = text.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
    let need = sizes(program.to_str().unwrap(), &["direct"])["direct"]["need"].as_u64();
    assert_eq!(Some(bytes.sum()), need, "{text}");
    assert!(text.lines().last().unwrap().starts_with("direct"), "{text}");
}
