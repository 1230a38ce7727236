//! Where an image's code calls switch routines, its own and those of other images.
//!
//! Pure: what is asked is put in the file's own addresses, so that an answer holds for every process that asks the same.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{Decoder, DecoderOptions};
use serde::{Deserialize, Serialize};

use crate::find::descriptors::ImageCode;
use crate::image::{Reference, Referrer, has_number, references, short_jumps};

/// A routine that only jumps on to another is reached through at most this many others.
pub(super) const MOST_WRAPPERS: usize = 4;

/// A function that jumps on by a short jump has at most so many instructions before it.
const LONGEST_WRAPPER: usize = 1024;

/// What leads to switch routines, and which of these it leads to, by a number of the asker's choice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Routines in this image: the svma of each, sorted.
    pub(super) entries: Vec<(u64, u32)>,
    /// Words of its data that hold a routine's address: the svma of each, sorted.
    pub(super) slots: Vec<(u64, u32)>,
    /// Whether it is linked to run at one place, so that code may have addresses as plain numbers.
    pub(super) is_fixed: bool,
}

/// What was found; routines by the asker's numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Calls {
    /// The routines that are called, and the svmas to which they return.
    pub(super) returns: Vec<(u32, u64)>,
    /// The routines whose address the code takes, or that a word holds which is not only called through.
    pub(super) taken: BTreeSet<u32>,
    /// Functions of its own that end in a jump to one of the routines.
    pub(super) wrappers: Vec<Wrapper>,
}

/// A function that ends in a jump to a routine, so that the routine returns to its callers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Wrapper {
    /// Its svma.
    pub(super) entry: u64,
    /// The routine's number.
    pub(super) routine: u32,
    /// Whether the code takes its address.
    pub(super) is_taken: bool,
}

/// The calls of `wanted` in an image's code.
///
/// Followed are direct calls, calls through slots, the stubs of the procedure linkage table, and functions that end
/// in a jump to such a place.
pub(super) fn calls_of(code: &ImageCode<'_>, wanted: &Wanted) -> Calls {
    let mut found = Calls::default();
    let mut known: HashMap<u64, u32> = wanted.entries.iter().copied().collect();
    let mut called_through = BTreeSet::new();
    for (referrer, routine) in referring_to(code, &wanted.slots.iter().copied().collect()) {
        if matches!(referrer.reference, Reference::SlotCall | Reference::SlotJump) {
            called_through.insert(referrer.target);
        }
        match referrer.reference {
            Reference::SlotLoad => {
                found.taken.insert(routine);
            }
            Reference::SlotCall => found.returns.push((routine, referrer.next)),
            Reference::SlotJump => {
                // A stub may begin with `endbr64` (four bytes), `bnd` (one), or both.
                let stubs = [0, 1, 4, 5].map(|prefix| referrer.at().wrapping_sub(prefix));
                let starts = stubs.into_iter().chain((code.function_start)(referrer.at()));
                known.extend(starts.map(|start| (start, routine)));
            }
            _ => {}
        }
    }
    let is_only_held = |slot: &&(u64, u32)| !called_through.contains(&slot.0);
    found.taken.extend(wanted.slots.iter().filter(is_only_held).map(|(_, routine)| *routine));
    let mut new = known.clone();
    let mut taken = BTreeSet::new();
    for _ in 0..MOST_WRAPPERS {
        let mut wrappers = HashMap::new();
        for (referrer, routine) in referring_to(code, &new) {
            match referrer.reference {
                Reference::Call => found.returns.push((routine, referrer.next)),
                Reference::Jump | Reference::Branch => {
                    let start = (code.function_start)(referrer.at()).filter(|start| !known.contains_key(start));
                    wrappers.extend(start.map(|start| (start, routine)));
                }
                Reference::Take => {
                    taken.insert(referrer.target);
                }
                _ => {}
            }
        }
        for (target, routine) in &new {
            let short = code.parts.iter().flat_map(|part| short_jumps(*part, *target));
            let starts = short.filter_map(|at| (code.function_start)(at).filter(|start| begins_at(code, *start, at)));
            wrappers.extend(starts.filter(|start| !known.contains_key(start)).map(|start| (start, *routine)));
        }
        let wrapper = |(entry, routine): (&u64, &u32)| Wrapper { entry: *entry, routine: *routine, is_taken: false };
        found.wrappers.extend(wrappers.iter().map(wrapper));
        known.extend(&wrappers);
        new = wrappers;
    }
    let is_number =
        |svma: u64| wanted.is_fixed && u32::try_from(svma).is_ok_and(|number| has_number(code.parts, number));
    let is_taken = |svma: u64| taken.contains(&svma) || is_number(svma);
    found.taken.extend(wanted.entries.iter().filter(|(svma, _)| is_taken(*svma)).map(|(_, routine)| *routine));
    found.wrappers.iter_mut().for_each(|wrapper| wrapper.is_taken = is_taken(wrapper.entry));
    found.wrappers.sort_unstable_by_key(|wrapper| wrapper.entry);
    found
}

/// Whether an instruction begins at `at` in the function that begins at `start`.
fn begins_at(code: &ImageCode<'_>, start: u64, at: u64) -> bool {
    let Some(function) = code.parts.iter().find_map(|part| part.tail(start)) else { return false };
    let length = usize::try_from(at - start).unwrap_or(usize::MAX);
    let Some(before) = function.get(..length) else { return false };
    let instructions = Decoder::with_ip(64, before, start, DecoderOptions::NONE).into_iter();
    instructions.take(LONGEST_WRAPPER).last().is_none_or(|last| !last.is_invalid() && last.next_ip() == at)
}

/// The instructions that name one of the addresses `wanted`, each with the routine that it stands for.
fn referring_to(code: &ImageCode<'_>, wanted: &HashMap<u64, u32>) -> Vec<(Referrer, u32)> {
    let mut addresses: Vec<_> = wanted.keys().map(|address| *address..=*address).collect();
    addresses.sort_unstable_by_key(|address| *address.start());
    if addresses.is_empty() {
        return Vec::new();
    }
    let named = code.parts.iter().flat_map(|part| references(*part, &addresses));
    named.filter_map(|referrer| Some((referrer, *wanted.get(&referrer.target)?))).collect()
}
