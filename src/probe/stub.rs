//! What a program does at a switch site that is probed: it notes the switch, and goes on as it was written.
//!
//! A *stub* holds a window's instructions, and before the site's own the note: of the stack that is left, its stack
//! pointer and the site; of the stack that is entered, that it runs and from where it was entered; and of both, how
//! often. It has no flags' change, no call, and no thread's storage; what it needs of registers it keeps below the red
//! zone of the stack that is left, which moves first so that a signal's handler leaves it alone. Both halves of the note
//! stand before the switch, where that stack is still in the processor's cache.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, IcedError, Instruction, InstructionBlock, MemoryOperand, OpKind, Register,
};

use super::plan::{Obstacle, Source, Window, source};
use super::table::{self, SLOT};

/// How far the stack pointer is moved: the red zone, and four registers.
pub const ROOM: i64 = 128 + 4 * 8;

/// The registers that a stub uses, each with where it keeps it above the moved stack pointer.
pub const KEPT: [(Register, i64); 4] =
    [(Register::RAX, 0), (Register::RCX, 8), (Register::RDX, 16), (Register::R8, 24)];

/// What distinguishes one stub from the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Where the table lies.
    pub table: u64,
    /// The number of the site.
    pub site: u16,
    /// Which of a slot's counters counts it.
    pub class: usize,
    /// Whether the two stack pointers of the last switch here are kept for the site as well. Threads that switch here
    /// at once then share a line of the cache.
    pub keeps_pair: bool,
}

/// A stub, ready to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stub {
    /// Its code.
    pub code: Vec<u8>,
    /// Where each instruction of the window begins in it, and the jump after them.
    pub places: Vec<u16>,
    /// Where its note begins: up to there nothing differs from what the program was to do.
    pub note: u16,
    /// From where on the registers that it needs are kept.
    pub kept: u16,
    /// Where its note ends, with the stack pointer back and all registers as they were.
    pub noted: u16,
}

/// The stub for a window, both at the addresses where they are to lie.
///
/// # Errors
/// An instruction of the window can't be carried out at that place.
pub fn stub(window: &Window, note: Note, at: u64) -> Result<Stub, Obstacle> {
    let source = window.instructions.get(window.site).map_or(Err(Obstacle::NoWindow), source)?;
    // Of code that is well formed, only what is named by its distance can be too far away.
    assembled(window, source, note, at).map_err(|_| Obstacle::OutOfReach)
}

fn assembled(window: &Window, source: Source, note: Note, at: u64) -> Result<Stub, IcedError> {
    let (earlier, rest) = window.instructions.split_at(window.site.min(window.instructions.len()));
    let mut code = earlier.to_vec();
    let begin = code.len();
    if let Some(site) = rest.first() {
        code.extend(noting(site, source, note)?);
    }
    let end = code.len();
    code.extend(rest);
    if window.instructions.last().is_some_and(goes_on) {
        code.push(Instruction::with_branch(Code::Jmp_rel32_64, window.end())?);
    }
    let block = InstructionBlock::new(&code, at);
    let encoded = BlockEncoder::encode(64, block, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
    let offsets: Vec<u16> =
        encoded.new_instruction_offsets.iter().map(|offset| u16::try_from(*offset).unwrap_or(u16::MAX)).collect();
    let offset = |index: usize| offsets.get(index).copied().unwrap_or(u16::MAX);
    let places = (0..begin).chain(end..code.len()).map(offset).collect();
    let kept = offset(begin + 1 + KEPT.len());
    Ok(Stub { code: encoded.code_buffer, places, note: offset(begin), kept, noted: offset(end) })
}

fn goes_on(last: &Instruction) -> bool {
    last.flow_control() == iced_x86::FlowControl::Next
}

fn at(base: Register, displacement: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, displacement)
}

