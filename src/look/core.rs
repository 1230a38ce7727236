//! A core file as a source of a look.

use std::time::Duration;

use super::{Looker, Wish, abort, complete};
use crate::addr::EVERYTHING;
use crate::find::running::threads::survey;
use crate::find::sites::{Sites, sites as sites_of};
use crate::find::survey::{Survey, Views};
use crate::image::Modules;
use crate::process::{Core, Target};
use crate::snapshot::{Fault, Snapshot, Warning};
use crate::unwind::{Rules, Tables};

/// One look at a core file, which is supplied with those of the mapped files that are the right ones.
pub(super) fn look(looker: &mut Looker, core: &mut Core, wish: Wish) -> Snapshot {
    let modules = Modules::load(core.mappings(), core, core);
    for (path, content) in modules.verified_files() {
        core.supply(path, content);
    }
    let core = &*core;
    let tables = Tables::new(core.arch(), &modules);
    let chains = survey(core, &mut Rules::new(&tables));
    let sites = match wish.contexts.are_searched() {
        true => sites_of(&modules, &tables, core, &mut looker.derived),
        false => Sites::default(),
    };
    let mut survey = Survey {
        process: core.process().clone(),
        arch: core.arch(),
        stopped: Duration::ZERO,
        threads: core.threads().to_vec(),
        mappings: core.mappings().into(),
        stack_limit: None,
        pages: core.pages(EVERYTHING),
        modules,
        sites,
        chains,
        warnings: core.warnings().iter().map(|warning| Warning::Core(*warning)).collect(),
        blind_spots: Vec::new(),
    };
    let (held, searched) = (core.everything(), core.writable());
    let views = Views { searched: Some(&searched), held: &held, target: core };
    let mut snapshot = complete(&mut survey, &views, core, wish, &looker.progress);
    // The kernel puts the thread that took the signal first.
    let taker = core.threads().iter().find(|thread| thread.signal.is_some());
    snapshot.fault = core
        .fault()
        .zip(taker)
        .map(|(raised, thread)| Fault::new(raised, thread.tid, core.mappings(), |range| core.pages(range)));
    if snapshot.fault.is_some_and(|fault| fault.raised.signal == libc::SIGABRT) {
        snapshot.abort_message = abort::message(&survey.modules, core);
    }
    snapshot
}
