//! Programs that switch are stopped at each instruction of some switches, and looked at there: however far a switch has
//! come, no stack is shown twice, missed or made up.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

#[path = "common/truth.rs"]
mod truth;

use std::collections::{BTreeMap, HashMap};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stackscope::workshop::image::names::Lines;
use stackscope::workshop::look::{Looker, Wish};
use stackscope::workshop::process::Live;
use stackscope::workshop::report::json;
use stackscope_harness::{Running, scratch, states, wait_until};
use truth::{Dump, Truth, differences, impossible, possible_chains};

/// A thread that executes its instructions one by one.
struct Stepped(Pid);

impl Stepped {
    /// Takes hold of a thread that runs, or that stands as [`Stepped::leave`] left it.
    fn take(tid: i32) -> Stepped {
        let stepped = Stepped(Pid::from_raw(tid));
        ptrace::seize(stepped.0, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(stepped.0).unwrap();
        stepped.wait();
        // Else it would stay stopped, and only report that; the signal itself is not let through.
        kill(stepped.0, Signal::SIGCONT).unwrap();
        stepped
    }

    /// Executes an instruction; gives where the next one is.
    fn step(&self) -> u64 {
        ptrace::step(self.0, None).unwrap();
        while self.wait() != WaitStatus::Stopped(self.0, Signal::SIGTRAP) {
            ptrace::step(self.0, None).unwrap();
        }
        ptrace::getregs(self.0).unwrap().rip
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap()
    }

    /// Leaves it to others, and its program stopped.
    fn leave(self) {
        ptrace::detach(self.0, Signal::SIGSTOP).unwrap();
        wait_until("it is stopped", || states(self.0.as_raw()).iter().all(|state| *state == 'T'));
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // A thread that is still held could not end; one that was left is not ours.
        let _ = ptrace::detach(self.0, None);
    }
}

/// How far a thread is taken.
struct Way {
    /// So many instructions it executes.
    steps: usize,
    /// So often it is looked at before the same one, at most.
    looks: usize,
}

/// Takes a thread of a fixture, of which messages say `what`, on its way; `wrong` says what is wrong with a look.
fn walk(what: &str, fixture: &Running, tid: i32, way: &Way, wrong: impl Fn(&Dump) -> BTreeMap<String, usize>) {
    let live = Live::open(fixture.pid()).unwrap();
    let mut looker = Looker::new();
    let mut visits: HashMap<u64, usize> = HashMap::new();
    let mut thread = Stepped::take(tid);
    for number in 0..way.steps {
        let pc = thread.step();
        let visited = visits.entry(pc).or_default();
        *visited += 1;
        if *visited > way.looks {
            continue;
        }
        thread.leave();
        let snapshot = looker.live(&live, Wish::all(Lines::Cheap)).unwrap();
        let mut shown = Vec::new();
        json::write(&mut shown, &snapshot).unwrap();
        let found = wrong(&serde_json::from_slice(&shown).unwrap());
        assert!(found.is_empty(), "{what}, instruction {number}, at {pc:#x}: {found:?}");
        thread = Stepped::take(tid);
    }
}

fn check(program: &str, way: &str) {
    let folder = scratch(program);
    let file = folder.join("truth.json");
    let fixture = Running::start_busy(program, &["20", way, file.to_str().unwrap(), "busy"]);
    let truth = Truth::read(&file);
    walk(&format!("{program}, {way}"), &fixture, fixture.pid(), &Way { steps: 300, looks: 1 }, |dump| {
        differences(&truth, dump)
    });
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn own_assembly() {
    check("co_asm", "guard");
    check("co_asm_debug", "slab");
    check("co_asm_pointer_stripped", "malloc");
}

#[test]
fn contexts_of_the_c_library() {
    check("co_ucontext", "guard");
    check("co_ucontext_static", "slab");
}

#[test]
fn boost_contexts() {
    check("co_fcontext_stripped", "guard");
}

#[test]
fn jump_buffers_of_the_c_library() {
    check("co_sigsetjmp", "malloc");
}

#[test]
fn registers_kept_in_a_block() {
    check("co_block", "slab");
    check("co_block_late", "guard");
}

#[test]
fn libraries_of_rust() {
    check("co_corosensei_stripped", "guard");
    check("co_generator_release", "guard");
    check("co_wasmtime_release", "guard");
}

#[test]
fn coroutines_on_segments() {
    check("co_grown", "guard");
}

/// Coroutines that begin, end, and begin anew on the same stack.
#[test]
fn stacks_that_are_used_anew() {
    for way in ["guard", "slab"] {
        let folder = scratch("migrants");
        let file = folder.join("truth.json");
        let fixture = Running::start_busy("migrants", &[way, file.to_str().unwrap(), "1"]);
        let (truth, possible) = (Truth::read(&file), possible_chains());
        let (worker, steps) = (worker(fixture.pid()), Way { steps: 3000, looks: 3 });
        walk(&format!("migrants, {way}"), &fixture, worker, &steps, |dump| impossible(&truth, dump, &possible));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// The thread that a process has besides its first.
fn worker(pid: i32) -> i32 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut tids = threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap());
    tids.find(|tid| *tid != pid).unwrap()
}
