//! `run`'s report tells peaks within the bounds of their methods, for stacks whose depth is known to the byte.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use stackscope_harness::{Running, built, gcore, scratch, wait_until};

const COUNT: u64 = 40;
const PAGE: u64 = 4096;
const SIZE: u64 = 65536;

/// A program under `run`, and how many looks it had.
struct Watched {
    tool: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    looks: Arc<AtomicUsize>,
}

impl Watched {
    fn start(program: &str, arguments: &[&Path], report: &Path) -> Watched {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
        command.args(["run", "-v", "--json", "--interval", "20", "-o"]).arg(report);
        command.arg(built(program)).args(arguments);
        let mut tool = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdin, log) = (tool.stdin.take(), BufReader::new(tool.stderr.take().unwrap()));
        let (stdout, looks) = (BufReader::new(tool.stdout.take().unwrap()), Arc::new(AtomicUsize::new(0)));
        let counted = looks.clone();
        std::thread::spawn(move || {
            // The log says so at the end of each look.
            let ends = log.lines().map_while(Result::ok).filter(|line| line.contains("places are named"));
            ends.for_each(|_| {
                counted.fetch_add(1, Ordering::Relaxed);
            });
        });
        Watched { tool, stdin, stdout, looks }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Waits for the end of a look that began after this call.
    fn looked(&self) {
        // The next one that ends may have begun before.
        let before = self.looks.load(Ordering::Relaxed);
        wait_until("looks end", || self.looks.load(Ordering::Relaxed) >= before + 2);
    }

    /// Ends the program's stdin and gives the report.
    fn finish(mut self, report: &Path) -> Value {
        drop(self.stdin.take());
        assert_eq!(self.tool.wait().unwrap().code(), Some(0));
        read(report)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.tool.kill();
        let _ = self.tool.wait();
    }
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn check_schema(report: &Value) {
    let schema = read(Path::new("docs/stackscope-report-1.schema.json"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

fn group<'r>(report: &'r Value, entry: &str) -> &'r Value {
    let groups = report["groups"].as_array().unwrap();
    groups.iter().find(|group| group["entry"] == entry).unwrap_or_else(|| panic!("no {entry}: {groups:#?}"))
}

/// The bytes that each user of a stack touched, by what it was started for and the stack's high end.
fn truths<'t>(truth: &'t Value, kind: &'t str) -> impl Iterator<Item = (&'t str, u64)> {
    let all = truth.as_array().unwrap().iter();
    all.filter(move |one| one["kind"] == kind)
        .map(|one| (one["high"].as_str().unwrap(), one["bytes"].as_u64().unwrap()))
}

/// The coroutine of the report on the stack with this high end.
fn coroutine<'r>(report: &'r Value, entry: &str, high: &str) -> &'r Value {
    let mut all = report["coroutines"].as_array().unwrap().iter();
    let found = all.find(|coroutine| coroutine["entry"] == entry && coroutine["stack"]["high"] == high);
    found.unwrap_or_else(|| panic!("no {entry} at {high}: {:#}", report["coroutines"]))
}

#[test]
fn each_peak_is_within_the_bounds_of_its_method() {
    let folder = scratch("peaks");
    let (report, truth) = (folder.join("report.json"), folder.join("truth.json"));
    let mut watched = Watched::start("peaks", &[&truth], &report);
    assert_eq!(watched.next_line(), "ready");
    watched.looked();
    writeln!(watched.stdin.as_mut().unwrap()).unwrap();
    assert_eq!(watched.next_line(), "again");
    watched.looked();
    let (report, truth) = (watched.finish(&report), read(&truth));
    check_schema(&report);

    // Touched pages: never too low, and at most a page too high.
    let mut deepest = 0;
    for (high, touched) in truths(&truth, "pages_body") {
        let coroutine = coroutine(&report, "pages_body", high);
        let peak = coroutine["peak"]["bytes"].as_u64().unwrap();
        assert!((touched..touched + PAGE).contains(&peak), "{touched}: {coroutine}");
        assert_eq!((&coroutine["peak"]["method"], &coroutine["pooled"]), (&"pages".into(), &false.into()));
        deepest = deepest.max(peak);
    }
    let pages = group(&report, "pages_body");
    assert_eq!((&pages["count"], &pages["most_at_once"], &pages["size"]), (&COUNT.into(), &COUNT.into(), &SIZE.into()));
    assert_eq!((&pages["peak"]["max"], &pages["peak"]["method"]), (&deepest.into(), &"pages".into()));
    assert_eq!((&pages["guard"], &pages["peak"]["pooled"]), (&"ok".into(), &false.into()));
    assert_eq!(pages["suggested_size"], (deepest * 3 / 2).next_multiple_of(PAGE));

    // Pages that an earlier user of the stack touched count, and that is marked.
    let first = group(&report, "first_tenant")["peak"]["max"].as_u64().unwrap();
    for (high, touched) in truths(&truth, "second_tenant") {
        let coroutine = coroutine(&report, "second_tenant", high);
        let peak = coroutine["peak"]["bytes"].as_u64().unwrap();
        assert!(touched < 20_000 && peak >= 20_000 && peak <= first, "{touched}: {coroutine}");
        assert_eq!(coroutine["pooled"], true);
    }
    let second = group(&report, "second_tenant");
    assert_eq!((&second["count"], &second["peak"]["pooled"]), (&COUNT.into(), &true.into()));
    assert_eq!(group(&report, "first_tenant")["count"], COUNT);

    // What looks happened to see: never too high, and no ground to make a stack smaller.
    let sampled = group(&report, "shared_body");
    let (_, touched) = truths(&truth, "shared_body").next().unwrap();
    assert!(sampled["peak"]["max"].as_u64().unwrap() <= touched, "{touched}: {sampled}");
    assert_eq!((&sampled["peak"]["method"], &sampled["suggested_size"]), (&"sampled".into(), &Value::Null));
}

