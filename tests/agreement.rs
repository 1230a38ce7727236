//! One program's stacks, looked at from outside, in a core file, and by itself: every number must be the same.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use common::{dump, function, stackscope};
use stackscope_harness::{built, gcore, scratch};

/// What is compared of a stack, beside the names and sizes of its frames.
const KEYS: [&str; 15] = [
    "kind",
    "name",
    "state",
    "thread",
    "low",
    "high",
    "size",
    "bounds_from",
    "sp",
    "used",
    "peak",
    "guard",
    "level",
    "ended",
    "confidence",
];

/// The fixture, killed on drop.
struct EveryStack {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl EveryStack {
    fn start() -> EveryStack {
        let mut command = Command::new(built("every_stack"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut started = EveryStack { child, stdin, stdout };
        assert_eq!(started.line(), "ready");
        started
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Its stacks as it shows them itself.
    fn by_itself(&mut self) -> Value {
        writeln!(self.stdin).unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for EveryStack {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is compared: of all stacks but that of the first thread, which stands elsewhere while it looks at itself.
fn numbers(dump: &Value) -> BTreeMap<String, Vec<(String, Value)>> {
    let first = &dump["process"]["pid"];
    let stacks = dump["stacks"].as_array().unwrap().iter().filter(|stack| &stack["thread"] != first);
    let of = |stack: &Value| {
        let frames = stack["frames"].as_array().unwrap().iter();
        let frames: Vec<Value> = frames.map(|frame| (function(frame), &frame["bytes"]).into_value()).collect();
        let mut numbers: Vec<(String, Value)> =
            KEYS.iter().map(|key| ((*key).to_owned(), stack[*key].clone())).collect();
        numbers.push(("frames".to_owned(), Value::from(frames)));
        numbers
    };
    stacks.map(|stack| (stack["sp"].to_string(), of(stack))).collect()
}

trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for (&str, &Value) {
    fn into_value(self) -> Value {
        Value::from(vec![Value::from(self.0), self.1.clone()])
    }
}

/// Fails where two looks differ, with all differences.
#[track_caller]
fn same(what: &str, one: &Value, other: &Value, but: &[&str]) {
    let (one, other) = (numbers(one), numbers(other));
    let mut differences = Vec::new();
    for sp in one.keys().chain(other.keys()) {
        let (Some(one), Some(other)) = (one.get(sp), other.get(sp)) else {
            differences.push(format!("{sp} is in one of them only: {:?}", one.get(sp).or(other.get(sp))));
            continue;
        };
        // A look of its own runs a handler on each thread, on an alternate stack too, which is then touched further down.
        let is_deepened = one.contains(&("kind".to_owned(), Value::from("signal")));
        let is_compared = |key: &str| !(but.contains(&key) || is_deepened && matches!(key, "peak" | "level"));
        let pairs = one.iter().zip(other).filter(|((key, _), _)| is_compared(key));
        differences.extend(pairs.filter(|(one, other)| one != other).map(|pair| format!("{sp}: {pair:?}")));
    }
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

#[test]
fn every_look_at_one_program_shows_the_same() {
    let mut program = EveryStack::start();
    let pid = program.child.id();
    let live = dump(&pid.to_string());
    let file = gcore(pid as i32, &scratch("agreement"));
    let core = dump(file.to_str().unwrap());
    let own = program.by_itself();

    let kinds = |wanted: &[(&str, &str)], dump: &Value| {
        let stacks = dump["stacks"].as_array().unwrap();
        wanted.iter().all(|(key, word)| stacks.iter().any(|stack| stack[*key] == *word))
    };
    let all = [
        ("kind", "thread"),
        ("kind", "coroutine"),
        ("kind", "segment"),
        ("kind", "signal"),
        ("name", "painted"),
        ("bounds_from", "malloc"),
        ("bounds_from", "guard"),
        ("bounds_from", "registered"),
    ];
    assert!(kinds(&all, &live), "{live:#}");
    let painted = |dump: &Value| {
        let stacks = dump["stacks"].as_array().unwrap();
        stacks.iter().find(|stack| stack["name"] == "painted").unwrap()["peak"].clone()
    };
    assert_eq!(painted(&live)["method"], "exact");
    assert!(painted(&live)["bytes"].as_u64().unwrap() < 30 << 10, "{:#}", painted(&live));

    // A program shows of itself what its threads stand on, and its own coroutines; it searches for no others.
    let mut shown = live.clone();
    let stacks = own["stacks"].as_array().unwrap();
    let is_in_own = |stack: &Value| stacks.iter().any(|other| other["sp"] == stack["sp"]);
    shown["stacks"].as_array_mut().unwrap().retain(|stack| stack["bounds_from"] == "registered" || is_in_own(stack));
    same("own and live", &own, &shown, &[]);
    same("own and own", &own, &program.by_itself(), &[]);
    // A core file does not keep the threads' names.
    same("live and core", &live, &core, &["name"]);
}

/// The text says what the JSON says.
#[test]
fn the_text_has_the_numbers_of_the_json() {
    let program = EveryStack::start();
    let pid = program.child.id().to_string();
    let json = dump(&pid);
    let text = stackscope(&["dump", "--all", &pid]);
    let text = String::from_utf8(text.stdout).unwrap();
    for stack in json["stacks"].as_array().unwrap() {
        let sp = stack["sp"].as_str().unwrap().trim_start_matches("0x");
        let line = text.lines().find(|line| line.contains(&format!("sp={sp}")));
        let line = line.unwrap_or_else(|| panic!("{sp} is not in\n{text}"));
        let (low, high) = (stack["low"].as_str().unwrap(), stack["high"].as_str().unwrap());
        let range = format!("[{},{})", low.trim_start_matches("0x"), high.trim_start_matches("0x"));
        assert!(line.contains(&range), "{range}: {line}");
    }
}
