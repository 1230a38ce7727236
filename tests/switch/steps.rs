//! Every instruction of every naked routine, and of the code that they are inlined into, executed one by one under ptrace,
//! with an unwind by rules at each.
//!
//! Where the stack pointer lies says which context a routine is in: on the thread's own stack the chain must be the
//! resumer's, on another it must go through the root of that stack to the resumer. What the unwinder recovers for the
//! frame of one of the fixture's functions must be the same at every step while that function waits.
//! Then gdb steps through the same program, and must see the same functions at each instruction of the routines.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stackscope::workshop::addr::Addr;
use stackscope::workshop::arch::X86_64;
use stackscope::workshop::image::Modules;
use stackscope::workshop::mapping::Origin;
use stackscope::workshop::process::Live;
use stackscope::workshop::registers::{Register, Registers};
use stackscope::workshop::unwind::{Ended, FoundBy, Rules, Tables, walk};
use stackscope_harness::built;

use crate::program::{Program, last};

/// Each routine, and how many of its last instructions a run does not come to: traps and messages behind calls that do
/// not return, and the frames between stacks, which only have rules.
pub(crate) const ROUTINES: [(&str, usize); 8] = [
    ("enter_routine", 0),
    ("leave_routine", 0),
    ("start", 2),
    ("start_returning", 0),
    ("resumed_by", 2),
    ("on_stack", 0),
    ("called_from", 2),
    ("replace_stack", 1),
];

/// The functions whose order is checked: the fixture's own, and the frames between stacks.
const MARKED: [&str; 11] = [
    "main",
    "resumes",
    "coroutine_body",
    "enters",
    "raw_body",
    "calls",
    "called_body",
    "replaces",
    "replaced_body",
    "resumed_by",
    "called_from",
];

/// What the marked functions of a backtrace may be where execution is on the thread's own stack.
const ON_THREAD: [&[&str]; 5] =
    [&["main"], &["resumes", "main"], &["enters", "main"], &["calls", "main"], &["replaces", "main"]];

/// The same where it is on another.
const ELSEWHERE: [&[&str]; 8] = [
    &["resumed_by", "resumes", "main"],
    &["coroutine_body", "resumed_by", "resumes", "main"],
    &["resumed_by", "enters", "main"],
    &["raw_body", "resumed_by", "enters", "main"],
    &["called_from", "calls", "main"],
    &["called_body", "called_from", "calls", "main"],
    &[],
    &["replaced_body"],
];

const RBX: Register = Register(3);
const RBP: Register = Register(6);

/// An instruction of a routine that was come to, and the marked functions of the backtrace there.
#[derive(PartialEq, Eq, Debug)]
struct Visit {
    svma: u64,
    marked: Vec<&'static str>,
}

#[test]
fn each_instruction_unwinds_by_rules_alone_and_gdb_agrees() {
    for fixture in ["switch_steps", "switch_steps_release"] {
        let program = Program::open(&built(fixture));
        let visits = step(&program);
        for (name, last_ones) in ROUTINES {
            let all = program.instructions(&program.routine(name).range);
            let visited: BTreeSet<u64> = visits.iter().map(|visit| visit.svma).collect();
            let missed: Vec<u64> = all.iter().copied().filter(|svma| !visited.contains(svma)).collect();
            assert_eq!(missed, all[all.len() - last_ones..], "{name}: others than the last {last_ones} were missed");
        }
        let gdb = by_gdb(&program);
        assert_eq!(gdb.len(), visits.len());
        for (theirs, ours) in gdb.iter().zip(&visits) {
            assert_eq!(theirs, ours, "gdb sees something else at {:#x}", ours.svma);
        }
    }
}

