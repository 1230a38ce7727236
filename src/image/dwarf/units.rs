//! Which unit of the debug information describes an svma.
//!
//! `.debug_aranges` (DWARF 5, section 6.1.2) says so without a look at the units, if a compiler wrote it for all of
//! them. The header of every unit is read only if it does not have an svma. Both indexes are kept with the image.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfoOffset, LittleEndian, Section, UnitHeader,
    UnitType, constants as dw,
};

use super::{Dwarf, Reader, Unit, Work};

/// The units of one file by the addresses they describe, and by their offset.
#[derive(Default)]
pub(crate) struct UnitIndex {
    by_aranges: OnceLock<Ranges>,
    by_units: OnceLock<Ranges>,
    offsets: OnceLock<Vec<usize>>,
}

/// Ranges of svmas, sorted by their begin, and the offset of the unit that each belongs to.
#[derive(Default)]
struct Ranges(Vec<UnitRange>);

struct UnitRange {
    begin: u64,
    end: u64,
    unit: usize,
    /// The highest end of this range and those before it: where a search may stop.
    highest_end: u64,
}

/// More units than this for one svma come from damaged or folded code, of which any is as good as another.
const MOST_UNITS: usize = 4;

impl UnitIndex {
    /// The offsets of the units that describe each of `svmas`, the most likely first.
    pub(super) fn units_of(&self, dwarf: &Dwarf<'_>, svmas: &[u64], work: &Work) -> Vec<Vec<usize>> {
        let by_aranges = self.by_aranges.get_or_init(|| Ranges::by_aranges(dwarf, work));
        let find = |svma: &u64| {
            let units = by_aranges.find(*svma, work);
            if !units.is_empty() {
                return units;
            }
            self.by_units.get_or_init(|| Ranges::by_units(dwarf, work)).find(*svma, work)
        };
        svmas.iter().map(find).collect()
    }

    /// The offset of the unit that holds the entry at `offset`.
    pub(super) fn unit_holding(&self, dwarf: &Dwarf<'_>, offset: usize) -> Option<usize> {
        let offsets = self.offsets.get_or_init(|| {
            let mut headers = dwarf.units();
            let mut offsets = Vec::new();
            while let Ok(Some(header)) = headers.next() {
                offsets.extend(header.debug_info_offset().map(|offset| offset.0));
            }
            offsets
        });
        offsets.get(offsets.partition_point(|unit| *unit <= offset).checked_sub(1)?).copied()
    }
}

impl Ranges {
    fn new(mut ranges: Vec<UnitRange>) -> Ranges {
        ranges.sort_unstable_by_key(|range| (range.begin, range.end, range.unit));
        let mut highest_end = 0;
        for range in &mut ranges {
            highest_end = range.end.max(highest_end);
            range.highest_end = highest_end;
        }
        Ranges(ranges)
    }

    fn find(&self, svma: u64, work: &Work) -> Vec<usize> {
        let below = self.0.partition_point(|range| range.begin <= svma);
        let mut units = Vec::new();
        for range in self.0[..below].iter().rev().take_while(|range| range.highest_end > svma) {
            if work.take(1).is_none() || units.len() == MOST_UNITS {
                break;
            }
            if svma < range.end && !units.contains(&range.unit) {
                units.push(range.unit);
            }
        }
        units
    }

    fn by_aranges(dwarf: &Dwarf<'_>, work: &Work) -> Ranges {
        let mut ranges = Vec::new();
        let mut headers = dwarf.debug_aranges.headers();
        while let Ok(Some(header)) = headers.next() {
            let DebugInfoOffset(unit) = header.debug_info_offset();
            let mut entries = header.entries();
            while let (Ok(Some(entry)), Some(())) = (entries.next(), work.take(1)) {
                push(&mut ranges, entry.range(), unit);
            }
        }
        Ranges::new(ranges)
    }

    fn by_units(dwarf: &Dwarf<'_>, work: &Work) -> Ranges {
        let mut ranges = Vec::new();
        let mut headers = Vec::new();
        let mut all = dwarf.units();
        while let (Ok(Some(header)), Some(())) = (all.next(), work.take(1)) {
            headers.push(header);
        }
        let mut tables = AbbreviationTables::of(&headers);
        for header in headers {
            // A unit that can't be read is left out; the others do not depend on it.
            let _ = add_unit(dwarf, header, &mut tables, &mut ranges, work);
        }
        Ranges::new(ranges)
    }
}

/// Code at svma 0 does not exist: linkers move what they removed there.
fn push(ranges: &mut Vec<UnitRange>, range: gimli::Range, unit: usize) {
    if 0 < range.begin && range.begin < range.end {
        ranges.push(UnitRange { begin: range.begin, end: range.end, unit, highest_end: 0 });
    }
}

/// The tables of abbreviations of all units, each read once: units often share one.
///
/// A table is taken to end where the next one begins, so that all of them together are no longer than their section,
/// however they overlap in a damaged file.
struct AbbreviationTables {
    /// Where tables begin, sorted.
    offsets: Vec<usize>,
    read: HashMap<usize, Arc<Abbreviations>>,
}

