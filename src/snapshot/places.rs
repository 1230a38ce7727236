//! What the code addresses of a snapshot mean: module, functions, lines.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;

use super::Warning;
use crate::addr::Pc;
use crate::image::names::{Name, Names};
use crate::image::{Module, Modules};

/// What one code address means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The file name of the module that holds it.
    pub module: Option<Arc<str>>,
    /// Whether that module is the system's, not the program's own.
    pub system: bool,
    /// The function that it lies in, after those inlined there, innermost first; empty if nothing is known.
    pub names: Vec<Name>,
}

/// The places of all frames of a snapshot.
#[derive(Debug, Default)]
pub struct Places {
    by_pc: HashMap<Pc, Place>,
    nowhere: Place,
}

impl Places {
    /// Made-up places.
    #[cfg(test)]
    pub(super) fn of(by_pc: impl IntoIterator<Item = (Pc, Place)>) -> Places {
        Places { by_pc: by_pc.into_iter().collect(), nowhere: Place::default() }
    }

    /// Looks up module and names for each of `pcs`.
    pub(crate) fn new(pcs: &[Pc], modules: &Modules, names: &Names) -> Places {
        let by_pc = pcs.iter().map(|pc| (*pc, place(*pc, modules, names))).collect();
        Places { by_pc, nowhere: Place::default() }
    }

    /// The same for some of the code addresses.
    pub(super) fn part(&self, pcs: impl Iterator<Item = Pc>) -> Places {
        let by_pc = pcs.filter_map(|pc| Some((pc, self.by_pc.get(&pc)?.clone()))).collect();
        Places { by_pc, ..Places::default() }
    }

    /// These and others of the same process.
    pub(super) fn joined(&self, others: &Places) -> Places {
        let all = self.by_pc.iter().chain(&others.by_pc);
        Places { by_pc: all.map(|(pc, place)| (*pc, place.clone())).collect(), ..Places::default() }
    }

    /// What `pc` means; a place without module and names if nothing is known of it.
    pub fn get(&self, pc: Pc) -> &Place {
        self.by_pc.get(&pc).unwrap_or(&self.nowhere)
    }

    /// All of them, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Pc, &Place)> {
        self.by_pc.iter().map(|(pc, place)| (*pc, place))
    }

    /// The faults of the files of the modules that frames lie in.
    pub(crate) fn problems(&self, modules: &Modules) -> Vec<Warning> {
        let used: BTreeSet<usize> = self.by_pc.keys().filter_map(|pc| modules.index_of(pc.lookup())).collect();
        let used = modules.iter().enumerate().filter(|(index, _)| used.contains(index));
        let problem =
            |module: &Module| Some(Warning::Image { path: module_path(module), problem: module.problem.clone()? });
        used.filter_map(|(_, module)| problem(module)).collect()
    }
}

fn place(pc: Pc, modules: &Modules, names: &Names) -> Place {
    let module = modules.find(pc.lookup());
    Place {
        module: module.map(|module| module.name.as_str().into()),
        system: module.is_some_and(Module::is_system),
        names: names.get(pc).iter().map(|name| counted_from(pc, name)).collect(),
    }
}

/// The name with its offset counted to the code address itself, not to the one that it was looked up by.
fn counted_from(pc: Pc, name: &Name) -> Name {
    let behind = pc.addr().0.wrapping_sub(pc.lookup().0);
    Name { offset: name.offset.map(|offset| offset + behind), ..name.clone() }
}

fn module_path(module: &Module) -> String {
    module.path.as_ref().map_or_else(|| module.name.clone(), |path| path.display().to_string())
}
