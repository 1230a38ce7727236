//! What a program on coroutines ends with where it does what it must not, or what is only just allowed.

use std::process::{ExitStatus, Output};

use crate::fixture::fixture;

/// How a case must end.
enum End {
    /// By itself, with this on its standard output.
    Well(&'static str),
    /// By an abort, with this on its standard error.
    Aborted(&'static str),
    /// By an access to memory that it has not.
    Faulted,
}

fn check(name: &str, case: &str, end: &End) {
    let output = fixture(name).arg(case).env("RUST_BACKTRACE", "0").output().unwrap();
    let Output { status, stdout, stderr } = &output;
    // The two platforms' texts differ in how a line ends.
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(text).replace("\r\n", "\n"));
    let as_expected = match end {
        End::Well(said) => status.success() && stdout == *said,
        End::Aborted(said) => is_abort(*status) && stderr.contains(said),
        End::Faulted => is_fault(*status) && stdout.is_empty(),
    };
    assert!(as_expected, "{name} {case}: {status}\n{stdout}{stderr}");
}

#[cfg(unix)]
fn is_abort(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGABRT)
}

#[cfg(unix)]
fn is_fault(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGSEGV)
}

/// `STATUS_STACK_BUFFER_OVERRUN`, which `__fastfail` gives for every reason.
#[cfg(windows)]
fn is_abort(status: ExitStatus) -> bool {
    status.code().map(i32::cast_unsigned) == Some(0xc000_0409)
}

/// Wine needs the stack that has overflowed to give an exit code, and gives none; that the program came to no end of its own
/// shows in what it did not say.
#[cfg(windows)]
fn is_fault(_: ExitStatus) -> bool {
    true
}

#[test]
fn programs_that_unwind() {
    for (case, end) in [
        ("raw-returns", End::Aborted("the function of a stack made by `switch::raw::init` returned")),
        ("replace-returns", End::Aborted("the callback of `replace_stack` returned")),
        ("replace-unwinds", End::Aborted("the callback of `replace_stack` unwound")),
        ("drop-while-running", End::Aborted("a coroutine was dropped while it runs")),
        ("overwrite-canary", End::Aborted("the canary at its low end was overwritten")),
        ("suspend-in-cleanup", End::Aborted("panic in a destructor during cleanup")),
        ("overflow", End::Faulted),
        ("less-than-a-page", End::Well("")),
        ("panic-inside", End::Well("caught Some(\"thrown inside\")\n")),
        ("drop-suspended", End::Well("dropped\nwent on\n")),
    ] {
        check("switch_misuse", case, &end);
    }
}

/// With `panic = "abort"`: a panic ends the process, a suspended coroutine's stack is leaked as it is.
#[test]
fn programs_that_abort() {
    for (case, end) in [
        ("replace-unwinds", End::Aborted("inside")),
        ("panic-inside", End::Aborted("thrown inside")),
        ("drop-suspended", End::Well("went on\n")),
        ("less-than-a-page", End::Well("")),
    ] {
        check("switch_misuse_abort", case, &end);
    }
}

/// A handler on the alternate stack switches to coroutines of its own, and interrupts one.
#[cfg(unix)]
#[test]
fn signal_handlers_switch_on_the_alternate_stack() {
    check("switch_misuse", "signal", &End::Well(""));
    check("switch_misuse_abort", "signal", &End::Well(""));
}

#[test]
fn green_threads_take_turns() {
    let said = "a1\nb1\nc1\nd\na2\nb2\npanic: b gives up\nc2\na3\nc3\nall have ended\n";
    check("green_threads", "", &End::Well(said));
}

/// The coroutine that ran into its guard is named, and nothing else is called its overflow.
#[cfg(target_os = "linux")]
#[test]
fn an_overflow_names_its_coroutine() {
    let run = |case| fixture("switch_misuse").arg(case).env("RUST_BACKTRACE", "0").output().unwrap();
    let Output { status, stdout, stderr } = run("named-overflow");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(is_fault(status), "{status}\n{stderr}");
    let bounds = stdout.trim_end();
    let said = format!("coroutine 'too deep' has overflowed its stack: {bounds}, ");
    assert!(stderr.contains(&said), "{said}\n{stderr}");

    let Output { status, stderr, .. } = run("null-dereference");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(is_fault(status) && !stderr.contains("overflow"), "{status}\n{stderr}");

    // The standard library's own handler, which was there before, still does its part.
    let Output { status, stderr, .. } = run("thread-overflow");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(
        is_abort(status) && stderr.contains("thread 'main'") && !stderr.contains("coroutine"),
        "{status}\n{stderr}"
    );
}
