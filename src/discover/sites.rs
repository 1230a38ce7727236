//! Resume words: the code addresses, in a running target, at which a suspended context can go on.
//!
//! You give the target's modules and its memory; you get every such address with the layouts that may stand behind it.
//! The memory may be that of a running process: of it only the tables are read through which modules call each other,
//! and these do not change once a call was made.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::descriptors::{ImageCode, Layout, Resume, Switches, derive};
use crate::addr::{Addr, Pc};
use crate::arch::X86_64;
use crate::image::{CodeBytes, Image, Module, Modules, indirect_calls, slot_transfers, takes_address, transfers};
use crate::memory::Memory;
use crate::unwind::Tables;

/// A module's data is searched for addresses of switch routines up to this many bytes.
const MOST_DATA: u64 = 64 << 20;

/// More indirect calls than this are not taken for calls of a switch routine.
const MOST_INDIRECT: usize = 1 << 16;

/// A routine that only jumps on to another is reached through at most this many others.
const MOST_WRAPPERS: usize = 4;

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
}

/// A switch routine at its address in the target.
struct Routine {
    entry: u64,
    layout: u32,
    origin: Origin,
}

/// What images' code says, kept from one look at a target to the next.
#[derive(Default)]
pub struct Derived {
    images: Vec<(Arc<Image>, Arc<Switches>)>,
}

impl Derived {
    fn of(&self, image: &Arc<Image>) -> Option<Arc<Switches>> {
        self.images.iter().find(|(known, _)| Arc::ptr_eq(known, image)).map(|(_, switches)| switches.clone())
    }
}

/// Works out the resume words of a target from its modules' code.
pub fn sites(modules: &Modules, tables: &Tables<'_>, memory: &dyn Memory, kept: &mut Derived) -> Sites {
    let derived = derive_all(modules, tables, kept);
    let images = modules.iter().map(|module| module.image.clone()).zip(&derived);
    kept.images = images.filter_map(|(image, switches)| Some((image?, switches.clone()))).collect();
    let mut collected = Collected::default();
    let mut routines = Vec::new();
    for (module, switches) in modules.iter().zip(&derived) {
        routines.extend(collected.add_module(module, switches));
    }
    if !routines.is_empty() {
        let views: Vec<View<'_>> = modules.iter().filter_map(|module| View::new(module, memory)).collect();
        collected.add_calls(&routines, &views, tables);
    }
    collected.finish()
}

/// What each module's code says, in the order of [`Modules::iter`]; big modules first, on two threads.
fn derive_all(modules: &Modules, tables: &Tables<'_>, kept: &Derived) -> Vec<Arc<Switches>> {
    let modules: Vec<&Module> = modules.iter().collect();
    let size = |module: &Module| module.ranges.iter().map(|range| range.len()).sum::<u64>();
    let mut order: Vec<usize> = (0..modules.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(size(modules[*index])));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Arc<Switches>>> = Mutex::new(vec![Arc::default(); modules.len()]);
    let work = || {
        while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let known = modules[*index].image.as_ref().and_then(|image| kept.of(image));
            let found = known.unwrap_or_else(|| Arc::new(derive_one(modules[*index], tables)));
            if let Ok(mut results) = results.lock() {
                results[*index] = found;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    results.into_inner().unwrap_or_default()
}

fn derive_one(module: &Module, tables: &Tables<'_>) -> Switches {
    let Some(image) = module.image.as_ref().filter(|image| image.arch().elf_machine == X86_64.elf_machine) else {
        return Switches::default();
    };
    let function_start = |svma: u64| {
        let start = tables.function_start(Addr(svma.wrapping_add(module.bias)))?;
        Some(module.svma(start))
    };
    let named_starts = |svmas: &[u64], within: u64| image.named_starts(svmas, within);
    derive(&ImageCode { parts: &image.code(), function_start: &function_start, named_starts: &named_starts })
}

/// A module's code and data, to find calls in.
struct View<'a> {
    module: &'a Module,
    image: &'a Image,
    /// Its writable segments as the target's memory has them now, and the svma of each.
    data: Vec<(u64, Vec<u8>)>,
}

impl<'a> View<'a> {
    fn new(module: &'a Module, memory: &dyn Memory) -> Option<View<'a>> {
        let image = &**module.image.as_ref()?;
        let data = image.segments().iter().filter(|segment| segment.write).filter_map(|segment| {
            let mut bytes = vec![0; usize::try_from(segment.file_size.min(MOST_DATA)).ok()?];
            memory.read(Addr(segment.svma.wrapping_add(module.bias)), &mut bytes).ok()?;
            Some((segment.svma, bytes))
        });
        Some(View { module, image, data: data.collect() })
    }

    /// Whether the address `entry` stands in its data or is taken by its code.
    fn keeps(&self, entry: u64) -> bool {
        let takes = |part: CodeBytes<'_>| takes_address(part, entry.wrapping_sub(self.module.bias));
        !self.slots(&BTreeSet::from([entry])).is_empty()
            || is_code_of(self, entry) && self.image.code().into_iter().any(takes)
    }

    /// The svmas of words that hold one of `values`.
    fn slots(&self, values: &BTreeSet<u64>) -> BTreeSet<u64> {
        let in_segment = |(svma, bytes): &(u64, Vec<u8>)| {
            let first = (8 - svma % 8) % 8;
            let words = bytes.get(first as usize..).unwrap_or_default().as_chunks::<8>().0;
            let svma = svma + first;
            let hits = words.iter().enumerate().filter(|(_, word)| values.contains(&u64::from_le_bytes(**word)));
            hits.map(|(index, _)| svma + 8 * index as u64).collect::<Vec<_>>()
        };
        self.data.iter().flat_map(in_segment).collect()
    }
}

/// Resume words while they are collected.
#[derive(Default)]
struct Collected {
    layouts: Vec<Layout>,
    sites: HashMap<u64, Site>,
    entries: Vec<u64>,
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
        let site = self.sites.entry(word).or_insert(Site { word, pc, origin, layouts: Vec::new() });
        // What a switch left behind is more than what might be a fresh context.
        if origin < site.origin {
            *site = Site { word, pc, origin, layouts: Vec::new() };
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
                    self.add(at(label), Pc::At(Addr(at(goes_on))), Origin::Switch, layout);
                }
            }
            if !descriptor.saves_only {
                self.entries.push(at(match descriptor.resume {
                    Resume::AfterCallsOf(entry) => entry,
                    Resume::Label { label, .. } => label,
                }));
                for start in &switches.starts {
                    self.add(at(start.0), Pc::At(Addr(at(start.0))), Origin::Fresh, layout);
                }
            }
        }
        routines
    }

    fn add_calls(&mut self, routines: &[Routine], views: &[View<'_>], tables: &Tables<'_>) {
        let entries: BTreeSet<u64> = routines.iter().map(|routine| routine.entry).collect();
        let mut called: BTreeSet<u64> = BTreeSet::new();
        for view in views {
            let slots = view.slots(&entries);
            for (entry, site) in calls_in(view, &entries, &slots, tables) {
                for routine in routines.iter().filter(|routine| routine.entry == entry) {
                    self.add(site, Pc::After(Addr(site)), routine.origin, routine.layout);
                    called.insert(entry);
                }
            }
        }
        // A routine that nobody calls, but whose address somebody keeps, is called through a pointer.
        let uncalled = |routine: &&Routine| routine.origin == Origin::Switch && !called.contains(&routine.entry);
        for routine in routines.iter().filter(uncalled) {
            for view in views.iter().filter(|view| view.keeps(routine.entry)) {
                let returns = view.image.code().into_iter().flat_map(indirect_calls).take(MOST_INDIRECT);
                for site in returns.map(|svma| svma.wrapping_add(view.module.bias)) {
                    self.add(site, Pc::After(Addr(site)), Origin::Switch, routine.layout);
                }
            }
        }
    }

    fn finish(self) -> Sites {
        let mut sites: Vec<Site> = self.sites.into_values().collect();
        sites.sort_by_key(|site| site.word);
        let mut entries = self.entries;
        entries.sort_unstable();
        entries.dedup();
        Sites { layouts: self.layouts, sites, entries }
    }
}

