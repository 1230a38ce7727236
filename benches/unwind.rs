//! Nanoseconds a frame, beside framehop in the same run: medians of interleaved runs, and their ratios.
//!
//! We give all general registers of each frame; framehop gives the program counter.
//! `warm`: all rules are known. `cold`: none is, as for the first stack of a new program.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/unwind/own.rs"]
mod own;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use framehop::Unwinder as _;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use stackscope::workshop::addr::Addr;
use stackscope::workshop::arch::X86_64;
use stackscope::workshop::image::{Modules, SectionBytes};
use stackscope::workshop::memory::{Copied, Memory};
use stackscope::workshop::process::{Live, Target};
use stackscope::workshop::registers::{Register, Registers};
use stackscope::workshop::unwind::{Rules, Tables, walk};

/// What is walked: registers, a copy of the stack, and the modules.
struct Case {
    name: &'static str,
    start: Registers,
    stack: Copied,
    modules: Modules,
}

fn main() {
    let mut cases = vec![rustc()];
    descend(59, &mut |start| cases.push(own_stack(start)));
    for case in &cases {
        compare(case);
    }
}

/// Functions of several shapes that call each other, as deep as `depth`: then `then`.
#[inline(never)]
fn descend(depth: usize, then: &mut dyn FnMut(Registers)) {
    let next = [leaf, small, large, many_registers][depth.min(1) * (1 + depth % 3)];
    next(depth, then);
}

#[inline(never)]
fn leaf(_: usize, then: &mut dyn FnMut(Registers)) {
    own::with_registers(then);
}

#[inline(never)]
fn small(depth: usize, then: &mut dyn FnMut(Registers)) {
    descend(depth - 1, then);
    black_box(depth);
}

#[inline(never)]
fn large(depth: usize, then: &mut dyn FnMut(Registers)) {
    let mut local = [depth; 40];
    black_box(&mut local);
    descend(depth - 1, then);
    black_box(&mut local);
}

#[inline(never)]
fn many_registers(depth: usize, then: &mut dyn FnMut(Registers)) {
    let (a, b, c) = (black_box(depth), black_box(depth), black_box(depth));
    let (d, e, f) = (black_box(depth), black_box(depth), black_box(depth));
    descend(depth - 1, then);
    black_box((a, b, c, d, e, f));
}

fn own_stack(start: Registers) -> Case {
    let stack = copy_stack(&own::OwnMemory::open(), &start);
    Case { name: "small program", start, stack, modules: own::modules() }
}

/// The stack from its pointer up, at most 256 KiB of it.
fn copy_stack(memory: &dyn Memory, start: &Registers) -> Copied {
    let sp = start.addr(X86_64.sp).unwrap();
    let mut stack = vec![0; 256 << 10];
    while memory.read(sp, &mut stack).is_err() {
        stack.truncate(stack.len() - 8);
    }
    let mut copied = Copied::default();
    copied.insert(sp, stack.into());
    copied
}

/// The compiler that built us, as it waits for its source on stdin: deep in a library of 100,000 functions.
fn rustc() -> Case {
    let mut compiler = Command::new("rustc").arg("-").stdin(Stdio::piped()).spawn().expect("rustc");
    let pid = i32::try_from(compiler.id()).unwrap();
    let reads = |tid: &str| {
        let call = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
        call.starts_with("0 0x0 ")
    };
    let mut reader = None;
    stackscope_harness::wait_until("rustc reads its source", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        reader = tasks.map(|task| task.unwrap().file_name().into_string().unwrap()).find(|tid| reads(tid));
        reader.is_some()
    });
    let tid = reader.unwrap().parse::<i32>().unwrap();
    let live = Live::open(pid).expect("rustc is ours");
    let stopped = live.stop(Duration::from_secs(10)).expect("rustc stops");
    let thread = stopped.threads().iter().find(|thread| thread.tid == tid).unwrap();
    let start = thread.registers.clone().unwrap();
    let case = Case {
        name: "rustc",
        stack: copy_stack(&stopped, &start),
        start,
        modules: Modules::load(stopped.mappings(), &stopped, &live),
    };
    drop(stopped);
    compiler.kill().unwrap();
    compiler.wait().unwrap();
    case
}

