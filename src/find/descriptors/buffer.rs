//! Routines that save a context to a block and return, like `setjmp`: the other half of one that loads it.

use iced_x86::InstructionInfoFactory;

use super::{Descriptor, Layout, Place, Resume};
use crate::find::descriptors::flow::Reader;
use crate::find::descriptors::machine::{Base, Flow, Gpr, Machine, RBP, RSP, Sum, Twist, Value};
use crate::find::descriptors::routine::{Loader, dwarf};
use crate::image::stores;

/// Of the registers that are saved, the one whose store is looked for.
const R15: Gpr = 15;

/// A saving routine is done within this many instructions.
const LONGEST_SAVER: usize = 64;

/// The routines that save what `loader` loads, where it loads it from.
pub(super) fn savers(reader: &Reader<'_>, loader: &Loader) -> Vec<Descriptor> {
    let entry = |at: &u64| reader.entries(*at).into_iter().find(|entry| saves(reader, *entry, loader));
    let mut entries: Vec<u64> = places(reader, loader).iter().filter_map(entry).collect();
    entries.sort_unstable();
    entries.dedup();
    entries.into_iter().map(|entry| descriptor(entry, loader)).collect()
}

/// Where one of them may be: places that store a register to where `loader` loads it from.
pub(super) fn places(reader: &Reader<'_>, loader: &Loader) -> Vec<u64> {
    let slot = loader.registers.iter().find(|(register, _)| *register == R15);
    let slot = slot.and_then(|(_, slot)| i32::try_from(*slot).ok());
    let stores = slot.into_iter().flat_map(|slot| reader.parts().iter().flat_map(move |part| stores(*part, slot)));
    stores.filter(|store| store.register == R15).map(|store| store.at).collect()
}

/// Whether the routine at `entry` saves, before it returns, what `loader` loads.
fn saves(reader: &Reader<'_>, entry: u64, loader: &Loader) -> bool {
    let mut machine = Machine::new();
    let mut information = InstructionInfoFactory::new();
    let mut at = entry;
    for _ in 0..LONGEST_SAVER {
        let Some(instruction) = reader.instruction(at) else { return false };
        match machine.step(&instruction, &mut information) {
            Flow::Next | Flow::Branch(_) => at = instruction.next_ip(),
            _ => return has_saved(&machine, loader),
        }
    }
    false
}

fn has_saved(machine: &Machine, loader: &Loader) -> bool {
    let hidden = |sum: Sum| match loader.mangling {
        None => Value::Known(sum, Twist::None),
        Some(mangling) => Value::Known(sum, Twist::XorRotated(mangling.guard, mangling.rotation)),
    };
    // The argument register that holds the block is the one through which the stack pointer was stored.
    let sp = hidden(Sum { base: Base::Start(RSP), offset: 8 });
    let Some(block) = machine.written.iter().find_map(|(place, value)| {
        (*value == sp && place.offset == loader.sp_slot && matches!(place.base, Base::Start(_))).then_some(place.base)
    }) else {
        return false;
    };
    let at = |slot: i64| {
        let place = Sum { base: block, offset: slot };
        machine.written.iter().find(|(written, _)| *written == place).map(|(_, value)| *value)
    };
    let return_address = machine.loads.iter().position(|load| *load == Sum { base: Base::Start(RSP), offset: 0 });
    let saved_pc = return_address
        .is_some_and(|index| at(loader.pc_slot) == Some(hidden(Sum { base: Base::Loaded(index as u16), offset: 0 })));
    saved_pc
        && loader.registers.iter().all(|(register, slot)| {
            let sum = Sum { base: Base::Start(*register), offset: 0 };
            at(*slot) == Some(if *register == RBP { hidden(sum) } else { Value::Known(sum, Twist::None) })
        })
}

fn descriptor(entry: u64, loader: &Loader) -> Descriptor {
    let registers = loader.registers.iter().map(|(register, slot)| (dwarf(*register), Place::Block(*slot)));
    Descriptor {
        site: loader.site,
        resume: Resume::AfterCallsOf(entry),
        fresh: None,
        layout: Layout {
            resume_word: Place::Block(loader.pc_slot),
            stack_copy: None,
            sp_slot: Some(loader.sp_slot),
            tags: 0,
            sp_after: 0,
            registers: registers.collect(),
            mangling: loader.mangling,
        },
        saves_only: true,
    }
}
