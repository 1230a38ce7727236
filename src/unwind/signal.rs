//! Signal trampolines: the code that a signal handler returns to, and the registers that the kernel left there.
//!
//! They are recognized by their instructions, of which there is one form for each CPU, in [`Arch::sigreturn`]. That
//! works if nothing describes them (musl, Go), and it is better than the description on aarch64, where the vdso's entry
//! has two registers of 33.

use super::rules::Step;
use super::tables::Tables;
use crate::addr::Addr;
use crate::arch::Arch;
use crate::memory::Memory;
use crate::registers::Registers;

/// Whether the instructions at `at` are those of a signal trampoline.
pub(super) fn starts_at(tables: &Tables<'_>, memory: &dyn Memory, at: Addr) -> bool {
    let sequence = tables.arch().sigreturn;
    let mut code = [0; 16];
    code.get_mut(..sequence.len()).is_some_and(|code| tables.code(memory, at, code) && code == sequence)
}

/// Whether the instruction at `at` is one of a signal trampoline.
pub(super) fn contains(tables: &Tables<'_>, memory: &dyn Memory, at: Addr) -> bool {
    let arch = tables.arch();
    let length = arch.sigreturn.len() as u64;
    (0..length)
        .step_by(arch.instruction_unit as usize)
        .any(|back| starts_at(tables, memory, Addr(at.0.wrapping_sub(back))))
}

/// The stack pointer of the interrupted code: it takes the place of the CFA of a trampoline's frame.
pub(super) fn cfa(arch: &Arch, registers: &Registers, memory: &dyn Memory) -> Option<Addr> {
    let frame = registers.addr(arch.sp)?;
    let (_, offset) = arch.sigframe.iter().find(|(register, _)| *register == arch.sp)?;
    memory.read_u64(frame.offset(*offset as i64)).ok().map(Addr)
}

/// Turns the registers of a trampoline's frame into those of the code that the signal interrupted: all of them.
pub(super) fn step(arch: &Arch, registers: &mut Registers, memory: &dyn Memory) -> Step {
    let Some(frame) = registers.addr(arch.sp) else { return Step::Stuck };
    registers.retain(0);
    for (register, offset) in arch.sigframe {
        let at = frame.offset(*offset as i64);
        match memory.read_u64(at) {
            Ok(value) => registers.set(*register, value),
            Err(_) => return Step::Unreadable(at),
        }
    }
    registers.addr(arch.pc).map_or(Step::Stuck, Step::Up)
}
