//! A running process as a source of a look: it is stopped for a moment, and goes on as it was.

use log::debug;

use super::stop::{Taken, stop};
use super::survey::not_searched;
use super::whole::Remains;
use super::{Looker, Wish, complete};
use crate::addr::EVERYTHING;
use crate::find::survey::{Survey, Views};
use crate::memory::Memory;
use crate::process::{Live, StopError, Stopped, Target, TouchedCopy};
use crate::share;
use crate::snapshot::{Snapshot, Warning};

/// One look, after whose stop the process runs on; and what a core file needs, if the wish is for that.
pub(super) fn look(looker: &mut Looker, live: &Live, wish: Wish) -> Result<(Snapshot, Remains), StopError> {
    let (mut survey, stopped, copy) = take(looker, live, wish)?;
    let released = stopped.release();
    debug!("{} threads stood still for {:?}", released.threads.len(), released.stopped_for);
    survey.stopped = released.stopped_for;
    survey.mappings = released.mappings.clone();
    survey.pages = survey.pages.or_else(|_| released.pages(EVERYTHING));
    let snapshot = look_through(looker, live, &mut survey, copy.as_ref(), wish);
    let mut remains = Remains::default();
    if wish.keeps_all {
        remains = Remains { copy, mappings: released.mappings, threads: released.threads };
    } else if let Some(copy) = copy {
        share::free(copy);
    }
    Ok((snapshot, remains))
}

/// One look, after which the process stands still until what is returned with the snapshot is dropped.
pub(super) fn hold<'l>(looker: &mut Looker, live: &'l Live, wish: Wish) -> Result<(Snapshot, Stopped<'l>), StopError> {
    let (mut survey, stopped, copy) = take(looker, live, wish)?;
    survey.pages = survey.pages.or_else(|_| stopped.pages(EVERYTHING));
    let snapshot = look_through(looker, live, &mut survey, copy.as_ref(), wish);
    Ok((snapshot, stopped))
}

/// Stops the process and takes from it what can't be read later.
fn take<'l>(
    looker: &mut Looker,
    live: &'l Live,
    wish: Wish,
) -> Result<(Survey, Stopped<'l>, Option<TouchedCopy>), StopError> {
    let map = live.known_map();
    let modules = std::mem::take(&mut looker.modules).reload(map.mappings(), &live.memory(), live);
    debug!("{} modules in {} mappings", modules.iter().count(), map.mappings().len());
    let Taken { stopped, chains, modules, pages, sites, copy } = stop(live, map, modules, &mut looker.derived, wish)?;
    let mut survey = Survey {
        process: stopped.process().clone(),
        arch: stopped.arch(),
        stopped: std::time::Duration::ZERO,
        threads: stopped.threads().to_vec(),
        mappings: stopped.mappings().into(),
        stack_limit: live.stack_limit(),
        pages,
        modules,
        sites,
        chains,
        warnings: Vec::new(),
        blind_spots: Vec::new(),
    };
    if !stopped.all_threads_seen() {
        survey.warnings.push(Warning::ThreadsMissing);
    }
    Ok((survey, stopped, copy))
}

/// Works out what it all means, and keeps what the next look can use.
fn look_through(
    looker: &mut Looker,
    live: &Live,
    survey: &mut Survey,
    copy: Option<&TouchedCopy>,
    wish: Wish,
) -> Snapshot {
    not_searched(survey, copy);
    let (copied, now) = (copy.map(TouchedCopy::slices), live.memory());
    let held: &(dyn Memory + Sync) = copied.as_ref().map_or(&now, |copied| copied);
    let views = Views { searched: copied.as_ref(), held, target: &now };
    let snapshot = complete(survey, &views, live, wish, &looker.progress);
    looker.modules = std::mem::take(&mut survey.modules);
    snapshot
}
