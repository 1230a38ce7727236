//! The functions that svmas lie in, and the calls that were inlined there, by a unit's entries.

use std::sync::Arc;

use gimli::{AttributeValue, UnitOffset, constants as dw};

use super::{Context, Dwarf, Reader, Unit, text};

/// A function, or a call that was inlined.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) name: Option<Arc<str>>,
    pub(super) start: Option<u64>,
    /// For an inlined call: the file of the call in the source of what it was inlined into.
    pub(super) call_file: Option<u64>,
    pub(super) call_line: Option<u32>,
}

/// The scopes around each of `svmas`, which are sorted: first the function, then each call inlined into the one before.
pub(super) fn chains<'a>(context: &Context<'a>, unit: &Unit<'a>, svmas: &[u64]) -> Vec<Vec<Scope>> {
    let mut walk = Walk::new(context, unit, svmas, Skip::FunctionBodies);
    // An error at one entry ends the walk; what was found before it is kept.
    let _ = walk.run();
    if walk.chains.iter().any(Vec::is_empty) {
        // Functions inside functions (a GNU C extension, Ada, Pascal) are rare, so they are searched for last.
        let mut second = Walk::new(context, unit, svmas, Skip::Nothing);
        std::mem::swap(&mut second.chains, &mut walk.chains);
        std::mem::swap(&mut second.scopes, &mut walk.scopes);
        let _ = second.run();
        walk = second;
    }
    let scopes: Vec<Scope> = walk.scopes.iter().map(|scope| scope.named(context, unit)).collect();
    walk.chains.iter().map(|chain| chain.iter().map(|&scope| scopes[scope].clone()).collect()).collect()
}

/// Whether the bodies of functions in which no svma lies are skipped, if the compiler says how far they reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Skip {
    FunctionBodies,
    Nothing,
}

/// One pass over a unit's entries.
struct Walk<'w, 'a> {
    context: &'w Context<'a>,
    unit: &'w Unit<'a>,
    svmas: &'w [u64],
    skip: Skip,
    /// What was found so far.
    scopes: Vec<Attributes<'a>>,
    /// For each svma the scopes around it, outermost first, by their place in `scopes`.
    chains: Vec<Vec<usize>>,
    /// The scopes that the entry being read lies in, innermost last.
    open: Vec<Open>,
}

/// A scope whose children are being read.
struct Open {
    depth: isize,
    /// Its place in `scopes`; `None` if no svma lies in it.
    scope: Option<usize>,
}

/// No program's entries nest deeper than this.
const DEEPEST: usize = 1024;

impl<'w, 'a> Walk<'w, 'a> {
    fn new(context: &'w Context<'a>, unit: &'w Unit<'a>, svmas: &'w [u64], skip: Skip) -> Walk<'w, 'a> {
        let chains = vec![Vec::new(); svmas.len()];
        Walk { context, unit, svmas, skip, scopes: Vec::new(), chains, open: Vec::new() }
    }

    fn run(&mut self) -> gimli::Result<()> {
        let mut entries = self.unit.entries_raw(None)?;
        // Entries count their depth from where reading began; after a jump that is not the unit's first entry.
        let mut base = 0;
        while !entries.is_empty() && self.context.work.take(1).is_some() {
            let depth = base + entries.next_depth();
            let Some(entry) = entries.read_abbreviation()? else { continue };
            if self.context.work.take_attributes(entry.attributes().len()).is_none() {
                break;
            }
            while self.open.last().is_some_and(|open| open.depth >= depth) {
                self.open.pop();
            }
            let tag = entry.tag();
            let is_scope = match tag {
                dw::DW_TAG_subprogram => true,
                dw::DW_TAG_inlined_subroutine => self.open.last().is_some_and(|open| open.scope.is_some()),
                _ => false,
            };
            if !is_scope {
                entries.skip_attributes(entry.attributes())?;
                continue;
            }
            let mut attributes = Attributes::default();
            for specification in entry.attributes() {
                let attribute = entries.read_attribute(*specification)?;
                attributes.set(attribute.name(), attribute.value());
            }
            let sibling = attributes.sibling;
            let found = self.enter(tag, depth, attributes)?;
            if !entry.has_children() || self.open.len() > DEEPEST {
                self.open.pop();
            } else if let Some(sibling) = sibling.filter(|_| !found && self.may_skip(tag)) {
                // Only forward: an entry that names an earlier one would be read again and again.
                if sibling > entries.next_offset() {
                    self.open.pop();
                    entries = self.unit.entries_raw(Some(sibling))?;
                    base = depth;
                }
            }
        }
        Ok(())
    }