/// Whether `entry` lies in the code of this module.
fn is_code_of(view: &View<'_>, entry: u64) -> bool {
    view.module.ranges.iter().any(|range| range.contains(Addr(entry)))
}

/// The calls in one module that lead to one of `entries`: each entry with the return address, both in the target.
///
/// Followed are direct calls, calls through `slots`, the stubs of the procedure linkage table, and functions that end
/// in a jump to such a place.
fn calls_in(view: &View<'_>, entries: &BTreeSet<u64>, slots: &BTreeSet<u64>, tables: &Tables<'_>) -> Vec<(u64, u64)> {
    let bias = view.module.bias;
    let code = view.image.code();
    let mut found = Vec::new();
    // What leads to which entry; addresses as the file names them.
    let mut wanted: HashMap<u64, u64> = entries
        .iter()
        .filter(|entry| is_code_of(view, **entry))
        .map(|entry| (entry.wrapping_sub(bias), *entry))
        .collect();
    let held = |slot: u64| {
        let (svma, bytes) =
            view.data.iter().find(|(svma, bytes)| (*svma..*svma + bytes.len() as u64).contains(&slot))?;
        bytes.get((slot - svma) as usize..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
    };
    let start_of = |svma: u64| Some(tables.function_start(Addr(svma.wrapping_add(bias)))?.0.wrapping_sub(bias));
    if !slots.is_empty() {
        for transfer in code.iter().flat_map(|part| slot_transfers(*part, |slot| slots.contains(&slot))) {
            let Some(entry) = held(transfer.slot) else { continue };
            if transfer.call {
                found.push((entry, transfer.at.wrapping_add(6).wrapping_add(bias)));
            } else {
                // A stub may begin with `endbr64` (four bytes), `bnd` (one), or both.
                let stubs = [0, 1, 4, 5].map(|prefix| transfer.at.wrapping_sub(prefix));
                wanted.extend(stubs.into_iter().chain(start_of(transfer.at)).map(|stub| (stub, entry)));
            }
        }
    }
    let mut new = wanted.clone();
    for _ in 0..MOST_WRAPPERS {
        if new.is_empty() {
            break;
        }
        let mut wrappers = HashMap::new();
        for transfer in code.iter().flat_map(|part| transfers(*part, |target| new.contains_key(&target))) {
            let entry = new[&transfer.target];
            if transfer.call {
                found.push((entry, transfer.at.wrapping_add(5).wrapping_add(bias)));
            } else if let Some(start) = start_of(transfer.at).filter(|start| !wanted.contains_key(start)) {
                wrappers.insert(start, entry);
            }
        }
        wanted.extend(&wrappers);
        new = wrappers;
    }
    found
}
