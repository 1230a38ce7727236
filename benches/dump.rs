//! Whole commands, beside eu-stack and gdb in the same run: medians of interleaved runs, peak memory, and how long the
//! target stood still.
//!
//! Wall time is what a user waits; processor time says the same on a busy machine. `cargo bench --bench dump`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;
use stackscope_harness::{Running, folder, settle, wait_until};

/// How many runs of each command count.
const RUNS: usize = 21;

fn main() {
    let eight = Running::start("threads", &["8", "59"]);
    compare("8 threads x 64 frames", eight.pid(), &["dump", "dump --no-cache", "eu-stack", "eu-stack -s -i", "gdb"]);
    drop(eight);
    let thousand = Running::start("threads", &["1000", "3"]);
    compare("1,000 threads", thousand.pid(), &["dump", "dump --no-cache", "eu-stack"]);
    stops("1,000 threads", thousand.pid());
    drop(thousand);
    let rustc = rustc();
    compare("rustc (150 MB of code, 2 threads)", rustc.id() as i32, &["dump", "dump --no-cache", "eu-stack", "gdb"]);
    end(rustc);
}

fn command(name: &str, pid: i32) -> Command {
    let pid = pid.to_string();
    let (program, arguments): (&str, Vec<&str>) = match name {
        "dump" => (env!("CARGO_BIN_EXE_stackscope"), vec!["dump", &pid]),
        "dump --no-cache" => (env!("CARGO_BIN_EXE_stackscope"), vec!["dump", "--no-cache", &pid]),
        "eu-stack" => ("eu-stack", vec!["-n", "0", "-p", &pid]),
        "eu-stack -s -i" => ("eu-stack", vec!["-n", "0", "-s", "-i", "-p", &pid]),
        _ => (
            "gdb",
            vec!["-batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "thread apply all bt", "-p", &pid],
        ),
    };
    let mut command = Command::new(program);
    // What is kept on disk is what the first run leaves, which does not count.
    command.env("XDG_CACHE_HOME", folder());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// One run: wall time, processor time, peak memory in KiB.
struct Cost {
    wall: Duration,
    processor: Duration,
    memory: u64,
}

/// Runs a command once.
fn cost(mut command: Command) -> Cost {
    let before = children();
    let start = Instant::now();
    let child = command.spawn().unwrap();
    let memory = peak(child);
    let wall = start.elapsed();
    Cost { wall, processor: children() - before, memory }
}

/// Processor time of all children that have ended.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let time = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    time(usage.user_time()) + time(usage.system_time())
}

/// Waits for the child; the most memory it had, as `/proc/PID/status` showed it last.
fn peak(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let seen = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(seen.unwrap_or_default());
        if child.try_wait().unwrap().is_some() {
            return peak;
        }
        std::thread::yield_now();
    }
}

fn compare(title: &str, pid: i32, names: &[&str]) {
    println!("\n{title}");
    let mut costs: Vec<Vec<Cost>> = names.iter().map(|_| Vec::new()).collect();
    for run in 0..=RUNS {
        for (name, costs) in names.iter().zip(&mut costs) {
            let runs = if *name == "gdb" { 5 } else { RUNS };
            if run <= runs {
                costs.push(cost(command(name, pid)));
            }
        }
    }
    for (name, costs) in names.iter().zip(&costs) {
        // The first run warms the page cache.
        let median = |of: fn(&Cost) -> Duration| median(costs[1..].iter().map(of).collect());
        let memory = costs[1..].iter().map(|cost| cost.memory).max().unwrap_or_default() as f64 / 1024.0;
        let (wall, processor) = (median(|cost| cost.wall), median(|cost| cost.processor));
        println!("  {name:16} wall {wall:>10.2?}  processor {processor:>10.2?}  memory {memory:6.1} MiB");
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long the target stood still, as the dump itself says.
fn stops(title: &str, pid: i32) {
    let dump = |_| {
        let output = Command::new(env!("CARGO_BIN_EXE_stackscope")).args(["dump", "--json", &pid.to_string()]).output();
        let dump: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        Duration::from_nanos(dump["stopped_ns"].as_u64().unwrap())
    };
    let mut stops: Vec<Duration> = (0..101).map(dump).collect();
    stops.sort_unstable();
    println!("  {title} stopped: p50 {:.2?}  p99 {:.2?}", stops[50], stops[99]);
}

/// A compiler that waits for a program on its stdin.
fn rustc() -> Child {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let rustc = Path::new(String::from_utf8(sysroot).unwrap().trim()).join("bin/rustc");
    let child = Command::new(rustc).arg("-").stdin(Stdio::piped()).spawn().unwrap();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().count();
    wait_until("it has its threads", || threads() > 1);
    settle(child.id() as i32);
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
