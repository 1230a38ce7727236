//! Code addresses where a fresh context begins, which nobody has called and nobody returned to.
//!
//! A library prepares a stack so that the first switch to it lands at a label or trampoline near its switch routine, in
//! a trampoline that takes the new stack pointer from a register, or behind a function that fills in a block.
//! Each is only a place to try: a wrong one finds no context whose stack pointer is kept anywhere.

use std::collections::BTreeSet;

use iced_x86::Mnemonic;

use super::{Descriptor, Place, Resume, StartLabel};
use crate::find::descriptors::flow::Reader;
use crate::find::descriptors::inlined::arrives_by_register;
use crate::image::{CodeBytes, stores};

/// Start code lies at most this many bytes from the switch routine, both made by one assembler file.
const NEAR: u64 = 1024;

/// A trampoline sets the stack pointer within this many bytes of its beginning.
const LONGEST_TRAMPOLINE: u64 = 32;

/// More labels than this are not tried.
const MOST_LABELS: usize = 4096;

/// The places in an image where fresh contexts may begin, sorted; `sites` are those that may be in a trampoline.
pub(super) fn labels(reader: &Reader<'_>, descriptors: &[Descriptor], sites: &[u64]) -> Vec<StartLabel> {
    let mut labels = Vec::new();
    for descriptor in descriptors.iter().filter(|descriptor| !descriptor.saves_only) {
        match (descriptor.resume, &descriptor.fresh, descriptor.layout.resume_word) {
            (Resume::AfterCallsOf(entry), None, _) => {
                labels.extend(near(reader, entry).chain(undescribed(reader, entry)))
            }
            (Resume::Label { label, .. }, _, Place::Stack(_)) => labels.extend(undescribed(reader, label)),
            _ => {}
        }
        if let (Place::Block(pc_slot), Some(sp_slot)) = (descriptor.layout.resume_word, descriptor.layout.sp_slot) {
            labels.extend(planted_by_makers(reader, sp_slot, pc_slot));
        }
    }
    labels.extend(sites.iter().flat_map(|site| trampoline(reader, *site)));
    labels.sort_unstable();
    labels.dedup();
    labels.truncate(MOST_LABELS);
    labels.into_iter().map(StartLabel).collect()
}

/// The places where contexts may begin whose block names them: routines and labels near the switch routines that no unwind
/// table describes, as they were written by hand. Blocks hold addresses of compiled functions for other reasons too.
pub(super) fn named_by_blocks(reader: &Reader<'_>, descriptors: &[Descriptor]) -> Vec<StartLabel> {
    let mut labels = Vec::new();
    for descriptor in descriptors.iter().filter(|descriptor| descriptor.fresh.is_some()) {
        if let Resume::AfterCallsOf(entry) = descriptor.resume {
            labels.extend(undescribed(reader, entry));
        }
    }
    labels.sort_unstable();
    labels.dedup();
    labels.truncate(MOST_LABELS);
    labels.into_iter().map(StartLabel).collect()
}

/// The places near `entry` that no unwind table describes, and where a routine has a symbol, a label's address is taken, or
/// code is aligned like a function: written by hand, as switch code is.
fn undescribed(reader: &Reader<'_>, entry: u64) -> impl Iterator<Item = u64> {
    let named = reader.named_starts(entry.saturating_add(NEAR), 2 * NEAR).into_iter();
    let places = near(reader, entry).chain(named.filter(move |start| *start != entry));
    places.filter(|place| reader.function_start(*place).is_none())
}

/// Labels whose address is taken near `entry`, and functions there.
fn near(reader: &Reader<'_>, entry: u64) -> impl Iterator<Item = u64> {
    let part = reader.parts().iter().find(|part| part.range().contains(&entry));
    part.into_iter().flat_map(move |part| near_in(reader, part, entry))
}

fn near_in(reader: &Reader<'_>, part: &CodeBytes<'_>, entry: u64) -> Vec<u64> {
    let range = entry.saturating_sub(NEAR).max(part.svma)..entry.saturating_add(NEAR).min(part.range().end);
    let taken = addresses_taken(part, range.start, range.end);
    // Assemblers align functions less than compilers do.
    let places = (range.start.next_multiple_of(4)..range.end).step_by(4).filter(|start| *start != entry);
    let functions = places.filter(|start| match reader.function_start(*start) {
        Some(known) => known == *start,
        None => start.is_multiple_of(16),
    });
    // Where nothing is done but to return, contexts go on that have left.
    let begins = |label: &u64| reader.instruction(*label).is_some_and(|first| first.mnemonic() != Mnemonic::Ret);
    taken.filter(begins).chain(functions).collect()
}

/// The addresses that `lea r, [rip+x]` instructions between `low` and `high` take.
fn addresses_taken<'a>(code: &'a CodeBytes<'a>, low: u64, high: u64) -> impl Iterator<Item = u64> + 'a {
    (low..high).filter_map(|at| {
        let [0x48 | 0x4c, 0x8d, modrm, a, b, c, d] = *code.tail(at)?.first_chunk::<7>()? else { return None };
        let displacement = i64::from(i32::from_le_bytes([a, b, c, d]));
        (modrm & 0xc7 == 0x05).then(|| at.wrapping_add(7).wrapping_add_signed(displacement))
    })
}

/// Whether code shortly before `site` takes its stack pointer from a register.
pub(super) fn may_be_in_trampoline(reader: &Reader<'_>, site: u64) -> bool {
    (site.saturating_sub(LONGEST_TRAMPOLINE)..=site).any(|start| arrives_by_register(reader, start))
}

/// The routine around `site` if it begins by taking its stack pointer from a register.
fn trampoline(reader: &Reader<'_>, site: u64) -> Option<u64> {
    let start = reader.entries(site).into_iter().next()?;
    (site.saturating_sub(start) <= LONGEST_TRAMPOLINE && arrives_by_register(reader, start)).then_some(start)
}

/// Functions whose address is taken by a function that fills in both the stack pointer and the code address of a block.
fn planted_by_makers(reader: &Reader<'_>, sp_slot: i64, pc_slot: i64) -> Vec<u64> {
    // Near the beginning of a block, everything stores.
    let far = |slot: i64| i32::try_from(slot).ok().filter(|slot| i8::try_from(*slot).is_err());
    let (Some(sp_slot), Some(pc_slot)) = (far(sp_slot), far(pc_slot)) else { return Vec::new() };
    let functions_storing_to = |part: &CodeBytes<'_>, slot: i32| -> BTreeSet<u64> {
        stores(*part, slot).filter_map(|store| reader.function_start(store.at)).collect()
    };
    let mut planted = Vec::new();
    for part in reader.parts() {
        let makers = functions_storing_to(part, pc_slot);
        for maker in makers.intersection(&functions_storing_to(part, sp_slot)) {
            let taken = addresses_taken(part, *maker, maker.saturating_add(NEAR).min(part.range().end));
            planted.extend(taken.filter(|label| reader.function_start(*label) == Some(*label)));
        }
    }
    planted
}
