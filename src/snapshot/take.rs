//! Takes a snapshot: look, let go, and only then find out what it all means.

use std::time::Duration;

use log::debug;

use super::places::Places;
use super::stacks::{Ground, descriptors, stacks};
use super::survey::{Chain, survey};
use super::{Snapshot, entry, segments};
use crate::addr::{AddrRange, Pc};
use crate::arch::Arch;
use crate::image::names::{self, Lines, Names};
use crate::image::{Files, Modules};
use crate::mapping::{MappedFile, Mapping};
use crate::memory::Memory;
use crate::target::{Core, Live, Process, StopError, Stopped, Target};
use crate::unwind::{Rules, Tables};

/// How long a process's threads are waited for before they are listed as not stopped.
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// One look at a running process, which is stopped for a moment and goes on as it was.
///
/// # Errors
/// Where the process can't be stopped. What can't be read of it is a warning in the snapshot.
pub fn of_live(live: &Live, lines: Lines) -> Result<Snapshot, StopError> {
    of_live_again(live, Some(lines), &mut None)
}

/// One of many looks at the same process: `kept` goes from each to the next, so that a file is read once.
///
/// Without `lines` nothing is named, which saves most of the time: the stacks are measured, and frames are addresses.
///
/// # Errors
/// As [`of_live`].
pub fn of_live_again(live: &Live, lines: Option<Lines>, kept: &mut Option<Modules>) -> Result<Snapshot, StopError> {
    let mappings = live.mappings().unwrap_or_default();
    let modules = match kept.take() {
        Some(before) => before.reload(&mappings, &live.memory(), live),
        None => Modules::load(&mappings, &live.memory(), live),
    };
    debug!("{} modules in {} mappings", modules.iter().count(), mappings.len());
    let (stopped, chains, modules) = look(live, &mappings, modules)?;
    let mut warnings = Vec::new();
    if !stopped.all_threads_seen() {
        warnings.push("the program starts threads faster than they can be stopped: some may be missing".to_owned());
    }
    let released = stopped.release();
    debug!("{} threads stood still for {:?}", released.threads.len(), released.stopped_for);
    let ground = Ground {
        pid: released.process.pid,
        mappings: &released.mappings,
        descriptors: descriptors(&released.threads),
        stack_limit: live.stack_limit(),
        pages: &|range| released.pages(range),
    };
    let seen = Seen {
        process: &released.process,
        arch: released.arch,
        stopped: released.stopped_for,
        chains,
        warnings,
        lines,
    };
    let snapshot = understand(seen, &ground, &modules, &live.memory(), live);
    *kept = Some(modules);
    Ok(snapshot)
}

/// One look at a core file.
pub fn of_core(core: &Core, lines: Lines) -> Snapshot {
    let modules = Modules::load(core.mappings(), core, core);
    let tables = Tables::new(core.arch(), &modules);
    let chains = survey(core, &mut Rules::new(&tables));
    let warnings = core.warnings().iter().map(ToString::to_string).collect();
    let ground = Ground {
        pid: core.process().pid,
        mappings: core.mappings(),
        descriptors: descriptors(core.threads()),
        stack_limit: None,
        pages: &|range| core.pages(range),
    };
    let seen = Seen {
        process: core.process(),
        arch: core.arch(),
        stopped: Duration::ZERO,
        chains,
        warnings,
        lines: Some(lines),
    };
    understand(seen, &ground, &modules, core, core)
}

/// Stops the process and walks its threads' chains. Where its code is not what `modules` was made of any more, that is
/// done again, while the process stands.
fn look<'l>(
    live: &'l Live,
    mappings: &[Mapping],
    modules: Modules,
) -> Result<(Stopped<'l>, Vec<Chain>, Modules), StopError> {
    let tables = Tables::new(live.arch(), &modules);
    let mut rules = Rules::new(&tables);
    debug!("unwind tables are ready");
    let stopped = live.stop(STOP_LIMIT)?;
    if code(mappings).eq(code(stopped.mappings())) {
        let chains = survey(&stopped, &mut rules);
        return Ok((stopped, chains, modules));
    }
    debug!("the program's code changed meanwhile");
    let modules = Modules::load(stopped.mappings(), &stopped, live);
    let tables = Tables::new(stopped.arch(), &modules);
    let chains = survey(&stopped, &mut Rules::new(&tables));
    Ok((stopped, chains, modules))
}

/// What decides which code lies where.
fn code(mappings: &[Mapping]) -> impl Iterator<Item = (AddrRange, Option<&MappedFile>)> {
    mappings.iter().filter(|mapping| mapping.access.execute).map(|mapping| (mapping.range, mapping.file()))
}

/// What was seen of a target.
struct Seen<'s> {
    process: &'s Process,
    arch: &'static Arch,
    stopped: Duration,
    chains: Vec<Chain>,
    warnings: Vec<String>,
    lines: Option<Lines>,
}

/// Makes stacks and names out of what was seen.
fn understand(
    seen: Seen<'_>,
    ground: &Ground<'_>,
    modules: &Modules,
    memory: &dyn Memory,
    files: &dyn Files,
) -> Snapshot {
    let mut warnings = seen.warnings;
    for chain in &seen.chains {
        if let Err(reason) = chain.ended {
            warnings.push(format!("thread {} was not stopped: {reason}", chain.thread.tid));
        }
    }
    let (threads, mut stacks) = stacks(&seen.chains, ground);
    debug!("{} stacks are measured", stacks.len());
    let mut pcs: Vec<Pc> = stacks.iter().flat_map(|stack| &stack.frames).map(|frame| frame.frame.pc).collect();
    pcs.sort_unstable_by_key(|pc| (pc.addr(), pc.lookup()));
    pcs.dedup();
    let names = seen.lines.map_or_else(Names::default, |lines| names::resolve(modules, &pcs, files, lines));
    let places = Places::new(&pcs, modules, &names);
    debug!("{} places are named", pcs.len());
    segments::mark(&mut stacks, &places, seen.arch, modules, memory);
    for stack in &mut stacks {
        stack.entry = entry::entry(&stack.frames, &places);
    }
    warnings.extend(places.problems(modules));
    let process = seen.process.clone();
    let complete = warnings.is_empty();
    Snapshot { process, arch: seen.arch, stopped: seen.stopped, threads, stacks, places, warnings, complete }
}
