//! Stops a program for as long as its registers, its threads' chains and a copy of its memory take.

use std::time::Duration;

use log::debug;

use super::Wish;
use super::prepare::{Prepared, prepare};
use crate::addr::AddrRange;
use crate::find::running::detours::Detours;
use crate::find::running::threads::{ThreadChain, survey};
use crate::find::sites::{Derived, Sites, sites as sites_of};
use crate::image::Modules;
use crate::mapping::{MappedFile, Mapping};
use crate::process::{KnownMap, Live, Pages, PagesUnknown, StopError, Stopped, Target, Thread, TouchedCopy};
use crate::unwind::{Rules, Tables};

/// How long a process's threads are waited for before they are listed as not stopped.
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// Bytes from the stack pointer of each thread on that are read before the walk asks for them: a few frames.
const READ_AT_ONCE: i64 = 1024;

/// At most this many bytes are read that way.
const MOST_READ_AT_ONCE: usize = 256 << 20;

/// How often a process is stopped whose code changes between what is prepared for the stop and the stop.
const TRIES: usize = 4;

/// What was taken from a process in the stop.
pub(super) struct Taken<'l> {
    pub(super) stopped: Stopped<'l>,
    pub(super) chains: Vec<ThreadChain>,
    pub(super) modules: Modules,
    /// Of the whole address space; unknown also if nothing was copied.
    pub(super) pages: Result<Pages, PagesUnknown>,
    pub(super) sites: Sites,
    /// `None` if there is nothing to look for in it.
    pub(super) copy: Option<TouchedCopy>,
}

/// Stops the process, walks its threads' chains, and copies its memory if contexts are to be searched for. If its code
/// is no longer what `modules` was made of, as while it starts, it runs on and is stopped again; in the last try, the
/// code is read again while the process stands still.
pub(super) fn stop<'l>(
    live: &'l Live,
    mut map: KnownMap,
    mut modules: Modules,
    derived: &mut Derived,
    wish: Wish,
) -> Result<Taken<'l>, StopError> {
    for _ in 1..TRIES {
        match try_stop(live, &map, modules, derived, wish)? {
            Tried::Seen(taken) => return Ok(*taken),
            Tried::Changed(before) => modules = before,
        }
        debug!("the program's code changed meanwhile");
        map = live.known_map();
        modules = modules.reload(map.mappings(), &live.memory(), live);
    }
    let tables = Tables::new(live.arch(), &modules);
    let Prepared { mut copy, map, .. } = prepare(live, &map, &modules, &tables, derived, wish);
    let stopped = stopped(live, map)?;
    let pages = copied(&stopped, &mut copy);
    let modules = modules.reload(stopped.mappings(), &stopped, live);
    let tables = Tables::new(stopped.arch(), &modules);
    let chains = survey_stopped(&stopped, &mut Rules::new(&tables));
    let sites = match wish.contexts.are_searched() {
        true => sites_of(&modules, &tables, &live.memory(), derived),
        false => Sites::default(),
    };
    Ok(Taken { stopped, chains, modules, pages, sites, copy })
}

/// The result of one stop.
enum Tried<'l> {
    /// It fits what was prepared.
    Seen(Box<Taken<'l>>),
    /// The code had changed; the modules from before.
    Changed(Modules),
}

/// Prepares all that can be done before the stop, and stops the process once.
fn try_stop<'l>(
    live: &'l Live,
    known: &KnownMap,
    modules: Modules,
    derived: &mut Derived,
    wish: Wish,
) -> Result<Tried<'l>, StopError> {
    let tables = Tables::new(live.arch(), &modules);
    let mut rules = Rules::new(&tables);
    let Prepared { sites, mut copy, map } = prepare(live, known, &modules, &tables, derived, wish);
    debug!("unwind tables and {} resume words are ready", sites.sites.len());
    let stopped = stopped(live, map)?;
    if !code(known.mappings()).eq(code(stopped.mappings())) {
        return Ok(Tried::Changed(modules));
    }
    let pages = copied(&stopped, &mut copy);
    let chains = survey_stopped(&stopped, &mut rules);
    Ok(Tried::Seen(Box::new(Taken { stopped, chains, modules, pages, sites, copy })))
}

/// Stops the process, and sees its threads where they would be if the program were not probed.
fn stopped(live: &Live, map: KnownMap) -> Result<Stopped<'_>, StopError> {
    let mut stopped = live.stop_as_mapped(map, STOP_LIMIT)?;
    let detours = Detours::read(stopped.mappings(), &stopped);
    if !detours.is_empty() {
        let memory = live.memory();
        stopped.change_registers(|registers| detours.see_through(registers, &memory));
    }
    Ok(stopped)
}

/// Copies the memory that was ever touched, if room was made for that; returns the pages.
fn copied(stopped: &Stopped<'_>, copy: &mut Option<TouchedCopy>) -> Result<Pages, PagesUnknown> {
    // If nothing is to be copied, the pages can wait until the program runs on.
    let copy = copy.as_mut().ok_or(PagesUnknown)?;
    let pages = stopped.copy_touched(copy);
    let (read, held) = copy.bytes();
    debug!("{read} bytes are copied, of which {held} are kept");
    pages
}

/// Walks the chains of all threads, whose innermost frames are read in one go.
fn survey_stopped(stopped: &Stopped<'_>, rules: &mut Rules<'_, '_>) -> Vec<ThreadChain> {
    let sp = |thread: &Thread| thread.registers.as_ref().ok()?.addr(stopped.arch().sp);
    let tops = stopped.threads().iter().filter_map(sp).map(|sp| AddrRange::new(sp, sp.offset(READ_AT_ONCE)));
    stopped.overlay().prefetch(&tops.collect::<Vec<_>>(), MOST_READ_AT_ONCE);
    survey(stopped, rules)
}

/// What decides which code lies where.
fn code(mappings: &[Mapping]) -> impl Iterator<Item = (AddrRange, Option<&MappedFile>)> {
    mappings.iter().filter(|mapping| mapping.access.execute).map(|mapping| (mapping.range, mapping.file()))
}
