//! All functions of one image, measured.
//!
//! Where functions begin is told by call frame information and symbols; between what these cover, by calls and jumps
//! that lead there, words of data that hold such an address, and where the program begins.

use std::collections::BTreeSet;
use std::ops::Range;

use gimli::UnwindContext;
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::frames::{Measured, Measuring, Part};
use super::machine::To;
use super::rules::{Cfa, Described, Rules};
use super::words::Words;
use crate::arch::{AARCH64, X86_64};
use crate::image::{CodeBytes, Image, Pointer};
use crate::share;

/// A function of an image, or a part of one that lies apart.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) range: Range<u64>,
    /// Whether it is entered in the midst of a function, by a jump.
    pub(super) is_apart: bool,
    pub(super) measured: Measured,
}

/// What was found in an image.
pub(super) struct Code<'a> {
    /// Sorted by address.
    pub(super) functions: Vec<Found>,
    pub(super) words: Words<'a>,
    parts: Vec<CodeBytes<'a>>,
    /// Whether only rules were read, and no instructions: then no call is known.
    pub(super) only_rules: bool,
}

/// So many rounds of looking for functions by what calls them are made.
const MOST_ROUNDS: usize = 16;

/// A thread is not worth starting for fewer functions than this.
const FEWEST_EACH: usize = 512;

impl<'a> Code<'a> {
    /// Reads all of `image`.
    pub(super) fn read(image: &'a Image) -> Code<'a> {
        let vendor = if is_aarch64(image) { gimli::Vendor::AArch64 } else { gimli::Vendor::Default };
        let sections = image.unwind_sections();
        let rules = Rules::new(&sections, vendor);
        let parts = image.code();
        let words = Words::new(image);
        if image.arch().elf_machine != X86_64.elf_machine {
            return Code { functions: by_rules(&rules), words, parts, only_rules: true };
        }
        let places: Vec<Place> = places(&rules, &parts);
        let apart = places.iter().filter(|place| place.entered != Some(ENTERED)).map(|place| place.range.clone());
        let words = words.with_apart(apart.collect());
        let mut code = Code { functions: Vec::new(), words, parts, only_rules: false };
        code.measure_described(&rules, &places);
        code.measure_others(image);
        code
    }

    /// The place in `functions` of the function that holds `svma`.
    pub(super) fn find(&self, svma: u64) -> Option<usize> {
        let next = self.functions.partition_point(|function| function.range.start <= svma);
        let place = next.checked_sub(1)?;
        self.functions.get(place).filter(|function| function.range.contains(&svma)).map(|_| place)
    }

    /// The word that the stub at `svma` jumps through, if it is one: an entry of a procedure linkage table.
    pub(super) fn stub(&self, svma: u64) -> Option<u64> {
        let mut code = Decoder::with_ip(64, self.tail(svma)?, svma, DecoderOptions::NONE).into_iter();
        let first = code.next()?;
        let jump = if first.mnemonic() == Mnemonic::Endbr64 { code.next()? } else { first };
        let is_stub = jump.mnemonic() == Mnemonic::Jmp && jump.is_ip_rel_memory_operand();
        is_stub.then(|| jump.ip_rel_memory_address())
    }

    /// The addresses of functions that the function at `place` names by `lea`.
    pub(super) fn taken(&self, place: usize) -> Vec<u64> {
        let Some(function) = self.functions.get(place) else { return Vec::new() };
        let Some(tail) = self.tail(function.range.start) else { return Vec::new() };
        let length = (function.range.end - function.range.start).min(tail.len() as u64) as usize;
        let code = Decoder::with_ip(64, &tail[..length], function.range.start, DecoderOptions::NONE).into_iter();
        let leas = code
            .filter(|instruction| instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand());
        leas.map(|lea| lea.ip_rel_memory_address()).collect()
    }

    fn tail(&self, svma: u64) -> Option<&'a [u8]> {
        self.parts.iter().find_map(|part| part.tail(svma))
    }