fn compare(case: &Case) {
    let tables = Tables::new(&X86_64, &case.modules);
    let unwinder = framehop(&case.modules);
    let mut rules = Rules::new(&tables);
    let mut cache = CacheX86_64::new();
    let ours = walk_once(&mut rules, case);
    let theirs = framehop_once(&unwinder, &mut cache, case);
    assert!(ours.abs_diff(theirs) <= 1, "{}: {ours} frames, framehop {theirs}", case.name);

    let warm = interleaved(|| walk_once(&mut rules, case), || framehop_once(&unwinder, &mut cache, case));
    let cold = interleaved(
        || walk_once(&mut Rules::new(&tables), case),
        || framehop_once(&unwinder, &mut CacheX86_64::new(), case),
    );
    for (what, (ours, theirs)) in [("warm", warm), ("cold", cold)] {
        let ratio = ours / theirs;
        println!("{}, {what}: {ours:.1} ns a frame, framehop {theirs:.1}, ratio {ratio:.2}", case.name);
    }
    println!("  ({} frames)", walk_once(&mut rules, case));
}

/// Median nanoseconds a frame of two walks that take turns; each gives its number of frames.
fn interleaved(mut first: impl FnMut() -> usize, mut second: impl FnMut() -> usize) -> (f64, f64) {
    const ROUNDS: usize = 301;
    const WALKS: usize = 20;
    let timed = |walk: &mut dyn FnMut() -> usize| {
        let start = Instant::now();
        let frames: usize = (0..WALKS).map(|_| black_box(walk())).sum();
        start.elapsed().as_nanos() as f64 / frames as f64
    };
    let (mut firsts, mut seconds): (Vec<f64>, Vec<f64>) =
        (0..ROUNDS).map(|_| (timed(&mut first), timed(&mut second))).unzip();
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    (median(&mut firsts), median(&mut seconds))
}

fn walk_once(rules: &mut Rules<'_, '_>, case: &Case) -> usize {
    let mut count = 0;
    walk(rules, &case.stack, case.start.clone(), 10_000, |frame, registers| {
        black_box((frame, registers));
        count += 1;
        ControlFlow::Continue(())
    });
    count
}

fn framehop(modules: &Modules) -> UnwinderX86_64<&[u8]> {
    let mut unwinder = UnwinderX86_64::new();
    for module in modules.iter() {
        let Some(image) = &module.image else { continue };
        let sections = image.unwind_sections();
        let svma = |section: Option<SectionBytes<'_>>| {
            section.map(|section| section.svma..section.svma + section.bytes.len() as u64)
        };
        let bytes = |section: Option<SectionBytes<'_>>| section.map(|section| section.bytes.to_vec().leak() as &[u8]);
        let info = framehop::ExplicitModuleSectionInfo {
            base_svma: 0,
            eh_frame_svma: svma(sections.eh_frame),
            eh_frame: bytes(sections.eh_frame),
            eh_frame_hdr_svma: svma(sections.eh_frame_hdr),
            eh_frame_hdr: bytes(sections.eh_frame_hdr),
            ..Default::default()
        };
        let low = module.ranges.first().unwrap().low.0;
        let high = module.ranges.last().unwrap().high.0;
        unwinder.add_module(framehop::Module::new(module.name.clone(), low..high, module.bias, info));
    }
    unwinder
}

fn framehop_once(unwinder: &UnwinderX86_64<&[u8]>, cache: &mut CacheX86_64, case: &Case) -> usize {
    let get = |number| case.start.get(Register(number)).unwrap();
    let registers = UnwindRegsX86_64::new(get(16), get(7), get(6));
    // As fast as it can be read: one piece, found once.
    let (base, stack) = (get(7), case.stack.tail(Addr(get(7))).unwrap());
    let mut read = |at: u64| {
        let at = at.wrapping_sub(base) as usize;
        stack.get(at..).and_then(|tail| tail.first_chunk()).map(|word| u64::from_le_bytes(*word)).ok_or(())
    };
    let mut frames = unwinder.iter_frames(get(16), registers, cache, &mut read);
    let mut count = 0;
    while let Ok(Some(frame)) = frames.next() {
        black_box(frame);
        count += 1;
    }
    count
}
