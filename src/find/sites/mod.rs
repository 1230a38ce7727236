//! Resume words: the code addresses, in a running target, at which a suspended context can go on.
//!
//! You give the target's modules and its memory; you get every such address with the layouts that may stand behind it.
//! The memory may be that of a running process: of it only the tables are read through which modules call each other,
//! and these do not change once a call was made.

mod calls;
mod stored;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::addr::{Addr, Pc};
use crate::arch::X86_64;
use crate::find::descriptors::{Departure, ImageCode, Layout, Resume, Switches, departures, derive};
use crate::image::{Image, Module, Modules, indirect_calls};
use crate::memory::Memory;
use crate::process::CacheFolder;
use crate::share;
use crate::unwind::Tables;
use calls::{Calls, MOST_WRAPPERS, Wanted, Wrapper, calls_of};
use stored::Said;

/// A module's data is searched for addresses of switch routines up to this many bytes.
const MOST_DATA: u64 = 64 << 20;

/// It is read in pieces of so many bytes.
const DATA_PIECE: usize = 64 << 10;

/// More words that hold addresses of switch routines than this are not looked at: a module has one for each.
const MOST_SLOTS: usize = 1 << 12;

/// So many answers are kept of an image: one program asks it for other things than another, or than earlier.
const MOST_ANSWERS: usize = 8;

/// More indirect calls than this are not taken for calls of a switch routine.
const MOST_INDIRECT: usize = 1 << 16;

/// How a context got to a resume word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Origin {
    /// It left through a switch.
    Switch,
    /// It called a routine that saves and returns; the switch came later, or never.
    SavedOnly,
    /// It was prepared and never ran.
    Fresh,
}

/// A resume word, with where a context goes on that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its value, not hidden.
    pub word: u64,
    /// Where execution goes on.
    pub pc: Pc,
    /// What it stands for.
    pub origin: Origin,
    /// The layouts that may apply: indices into [`Sites::layouts`].
    pub layouts: Vec<u32>,
    /// Whether some other function may be called here, so that the word alone says little.
    pub is_vague: bool,
}

/// All resume words of a target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sites {
    /// How contexts are saved.
    pub layouts: Vec<Layout>,
    /// The resume words, sorted, each once.
    pub sites: Vec<Site>,
    /// Where the routines begin that switch, and the labels of inlined switch code; sorted.
    pub entries: Vec<u64>,
    /// The instructions that give the stack pointer a value from elsewhere; sorted.
    pub switches: Vec<u64>,
    /// Whether a module that saves contexts by routines of the C library also lets signals run on another stack: that is
    /// how stacks are begun where there is nothing else to begin them.
    pub begins_by_signals: bool,
}

impl Sites {
    /// Whether a context goes on at `word` that left its stack by a switch.
    pub(super) fn is_resume_word(&self, word: Addr) -> bool {
        let found = self.sites.binary_search_by_key(&word.0, |site| site.word);
        found.is_ok_and(|index| self.sites[index].origin != Origin::Fresh)
    }
}

/// A switch routine, or a function that ends in a jump to one, at its address in the target.
#[derive(Clone, Copy)]
struct Routine {
    entry: u64,
    layout: u32,
    origin: Origin,
}

/// What images' code says, kept from one look at a target to the next, and on disk where there is a folder for it.
#[derive(Default)]
pub struct Derived {
    images: Vec<(Arc<Image>, Said)>,
    folder: Option<CacheFolder>,
}

impl Derived {
    /// Nothing yet but what may be kept in `folder`.
    pub fn in_folder(folder: Option<CacheFolder>) -> Derived {
        Derived { images: Vec::new(), folder }
    }

    /// What the code of `module` says, and whether it was not known before.
    fn learn(&self, module: &Module, tables: &Tables<'_>) -> (Said, bool) {
        let Some(image) = &module.image else { return Default::default() };
        let before = self.images.iter().find(|(known, _)| Arc::ptr_eq(known, image)).map(|(_, said)| said.clone());
        let known = before.or_else(|| stored::load(self.folder.as_ref()?, image));
        let derive = || Said { switches: with_code(module, tables, derive).unwrap_or_default(), calls: Vec::new() };
        let is_new = known.is_none();
        (known.unwrap_or_else(derive), is_new)
    }

    /// Keeps what a module said beside what is kept already; if it is new, on disk too.
    fn remember(&mut self, module: &Module, said: Said, is_new: bool) {
        let Some(image) = module.image.as_ref().filter(|_| is_new) else { return };
        if let Some(folder) = &self.folder {
            stored::save(folder, image, &said);
        }
        if self.images.iter().all(|(known, _)| !Arc::ptr_eq(known, image)) {
            self.images.push((image.clone(), said));
        }
    }

