//! The functions that an image's call frame information describes, and how far each instruction's CFA is from its
//! registers.
//!
//! Read from front to back, once: a look at every function has no use for the indexes by which unwinding finds one.

use std::collections::HashSet;

use gimli::{BaseAddresses, CfaRule, LittleEndian, UnwindContext, UnwindOffset, UnwindSection};

use crate::image::{SectionBytes, UnwindSections};
use crate::unwind::{EntryOffsets, Slice};

/// The rules of one image.
pub(super) struct Rules<'d> {
    bases: BaseAddresses,
    eh_frame: gimli::EhFrame<Slice<'d>>,
    debug_frame: gimli::DebugFrame<Slice<'d>>,
    /// Sorted; none overlaps the next.
    described: Vec<Described>,
}

/// A range of code that an entry describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Described {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where the entry stands in its section.
    offset: usize,
    in_debug_frame: bool,
}

/// From which address on which rule holds for the CFA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) start: u64,
    pub(super) cfa: Cfa,
}

/// The rule for a CFA, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cfa {
    /// The DWARF register of this number, plus so many bytes.
    Register(u16, i64),
    /// An expression.
    Other,
}

/// More bytes than this no entry has: neither compilers' nor the longest of librustc_driver.
const LONGEST_ENTRY: usize = 1 << 16;

/// More than this no common part has, which is run again for each entry.
const LONGEST_COMMON: usize = 256;

impl<'d> Rules<'d> {
    /// Finds the entries; those that can't be understood are left out.
    pub(super) fn new(sections: &UnwindSections<'d>, vendor: gimli::Vendor) -> Rules<'d> {
        let bytes = |section: Option<SectionBytes<'d>>| section.map_or(&[][..], |section| section.bytes);
        let mut eh_frame = gimli::EhFrame::new(bytes(sections.eh_frame), LittleEndian);
        eh_frame.set_vendor(vendor);
        let mut debug_frame = gimli::DebugFrame::new(bytes(sections.debug_frame), LittleEndian);
        debug_frame.set_vendor(vendor);
        let bases = sections.bases();
        let mut described = entries(&eh_frame, &bases, false);
        described.extend(entries(&debug_frame, &bases, true));
        described.sort_by_key(|entry| (entry.start, entry.in_debug_frame));
        described.dedup_by_key(|entry| entry.start);
        for index in 1..described.len() {
            let next = described[index].start;
            let before = &mut described[index - 1];
            before.end = before.end.min(next);
        }
        Rules { bases, eh_frame, debug_frame, described }
    }

    /// What the entries describe, sorted by address.
    pub(super) fn described(&self) -> &[Described] {
        &self.described
    }

    /// Puts the rows of an entry into `rows`, as far as they can be understood.
    pub(super) fn rows(&self, described: &Described, context: &mut UnwindContext<usize>, rows: &mut Vec<Row>) {
        rows.clear();
        // An entry that breaks off leaves the rows that came before.
        let _ = match described.in_debug_frame {
            false => read_rows(&self.eh_frame, &self.bases, described.offset, context, rows),
            true => read_rows(&self.debug_frame, &self.bases, described.offset, context, rows),
        };
    }
}

fn entries<'d, S>(section: &S, bases: &BaseAddresses, in_debug_frame: bool) -> Vec<Described>
where
    S: UnwindSection<Slice<'d>> + gimli::Section<Slice<'d>>,
{
    let (mut found, mut refused) = (Vec::new(), HashSet::new());
    let mut known = None;
    for offset in EntryOffsets::of(section) {
        let Ok(partial) = section.partial_fde_from_offset(bases, offset.into()) else { continue };
        let common_at = UnwindOffset::into(partial.cie_offset());
        if partial.entry_len() > LONGEST_ENTRY || refused.contains(&common_at) {
            continue;
        }
        if known.as_ref().is_none_or(|(at, _)| *at != common_at) {
            let common = section.cie_from_offset(bases, partial.cie_offset());
            match common.ok().filter(|common| common.entry_len() <= LONGEST_COMMON) {
                Some(common) => known = Some((common_at, common)),
                None => {
                    refused.insert(common_at);
                    continue;
                }
            }
        }
        let Some((_, common)) = &known else { continue };
        let Ok(entry) = partial.parse(|_, _, _| Ok(common.clone())) else { continue };
        let (start, end) = (entry.initial_address(), entry.end_address());
        if start < end && start != 0 && !common.is_signal_trampoline() {
            found.push(Described { start, end, offset, in_debug_frame });
        }
    }
    found
}

fn read_rows<'d, S>(
    section: &S,
    bases: &BaseAddresses,
    offset: usize,
    context: &mut UnwindContext<usize>,
    rows: &mut Vec<Row>,
) -> gimli::Result<()>
where
    S: UnwindSection<Slice<'d>>,
{
    let entry = section.fde_from_offset(bases, offset.into(), S::cie_from_offset)?;
    let mut table = entry.rows(section, bases, context)?;
    while let Some(row) = table.next_row()? {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => Cfa::Register(register.0, *offset),
            CfaRule::Expression(_) => Cfa::Other,
        };
        let start = row.start_address();
        if rows.last().is_none_or(|last| last.cfa != cfa) {
            rows.push(Row { start, cfa });
        }
    }
    Ok(())
}
