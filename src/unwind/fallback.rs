//! Guesses a frame's caller if nothing describes the code.
//!
//! It tries, in this order: a routine that has pushed nothing yet, or never does; one that was called from right here,
//! while the frame pointer is of another stack; the chain of frame pointers; a search of the stack for a return
//! address: its call leads to where we are, or may do so, and the rules lead on from it to a root. Each
//! guess is checked, and the resulting frame is marked with how it was found. If the checks fail, there is no caller: a
//! wrong frame is worse than a missing one.
//!
//! A return address that can't be seen to lie after a call, because its code can't be read, or because a just-in-time
//! compiler lets functions return to other places, is taken only from a chain of frame pointers that rises on.

use super::follow::{Lead, lead, step};
use super::frame::FoundBy;
use super::rules::{Kind, Standing, Step};
use super::tables::Tables;
use super::unwinder::Rules;
use crate::addr::{Addr, PAGE, Pc};
use crate::memory::Memory;
use crate::registers::Registers;

/// How many words above the stack pointer are searched for a return address.
const SCANNED_WORDS: u64 = 256;
/// How far into a routine that nothing describes an address may lie, in bytes: hand-written routines are short.
const LONGEST_ROUTINE: u64 = 4096;
/// A caller's frame is rarely larger, in bytes. If it is, its callers are missing, which is better than another's
/// callers.
const LARGE_FRAME: i64 = 4096;
/// How many frames are followed to see whether one that was found by a search leads to a root.
const MOST_TRIED: usize = 1024;
/// This many frame pointers in a row, each above the one before and with an address of code above it, are no chance.
const ENOUGH_LINKS: usize = 3;
/// How many bytes before a return address are searched for the instruction that sets the frame pointer to zero.
const NEAR: usize = 16;

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
        calls(rules, address, pc, memory)
            || !calls_described(rules, address, memory) && reaches_root(rules, address, caller.clone(), memory)
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
    let link = link(rules, fp, memory)?;
    let mut caller = Registers::unknown();
    caller.set(arch.fp, link.next.0);
    caller.set(arch.pc, link.address.0);
    if arch.link.is_none() {
        caller.set(arch.sp, fp.0.wrapping_add(16));
    }
    let holds = match is_return_address(rules, link.address, memory) {
        true => link.rises || leads_on_by_rules(rules, link.address, &caller, memory),
        false => link.rises && may_be_returned_to(rules, link.address, memory) && rises_on(rules, link.next, memory),
    };
    *registers = Some(caller).filter(|_| holds)?;
    Some(())
}

/// Whether the rules for the code at `address` lead on from a frame with these registers. Such code may keep anything
/// in its frame pointer.
fn leads_on_by_rules(rules: &mut Rules<'_, '_>, address: Addr, registers: &Registers, memory: &dyn Memory) -> bool {
    let row = *rules.row(Pc::After(address), memory);
    row.kind != Kind::Missing && lead(rules, &row, registers, memory) != Lead::Astray
}

/// A pair of words to which a frame pointer points.
struct Link {
    /// The caller's frame pointer.
    next: Addr,
    /// The return address.
    address: Addr,
    /// Whether the next one lies above it, or is the end.
    rises: bool,
}

/// The link at `fp`.
fn link(rules: &Rules<'_, '_>, fp: Addr, memory: &dyn Memory) -> Option<Link> {
    let next = Addr(memory.read_u64(fp).ok()?);
    let address = rules.tables().arch().strip(Addr(memory.read_u64(fp.offset(8)).ok()?));
    Some(Link { next, address, rises: next.0 == 0 || next > fp && next.0.is_multiple_of(8) })
}

/// Whether the frame that will go on at `address`, which does not lie after a call, has a caller by its frame pointer.
pub(super) fn goes_on_by_frame_pointer(
    rules: &mut Rules<'_, '_>,
    address: Addr,
    registers: &Registers,
    memory: &dyn Memory,
) -> bool {
    // A frame pointer that lies far away is what a planted routine was left by whoever planted it.
    let arch = rules.tables().arch();
    let is_near =
        registers.addr(arch.sp).zip(registers.addr(arch.fp)).is_some_and(|(sp, fp)| fp < sp.offset(LARGE_FRAME));
    is_near
        && may_be_returned_to(rules, address, memory)
        && frame_pointer(rules, &mut registers.clone(), memory).is_some()
}

/// Whether a function may return to `address`, though no call is seen before it: the call ends a routine that nothing
/// describes, the code can't be read, or it was made at run time.
fn may_be_returned_to(rules: &mut Rules<'_, '_>, address: Addr, memory: &dyn Memory) -> bool {
    let row = *rules.row(Pc::After(address), memory);
    match row.standing {
        Standing::Doubtful | Standing::Unseen => row.kind == Kind::Missing,
        Standing::Planted => row.kind == Kind::Missing && rules.tables().is_outside_images(address),
        _ => false,
    }
}

