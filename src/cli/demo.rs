//! The program that `run` watches if none is named: coroutines of different depth, one that resumes another,
//! and one whose panic crosses into its resumer and is caught there.

use std::hint::black_box;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::switch::{Coroutine, StackError, State, Yielder};

/// How long a coroutine waits at its deepest, each time it is resumed.
const WAITS: Duration = Duration::from_millis(10);

/// How many calls deep each of the coroutines goes.
const DEPTHS: [usize; 6] = [2, 5, 10, 40, 80, 120];

/// Arguments of the demo.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How long it lasts: by default so that several looks see it
    #[arg(default_value_t = 3)]
    seconds: u64,
}

/// Runs the demo.
pub(super) fn run(args: &Args) -> ExitCode {
    match demo(Duration::from_secs(args.seconds)) {
        Ok(message) => {
            println!("demo: six coroutines took turns; a panic crossed from one into its resumer: {message}");
            ExitCode::SUCCESS
        }
        Err(error) => super::output::fail(&error),
    }
}

fn demo(lasts: Duration) -> Result<String, StackError> {
    let mut coroutines = Vec::new();
    for depth in DEPTHS {
        let coroutine = Coroutine::new(move |yielder: &Yielder<(), ()>, ()| turns(yielder, depth))?;
        coroutine.set_name(&format!("{depth} calls deep"));
        coroutines.push(coroutine);
    }
    let nested = Coroutine::new(|yielder: &Yielder<(), ()>, ()| resume_another(yielder))?;
    nested.set_name("resumes another");
    coroutines.push(nested);
    // First of all, so that it is seen at once.
    let message = catch_across()?;
    let end = Instant::now() + lasts;
    while Instant::now() < end {
        for coroutine in &mut coroutines {
            black_box(coroutine.resume(()));
        }
    }
    Ok(message)
}

/// Goes deep, waits there, comes back and lets others have a turn, without end.
fn turns(yielder: &Yielder<(), ()>, depth: usize) {
    loop {
        descend(depth);
        yielder.suspend(());
    }
}

/// Calls itself with a frame of some size, and waits at the deepest call.
fn descend(depth: usize) {
    let mut room = [0u8; 256];
    black_box(&mut room);
    if depth == 0 {
        // Nobody unparks this thread, so this is a wait for the time alone.
        thread::park_timeout(WAITS);
    } else {
        descend(depth - 1);
    }
    black_box(&room);
}

/// A coroutine that has one of its own.
fn resume_another(yielder: &Yielder<(), ()>) {
    let inner = Coroutine::new(|yielder: &Yielder<(), ()>, ()| turns(yielder, 20));
    let Ok(mut inner) = inner else { return };
    inner.set_name("the other");
    while let State::Yielded(()) = inner.resume(()) {
        yielder.suspend(());
    }
}

/// Has a coroutine panic; returns the message that its resumer caught.
fn catch_across() -> Result<String, StackError> {
    let mut coroutine = Coroutine::new(|_: &Yielder<(), ()>, ()| fail_deep(8))?;
    // The message is shown at the end; the demo is about where it came from.
    panic::set_hook(Box::new(|_| {}));
    let caught = panic::catch_unwind(AssertUnwindSafe(|| coroutine.resume(())));
    let message = caught.err().and_then(|payload| payload.downcast_ref::<String>().cloned());
    Ok(message.unwrap_or_else(|| "nothing was caught".into()))
}

fn fail_deep(depth: usize) {
    assert!(depth > 0, "too deep by {depth} calls");
    fail_deep(depth - 1);
}
