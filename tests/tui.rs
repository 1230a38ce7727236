//! The terminal UI on a real terminal, which tmux plays: the screen appears, its keys work, and on every way out the
//! terminal is as it was and the program runs on.

#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use std::time::Duration;

use common::terminal::{Terminal, is_traced, kill};
use stackscope::workshop::filter::Filter;
use stackscope::workshop::process::Inbox;
use stackscope::workshop::tui;
use stackscope::workshop::watch::Attached;
use stackscope_harness::{Running, scratch, settle, states, wait_until};

/// Asserts that nobody traces the program, that its threads sleep, and that it ends well once its stdin does.
fn runs_on(mut fixture: Running) {
    wait_until("nobody traces the program", || !is_traced(fixture.pid()));
    settle(fixture.pid());
    assert!(states(fixture.pid()).iter().all(|state| *state == 'S'), "{:?}", states(fixture.pid()));
    assert!(fixture.finish().0.success());
}

fn fixture() -> Running {
    Running::start("threads", &["3", "6"])
}

#[test]
fn the_screen_appears_and_keys_work() {
    let (fixture, terminal) = (fixture(), Terminal::new("keys"));
    terminal.attach("", "", fixture.pid());
    terminal.wait_for("LIVE");
    terminal.wait_for("4 stacks: 4 threads");
    terminal.keys(&["Enter"]);
    terminal.wait_for("×6");
    terminal.keys(&["Escape"]);
    terminal.wait_for("1–4 of 4");
    terminal.keys(&["2"]);
    terminal.wait_for("── Groups of equal backtraces ──");
    terminal.keys(&["Enter"]);
    terminal.wait_for("1–3 of 3");
    terminal.keys(&["?"]);
    terminal.wait_for("type to search");
    terminal.keys(&["Escape", "Space"]);
    terminal.wait_for("FROZEN");
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.wait_for("Space thaw");
    terminal.keys(&["q"]);
    terminal.wait_for("runs on, watched for");
    terminal.is_restored();
    runs_on(fixture);
}

#[test]
fn every_signal_gives_the_terminal_back() {
    let terminal = Terminal::new("signals");
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        let fixture = fixture();
        terminal.run("clear");
        terminal.attach("", "", fixture.pid());
        kill(signal, terminal.job().unwrap());
        terminal.wait_for("runs on, watched for");
        terminal.is_restored();
        runs_on(fixture);
    }
}

#[test]
fn the_program_runs_on_if_the_screen_is_killed() {
    let (fixture, terminal) = (fixture(), Terminal::new("kill"));
    let before = common::code_in_memory(fixture.pid());
    terminal.attach("", "--interval 1", fixture.pid());
    kill("KILL", terminal.job().unwrap());
    wait_until("nobody traces the program", || !is_traced(fixture.pid()));
    assert!(common::code_in_memory(fixture.pid()) == before, "its code was changed");
    runs_on(fixture);
}

#[test]
fn we_end_with_the_terminal() {
    let (fixture, terminal) = (fixture(), Terminal::new("gone"));
    terminal.attach("", "", fixture.pid());
    let ours = terminal.job().unwrap();
    drop(terminal);
    wait_until("we have ended", || common::status_field(ours, "State").is_empty());
    runs_on(fixture);
}

#[test]
fn a_suspension_gives_the_terminal_to_the_shell_and_takes_it_again() {
    let (fixture, terminal) = (fixture(), Terminal::new("suspend"));
    terminal.attach("", "--interval 1", fixture.pid());
    terminal.keys(&["C-z"]);
    terminal.is_restored();
    assert!(!is_traced(fixture.pid()) && states(fixture.pid()).iter().all(|state| *state == 'S'));
    terminal.run("fg");
    terminal.wait_for("LIVE");
    assert_eq!(terminal.fact("alternate_on"), "1");
    kill("TSTP", terminal.job().unwrap());
    terminal.is_restored();
    terminal.run("fg");
    terminal.wait_for("LIVE");
    terminal.keys(&["C-c"]);
    terminal.is_restored();
    runs_on(fixture);
}

#[test]
fn the_end_of_the_program_is_shown_until_the_user_leaves() {
    let (mut fixture, terminal) = (fixture(), Terminal::new("end"));
    terminal.attach("", "", fixture.pid());
    assert!(fixture.finish().0.success());
    terminal.wait_for("ENDED");
    terminal.keys(&["q"]);
    terminal.wait_for("threads ended after");
    terminal.is_restored();
}

/// The numbers of all SGR sequences in what was written to a terminal.
fn graphic_renditions(written: &str) -> Vec<u32> {
    let sequences = written.split("\x1b[").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| letter.is_ascii_alphabetic())?;
        (&rest[end..=end] == "m").then_some(&rest[..end])
    });
    sequences.flat_map(|codes| codes.split(';').filter_map(|code| code.parse().ok())).collect()
}

