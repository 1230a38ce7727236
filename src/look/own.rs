//! A snapshot of our own process.
//!
//! Nothing is searched for: the coroutines are those that the roster lists, so they are all there, with their names, and
//! none is guessed. Stacks that other libraries switch are seen where a thread runs on them.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::addr::{Addr, AddrRange, EVERYTHING};
use crate::find::extent::bounds;
use crate::find::ground::Ground;
use crate::find::roster::{self, Line};
use crate::find::running::chain::survey;
use crate::find::running::stacks::{end_at_jumps, find_descriptors, stacks};
use crate::image::names::Lines;
use crate::image::{Modules, Progress};
use crate::look::take::{Seen, named};
use crate::mapping::{Access, Mapping, mapping_at};
use crate::process::{Frozen, Target};
use crate::snapshot::{Bounds, BoundsFrom, Confidence, Guard, Kind, Peak, Snapshot, Stack, StackFrame, State};
use crate::switch;
use crate::unwind::{Ended, FoundBy, Rules, Tables, walk};

/// The most frames that are shown of one suspended coroutine.
const MOST_FRAMES: usize = 1 << 16;

/// One look at our own process as it was at the moment of `frozen`.
pub fn of_frozen(frozen: &Frozen, lines: Lines) -> Snapshot {
    // What is mapped besides images, data files say, need not be opened to see that it is none.
    let is_image = |mapping: &&Mapping| frozen.images().iter().any(|image| image.intersection(mapping.range).is_some());
    let of_images: Vec<Mapping> = frozen.mappings().iter().filter(is_image).cloned().collect();
    let modules = Modules::load(&of_images, frozen, frozen);
    let tables = Tables::new(frozen.arch(), &modules);
    let mut rules = Rules::new(&tables);
    let mut chains = survey(frozen, &mut rules);
    let pages = frozen.pages(EVERYTHING);
    let ground = Ground {
        pid: frozen.process().pid,
        mappings: frozen.mappings(),
        descriptors: find_descriptors(&mut chains, frozen.arch(), frozen),
        stack_limit: frozen.stack_limit(),
        pages: &|range| pages.as_ref().map(|pages| pages.within(range)).map_err(|unknown| *unknown),
    };
    end_at_jumps(&mut chains, &ground);
    let mut warnings = Vec::new();
    let listed = roster::read(frozen, Addr(switch::roster_address() as u64));
    let (listed, is_all) = listed.unwrap_or_default();
    if !is_all {
        warnings.push("not all of the list of our own stacks could be read".to_owned());
    }
    let (process, arch) = (frozen.process(), frozen.arch());
    let (threads, mut stacks) = stacks(&chains, &ground);
    for line in &listed {
        match stacks.iter_mut().find(|stack| stack.sp.is_some_and(|sp| line.range.contains(sp))) {
            Some(stack) => claim(stack, line, &ground),
            None => stacks.extend(waiting(line, frozen, &mut rules, &ground)),
        }
    }
    let suspended = Default::default();
    let (stopped, lines, progress) = (Duration::ZERO, Some(lines), Progress::default());
    let seen = Seen { process, arch, stopped, chains, suspended, warnings, lines, progress };
    named(seen, threads, stacks, &modules, frozen, frozen)
}

/// Gives a stack that a thread is on what the program says of it.
fn claim(stack: &mut Stack, line: &Line, ground: &Ground<'_>) {
    if matches!(line.state, roster::State::Idle) {
        return;
    }
    stack.kind = if line.state == roster::State::Segment { Kind::Segment } else { Kind::Coroutine };
    stack.name = Some(line.name.clone()).filter(|name| !name.is_empty());
    stack.source = Some(line.source.clone());
    (stack.bounds, stack.peak) = measures(line, ground);
}

/// The stack of a coroutine that no thread is on; `None` where no coroutine uses it.
fn waiting(line: &Line, frozen: &Frozen, rules: &mut Rules<'_, '_>, ground: &Ground<'_>) -> Option<Stack> {
    let state = match line.state {
        roster::State::New => State::New,
        roster::State::Started => State::Suspended,
        roster::State::Finished => State::Finished,
        roster::State::Idle | roster::State::Segment => return None,
    };
    let (bounds, peak) = measures(line, ground);
    let mut stack = Stack {
        kind: Kind::Coroutine,
        name: Some(line.name.clone()).filter(|name| !name.is_empty()),
        source: Some(line.source.clone()),
        state,
        thread: None,
        bounds,
        sp: None,
        peak,
        entry: None,
        frames: Vec::new(),
        ended: Ended::Root,
        resumed_by: None,
        confidence: if line.in_flux { Confidence::Likely } else { Confidence::Certain },
        registers: None,
    };
    let registers = line.saved_sp.and_then(|sp| roster::saved_registers(frozen.arch(), frozen, sp));
    let Some(registers) = registers else {
        // One that runs waits in a chain that was cut short, or its thread was not captured.
        stack.state = if state == State::Suspended { State::Running } else { state };
        stack.ended = if state == State::Finished { Ended::Root } else { Ended::NoRule };
        return Some(stack);
    };
    stack.sp = registers.addr(frozen.arch().sp);
    let mut sp = stack.sp;
    let ended = walk(rules, frozen, registers, MOST_FRAMES, |frame, _| {
        let mut frame = *frame;
        if stack.frames.is_empty() {
            frame.found_by = FoundBy::Descriptor;
        }
        // The link of a coroutine that waits leads to whoever resumed it last, who has gone on since.
        let stays = frame.cfa.is_some_and(|cfa| line.range.low < cfa && cfa <= line.range.high);
        let bytes = sp.zip(frame.cfa).filter(|_| stays).and_then(|(sp, cfa)| cfa.0.checked_sub(sp.0));
        sp = frame.cfa;
        stack.frames.push(StackFrame { frame, bytes });
        if stays { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    stack.ended = if stack.frames.len() < MOST_FRAMES && ended == Ended::TooDeep { Ended::Root } else { ended };
    Some(stack)
}

/// Where the stack lies, as the program says, and how much of it was ever touched.
fn measures(line: &Line, ground: &Ground<'_>) -> (Bounds, Option<Peak>) {
    let below = mapping_at(ground.mappings, line.range.low.offset(-1));
    let guard = below.filter(|below| below.access == Access::default() && below.range.high == line.range.low);
    let guard = guard.map_or(Guard::None, |below| Guard::Ok(guard_of(line, below)));
    let bounds = Bounds { low: Some(line.range.low), high: Some(line.range.high), from: BoundsFrom::Registered, guard };
    let pages = (ground.pages)(line.range).ok();
    let touched = pages.and_then(|pages| bounds::touched(&bounds, &pages));
    (bounds, touched.map(Peak::by_pages))
}

/// The part of a mapping without access that guards the stack: stacks made one after the other share their guards' mapping
/// with nobody, so it is all of it.
fn guard_of(line: &Line, below: &Mapping) -> AddrRange {
    AddrRange::new(below.range.low, line.range.low)
}
