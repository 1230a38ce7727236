//! Which stacks there are: the ranges of memory that a target's chains of frames lie on, and what is suspended on them.
//!
//! You give a [`Survey`] and its memory; [`find`] returns the threads and their stacks, running and suspended, with bounds,
//! guards and peaks. Nothing here reads a target by itself, stops one, or judges an unwinding rule; what the frames' code
//! addresses mean is for [`crate::look`].

pub mod descriptors;
pub mod extent;
pub(crate) mod ground;
pub mod roster;
pub mod running;
pub mod sites;
pub(crate) mod survey;
pub mod suspended;
#[cfg(test)]
mod testing;

use log::debug;

use crate::snapshot::{Stack, ThreadEntry};
use crate::unwind::Tables;
use extent::peaks::{self, Traces};
use extent::{blocks, neighbours};
use ground::Ground;
use roster::listed;
use running::room;
use running::stacks::{end_at_jumps, find_descriptors, stacks};
use survey::{Survey, Views};
use suspended::search::{self, Found, Known};

/// The threads of a target and all of its stacks. A thread that is in the midst of a switch has its frames in `survey` then;
/// what could not be looked at is added to its warnings.
///
/// With `keeps_registers` each suspended context has those with which it goes on.
pub(crate) fn find(survey: &mut Survey, views: &Views<'_>, keeps_registers: bool) -> (Vec<ThreadEntry>, Vec<Stack>) {
    let Survey { process, arch, mappings, stack_limit, pages, modules, sites, chains, warnings, blind_spots, .. } =
        survey;
    let tables = Tables::new(arch, modules);
    let ground = Ground {
        pid: process.pid,
        mappings,
        descriptors: find_descriptors(chains, arch, views.target),
        stack_limit: *stack_limit,
        pages: &|range| pages.as_ref().map(|pages| pages.within(range)).map_err(|unknown| *unknown),
        makes_room: &|pc| room::makes_room(pc, &tables, modules),
    };
    end_at_jumps(chains, &ground);
    let known = Known { sites, modules, tables: &tables, ground: &ground, all: views.held, keeps_registers };
    let searched = views.searched.filter(|_| search::worth_a_look(sites));
    let mut found = searched.map_or_else(Found::default, |memory| search::find(memory, &known, chains, warnings));
    blind_spots.append(&mut found.blind_spots);

    let (threads, mut stacks) = stacks(chains, &ground);
    let guarded_size = found.guarded_size;
    search::add(&mut stacks, found, chains);
    if let Some(length) = guarded_size {
        neighbours::cut(&mut stacks, length);
    }
    neighbours::part(&mut stacks);
    blocks::measure(&mut stacks, ground.mappings, views.target);
    let (listed, is_all) = listed::read(modules, views.held);
    listed::apply(&mut stacks, &listed, &ground, &tables, views.held);
    if !is_all {
        warnings.push(crate::snapshot::Warning::RosterCut);
    }
    peaks::measure(&mut stacks, &ground, &Traces::new(views.held, modules, &tables));
    debug!("{} stacks are measured", stacks.len());
    (threads, stacks)
}
