//! Takes a snapshot: look, let go, and only then find out what it all means.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::HashSet;
use log::debug;

use super::whole;
use crate::addr::{AddrRange, EVERYTHING, Pc};
use crate::arch::Arch;
use crate::find::extent::{blocks, neighbours};
use crate::find::ground::Ground;
use crate::find::roster::listed;
use crate::find::running::chain::{Chain, survey};
use crate::find::running::segments;
use crate::find::running::stacks::{end_at_jumps, find_descriptors, stacks};
use crate::find::sites::{Derived, Sites, sites as sites_of};
use crate::find::suspended::search::{self, Found, Known};
use crate::image::names::{self, Lines, Names};
use crate::image::{Files, Modules, Progress};
use crate::look::whole::Remains;
use crate::mapping::{MappedFile, Mapping};
use crate::memory::Memory;
use crate::process::{
    CacheFolder, Core, KnownMap, Live, Pages, PagesUnknown, Process, StopError, Stopped, Target, Thread, TouchedCopy,
    shrunken_files,
};
use crate::share;
use crate::snapshot::entry::Entries;
use crate::snapshot::places::Places;
use crate::snapshot::{Snapshot, Stack, ThreadEntry};
use crate::unwind::{Rules, Tables};

/// How long a process's threads are waited for before they are listed as not stopped.
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// From the stack pointer of each thread on, so many bytes are read before the walk asks for them: a few frames.
const READ_AT_ONCE: i64 = 1024;

/// No more than so many bytes are read that way.
const MOST_READ_AT_ONCE: usize = 256 << 20;

/// So many bytes are made ready for a copy only when it is known that there will be one: most programs have no more, and
/// no coroutines.
const LITTLE_ROOM: u64 = 8 << 20;

/// How often a process is stopped whose code changes between what is prepared for the stop and the stop.
const TRIES: usize = 4;

/// One look at a running process, which is stopped for a moment and goes on as it was.
///
/// # Errors
/// Where the process can't be stopped. What can't be read of it is a warning in the snapshot.
pub fn of_live(live: &Live, lines: Lines) -> Result<Snapshot, StopError> {
    of_live_again(live, Some(lines), &mut None)
}

/// What one look at a process leaves for the next: its files and what was worked out from them.
#[derive(Default)]
pub struct Kept {
    modules: Modules,
    derived: Derived,
    progress: Progress,
}

impl Kept {
    /// For a first look: what files say is kept in `folder` beyond the end of this program, and taken from there.
    pub fn in_folder(folder: Option<CacheFolder>) -> Kept {
        Kept { derived: Derived::in_folder(folder), ..Kept::default() }
    }

    /// For a first look that tells how far its naming has come.
    pub fn telling(progress: Progress) -> Kept {
        Kept { progress, ..Kept::default() }
    }
}

/// One of many looks at the same process: `kept` goes from each to the next, so that a file is read once.
///
/// Without `lines` only the stacks that threads are on are measured: no contexts are searched for, and nothing is named.
/// That is for a process at its end, where threads that have ended leave what looks like suspended contexts.
///
/// # Errors
/// As [`of_live`].
pub fn of_live_again(live: &Live, lines: Option<Lines>, kept: &mut Option<Kept>) -> Result<Snapshot, StopError> {
    take(live, lines, kept, None)
}

