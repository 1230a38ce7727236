//! The contexts that no thread runs: found in memory that was copied while the target stood still.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use foldhash::HashMap;
use log::debug;

use super::{approach, begun, chains, classify, contexts, lineage, midway, unheld};
use crate::addr::{Addr, AddrRange, EVERYTHING};
use crate::arch::X86_64;
use crate::find::extent::bounds::{self, Owner};
use crate::find::extent::heap;
use crate::find::extent::rooms::Rooms;
use crate::find::extent::spans::{self, Span};
use crate::find::ground::Ground;
use crate::find::running::cut::Part;
use crate::find::running::stacks;
use crate::find::running::threads::ThreadChain;
use crate::find::sites::{Origin, Sites};
use crate::find::suspended::chains::Chains;
use crate::find::suspended::choose::{Choice, Holder, Running, Threads, choose};
use crate::find::suspended::classify::{Context, Segment, classify};
use crate::find::suspended::contexts::{Hypothesis, Scene, hypotheses};
use crate::find::suspended::ends::CodeView;
use crate::find::suspended::lineage::Tops;
use crate::image::Modules;
use crate::mapping::{Mapping, Origin as MappingOrigin, mapping_at};
use crate::memory::{Memory, Slices};
use crate::registers::Registers;
use crate::share;
use crate::snapshot::{BlindSpot, Bounds, BoundsFrom, Guard, Kind, Stack, StackFrame, State, Warning};
use crate::unwind::{Ended, FoundBy, Frame, FunctionStarts, Rules, Tables};

/// Whether the target has code that makes a look through its memory worth while.
pub(crate) fn worth_a_look(sites: &Sites) -> bool {
    // The C library itself saves contexts that it hides, in every program: alone they switch no stacks.
    sites.sites.iter().any(|site| {
        let hidden = site.layouts.iter().all(|layout| sites.layouts[*layout as usize].mangling.is_some());
        match site.origin {
            Origin::Switch => true,
            Origin::SavedOnly => !hidden || sites.begins_by_signals,
            Origin::Fresh => false,
        }
    })
}

/// What is known of a target when its memory is searched.
#[derive(Clone, Copy)]
pub(crate) struct Known<'k> {
    pub(crate) sites: &'k Sites,
    pub(crate) modules: &'k Modules,
    pub(crate) tables: &'k Tables<'k>,
    pub(crate) ground: &'k Ground<'k>,
    /// The memory that is searched and, where it is known, what may not be written to: calls go through tables there.
    pub(crate) all: &'k (dyn Memory + Sync),
    /// Whether each context's registers are kept.
    pub(crate) keeps_registers: bool,
}

/// Code that no table covers belongs to a label at most so many bytes below, if it belongs to one: it is some library's
/// assembly.
const SHORT: u64 = 256;

/// Where functions begin, each place looked up once: the same few stand in all contexts.
struct Starts<'t, 'd> {
    /// Where the code begins that switches stacks, and that contexts begin with, sorted.
    labels: Vec<u64>,
    known: Mutex<(FunctionStarts<'t, 'd>, HashMap<Addr, Option<Addr>>)>,
}

impl<'t, 'd> Starts<'t, 'd> {
    /// Many places are tried as ones where contexts may begin: those count that a word in memory names, as one of `found`.
    fn new(tables: &'t Tables<'d>, sites: &Sites, found: &[Hypothesis]) -> Starts<'t, 'd> {
        let mut is_named = vec![false; sites.sites.len()];
        found.iter().for_each(|hypothesis| is_named[hypothesis.site as usize] = true);
        let fresh = sites.sites.iter().zip(is_named).filter(|(site, named)| *named && site.origin == Origin::Fresh);
        let mut labels: Vec<u64> = fresh.map(|(site, _)| site.word).chain(sites.entries.iter().copied()).collect();
        labels.sort_unstable();
        Starts { labels, known: Mutex::new((tables.function_starts(), HashMap::default())) }
    }

    fn of(&self, at: Addr) -> Option<Addr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (starts, known) = &mut *known;
        *known.entry(at).or_insert_with(|| starts.of(at).or_else(|| self.label_below(at)))
    }

    fn label_below(&self, at: Addr) -> Option<Addr> {
        let next = self.labels.partition_point(|label| *label <= at.0);
        let label = self.labels[next.checked_sub(1)?];
        (at.0 - label < SHORT).then_some(Addr(label))
    }
}

