//! Stacks that the program itself lists in a roster: their names, exact bounds, states, and exact peaks where they are
//! painted.

use super::Line;
use crate::addr::{Addr, AddrRange};
use crate::find::extent::bounds;
use crate::find::ground::Ground;
use crate::find::roster;
use crate::image::Modules;
use crate::memory::Memory;
use crate::snapshot::{Confidence, Kind, Method, Peak, Stack, State};
use crate::unwind::Ended;

/// A guard that is longer than this is shown as this long.
const LONGEST_GUARD: i64 = 1 << 20;

/// The source of stacks that are filled with one byte before they are used.
const PAINTED: &str = "painted";

/// Painted memory is compared in parts of this many bytes.
const PART: usize = 4096;

/// The owner and the type of the ELF note that leads to a roster.
const NOTE: (&[u8], u32) = (b"stackscope", 1);

/// More rosters than this are not read.
const MOST_ROSTERS: usize = 16;

/// The stacks that the program lists, by the notes of its modules: sorted, none overlapping another.
pub(crate) fn read(modules: &Modules, memory: &dyn Memory) -> Vec<Line> {
    let mut lines = Vec::new();
    for roster in rosters(modules).take(MOST_ROSTERS) {
        lines.extend(roster::read(memory, roster).into_iter().flat_map(|(lines, _)| lines));
    }
    // Where an entry was being changed, its bounds may be those of two stacks.
    lines.retain(|line: &Line| !line.in_flux);
    lines.sort_by_key(|line| line.range);
    let mut end = Addr(0);
    lines.retain(|line| {
        let stays = line.range.low >= end;
        if stays {
            end = line.range.high;
        }
        stays
    });
    lines
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
pub(crate) fn apply(stacks: &mut Vec<Stack>, listed: &[Line], ground: &Ground<'_>, memory: &dyn Memory) {
    let mut is_shown = vec![false; listed.len()];
    for stack in stacks.iter_mut() {
        let Some(index) = stack.sp.and_then(|sp| at(listed, sp)) else { continue };
        is_shown[index] = true;
        describe(stack, &listed[index], ground, memory);
    }
    for (listed, _) in listed.iter().zip(is_shown).filter(|(_, is_shown)| !is_shown) {
        if let Some(mut stack) = unseen(listed) {
            describe(&mut stack, listed, ground, memory);
            stacks.push(stack);
        }
    }
}

/// The listed stack that `sp` is on.
fn at(listed: &[Line], sp: Addr) -> Option<usize> {
    let index = listed.partition_point(|listed| listed.range.low <= sp).checked_sub(1)?;
    // The stack pointer of a context without frames stands at the very end.
    (sp <= listed[index].range.high).then_some(index)
}

fn describe(stack: &mut Stack, listed: &Line, ground: &Ground<'_>, memory: &dyn Memory) {
    let range = listed.range;
    let below = (ground.pages)(AddrRange::new(range.low.offset(-LONGEST_GUARD), range.low));
    stack.bounds = bounds::registered(range, ground.mappings, &below);
    let touched = (ground.pages)(range).ok().and_then(|pages| bounds::touched(&stack.bounds, &pages));
    let painted = if listed.source == PAINTED { unpainted(range, memory) } else { None };
    let exact = painted.map(|bytes| Peak { bytes, method: Method::Exact });
    stack.peak = exact.or(touched.map(Peak::by_pages));
    if !listed.name.is_empty() {
        stack.name = Some(listed.name.clone());
    }
    stack.source = Some(listed.source.clone()).filter(|source| !source.is_empty());
    match listed.state {
        roster::State::Segment => stack.kind = Kind::Segment,
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
fn state(listed: &Line) -> Option<State> {
    match listed.state {
        roster::State::New => Some(State::New),
        roster::State::Started => listed.saved_sp.map(|_| State::Suspended),
        roster::State::Idle | roster::State::Finished => Some(State::Finished),
        roster::State::Segment => None,
    }
}

/// A coroutine of which only its roster tells: its frames are not known.
fn unseen(listed: &Line) -> Option<Stack> {
    let is_coroutine = matches!(listed.state, roster::State::New | roster::State::Started | roster::State::Finished);
    Some(Stack {
        kind: Kind::Coroutine,
        name: None,
        source: None,
        state: state(listed).filter(|_| is_coroutine)?,
        thread: None,
        bounds: bounds::Bounds::UNKNOWN,
        sp: listed.saved_sp,
        peak: None,
        entry: None,
        frames: Vec::new(),
        ended: Ended::NoRule,
        resumed_by: None,
        confidence: Confidence::Certain,
        registers: None,
    })
}

/// How many bytes of a painted stack were ever written: from the lowest that differs from its paint. The paint is what
/// stands in the second word; in the first one there may be a canary.
fn unpainted(range: AddrRange, memory: &dyn Memory) -> Option<u64> {
    const WORD: i64 = 8;
    let paint = memory.read_u64(range.low.offset(WORD)).ok()?;
    let byte = paint.to_le_bytes()[0];
    if paint != u64::from_le_bytes([byte; 8]) || byte == 0 {
        return None;
    }
    let mut at = range.low.offset(WORD);
    let mut part = [0; PART];
    while at < range.high {
        let length = PART.min(usize::try_from(range.high.0 - at.0).unwrap_or(PART));
        memory.read(at, &mut part[..length]).ok()?;
        if let Some(index) = part[..length].iter().position(|found| *found != byte) {
            // Stacks are written in words: a byte of paint inside one is part of a value.
            return Some(range.high.0 - at.offset(index as i64).align_down(WORD as u64).0);
        }
        at = at.offset(length as i64);
    }
    Some(0)
}
