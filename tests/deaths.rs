//! What a program dies of: each fault is named as what it is, at the address that the kernel says, and the program gets
//! its signals and its end as without us.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stackscope_harness::{built, crash_core, scratch};

mod common;

/// Runs a fixture under `run`; its report, and its end.
fn run(fixture: &str, arguments: &[&str]) -> (Value, Output) {
    let file = scratch("deaths").join("report.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    command.stdin(Stdio::null()).args(["run", "--json", "-o"]).arg(&file).arg("--").arg(built(fixture));
    let output = command.args(arguments).output().unwrap();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let schema = std::fs::read_to_string("docs/stackscope-report-1.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    (report, output)
}

/// The faults that were judged, in order.
fn faults(report: &Value) -> Vec<&Value> {
    report["events"].as_array().unwrap().iter().map(|event| &event["fault"]).filter(|fault| !fault.is_null()).collect()
}

/// The address at which the program's own handler says that the kernel raised the fault.
fn own_address(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().nth(1).and_then(|line| line.split(' ').nth(1)).unwrap_or_else(|| panic!("{text}"));
    said.strip_prefix("0x").map_or(0, |digits| u64::from_str_radix(digits, 16).unwrap())
}

/// Runs `faults KIND` with its handler: the verdict before the handler ran, which is that on its end too.
fn judged(kind: &str, signal: i32) -> Value {
    let (report, output) = run("faults", &[kind]);
    assert_eq!(output.status.code(), Some(128 + signal), "{kind}: {output:?}");
    let faults = faults(&report);
    let [handled, fatal] = faults.as_slice() else { panic!("{kind}: {faults:#?}") };
    // Before the handler only the threads are looked at, so that of other stacks' guards only the memory is known.
    let is_known = handled["cause"] == fatal["cause"] || handled["cause"] == "forbidden";
    assert!(is_known, "{kind}: {handled:#} {fatal:#}");
    assert_eq!(handled["signal"], signal, "{kind}");
    if !handled["address"].is_null() {
        assert_eq!(common::address(&handled["address"]), own_address(&output), "{kind}");
    }
    (*fatal).clone()
}

#[test]
fn overflows_are_named_with_the_way_and_the_kernels_address() {
    let ways = [
        ("recurse", "into_guard"),
        ("one_byte", "into_guard"),
        ("install", "into_guard"),
        ("skip", "over_guard"),
        ("unguarded", "unguarded"),
    ];
    for (kind, way) in ways {
        let fault = judged(kind, libc::SIGSEGV);
        assert_eq!((&fault["cause"], &fault["way"]), (&"overflow".into(), &way.into()), "{kind}: {fault:#}");
        assert!(fault["past"].as_u64().unwrap() > 0 && fault["stack"].is_u64(), "{kind}: {fault:#}");
    }
}

#[test]
fn an_overflow_is_told_by_function_count_and_stack() {
    let (report, _) = run("faults", &["recurse"]);
    let events = report["events"].as_array().unwrap();
    let overflow = events.iter().find(|event| event["kind"] == "overflow").unwrap();
    let message = overflow["message"].as_str().unwrap();
    assert!(message.starts_with("stack overflow: recurse ×1"), "{message}");
    assert!(message.contains(" ran into the guard of coroutine ") && message.contains(" (64K) at 0x"), "{message}");
    assert!(overflow["frames"].as_array().unwrap().len() > 100, "{message}");
}

#[test]
fn an_overflow_of_the_alternate_stack_and_of_the_first_one_is_named() {
    for (fixture, arguments, way) in [
        ("faults", &["alternate"][..], "into_guard"),
        ("overflow", &[], "to_limit"),
        ("overflow", &["thread"], "into_guard"),
    ] {
        let (report, output) = run(fixture, arguments);
        assert_eq!(output.status.code(), Some(139), "{fixture} {arguments:?}");
        let faults = faults(&report);
        let fault = faults.last().unwrap();
        assert_eq!((&fault["cause"], &fault["way"]), (&"overflow".into(), &way.into()), "{fixture} {arguments:?}");
    }
}

#[test]
fn other_faults_are_no_overflows() {
    let kinds = [
        ("own_guard", "guard"),
        ("other_guard", "guard"),
        ("thread_guard", "guard"),
        ("above", "forbidden"),
        ("forbidden", "forbidden"),
        ("null", "null"),
        ("null_field", "null"),
        ("null_call", "jump"),
        ("jump_data", "jump"),
        ("jump_nowhere", "jump"),
        ("smashed_pointer", "general_protection"),
        ("privileged", "general_protection"),
    ];
    for (kind, cause) in kinds {
        assert_eq!(judged(kind, libc::SIGSEGV)["cause"], cause, "{kind}");
    }
}

#[test]
fn accesses_that_memory_does_not_allow_are_no_overflows() {
    let kinds = [
        ("unmapped", libc::SIGSEGV, "unmapped"),
        ("freed", libc::SIGSEGV, "unmapped"),
        ("end_of_main", libc::SIGSEGV, "unmapped"),
        ("constant", libc::SIGSEGV, "protected"),
        ("code", libc::SIGSEGV, "protected"),
        ("short_file", libc::SIGBUS, "file"),
        ("illegal", libc::SIGILL, "illegal_instruction"),
        ("division", libc::SIGFPE, "arithmetic"),
    ];
    for (kind, signal, cause) in kinds {
        assert_eq!(judged(kind, signal)["cause"], cause, "{kind}");
    }
}

#[test]
fn aborts_have_the_c_librarys_message() {
    let message = |kind: &str| {
        let (report, output) = run("faults", &[kind]);
        assert_eq!(output.status.code(), Some(134), "{kind}");
        let events = report["events"].as_array().unwrap();
        let abort = events.iter().find(|event| event["kind"] == "abort").unwrap();
        abort["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(message("abort"), "SIGABRT: the program aborted");
    assert!(message("assert").contains("Assertion `zero == 1' failed."), "{}", message("assert"));
    assert!(message("double_free").contains("double free detected"), "{}", message("double_free"));
}

#[test]
fn a_signal_that_was_sent_is_no_fault_of_the_program() {
    let (report, output) = run("faults", &["sent"]);
    assert_eq!(output.status.code(), Some(139));
    assert_eq!(faults(&report)[0]["cause"], "sent");
}

#[test]
fn a_core_file_of_a_crash_opens_with_its_verdict() {
    for (kind, cause, words) in [
        ("recurse", "overflow", "stack overflow: recurse ×1"),
        ("skip", "overflow", "stack overflow: reach, with a frame of "),
        ("null_field", "null", "SIGSEGV: a null pointer was followed, with an offset of 24"),
        ("assert", "abort", "SIGABRT: the program aborted: "),
    ] {
        let core = crash_core("faults", &[kind, "bare"], &scratch("deaths"));
        let core = core.to_str().unwrap();
        assert_eq!(common::dump(core)["fault"]["cause"], cause, "{kind}");
        let text = common::stackscope(&["dump", core]);
        let text = String::from_utf8_lossy(&text.stdout);
        let line = text.lines().nth(2).unwrap();
        assert!(line.starts_with("Ended in thread ") && line.contains(words), "{kind}: {line}");
    }
}

#[test]
fn an_event_that_is_asked_for_fails_a_program_that_returns_0() {
    let code = |kind: &str, fixture: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
        command.stdin(Stdio::null()).args(["run", "--fail-on", kind, "--"]).arg(built(fixture));
        command.args(arguments).output().unwrap().status.code()
    };
    assert_eq!(code("overflow", "faults", &["recovers"]), Some(120));
    assert_eq!(code("panic", "faults", &["recovers"]), Some(0));
    assert_eq!(code("overflow", "faults", &["recurse"]), Some(139), "its own end counts");
}