/// A look that leaves what a core file is made of in `remains`, if it is given.
pub(super) fn take(
    live: &Live,
    lines: Option<Lines>,
    kept: &mut Option<Kept>,
    remains: Option<&mut Remains>,
) -> Result<Snapshot, StopError> {
    let map = live.known_map();
    let Kept { modules, mut derived, progress } = kept.take().unwrap_or_default();
    let modules = modules.reload(map.mappings(), &live.memory(), live);
    debug!("{} modules in {} mappings", modules.iter().count(), map.mappings().len());
    let search = lines.is_some().then_some(&mut derived);
    let keeps = remains.is_some();
    let Look { stopped, mut chains, modules, pages, sites, copy } = look(live, map, modules, search, keeps)?;
    let mut warnings = Vec::new();
    if !stopped.all_threads_seen() {
        warnings.push("the program starts threads faster than they can be stopped: some may be missing".to_owned());
    }
    let released = stopped.release();
    debug!("{} threads stood still for {:?}", released.threads.len(), released.stopped_for);
    let pages = pages.or_else(|_| released.pages(EVERYTHING));
    let ground = Ground {
        pid: released.process.pid,
        mappings: &released.mappings,
        descriptors: find_descriptors(&mut chains, released.arch, &live.memory()),
        stack_limit: live.stack_limit(),
        pages: &|range| match &pages {
            Ok(pages) => Ok(pages.within(range)),
            Err(_) => released.pages(range),
        },
    };
    end_at_jumps(&mut chains, &ground);
    let tables = Tables::new(released.arch, &modules);
    let (copied, now) = (copy.as_ref().map(TouchedCopy::slices), live.memory());
    let searched = copied.as_ref().filter(|_| search::worth_a_look(&sites));
    let suspended = searched.map_or_else(Found::default, |copied| {
        warnings.extend(copy.as_ref().into_iter().flat_map(not_searched));
        let (modules, tables, sites, ground) = (&modules, &tables, &sites, &ground);
        let known = Known { sites, modules, tables, ground, all: copied, keeps_registers: keeps };
        search::find(copied, &known, &mut chains, &mut warnings)
    });
    let (process, arch, stopped) = (&released.process, released.arch, released.stopped_for);
    let memory: &dyn Memory = copied.as_ref().map_or(&now, |copied| copied);
    let listed = listed::read(&modules, memory);
    let seen = Seen { process, arch, stopped, chains, suspended, warnings, lines, progress: progress.clone() };
    let describe = |stacks: &mut Vec<Stack>| listed::apply(stacks, &listed, &ground, memory);
    let mut snapshot = understand(seen, &ground, describe, &modules, &now, live);
    if let Some(remains) = remains {
        whole::add_registers(&mut snapshot, &released.threads, &tables, &copied.unwrap_or_default());
        *remains = Remains { copy, mappings: Arc::clone(&released.mappings), threads: released.threads.clone() };
    } else if let Some(copy) = copy {
        share::free(copy);
    }
    *kept = Some(Kept { modules, derived, progress });
    Ok(snapshot)
}

/// One look at a core file, to which the files that were mapped are given where they are the right ones.
pub fn of_core(core: &mut Core, lines: Lines) -> Snapshot {
    of_core_again(core, lines, &mut None)
}

/// The same, with what an earlier look left for it, or a folder has for it.
pub fn of_core_again(core: &mut Core, lines: Lines, kept: &mut Option<Kept>) -> Snapshot {
    take_core(core, lines, kept, false)
}

/// A look that keeps every context's registers.
pub(super) fn of_core_keeping(core: &mut Core, lines: Lines) -> Snapshot {
    take_core(core, lines, &mut None, true)
}

fn take_core(core: &mut Core, lines: Lines, kept: &mut Option<Kept>, keeps: bool) -> Snapshot {
    let kept = kept.get_or_insert_default();
    let modules = Modules::load(core.mappings(), core, core);
    for (path, content) in modules.verified_files() {
        core.supply(path, content);
    }
    let core = &*core;
    let tables = Tables::new(core.arch(), &modules);
    let mut chains = survey(core, &mut Rules::new(&tables));
    let mut warnings = core.warnings().iter().map(ToString::to_string).collect();
    let sites = sites_of(&modules, &tables, core, &mut kept.derived);
    let pages = core.pages(EVERYTHING);
    let ground = Ground {
        pid: core.process().pid,
        mappings: core.mappings(),
        descriptors: find_descriptors(&mut chains, core.arch(), core),
        stack_limit: None,
        pages: &|range| pages.as_ref().map(|pages| pages.within(range)).map_err(|unknown| *unknown),
    };
    end_at_jumps(&mut chains, &ground);
    let everything = core.everything();
    let known = Known {
        sites: &sites,
        modules: &modules,
        tables: &tables,
        ground: &ground,
        all: &everything,
        keeps_registers: keeps,
    };
    let suspended = match search::worth_a_look(&sites) {
        true => search::find(&core.writable(), &known, &mut chains, &mut warnings),
        false => Found::default(),
    };
    let (process, arch, stopped) = (core.process(), core.arch(), Duration::ZERO);
    let listed = listed::read(&modules, core);
    let (lines, progress) = (Some(lines), kept.progress.clone());
    let seen = Seen { process, arch, stopped, chains, suspended, warnings, lines, progress };
    let describe = |stacks: &mut Vec<Stack>| listed::apply(stacks, &listed, &ground, core);
    let mut snapshot = understand(seen, &ground, describe, &modules, core, core);
    if keeps {
        whole::add_registers(&mut snapshot, core.threads(), &tables, core);
    }
    snapshot
}

/// What was taken from a process in the stop.
struct Look<'l> {
    stopped: Stopped<'l>,
    chains: Vec<Chain>,
    modules: Modules,
    /// Of the whole address space; unknown also where nothing was copied.
    pages: Result<Pages, PagesUnknown>,
    sites: Sites,
    /// `None` where there is nothing to look for in it.
    copy: Option<TouchedCopy>,
}