/// The note that is made before `site`.
fn noting(site: &Instruction, source: Source, note: Note) -> Result<Vec<Instruction>, IcedError> {
    use Register::{CX, ECX, R8, RAX, RCX, RDX, RSP};
    let mut code = vec![Instruction::with2(Code::Lea_r64_m, RSP, at(RSP, -ROOM))?];
    for (register, place) in KEPT {
        code.push(Instruction::with2(Code::Mov_rm64_r64, at(RSP, place), register)?);
    }
    code.extend(incoming(site, source)?);
    // The stack that is left.
    code.push(Instruction::with2(Code::Lea_r64_m, RDX, at(RSP, ROOM))?);
    code.push(Instruction::with2(Code::Mov_r64_rm64, RAX, RDX)?);
    code.extend(slot(note.table)?);
    code.push(Instruction::with2(Code::Mov_rm64_r64, at(RAX, table::SP), RDX)?);
    code.push(Instruction::with2(Code::Mov_r32_imm32, ECX, u32::from(note.site))?);
    code.push(Instruction::with2(Code::Mov_rm16_r16, at(RAX, table::SITE), CX)?);
    code.extend(count(table::outs(note.class))?);
    // The stack that is entered.
    code.push(Instruction::with2(Code::Mov_r64_rm64, RAX, R8)?);
    code.extend(slot(note.table)?);
    code.push(Instruction::with2(Code::Lea_r64_m, RCX, at(R8, table::RUNS as i64))?);
    code.push(Instruction::with2(Code::Mov_rm64_r64, at(RAX, table::SP), RCX)?);
    code.push(Instruction::with2(Code::Mov_rm64_r64, at(RAX, table::FROM), RDX)?);
    code.extend(count(table::INS)?);
    if note.keeps_pair {
        let pair = note.table.wrapping_add(u64::from(note.site) * SLOT);
        code.push(Instruction::with2(Code::Mov_r64_imm64, RCX, pair)?);
        code.push(Instruction::with2(Code::Mov_rm64_r64, at(RCX, table::PAIR), RDX)?);
        code.push(Instruction::with2(Code::Mov_rm64_r64, at(RCX, table::PAIR + 8), R8)?);
    }
    for (register, place) in KEPT {
        code.push(Instruction::with2(Code::Mov_r64_rm64, register, at(RSP, place))?);
    }
    code.push(Instruction::with2(Code::Lea_r64_m, RSP, at(RSP, ROOM))?);
    Ok(code)
}

/// Takes the stack pointer that `site` is about to set to `r8`; the other registers are still the program's.
fn incoming(site: &Instruction, source: Source) -> Result<Vec<Instruction>, IcedError> {
    let mut taken = *site;
    // It is another instruction than the one at the site, which follows.
    taken.set_ip(0);
    if site.memory_base() == Register::RSP {
        taken.set_memory_displacement64(site.memory_displacement64().wrapping_add(ROOM as u64));
        taken.set_memory_displ_size(8);
    }
    Ok(match source {
        Source::Operand => {
            taken.set_op0_register(Register::R8);
            vec![taken]
        }
        Source::Register(register) => vec![Instruction::with2(Code::Mov_r64_rm64, Register::R8, register)?],
        Source::Memory => {
            let mut load = taken;
            load.set_code(Code::Mov_r64_rm64);
            load.set_op0_kind(OpKind::Register);
            load.set_op0_register(Register::R8);
            load.set_op1_kind(OpKind::Memory);
            vec![load]
        }
        Source::Top => vec![Instruction::with2(Code::Mov_r64_rm64, Register::R8, at(Register::RSP, ROOM))?],
        Source::Frame => vec![Instruction::with2(Code::Lea_r64_m, Register::R8, at(Register::RBP, 8))?],
    })
}

/// Turns an address in `rax` into that of its slot, whatever it is: of its bits, those of the page in user space.
fn slot(table: u64) -> Result<Vec<Instruction>, IcedError> {
    use Register::{ECX, RAX, RCX};
    let shifts = [
        (Code::VEX_Shlx_r64_rm64_r64, 64 - table::ADDRESS_BITS),
        (Code::VEX_Shrx_r64_rm64_r64, 64 - table::ADDRESS_BITS + table::PAGE_BITS),
        (Code::VEX_Shlx_r64_rm64_r64, SLOT.trailing_zeros()),
    ];
    let mut code = Vec::new();
    for (shift, bits) in shifts {
        code.push(Instruction::with2(Code::Mov_r32_imm32, ECX, bits)?);
        code.push(Instruction::with3(shift, RAX, RAX, RCX)?);
    }
    code.push(Instruction::with2(Code::Mov_r64_imm64, RCX, table)?);
    code.push(Instruction::with2(Code::Lea_r64_m, RAX, MemoryOperand::with_base_index(RCX, RAX))?);
    Ok(code)
}

/// Adds one to a counter of the slot at `rax`.
fn count(counter: i64) -> Result<Vec<Instruction>, IcedError> {
    use Register::{ECX, RAX, RCX};
    Ok(vec![
        Instruction::with2(Code::Mov_r32_rm32, ECX, at(RAX, counter))?,
        Instruction::with2(Code::Lea_r32_m, ECX, at(RCX, 1))?,
        Instruction::with2(Code::Mov_rm32_r32, at(RAX, counter), ECX)?,
    ])
}

#[cfg(test)]
#[path = "stub_tests.rs"]
mod tests;