    fn measure_described(&mut self, rules: &Rules<'_>, places: &[Place]) {
        let (midway, whole): (Vec<&Place>, Vec<&Place>) = places.iter().partition(|place| place.entered.is_none());
        self.functions = self.measured(rules, &whole);
        // A part whose rules do not say where its stack pointer is has it where it was when it was jumped to.
        let mut jumps: Vec<(u64, i64)> = Vec::new();
        for call in self.functions.iter().flat_map(|function| &function.measured.calls).filter(|call| call.is_jump) {
            if let To::At(target) = call.to {
                jumps.push((target, call.depth));
            }
        }
        jumps.sort_unstable();
        let entered = |place: &Place| {
            let from = jumps.partition_point(|(target, _)| *target < place.range.start);
            let into = jumps[from..].iter().take_while(|(target, _)| *target < place.range.end);
            Place { entered: into.map(|(_, depth)| *depth).max(), ..place.clone() }
        };
        let midway: Vec<Place> = midway.into_iter().map(entered).collect();
        let measured = self.measured(rules, &midway.iter().collect::<Vec<_>>());
        self.functions.extend(measured);
        self.functions.sort_by_key(|function| function.range.start);
    }

    /// Measures functions that rules describe, on as many threads as are worth it.
    fn measured(&self, rules: &Rules<'_>, places: &[&Place]) -> Vec<Found> {
        let threads = share::threads(places.len(), FEWEST_EACH);
        let chunks: Vec<&[&Place]> = places.chunks(FEWEST_EACH).collect();
        let measure = |chunk: &[&Place]| {
            let mut context = UnwindContext::new();
            let mut rows = Vec::new();
            let mut measuring = Measuring::new(&self.words);
            let one = |place: &&Place| {
                rules.rows(&place.described, &mut context, &mut rows);
                let code = self.tail(place.range.start).unwrap_or_default();
                let part = Part { range: place.range.clone(), code, entered: place.entered, is_described: true };
                let is_apart = place.entered != Some(ENTERED);
                Found { range: place.range.clone(), is_apart, measured: measuring.measure(&part, &rows) }
            };
            chunk.iter().map(one).collect::<Vec<_>>()
        };
        share::joined(share::worked_off(chunks, threads, measure))
    }

    /// Finds and measures what lies between the functions that rules describe.
    fn measure_others(&mut self, image: &Image) {
        let gaps = self.gaps();
        let in_gap = |svma: u64| {
            let next = gaps.partition_point(|gap| gap.start <= svma);
            next.checked_sub(1).and_then(|index| gaps.get(index)).filter(|gap| gap.contains(&svma))
        };
        let mut starts: BTreeSet<u64> = BTreeSet::new();
        starts.extend(image.entries());
        starts.extend(image.function_symbols().iter().map(|function| function.svma));
        let pointed = self.words.pointers().iter().filter_map(|(_, pointer)| match pointer {
            Pointer::Here(svma) | Pointer::Chosen(svma) => Some(svma),
            Pointer::Named(_) => None,
        });
        starts.extend(pointed);
        starts.extend(self.functions.iter().flat_map(|function| targets(&function.measured)));
        starts.retain(|start| in_gap(*start).is_some());
        let mut others: Vec<Found> = Vec::new();
        for _ in 0..MOST_ROUNDS {
            let mut next_starts = starts.iter().copied().skip(1).map(Some).chain([None]);
            let ranges = starts.iter().filter_map(|start| {
                let next = next_starts.next().flatten().unwrap_or(u64::MAX);
                in_gap(*start).map(|gap| *start..gap.end.min(next))
            });
            let ranges: Vec<Range<u64>> = ranges.collect();
            others = self.measured_alone(&ranges, others);
            let known = starts.len();
            let called = others.iter().flat_map(|function| targets(&function.measured));
            starts.extend(called.filter(|target| in_gap(*target).is_some()).collect::<Vec<_>>());
            if starts.len() == known {
                break;
            }
        }
        self.functions.append(&mut others);
        self.functions.sort_by_key(|function| function.range.start);
    }

