//! What a program on coroutines ends with where it does what it must not, or what is only just allowed.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use stackscope_harness::built;

/// How a case must end.
enum End {
    /// By itself, with this on its standard output.
    Well(&'static str),
    /// By this signal, with this on its standard error.
    Signal(i32, &'static str),
}

const ABORT: i32 = nix::libc::SIGABRT;
const SEGV: i32 = nix::libc::SIGSEGV;

fn check(fixture: &str, case: &str, end: &End) {
    let output = Command::new(built(fixture)).arg(case).env("RUST_BACKTRACE", "0").output().unwrap();
    let Output { status, stdout, stderr } = &output;
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    let as_expected = match end {
        End::Well(said) => status.success() && stdout == *said,
        End::Signal(signal, said) => status.signal() == Some(*signal) && stderr.contains(said),
    };
    assert!(as_expected, "{fixture} {case}: {status}\n{stdout}{stderr}");
}

#[test]
fn programs_that_unwind() {
    for (case, end) in [
        ("raw-returns", End::Signal(ABORT, "the function of a stack made by `switch::raw::init` returned")),
        ("replace-returns", End::Signal(ABORT, "the callback of `replace_stack` returned")),
        ("replace-unwinds", End::Signal(ABORT, "the callback of `replace_stack` unwound")),
        ("drop-while-running", End::Signal(ABORT, "a coroutine was dropped while it runs")),
        ("overwrite-canary", End::Signal(ABORT, "the canary at its low end was overwritten")),
        ("suspend-in-cleanup", End::Signal(ABORT, "panic in a destructor during cleanup")),
        ("overflow", End::Signal(SEGV, "")),
        ("less-than-a-page", End::Well("")),
        ("panic-inside", End::Well("caught Some(\"thrown inside\")\n")),
        ("drop-suspended", End::Well("dropped\nwent on\n")),
        ("signal", End::Well("")),
    ] {
        check("switch_misuse", case, &end);
    }
}

/// With `panic = "abort"`: a panic ends the process, a suspended coroutine's stack is leaked as it is.
#[test]
fn programs_that_abort() {
    for (case, end) in [
        ("replace-unwinds", End::Signal(ABORT, "inside")),
        ("panic-inside", End::Signal(ABORT, "thrown inside")),
        ("drop-suspended", End::Well("went on\n")),
        ("less-than-a-page", End::Well("")),
        ("signal", End::Well("")),
    ] {
        check("switch_misuse_abort", case, &end);
    }
}

#[test]
fn green_threads_take_turns() {
    let said = "a1\nb1\nc1\nd\na2\nb2\npanic: b gives up\nc2\na3\nc3\nall have ended\n";
    let output = Command::new(built("green_threads")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), said);
}

/// Memcheck follows every switch: it reports no error and does not guess that a stack was switched.
#[test]
fn valgrind_has_nothing_to_say() {
    for (fixture, case) in [("green_threads", ""), ("switch_misuse", "drop-suspended")] {
        let output =
            Command::new("valgrind").args(["--error-exitcode=9", "-q"]).arg(built(fixture)).arg(case).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{fixture} {case}: {}\n{said}", output.status);
    }
}
