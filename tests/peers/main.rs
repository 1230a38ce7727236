//! What `dump` shows of real programs, frame by frame against eu-stack and gdb, live and from core files.
//!
//! With eu-stack each code address must be the same, with both each function. `explained.rs` lists every difference
//! that stands, and why.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod explained;
mod names;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use stackscope_harness::{
    Running, ThreadFrames, built, eu_stack, eu_stack_core, gcore, gdb, gdb_core, kernel_core, scratch, settle,
    wait_until,
};

use common::{address, dump_whole, frames, function};
use explained::{Difference, Peer};

/// A frame as all tools show it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    /// `None` where the tool gives none for each frame.
    pc: Option<u64>,
    function: String,
}

/// Our threads, each with its stitched backtrace; for gdb with the functions that were inlined.
fn ours(dump: &Value, peer: Peer) -> Vec<(i32, Vec<Row>)> {
    let row = |frame: &Value| Row {
        pc: (peer == Peer::EuStack).then(|| address(&frame["pc"])),
        function: names::plain(function(frame)),
    };
    let threads = dump["threads"].as_array().unwrap().iter().map(|thread| {
        let frames = frames(dump, thread).into_iter();
        let shown = frames.filter(|frame| peer == Peer::Gdb || frame["inlined"] == false);
        (thread["tid"].as_i64().unwrap() as i32, shown.map(|frame| row(&frame)).collect())
    });
    let mut threads: Vec<_> = threads.collect();
    threads.sort_by_key(|(tid, _)| *tid);
    threads
}

fn theirs(threads: Vec<ThreadFrames>) -> Vec<(i32, Vec<Row>)> {
    let mut threads: Vec<_> = threads.into_iter().map(|thread| (thread.tid, rows(&thread))).collect();
    threads.sort_by_key(|(tid, _)| *tid);
    threads
}

fn rows(thread: &ThreadFrames) -> Vec<Row> {
    let row = |(index, function): (usize, &String)| Row {
        pc: thread.pcs.get(index).copied(),
        function: names::plain(function),
    };
    thread.functions.iter().enumerate().map(row).collect()
}

/// How many stacks beside those of threads there are in a program.
fn wanted_others(program: &str) -> RangeInclusive<usize> {
    match program {
        "corosensei_nested" | "wasmtime_fiber_nested" | "stacker_nested" | "ucontext" => 2..=2,
        "sigaltstack" => 1..=1,
        // The program's own, and those of the runtime.
        "goroutines" => 100..=130,
        _ => 0..=0,
    }
}