/// A context that no thread runs, and the stack that it is on.
pub(crate) struct Suspended {
    context: Context,
    /// Where each of its segments lies, innermost first.
    segments: Vec<Bounds>,
    /// The thread that began on that stack, by its place in the list of threads; `None` for a coroutine's.
    thread: Option<usize>,
    bounds: Bounds,
    /// Where they are to be kept.
    registers: Option<Box<Registers>>,
}

/// What is suspended, and what of it waits for a coroutine that a thread runs.
#[derive(Default)]
pub(crate) struct Found {
    suspended: Vec<Suspended>,
    /// Of each thread, by its place in the list of threads: who resumed the coroutine that it runs, who resumed that one,
    /// and so on, each an index into the list of what is suspended; without the thread's own stack.
    resumers: Vec<Vec<usize>>,
    /// The blocks of `malloc` that coroutines run on, by the stack pointer in them.
    blocks: Vec<(Addr, AddrRange)>,
    /// How long most guarded stacks are, in bytes.
    pub(crate) guarded_size: Option<u64>,
    /// Switches by which others left that are not found.
    pub(crate) blind_spots: Vec<BlindSpot>,
}

/// Finds the suspended contexts in `memory`; a thread that is in the midst of going on with one has its frames then.
pub(crate) fn find(
    memory: &Slices<'_>,
    known: &Known<'_>,
    threads: &mut [ThreadChain],
    warnings: &mut Vec<Warning>,
) -> Found {
    let Known { sites, modules, tables, ground, all, keeps_registers } = *known;
    let (mappings, pid) = (ground.mappings, ground.pid);
    let dead = dead(threads, pid, mappings);
    let thread_pointer = threads.iter().find_map(|chain| chain.thread.thread_pointer);
    let scene = Scene { memory, dead: &dead, thread_pointer };
    let hypotheses = hypotheses(&scene, sites);
    debug!("{} resume words are known, {} places may hold a context", sites.sites.len(), hypotheses.found.len());
    let starts = Starts::new(tables, sites, &hypotheses.found);
    let code = CodeView {
        read: &|at, into| modules.code(at, into),
        function_start: &|at| starts.of(at),
        memory: all,
        unbound: &|slot, value| modules.unbound(slot, value),
    };
    let chains = chains::unwind(&scene, sites, mappings, tables, code, &hypotheses.found);
    debug!("{} of them unwind to a root", chains.chains.len());
    if hypotheses.cut || chains.cut {
        warnings.push(Warning::TooManyPlaces);
    }
    threads.iter_mut().for_each(|thread| go_on(thread, &chains, known, code));
    let threads = &*threads;
    let (held, in_registers) = in_registers(threads, sites, code);
    let running: Vec<Running> = threads.iter().flat_map(|chain| running(chain, ground)).collect();
    let at_work = Threads { running, held, in_registers };
    let rooms = Rooms::new(mappings, memory, (ground.pages)(EVERYTHING));
    let mut choices = choose(&chains, sites, mappings, &at_work, code, &rooms);
    begun::drop_begun_unseen(&chains, sites, &mut choices, code, memory);
    let (hidden, blind_spots) = unheld::not_understood(&chains, sites, &choices, modules);
    let is_hidden = |choice: &Choice| hidden.contains(&chains.chains[choice.chain].hypothesis.layout);
    choices.retain(|choice| choice.holder != Holder::None || !is_hidden(choice));
    let mut contexts = classify(&chains, sites, &choices, code);
    for (context, _) in contexts.iter_mut().zip(&choices).filter(|(_, choice)| is_hidden(choice)) {
        context.confidence = classify::Confidence::Guess;
    }
    debug!("{} contexts are suspended", contexts.len());
    let (mut suspended, guarded_size) = located(contexts, memory, threads, ground);
    debug!("their stacks are measured");
    if keeps_registers {
        let chosen = choices.iter().map(|choice| &chains.chains[choice.chain]);
        let hypotheses: HashMap<Addr, &Hypothesis> = chosen.map(|chain| (chain.sp, &chain.hypothesis)).collect();
        for found in &mut suspended {
            let hypothesis = hypotheses.get(&found.context.sp);
            found.registers = hypothesis.map(|hypothesis| Box::new(registers(&scene, sites, hypothesis, tables)));
        }
    }
    let resumers = resumers(memory, threads, ground, &starts, &suspended);
    let blocks = at_work.running.iter().filter_map(|run| Some((run.sp, block(run, memory, mappings)?))).collect();
    share::free((hypotheses, chains));
    Found { suspended, resumers, blocks, guarded_size, blind_spots }
}

