//! Every instruction of every naked routine, executed one by one under ptrace, with an unwind by rules at each.
//!
//! Where the stack pointer lies says which context a routine is in: on the thread's own stack the chain must be the
//! resumer's, on another it must go through the root of that stack to the resumer. What the unwinder recovers for the
//! frame of one of the fixture's functions must be the same at every step while that function waits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use iced_x86::{Decoder, DecoderOptions};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSection, ObjectSymbol};
use stackscope::addr::Addr;
use stackscope::arch::X86_64;
use stackscope::image::Modules;
use stackscope::mapping::Origin;
use stackscope::registers::{Register, Registers};
use stackscope::target::Live;
use stackscope::unwind::{Ended, FoundBy, Rules, Tables, walk};
use stackscope_harness::built;

/// Each routine, and how many of its last instructions a run does not come to: traps and messages behind calls that do
/// not return, and the frames between stacks, which only have rules.
const ROUTINES: [(&str, usize); 8] = [
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

const RBX: Register = Register(3);
const RBP: Register = Register(6);

/// A function of the fixture's program.
struct Function {
    range: Range<u64>,
    name: String,
}

#[test]
fn each_instruction_of_each_routine_unwinds_by_rules_alone() {
    let path = built("switch_steps");
    let fixture = Stopped::start(&path);
    let live = Live::open(fixture.0.id() as i32).unwrap();
    let mappings = live.mappings().unwrap();
    let modules = Modules::load(&mappings, &live.memory(), &live);
    let program = modules.iter().find(|module| module.path.as_deref() == Some(&path)).unwrap();
    let bias = mappings.iter().find(|mapping| is_file(&mapping.origin, &path)).unwrap().range.low.0;
    assert_eq!(program.svma(Addr(bias)), 0, "a position-independent program");
    let functions = functions(&path, bias);
    let thread_stack = mappings.iter().find(|mapping| mapping.origin == Origin::MainStack).unwrap().range;
    let tables = Tables::new(&X86_64, &modules);
    let mut rules = Rules::new(&tables);

    let routines: Vec<&Function> =
        ROUTINES.iter().map(|(name, _)| only(functions.iter().filter(|f| is_routine(f, name)))).collect();
    let mut visited = BTreeSet::new();
    let mut waiting: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    run(&fixture.0, |registers| {
        let pc = registers.get(X86_64.pc).unwrap();
        let Some(here) = function(&functions, pc) else { return };
        // What runs does not wait; when it calls the next time, it may have changed its registers.
        waiting.remove(last(&here.name));
        if !routines.iter().any(|routine| routine.range.contains(&pc)) {
            return;
        }
        visited.insert(pc);

        let mut marked: Vec<&str> = Vec::new();
        let mut first = true;
        let ended = walk(&mut rules, &live.memory(), registers.clone(), 100, |frame, there| {
            assert!(first || frame.found_by == FoundBy::Cfi, "{pc:#x}: a frame was guessed");
            first = false;
            let name = function(&functions, frame.pc.lookup().0).map_or("", |function| &function.name);
            // The C function `main`, which calls Rust's, has no path.
            let name = if name == "main" { "" } else { last(name) };
            if let Some(name) = MARKED.into_iter().find(|marked| *marked == name) {
                marked.push(name);
                let own = (there.get(RBX).unwrap_or(0), there.get(RBP).unwrap_or(0));
                let before = *waiting.entry(name).or_insert(own);
                assert!(before == own || name == "resumed_by" || name == "called_from", "{pc:#x}: {name} has changed");
            }
            ControlFlow::Continue(())
        });
        let on_thread = thread_stack.contains(Addr(registers.get(X86_64.sp).unwrap()));
        let routine = last(&here.name);
        assert_eq!(ended, Ended::Root, "{pc:#x} in {routine}, {marked:?}");
        let expected: &[&[&str]] = match (routine, on_thread) {
            ("on_stack", true) => &[&["calls", "main"]],
            ("on_stack", false) => &[&["called_from", "calls", "main"]],
            ("replace_stack", true) => &[&["replaces", "main"]],
            ("replace_stack", false) => &[&[]],
            (_, true) => &[&["resumes", "main"], &["enters", "main"]],
            (_, false) => &[
                &["resumed_by", "resumes", "main"],
                &["resumed_by", "enters", "main"],
                &["coroutine_body", "resumed_by", "resumes", "main"],
                &["raw_body", "resumed_by", "enters", "main"],
            ],
        };
        assert!(
            expected.contains(&&marked[..]),
            "{pc:#x} in {routine}, on the thread's stack: {on_thread}: {marked:?}"
        );
    });
    for (routine, (name, last_ones)) in routines.iter().zip(ROUTINES) {
        let all = instructions(&path, routine.range.start - bias..routine.range.end - bias);
        let missed = all.iter().map(|svma| svma + bias).filter(|pc| !visited.contains(pc)).count();
        assert_eq!(missed, last_ones, "{name} has {} instructions", all.len());
        let tail = all[all.len() - last_ones..].iter().map(|svma| svma + bias);
        assert!(tail.into_iter().all(|pc| !visited.contains(&pc)), "{name}: others than the last were missed");
    }
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

fn functions(path: &Path, bias: u64) -> Vec<Function> {
    let bytes = std::fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let functions = file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text).map(|symbol| {
        let start = symbol.address() + bias;
        let name = format!("{:#}", rustc_demangle::demangle(symbol.name().unwrap()));
        Function { range: start..start + symbol.size(), name }
    });
    let mut functions: Vec<Function> = functions.collect();
    functions.sort_by_key(|function| function.range.start);
    functions
}

/// The addresses of the instructions in a range of the program file.
fn instructions(path: &Path, range: Range<u64>) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let code = text.data_range(range.start, range.end - range.start).unwrap().unwrap();
    Decoder::with_ip(64, code, range.start, DecoderOptions::NONE).iter().map(|instruction| instruction.ip()).collect()
}

fn function(functions: &[Function], pc: u64) -> Option<&Function> {
    let after = functions.partition_point(|function| function.range.start <= pc);
    functions[..after].iter().rev().take(4).find(|function| function.range.contains(&pc))
}

fn is_routine(function: &Function, name: &str) -> bool {
    function.name.contains("arch::x86_64_unix::") && last(&function.name) == name
}

/// The last part of a function's path.
fn last(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

fn is_file(origin: &Origin, path: &Path) -> bool {
    matches!(origin, Origin::File(file) if file.path == path && file.offset == 0)
}

fn only<T>(mut items: impl Iterator<Item = T>) -> T {
    let item = items.next().unwrap();
    assert!(items.next().is_none(), "there should be only one");
    item
}
