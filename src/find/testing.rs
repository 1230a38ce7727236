//! Memory and resume words put together by hand.

use crate::addr::{Addr, AddrRange, Pc};
use crate::find::descriptors::{Layout, Mangling, Place};
use crate::find::sites::{Origin, Site, Sites};
use crate::mapping::{Access, Mapping, Origin as MappingOrigin};
use crate::memory::Slices;
use crate::registers::Register;

/// Where things lie.
pub(super) const STACK: u64 = 0x7000_0000;
pub(super) const HEAP: u64 = 0x5000_0000;
pub(super) const BLOCK: u64 = 0x5100_0000;
/// The resume word of [`sites`].
pub(super) const RESUME: u64 = 0x10_0010;

/// DWARF numbers (System V ABI, figure 3.36).
pub(super) const RBX: Register = Register(3);
pub(super) const RBP: Register = Register(6);

/// Two registers pushed on a return address.
pub(super) fn held_on_stack() -> Layout {
    Layout {
        resume_word: Place::Stack(16),
        stack_copy: None,
        sp_slot: None,
        sp_after: 24,
        registers: vec![(RBX, Place::Stack(0)), (RBP, Place::Stack(8))],
        tags: 0,
        mangling: None,
    }
}

/// A block with stack pointer, resume word, and a register; the return address stays on the stack.
pub(super) fn held_in_block(mangling: Option<Mangling>) -> Layout {
    Layout {
        resume_word: Place::Block(8),
        stack_copy: Some(8),
        sp_slot: Some(0),
        sp_after: 0,
        registers: vec![(RBX, Place::Block(16))],
        tags: 0,
        mangling,
    }
}

/// One resume word, and one layout.
pub(super) fn sites(origin: Origin, layout: Layout) -> Sites {
    let pc = if origin == Origin::Fresh { Pc::At(Addr(RESUME)) } else { Pc::After(Addr(RESUME)) };
    let site = Site { word: RESUME, pc, origin, layouts: vec![0], is_vague: false };
    let (entries, switches) = (vec![RESUME], vec![RESUME - 0x10]);
    Sites { layouts: vec![layout], sites: vec![site], entries, switches, begins_by_signals: false }
}

/// Words at addresses.
pub(super) struct Words(Vec<(Addr, Vec<u8>)>);

impl Words {
    pub(super) fn new(words: &[(u64, &[u64])]) -> Words {
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Words(words.iter().map(|(at, words)| (Addr(*at), bytes(words))).collect())
    }

    pub(super) fn slices(&self) -> Slices<'_> {
        Slices::new(self.0.iter().map(|(at, bytes)| (*at, &bytes[..])).collect())
    }
}

/// Memory that the program may read and write.
pub(super) fn writable(low: u64, high: u64) -> Mapping {
    Mapping {
        range: AddrRange::new(Addr(low), Addr(high)),
        access: Access { read: true, write: true, execute: false },
        shared: false,
        origin: MappingOrigin::Anonymous,
    }
}