/// Gives a thread that is in the midst of a switch, where no rules lead on, the frames of the context that it goes on with,
/// or up to the switch site, those of the routine's caller.
fn go_on(thread: &mut ThreadChain, chains: &Chains, known: &Known<'_>, code: CodeView<'_>) {
    let (Some(sp), Some(here)) = (thread.sp, thread.frames.first().copied()) else { return };
    if let Some(context) = midway::context(chains, known.sites, code, (here.pc.addr(), sp), &thread.frames) {
        thread.frames = midway::frames(chains, code, context, here);
        thread.ended = Ok(context.ended);
        return;
    }
    let is_guess = |frame: &Frame| frame.found_by.is_guess();
    let is_known = thread.frames.get(1).is_some_and(|caller| !is_guess(caller)) || thread.ended == Ok(Ended::Root);
    let Ok(registers) = &thread.thread.registers else { return };
    let caller = || approach::caller(known.sites, code, registers, known.all);
    if let Some((pc, registers)) = (!is_known).then(caller).flatten() {
        thread.walk_on(&mut Rules::new(known.tables), known.all, pc, registers);
    }
}

/// All that threads have in registers, sorted, those apart which are about to switch.
fn in_registers(threads: &[ThreadChain], sites: &Sites, code: CodeView<'_>) -> (Vec<u64>, Vec<u64>) {
    let switches =
        |chain: &&ThreadChain| chain.frames.first().is_some_and(|it| midway::is_before(sites, code, it.pc.addr()));
    let (switching, others): (Vec<&ThreadChain>, Vec<&ThreadChain>) = threads.iter().partition(switches);
    let values = |chains: Vec<&ThreadChain>| {
        let registers = chains.into_iter().filter_map(|chain| chain.thread.registers.as_ref().ok());
        let mut values: Vec<u64> = registers.flat_map(Registers::values).collect();
        values.sort_unstable();
        values
    };
    (values(switching), values(others))
}

/// The block of `malloc` that holds what runs.
fn block(run: &Running, memory: &Slices<'_>, mappings: &[Mapping]) -> Option<AddrRange> {
    let mapping = mapping_at(mappings, run.sp)?;
    let block = heap::blocks_around(memory, mapping.range, &[run.sp]).pop()??;
    run.cfas.last().is_none_or(|top| *top <= block.high).then_some(block)
}

/// Finds out for each thread that runs a coroutine who resumed that.
fn resumers(
    memory: &Slices<'_>,
    threads: &[ThreadChain],
    ground: &Ground<'_>,
    starts: &Starts<'_, '_>,
    suspended: &[Suspended],
) -> Vec<Vec<usize>> {
    let outermost = |chain: &ThreadChain| running(chain, ground).pop();
    let runs: Vec<Option<Running>> = threads.iter().map(outermost).collect();
    let is_away = |(chain, run): (&ThreadChain, &Option<Running>)| {
        run.as_ref().is_some_and(|run| !is_home(chain, run.sp, ground))
    };
    if !threads.iter().zip(&runs).any(is_away) {
        return Vec::new();
    }
    let top = |run: &Running| run.cfas.last().copied().unwrap_or(run.sp);
    let tops = suspended.iter().map(|found| found.context.top).chain(runs.iter().flatten().map(top));
    let tops = Tops::new(tops);
    let contexts: Vec<&Context> = suspended.iter().map(|found| &found.context).collect();
    let parked = suspended.iter().filter(|found| found.thread.is_some()).map(|found| &found.context);
    let held = lineage::held_as(memory, &contexts, &parked.collect::<Vec<_>>(), &tops);
    let left = left_alike(starts, suspended);
    let is_coroutine = suspended.iter().map(|found| found.thread.is_none());
    let mut resuming: Vec<bool> =
        is_coroutine.zip(held).zip(left).map(|((is_coroutine, held), left)| is_coroutine && (held || left)).collect();
    let mut chain_of = |(chain, run): (&ThreadChain, &Option<Running>)| {
        let mut resumers = Vec::new();
        let Some(run) = run.as_ref().filter(|run| !is_home(chain, run.sp, ground)) else { return resumers };
        let mut live = AddrRange::new(run.sp, top(run));
        while let Some(next) = lineage::resumer(memory, live, &contexts, &tops, |index| resuming[index]) {
            resuming[next] = false;
            resumers.push(next);
            live = AddrRange::new(contexts[next].sp, contexts[next].top);
        }
        resumers
    };
    threads.iter().zip(&runs).map(&mut chain_of).collect()
}

