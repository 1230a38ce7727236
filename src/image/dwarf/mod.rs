//! Functions, inlined calls and lines by DWARF debug information, versions 2 to 5.
//!
//! From one image and svmas come, for each svma, its frames, innermost first. Only the index of units is kept:
//! a unit is read once for all svmas of a batch that lie in it, its line program too, and no table is built of either.
//!
//! Why this uses gimli and not the addr2line crate: addr2line descends recursively into inlined calls, as deep as
//! a damaged file asks for, and reads the header of every unit. Here each walk is a loop, and [`Work`] bounds it.
//! Figures are in `docs/ARCHITECTURE.md`, "Libraries and own code".

mod functions;
mod lines;
mod split;
mod units;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use gimli::{EndianSlice, LittleEndian, SectionId};

use super::symbols::LONGEST_NAME;
use super::{Files, Image};
use functions::Scope;
use lines::Lines;

pub(crate) use units::UnitIndex;

type Reader<'a> = EndianSlice<'a, LittleEndian>;
type Dwarf<'a> = gimli::Dwarf<Reader<'a>>;
type Unit<'a> = gimli::Unit<Reader<'a>>;

/// A function, inlined or not, that an svma lies in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Frame {
    /// Its name, not demangled: the linker's if DWARF has it.
    pub(crate) function: Option<Arc<str>>,
    /// The svma of its first byte; for an inlined call, of the copy's first byte.
    pub(crate) start: Option<u64>,
    /// The source file of the place where execution is in it.
    pub(crate) file: Option<Arc<str>>,
    /// The line in that file.
    pub(crate) line: Option<u32>,
    /// Whether it was inlined into the frame that follows.
    pub(crate) inlined: bool,
}

/// How much work may still be done for one batch of one image, counted in entries and rows read.
///
/// Damaged debug information can ask for any amount of work by sharing lists. What honest files need is far below.
/// An entry can have a hundred thousand attributes that take no bytes in the file, and a name as long as the file:
/// these are counted too, so that the work bounds time and memory.
struct Work(Cell<u64>);

impl Work {
    const MOST: u64 = 50_000_000;

    /// Takes `amount` from what is left; `None` when it is used up.
    fn take(&self, amount: u64) -> Option<()> {
        self.0.set(self.0.get().checked_sub(amount)?);
        Some(())
    }

    /// Takes for the attributes of one entry: each beyond those that a compiler writes costs as much as an entry.
    fn take_attributes(&self, count: usize) -> Option<()> {
        const USUAL: usize = 16;
        self.take(count.saturating_sub(USUAL) as u64)
    }

    /// Takes for bytes that are kept, or read once: sixteen of them cost as much as an entry.
    fn take_bytes(&self, count: usize) -> Option<()> {
        self.take(count as u64 / 16)
    }
}

/// The debug information of one file, and what has been read of it.
struct Context<'a> {
    dwarf: Dwarf<'a>,
    index: &'a UnitIndex,
    /// The file that shared parts were moved to by dwz (`.gnu_debugaltlink`).
    supplementary: Option<Box<Context<'a>>>,
    /// The package with the split parts of its units (`.dwp`).
    package: Option<&'a Image>,
    units: RefCell<HashMap<usize, Option<Rc<Unit<'a>>>>>,
    work: Rc<Work>,
}

/// Other files that an image's debug information refers to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Aside<'a> {
    /// What dwz moved out of several files because they share it (`.gnu_debugaltlink`).
    pub(crate) supplementary: Option<&'a Image>,
    /// The split parts of the image's units, packed (`.dwp`).
    pub(crate) package: Option<&'a Image>,
}

/// What DWARF says of `svmas`, which are sorted; an empty list if it says nothing.
pub(crate) fn frames(image: &Image, aside: Aside<'_>, svmas: &[u64], files: &dyn Files) -> Vec<Vec<Frame>> {
    let context = Context::new(image, aside, Rc::new(Work(Cell::new(Work::MOST))));
    let mut frames = vec![Vec::new(); svmas.len()];
    let mut wanted: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, units) in context.index.units_of(&context.dwarf, svmas, &context.work).into_iter().enumerate() {
        for unit in units {
            wanted.entry(unit).or_default().push(place);
        }
    }
    for (offset, mut places) in wanted {
        places.retain(|&place| frames[place].is_empty());
        let unit_svmas: Vec<u64> = places.iter().map(|&place| svmas[place]).collect();
        let Some(unit) = context.unit(offset).filter(|_| !places.is_empty()) else { continue };
        let found = context.frames_in_unit(&unit, &unit_svmas, files);
        for (place, found) in places.into_iter().zip(found) {
            frames[place] = found;
        }
    }
    frames
}

