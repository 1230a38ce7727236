//! Where a running process leaves its stacks, for those who watch it happen: no look, but it shares what looks read.

use super::Looker;
use crate::find::sites::{Departures, departures_of};
use crate::image::{Module, Modules};
use crate::mapping::Mapping;
use crate::process::Live;
use crate::unwind::Tables;

/// Hands `work` the departures in those of a process's modules that are `wanted`.
pub(super) fn with<T>(
    looker: &mut Looker,
    live: &Live,
    mappings: &[Mapping],
    wanted: impl Fn(&Module) -> bool,
    work: impl FnOnce(&Modules, &[Departures<'_>]) -> T,
) -> T {
    let modules = std::mem::take(&mut looker.modules).reload(mappings, &live.memory(), live);
    let tables = Tables::new(live.arch(), &modules);
    let found = departures_of(&modules, &tables, &mut looker.derived, wanted);
    let result = work(&modules, &found);
    drop(tables);
    looker.modules = modules;
    result
}