/// Stacks that were filled with a pattern: true to a word.
#[test]
fn painted_stacks_have_exact_peaks() {
    let folder = scratch("painted");
    let (report, truth) = (folder.join("report.json"), folder.join("truth.json"));
    let mut watched = Watched::start("switch_listed", &[&truth], &report);
    assert_eq!(watched.next_line(), "ready");
    watched.looked();
    let (report, truth) = (watched.finish(&report), read(&truth));
    check_schema(&report);
    let coroutines = report["coroutines"].as_array().unwrap();
    let mut deepest = 0;
    for (high, touched) in truths(&truth, "suspended") {
        let coroutine = coroutines.iter().find(|coroutine| coroutine["stack"]["high"] == high);
        let coroutine = coroutine.unwrap_or_else(|| panic!("none at {high}: {coroutines:#?}"));
        assert_eq!(coroutine["peak"], serde_json::json!({ "bytes": touched, "method": "exact" }), "{coroutine}");
        deepest = deepest.max(touched);
    }
    let groups = report["groups"].as_array().unwrap().iter();
    let group =
        groups.filter(|group| group["kind"] == "coroutine").max_by_key(|group| group["count"].as_u64()).unwrap();
    assert_eq!((&group["peak"]["max"], &group["peak"]["method"]), (&deepest.into(), &"exact".into()));
    // Painted pages are all touched: by those the stacks would have to be larger.
    assert_eq!(group["suggested_size"], (deepest * 3 / 2).next_multiple_of(PAGE));
}

/// The most that calls use of a stack of which the truth does not say it, in bytes.
const LITTLE: u64 = 6 * PAGE;

/// What `dump --json` shows of a process or a core file.
fn dumped(what: &str) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_stackscope")).args(["dump", "--json", what]).output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"))
}

/// Compares what a dump shows of the fixture `holes` with the truth. In a core file a page that holds zeroes alone was
/// not touched, so of those that no call used it need not show any.
#[track_caller]
fn check_holes(dump: &Value, truth: &Value, is_core: bool) {
    let stacks = dump["stacks"].as_array().unwrap();
    let thread = stacks.iter().find(|stack| stack["kind"] == "thread").unwrap();
    let first = serde_json::json!({ "kind": "main", "high": thread["high"], "used": 0, "below": 7 << 20 });
    for one in truth.as_array().unwrap().iter().chain([&first]) {
        let stack = stacks.iter().find(|stack| stack["high"] == one["high"]);
        let stack = stack.unwrap_or_else(|| panic!("no {one}: {dump:#}"));
        let (used, below) = (one["used"].as_u64().unwrap(), one["below"].as_u64().unwrap());
        let peak = stack["peak"]["bytes"].as_u64().unwrap();
        let expected = if used == 0 { 0..LITTLE } else { used..used + PAGE };
        assert!(expected.contains(&peak), "{one}: {peak}");
        // How far down the first thread's stack may grow, a core file does not say.
        match stack["size"].as_u64() {
            Some(size) => assert!(peak <= size && stack["level"] == "ok", "{one}: {peak} of {size}"),
            None => assert!(is_core && one["kind"] == "main", "{one}"),
        }
        let apart = &stack["touched_below"];
        match apart["bytes"].as_u64() {
            None => assert!(below == 0 || is_core && apart.is_null(), "{one}: {apart}"),
            Some(bytes) => {
                let is_there = (below..below + LITTLE).contains(&bytes) && apart["pages"] == 1;
                assert!(is_there && below > 0, "{one}: {apart}");
            }
        }
    }
}