    /// Keeps what modules said for the next time; what is new, on disk too.
    fn keep<'m>(&mut self, learned: impl Iterator<Item = (&'m Module, (Said, bool))>) {
        self.images.clear();
        for (module, (said, is_new)) in learned {
            let Some(image) = &module.image else { continue };
            if let Some(folder) = self.folder.as_ref().filter(|_| is_new) {
                stored::save(folder, image, &said);
            }
            self.images.push((image.clone(), said));
        }
    }
}

/// Works out the resume words of a target from its modules' code.
pub fn sites(modules: &Modules, tables: &Tables<'_>, memory: &(dyn Memory + Sync), kept: &mut Derived) -> Sites {
    let is_readable =
        |module: &&Module| module.image.as_ref().is_some_and(|image| image.arch().elf_machine == X86_64.elf_machine);
    let modules: Vec<&Module> = modules.iter().filter(is_readable).collect();
    let mut learned = of_each(&modules, |_, module| kept.learn(module, tables));
    let mut collected = Collected::default();
    let mut routines = Vec::new();
    for (module, (said, _)) in modules.iter().zip(&learned) {
        routines.extend(collected.add_module(module, &said.switches));
    }
    if !routines.is_empty() {
        let entries: BTreeSet<u64> = routines.iter().map(|routine| routine.entry).collect();
        let mut views = of_each(&modules, |index, module| {
            let is_own = |entry: &u64| module.ranges.iter().any(|range| range.contains(Addr(*entry)));
            let own = entries.iter().copied().filter(is_own).collect();
            view(module, own, &entries, tables, memory, &learned[index].0)
        });
        let mut new = 0..views.len();
        for _ in 0..MOST_WRAPPERS {
            let wrappers = wrappers(&views[new], &routines);
            if wrappers.is_empty() {
                break;
            }
            let entries: BTreeSet<u64> = wrappers.iter().map(|wrapper| wrapper.entry).collect();
            new = views.len()..views.len() + modules.len();
            // Within its module a wrapper was followed already.
            views.extend(of_each(&modules, |index, module| {
                view(module, Vec::new(), &entries, tables, memory, &learned[index].0)
            }));
            routines.extend(wrappers);
        }
        collected.add_calls(&routines, &views);
        for (index, view) in views.into_iter().enumerate().filter(|(_, view)| !view.routines.is_empty()) {
            let (said, is_new) = &mut learned[index % modules.len()];
            if said.calls.iter().all(|(wanted, _)| *wanted != view.wanted) {
                said.calls.truncate(MOST_ANSWERS - 1);
                said.calls.insert(0, (view.wanted, view.calls));
                *is_new = true;
            }
        }
    }
    kept.keep(modules.into_iter().zip(learned));
    collected.finish()
}

/// The code of one module in which stacks are left.
pub struct Departures<'m> {
    /// The module.
    pub module: &'m Module,
    /// Its departures, in order; addresses are as its file names them.
    pub found: Vec<Departure>,
    /// How many more there seem to be, in code of which nothing says where its routines begin.
    pub unplaced: usize,
}

/// The departures in those of a target's modules that `wanted` names; modules without any are left out.
pub fn departures_of<'m>(
    modules: &'m Modules,
    tables: &Tables<'_>,
    kept: &mut Derived,
    wanted: impl Fn(&Module) -> bool,
) -> Vec<Departures<'m>> {
    let is_readable = |module: &&Module| {
        wanted(module) && module.image.as_ref().is_some_and(|image| image.arch().elf_machine == X86_64.elf_machine)
    };
    let wanted: Vec<&Module> = modules.iter().filter(is_readable).collect();
    let learned = of_each(&wanted, |_, module| {
        let (said, is_new) = kept.learn(module, tables);
        let (found, unplaced) = with_code(module, tables, |code| departures(code, &said.switches)).unwrap_or_default();
        (said, is_new, Departures { module, found, unplaced })
    });
    let mut departures = Vec::new();
    for (module, (said, is_new, found)) in wanted.into_iter().zip(learned) {
        kept.remember(module, said, is_new);
        departures.push(found);
    }
    departures.retain(|module| !module.found.is_empty() || module.unplaced > 0);
    departures
}

/// The functions that `views` found to end in a jump to one of `routines`, and that are none of these.
fn wrappers(views: &[View<'_>], routines: &[Routine]) -> Vec<Routine> {
    let is_known = |entry: u64| routines.iter().any(|routine| routine.entry == entry);
    let of_view = |view: &View<'_>| -> Vec<Routine> {
        let wrapped = |wrapper: &Wrapper| {
            let entry = wrapper.entry.wrapping_add(view.module.bias);
            let inner = view.routines.get(wrapper.routine as usize).copied().filter(|_| !is_known(entry))?;
            let inner = routines.iter().filter(move |routine| routine.entry == inner);
            Some(inner.map(move |routine| Routine { entry, ..*routine }))
        };
        view.calls.wrappers.iter().filter_map(wrapped).flatten().collect()
    };
    views.iter().flat_map(of_view).collect()
}

