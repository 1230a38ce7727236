//! What is raised in a program under `run`: compared with what the program itself logs from its drops, destructors and
//! handlers.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stackscope_harness::{built, scratch, wait_until};

/// What a program did under `run`.
struct Ran {
    output: Output,
    report: Value,
}

/// Runs a fixture, which must do the same as without us.
fn run(fixture: &str, arguments: &[&str]) -> Ran {
    let program = built(fixture);
    let plain = Command::new(&program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let file = scratch("raises").join("report.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    // One look would do: each raise has its own.
    command.args(["run", "--json", "--interval", "60000", "-o"]).arg(&file).arg("--").arg(&program).args(arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let way = format!("{fixture} {arguments:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&plain.stdout), "{way}");
    let code = |output: &Output| {
        use std::os::unix::process::ExitStatusExt;
        output.status.code().or_else(|| Some(128 + output.status.signal()?))
    };
    assert_eq!(code(&output), code(&plain), "{way}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let schema = std::fs::read_to_string("docs/stackscope-report-1.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    Ran { output, report }
}

impl Ran {
    /// The events of what was raised.
    fn raised(&self) -> Vec<&Value> {
        let kinds = ["panic", "exception", "forced_unwind"];
        let events = self.report["events"].as_array().unwrap().iter();
        events.filter(|event| kinds.contains(&event["kind"].as_str().unwrap())).collect()
    }

    /// The functions that the program says were cleaned up, in order.
    fn logged(&self) -> Vec<String> {
        let log = String::from_utf8_lossy(&self.output.stdout).into_owned();
        log.lines().filter_map(|line| line.strip_prefix("cleaned_up ")).map(str::to_owned).collect()
    }

    /// The same by the routes, of functions of the program itself; and how each crossing came about.
    fn routed(&self, path: &str) -> (Vec<String>, Vec<&str>) {
        let (mut cleaned, mut crossings) = (Vec::new(), Vec::new());
        for event in self.raised() {
            let mut last = None;
            for step in event["route"].as_array().unwrap() {
                if let Some(by) = step["crossing"]["by"].as_str() {
                    crossings.push(by);
                    continue;
                }
                let frame = &event["frames"][step["frame"].as_u64().unwrap() as usize];
                let name = frame["function"].as_str().and_then(|name| own(name, path));
                let frame = (&frame["cfa"], name.clone());
                // What was inlined into a function of the same name is the same frame.
                if step["did"] == "cleaned_up" && last.as_ref() != Some(&frame) {
                    cleaned.extend(name);
                }
                last = Some(frame);
            }
        }
        (cleaned, crossings)
    }
}

/// The function that a name is of, or a closure in it; `None` if it is none of the program's own.
fn own(name: &str, path: &str) -> Option<String> {
    let name = name.strip_prefix(path)?;
    // A function of C++'s libraries has a path as well.
    let name = if path.is_empty() { name } else { name.split("::").next()? };
    let name = name.split('(').next()?;
    let is_plain = name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    (is_plain && name != "main").then(|| name.to_owned())
}

/// What is expected of one event: kind, part of its message, result.
type Expected = (&'static str, &'static str, &'static str);

const INDEX: &str = "index out of bounds: the len is 3 but the index is 7 (fixtures/rust/src/bin/raises.rs:";
const AGAIN: &str = "the index is 9";

#[track_caller]
fn check(ran: &Ran, path: &str, expected: &[Expected], crossings: &[&str]) {
    let raised = ran.raised();
    let told: Vec<_> = raised.iter().map(|event| [&event["kind"], &event["message"], &event["result"]]).collect();
    assert_eq!(raised.len(), expected.len(), "{told:#?}");
    for ([kind, message, result], [told_kind, told_message, told_result]) in
        expected.iter().map(|(kind, message, result)| [kind, message, result]).zip(told)
    {
        assert_eq!((kind, result), (&told_kind.as_str().unwrap(), &told_result.as_str().unwrap()), "{told_message}");
        assert!(told_message.as_str().unwrap().contains(*message), "{told_message} instead of {message}");
    }
    let (cleaned, crossed) = ran.routed(path);
    assert_eq!(cleaned, ran.logged());
    assert_eq!(crossed, crossings);
}

#[test]
fn panics_are_routed_to_where_they_are_caught() {
    let ways: [(&str, &[Expected], &[&str]); 6] = [
        ("same", &[("panic", INDEX, "caught")], &[]),
        ("roots", &[("panic", INDEX, "caught")], &["reraise"; 2]),
        ("generators", &[("panic", INDEX, "caught")], &["reraise"; 2]),
        ("moved", &[("panic", INDEX, "caught")], &["reraise"]),
        ("thread", &[("panic", INDEX, "caught")], &["reraise"]),
        ("inner", &[("panic", INDEX, "caught"), ("panic", AGAIN, "caught")], &[]),
    ];
    for (way, expected, crossings) in ways {
        check(&run("raises", &[way]), "raises::", expected, crossings);
    }
}

#[test]
fn panics_that_end_the_program_say_why() {
    let ways: [(&str, &[Expected], &[&str]); 3] = [
        ("main", &[("panic", INDEX, "exit")], &["main"]),
        ("foreign", &[("panic", INDEX, "abort")], &["nothing may unwind out of raises::callback"]),
        (
            "drop",
            &[("panic", INDEX, "abort"), ("panic", AGAIN, "abort")],
            &["what cleaned up for it raised", "while raises::drops was cleaned up"],
        ),
    ];
    for (way, expected, reasons) in ways {
        let ran = run("raises", &[way]);
        check(&ran, "raises::", expected, &[]);
        for (event, reason) in ran.raised().iter().zip(reasons) {
            assert!(event["reason"].as_str().unwrap().contains(reason), "{} instead of {reason}", event["reason"]);
        }
    }
    let aborts = run("aborts", &[]);
    check(&aborts, "aborts::", &[("panic", "aborts.rs:14:5", "abort")], &[]);
}

#[test]
fn exceptions_are_routed() {
    const SHORT: Expected = ("exception", "ShortRead: 3 of 7 bytes", "caught");
    let ways: [(&str, &[Expected], &[&str]); 4] = [
        ("rethrown", &[SHORT], &[]),
        ("pointer", &[SHORT], &[]),
        ("number", &[("exception", "int", "caught")], &[]),
        ("dropped", &[("forced_unwind", "unwound to its end", "caught")], &[]),
    ];
    for (way, expected, crossings) in ways {
        check(&run("throws", &[way]), "", expected, crossings);
    }
    let coroutine = run("throws", &["coroutine"]);
    check(&coroutine, "", &[SHORT, ("forced_unwind", "unwound to its end", "caught")], &["reraise"]);
    for way in ["noexcept", "nobody"] {
        check(&run("throws", &[way]), "", &[("exception", SHORT.1, "abort")], &[]);
    }
}

#[test]
fn the_end_of_a_thread_is_no_error() {
    for way in ["thread", "cancelled"] {
        check(&run("throws", &[way]), "", &[("forced_unwind", "unwound to its end", "exit")], &[]);
    }
}

#[test]
fn programs_without_symbols_or_libraries_show_what_they_raise() {
    for way in ["rethrown", "number"] {
        let stripped = run("throws_stripped", &[way]);
        let expected = if way == "number" { "int" } else { "ShortRead: 3 of 7 bytes" };
        let raised = stripped.raised();
        assert_eq!((raised.len(), &raised[0]["result"]), (1, &"caught".into()), "{raised:#?}");
        assert_eq!(raised[0]["message"], expected);
        let ran = run("throws_static", &[way]);
        check(&ran, "", &[("exception", expected, "caught")], &[]);
    }
    let stripped = run("raises_stripped", &["same"]);
    let raised = stripped.raised();
    assert_eq!((raised.len(), &raised[0]["kind"], &raised[0]["result"]), (1, &"panic".into(), &"caught".into()));
    assert!(INDEX.starts_with(raised[0]["message"].as_str().unwrap()), "{raised:#?}");
}

#[test]
fn a_hundred_thousand_panics_are_counted() {
    let ran = run("raises", &["many", "100000"]);
    let told = ran.raised().len() as u64;
    assert!((1..=1000).contains(&told), "{told}");
    assert_eq!(told + ran.report["raises_counted"].as_u64().unwrap(), 100_000);
    assert!(ran.raised().iter().all(|event| event["result"] == "caught"));
}

/// Killed at 40 moments, in states from the program's entry to its hundredth panic, while it stands or runs. In some of
/// them a breakpoint's signal is on its way, and nobody takes it away any more.
#[test]
fn a_program_panics_on_if_we_are_killed() {
    let program = built("raises");
    let mut standing = 0;
    for moment in 0..40 {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_stackscope"));
        tool.args(["run", "--", "sh", "-c", &format!("echo $$; exec {} many 300", program.display())]);
        let mut tool = tool.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(tool.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let pid: i32 = line.trim().parse().unwrap();
        // Each stop that is seen brings it further.
        for _ in 0..moment % 10 {
            wait_until("it stops", || state(pid).is_none_or(|state| state == 't'));
            wait_until("it goes on", || state(pid).is_none_or(|state| state != 't'));
        }
        if moment % 2 == 0 {
            // Its next stop finds nobody who looks.
            signal(libc::SIGSTOP, tool.id() as i32);
            wait_until("it stops", || state(pid).is_none_or(|state| matches!(state, 't' | 'Z')));
        }
        standing += usize::from(state(pid) == Some('t'));
        tool.kill().unwrap();
        tool.wait().unwrap();
        line.clear();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "caught 300\n", "moment {moment}");
    }
    assert!(standing >= 10, "it stood {standing} times only");
}

/// The state of a process; `None` if it has ended.
fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn signal(signal: i32, pid: i32) {
    let sent = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}
