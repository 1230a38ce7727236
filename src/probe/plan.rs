//! Which bytes at a switch site can be displaced: pure functions over code.
//!
//! A *window* is a run of whole instructions, at least as long as a jump, that holds the site and may be carried out
//! elsewhere. Control enters it at its first instruction only: no instruction of the image names another place in it,
//! no word of its data does, and nothing in it returns there, as after a call.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};

use crate::find::descriptors::Departure;
use crate::image::{CodeBytes, has_number, references, short_jumps};

/// The length of `jmp rel32`.
pub const JUMP: usize = 5;

/// A window begins at most so many instructions before its site.
const MOST_BEFORE: usize = 4;

/// Why a site is not probed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Obstacle {
    /// No five bytes around it can be displaced.
    NoWindow,
    /// The instruction sets the stack pointer in a way that is not read.
    Instruction,
    /// It makes arithmetic on the stack pointer, which may hold no stack then.
    Arithmetic,
    /// Nothing says where its routine begins.
    Unplaced,
    /// There is no free memory within reach of its jump.
    OutOfReach,
    /// There are more sites than probes can tell apart.
    TooMany,
}

/// Instructions that are carried out elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
    /// Which of them is the site.
    pub site: usize,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

impl Window {
    /// The address of its first byte.
    pub fn start(&self) -> u64 {
        self.instructions.first().map_or(0, Instruction::ip)
    }

    /// The address after its last byte.
    pub fn end(&self) -> u64 {
        self.instructions.last().map_or(0, Instruction::next_ip)
    }

    /// Where its instructions begin, but the first.
    fn inner(&self) -> impl Iterator<Item = u64> {
        self.instructions.iter().skip(1).map(Instruction::ip)
    }
}

/// The code and data of an image.
pub struct Surroundings<'a> {
    /// Its code.
    pub code: &'a [CodeBytes<'a>],
    /// What else may hold an address of its code.
    pub data: &'a [u8],
    /// Whether it was linked to run at a fixed address: then code may have addresses as plain numbers.
    pub is_fixed: bool,
}

/// The window for a site.
///
/// # Errors
/// There is none, and why.
pub fn plan(around: &Surroundings<'_>, departure: &Departure) -> Result<Window, Obstacle> {
    let before = decode(around.code, departure.routine, departure.site);
    let site = before.last().copied().filter(|last| last.ip() == departure.site).ok_or(Obstacle::Unplaced)?;
    source(&site)?;
    let after = decode(around.code, site.next_ip(), departure.end.saturating_sub(1));
    let known = [&before[..], &after].concat();
    let jumps_by_table = known.iter().any(is_table_jump);
    let earlier = (0..=MOST_BEFORE.min(before.len() - 1)).map(|back| before.len() - 1 - back);
    for first in earlier {
        let instructions = window(&before[first..], &after);
        let bytes = bytes_of(around.code, &instructions);
        let window = Window { instructions, site: before.len() - 1 - first, bytes };
        // Further back, these are in it as well.
        if before[first..before.len() - 1].iter().any(|instruction| !can_move(instruction, false)) {
            break;
        }
        let is_long = window.end() - window.start() >= JUMP as u64;
        let is_alone = window.instructions.len() == 1;
        if is_long && (is_alone || !jumps_by_table) && !is_entered(around, &known, &window) {
            return Ok(window);
        }
    }
    Err(Obstacle::NoWindow)
}

