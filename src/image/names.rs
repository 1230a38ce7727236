//! The names and lines of a batch of addresses.
//!
//! For each program counter of a snapshot it finds the functions that the address lies in, inlined
//! ones included. Every address is looked up once, by module, and modules in parallel. Nothing here needs the target to
//! stand still: only files are read.
//!
//! Sources, best first: DWARF of the file or of its separate debug file, the full symbol table of either,
//! MiniDebugInfo, the dynamic symbol table; for code made at run time the perf map.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::demangle::demangle;
use super::dwarf::{self, Aside, Frame};
use super::symbols::{Symbol, Table};
use super::{Files, Image, Module, Modules, Progress, debug_files, perf_map};
use crate::addr::{Addr, Pc};
use crate::share;

/// A function that an address lies in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Name {
    /// Its name, demangled. It may hold any character: see [`printable()`](super::printable()).
    pub function: Option<Arc<str>>,
    /// The bytes from the function's first byte to the address.
    pub offset: Option<u64>,
    /// The source file, as the compiler recorded it.
    pub file: Option<Arc<str>>,
    /// The line in that file: of the address, or of the call that was inlined there.
    pub line: Option<u32>,
    /// Whether the function was inlined into the one that follows.
    pub inlined: bool,
}

/// The names of a batch of addresses.
#[derive(Clone, Default, Debug)]
pub struct Names {
    by_addr: HashMap<Addr, Arc<[Name]>>,
}

impl Names {
    /// The functions that `pc` lies in, innermost inlined one first, the function itself last.
    ///
    /// Empty if nothing is known of it, or it was not in the batch.
    pub fn get(&self, pc: Pc) -> &[Name] {
        self.by_addr.get(&pc.lookup()).map_or(&[], |names| names)
    }
}

/// Where lines and inlined functions are searched for. Functions are named everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lines {
    /// Wherever there is debug information.
    Everywhere,
    /// Everywhere except in the system's own libraries whose debug information would have to be unpacked first. That
    /// takes tens of milliseconds for the C library alone, which every stack ends in, and few look for its lines.
    Cheap,
}

/// The addresses of one module, or of no file.
struct Job<'a> {
    module: Option<&'a Module>,
    addrs: Vec<u64>,
}

/// Finds the names of `pcs`.
pub fn resolve(modules: &Modules, pcs: &[Pc], files: &dyn Files, lines: Lines) -> Names {
    resolve_telling(modules, pcs, files, lines, &Progress::default())
}

/// The same, and reports to `progress` how far it has come.
pub fn resolve_telling(modules: &Modules, pcs: &[Pc], files: &dyn Files, lines: Lines, progress: &Progress) -> Names {
    let jobs = jobs(modules, pcs);
    progress.begin(jobs.len());
    let named = |job: &Job<'_>| {
        // The parsers below promise not to panic on damaged files. If one does, its module has no names.
        let names = catch_unwind(AssertUnwindSafe(|| names(job, files, lines))).unwrap_or_default();
        progress.step();
        job.addrs.iter().map(|addr| Addr(*addr)).zip(names).collect::<Vec<_>>()
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let by_addr = share::worked_off(jobs.iter().collect(), threads, named);
    Names { by_addr: by_addr.into_iter().flatten().collect() }
}

/// Groups `pcs` by module, the largest files first, so that they don't come last to one worker.
fn jobs<'a>(modules: &'a Modules, pcs: &[Pc]) -> Vec<Job<'a>> {
    let mut addrs: Vec<Addr> = pcs.iter().map(|pc| pc.lookup()).collect();
    addrs.sort_unstable();
    addrs.dedup();
    let mut by_module: HashMap<Option<usize>, Vec<u64>> = HashMap::new();
    for addr in addrs {
        by_module.entry(modules.index_of(addr)).or_default().push(addr.0);
    }
    let all = modules.as_slice();
    let mut jobs: Vec<Job<'_>> = by_module
        .into_iter()
        .map(|(module, addrs)| Job { module: module.and_then(|index| all.get(index)), addrs })
        .collect();
    let size = |job: &Job<'_>| job.module.and_then(|module| Some(module.image.as_ref()?.bytes().len()));
    jobs.sort_by_key(|job| std::cmp::Reverse(size(job)));
    jobs
}