    fn may_skip(&self, tag: gimli::DwTag) -> bool {
        self.skip == Skip::FunctionBodies || tag == dw::DW_TAG_inlined_subroutine
    }

    /// Opens a scope; returns whether an svma lies in it.
    fn enter(&mut self, tag: gimli::DwTag, depth: isize, attributes: Attributes<'a>) -> gimli::Result<bool> {
        let is_function = tag == dw::DW_TAG_subprogram;
        let parent = self.open.last().filter(|_| !is_function);
        let around = parent.and_then(|open| open.scope);
        let mut places = Vec::new();
        let mut first = None;
        attributes.for_each_range(self.context, self.unit, |range| {
            first = first.or(Some(range.begin));
            let from = self.svmas.partition_point(|svma| *svma < range.begin);
            let inside = self.svmas[from..].iter().take_while(|svma| **svma < range.end).count();
            // The first function found has an svma; an inlined call must lie right inside the scope around it.
            places.extend((from..from + inside).filter(|place| self.chains[*place].last().copied() == around));
        })?;
        // Ranges of one entry may overlap.
        places.sort_unstable();
        places.dedup();
        let kept = size_of::<Attributes<'_>>() + size_of_val(&places[..]);
        let is_kept = !places.is_empty() && self.context.work.take_bytes(kept).is_some();
        let scope = is_kept.then(|| {
            self.scopes.push(Attributes { start: attributes.low_pc(self.context, self.unit).or(first), ..attributes });
            self.scopes.len() - 1
        });
        for &place in &places {
            self.chains[place].extend(scope);
        }
        self.open.push(Open { depth, scope });
        Ok(scope.is_some())
    }
}

/// The attributes of an entry that are needed here.
#[derive(Clone, Copy, Default)]
struct Attributes<'a> {
    low_pc: Option<AttributeValue<Reader<'a>>>,
    high_pc: Option<AttributeValue<Reader<'a>>>,
    ranges: Option<AttributeValue<Reader<'a>>>,
    linkage_name: Option<AttributeValue<Reader<'a>>>,
    name: Option<AttributeValue<Reader<'a>>>,
    /// The entry that says the rest: what was inlined, or the declaration.
    origin: Option<AttributeValue<Reader<'a>>>,
    sibling: Option<UnitOffset>,
    call_file: Option<u64>,
    call_line: Option<u32>,
    start: Option<u64>,
}

impl<'a> Attributes<'a> {
    fn set(&mut self, name: gimli::DwAt, value: AttributeValue<Reader<'a>>) {
        match name {
            dw::DW_AT_low_pc => self.low_pc = Some(value),
            dw::DW_AT_high_pc => self.high_pc = Some(value),
            dw::DW_AT_ranges => self.ranges = Some(value),
            dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => self.linkage_name = Some(value),
            dw::DW_AT_name => self.name = Some(value),
            dw::DW_AT_abstract_origin | dw::DW_AT_specification => self.origin = Some(value),
            dw::DW_AT_call_file => {
                if let AttributeValue::FileIndex(index) = value {
                    self.call_file = Some(index);
                }
            }
            dw::DW_AT_call_line => self.call_line = value.udata_value().and_then(|line| u32::try_from(line).ok()),
            dw::DW_AT_sibling => {
                if let AttributeValue::UnitRef(offset) = value {
                    self.sibling = Some(offset);
                }
            }
            _ => {}
        }
    }

    fn low_pc(&self, context: &Context<'a>, unit: &Unit<'a>) -> Option<u64> {
        address(&context.dwarf, unit, self.low_pc?)
    }