impl AbbreviationTables {
    fn of(headers: &[UnitHeader<Reader<'_>>]) -> AbbreviationTables {
        let mut offsets: Vec<usize> = headers.iter().map(|header| header.debug_abbrev_offset().0).collect();
        offsets.sort_unstable();
        offsets.dedup();
        AbbreviationTables { offsets, read: HashMap::new() }
    }

    fn get(&mut self, dwarf: &Dwarf<'_>, offset: usize) -> gimli::Result<Arc<Abbreviations>> {
        if let Some(table) = self.read.get(&offset) {
            return Ok(Arc::clone(table));
        }
        let next = self.offsets.get(self.offsets.partition_point(|other| *other <= offset));
        let table = read_abbreviations(dwarf, offset, next.map_or(usize::MAX, |next| next - offset))?;
        self.read.insert(offset, Arc::clone(&table));
        Ok(table)
    }
}

/// Reads the table of abbreviations at `offset`, which is at most `longest` bytes long.
pub(super) fn read_abbreviations(
    dwarf: &Dwarf<'_>,
    offset: usize,
    longest: usize,
) -> gimli::Result<Arc<Abbreviations>> {
    let section = dwarf.debug_abbrev.reader().slice();
    let tail = section.get(offset..).unwrap_or_default();
    let table = DebugAbbrev::new(&tail[..tail.len().min(longest)], LittleEndian);
    table.abbreviations(DebugAbbrevOffset(0)).map(Arc::new)
}

fn add_unit<'a>(
    dwarf: &Dwarf<'a>,
    header: UnitHeader<Reader<'a>>,
    tables: &mut AbbreviationTables,
    ranges: &mut Vec<UnitRange>,
    work: &Work,
) -> gimli::Result<()> {
    let (Some(DebugInfoOffset(offset)), UnitType::Compilation | UnitType::Skeleton(_)) =
        (header.debug_info_offset(), header.type_())
    else {
        return Ok(());
    };
    let (unit, heading) = read_heading(dwarf, header, tables.get(dwarf, header.debug_abbrev_offset().0)?, work)?;
    if let Some(list) = heading.ranges.map(|value| dwarf.attr_ranges_offset(&unit, value)).transpose()?.flatten() {
        let mut list = dwarf.ranges(&unit, list)?;
        while let (Some(range), Some(())) = (list.next()?, work.take(1)) {
            push(ranges, range, offset);
        }
    } else if let Some(end) = heading.end(dwarf, &unit)? {
        push(ranges, gimli::Range { begin: unit.low_pc, end }, offset);
    }
    Ok(())
}

/// What a unit's first entry says of the addresses it describes.
#[derive(Default)]
struct Heading<'a> {
    low_pc: Option<AttributeValue<Reader<'a>>>,
    high_pc: Option<AttributeValue<Reader<'a>>>,
    ranges: Option<AttributeValue<Reader<'a>>>,
}

impl<'a> Heading<'a> {
    fn end(&self, dwarf: &Dwarf<'a>, unit: &Unit<'a>) -> gimli::Result<Option<u64>> {
        let Some(high_pc) = self.high_pc else { return Ok(None) };
        let size = high_pc.udata_value().and_then(|size| unit.low_pc.checked_add(size));
        Ok(dwarf.attr_address(unit, high_pc)?.or(size))
    }
}

/// Reads a unit's first entry, and not its line program's header, which [`gimli::Dwarf::unit`] would.
fn read_heading<'a>(
    dwarf: &Dwarf<'a>,
    header: UnitHeader<Reader<'a>>,
    abbreviations: Arc<Abbreviations>,
    work: &Work,
) -> gimli::Result<(Unit<'a>, Heading<'a>)> {
    let mut heading = Heading::default();
    let mut unit = Unit {
        header,
        abbreviations: Arc::clone(&abbreviations),
        name: None,
        comp_dir: None,
        low_pc: 0,
        str_offsets_base: gimli::DebugStrOffsetsBase(0),
        addr_base: gimli::DebugAddrBase(0),
        loclists_base: gimli::DebugLocListsBase(0),
        rnglists_base: gimli::DebugRngListsBase(0),
        line_program: None,
        dwo_id: None,
    };
    let mut entries = header.entries_raw(&abbreviations, None)?;
    let specifications = entries.read_abbreviation()?.map_or(&[][..], |entry| entry.attributes());
    let is_paid = work.take_attributes(specifications.len()).is_some();
    for specification in specifications.iter().filter(|_| is_paid) {
        let attribute = entries.read_attribute(*specification)?;
        match (attribute.name(), attribute.value()) {
            (dw::DW_AT_low_pc, value) => heading.low_pc = Some(value),
            (dw::DW_AT_high_pc, value) => heading.high_pc = Some(value),
            (dw::DW_AT_ranges, value) => heading.ranges = Some(value),
            (_, AttributeValue::DebugAddrBase(base)) => unit.addr_base = base,
            (_, AttributeValue::DebugRngListsBase(base)) => unit.rnglists_base = base,
            _ => {}
        }
    }
    if let Some(low_pc) = heading.low_pc {
        unit.low_pc = dwarf.attr_address(&unit, low_pc)?.unwrap_or(0);
    }
    Ok((unit, heading))
}