/// Whether `at` lies on the stack that the chain's thread began on.
fn is_home(chain: &ThreadChain, at: Addr, ground: &Ground<'_>) -> bool {
    mapping_at(ground.mappings, at).is_none_or(|mapping| chain.began_at(ground.pid, mapping, at))
}

/// Which contexts stand in the functions by which the threads that run coroutines left their own stacks, and so may wait for
/// another that they resumed. Where most stand there, the program switches to and fro by one function, and that says nothing.
fn left_alike(starts: &Starts<'_, '_>, suspended: &[Suspended]) -> Vec<bool> {
    let function = |found: &Suspended| {
        let pc = found.context.frames.first()?.pc.lookup();
        Some(starts.of(pc).unwrap_or(pc))
    };
    let parked: HashSet<Addr> = suspended.iter().filter(|found| found.thread.is_some()).filter_map(function).collect();
    let stands_there = |found: &Suspended| {
        found.thread.is_none() && function(found).is_some_and(|function| parked.contains(&function))
    };
    let resuming: Vec<bool> = suspended.iter().map(stands_there).collect();
    let count = resuming.iter().filter(|resuming| **resuming).count();
    if count * 2 > suspended.len() { vec![false; suspended.len()] } else { resuming }
}

/// The stacks that a thread's chain lies on.
fn running(chain: &ThreadChain, ground: &Ground<'_>) -> Vec<Running> {
    let parts = chain.sp.map_or(Vec::new(), |sp| stacks::parts(chain, sp, ground));
    let ends_at_root = matches!(chain.ended, Ok(Ended::Root));
    let running = |part: Part| {
        let is_whole = ends_at_root && part.frames.end == chain.frames.len();
        let mut cfas: Vec<Addr> = chain.frames[part.frames].iter().filter_map(|frame| frame.cfa).collect();
        cfas.sort_unstable();
        Running { sp: part.sp, cfas, is_whole }
    };
    parts.into_iter().map(running).collect()
}

/// The registers with which a context goes on.
fn registers(scene: &Scene<'_>, sites: &Sites, hypothesis: &Hypothesis, tables: &Tables<'_>) -> Registers {
    let mut registers = contexts::registers(scene, sites, hypothesis);
    if let Some(pc) = contexts::resumes_at(scene, sites, hypothesis) {
        registers.set(tables.arch().pc, tables.shown_pc(pc).0);
    }
    registers
}

/// Finds out for each context whose stack it is on and where that lies, and how long most guarded stacks are.
fn located(
    mut contexts: Vec<Context>,
    memory: &Slices<'_>,
    threads: &[ThreadChain],
    ground: &Ground<'_>,
) -> (Vec<Suspended>, Option<u64>) {
    drop_below_parked(&mut contexts, threads, ground);
    let owners = owners(&contexts, threads, ground);
    let guards = (ground.pages)(EVERYTHING).map(|pages| pages.guards());
    let span = |(context, owner): (&Context, &Option<usize>)| {
        let foreign = ground.descriptor_above(context.top);
        let owner = owner.map_or(Owner::Other { outermost: context.top.offset(-1), foreign }, |_| Owner::Thread);
        let around = guards.as_ref().map(|guards| guards.around(context.sp)).map_err(|unknown| *unknown);
        let bounds = bounds::bounds(owner, context.sp, ground.mappings, ground.stack_limit, &around);
        Span { sp: context.sp, top: context.top, bounds }
    };
    let mut spans: Vec<Span> = contexts.iter().zip(&owners).map(span).collect();
    let guarded_size = spans::refine(&mut spans, ground.mappings, memory);
    let suspended = |((context, thread), span): ((Context, Option<usize>), Span)| {
        let segments = context.segments.iter().map(|segment| segment_bounds(segment, ground)).collect();
        Suspended { segments, thread, bounds: span.bounds, registers: None, context }
    };
    let found = contexts.into_iter().zip(owners).zip(spans).map(suspended);
    (found.filter(is_still_a_stack).collect(), guarded_size)
}