    /// Calls the function for each range of svmas that the entry describes; the linker removed those at 0.
    fn for_each_range(
        &self,
        context: &Context<'a>,
        unit: &Unit<'a>,
        mut give: impl FnMut(gimli::Range),
    ) -> gimli::Result<()> {
        let mut give = |range: gimli::Range| {
            if 0 < range.begin && range.begin < range.end {
                give(range);
            }
        };
        if let Some(list) = self.ranges {
            let Some(mut list) = context.dwarf.attr_ranges(unit, list)? else { return Ok(()) };
            while let (Some(range), Some(())) = (list.next()?, context.work.take(1)) {
                give(range);
            }
        } else if let (Some(begin), Some(high_pc)) = (self.low_pc(context, unit), self.high_pc) {
            let end = address(&context.dwarf, unit, high_pc)
                .or_else(|| high_pc.udata_value().and_then(|size| begin.checked_add(size)));
            give(gimli::Range { begin, end: end.unwrap_or(begin) });
        }
        Ok(())
    }

    fn named(&self, context: &Context<'a>, unit: &Unit<'a>) -> Scope {
        let name = name(context, unit, self).and_then(|name| text(name, &context.work));
        Scope {
            name,
            start: self.start,
            call_file: self.call_file,
            call_line: self.call_line.filter(|line| *line != 0),
        }
    }
}

fn address<'a>(dwarf: &Dwarf<'a>, unit: &Unit<'a>, value: AttributeValue<Reader<'a>>) -> Option<u64> {
    dwarf.attr_address(unit, value).ok().flatten()
}

/// How many entries are followed from one to the next for a name: entries that name each other would lead on for ever.
const MOST_ORIGINS: usize = 16;

/// The linker's name for what `attributes` describe, else its name in the source.
fn name<'a>(context: &Context<'a>, unit: &Unit<'a>, attributes: &Attributes<'a>) -> Option<Reader<'a>> {
    let find = |context: &Context<'a>, unit: &Unit<'a>, value: Option<AttributeValue<Reader<'a>>>| {
        context.dwarf.attr_string(unit, value?).ok().filter(|name| !name.is_empty())
    };
    if let Some(name) = find(context, unit, attributes.linkage_name) {
        return Some(name);
    }
    let mut plain = find(context, unit, attributes.name);
    let mut origin = attributes.origin;
    let mut at = Place { context, unit: None };
    for _ in 0..MOST_ORIGINS {
        let Some((place, offset)) = origin.and_then(|origin| at.follow(origin, unit)) else { break };
        at = place;
        let unit = at.unit.as_deref().unwrap_or(unit);
        let Some(next) = read(at.context, unit, offset) else { break };
        if let Some(name) = find(at.context, unit, next.linkage_name) {
            return Some(name);
        }
        plain = plain.or_else(|| find(at.context, unit, next.name));
        origin = next.origin;
    }
    plain
}

/// The file and unit that an entry lies in; `None` for the unit where the search began.
struct Place<'c, 'a> {
    context: &'c Context<'a>,
    unit: Option<std::rc::Rc<Unit<'a>>>,
}

impl<'c, 'a> Place<'c, 'a> {
    /// The place of the entry that `origin`, read at this place, refers to.
    fn follow(&self, origin: AttributeValue<Reader<'a>>, first: &Unit<'a>) -> Option<(Place<'c, 'a>, UnitOffset)> {
        let (context, offset) = match origin {
            AttributeValue::UnitRef(offset) => {
                return Some((Place { context: self.context, unit: self.unit.clone() }, offset));
            }
            AttributeValue::DebugInfoRef(offset) => (self.context, offset),
            AttributeValue::DebugInfoRefSup(offset) => (self.context.supplementary.as_deref()?, offset),
            _ => return None,
        };
        if self.unit.is_none()
            && std::ptr::eq(context, self.context)
            && let Some(offset) = offset.to_unit_offset(&first.header)
        {
            return Some((Place { context, unit: None }, offset));
        }
        let unit = context.unit(context.index.unit_holding(&context.dwarf, offset.0)?)?;
        let offset = offset.to_unit_offset(&unit.header)?;
        Some((Place { context, unit: Some(unit) }, offset))
    }
}

fn read<'a>(context: &Context<'a>, unit: &Unit<'a>, offset: UnitOffset) -> Option<Attributes<'a>> {
    let mut entries = unit.entries_raw(Some(offset)).ok()?;
    let entry = entries.read_abbreviation().ok()??;
    context.work.take_attributes(entry.attributes().len())?;
    let mut attributes = Attributes::default();
    for specification in entry.attributes() {
        let attribute = entries.read_attribute(*specification).ok()?;
        attributes.set(attribute.name(), attribute.value());
    }
    Some(attributes)
}