/// What `work` gives for each module, in their order; big modules first, on two threads.
fn of_each<'m, T: Send>(modules: &[&'m Module], work: impl Fn(usize, &'m Module) -> T + Sync) -> Vec<T> {
    let size = |module: &Module| module.ranges.iter().map(|range| range.len()).sum::<u64>();
    let mut order: Vec<usize> = (0..modules.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(size(modules[*index])));
    let mut done = share::worked_off(order, 2, |index| (index, work(index, modules[index])));
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Lends `work` the code of a module, if it has any.
fn with_code<T>(module: &Module, tables: &Tables<'_>, work: impl FnOnce(&ImageCode<'_>) -> T) -> Option<T> {
    let image = module.image.as_ref()?;
    let starts = tables.function_starts();
    let function_start = |svma: u64| {
        let start = starts.of(Addr(svma.wrapping_add(module.bias)))?;
        Some(module.svma(start))
    };
    let named_starts = |svmas: &[u64], within: u64| image.named_starts(svmas, within);
    let parts = image.code();
    Some(work(&ImageCode { parts: &parts, function_start: &function_start, named_starts: &named_starts }))
}

/// Looks at how a module leads to the routines at `entries`, of which `own` are its own; `said` is what is known of it already.
fn view<'a>(
    module: &'a Module,
    own: Vec<u64>,
    entries: &BTreeSet<u64>,
    tables: &Tables<'_>,
    memory: &dyn Memory,
    said: &Said,
) -> View<'a> {
    let mut routines = Vec::new();
    let mut number = |entry: u64| {
        let known = routines.iter().position(|known| *known == entry);
        known.unwrap_or_else(|| {
            routines.push(entry);
            routines.len() - 1
        }) as u32
    };
    let own = own.into_iter().map(|entry| (module.svma(Addr(entry)), number(entry))).collect();
    let slots: Vec<_> = slots(module, entries, memory).into_iter().map(|(slot, entry)| (slot, number(entry))).collect();
    let is_fixed = module.image.as_ref().is_some_and(|image| image.segments().iter().all(|segment| segment.svma > 0));
    let wanted = Wanted { entries: own, slots, is_fixed };
    if routines.is_empty() {
        return View { module, routines, wanted, calls: Calls::default() };
    }
    let known = said.calls.iter().find(|(known, _)| *known == wanted).map(|(_, calls)| calls.clone());
    let calls = known.unwrap_or_else(|| with_code(module, tables, |code| calls_of(code, &wanted)).unwrap_or_default());
    View { module, routines, wanted, calls }
}

/// The svmas of words in a module's writable segments, as the target's memory has them now, that hold one of `values`,
/// each with what it holds.
fn slots(module: &Module, values: &BTreeSet<u64>, memory: &dyn Memory) -> Vec<(u64, u64)> {
    let (Some(low), Some(high)) = (values.first(), values.last()) else { return Vec::new() };
    let mut slots = Vec::new();
    let mut bytes = vec![0; DATA_PIECE];
    let segments = module.image.as_ref().map_or(&[][..], |image| image.segments());
    for segment in segments.iter().filter(|segment| segment.write) {
        let first = segment.svma.next_multiple_of(8);
        let end = segment.svma.saturating_add(segment.file_size.min(MOST_DATA));
        for piece in (first..end).step_by(DATA_PIECE) {
            let bytes = &mut bytes[..DATA_PIECE.min((end - piece) as usize)];
            if memory.read(Addr(piece.wrapping_add(module.bias)), bytes).is_err() {
                continue;
            }
            let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).zip(0u64..);
            let near = words.filter(|(word, _)| word.wrapping_sub(*low) <= high - low);
            let held = near.filter(|(word, _)| values.contains(word));
            slots.extend(held.map(|(word, index)| (piece + 8 * index, word)));
        }
    }
    slots.truncate(MOST_SLOTS);
    slots
}

/// A module, and how it leads to switch routines; their numbers are places in `routines`.
struct View<'a> {
    module: &'a Module,
    /// The routines, each by its address in the target, that the numbers in `wanted` and `calls` stand for.
    routines: Vec<u64>,
    wanted: Wanted,
    calls: Calls,
}