fn segment_bounds(segment: &Segment, ground: &Ground<'_>) -> Bounds {
    let owner = Owner::Other { outermost: segment.top.offset(-1), foreign: ground.descriptor_above(segment.top) };
    let around = (ground.pages)(bounds::page_window(segment.sp, ground.mappings));
    bounds::bounds(owner, segment.sp, ground.mappings, ground.stack_limit, &around)
}

/// Drops what calls that have returned left on the first thread's own stack: what lies below the place where that thread
/// stands, or left it to run on another stack. That place is the context that reaches furthest up.
///
/// Where the thread is about to go on there, and nothing tells its frames, that context is its own, not another's.
fn drop_below_parked(contexts: &mut Vec<Context>, threads: &[ThreadChain], ground: &Ground<'_>) {
    let is_on_main_stack =
        |at: Addr| mapping_at(ground.mappings, at).is_some_and(|mapping| mapping.origin == MappingOrigin::MainStack);
    let Some(first) = threads.iter().find(|chain| chain.thread.tid == ground.pid) else { return };
    let Some(sp) = first.sp else { return };
    let on_main_stack = contexts.iter().filter(|context| is_on_main_stack(context.sp));
    let Some(highest) = on_main_stack.max_by_key(|context| context.top) else { return };
    let (parked, root) = (highest.sp, highest.frames.last().map(|frame| frame.pc));
    let is_here = is_on_main_stack(sp);
    let with_root = |context: &&Context| context.frames.last().map(|frame| frame.pc) == root;
    let is_own = is_here && first.ended != Ok(Ended::Root) && contexts.iter().filter(with_root).count() == 1;
    let lowest = if is_here { sp } else { parked };
    contexts
        .retain(|context| !is_on_main_stack(context.sp) || context.sp >= lowest && !(is_own && context.sp == parked));
}

/// For each context the thread that began on its stack, where it is one.
///
/// A thread has left its own stack once, and runs elsewhere: several contexts, or its registers, above a context and
/// below the descriptor are a heap that holds descriptors as well as stacks.
fn owners(contexts: &[Context], threads: &[ThreadChain], ground: &Ground<'_>) -> Vec<Option<usize>> {
    let owner = |context: &Context| {
        let mapping = mapping_at(ground.mappings, context.sp)?;
        let runs_above = |chain: &ThreadChain| {
            let high = chain.descriptor.unwrap_or(mapping.range.high);
            chain.sp.is_some_and(|sp| mapping.range.contains(sp) && context.sp < sp && sp < high)
        };
        let is_owner = |chain: &ThreadChain| chain.began_at(ground.pid, mapping, context.sp) && !runs_above(chain);
        threads.iter().position(is_owner)
    };
    let mut owners: Vec<Option<usize>> = contexts.iter().map(owner).collect();
    let mut claims = vec![0_usize; threads.len()];
    owners.iter().flatten().for_each(|thread| claims[*thread] += 1);
    owners.iter_mut().for_each(|owner| *owner = owner.filter(|thread| claims[*thread] == 1));
    owners
}

/// What nothing points to may be memory that was given back: it counts as a finished stack only where its guard stands.
fn is_still_a_stack(found: &Suspended) -> bool {
    let is_kept = matches!(found.bounds.guard, Guard::Ok(_));
    found.context.state != classify::State::Finished || found.context.holder.is_some() || is_kept
}

/// The parts of the threads' own stacks that nobody uses, sorted.
fn dead(threads: &[ThreadChain], pid: i32, mappings: &[Mapping]) -> Vec<AddrRange> {
    let below = |chain: &ThreadChain| {
        let sp = chain.sp?;
        let mapping = mapping_at(mappings, sp)?;
        let is_own = chain.began_at(pid, mapping, sp);
        is_own.then(|| AddrRange::new(mapping.range.low, sp.offset(-(X86_64.red_zone as i64))))
    };
    let mut dead: Vec<AddrRange> = threads.iter().filter_map(below).collect();
    dead.sort_unstable();
    dead
}

