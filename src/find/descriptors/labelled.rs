//! Functions that save a context to a block together with the address of a label, which others jump to through the block:
//! `__builtin_setjmp`, and macros that are inlined as such.
//!
//! What the block holds is true from the last store on, and the function's own unwind rules hold there as well. So a
//! context counts as standing there: where the compiler put the label does not matter.

use iced_x86::InstructionInfoFactory;

use super::{Descriptor, Layout, Place, Resume};
use crate::find::descriptors::flow::Reader;
use crate::find::descriptors::machine::{Base, Flow, Machine, RSP, Sum, Twist, Value};
use crate::find::descriptors::routine::{BlockJump, dwarf};
use crate::image::nearby_addresses_taken;

/// From where the label's address is taken, all is saved within this many instructions.
const LONGEST_SAVER: usize = 48;

/// More than this are not looked at: code takes the addresses of its own labels for little else.
const MOST_TAKEN: usize = 1 << 14;

/// The functions that save what `jumps` jump by.
pub(super) fn derive(reader: &Reader<'_>, jumps: &[BlockJump]) -> Vec<Descriptor> {
    if jumps.is_empty() {
        return Vec::new();
    }
    let taken = reader.parts().iter().flat_map(|part| nearby_addresses_taken(*part)).take(MOST_TAKEN);
    let in_function = taken.filter_map(|(at, label)| {
        let function = reader.function_start(at)?;
        (reader.function_start(label) == Some(function)).then_some((function, at, label))
    });
    // A function may keep its stack pointer twice, as its frame pointer too: the right one has most registers around it.
    let best = |place| {
        let found = jumps.iter().filter_map(|jump| saved(reader, place, jump));
        found.max_by_key(|found| found.layout.registers.len())
    };
    in_function.filter_map(best).collect()
}

/// What the code of `function` saves that takes the address of `label` at `at`, if `jump` goes on by it.
fn saved(reader: &Reader<'_>, (function, at, label): (u64, u64, u64), jump: &BlockJump) -> Option<Descriptor> {
    let mut machine = reader.reach(function, at).into_iter().next()?;
    let mut information = InstructionInfoFactory::new();
    let sp = machine.get(RSP);
    let (mut at, mut saved) = (at, None);
    let mut is_switch = false;
    for _ in 0..LONGEST_SAVER {
        let Some(instruction) = reader.instruction(at) else { break };
        let flow = machine.step(&instruction, &mut information);
        at = match flow {
            Flow::Next | Flow::Branch(_) => instruction.next_ip(),
            Flow::Jump(target) => target,
            Flow::Leave(target) => {
                is_switch = jump.is_made(&machine, target);
                break;
            }
            _ => break,
        };
        if machine.get(RSP) == sp
            && let Some(block) = block(&machine, sp, label, jump)
        {
            // All that is stored without a jump in between belongs to it.
            if saved.is_none() || flow == Flow::Next {
                saved = Some((block, machine.clone(), at));
            }
        }
    }
    let (block, machine, goes_on) = saved?;
    let is_saved = |(register, slot): &(u8, i64)| stored(&machine, block, *slot) == Some(machine.get(*register));
    let registers = jump.registers.iter().filter(|saved| is_saved(saved));
    let layout = Layout {
        resume_word: Place::Block(jump.pc_slot),
        stack_copy: None,
        sp_slot: Some(0),
        tags: 0,
        sp_after: 0,
        registers: registers.map(|(register, slot)| (dwarf(*register), Place::Block(*slot))).collect(),
        mangling: None,
    };
    let resume = Resume::Label { label, goes_on };
    Some(Descriptor { site: jump.site, resume, layout, fresh: None, saves_only: !is_switch })
}

/// Where the block keeps the stack pointer `sp`, if it has the label's address where `jump` takes it from.
fn block(machine: &Machine, sp: Value, label: u64, jump: &BlockJump) -> Option<Sum> {
    let label = Value::Known(Sum { base: Base::Zero, offset: label as i64 }, Twist::None);
    let is_outside = |place: &Sum| !matches!(place.base, Base::Start(RSP));
    let blocks = machine.written.iter().filter(|(place, value)| *value == sp && is_outside(place));
    let mut blocks = blocks.map(|(place, _)| *place);
    blocks.find(|block| stored(machine, *block, jump.pc_slot) == Some(label))
}

/// What was stored so many bytes above `block`.
fn stored(machine: &Machine, block: Sum, slot: i64) -> Option<Value> {
    let place = Sum { base: block.base, offset: block.offset.wrapping_add(slot) };
    machine.written.iter().find(|(written, _)| *written == place).map(|(_, value)| *value)
}
