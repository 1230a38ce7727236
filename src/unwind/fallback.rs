//! Guesses a frame's caller if nothing describes the code.
//!
//! It tries, in this order: a routine that has pushed nothing yet, or never does; one that was called from right here,
//! while the frame pointer is of another stack; the chain of frame pointers; a search of the stack for a return
//! address: its call leads to where we are, or the rules for it lead on to another return address or to a root. Each
//! guess is checked, and the resulting frame is marked with how it was found. If the checks fail, there is no caller: a
//! wrong frame is worse than a missing one.

use super::follow::{Lead, lead};
use super::frame::FoundBy;
use super::rules::{Kind, Standing};
use super::unwinder::Rules;
use crate::addr::{Addr, Pc};
use crate::memory::Memory;
use crate::registers::Registers;

/// How many words above the stack pointer are searched for a return address.
const SCANNED_WORDS: u64 = 256;
/// How far into a routine that nothing describes an address may lie, in bytes: hand-written routines are short.
const LONGEST_ROUTINE: u64 = 4096;
/// A caller's frame is rarely larger, in bytes. If it is, its callers are missing, which is better than another's
/// callers.
const LARGE_FRAME: i64 = 4096;

/// Turns the registers of a frame whose code nothing describes into its caller's, and says how they were found.
pub(super) fn caller(
    rules: &mut Rules<'_, '_>,
    pc: Pc,
    registers: &mut Registers,
    memory: &dyn Memory,
) -> Option<FoundBy> {
    if matches!(pc, Pc::At(_)) && leaf(rules, pc, registers, memory).is_some() {
        return Some(FoundBy::Scan);
    }
    if let Some(caller) = beside_foreign_pointer(rules, pc, registers, memory) {
        *registers = caller;
        return Some(FoundBy::Scan);
    }
    if frame_pointer(rules, registers, memory).is_some() {
        return Some(FoundBy::FramePointer);
    }
    let looks_right = |rules: &mut Rules<'_, '_>, address: Addr, caller: &Registers| {
        let row = *rules.row(Pc::After(address), memory);
        calls(rules, address, pc, memory) || lead(rules, &row, caller, memory) != Lead::Astray
    };
    *registers = scan(rules, registers, memory, looks_right)?;
    Some(FoundBy::Scan)
}

/// The caller of a routine in which execution is, if the frame pointer lies far above the place that the routine will
/// return from. A routine that switches stacks loads the stack pointer first, and the frame pointer still belongs to
/// the other stack.
fn beside_foreign_pointer(
    rules: &mut Rules<'_, '_>,
    pc: Pc,
    registers: &Registers,
    memory: &dyn Memory,
) -> Option<Registers> {
    let arch = rules.tables().arch();
    if arch.link.is_some() || matches!(pc, Pc::After(_)) {
        return None;
    }
    let fp = registers.addr(arch.fp)?;
    let caller = scan(rules, registers, memory, |rules, address, _| calls(rules, address, pc, memory))?;
    let is_far = caller.addr(arch.sp).is_some_and(|sp| sp.offset(LARGE_FRAME) < fp);
    is_far.then_some(caller)
}

/// A routine in which execution is, and that has left its return address where the call put it. That is taken for
/// true if the call leads right there, or if there is no code at all (a call of a bad pointer).
fn leaf(rules: &mut Rules<'_, '_>, pc: Pc, registers: &mut Registers, memory: &dyn Memory) -> Option<()> {
    let arch = rules.tables().arch();
    let sp = registers.addr(arch.sp)?;
    let (address, above) = match arch.link {
        Some(link) => (arch.strip(registers.addr(link)?), sp),
        None => (Addr(memory.read_u64(sp).ok()?), sp.offset(8)),
    };
    let is_code = rules.row(pc, memory).kind != Kind::NotCode;
    if !is_return_address(rules, address, memory) || is_code && !calls(rules, address, pc, memory) {
        return None;
    }
    registers.retain(arch.callee_saved);
    registers.set(arch.sp, above.0);
    registers.set(arch.pc, address.0);
    Some(())
}

/// The caller by the chain of frame pointers: `pc = *(fp + 8)`, `fp = *fp`.
///
/// On x86_64 the CFA is `fp + 16`. On aarch64 the pair of registers is at the bottom of a frame, and the caller's
/// stack pointer stays unknown.
pub(super) fn frame_pointer(rules: &mut Rules<'_, '_>, registers: &mut Registers, memory: &dyn Memory) -> Option<()> {
    let arch = rules.tables().arch();
    let fp = registers.addr(arch.fp)?;
    let rises = registers.addr(arch.sp).is_none_or(|sp| sp <= fp);
    if !rises || fp.0 % 8 != 0 {
        return None;
    }
    let next = Addr(memory.read_u64(fp).ok()?);
    let address = arch.strip(Addr(memory.read_u64(fp.offset(8)).ok()?));
    if next.0 != 0 && next <= fp || !is_return_address(rules, address, memory) {
        return None;
    }
    registers.retain(0);
    registers.set(arch.fp, next.0);
    registers.set(arch.pc, address.0);
    if arch.link.is_none() {
        registers.set(arch.sp, fp.0.wrapping_add(16));
    }
    Some(())
}

/// The registers at the nearest word above the stack pointer that is a return address and `looks_right`.
fn scan(
    rules: &mut Rules<'_, '_>,
    registers: &Registers,
    memory: &dyn Memory,
    mut looks_right: impl FnMut(&mut Rules<'_, '_>, Addr, &Registers) -> bool,
) -> Option<Registers> {
    let arch = rules.tables().arch();
    let sp = registers.addr(arch.sp)?.align_up(8);
    for word in 0..SCANNED_WORDS {
        let at = sp.offset(8 * word as i64);
        let address = arch.strip(Addr(memory.read_u64(at).ok()?));
        if !is_return_address(rules, address, memory) {
            continue;
        }
        let mut caller = Registers::unknown();
        caller.set(arch.pc, address.0);
        if arch.link.is_none() {
            caller.set(arch.sp, at.0.wrapping_add(8));
        }
        if looks_right(rules, address, &caller) {
            return Some(caller);
        }
    }
    None
}

/// Whether `address` lies directly after a call.
fn is_return_address(rules: &mut Rules<'_, '_>, address: Addr, memory: &dyn Memory) -> bool {
    let row = rules.row(Pc::After(address), memory);
    row.kind != Kind::NotCode && matches!(row.standing, Standing::Ordinary | Standing::Doubtful | Standing::Signal)
}

/// Whether the call before `address` leads to a routine that begins a little before `pc`.
fn calls(rules: &Rules<'_, '_>, address: Addr, pc: Pc, memory: &dyn Memory) -> bool {
    let tables = rules.tables();
    let mut code = [0; 16];
    (tables.arch().direct_call_target)(tables.code_before(memory, address, &mut code), address)
        .and_then(|target| pc.lookup().0.checked_sub(target.0))
        .is_some_and(|distance| distance < LONGEST_ROUTINE)
}