/// Adds a stack for each context. One on a thread's own stack is where that thread left it to resume what it runs now.
pub(crate) fn add(stacks: &mut Vec<Stack>, found: Found, threads: &[ThreadChain]) {
    let mut parked = Vec::new();
    let mut ids = Vec::with_capacity(found.suspended.len());
    stacks.reserve(found.suspended.len());
    for found in found.suspended {
        ids.push(stacks.len());
        match found.thread.and_then(|thread| threads.get(thread)) {
            Some(chain) => parked.push((found, chain)),
            None => add_parts(stacks, found),
        }
    }
    for (chain, resumers) in threads.iter().zip(found.resumers) {
        for resumer in resumers.into_iter().filter_map(|resumer| ids.get(resumer)) {
            link(stacks, chain, *resumer);
        }
    }
    for stack in stacks.iter_mut().filter(|stack| stack.thread.is_some() && stack.kind != Kind::Thread) {
        let block = found.blocks.iter().find(|(sp, _)| stack.sp == Some(*sp));
        if let (Some((_, block)), false) = (block, matches!(stack.bounds.guard, Guard::Ok(_))) {
            stack.bounds = Bounds::of(*block, BoundsFrom::Malloc, Guard::None);
        }
    }
    for (found, chain) in parked {
        add_parked(stacks, found, chain);
    }
}

/// The outermost stack that is known of what a thread runs.
fn outermost(stacks: &[Stack], chain: &ThreadChain) -> Option<usize> {
    let mut outermost = stacks.iter().position(|stack| stack.thread == Some(chain.thread.tid))?;
    while let Some(next) = stacks[outermost].resumed_by {
        outermost = next;
    }
    Some(outermost)
}

/// Makes the stack `resumer` the one that resumed what a thread runs.
fn link(stacks: &mut [Stack], chain: &ThreadChain, resumer: usize) {
    let Some(outermost) = outermost(stacks, chain).filter(|outermost| *outermost != resumer) else { return };
    stacks[outermost].resumed_by = Some(resumer);
    stacks[resumer].state = State::Resuming;
    stacks[resumer].confidence = stacks[resumer].confidence.max(classify::Confidence::Likely);
}

/// The stack of a thread that runs a coroutine now.
fn add_parked(stacks: &mut Vec<Stack>, found: Suspended, chain: &ThreadChain) {
    let Some(outermost) = outermost(stacks, chain) else { return };
    // Where the thread's chain came home by itself, what was found is left over from an earlier switch.
    if stacks[outermost].kind == Kind::Thread {
        return;
    }
    if stacks[outermost].kind == Kind::Unknown {
        stacks[outermost].kind = Kind::Coroutine;
    }
    let first = stacks.len();
    stacks[outermost].resumed_by = Some(first);
    add_parts(stacks, found);
    stacks[first..].iter_mut().for_each(|stack| stack.state = State::Resuming);
    if let Some(own) = stacks.last_mut() {
        (own.kind, own.name) = (Kind::Thread, chain.thread.name.clone());
    }
}

/// Adds the stacks of a context, the innermost first: its segments, and the one it began on.
fn add_parts(stacks: &mut Vec<Stack>, found: Suspended) {
    let context = found.context;
    let of = |kind, sp: Addr, frames: &[Frame], bounds: Bounds| Stack {
        bounds,
        sp: Some(sp),
        frames: sized(sp, frames),
        ended: Ended::Root,
        confidence: context.confidence,
        ..Stack::new(kind, State::Resuming)
    };
    let first = stacks.len();
    for (segment, bounds) in context.segments.iter().zip(found.segments) {
        let resumed_by = Some(stacks.len() + 1);
        stacks.push(Stack { resumed_by, ..of(Kind::Segment, segment.sp, &segment.frames, bounds) });
    }
    stacks.push(Stack { ended: context.ended, ..of(Kind::Coroutine, context.sp, &context.frames, found.bounds) });
    let innermost = &mut stacks[first];
    innermost.registers = found.registers;
    innermost.state = match context.state {
        classify::State::Suspended => State::Suspended,
        classify::State::New => State::New,
        classify::State::Finished => State::Finished,
    };
    if let Some(frame) = innermost.frames.first_mut() {
        frame.frame.found_by = FoundBy::Descriptor;
    }
}

/// Frames with the bytes that each takes.
fn sized(sp: Addr, frames: &[Frame]) -> Vec<StackFrame> {
    let mut sp = Some(sp);
    let sized = frames.iter().map(|frame| {
        let bytes = sp.zip(frame.cfa).and_then(|(sp, cfa)| cfa.0.checked_sub(sp.0));
        sp = frame.cfa;
        StackFrame { frame: *frame, bytes }
    });
    sized.collect()
}
