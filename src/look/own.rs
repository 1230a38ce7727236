//! Our own process as a source of a look: a copy of it that stands still while the look lasts.

use std::time::Duration;

use super::survey::not_searched;
use super::{Looker, Wish, complete};
use crate::addr::EVERYTHING;
use crate::find::running::threads::survey;
use crate::find::sites::{Sites, sites as sites_of};
use crate::find::survey::{Survey, Views};
use crate::find::suspended::search::worth_a_look;
use crate::image::Modules;
use crate::mapping::Mapping;
use crate::memory::Memory;
use crate::process::{Frozen, Target, TouchedCopy};
use crate::snapshot::Snapshot;
use crate::unwind::{Rules, Tables};

/// One look at our own process as it was at the moment of `frozen`. What its files say is not read from a cache, nor
/// kept in one: the program that this library is part of may not expect our files.
pub(super) fn look(looker: &mut Looker, frozen: &Frozen, wish: Wish) -> Snapshot {
    // Other mapped files, such as data files, need not be opened to see that they are not images.
    let is_image = |mapping: &&Mapping| frozen.images().iter().any(|image| image.intersection(mapping.range).is_some());
    let of_images: Vec<Mapping> = frozen.mappings().iter().filter(is_image).cloned().collect();
    let modules = Modules::load(&of_images, frozen, frozen);
    let tables = Tables::new(frozen.arch(), &modules);
    let chains = survey(frozen, &mut Rules::new(&tables));
    let sites = match wish.contexts.are_searched() {
        true => sites_of(&modules, &tables, frozen, &mut looker.derived),
        false => Sites::default(),
    };
    let (copy, pages) = match worth_a_look(&sites) {
        true => frozen.copy_touched(),
        false => (None, frozen.pages(EVERYTHING)),
    };
    let mut survey = Survey {
        process: frozen.process().clone(),
        arch: frozen.arch(),
        stopped: Duration::ZERO,
        threads: frozen.threads().to_vec(),
        mappings: frozen.mappings().into(),
        stack_limit: frozen.stack_limit(),
        pages,
        modules,
        sites,
        chains,
        warnings: Vec::new(),
        blind_spots: Vec::new(),
    };
    not_searched(&mut survey, copy.as_ref());
    let copied = copy.as_ref().map(TouchedCopy::slices);
    let held: &(dyn Memory + Sync) = copied.as_ref().map_or(frozen, |copied| copied);
    let views = Views { searched: copied.as_ref(), held, target: frozen };
    complete(&mut survey, &views, frozen, wish, &looker.progress)
}