impl<'a> Context<'a> {
    fn new(image: &'a Image, aside: Aside<'a>, work: Rc<Work>) -> Context<'a> {
        let name = |id: SectionId| Some(id.name());
        let mut dwarf = load(image, name);
        if let Some(image) = aside.supplementary {
            dwarf.set_sup(load(image, name));
        }
        let supplementary = aside.supplementary.map(|image| Context::new(image, Aside::default(), Rc::clone(&work)));
        Context {
            dwarf,
            index: image.unit_index(),
            supplementary: supplementary.map(Box::new),
            package: aside.package,
            units: RefCell::default(),
            work,
        }
    }

    /// The unit whose header lies at `offset` in `.debug_info`.
    fn unit(&self, offset: usize) -> Option<Rc<Unit<'a>>> {
        if let Some(unit) = self.units.borrow().get(&offset) {
            return unit.clone();
        }
        let header = self.dwarf.unit_header(gimli::DebugInfoOffset(offset)).ok();
        let unit = header.and_then(|header| read_unit(&self.dwarf, header, &self.work)).map(Rc::new);
        self.units.borrow_mut().insert(offset, unit.clone());
        unit
    }

    fn frames_in_unit(&self, unit: &Unit<'a>, svmas: &[u64], files: &dyn Files) -> Vec<Vec<Frame>> {
        let lines = Lines::read(self, unit, svmas);
        let chains = match unit.dwo_id {
            // Without its split part a skeleton still has the lines.
            Some(id) => split::chains(self, unit, id, svmas, files).unwrap_or_else(|| vec![Vec::new(); svmas.len()]),
            None => functions::chains(self, unit, svmas),
        };
        chains.into_iter().enumerate().map(|(place, chain)| assemble(&chain, &lines, place)).collect()
    }
}

/// Reads what a unit's header, table of abbreviations and first entry say, within bounds.
fn read_unit<'a>(dwarf: &Dwarf<'a>, header: gimli::UnitHeader<Reader<'a>>, work: &Work) -> Option<Unit<'a>> {
    /// The longest table that compilers were seen to make has a tenth of that, in bytes.
    const LONGEST_TABLE: usize = 1 << 18;
    /// About what reading the longest table costs, in entries.
    const COST: u64 = 10_000;
    work.take(COST)?;
    let abbreviations = units::read_abbreviations(dwarf, header.debug_abbrev_offset().0, LONGEST_TABLE).ok()?;
    let unit = Unit::new_with_abbreviations(dwarf, header, abbreviations).ok()?;
    // The header of its line program, which lists all files, was read too.
    work.take_bytes(unit.line_program.as_ref().map_or(0, |program| program.header().header_length()))?;
    Some(unit)
}

/// Turns a chain of scopes, outermost first, into frames, innermost first.
///
/// The source line of the innermost frame comes from the line table, that of another from the call of the next inner
/// one.
fn assemble(chain: &[Scope], lines: &Lines<'_, '_>, place: usize) -> Vec<Frame> {
    let (mut file, mut line) = lines.location(place);
    if chain.is_empty() {
        let known = file.is_some() || line.is_some();
        return Vec::from_iter(known.then_some(Frame { file, line, ..Frame::default() }));
    }
    let mut frames = Vec::with_capacity(chain.len());
    for (depth, scope) in chain.iter().enumerate().rev() {
        frames.push(Frame { function: scope.name.clone(), start: scope.start, file, line, inlined: depth > 0 });
        file = scope.call_file.and_then(|index| lines.file(index));
        line = scope.call_line;
    }
    frames
}

/// A name or a path as text; `None` if it is longer than any can be, or if the work is used up.
fn text(text: Reader<'_>, work: &Work) -> Option<Arc<str>> {
    work.take_bytes(text.len())?;
    Some(text.to_string_lossy()).filter(|text| text.len() <= LONGEST_NAME).map(Arc::from)
}

/// The sections that are needed here, under the names that `name` gives them.
fn load<'a>(image: &'a Image, name: fn(SectionId) -> Option<&'static str>) -> Dwarf<'a> {
    let unneeded = [
        SectionId::DebugMacinfo,
        SectionId::DebugMacro,
        SectionId::DebugNames,
        SectionId::DebugTypes,
        SectionId::DebugLoc,
        SectionId::DebugLocLists,
    ];
    let load = |id: SectionId| -> Result<Reader<'a>, std::convert::Infallible> {
        Ok(section(image, name(id).filter(|_| !unneeded.contains(&id))))
    };
    match Dwarf::load(load) {
        Ok(dwarf) => dwarf,
    }
}

fn section<'a>(image: &'a Image, name: Option<&str>) -> Reader<'a> {
    let data = name.and_then(|name| image.section_data(name.as_bytes())).unwrap_or_default();
    EndianSlice::new(data, LittleEndian)
}
