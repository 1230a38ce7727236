//! What the code addresses of all frames mean, and what follows from that.

use foldhash::HashSet;
use log::debug;

use super::Wish;
use crate::addr::Pc;
use crate::find::running::segments;
use crate::find::survey::Survey;
use crate::image::names::{self, Names};
use crate::image::{Files, Progress};
use crate::memory::Memory;
use crate::process::shrunken_files;
use crate::share;
use crate::snapshot::entry::Entries;
use crate::snapshot::places::Places;
use crate::snapshot::{Snapshot, Stack, ThreadEntry, Warning};

/// Finds the names of all frames, and makes a snapshot of it all.
pub(super) fn named(
    survey: &mut Survey,
    threads: Vec<ThreadEntry>,
    mut stacks: Vec<Stack>,
    memory: &dyn Memory,
    files: &dyn Files,
    wish: Wish,
    progress: &Progress,
) -> Snapshot {
    let mut warnings = std::mem::take(&mut survey.warnings);
    for chain in &survey.chains {
        if let Err(reason) = chain.ended {
            warnings.push(Warning::ThreadNotStopped { tid: chain.thread.tid, reason });
        }
    }
    let mut pcs = share::in_parts(&stacks, |part| {
        let distinct: HashSet<Pc> = part.iter().flat_map(|stack| &stack.frames).map(|frame| frame.frame.pc).collect();
        distinct.into_iter().collect()
    });
    pcs.sort_unstable_by_key(|pc| (pc.addr(), pc.lookup()));
    pcs.dedup();
    let modules = &survey.modules;
    let resolve = |lines| names::resolve_telling(modules, &pcs, files, lines, progress);
    let names = wish.names.lines().map_or_else(Names::default, resolve);
    let places = Places::new(&pcs, modules, &names);
    debug!("{} places are named", pcs.len());
    segments::mark(&mut stacks, &places, survey.arch, modules, memory);
    let entries = Entries::of(&places);
    let found = share::in_parts(&stacks, |part| part.iter().map(|stack| entries.entry(&stack.frames)).collect());
    stacks.iter_mut().zip(found).for_each(|(stack, entry)| stack.entry = entry);
    warnings.extend(places.problems(modules));
    warnings.extend(shrunken_files().into_iter().map(Warning::FileShrank));
    let blind_spots = std::mem::take(&mut survey.blind_spots);
    Snapshot {
        process: survey.process.clone(),
        arch: survey.arch,
        stopped: survey.stopped,
        threads,
        stacks,
        places,
        moved: Vec::new(),
        ids: Vec::new(),
        fault: None,
        abort_message: None,
        complete: warnings.is_empty() && blind_spots.is_empty(),
        warnings,
        blind_spots,
    }
}
