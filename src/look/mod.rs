//! One look at a target, put together: prepare, stop, survey, find, name.
//!
//! A [`Looker`] takes a live process, a core file or the moment of our own process, and a [`Wish`] that says what is
//! wanted; it returns an owned [`Snapshot`]. The three are thin sources of one [`Survey`], and all else is the same for
//! all of them. A process is stopped only for its survey, unless the caller asks to hold it ([`Looker::hold`]).

mod abort;
mod core;
mod departures;
mod held;
mod last;
mod live;
mod name;
mod own;
mod prepare;
mod registers;
mod stop;
mod survey;
mod whole;

use std::sync::Arc;

use crate::addr::{Addr, AddrRange, Pc};
use crate::find::find;
use crate::find::sites::{Departures, Derived};
use crate::find::survey::{Survey, Views};
use crate::image::names::{self, Lines};
use crate::image::{Files, Module, Modules, Progress};
use crate::mapping::Mapping;
use crate::process::{CacheFolder, Core, Fault, Frozen, Live, StopError};
use crate::snapshot::{self, Method, Peak, Snapshot};
use crate::unwind::Tables;

pub use held::Held;
pub use whole::{SaveError, Whole};

/// What a look is to find out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Which contexts.
    pub contexts: Contexts,
    /// What of their code addresses.
    pub names: Naming,
    /// Whether each context's registers are kept, and all memory is copied whatever the program's code says.
    keeps_all: bool,
}

/// Which contexts a look is to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contexts {
    /// Those that threads are on. That is for a process at its end, when threads that have ended leave what looks like
    /// suspended contexts.
    OfThreads,
    /// Those that no thread runs as well.
    All,
}

/// What a look is to find out of code addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// Nothing.
    Nothing,
    /// Functions, and lines where [`Lines`] says.
    Names(Lines),
}

impl Wish {
    /// All contexts, with names.
    pub fn all(lines: Lines) -> Wish {
        Wish { contexts: Contexts::All, names: Naming::Names(lines), keeps_all: false }
    }

    /// Only the threads' stacks, measured and without names.
    pub fn threads() -> Wish {
        Wish { contexts: Contexts::OfThreads, names: Naming::Nothing, keeps_all: false }
    }

    /// Only the threads' stacks, with names: for an event.
    pub fn threads_named(lines: Lines) -> Wish {
        Wish { names: Naming::Names(lines), ..Wish::threads() }
    }

    fn keeping_all(self) -> Wish {
        Wish { keeps_all: true, ..self }
    }
}

impl Contexts {
    fn are_searched(self) -> bool {
        self == Contexts::All
    }
}

impl Naming {
    fn lines(self) -> Option<Lines> {
        match self {
            Naming::Nothing => None,
            Naming::Names(lines) => Some(lines),
        }
    }
}

/// Looks at a target, once or repeatedly: what one look reads of files serves the next one.
#[derive(Default)]
pub struct Looker {
    modules: Modules,
    derived: Derived,
    progress: Progress,
}

impl Looker {
    /// One that knows nothing yet and keeps nothing beyond its own end.
    pub fn new() -> Looker {
        Looker::default()
    }

    /// One that keeps what files say in `folder` beyond the end of this program, and takes it from there.
    pub fn in_folder(folder: Option<CacheFolder>) -> Looker {
        Looker { derived: Derived::in_folder(folder), ..Looker::default() }
    }

    /// One that reports to `progress` how far its naming has come.
    pub fn telling(progress: Progress) -> Looker {
        Looker { progress, ..Looker::default() }
    }

    /// One look at a running process, which is stopped for a moment and goes on as it was.
    ///
    /// # Errors
    /// If the process can't be stopped. What can't be read of it is a warning in the snapshot.
    pub fn live(&mut self, live: &Live, wish: Wish) -> Result<Snapshot, StopError> {
        live::look(self, live, wish).map(|(snapshot, _)| snapshot)
    }

