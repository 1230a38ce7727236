//! Where an image's code calls switch routines, its own and those of other images.
//!
//! Pure: what is asked is put in the file's own addresses, so that an answer holds for every process that asks the same.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::find::descriptors::ImageCode;
use crate::image::{Reference, Referrer, has_number, references};

/// A routine that only jumps on to another is reached through at most this many others.
const MOST_WRAPPERS: usize = 4;

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
    /// The routines whose address some instruction takes.
    pub(super) taken: BTreeSet<u32>,
}

/// The calls of `wanted` in an image's code.
///
/// Followed are direct calls, calls through slots, the stubs of the procedure linkage table, and functions that end
/// in a jump to such a place.
pub(super) fn calls_of(code: &ImageCode<'_>, wanted: &Wanted) -> Calls {
    let mut found = Calls::default();
    let own: HashMap<u64, u32> = wanted.entries.iter().copied().collect();
    let mut known = own.clone();
    for (referrer, routine) in referring_to(code, &wanted.slots.iter().copied().collect()) {
        match referrer.reference {
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
    let mut new = known.clone();
    for _ in 0..MOST_WRAPPERS {
        let mut wrappers = HashMap::new();
        for (referrer, routine) in referring_to(code, &new) {
            match referrer.reference {
                Reference::Call => found.returns.push((routine, referrer.next)),
                Reference::Jump => {
                    let start = (code.function_start)(referrer.at()).filter(|start| !known.contains_key(start));
                    wrappers.extend(start.map(|start| (start, routine)));
                }
                Reference::Take if own.contains_key(&referrer.target) => {
                    found.taken.insert(routine);
                }
                _ => {}
            }
        }
        known.extend(&wrappers);
        new = wrappers;
    }
    if wanted.is_fixed {
        let is_number = |svma: u64| u32::try_from(svma).is_ok_and(|number| has_number(code.parts, number));
        found.taken.extend(wanted.entries.iter().filter(|(svma, _)| is_number(*svma)).map(|(_, routine)| *routine));
    }
    found
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
