//! Switch routines that are jumped to, with the address to go on at in a register: they push it as a call would have.
//!
//! The functions that jump there take the address of a label behind the jump. So each of them is like a function with
//! switch code of its own, of which the routine is the part that all share.

use std::collections::HashMap;

use super::{Descriptor, inlined};
use crate::find::descriptors::flow::Reader;
use crate::find::descriptors::machine::{Base, CALLEE_SAVED, RSP, Sum, Value};
use crate::image::{Reference, references};

/// The descriptors of all functions that jump to the routines around `sites`.
pub(super) fn derive(reader: &Reader<'_>, sites: &[u64]) -> Vec<Descriptor> {
    let mut site_of: HashMap<u64, u64> = HashMap::new();
    for site in sites {
        site_of.extend(
            reader.function_start(*site).filter(|entry| is_handed(reader, *entry, *site)).map(|it| (it, *site)),
        );
    }
    let mut entries: Vec<_> = site_of.keys().map(|entry| *entry..=*entry).collect();
    if entries.is_empty() {
        return Vec::new();
    }
    entries.sort_unstable_by_key(|entry| *entry.start());
    let referrers = reader.parts().iter().flat_map(|part| references(*part, &entries));
    let jumps = referrers.filter(|referrer| referrer.reference == Reference::Jump);
    jumps.filter_map(|jump| inlined::derive_by(reader, jump.at(), *site_of.get(&jump.target)?)).collect()
}

/// Whether the routine from `entry` to `site` pushes a register that a call leaves free, where its own stack ends.
fn is_handed(reader: &Reader<'_>, entry: u64, site: u64) -> bool {
    let Some(machine) = reader.reach_straight(entry, site) else { return false };
    let first = Sum { base: Base::Start(RSP), offset: -8 };
    let pushed = machine.written.iter().find(|(place, _)| *place == first).map(|(_, value)| *value);
    let is_free = |register: &u8| *register != RSP && !CALLEE_SAVED.contains(register);
    (0..16).filter(is_free).any(|register| pushed == Some(Value::start(register, 0)))
}
