//! Notes every stack switch of an unmodified x86-64 program, at some three nanoseconds each.
//!
//! [`plan`] says which bytes at a switch site can be displaced, [`stub`] what the program does instead, [`table`] how it
//! counts, and `inject` how all of that gets into a program. [`Probes`] has the processes that are probed.
//! `docs/PROBES.md` says what keeps a program from harm.

mod count;
mod inject;
pub mod plan;
pub mod stub;
pub mod table;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use log::debug;

use crate::addr::Addr;
use crate::arch::X86_64;
use crate::image::{Module, Modules};
use crate::look::Looker;
use crate::mapping::Mapping;
use crate::process::Live;
use count::Counted;
use inject::Injected;
use plan::Obstacle;
use table::{CLASSES, Table};

pub use count::{BySite, Switches};
pub use inject::NotProbed;

/// How long the threads of a process may take to stop.
const LIMIT: Duration = Duration::from_millis(500);

/// How many sites without a probe are listed.
const MOST_UNPROBED: usize = 1000;

/// A probed switch site, at its place in the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its address.
    pub at: Addr,
    /// Where its routine begins.
    pub routine: Addr,
    /// The name of its module.
    pub module: String,
    /// The name of its function, if it has one.
    pub function: Option<Arc<str>>,
    /// Whether the stack that is left can be gone back to.
    pub saves: bool,
    /// Which counters count it.
    pub class: usize,
}

/// A switch site that is not probed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unprobed {
    /// Its address, if it is known.
    pub at: Option<Addr>,
    /// The name of its module.
    pub module: String,
    /// The name of its function, if it has one.
    pub function: Option<Arc<str>>,
    /// Whether the stack that is left there can be gone back to.
    pub saves: bool,
    /// Why.
    pub obstacle: Obstacle,
}

/// The processes that are probed, and those that were.
#[derive(Default)]
pub struct Probes {
    processes: HashMap<i32, Probed>,
    past: Counted,
}

/// A process that is probed.
#[derive(Default)]
struct Probed {
    injected: Injected,
    counted: Counted,
    /// Made once there is something to read.
    table: Option<Table>,
    unprobed: Vec<Unprobed>,
    /// The modules that were searched for sites.
    known: HashSet<(PathBuf, u64)>,
    /// The routine that each class stands for, but the last.
    classes: Vec<Addr>,
    refused: Option<NotProbed>,
}

impl Probes {
    /// Probes what is not probed yet of a process, which is stopped for that.
    pub fn add(&mut self, live: &Live, looker: &mut Looker) {
        self.processes.entry(live.process().pid).or_default().add(live, looker);
    }