/// Compares all threads; every difference must be an explained one, and no stack is invented.
fn check(program: &str, dump: &Value, peer: Peer, theirs_said: Vec<ThreadFrames>) {
    let others: Vec<&Value> =
        dump["stacks"].as_array().unwrap().iter().filter(|stack| stack["kind"] != "thread").collect();
    assert!(wanted_others(program).contains(&others.len()), "{program}: {others:#?}");
    let (ours, theirs) = (ours(dump, peer), theirs(theirs_said));
    let tids = |threads: &[(i32, Vec<Row>)]| threads.iter().map(|(tid, _)| *tid).collect::<Vec<_>>();
    assert_eq!(tids(&ours), tids(&theirs), "{program}: the threads that {peer:?} shows");
    for ((tid, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let unexplained = compare(program, peer, ours, theirs);
        assert!(unexplained.is_none(), "{program}, thread {tid}, {peer:?}: {}", unexplained.unwrap());
    }
}

/// The first difference of two backtraces that is not explained.
fn compare(program: &str, peer: Peer, ours: &[Row], theirs: &[Row]) -> Option<String> {
    let (mut left, mut right) = (ours, theirs);
    while !(left.is_empty() && right.is_empty()) {
        let same = matches!((left.first(), right.first()), (Some(left), Some(right)) if left == right);
        let (skip_left, skip_right) = match same {
            true => (1, 1),
            false => match explained::explanation(program, peer, left, right) {
                Some(Difference::Names) => (1, 1),
                Some(Difference::OnlyTheirs(count)) => (0, count),
                Some(Difference::TheyEnd | Difference::Elsewhere) => return None,
                None => {
                    return Some(format!(
                        "ours {:#?}\ntheirs {:#?}",
                        &left[..left.len().min(4)],
                        &right[..right.len().min(4)]
                    ));
                }
            },
        };
        left = left.get(skip_left..).unwrap_or_default();
        right = right.get(skip_right..).unwrap_or_default();
    }
    None
}

/// Whether gdb can be asked: it gives up on wasmtime's fibers ("`DW_OP_reg' operations must be used either alone …").
fn gdb_can(program: &str) -> bool {
    program != "wasmtime_fiber_nested"
}

/// A running process against both.
fn check_live(program: &str, pid: i32) {
    let dump = dump_whole(&pid.to_string());
    assert_eq!(dump["process"]["source"], "live");
    check(program, &dump, Peer::EuStack, eu_stack(pid));
    if gdb_can(program) {
        check(program, &dump, Peer::Gdb, gdb(pid));
    }
}

/// A core file against both.
fn check_core(program: &str, core: &Path, executable: &Path) {
    let dump = dump_whole(core.to_str().unwrap());
    assert_eq!(dump["process"]["source"], "core");
    check(program, &dump, Peer::EuStack, eu_stack_core(core, executable));
    if gdb_can(program) {
        check(program, &dump, Peer::Gdb, gdb_core(core, executable));
    }
    // Core files are large, and one that failed the test is worth keeping.
    std::fs::remove_file(core).unwrap();
}

/// A fixture live, from gcore's core and from the kernel's.
fn check_fixture(fixture: &str, arguments: &[&str]) {
    let running = Running::start(fixture, arguments);
    check_live(fixture, running.pid());
    let executable = check_gcore(fixture, running.pid());
    drop(running);
    check_core(fixture, &kernel_core(fixture, arguments, &scratch("peers")), &executable);
}

/// A program from gcore's core; gives its file.
fn check_gcore(program: &str, pid: i32) -> PathBuf {
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    check_core(program, &gcore(pid, &scratch("peers")), &executable);
    executable
}

/// A program that waits for input on its stdin, ended when dropped.
struct Waiting(Child);

impl Waiting {
    /// Starts it and waits until one of its threads reads or polls its stdin, which never comes.
    fn start(command: &mut Command) -> Waiting {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waiting = Waiting(child);
        wait_until("it waits for input", || waiting.waits_for_input());
        settle(waiting.pid());
        waiting
    }

    fn waits_for_input(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        // The system call's number, then its arguments: read(0, …) and poll(…, …, -1).
        let waits =
            |call: String| call.starts_with("0 0x0 ") || call.starts_with("7 ") && call.contains(" 0xffffffff ");
        tasks.flatten().any(|task| std::fs::read_to_string(task.path().join("syscall")).is_ok_and(waits))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check_program(program: &str, command: &mut Command) {
    let waiting = Waiting::start(command);
    check_live(program, waiting.pid());
    check_gcore(program, waiting.pid());
}

macro_rules! fixtures {
    ($($name:ident($($argument:literal),*))*) => {
        $(#[test]
        fn $name() {
            check_fixture(stringify!($name), &[$($argument),*]);
        })*
    };
}

fixtures! {
    threads()
    threads_frame_pointers()
    threads_static()
    threads_static_pie()
    threads_stripped()
    threads_musl()
    python_threads()
    sigaltstack()
    ucontext()
    jit()
    corosensei_nested()
    wasmtime_fiber_nested()
    stacker_nested()
}

#[test]
fn coroutines_whose_inner_stack_lies_higher() {
    for fixture in ["corosensei_nested", "wasmtime_fiber_nested", "stacker_nested"] {
        let running = Running::start(fixture, &["inner-higher"]);
        assert!(running.mark.contains("inner-higher"), "{fixture}: {}", running.mark);
        check_live(fixture, running.pid());
    }
}

#[test]
fn goroutines() {
    // Go's runtime wakes its threads now and then, so that two looks at a live program may differ; and it handles the
    // signal by which the kernel would be asked for a core.
    check_gcore("goroutines", Running::start("goroutines", &[]).pid());
}

#[test]
fn dlopen() {
    check_fixture("dlopen", &[built("plugin.so").to_str().unwrap()]);
}

#[test]
fn gdb_itself() {
    check_program("gdb", Command::new("gdb").args(["-nx", "-q"]));
}

#[test]
fn rustc() {
    // The file itself: `rustc` may be a link to what chooses the toolchain.
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let rustc = Path::new(String::from_utf8(sysroot).unwrap().trim()).join("bin/rustc");
    check_program("rustc", Command::new(rustc).arg("-"));
}

#[test]
fn a_program_from_memory_alone() {
    let running = Running::start("memfd", &[built("threads").to_str().unwrap()]);
    check("memfd", &dump_whole(&running.pid().to_string()), Peer::EuStack, eu_stack(running.pid()));
}