/// Stops the process, walks its threads' chains, and copies its memory if contexts are to be searched for. Where its code is not what `modules` was made of
/// any more, as while it starts, it goes on meanwhile and is stopped again; at last that is done while it stands.
fn look<'l>(
    live: &'l Live,
    mut map: KnownMap,
    mut modules: Modules,
    mut search: Option<&mut Derived>,
    keeps: bool,
) -> Result<Look<'l>, StopError> {
    for _ in 1..TRIES {
        match try_look(live, &map, modules, search.as_deref_mut(), keeps)? {
            Tried::Seen(look) => return Ok(*look),
            Tried::Changed(before) => modules = before,
        }
        debug!("the program's code changed meanwhile");
        map = live.known_map();
        modules = modules.reload(map.mappings(), &live.memory(), live);
    }
    let tables = Tables::new(live.arch(), &modules);
    let Prepared { mut copy, map, .. } = prepare(live, &map, &modules, &tables, search.as_deref_mut(), keeps);
    let stopped = live.stop_as_mapped(map, STOP_LIMIT)?;
    let pages = copied(&stopped, &mut copy);
    let modules = modules.reload(stopped.mappings(), &stopped, live);
    let tables = Tables::new(stopped.arch(), &modules);
    let chains = survey_stopped(&stopped, &mut Rules::new(&tables));
    let sites = search.map_or_else(Sites::default, |derived| sites_of(&modules, &tables, &live.memory(), derived));
    Ok(Look { stopped, chains, modules, pages, sites, copy })
}

/// Copies the memory that was ever touched to where there is room for it; gives the pages.
fn copied(stopped: &Stopped<'_>, copy: &mut Option<TouchedCopy>) -> Result<Pages, PagesUnknown> {
    // Where nothing is to be copied, the pages can wait until the program runs on.
    let copy = copy.as_mut().ok_or(PagesUnknown)?;
    let pages = stopped.copy_touched(copy);
    let (read, held) = copy.bytes();
    debug!("{read} bytes are copied, of which {held} are kept");
    pages
}

/// What of the memory is not searched for suspended contexts, and why.
fn not_searched(copy: &TouchedCopy) -> impl Iterator<Item = String> + use<> {
    let (left_out, read) = (copy.left_out() >> 20, copy.bytes().0 >> 20);
    let too_much = (copy.left_out() > 0).then(|| {
        format!(
            "{left_out} MiB of the program's memory were not searched for suspended contexts: there is too much of it to \
             be copied while it stands; {read} MiB were, the mappings that hold least first"
        )
    });
    let unreadable = copy
        .is_missing_some()
        .then(|| "not all of the program's memory could be read, and searched for suspended contexts".to_owned());
    too_much.into_iter().chain(unreadable)
}

/// Walks the chains of all threads, whose innermost frames are read in one go.
fn survey_stopped(stopped: &Stopped<'_>, rules: &mut Rules<'_, '_>) -> Vec<Chain> {
    let sp = |thread: &Thread| thread.registers.as_ref().ok()?.addr(stopped.arch().sp);
    let tops = stopped.threads().iter().filter_map(sp).map(|sp| AddrRange::new(sp, sp.offset(READ_AT_ONCE)));
    stopped.overlay().prefetch(&tops.collect::<Vec<_>>(), MOST_READ_AT_ONCE);
    survey(stopped, rules)
}

/// What came of one stop.
enum Tried<'l> {
    /// It fits what was prepared.
    Seen(Box<Look<'l>>),
    /// The code had changed; the modules from before.
    Changed(Modules),
}

/// Prepares all that can be before the stop, and stops the process once.
fn try_look<'l>(
    live: &'l Live,
    known: &KnownMap,
    modules: Modules,
    search: Option<&mut Derived>,
    keeps: bool,
) -> Result<Tried<'l>, StopError> {
    let tables = Tables::new(live.arch(), &modules);
    let mut rules = Rules::new(&tables);
    let Prepared { sites, mut copy, map } = prepare(live, known, &modules, &tables, search, keeps);
    debug!("unwind tables and {} resume words are ready", sites.sites.len());
    let stopped = live.stop_as_mapped(map, STOP_LIMIT)?;
    if !code(known.mappings()).eq(code(stopped.mappings())) {
        return Ok(Tried::Changed(modules));
    }
    let pages = copied(&stopped, &mut copy);
    let chains = survey_stopped(&stopped, &mut rules);
    Ok(Tried::Seen(Box::new(Look { stopped, chains, modules, pages, sites, copy })))
}

/// What was made ready for a stop.
struct Prepared {
    sites: Sites,
    /// `None` where nothing is to be copied.
    copy: Option<TouchedCopy>,
    map: KnownMap,
}

