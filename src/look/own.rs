//! Our own process as a source of a look: a copy of it that stands still for as long as that takes.
//!
//! Nothing is searched for: what earlier looks left on the heap, copies of whole stacks among it, would be taken for
//! contexts. The coroutines are those that the roster lists, so they are all there, with their names, and none is guessed.
//! Stacks that other libraries switch are seen where a thread runs on them.

use std::time::Duration;

use super::{Looker, Wish, complete};
use crate::addr::EVERYTHING;
use crate::find::running::threads::survey;
use crate::find::sites::Sites;
use crate::find::survey::{Survey, Views};
use crate::image::Modules;
use crate::mapping::Mapping;
use crate::process::{Frozen, Target};
use crate::snapshot::Snapshot;
use crate::unwind::{Rules, Tables};

/// One look at our own process as it was at the moment of `frozen`.
pub(super) fn look(looker: &mut Looker, frozen: &Frozen, wish: Wish) -> Snapshot {
    // What is mapped besides images, data files say, need not be opened to see that it is none.
    let is_image = |mapping: &&Mapping| frozen.images().iter().any(|image| image.intersection(mapping.range).is_some());
    let of_images: Vec<Mapping> = frozen.mappings().iter().filter(is_image).cloned().collect();
    let modules = Modules::load(&of_images, frozen, frozen);
    let tables = Tables::new(frozen.arch(), &modules);
    let chains = survey(frozen, &mut Rules::new(&tables));
    let mut survey = Survey {
        process: frozen.process().clone(),
        arch: frozen.arch(),
        stopped: Duration::ZERO,
        threads: frozen.threads().to_vec(),
        mappings: frozen.mappings().into(),
        stack_limit: frozen.stack_limit(),
        pages: frozen.pages(EVERYTHING),
        modules,
        sites: Sites::default(),
        chains,
        warnings: Vec::new(),
        blind_spots: Vec::new(),
    };
    let views = Views { searched: None, held: frozen, target: frozen };
    complete(&mut survey, &views, frozen, wish, &looker.progress)
}
