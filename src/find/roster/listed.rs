//! Stacks that the program itself lists in a roster: their names, exact bounds and states.

use std::ops::ControlFlow;

use super::{self as roster, Listed};
use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::find::extent::bounds;
use crate::find::ground::Ground;
use crate::image::Modules;
use crate::memory::Memory;
use crate::registers::Registers;
use crate::snapshot::{Confidence, Kind, Stack, StackFrame, State};
use crate::unwind::{Ended, FoundBy, Rules, Tables, walk};

/// A guard that is longer than this is shown as this long.
const LONGEST_GUARD: i64 = 1 << 20;

/// The owner and the type of the ELF note that leads to a roster.
const NOTE: (&[u8], u32) = (b"stackscope", 1);

/// The most frames that are shown of one suspended coroutine.
const MOST_FRAMES: usize = 1 << 16;

/// More rosters than this are not read.
const MOST_ROSTERS: usize = 16;

/// The stacks that the program lists, by the notes of its modules: sorted, none overlapping another; and whether all of the
/// lists could be read.
pub(crate) fn read(modules: &Modules, memory: &dyn Memory) -> (Vec<Listed>, bool) {
    let (mut lines, mut is_all) = (Vec::new(), true);
    for (some, is_whole) in rosters(modules).take(MOST_ROSTERS).filter_map(|at| roster::read(memory, at)) {
        lines.extend(some);
        is_all &= is_whole;
    }
    // Where an entry was being changed, its bounds may be those of two stacks.
    lines.retain(|line: &Listed| !line.in_flux);
    lines.sort_by_key(|line| line.range);
    let mut end = Addr(0);
    lines.retain(|line| {
        let stays = line.range.low >= end;
        if stays {
            end = line.range.high;
        }
        stays
    });
    (lines, is_all)
}

/// Where rosters are: each note holds how far from itself one is.
fn rosters(modules: &Modules) -> impl Iterator<Item = Addr> {
    let (owner, kind) = NOTE;
    let with_image = modules.iter().filter_map(|module| Some((module, module.image.as_ref()?)));
    with_image.flat_map(move |(module, image)| {
        let place = |(svma, content): (u64, &[u8])| {
            let distance = i64::from_le_bytes(*content.first_chunk()?);
            Some(Addr(svma.wrapping_add(module.bias)).offset(distance))
        };
        image.notes(owner, kind).into_iter().filter_map(place).collect::<Vec<Addr>>()
    })
}

/// Says of each stack what its roster says, and adds those that nothing else showed.
pub(crate) fn apply(
    stacks: &mut Vec<Stack>,
    listed: &[Listed],
    ground: &Ground<'_>,
    tables: &Tables<'_>,
    memory: &dyn Memory,
) {
    let mut is_shown = vec![false; listed.len()];
    for stack in stacks.iter_mut() {
        let Some(index) = stack.sp.and_then(|sp| at(listed, sp)) else { continue };
        is_shown[index] = true;
        describe(stack, &listed[index], ground);
    }
    let mut rules = Rules::new(tables);
    for (listed, _) in listed.iter().zip(is_shown).filter(|(_, is_shown)| !is_shown) {
        if let Some(mut stack) = unseen(listed, &mut rules, tables.arch(), memory) {
            describe(&mut stack, listed, ground);
            stacks.push(stack);
        }
    }
}

/// The listed stack that `sp` is on.
fn at(listed: &[Listed], sp: Addr) -> Option<usize> {
    let index = listed.partition_point(|listed| listed.range.low <= sp).checked_sub(1)?;
    // The stack pointer of a context without frames stands at the very end.
    (sp <= listed[index].range.high).then_some(index)
}

fn describe(stack: &mut Stack, listed: &Listed, ground: &Ground<'_>) {
    let range = listed.range;
    let below = (ground.pages)(AddrRange::new(range.low.offset(-LONGEST_GUARD), range.low));
    stack.bounds = bounds::registered(range, ground.mappings, &below);
    if !listed.name.is_empty() {
        stack.name = Some(listed.name.clone());
    }
    stack.source = Some(listed.source.clone()).filter(|source| !source.is_empty());
    match listed.state {
        roster::Use::Segment => stack.kind = Kind::Segment,
        _ if stack.kind == Kind::Unknown => stack.kind = Kind::Coroutine,
        _ => {}
    }
    // What runs, and what waits for that, the registers tell.
    let is_at_rest = stack.thread.is_none() && stack.state != State::Resuming;
    if let Some(state) = state(listed).filter(|_| is_at_rest) {
        stack.state = state;
        stack.confidence = Confidence::Certain;
    }
}

/// What a listed coroutine does that no thread is on.
fn state(listed: &Listed) -> Option<State> {
    match listed.state {
        roster::Use::New => Some(State::New),
        roster::Use::Started => listed.saved_sp.map(|_| State::Suspended),
        roster::Use::Idle | roster::Use::Finished => Some(State::Finished),
        roster::Use::Segment => None,
    }
}

/// A coroutine that only its roster shows, with its frames where it waits; `None` where no coroutine uses the stack.
///
/// One that has begun and does not wait runs on a thread whose chain of frames was cut short, or which was not stopped.
fn unseen(listed: &Listed, rules: &mut Rules<'_, '_>, arch: &'static Arch, memory: &dyn Memory) -> Option<Stack> {
    let is_coroutine = matches!(listed.state, roster::Use::New | roster::Use::Started | roster::Use::Finished);
    let state = is_coroutine.then(|| state(listed).unwrap_or(State::Running))?;
    let mut stack = Stack { sp: listed.saved_sp, ..Stack::new(Kind::Coroutine, state) };
    if listed.state == roster::Use::Finished {
        stack.ended = Ended::Root;
    }
    let registers = listed.saved_sp.and_then(|sp| roster::saved_registers(arch, memory, sp));
    if let Some(registers) = registers {
        stack.sp = registers.addr(arch.sp);
        (stack.frames, stack.ended) = frames(listed.range, registers, rules, arch, memory);
    }
    Some(stack)
}

/// The frames of a coroutine that waits with `registers`, as far as they lie on its stack: its link leads to whoever
/// resumed it last, who has gone on since.
fn frames(
    range: AddrRange,
    registers: Registers,
    rules: &mut Rules<'_, '_>,
    arch: &'static Arch,
    memory: &dyn Memory,
) -> (Vec<StackFrame>, Ended) {
    let mut frames: Vec<StackFrame> = Vec::new();
    let (mut sp, mut is_whole) = (registers.addr(arch.sp), false);
    let ended = walk(rules, memory, registers, MOST_FRAMES, |frame, _| {
        let mut frame = *frame;
        if frames.is_empty() {
            frame.found_by = FoundBy::Descriptor;
        }
        is_whole = !frame.cfa.is_some_and(|cfa| range.low < cfa && cfa <= range.high);
        // The frame that leads off the stack is the link itself.
        if is_whole {
            return ControlFlow::Break(());
        }
        let bytes = sp.zip(frame.cfa).and_then(|(sp, cfa)| cfa.0.checked_sub(sp.0));
        sp = frame.cfa;
        frames.push(StackFrame { frame, bytes });
        ControlFlow::Continue(())
    });
    (frames, if is_whole { Ended::Root } else { ended })
}