fn names(job: &Job<'_>, files: &dyn Files, lines: Lines) -> Vec<Arc<[Name]>> {
    let image = job.module.and_then(|module| Some((module, module.image.as_deref()?)));
    match image {
        Some((module, image)) => names_in_image(module, image, &job.addrs, files, lines),
        None => names_by_perf_map(&job.addrs, files),
    }
}

/// The names found in an image so far, by svma.
#[derive(Default)]
pub(crate) struct KnownNames(Mutex<HashMap<u64, Arc<[Name]>>>);

impl KnownNames {
    /// At most this many are kept: hostile code could otherwise make it grow without end.
    const MOST: usize = 1 << 18;

    /// The names of `svmas`; those not known yet are asked of `find`, sorted, and kept.
    fn get(&self, svmas: &[u64], find: impl FnOnce(&[u64]) -> Vec<Arc<[Name]>>) -> Vec<Arc<[Name]>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<u64> = svmas.to_vec();
        {
            let known = lock();
            missing.retain(|svma| !known.contains_key(svma));
        }
        missing.sort_unstable();
        let found = if missing.is_empty() { Vec::new() } else { find(&missing) };
        let mut known = lock();
        let names = |svma: &u64| match missing.binary_search(svma) {
            Ok(place) => found.get(place).cloned().unwrap_or_default(),
            Err(_) => known.get(svma).cloned().unwrap_or_default(),
        };
        let names = svmas.iter().map(names).collect();
        if known.len() + missing.len() > KnownNames::MOST {
            known.clear();
        }
        known.extend(missing.into_iter().zip(found));
        names
    }
}

fn names_in_image(module: &Module, image: &Image, addrs: &[u64], files: &dyn Files, lines: Lines) -> Vec<Arc<[Name]>> {
    let svmas: Vec<u64> = addrs.iter().map(|addr| module.svma(Addr(*addr))).collect();
    image.known_names().get(&svmas, |svmas| {
        let frames = frames(image, module, svmas, files, lines);
        let mut demangled = HashMap::new();
        let mut names = Vec::with_capacity(svmas.len());
        for (frames, svma) in frames.iter().zip(svmas) {
            names.push(frames.iter().map(|frame| name(frame, *svma, &mut demangled)).collect());
        }
        names
    })
}

/// What the image of `module` and its debug files say of `svmas`, which are sorted.
fn frames(image: &Image, module: &Module, svmas: &[u64], files: &dyn Files, lines: Lines) -> Vec<Vec<Frame>> {
    let path = module.path.as_deref();
    let separate = match has_dwarf(image) && Table::full(image).is_some() {
        true => None,
        false => debug_files::separate(image, path, files).map(|separate| &**separate),
    };
    let is_cheap =
        |image: &&Image| lines == Lines::Everywhere || !module.is_system() || !image.is_packed(b".debug_info");
    let with_dwarf = [Some(image), separate].into_iter().flatten().find(|image| has_dwarf(image));
    let mut frames = match with_dwarf.filter(is_cheap) {
        Some(with_dwarf) => {
            let own_path = if std::ptr::eq(with_dwarf, image) { path } else { debug_files::separate_path(image) };
            let aside = Aside {
                supplementary: debug_files::supplementary(with_dwarf, own_path, files).map(|image| &**image),
                package: debug_files::package(with_dwarf, path, files).map(|image| &**image),
            };
            dwarf::frames(with_dwarf, aside, svmas, files)
        }
        None => vec![Vec::new(); svmas.len()],
    };
    add_symbols(image, separate, svmas, &mut frames);
    prefer_plain_names(image, separate, svmas, &mut frames);
    frames
}