/// Steps through the program and unwinds at each instruction of its own; gives what was seen in the routines.
fn step(program: &Program) -> Vec<Visit> {
    let fixture = Stopped::start(&program.path);
    let live = Live::open(fixture.0.id() as i32).unwrap();
    let mappings = live.mappings().unwrap();
    let modules = Modules::load(&mappings, &live.memory(), &live);
    let bias = modules.iter().find(|module| module.path.as_ref() == Some(&program.path)).unwrap().bias;
    let thread_stack = mappings.iter().find(|mapping| mapping.origin == Origin::MainStack).unwrap().range;
    let tables = Tables::new(&X86_64, &modules);
    let mut rules = Rules::new(&tables);

    let mut visits = Vec::new();
    let mut waiting: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    run(&fixture.0, |registers| {
        let pc = registers.get(X86_64.pc).unwrap();
        let svma = pc.wrapping_sub(bias);
        let Some(here) = program.function(svma) else { return };
        // What runs does not wait; when it calls the next time, it may have changed its registers.
        waiting.remove(here.last());

        let mut marked: Vec<&str> = Vec::new();
        let mut first = true;
        let ended = walk(&mut rules, &live.memory(), registers.clone(), 100, |frame, there| {
            assert!(first || frame.found_by == FoundBy::Cfi, "{svma:#x} in {}: a frame was guessed", here.name);
            first = false;
            let at = frame.pc.lookup().0.wrapping_sub(bias);
            if let Some(name) = program.function(at).and_then(|function| mark(&function.name)) {
                marked.push(name);
                let own = (there.get(RBX).unwrap_or(0), there.get(RBP).unwrap_or(0));
                let before = *waiting.entry(name).or_insert(own);
                assert!(
                    before == own || name == "resumed_by" || name == "called_from",
                    "{svma:#x}: {name} has changed"
                );
            }
            ControlFlow::Continue(())
        });
        let on_thread = thread_stack.contains(Addr(registers.get(X86_64.sp).unwrap()));
        let expected = if on_thread { &ON_THREAD[..] } else { &ELSEWHERE[..] };
        let is_right = ended == Ended::Root && expected.contains(&&marked[..]);
        assert!(is_right, "{svma:#x} in {}, on the thread's stack: {on_thread}: {ended:?}, {marked:?}", here.name);
        if ROUTINES.iter().any(|(name, _)| program.routine(name).range.contains(&svma)) {
            visits.push(Visit { svma, marked });
        }
    });
    visits
}

/// Has gdb stop at each instruction of the routines, and gives what it sees there.
fn by_gdb(program: &Program) -> Vec<Visit> {
    let starts = ROUTINES.iter().flat_map(|(name, _)| program.instructions(&program.routine(name).range));
    let starts: Vec<String> = starts.map(|svma| svma.to_string()).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/switch/gdb_steps.py");
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-x"]).arg(script).arg(&program.path);
    let output = gdb.env("INSTRUCTIONS", starts.join(" ")).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("the end\n"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter_map(|line| line.strip_prefix("visit "));
    let visits = lines.map(|line| {
        let mut words = line.split('\t');
        let svma = words.next().unwrap().parse().unwrap();
        let mut marked: Vec<&str> = words.filter_map(mark_of_gdb).collect();
        // The C function `main` calls Rust's.
        marked.dedup();
        Visit { svma, marked }
    });
    visits.collect()
}

/// The marked function of this path. The C function `main`, which calls Rust's, has none.
fn mark(path: &str) -> Option<&'static str> {
    let name = if path == "main" { "" } else { last(path) };
    MARKED.into_iter().find(|marked| *marked == name)
}

/// The same by the name that gdb shows: without its path where there is little debug information, and with the hash at its
/// end where there is none.
fn mark_of_gdb(name: &str) -> Option<&'static str> {
    let is_hash = |part: &str| part.len() == 17 && part.starts_with('h');
    let path = name.rsplit_once("::").filter(|(_, part)| is_hash(part)).map_or(name, |(path, _)| path);
    MARKED.into_iter().find(|marked| *marked == last(path))
}

/// The fixture, killed on drop.
struct Stopped(Child);

impl Stopped {
    /// Starts it and waits until it has stopped itself.
    fn start(path: &Path) -> Stopped {
        let child = Command::new(path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let stopped = Stopped(child);
        let status = waitpid(Pid::from_raw(stopped.0.id() as i32), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(status, WaitStatus::Stopped(_, Signal::SIGSTOP)), "{status:?}");
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Shows the registers before each instruction, until the program stops itself again.
fn run(child: &Child, mut visit: impl FnMut(&Registers)) {
    let pid = Pid::from_raw(child.id() as i32);
    ptrace::attach(pid).unwrap();
    // One stop is that of the attach; whether the signal that we send by it shows once more is up to the kernel.
    let mut steps = 0;
    loop {
        match waitpid(pid, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGSTOP) if steps > 100 => return,
            WaitStatus::Stopped(_, Signal::SIGSTOP | Signal::SIGTRAP) => {}
            other => panic!("after {steps} steps: {other:?}"),
        }
        visit(&registers(pid));
        steps += 1;
        ptrace::step(pid, None).unwrap();
    }
}

fn registers(pid: Pid) -> Registers {
    let regs = ptrace::getregs(pid).unwrap();
    let by_number = [
        regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8, regs.r9, regs.r10,
        regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
    ];
    let mut registers = Registers::unknown();
    for (number, value) in (0..).zip(by_number) {
        registers.set(Register(number), value);
    }
    registers
}