    /// One look at a process that stands because thread `tid` is about to take a signal.
    ///
    /// # Errors
    /// As [`Looker::live`].
    pub(crate) fn at_signal(
        &mut self,
        live: &Live,
        wish: Wish,
        tid: i32,
        raised: Fault,
    ) -> Result<Snapshot, StopError> {
        let mut snapshot = self.live(live, wish)?;
        let mappings = live.mappings().unwrap_or_default();
        let fault = snapshot::Fault::new(raised, tid, &mappings, |range| live.pages(range, &mappings));
        snapshot.fault = Some(fault);
        if raised.signal == libc::SIGABRT {
            snapshot.abort_message = abort::message(&self.modules, &live.memory());
        }
        Ok(snapshot)
    }

    /// One look at a running process, which stands still until the result is dropped.
    ///
    /// # Errors
    /// As [`Looker::live`].
    pub fn hold<'l>(&mut self, live: &'l Live, wish: Wish) -> Result<Held<'l>, StopError> {
        let (snapshot, stopped) = live::hold(self, live, wish.keeping_all())?;
        Ok(Held::new(snapshot, stopped))
    }

    /// One look at a running process, which keeps what a core file is made of.
    ///
    /// # Errors
    /// As [`Looker::live`].
    pub fn live_whole(&mut self, live: &Live, wish: Wish) -> Result<Whole<'static>, StopError> {
        let (snapshot, remains) = live::look(self, live, wish.keeping_all())?;
        Ok(Whole::of_live(live, snapshot, remains))
    }

    /// One look at a core file, which is supplied with those of the mapped files that are the right ones.
    pub fn core(&mut self, core: &mut Core, wish: Wish) -> Snapshot {
        core::look(self, core, wish)
    }

    /// The same, which keeps what a core file is made of.
    pub fn core_whole<'c>(&mut self, core: &'c mut Core, wish: Wish) -> Whole<'c> {
        let snapshot = core::look(self, core, wish.keeping_all());
        Whole::of_core(core, snapshot)
    }

    /// How much was ever used of stacks that earlier looks found, each by the method by which it was known before: for
    /// a process that stands at its end. `None` if that is not known.
    pub(crate) fn last_peaks(&self, live: &Live, stacks: &[(AddrRange, Method)]) -> Vec<Option<Peak>> {
        last::peaks(self, live, stacks)
    }

    /// What a running process's code is now, without a stop: it is read again where it has changed.
    pub(crate) fn code(&mut self, live: &Live) -> &Modules {
        let map = live.known_map();
        self.modules = std::mem::take(&mut self.modules).reload(map.mappings(), &live.memory(), live);
        &self.modules
    }

    /// What the last look found the code to be.
    pub(crate) fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Hands `work` the modules of a process with these mappings, and the departures in those that are `wanted`.
    pub(crate) fn departures<T>(
        &mut self,
        live: &Live,
        mappings: &[Mapping],
        wanted: impl Fn(&Module) -> bool,
        work: impl FnOnce(&Modules, &[Departures<'_>]) -> T,
    ) -> T {
        departures::with(self, live, mappings, wanted, work)
    }

    /// The names of the functions at these places of a process, whose modules were read before.
    pub(crate) fn functions(&self, live: &Live, places: &[Addr]) -> Vec<Option<Arc<str>>> {
        let pcs: Vec<Pc> = places.iter().copied().map(Pc::At).collect();
        let names = names::resolve(&self.modules, &pcs, live, Lines::Cheap);
        pcs.iter().map(|pc| names.get(*pc).last()?.function.clone()).collect()
    }

    /// One look at our own process as it was at the moment of `frozen`.
    pub fn own(&mut self, frozen: &Frozen, wish: Wish) -> Snapshot {
        own::look(self, frozen, wish)
    }
}

/// The part of a look that is the same for all sources: finds the stacks, and names what is on them.
fn complete(survey: &mut Survey, views: &Views<'_>, files: &dyn Files, wish: Wish, progress: &Progress) -> Snapshot {
    let (threads, stacks) = find(survey, views, wish.keeps_all);
    let mut snapshot = name::named(survey, threads, stacks, views.target, files, wish, progress);
    if wish.keeps_all {
        let tables = Tables::new(survey.arch, &survey.modules);
        registers::add(&mut snapshot, &survey.threads, &tables, views.held);
    }
    snapshot
}