fn has_dwarf(image: &Image) -> bool {
    image.has_section(b".debug_info")
}

/// Names the functions that DWARF left without a name by the symbol tables, the fullest first.
fn add_symbols<'a>(image: &'a Image, separate: Option<&'a Image>, svmas: &[u64], frames: &mut [Vec<Frame>]) {
    let sources: [&dyn Fn() -> Option<Table<'a>>; 4] =
        [&|| Table::full(image), &|| Table::full(separate?), &|| Table::full(image.mini_debug_info()?), &|| {
            Table::dynamic(image)
        }];
    for source in sources {
        let is_nameless = |place: &usize| frames[*place].last().is_none_or(|frame| frame.function.is_none());
        let places: Vec<usize> = (0..svmas.len()).filter(is_nameless).collect();
        if places.is_empty() {
            return;
        }
        let Some(table) = source() else { continue };
        let wanted: Vec<u64> = places.iter().map(|&place| svmas[place]).collect();
        for (place, symbol) in places.into_iter().zip(table.find(&wanted)) {
            let Some(Symbol { name, svma }) = symbol else { continue };
            if frames[place].is_empty() {
                frames[place].push(Frame::default());
            }
            if let Some(function) = frames[place].last_mut() {
                (function.function, function.start) = (Some(name.into()), Some(svma));
            }
        }
    }
}

/// Gives C functions whose name in DWARF is an internal one the name that callers know, if the symbol table has it.
///
/// In glibc, `pause` is written as `__libc_pause`, and `poll` as `__GI___poll`.
fn prefer_plain_names(image: &Image, separate: Option<&Image>, svmas: &[u64], frames: &mut [Vec<Frame>]) {
    let internal = |frame: &Frame| frame.function.as_ref().is_some_and(|name| name.starts_with("__"));
    let places: Vec<usize> = (0..svmas.len()).filter(|&place| frames[place].last().is_some_and(internal)).collect();
    let table = || Table::full(image).or_else(|| Table::full(separate?));
    let Some(table) = places.first().and_then(|_| table()) else { return };
    let wanted: Vec<u64> = places.iter().map(|&place| svmas[place]).collect();
    let plainness = |name: &str| (name.len() - name.trim_start_matches('_').len(), name.len());
    for (place, symbol) in places.into_iter().zip(table.find(&wanted)) {
        let (Some(function), Some(symbol)) = (frames[place].last_mut(), symbol) else { continue };
        let is_plainer = function.function.as_deref().is_some_and(|name| plainness(&symbol.name) < plainness(name));
        if is_plainer && function.start == Some(symbol.svma) {
            function.function = Some(symbol.name.into());
        }
    }
}

/// `demangled` has what was demangled before, by where the linker's name lies: the addresses of one function share it.
fn name(frame: &Frame, svma: u64, demangled: &mut HashMap<*const u8, Arc<str>>) -> Name {
    let mut once = |name: &Arc<str>| demangled.entry(name.as_ptr()).or_insert_with(|| demangle(name).into()).clone();
    Name {
        function: frame.function.as_ref().map(&mut once),
        offset: frame.start.and_then(|start| svma.checked_sub(start)),
        file: frame.file.clone(),
        line: frame.line,
        inlined: frame.inlined,
    }
}

fn names_by_perf_map(addrs: &[u64], files: &dyn Files) -> Vec<Arc<[Name]>> {
    let map = files.pid().and_then(|pid| files.open(&PathBuf::from(format!("/tmp/perf-{pid}.map"))).ok());
    let Some(map) = map else { return vec![Arc::default(); addrs.len()] };
    let found = perf_map::find((*map).as_ref(), addrs);
    let named = |(addr, symbol): (&u64, Option<Symbol>)| {
        let symbol = symbol?;
        let offset = Some(addr.wrapping_sub(symbol.svma));
        Some(Name { function: Some(demangle(&symbol.name).into()), offset, ..Name::default() })
    };
    addrs.iter().zip(found).map(|found| named(found).into_iter().collect()).collect()
}