    /// Measures functions by their instructions alone, but for those that are `known` with the very same range.
    fn measured_alone(&self, ranges: &[Range<u64>], known: Vec<Found>) -> Vec<Found> {
        let mut measuring = Measuring::new(&self.words);
        let mut known = known.into_iter().peekable();
        let mut one = |range: &Range<u64>| {
            while known.next_if(|known| known.range.start < range.start).is_some() {}
            if let Some(known) = known.next_if(|known| known.range == *range) {
                return known;
            }
            let code = self.tail(range.start).unwrap_or_default();
            let part = Part { range: range.clone(), code, entered: Some(ENTERED), is_described: false };
            Found { range: range.clone(), is_apart: false, measured: measuring.measure(&part, &[]) }
        };
        ranges.iter().map(&mut one).collect()
    }

    /// The code that no rules describe.
    fn gaps(&self) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut described = self.functions.iter().map(|function| function.range.clone()).peekable();
        for part in &self.parts {
            let mut from = part.range().start;
            while let Some(range) = described.next_if(|range| range.start < part.range().end) {
                if range.start > from {
                    gaps.push(from..range.start);
                }
                from = from.max(range.end);
            }
            if from < part.range().end {
                gaps.push(from..part.range().end);
            }
        }
        gaps
    }
}

/// How deep the stack pointer is where a function begins that was called: below the return address.
pub(super) const ENTERED: i64 = 8;

/// Where a function lies that rules describe.
#[derive(Clone, Debug)]
struct Place {
    range: Range<u64>,
    described: Described,
    entered: Option<i64>,
}

/// The places of what the rules describe, cut to the code that there is.
fn places(rules: &Rules<'_>, parts: &[CodeBytes<'_>]) -> Vec<Place> {
    let mut context = UnwindContext::new();
    let mut rows = Vec::new();
    let mut places = Vec::new();
    for described in rules.described() {
        let Some(part) = parts.iter().find(|part| part.range().contains(&described.start)) else { continue };
        rules.rows(described, &mut context, &mut rows);
        let entered = match rows.first().map(|row| row.cfa) {
            Some(Cfa::Register(DWARF_RSP, depth)) => Some(depth),
            _ => None,
        };
        let range = described.start..described.end.min(part.range().end);
        places.push(Place { range, described: *described, entered });
    }
    places
}

/// The DWARF number of the stack pointer (System V ABI, AMD64 supplement, figure 3.36).
const DWARF_RSP: u16 = 7;

/// The same of the stack pointer of aarch64 (DWARF for the Arm 64-bit Architecture, section 4.1).
const DWARF_SP: u16 = 31;

fn is_aarch64(image: &Image) -> bool {
    image.arch().elf_machine == AARCH64.elf_machine
}

/// Frames as far as rules alone tell them.
fn by_rules(rules: &Rules<'_>) -> Vec<Found> {
    let mut context = UnwindContext::new();
    let mut rows = Vec::new();
    let one = |described: &Described| {
        rules.rows(described, &mut context, &mut rows);
        let depths = rows.iter().filter_map(|row| match row.cfa {
            Cfa::Register(DWARF_SP, depth) => Some(depth),
            _ => None,
        });
        let frame = depths.max().unwrap_or(0).max(0);
        let measured = Measured { frame, reach: frame, end: described.end, ..Measured::default() };
        Found { range: described.start..described.end, is_apart: false, measured }
    };
    rules.described().iter().map(one).collect()
}

/// The addresses that a function calls and jumps to.
fn targets(measured: &Measured) -> impl Iterator<Item = u64> {
    measured.calls.iter().filter_map(|call| match call.to {
        To::At(target) => Some(target),
        _ => None,
    })
}