/// Reads the code for what a suspended context looks like, makes room for a copy of the memory to look for them in, and
/// brings the map that is known up to date.
///
/// The room takes about as long as the others, so it has a thread of its own, unless it is little; where the code switches
/// no stacks, there is no copy but one that is to be kept.
fn prepare(
    live: &Live,
    known: &KnownMap,
    modules: &Modules,
    tables: &Tables<'_>,
    search: Option<&mut Derived>,
    keeps: bool,
) -> Prepared {
    let Some(derived) = search else {
        return Prepared { sites: Sites::default(), copy: None, map: live.known_map_after(known) };
    };
    let given_up = &AtomicBool::new(false);
    let (say, said) = mpsc::channel();
    let said = Mutex::new(said);
    let room = || {
        let pages = live.pages(EVERYTHING, known.mappings()).ok()?;
        let is_wanted = TouchedCopy::bytes_for(&pages) > LITTLE_ROOM || said.lock().ok()?.recv().unwrap_or(false);
        is_wanted.then(|| TouchedCopy::with_room_for(&pages, &live.memory(), given_up))
    };
    let others = move || {
        let sites = sites_of(modules, tables, &live.memory(), derived);
        let is_worth_it = keeps || search::worth_a_look(&sites);
        given_up.store(!is_worth_it, Ordering::Relaxed);
        // It is not listened to where there is more to copy.
        let _ = say.send(is_worth_it);
        (sites, is_worth_it, live.known_map_after(known))
    };
    let (copy, (sites, is_worth_it, map)) = share::both(room, others);
    Prepared { sites, copy: copy.filter(|_| is_worth_it), map }
}

/// What decides which code lies where.
fn code(mappings: &[Mapping]) -> impl Iterator<Item = (AddrRange, Option<&MappedFile>)> {
    mappings.iter().filter(|mapping| mapping.access.execute).map(|mapping| (mapping.range, mapping.file()))
}

/// What was seen of a target.
pub(super) struct Seen<'s> {
    pub(super) process: &'s Process,
    pub(super) arch: &'static Arch,
    pub(super) stopped: Duration,
    pub(super) chains: Vec<Chain>,
    pub(super) suspended: Found,
    pub(super) warnings: Vec<String>,
    pub(super) lines: Option<Lines>,
    pub(super) progress: Progress,
}

/// Makes stacks and names out of what was seen; `describe` adds what the program says of its stacks itself.
fn understand(
    seen: Seen<'_>,
    ground: &Ground<'_>,
    describe: impl FnOnce(&mut Vec<Stack>),
    modules: &Modules,
    memory: &dyn Memory,
    files: &dyn Files,
) -> Snapshot {
    let (threads, mut stacks) = stacks(&seen.chains, ground);
    let mut seen = seen;
    let found = std::mem::take(&mut seen.suspended);
    let guarded_size = found.guarded_size;
    search::add(&mut stacks, found, &seen.chains);
    if let Some(length) = guarded_size {
        neighbours::cut(&mut stacks, length, ground);
    }
    neighbours::part(&mut stacks, ground);
    blocks::measure(&mut stacks, ground.mappings, memory);
    describe(&mut stacks);
    debug!("{} stacks are measured", stacks.len());
    named(seen, threads, stacks, modules, memory, files)
}

/// Finds the names of all frames, and makes a snapshot of it all.
pub(super) fn named(
    seen: Seen<'_>,
    threads: Vec<ThreadEntry>,
    mut stacks: Vec<Stack>,
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
    let mut pcs = share::in_parts(&stacks, |part| {
        let distinct: HashSet<Pc> = part.iter().flat_map(|stack| &stack.frames).map(|frame| frame.frame.pc).collect();
        distinct.into_iter().collect()
    });
    pcs.sort_unstable_by_key(|pc| (pc.addr(), pc.lookup()));
    pcs.dedup();
    let resolve = |lines| names::resolve_telling(modules, &pcs, files, lines, &seen.progress);
    let names = seen.lines.map_or_else(Names::default, resolve);
    let places = Places::new(&pcs, modules, &names);
    debug!("{} places are named", pcs.len());
    segments::mark(&mut stacks, &places, seen.arch, modules, memory);
    let entries = Entries::of(&places);
    let found = share::in_parts(&stacks, |part| part.iter().map(|stack| entries.entry(&stack.frames)).collect());
    stacks.iter_mut().zip(found).for_each(|(stack, entry)| stack.entry = entry);
    warnings.extend(places.problems(modules));
    let shrunken = shrunken_files().into_iter();
    warnings.extend(shrunken.map(|path| format!("{}: the file shrank while it was read", path.display())));
    let process = seen.process.clone();
    let complete = warnings.is_empty();
    let (arch, stopped) = (seen.arch, seen.stopped);
    let (moved, ids) = (Vec::new(), Vec::new());
    Snapshot { process, arch, stopped, threads, stacks, places, moved, ids, warnings, complete }
}