    /// Whether a process is probed, or was tried to be.
    pub fn has(&self, pid: i32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// Finds the names of the sites of a process, which may run.
    pub fn name(&mut self, live: &Live, looker: &Looker) {
        if let Some(probed) = self.processes.get_mut(&live.process().pid) {
            probed.name(live, looker);
        }
    }

    /// The bytes of a process that were changed, as they were.
    pub fn original(&self, pid: i32) -> Vec<(Addr, Vec<u8>)> {
        self.processes.get(&pid).map_or_else(Vec::new, |probed| probed.injected.original.clone())
    }

    /// Takes the probes out of a process. Their memory stays, for threads that are in the middle of it.
    pub fn remove(&mut self, live: &Live) {
        let pid = live.process().pid;
        let Some(probed) = self.processes.get(&pid).filter(|probed| !probed.injected.original.is_empty()) else {
            return;
        };
        match live.stop(LIMIT) {
            Ok(stopped) if !stopped.write(&probed.injected.original) => debug!("the probes of {pid} stay"),
            Ok(_) => {}
            Err(error) => debug!("the probes of {pid} stay: {error}"),
        }
        self.forget(pid);
    }

    /// The process has ended, or become another program.
    pub fn forget(&mut self, pid: i32) {
        if let Some(mut probed) = self.processes.remove(&pid) {
            probed.count(&[]);
            self.past.add(probed.counted());
        }
    }

    /// Reads what was noted of a process with these mappings; to be done once a second.
    pub fn count(&mut self, pid: i32, mappings: &[Mapping]) {
        if let Some(probed) = self.processes.get_mut(&pid) {
            probed.count(mappings);
        }
    }

    /// The processes that are probed.
    pub fn pids(&self) -> Vec<i32> {
        self.processes.keys().copied().collect()
    }

    /// What was noted so far.
    pub fn switches(&self) -> Switches {
        let mut all = self.past.clone();
        self.processes.values().for_each(|probed| all.add(probed.counted()));
        all.switches()
    }
}

impl Probed {
    fn add(&mut self, live: &Live, looker: &mut Looker) {
        if let Err(refused) = may_be_probed(live) {
            self.refused = Some(refused).filter(|_| self.injected.table.is_none());
            return;
        }
        let mappings = live.mappings().unwrap_or_default();
        let key = |module: &Module| (module.path.clone().unwrap_or_default(), module.bias);
        let known = &self.known;
        let wanted = |module: &Module| module.path.is_some() && !known.contains(&key(module));
        let (mut planned, unprobed, locks, new) = looker.departures(live, &mappings, wanted, |modules, found| {
            let (planned, unprobed) = inject::planned(found);
            let new: Vec<(PathBuf, u64)> = modules.iter().filter(|module| wanted(module)).map(key).collect();
            (planned, unprobed, locks_memory(modules), new)
        });
        if locks && self.injected.table.is_none() {
            self.refused = Some(NotProbed::LocksMemory);
            return;
        }
        let mut failed = Vec::new();
        let mut outcome = Ok(());
        if !planned.is_empty() {
            // Where there are more functions than can be counted apart, it is those that save a stack that are.
            planned.sort_by_key(|planned| !planned.site.saves);
            let planned = planned.into_iter().map(|planned| self.classed(planned)).collect();
            outcome = match live.stop(LIMIT) {
                Ok(stopped) => self.injected.add(&stopped, planned, &mut failed),
                Err(_) => Err(NotProbed::NotNow),
            };
        }
        debug!("probes: {outcome:?}");
        self.refused = outcome.err().filter(|_| self.injected.sites.is_empty());
        if outcome == Err(NotProbed::NotNow) {
            // All of it is tried again later.
            return;
        }
        self.known.extend(new);
        self.unprobed.extend(unprobed.into_iter().chain(failed));
        self.unprobed.truncate(MOST_UNPROBED);
    }

    /// Finds the names of what has none. The process may run on.
    fn name(&mut self, live: &Live, looker: &Looker) {
        let sites = self.injected.sites.iter().map(|site| site.at);
        let places: Vec<Addr> = sites.chain(self.unprobed.iter().filter_map(|site| site.at)).collect();
        let mut names = looker.functions(live, &places).into_iter();
        for site in &mut self.injected.sites {
            site.function = names.next().flatten().or(site.function.take());
        }
        for site in self.unprobed.iter_mut().filter(|site| site.at.is_some()) {
            site.function = names.next().flatten().or(site.function.take());
        }
    }

    /// Gives a site the class of its routine.
    fn classed(&mut self, mut planned: inject::Planned) -> inject::Planned {
        let routine = planned.site.routine;
        let class = match self.classes.iter().position(|known| *known == routine) {
            Some(class) => class,
            None if self.classes.len() < CLASSES - 1 => {
                self.classes.push(routine);
                self.classes.len() - 1
            }
            None => CLASSES - 1,
        };
        planned.site.class = class;
        planned
    }

    fn count(&mut self, mappings: &[Mapping]) {
        if self.table.is_none() {
            let file = self.injected.table.as_ref().and_then(|(_, file)| file.try_clone().ok());
            self.table = file.map(Table::new);
        }
        if let Some(table) = &mut self.table
            && let Err(error) = table.read()
        {
            debug!("the table of switches can't be read: {error}");
        }
        if let Some(table) = &self.table {
            self.counted.see(table, &self.injected.sites, mappings);
        }
    }

    fn counted(&self) -> Counted {
        let sites = &self.injected.sites;
        self.counted.clone().with_table(self.table.as_ref(), sites, &self.unprobed, self.refused)
    }
}

/// Whether a process may be probed, as far as that does not depend on its code.
fn may_be_probed(live: &Live) -> Result<(), NotProbed> {
    if live.arch().elf_machine != X86_64.elf_machine || !has_needed_instructions() {
        return Err(NotProbed::Cpu);
    }
    if live.is_filtered() { Err(NotProbed::Filtered) } else { Ok(()) }
}

/// Whether this CPU shifts without flags (BMI2).
#[cfg(target_arch = "x86_64")]
fn has_needed_instructions() -> bool {
    std::arch::is_x86_feature_detected!("bmi2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_needed_instructions() -> bool {
    false
}

/// Whether the program may lock all of its memory.
fn locks_memory(modules: &Modules) -> bool {
    modules.iter().filter_map(|module| module.image.as_ref()).any(|image| image.imports(b"mlockall"))
}
