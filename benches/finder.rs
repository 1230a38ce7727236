//! Coroutines by the thousand: that each is found right, how long the whole command takes, and how long the program stands.
//!
//! Text goes to a file, nothing is kept on disk, stacks have 16 KiB of which a page or two were touched.
//! Median, least and most of several runs, and what the finder costs where there is nothing to find. `cargo bench --bench finder`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/common/truth.rs"]
mod truth;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;
use stackscope_harness::{Running, scratch};
use truth::{Truth, differences};

/// How many runs of each command count.
const RUNS: usize = 11;

fn main() {
    for (program, count, way) in [
        ("co_fcontext", 10_000, "guard"),
        ("co_corosensei_release", 10_000, "guard"),
        ("co_corosensei", 10_000, "guard"),
        ("co_fcontext", 100_000, "slab"),
        ("co_corosensei_release", 100_000, "slab"),
        ("co_corosensei", 100_000, "slab"),
    ] {
        let truth = scratch(program).join("truth.json");
        let fixture = Running::start(program, &[&count.to_string(), way, truth.to_str().unwrap()]);
        println!("\n{program}, {count} coroutines, {way}");
        check(fixture.pid(), &Truth::read(&truth));
        measure(fixture.pid());
    }
    let without = Running::start("threads", &["8", "59"]);
    println!("\na program without coroutines");
    measure(without.pid());
}

/// Compares all that is shown with the truth.
fn check(pid: i32, truth: &Truth) {
    let shown = serde_json::from_slice(&dump(pid, &["--json"]).output().unwrap().stdout).unwrap();
    let wrong = differences(truth, &shown);
    println!("  {}", if wrong.is_empty() { "all right".to_owned() } else { format!("WRONG: {wrong:?}") });
}

fn dump(pid: i32, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    command.args(["dump", "--no-cache"]).args(options).arg(pid.to_string()).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn measure(pid: i32) {
    let file = scratch("finder").join("text");
    let mut costs: Vec<(Duration, Duration)> =
        (0..=RUNS).map(|_| cost(dump(pid, &["-o", file.to_str().unwrap()]).stdout(Stdio::null()))).collect();
    // The first run warms the page cache.
    costs.remove(0);
    let wall = spread(costs.iter().map(|(wall, _)| *wall).collect());
    let processor = spread(costs.iter().map(|(_, processor)| *processor).collect());
    let stopped = spread((0..RUNS).map(|_| stopped(pid)).collect());
    println!("  wall {wall}  processor {processor}  stopped {stopped}");
}

/// The median, and the least and the most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    format!("{median:.1?} ({least:.1?} to {most:.1?})")
}

/// Runs a command: wall time, and processor time.
fn cost(command: &mut Command) -> (Duration, Duration) {
    let (before, start) = (children(), Instant::now());
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    (start.elapsed(), children() - before)
}

/// Processor time of all children that have ended.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let time = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    time(usage.user_time()) + time(usage.system_time())
}

/// How long the program stood still, as the dump itself says.
fn stopped(pid: i32) -> Duration {
    let shown: Value =
        serde_json::from_slice(&dump(pid, &["--json", "--filter", "kind:thread"]).output().unwrap().stdout).unwrap();
    Duration::from_nanos(shown["stopped_ns"].as_u64().unwrap())
}