/// The instructions from `from` on, up to one that begins at `to` or later, or that can't be decoded.
fn decode(code: &[CodeBytes<'_>], from: u64, to: u64) -> Vec<Instruction> {
    let Some(tail) = code.iter().find_map(|part| part.tail(from)) else { return Vec::new() };
    let decoder = Decoder::with_ip(64, tail, from, DecoderOptions::NONE);
    decoder.into_iter().take_while(|instruction| !instruction.is_invalid() && instruction.ip() <= to).collect()
}

fn bytes_of(code: &[CodeBytes<'_>], instructions: &[Instruction]) -> Vec<u8> {
    let length = instructions.iter().map(Instruction::len).sum();
    let tail = instructions.first().and_then(|first| code.iter().find_map(|part| part.tail(first.ip())));
    tail.and_then(|tail| tail.get(..length)).unwrap_or_default().to_vec()
}

/// The instructions of a window that ends as soon as it is long enough.
fn window(first: &[Instruction], after: &[Instruction]) -> Vec<Instruction> {
    let mut window = first.to_vec();
    for next in after {
        let length: usize = window.iter().map(Instruction::len).sum();
        let goes_on = window.last().is_some_and(|last| last.flow_control() == FlowControl::Next);
        if length >= JUMP || !goes_on || !can_move(next, true) {
            break;
        }
        window.push(*next);
    }
    window
}

/// Whether an instruction may be carried out elsewhere: one that leaves for good only as the last.
fn can_move(instruction: &Instruction, as_last: bool) -> bool {
    match instruction.flow_control() {
        FlowControl::Next => !matches!(instruction.code(), Code::Endbr64 | Code::Syscall),
        FlowControl::Return | FlowControl::IndirectBranch | FlowControl::UnconditionalBranch => as_last,
        _ => false,
    }
}

/// Whether this is part of how compilers jump by a table: then a place that nothing names may be jumped to.
fn is_table_jump(instruction: &Instruction) -> bool {
    let is_indexed = instruction.memory_index() != Register::None && instruction.memory_index_scale() >= 4;
    let reads_offset = matches!(instruction.code(), Code::Movsxd_r64_rm32);
    is_indexed && (reads_offset || instruction.flow_control() == FlowControl::IndirectBranch)
}

/// Whether something of the image names a place in the window other than its first: an instruction of its routine, which
/// are all `known`, bytes elsewhere that may be an instruction, or a word of the data.
fn is_entered(around: &Surroundings<'_>, known: &[Instruction], window: &Window) -> bool {
    let inner = window.start() + 1..=window.end() - 1;
    let own = known.first().map_or(0, Instruction::ip)..known.last().map_or(0, Instruction::next_ip);
    let is_referred = |part: &CodeBytes<'_>| {
        references(*part, std::slice::from_ref(&inner)).any(|referrer| !own.contains(&referrer.at()))
    };
    let is_jumped = |at: u64, part: &CodeBytes<'_>| {
        let mut short = short_jumps(*part, at).chain(loops_to(*part, at));
        short.any(|from| !own.contains(&from)) || around.is_fixed && has_number(&[*part], at as u32)
    };
    known.iter().any(|instruction| named_by(instruction).is_some_and(|named| inner.contains(&named)))
        || around.code.iter().any(is_referred)
        || window.inner().any(|at| around.code.iter().any(|part| is_jumped(at, part)))
        || window.inner().any(|at| memchr::memmem::find(around.data, &at.to_le_bytes()).is_some())
}

/// The address that an instruction names by its distance.
fn named_by(instruction: &Instruction) -> Option<u64> {
    let is_branch = matches!(instruction.op0_kind(), OpKind::NearBranch64);
    let by_memory = || instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    is_branch.then(|| instruction.near_branch64()).or_else(by_memory)
}

/// Where a `loop` or `jrcxz` (`E0` to `E3`) may be that names `target`.
fn loops_to(part: CodeBytes<'_>, target: u64) -> impl Iterator<Item = u64> {
    (target.saturating_sub(130)..target.saturating_add(128)).filter(move |at| match part.tail(*at) {
        Some(&[0xe0..=0xe3, distance, ..]) => {
            part.range().contains(at) && at.wrapping_add(2).wrapping_add_signed(i64::from(distance as i8)) == target
        }
        _ => false,
    })
}

/// Where an instruction takes the new stack pointer from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// It is what the same instruction makes of its operand, with another register in place of `rsp`.
    Operand,
    /// A register.
    Register(Register),
    /// The word that the operand names in memory.
    Memory,
    /// The word on top of the stack.
    Top,
    /// The register `rbp`, plus eight.
    Frame,
}