/// Whether the frame pointer `fp` leads on and up: to a return address after a call in code that is described, or for
/// several links.
fn rises_on(rules: &mut Rules<'_, '_>, mut fp: Addr, memory: &dyn Memory) -> bool {
    for _ in 1..ENOUGH_LINKS {
        let Some(Link { next, address, rises }) = link(rules, fp, memory) else { return false };
        if is_return_address(rules, address, memory) && rules.row(Pc::After(address), memory).kind != Kind::Missing {
            return true;
        }
        if !rises || !is_return_address(rules, address, memory) && !may_be_returned_to(rules, address, memory) {
            return false;
        }
        fp = next;
    }
    true
}

/// Whether the frame at `pc`, which nothing describes, is the outermost: a program begins there, or its frame pointer of
/// zero marks it (System V ABI, AMD64 supplement, section 3.4.1).
///
/// That it is a mark is known if the frame that it called keeps frame pointers, or if an instruction just before the
/// call sets it. Elsewhere it is the value of some variable.
pub(super) fn is_outermost(
    rules: &Rules<'_, '_>,
    pc: Pc,
    found_by: FoundBy,
    registers: &Registers,
    memory: &dyn Memory,
) -> bool {
    let tables = rules.tables();
    let arch = tables.arch();
    let fp = registers.get(arch.fp);
    if tables.begins_program(pc.lookup()) || fp == Some(0) && found_by == FoundBy::FramePointer {
        return true;
    }
    fp.unwrap_or(0) == 0 && matches!(pc, Pc::After(_)) && clears_frame_pointer(tables, pc.addr(), memory)
}

/// Whether an instruction just before `at` sets the frame pointer to zero.
fn clears_frame_pointer(tables: &Tables<'_>, at: Addr, memory: &dyn Memory) -> bool {
    let mut code = [0; NEAR];
    // The code may begin with the page.
    let lengths = [NEAR, NEAR.min((at.0 % PAGE) as usize)];
    let read = |length: &usize| tables.code(memory, at.offset(-(*length as i64)), &mut code[..*length]);
    let length = lengths.into_iter().find(read).unwrap_or(0);
    let is_in = |instruction: &&[u8]| code[..length].windows(instruction.len()).any(|window| window == *instruction);
    tables.arch().clears_fp.iter().any(is_in)
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

/// Whether the rules lead from the frame at `address` to a root, or to code that nothing describes. What earlier calls
/// left behind may lead on for many frames, but is overwritten somewhere.
fn reaches_root(rules: &mut Rules<'_, '_>, address: Addr, mut registers: Registers, memory: &dyn Memory) -> bool {
    let mut pc = Pc::After(address);
    for _ in 0..MOST_TRIED {
        let row = *rules.row(pc, memory);
        match row.standing {
            Standing::Signal => {}
            Standing::Ordinary | Standing::Doubtful | Standing::Unseen if row.kind == Kind::Missing => return true,
            Standing::Ordinary | Standing::Doubtful => {}
            Standing::Planted | Standing::Stray | Standing::Unseen => return false,
        }
        pc = match step(rules, &row, &mut registers, memory) {
            Step::Up(address) if row.kind == Kind::Trampoline => Pc::At(address),
            Step::Up(address) => Pc::After(rules.tables().arch().strip(address)),
            Step::Root => return true,
            Step::Stuck | Step::Unreadable(_) => return false,
        };
    }
    true
}

/// Whether the call before `address` leads to a routine that rules describe, and that is no stub: so it is no call of
/// one that nothing describes.
fn calls_described(rules: &mut Rules<'_, '_>, address: Addr, memory: &dyn Memory) -> bool {
    let tables = rules.tables();
    let mut code = [0; 16];
    let before = tables.code_before(memory, address, &mut code);
    let Some(target) = (tables.arch().direct_call_target)(before, address) else { return false };
    let mut start = [0; 16];
    rules.row(Pc::At(target), memory).kind != Kind::Missing
        && tables.code(memory, target, &mut start)
        && !(tables.arch().is_stub)(&start)
}

/// Whether the call before `address` leads to a routine that begins a little before `pc`.
fn calls(rules: &Rules<'_, '_>, address: Addr, pc: Pc, memory: &dyn Memory) -> bool {
    let tables = rules.tables();
    let mut code = [0; 16];
    (tables.arch().direct_call_target)(tables.code_before(memory, address, &mut code), address)
        .and_then(|target| pc.lookup().0.checked_sub(target.0))
        .is_some_and(|distance| distance < LONGEST_ROUTINE)
}
