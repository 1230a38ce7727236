//! `run` and `attach` where no screen is to be had: no escape byte on any stream, the report on stderr, the program's code;
//! and with a screen, none on those streams that are files.

#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use common::terminal::{Terminal, Written, run_line};
use stackscope_harness::wait_until;

/// What the program does in all cases.
const PROGRAM: &str = "sh -c 'echo plain words; exit 7'";

/// The streams of one run, as files.
struct Streams {
    stdout: Written,
    stderr: Written,
    code: Written,
}

impl Streams {
    fn new() -> Streams {
        Streams { stdout: Written::new("stdout"), stderr: Written::new("stderr"), code: Written::new("code") }
    }

    /// Waits for the end, and asserts that each stream has what it should and no escape byte.
    fn check(&self, what: &str) {
        assert_eq!(self.code.line(), "7", "{what}");
        assert_eq!(self.stdout.text(), "plain words\n", "{what}");
        let report = self.stderr.text();
        assert!(report.contains("sh exited with 7") && !report.contains('\x1b'), "{what}: {report:?}");
    }
}

#[test]
fn without_a_screen_redirected_streams_have_no_escape_bytes() {
    let terminal = Terminal::new("redirected");
    let line = run_line("", PROGRAM);
    for before in ["", "TERM=dumb", "setsid -w"] {
        for behind in ["", "</dev/null", "| cat"] {
            let streams = Streams::new();
            let (out, err, code) = (streams.stdout.name(), streams.stderr.name(), streams.code.name());
            let written = terminal.record();
            terminal.run(&match behind {
                "| cat" => format!("{{ {before} {line}; echo $? >{code}; }} 2>{err} | cat >{out}"),
                _ => format!("{before} {line} {behind} >{out} 2>{err}; echo $? >{code}"),
            });
            streams.check(&format!("{before} {behind}"));
            check_recorded(&terminal, &written);
        }
    }
}

/// Nothing that was written to the terminal until now has an escape byte.
fn check_recorded(terminal: &Terminal, written: &impl Fn() -> String) {
    terminal.run("echo the-$((40+2))nd");
    wait_until("all was recorded", || written().contains("the-42nd"));
    assert!(!written().contains('\x1b'), "{:?}", written());
    terminal.tmux(&["pipe-pane"]);
}

#[test]
fn a_terminal_that_can_show_no_screen_gets_no_escape_bytes() {
    for before in ["TERM=dumb", "setsid -w"] {
        let terminal = Terminal::new("plain");
        let written = terminal.record();
        terminal.run(&format!("{before} {}; echo code-$?", run_line("", PROGRAM)));
        wait_until("it has ended", || written().contains("code-7"));
        assert!(written().contains("plain words") && written().contains("sh exited with 7"), "{:?}", written());
        check_recorded(&terminal, &written);
    }
    let terminal = Terminal::new("plain");
    // In continuous integration there is no screen either; colours may be shown.
    let written = terminal.record();
    terminal.run(&format!("CI=1 {}; echo code-$?", run_line("", PROGRAM)));
    wait_until("it has ended", || written().contains("code-7"));
    assert!(written().contains("sh exited with 7") && !written().contains("\x1b[?"), "{:?}", written());
}

#[test]
fn with_a_screen_redirected_streams_have_no_escape_bytes() {
    let terminal = Terminal::new("beside");
    let line = run_line("", PROGRAM);
    // The program's stdout is a file or a pipe, and the screen is on the terminal all the same.
    for behind in ["", "</dev/null", "| cat"] {
        let (out, code) = (Written::new("stdout"), Written::new("code"));
        let written = terminal.record();
        terminal.run(&match behind {
            "| cat" => format!("{{ {line}; echo $? >{}; }} | cat >{}", code.name(), out.name()),
            _ => format!("{line} {behind} >{}; echo $? >{}", out.name(), code.name()),
        });
        assert_eq!(code.line(), "7");
        wait_until("it was drawn", || written().contains("\x1b[?1049h") && written().contains("sh exited with 7"));
        assert_eq!(out.text(), "plain words\n");
        terminal.is_restored();
        terminal.tmux(&["pipe-pane"]);
        // The report on stderr instead.
        let (err, code) = (Written::new("stderr"), Written::new("code"));
        terminal.run(&format!("{line} 2>{}; echo $? >{}", err.name(), code.name()));
        assert_eq!(code.line(), "7");
        assert!(err.text().contains("sh exited with 7") && !err.text().contains('\x1b'), "{}", err.text());
        terminal.is_restored();
    }
}