/// How an instruction sets the stack pointer.
///
/// # Errors
/// It does so in no way that is read here.
pub fn source(site: &Instruction) -> Result<Source, Obstacle> {
    let sets_sp = site.op0_kind() == OpKind::Register && site.op0_register() == Register::RSP;
    match site.code() {
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 | Code::Lea_r64_m if sets_sp => Ok(Source::Operand),
        Code::Xchg_rm64_r64 if site.op0_kind() == OpKind::Memory => Ok(Source::Memory),
        Code::Xchg_rm64_r64 | Code::Xchg_r64_RAX if sets_sp => Ok(Source::Register(site.op1_register())),
        Code::Xchg_rm64_r64 | Code::Xchg_r64_RAX => Ok(Source::Register(site.op0_register())),
        Code::Pop_r64 if sets_sp => Ok(Source::Top),
        Code::Leaveq => Ok(Source::Frame),
        Code::Add_r64_rm64 | Code::Add_rm64_r64 => Err(Obstacle::Arithmetic),
        _ => Err(Obstacle::Instruction),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x1000;

    fn planned(before: &[u8], code: &[u8], data: &[u8], is_fixed: bool) -> Result<Window, Obstacle> {
        let bytes = [before, code, &[0xcc; 16]].concat();
        let parts = [CodeBytes { svma: AT - before.len() as u64, bytes: &bytes }];
        let (routine, end) = (AT - before.len() as u64, AT + 64);
        let departure = Departure { site: AT, routine, end, saves: true };
        plan(&Surroundings { code: &parts, data, is_fixed }, &departure)
    }

    fn shape(before: &[u8], code: &[u8]) -> Result<(i64, u64, usize), Obstacle> {
        planned(before, code, &[], false)
            .map(|window| (window.start() as i64 - AT as i64, window.end() - AT, window.site))
    }

    /// Real sequences: each with what comes before it in its routine, and the window relative to its site.
    #[test]
    fn the_libraries_switches_have_windows() {
        let fcontext = [0x48, 0x89, 0xfc, 0x4c, 0x8b, 0x44, 0x24, 0x38, 0x48, 0x8b, 0x44, 0x24, 0x30];
        assert_eq!(shape(&[], &fcontext), Ok((0, 8, 0)), "boost: mov rsp, rdi; mov r8, [rsp+0x38]");
        let saves = [
            0xd9, 0x7c, 0x24, 0x04, 0x4c, 0x89, 0x64, 0x24, 0x08, 0x4c, 0x89, 0x6c, 0x24, 0x10, 0x4c, 0x89, 0x74, 0x24,
            0x18, 0x4c, 0x89, 0x7c, 0x24, 0x20, 0x48, 0x89, 0x5c, 0x24, 0x28, 0x48, 0x89, 0x6c, 0x24, 0x30, 0x48, 0x89,
            0xe0,
        ];
        assert_eq!(shape(&saves, &fcontext), Ok((0, 8, 0)), "some bytes of its stores look like jumps into the window");
        let corosensei = [0x48, 0x8b, 0x22, 0x5d, 0xc3];
        assert_eq!(shape(&[], &corosensei), Ok((0, 5, 0)), "corosensei: mov rsp, [rdx]; pop rbp; ret");
        let swapcontext = [0x48, 0x8b, 0xa2, 0xa0, 0, 0, 0, 0x48, 0x8b, 0x9a, 0x80, 0, 0, 0];
        assert_eq!(shape(&[], &swapcontext), Ok((0, 7, 0)), "glibc: mov rsp, [rdx+0xa0]");
        let longjmp = [0x4c, 0x89, 0xc4, 0x4c, 0x89, 0xcd, 0xff, 0xe2];
        assert_eq!(shape(&[], &longjmp), Ok((0, 6, 0)), "glibc: mov rsp, r8; mov rbp, r9");
        let ruby = [0x48, 0x8b, 0x26, 0x41, 0x5f, 0x41, 0x5e];
        assert_eq!(shape(&[0x48, 0x89, 0x27], &ruby), Ok((0, 5, 0)), "coroutine_transfer: mov rsp, [rsi]; pop r15");
        let unwinder = [0x48, 0x89, 0xcc, 0x59, 0xff, 0xe1];
        assert_eq!(shape(&[], &unwinder), Ok((0, 6, 0)), "libgcc: mov rsp, rcx; pop rcx; jmp rcx");
    }

    #[test]
    fn a_window_may_begin_before_its_site() {
        let before = [0x48, 0x89, 0x27]; // mov [rdi], rsp
        let tail = [0x48, 0x8b, 0x26, 0xc3]; // mov rsp, [rsi]; ret
        assert_eq!(shape(&before, &tail), Ok((-3, 3, 1)));
        assert_eq!(shape(&[], &tail), Err(Obstacle::NoWindow));
        let called = [0xe8, 0, 0, 0, 0];
        assert_eq!(shape(&called, &tail), Err(Obstacle::NoWindow), "what returns into it");
        assert_eq!(shape(&[0xf3, 0x0f, 0x1e, 0xfa], &tail), Err(Obstacle::NoWindow), "endbr64 stays in place");
    }

    #[test]
    fn nothing_leads_into_a_window() {
        let site = [0x48, 0x89, 0xfc, 0x4c, 0x8b, 0x44, 0x24, 0x38]; // mov rsp, rdi; mov r8, [rsp+0x38]
        let with = |after: &[u8]| shape(&[], &[&site[..], after].concat());
        assert_eq!(with(&[0x90; 8]), Ok((0, 8, 0)));
        assert_eq!(with(&[0xeb, 0xf9]), Err(Obstacle::NoWindow), "jmp short to the second instruction");
        assert_eq!(with(&[0x75, 0xf9]), Err(Obstacle::NoWindow), "jne");
        assert_eq!(with(&[0xe3, 0xf9]), Err(Obstacle::NoWindow), "jrcxz");
        assert_eq!(with(&[0xeb, 0xf6]), Ok((0, 8, 0)), "to its first");
        assert_eq!(with(&[0xe9, 0xf6, 0xff, 0xff, 0xff]), Err(Obstacle::NoWindow), "jmp near");
        assert_eq!(with(&[0x48, 0x8d, 0x05, 0xf4, 0xff, 0xff, 0xff]), Err(Obstacle::NoWindow), "lea");
        let second = (AT + 3).to_le_bytes();
        assert_eq!(planned(&[], &site, &second, false), Err(Obstacle::NoWindow), "a word of the data");
        let number = [&site[..], &[0xbf], &second[..4]].concat(); // mov edi, label
        assert!(planned(&[], &number, &[], false).is_ok());
        assert_eq!(planned(&[], &number, &[], true), Err(Obstacle::NoWindow));
        let table = [&site[..], &[0x48, 0x63, 0x04, 0x8a, 0xff, 0xe0]].concat(); // movsxd rax, [rdx+rcx*4]; jmp rax
        assert_eq!(shape(&[], &table), Err(Obstacle::NoWindow), "a table of jumps may");
    }

    #[test]
    fn what_sets_the_stack_pointer_is_read() {
        let source_of = |bytes: &[u8]| source(&Decoder::with_ip(64, bytes, AT, DecoderOptions::NONE).decode());
        assert_eq!(source_of(&[0x48, 0x89, 0xfc]), Ok(Source::Operand), "mov rsp, rdi");
        assert_eq!(source_of(&[0x64, 0x48, 0x8b, 0x24, 0x25, 8, 0, 0, 0]), Ok(Source::Operand), "mov rsp, fs:8");
        assert_eq!(source_of(&[0x48, 0x8d, 0x62, 0x08]), Ok(Source::Operand), "lea rsp, [rdx+8]");
        assert_eq!(source_of(&[0x48, 0x87, 0xe0]), Ok(Source::Register(Register::RAX)), "xchg rax, rsp");
        assert_eq!(source_of(&[0x48, 0x87, 0x27]), Ok(Source::Memory), "xchg [rdi], rsp");
        assert_eq!(source_of(&[0x48, 0x94]), Ok(Source::Register(Register::RAX)), "xchg rax, rsp, the short form");
        assert_eq!(source_of(&[0x5c]), Ok(Source::Top), "pop rsp");
        assert_eq!(source_of(&[0xc9]), Ok(Source::Frame), "leave");
        assert_eq!(source_of(&[0x48, 0x01, 0xf4]), Err(Obstacle::Arithmetic), "add rsp, rsi");
        assert_eq!(source_of(&[0x90]), Err(Obstacle::Instruction));
    }
}