impl View<'_> {
    fn has_signal_stacks(&self) -> bool {
        self.module.image.as_ref().is_some_and(|image| image.imports(b"sigaltstack"))
    }

    /// Whether the address of a routine stands in its data or is taken by its code, to be called through a pointer.
    fn keeps(&self, entry: u64) -> bool {
        let svma = self.module.svma(Addr(entry));
        let number = self.routines.iter().position(|routine| *routine == entry);
        number.is_some_and(|number| self.calls.taken.contains(&(number as u32)))
            || self.calls.wrappers.iter().any(|wrapper| wrapper.entry == svma && wrapper.is_taken)
    }
}

/// Resume words while they are collected.
#[derive(Default)]
struct Collected {
    layouts: Vec<Layout>,
    sites: HashMap<u64, Site>,
    entries: Vec<u64>,
    switches: Vec<u64>,
    begins_by_signals: bool,
}

impl Collected {
    fn layout(&mut self, layout: &Layout) -> u32 {
        let known = self.layouts.iter().position(|known| known == layout);
        known.unwrap_or_else(|| {
            self.layouts.push(layout.clone());
            self.layouts.len() - 1
        }) as u32
    }

    fn add(&mut self, word: u64, pc: Pc, origin: Origin, layout: u32) {
        self.add_site(Site { word, pc, origin, layouts: Vec::new(), is_vague: false }, layout);
    }

    fn add_site(&mut self, new: Site, layout: u32) {
        let origin = new.origin;
        let site = self.sites.entry(new.word).or_insert_with(|| new.clone());
        // What a switch left behind is more than what might be a fresh context.
        if origin < site.origin {
            *site = new;
        }
        if origin == site.origin && !site.layouts.contains(&layout) {
            site.layouts.push(layout);
        }
    }

    /// Adds labels; gives the routines, whose callers are still to be found.
    fn add_module(&mut self, module: &Module, switches: &Switches) -> Vec<Routine> {
        let at = |svma: u64| svma.wrapping_add(module.bias);
        let mut routines = Vec::new();
        for descriptor in &switches.descriptors {
            let layout = self.layout(&descriptor.layout);
            let origin = if descriptor.saves_only { Origin::SavedOnly } else { Origin::Switch };
            match descriptor.resume {
                Resume::AfterCallsOf(entry) => {
                    routines.push(Routine { entry: at(entry), layout, origin });
                }
                Resume::Label { label, goes_on } => {
                    self.add(at(label), Pc::At(Addr(at(goes_on))), origin, layout);
                }
            }
            self.switches.push(at(descriptor.site));
            if !descriptor.saves_only {
                self.entries.push(at(match descriptor.resume {
                    Resume::AfterCallsOf(entry) => entry,
                    Resume::Label { label, .. } => label,
                }));
                let (starts, layout) = match &descriptor.fresh {
                    Some(fresh) => (&switches.named_by_blocks, self.layout(fresh)),
                    None => (&switches.starts, layout),
                };
                for start in starts {
                    self.add(at(start.0), Pc::At(Addr(at(start.0))), Origin::Fresh, layout);
                }
            }
        }
        routines
    }

    fn add_calls(&mut self, routines: &[Routine], views: &[View<'_>]) {
        let mut called: BTreeSet<u64> = BTreeSet::new();
        for view in views {
            for (number, site) in &view.calls.returns {
                // What was read from disk may name any number.
                let Some(entry) = view.routines.get(*number as usize).copied() else { continue };
                let site = site.wrapping_add(view.module.bias);
                for routine in routines.iter().filter(|routine| routine.entry == entry) {
                    self.begins_by_signals |= routine.origin == Origin::SavedOnly && view.has_signal_stacks();
                    self.add(site, Pc::After(Addr(site)), routine.origin, routine.layout);
                    called.insert(entry);
                }
            }
        }
        // A routine whose address somebody keeps is called through a pointer: for certain, if nobody calls it directly.
        for routine in routines.iter().filter(|routine| routine.origin == Origin::Switch) {
            let is_vague = called.contains(&routine.entry);
            for view in views.iter().filter(|view| view.keeps(routine.entry)) {
                let code = view.module.image.as_ref().map_or_else(Vec::new, |image| image.code());
                for site in code.into_iter().flat_map(indirect_calls).take(MOST_INDIRECT) {
                    let site = site.wrapping_add(view.module.bias);
                    let (word, pc, origin) = (site, Pc::After(Addr(site)), Origin::Switch);
                    self.add_site(Site { word, pc, origin, layouts: Vec::new(), is_vague }, routine.layout);
                }
            }
        }
    }

    fn finish(self) -> Sites {
        let mut sites: Vec<Site> = self.sites.into_values().collect();
        sites.sort_by_key(|site| site.word);
        let sorted = |mut addresses: Vec<u64>| {
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        };
        Sites {
            layouts: self.layouts,
            sites,
            entries: sorted(self.entries),
            switches: sorted(self.switches),
            begins_by_signals: self.begins_by_signals,
        }
    }
}