#[test]
fn without_colors_there_are_none_and_the_selection_is_seen() {
    let fixture = fixture();
    for (variables, options) in [("NO_COLOR=1", ""), ("", "--theme mono"), ("", "--color never --ascii")] {
        let terminal = Terminal::new("mono");
        let written = terminal.record();
        terminal.attach(variables, options, fixture.pid());
        assert_eq!(terminal.screen().is_ascii(), options.contains("--ascii"));
        terminal.keys(&["Down", "2", "?", "Escape", "q"]);
        terminal.is_restored();
        wait_until("all was recorded", || written().contains("restored-1"));
        let codes = graphic_renditions(&written());
        assert!(!codes.iter().any(|code| (30..50).contains(code)), "{variables} {options}: {codes:?}");
        assert!(codes.contains(&7), "{variables} {options}: {codes:?}");
        if options.contains("--ascii") {
            assert!(written().is_ascii(), "{}", written());
        }
    }
    let terminal = Terminal::new("colors");
    let written = terminal.record();
    terminal.attach("", "", fixture.pid());
    terminal.keys(&["q"]);
    terminal.is_restored();
    wait_until("all was recorded", || written().contains("restored-1"));
    assert!(graphic_renditions(&written()).contains(&38));
    runs_on(fixture);
}

#[test]
fn a_frozen_display_writes_nothing() {
    let (fixture, terminal) = (fixture(), Terminal::new("frozen"));
    let log = scratch("tui").join("log");
    let written = terminal.record();
    terminal.attach("", &format!("--interval 1 --log {}", log.display()), fixture.pid());
    terminal.keys(&["Space"]);
    terminal.wait_for("FROZEN");
    let looks = || std::fs::read_to_string(&log).unwrap_or_default().matches("stood still").count();
    // A look that was being taken when the key came may be the last that is drawn.
    let frozen = looks() + 1;
    wait_until("another look", || looks() > frozen);
    let before = written();
    wait_until("more looks", || looks() > frozen + 2);
    assert_eq!(written(), before);
    terminal.keys(&["Space"]);
    terminal.wait_for("LIVE");
    terminal.keys(&["q"]);
    terminal.is_restored();
    runs_on(fixture);
}

/// In the child of the next test: shows a program until a thread panics.
fn show_until_a_panic(pid: i32, word: std::path::PathBuf) {
    let inbox = Inbox::open().unwrap();
    let interval = Duration::from_millis(10);
    let attached = Attached::open(pid, interval).unwrap();
    std::thread::spawn(move || {
        wait_until("the word to panic", || word.exists());
        panic!("a made-up panic");
    });
    let look = tui::Look { theme: tui::Theme::Ansi, ascii: false };
    let options = tui::Options { interval, look, stay: false, mouse: true, margin: 1.5, filter: Filter::default() };
    assert!(tui::attach(attached, &inbox, &options).is_err());
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let name = "STACKSCOPE_TEST_PANIC";
    if let Ok(given) = std::env::var(name) {
        let (pid, word) = given.split_once(':').unwrap();
        return show_until_a_panic(pid.parse().unwrap(), word.into());
    }
    let (fixture, terminal) = (fixture(), Terminal::new("panic"));
    let word = scratch("tui").join("word");
    let ourselves = std::env::current_exe().unwrap();
    let run = "--exact a_panic_gives_the_terminal_back --nocapture";
    terminal.run(&format!("{name}={}:{} {} {run}", fixture.pid(), word.display(), ourselves.display()));
    terminal.wait_for("LIVE");
    std::fs::write(&word, "").unwrap();
    terminal.wait_for("a made-up panic");
    terminal.wait_for("1 passed");
    terminal.is_restored();
    runs_on(fixture);
}

#[test]
fn stdout_is_left_alone() {
    let (fixture, terminal) = (fixture(), Terminal::new("stdout"));
    let file = scratch("tui").join("out");
    let program = env!("CARGO_BIN_EXE_stackscope");
    terminal.run(&format!("{program} attach {} </dev/null >{}; echo code-$?", fixture.pid(), file.display()));
    terminal.wait_for("LIVE");
    terminal.keys(&["q"]);
    terminal.wait_for("code-0");
    assert_eq!(std::fs::read(&file).unwrap(), b"");
    for variable in ["TERM=dumb", "CI=1"] {
        terminal.run("clear");
        terminal.run(&format!("{variable} {program} attach {}; echo code-$?", fixture.pid()));
        wait_until("signals are messages", || terminal.job().is_some_and(common::blocks_interrupts));
        assert_eq!(terminal.fact("alternate_on"), "0");
        terminal.keys(&["C-c"]);
        terminal.wait_for("code-0");
        assert!(terminal.screen().contains("runs on, watched for"), "{}", terminal.screen());
    }
    runs_on(fixture);
}