/// What lies far below all use and holds nothing that calls leave behind is named, and is no peak.
#[test]
fn touched_pages_beyond_a_hole_count_only_where_calls_were_made() {
    let folder = scratch("holes");
    let truth = folder.join("truth.json");
    let fixture = Running::start("holes", &[truth.to_str().unwrap()]);
    let truth = read(&truth);
    check_holes(&dumped(&fixture.pid().to_string()), &truth, false);
    let core = gcore(fixture.pid(), &folder);
    check_holes(&dumped(core.to_str().unwrap()), &truth, true);
}

/// The report of a whole run calls no such stack in danger, and says why.
#[test]
fn a_run_is_told_what_was_touched_and_not_counted() {
    let folder = scratch("holes-run");
    let (report, truth) = (folder.join("report.json"), folder.join("truth.json"));
    let mut watched = Watched::start("holes", &[&truth], &report);
    assert_eq!(watched.next_line(), "ready");
    watched.looked();
    let report = watched.finish(&report);
    check_schema(&report);
    for entry in ["main", "reserved", "marked", "marked_small"] {
        let group = group(&report, entry);
        assert_eq!((&group["level"], &group["touched_below"]["pages"]), (&"ok".into(), &1.into()), "{group}");
    }
    let called = group(&report, "called");
    assert!(called["peak"]["max"].as_u64().unwrap() > 700 << 10 && called["touched_below"].is_null(), "{called}");
    let high = report["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "high").count();
    assert_eq!(high, 0, "{:#}", report["events"]);
}

/// Where the end of a life was seen, what is suggested leaves room for what did not happen: a panic with a backtrace.
#[test]
fn a_program_survives_a_panic_on_the_suggested_size() {
    let report = scratch("suggested").join("report.json");
    let mut watched = Watched::start("panics", &[Path::new("1048576")], &report);
    assert_eq!(watched.next_line(), "ready");
    watched.looked();
    let report = watched.finish(&report);
    check_schema(&report);
    let group = group(&report, "panics::serve");
    assert_eq!((&group["ends_unseen"], &group["no_suggestion"]), (&0.into(), &Value::Null), "{group}");
    let suggested = group["suggested_size"].as_u64().unwrap();
    assert!(suggested < 1 << 20, "{group}");
    let mut program = Command::new(built("panics"));
    program.arg(suggested.to_string()).env("RUST_BACKTRACE", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = program.stderr(Stdio::piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(b"\n").unwrap();
    let out = program.wait_with_output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("caught true"), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("stack backtrace:"), "{out:?}");
}

/// What a coroutine held that panicked after the last look, nobody saw.
#[test]
fn nothing_smaller_is_suggested_where_the_end_was_not_seen() {
    let report = scratch("unseen-end").join("report.json");
    let mut watched = Watched::start("panics", &[Path::new("1048576")], &report);
    assert_eq!(watched.next_line(), "ready");
    watched.looked();
    writeln!(watched.stdin.as_mut().unwrap()).unwrap();
    assert_eq!(watched.next_line(), "caught true");
    let report = watched.finish(&report);
    check_schema(&report);
    let group = group(&report, "panics::serve");
    assert_eq!((&group["suggested_size"], &group["no_suggestion"]), (&Value::Null, &"end_unseen".into()), "{group}");
    assert_eq!(group["ends_unseen"], 1);
}

/// Of stacks that come and go between looks it is said that an unknown number of them was not seen.
#[test]
fn stacks_that_live_shorter_than_a_look_are_named_as_not_seen() {
    let report = scratch("short-lived").join("report.json");
    let mut watched = Watched::start("short_lived", &[], &report);
    assert_eq!(watched.next_line(), "ready");
    // The more looks, the surer that one of them showed a stack.
    (0..5).for_each(|_| watched.looked());
    let report = watched.finish(&report);
    check_schema(&report);
    let unseen = &report["stacks"]["unseen"];
    assert!(unseen["met_once"].as_u64().unwrap() + unseen["replaced"].as_u64().unwrap() > 0, "{unseen}");
    let body = group(&report, "body");
    // What was seen may ask for more than there is, never for less.
    let suggested = body["suggested_size"].as_u64();
    assert!(suggested.is_none_or(|suggested| suggested >= body["size"].as_u64().unwrap()), "{body}");
    assert_eq!(body["ends_unseen"], body["count"], "{body}");
}

/// A program whose stacks all outlive the looks has none that live shorter.
#[test]
fn stacks_that_stay_are_no_sign_of_others_that_do_not() {
    let folder = scratch("staying");
    let (report, truth) = (folder.join("report.json"), folder.join("truth.json"));
    let mut watched = Watched::start("holes", &[&truth], &report);
    assert_eq!(watched.next_line(), "ready");
    watched.looked();
    assert_eq!(watched.finish(&report)["stacks"]["unseen"], Value::Null);
}
