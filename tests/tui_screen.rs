//! What the screen shows on a real terminal: the same after any storm of sizes, and numbers that are true.

#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use common::terminal::Terminal;
use serde_json::Value;
use stackscope_harness::{Running, built, scratch, wait_until};

/// Without the first line, which has the time on it.
fn without_clock(screen: &str) -> String {
    screen.lines().skip(1).map(|line| format!("{line}\n")).collect()
}

#[test]
fn after_a_storm_of_sizes_the_screen_is_as_a_fresh_one() {
    let fixture = Running::start("threads", &["3", "6"]);
    let (stormy, fresh) = (Terminal::new("storm"), Terminal::new("calm"));
    let resize = |width: u32, height: u32| {
        stormy.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    };
    // One look that has everything on it, and no other while this test runs.
    stormy.attach("", "--interval 600000", fixture.pid());
    stormy.wait_for("1–4 of 4");
    for keys in [&["g"][..], &["?"], &["Escape", "2"], &["Enter"], &["Escape", "1"]] {
        stormy.keys(keys);
        for (width, height) in [(200, 60), (80, 24), (40, 10), (10, 3), (1, 1), (120, 36)] {
            resize(width, height);
        }
    }
    // Slowly: each size is drawn before the next one comes.
    for (width, height, shown) in
        [(200, 60, "look every"), (80, 24, "1–4 of 4"), (40, 10, "? help"), (10, 3, "LIVE"), (120, 36, "look every")]
    {
        resize(width, height);
        stormy.wait_for(shown);
    }
    stormy.keys(&["g"]);
    fresh.attach("", "--interval 600000", fixture.pid());
    fresh.wait_for("1–4 of 4");
    let expected = without_clock(&fresh.screen());
    wait_until("the screens are the same", || without_clock(&stormy.screen()) == expected);
    for terminal in [stormy, fresh] {
        terminal.keys(&["q"]);
        terminal.wait_for("runs on, watched for");
        terminal.is_restored();
    }
}

#[test]
fn the_first_screen_does_not_wait_for_the_whole_look() {
    let fixture = Running::start("co_asm", &["2000", "slab"]);
    let terminal = Terminal::new("first");
    let written = terminal.record();
    terminal.run(&format!("{} attach {}", env!("CARGO_BIN_EXE_stackscope"), fixture.pid()));
    terminal.wait_for("coroutines");
    wait_until("all was recorded", || written().contains("coroutines"));
    let written = written();
    // The end of each drawing (DEC private mode 2026): the first one came before there was anything but threads.
    let first = written.find("\x1b[?2026l").unwrap();
    assert!(written[..first].contains("LIVE") && !written[..first].contains("coroutines"), "{written:?}");
    terminal.keys(&["q"]);
    terminal.wait_for("runs on, watched for");
    terminal.is_restored();
}

/// A fixture that writes the truth on its stacks to a file.
struct Truthful {
    program: Child,
    _stdin: ChildStdin,
    truth: Value,
}

impl Truthful {
    /// Starts it; after each of `marks` but the last it is given a line.
    fn start(fixture: &str, marks: &[&str]) -> Truthful {
        let file = scratch("screen").join("truth.json");
        let mut command = Command::new(built(fixture));
        let mut program = command.arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, stdout) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
        let mut lines = BufReader::new(stdout).lines();
        for (index, mark) in marks.iter().enumerate() {
            if index > 0 {
                writeln!(stdin).unwrap();
            }
            assert_eq!(lines.next().unwrap().unwrap(), *mark);
        }
        let truth = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        Truthful { program, _stdin: stdin, truth }
    }

    /// The bytes that stacks of this kind held, in order.
    fn of(&self, kind: &str) -> Vec<u64> {
        let of_kind = self.truth.as_array().unwrap().iter().filter(|one| one["kind"] == kind);
        let mut bytes: Vec<u64> = of_kind.map(|one| one["bytes"].as_u64().unwrap()).collect();
        bytes.sort_unstable();
        bytes
    }
}

impl Drop for Truthful {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// What the column PEAK says, sorted: bytes, and the sign of the method. That of a row is the only word with such a sign.
fn peaks_on(screen: &str) -> Vec<(f64, char)> {
    let peak = |word: &str| {
        let sign = word.chars().last().filter(|sign| ['=', '≈', '≥'].contains(sign))?;
        let (number, unit) = word.trim_end_matches(sign).split_at(word.len() - sign.len_utf8() - 1);
        let scale = match unit {
            "B" => 1.0,
            "K" => 1024.0,
            "M" => 1048576.0,
            _ => return None,
        };
        Some((number.parse::<f64>().ok()? * scale, sign))
    };
    let rows = screen.lines().filter(|line| line.contains("coroutine ") || line.contains("thread "));
    let rows = rows.take_while(|line| !line.starts_with("──") || line.contains("Stacks"));
    let mut peaks: Vec<_> = rows.filter_map(|row| row.split_whitespace().find_map(peak)).collect();
    peaks.sort_by(|a, b| a.0.total_cmp(&b.0));
    peaks
}

/// Shows the stacks that fit `filter`, of which there are `count`; what their peaks are said to be.
fn shown(program: &Truthful, filter: &str, count: usize) -> Vec<(f64, char)> {
    let terminal = Terminal::new("peaks");
    terminal.tmux(&["resize-window", "-x", "120", "-y", "120"]);
    terminal.run(&format!("{} attach {}", env!("CARGO_BIN_EXE_stackscope"), program.program.id()));
    terminal.wait_for("coroutines");
    terminal.keys(&["1"]);
    terminal.run(&format!("\\{filter}"));
    terminal.wait_for(&format!("1–{count} of {count}"));
    // A screen may be read while it is drawn.
    let mut peaks = Vec::new();
    wait_until("all rows", || {
        peaks = peaks_on(&terminal.screen());
        peaks.len() == count
    });
    peaks
}

/// A number on the screen is rounded to a tenth of a KiB.
const ROUNDED: f64 = 52.0;
const PAGE: f64 = 4096.0;

#[test]
fn peaks_on_the_screen_are_within_the_error_of_their_method() {
    let program = Truthful::start("peaks", &["ready", "again"]);
    let truth = program.of("pages_body");
    for ((shown, sign), touched) in shown(&program, "entry:pages_body", truth.len()).into_iter().zip(truth) {
        let touched = touched as f64;
        assert_eq!(sign, '≈', "{touched}");
        assert!(shown >= touched - ROUNDED && shown < touched + PAGE + ROUNDED, "{touched}: {shown}");
    }
    // Memory that is shared has no pages of its own: only what a look happens to see is known, a lower bound.
    let truth = program.of("shared_body")[0] as f64;
    let [(shown, sign)] = shown(&program, "fn:shared_body", 1)[..] else { panic!("one stack") };
    assert_eq!(sign, '≥');
    assert!(shown <= truth + ROUNDED, "{truth}: {shown}");
}

#[test]
fn exact_peaks_on_the_screen_are_exact() {
    let program = Truthful::start("switch_listed", &["ready"]);
    let truth = program.of("suspended");
    for ((shown, sign), touched) in shown(&program, "kind:coro state:suspended", truth.len()).into_iter().zip(truth) {
        assert_eq!(sign, '=', "{touched}");
        assert!((shown - touched as f64).abs() <= ROUNDED, "{touched}: {shown}");
    }
}
