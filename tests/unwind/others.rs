//! The fixtures' stacks beside those that eu-stack shows, address by address.

use std::ops::ControlFlow;
use std::process::Command;
use std::time::Duration;

use stackscope::workshop::image::Modules;
use stackscope::workshop::process::{Live, Target};
use stackscope::workshop::unwind::{Ended, FoundBy, Frame, Rules, Tables, walk};
use stackscope_harness::Running;

/// One thread's frames, innermost first, and why there are no more.
struct Thread {
    tid: i32,
    frames: Vec<Frame>,
    ended: Ended,
}

impl Thread {
    fn addresses(&self) -> Vec<u64> {
        self.frames.iter().map(|frame| frame.pc.addr().0).collect()
    }
}

fn walk_all(pid: i32) -> Vec<Thread> {
    let live = Live::open(pid).expect("open");
    let mappings = live.mappings().expect("mappings");
    let modules = Modules::load(&mappings, &live.memory(), &live);
    let tables = Tables::new(live.arch(), &modules);
    let mut rules = Rules::new(&tables);
    let stopped = live.stop(Duration::from_secs(10)).expect("stop");
    let with_registers =
        stopped.threads().iter().filter_map(|thread| Some((thread.tid, thread.registers.clone().ok()?)));
    with_registers
        .map(|(tid, registers)| {
            let mut frames = Vec::new();
            let ended = walk(&mut rules, &stopped, registers, 2_000_000, |frame, _| {
                frames.push(*frame);
                ControlFlow::Continue(())
            });
            Thread { tid, frames, ended }
        })
        .collect()
}

/// What eu-stack prints: for each thread the addresses of its frames, with the names that it knows.
fn eu_stack(pid: i32) -> Vec<(i32, Vec<(u64, String)>)> {
    let output = Command::new("eu-stack").args(["-n", "0", "-p", &pid.to_string()]).output().expect("eu-stack");
    let mut threads: Vec<(i32, Vec<(u64, String)>)> = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(tid) = line.strip_prefix("TID ") {
            threads.push((tid.trim_end_matches(':').parse().unwrap(), Vec::new()));
        } else if let (Some(frame), Some((_, frames))) = (line.strip_prefix('#'), threads.last_mut()) {
            let mut words = frame.split_whitespace().skip(1);
            let address = words.next().unwrap().trim_start_matches("0x");
            frames.push((u64::from_str_radix(address, 16).unwrap(), words.collect::<Vec<_>>().join(" ")));
        }
    }
    threads
}

fn show(ours: &Thread, theirs: &[(u64, String)]) -> String {
    let name = |address| theirs.iter().find(|(other, _)| *other == address).map_or("", |(_, name)| name);
    let line = |frame: &Frame| format!("{frame:x?} {}\n", name(frame.pc.addr().0));
    let theirs = theirs.iter().map(|(address, name)| format!("{address:#x} {name}\n")).collect::<String>();
    format!("ours ({:?}):\n{}theirs:\n{theirs}", ours.ended, ours.frames.iter().map(line).collect::<String>())
}

/// Starts a fixture and compares all its threads that stand still: those that eu-stack sees alike before and after.
fn check(fixture: &str, arguments: &[&str]) {
    let running = Running::start(fixture, arguments);
    let before = eu_stack(running.pid());
    let ours = walk_all(running.pid());
    let after = eu_stack(running.pid());
    let mut compared = 0;
    for thread in &ours {
        let (_, theirs) = after.iter().find(|(tid, _)| *tid == thread.tid).expect("the same threads");
        if !before.contains(&(thread.tid, theirs.clone())) {
            continue;
        }
        let addresses: Vec<u64> = theirs.iter().map(|(address, _)| *address).collect();
        assert_eq!(thread.ended, Ended::Root, "{fixture}: {}", show(thread, theirs));
        assert_eq!(thread.addresses(), addresses, "{fixture}: {}", show(thread, theirs));
        compared += 1;
    }
    assert!(compared > 0, "{fixture}: nothing stands still");
}

#[test]
fn threads() {
    for fixture in ["threads", "threads_frame_pointers", "threads_static", "threads_static_pie", "threads_stripped"] {
        check(fixture, &[]);
    }
}

/// musl comes without rules. Its routines are left by return addresses on the stack, the program's own functions by
/// their rules, and the chain ends where the program or the thread began. eu-stack sees the first frame alone.
#[test]
fn musl() {
    let running = Running::start("threads_musl", &[]);
    for thread in walk_all(running.pid()) {
        assert_eq!(thread.frames[0].found_by, FoundBy::Context);
        let guessed = thread.frames.iter().position(|frame| frame.found_by == FoundBy::Scan).expect("a guess");
        let described = thread.frames[guessed..].iter().filter(|frame| frame.found_by == FoundBy::Cfi).count();
        assert!(described >= 2, "{}", show(&thread, &[]));
        assert_eq!(thread.ended, Ended::Root, "{}", show(&thread, &[]));
    }
}

#[test]
fn signals() {
    check("sigaltstack", &[]);
}

#[test]
fn ucontext() {
    check("ucontext", &[]);
}

#[test]
fn objects_of_no_file() {
    let program = stackscope_harness::built("threads");
    check("memfd", &[program.to_str().unwrap(), "2"]);
    let plugin = stackscope_harness::built("plugin.so");
    check("dlopen", &[plugin.to_str().unwrap()]);
}

#[test]
fn jit() {
    check("jit", &[]);
}

#[test]
fn python() {
    check("python_threads", &[]);
}

#[test]
fn go() {
    check("goroutines", &[]);
}

#[test]
fn stitches() {
    for fixture in ["corosensei_nested", "wasmtime_fiber_nested", "stacker_nested"] {
        check(fixture, &["outer-higher"]);
        check(fixture, &["inner-higher"]);
    }
}
