//! Programs and stacks put together by hand, with names instead of numbers.

use std::collections::HashMap;
use std::ops::ControlFlow;

use gimli::constants::*;

use super::{Code, Ended, Frame, Placed, Rules, Tables, walk};
use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::image::{SectionBytes, UnwindSections};
use crate::memory::Copied;
use crate::registers::{Register, Registers};

pub(super) const EH_FRAME: u64 = 0x8000;
pub(super) const EH_FRAME_HDR: u64 = 0x7000;
/// Where the code of a [`Program`] begins.
pub(super) const CODE: u64 = 0x10_0000;
/// Every routine of a [`Program`] is this long.
pub(super) const ROUTINE: u64 = 0x100;

/// A section of call frame information under construction: `.eh_frame`, addresses in eight bytes.
#[derive(Default, Clone)]
pub(super) struct Cfi {
    pub(super) bytes: Vec<u8>,
}

impl Cfi {
    /// Adds a CIE (version 1, factors 1 and -8) and returns its offset.
    pub(super) fn cie(&mut self, augmentation: &str, return_address: Register, instructions: &[u8]) -> usize {
        let mut body = vec![0, 0, 0, 0, 1];
        body.extend_from_slice(augmentation.as_bytes());
        body.extend_from_slice(&[0, 1, 0x78, return_address.0]);
        if augmentation.starts_with('z') {
            body.push(0);
        }
        body.extend_from_slice(instructions);
        self.append(&body)
    }

    /// Adds an FDE of the CIE at offset `cie` and returns its own offset.
    pub(super) fn fde(&mut self, cie: usize, start: u64, length: u64, instructions: &[u8]) -> usize {
        let pointer = self.bytes.len() + 4 - cie;
        let mut body = u32::try_from(pointer).unwrap().to_le_bytes().to_vec();
        body.extend_from_slice(&start.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        if self.bytes[cie + 9] == b'z' {
            body.push(0);
        }
        body.extend_from_slice(instructions);
        self.append(&body)
    }

    fn append(&mut self, body: &[u8]) -> usize {
        let offset = self.bytes.len();
        let length = body.len().next_multiple_of(8) + 4;
        self.bytes.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        self.bytes.extend_from_slice(body);
        self.bytes.resize(offset + 4 + length, DW_CFA_nop.0);
        offset
    }
}

/// `.eh_frame_hdr` with these lines of (start, offset of the entry), in the encoding that linkers use.
pub(super) fn header(lines: &[(u64, usize)]) -> Vec<u8> {
    let relative = |address: u64| (address.wrapping_sub(EH_FRAME_HDR) as i32).to_le_bytes();
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b];
    bytes.extend_from_slice(&(EH_FRAME.wrapping_sub(EH_FRAME_HDR + 4) as i32).to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(lines.len()).unwrap().to_le_bytes());
    for (start, offset) in lines {
        bytes.extend_from_slice(&relative(*start));
        bytes.extend_from_slice(&relative(EH_FRAME + *offset as u64));
    }
    bytes
}

/// A program: routines that lie one after the other, each with its rules.
pub(crate) struct Program {
    arch: &'static Arch,
    code: Vec<u8>,
    cfi: Cfi,
    routines: HashMap<&'static str, u64>,
    cies: [usize; 2],
}

impl Program {
    /// No routines yet. Rules begin as `CFA = sp + 8` with the return address at `CFA - 8` if calls push it, and as
    /// `CFA = sp` otherwise.
    pub(crate) fn new(arch: &'static Arch) -> Program {
        let mut cfi = Cfi::default();
        let (column, initial) = match arch.link {
            None => (arch.pc, vec![DW_CFA_def_cfa.0, arch.sp.0, 8, DW_CFA_offset.0 | arch.pc.0, 1]),
            Some(link) => (link, vec![DW_CFA_def_cfa.0, arch.sp.0, 0]),
        };
        let cies = [cfi.cie("", column, &initial), cfi.cie("zS", column, &initial)];
        Program { arch, code: Vec::new(), cfi, routines: HashMap::new(), cies }
    }

    /// Adds a routine without rules. All its bytes are calls, the last ones too, so that all its addresses lie after
    /// one.
    pub(crate) fn bare(&mut self, name: &'static str) -> u64 {
        let start = CODE + self.code.len() as u64;
        let calls: &[u8] = if self.arch.link.is_none() { &[0xff, 0xd0] } else { &[0x20, 0x00, 0x3f, 0xd6] };
        self.code.extend(calls.iter().cycle().take(ROUTINE as usize));
        self.routines.insert(name, start);
        start
    }

    /// Adds a routine with rules.
    pub(crate) fn routine(&mut self, name: &'static str, instructions: &[u8]) {
        let start = self.bare(name);
        self.cfi.fde(self.cies[0], start, ROUTINE, instructions);
    }

    /// Adds a signal trampoline with rules.
    pub(super) fn trampoline(&mut self, name: &'static str, instructions: &[u8]) {
        let start = self.bare(name);
        self.cfi.fde(self.cies[1], start, ROUTINE, instructions);
    }

    /// Writes code into a routine, `offset` bytes in.
    pub(super) fn write(&mut self, name: &str, offset: u64, code: &[u8]) {
        let at = (self.routines[name] - CODE + offset) as usize;
        self.code[at..at + code.len()].copy_from_slice(code);
    }

    /// The address `offset` bytes into a routine.
    pub(crate) fn at(&self, name: &str, offset: u64) -> u64 {
        self.routines[name] + offset
    }

    /// Walks from `start` and returns each frame as `name+offset`, with a mark for what is special about it.
    pub(super) fn walk(&self, start: Registers, stack: &Stack, limit: usize) -> (Vec<String>, Ended) {
        let (frames, ended) = self.frames(start, stack, limit);
        (frames.iter().map(|(frame, _)| self.describe(frame)).collect(), ended)
    }

    pub(super) fn frames(&self, start: Registers, stack: &Stack, limit: usize) -> (Vec<(Frame, Registers)>, Ended) {
        let mut frames = Vec::new();
        let ended = self.with_tables(|tables| {
            walk(&mut Rules::new(tables), &stack.memory(), start, limit, |frame, registers| {
                frames.push((*frame, registers.clone()));
                ControlFlow::Continue(())
            })
        });
        (frames, ended)
    }

    /// Calls `then` with its rules.
    pub(crate) fn with_tables<T>(&self, then: impl FnOnce(&Tables<'_>) -> T) -> T {
        let range = [AddrRange::new(Addr(CODE), Addr(CODE + self.code.len() as u64))];
        let eh_frame = Some(SectionBytes { svma: EH_FRAME, bytes: &self.cfi.bytes });
        let sections = UnwindSections { eh_frame, ..UnwindSections::default() };
        then(&Tables::of(self.arch, self, [Placed { ranges: &range, bias: 0, sections }]))
    }

    fn describe(&self, frame: &Frame) -> String {
        let addr = frame.pc.addr().0;
        let routine = self.routines.iter().find(|(_, start)| (**start..**start + ROUTINE).contains(&addr));
        let place = routine.map_or(format!("{addr:#x}"), |(name, start)| format!("{name}+{}", addr - start));
        let kind = if matches!(frame.pc, crate::addr::Pc::At(_)) { "at " } else { "" };
        let signal = if frame.signal { " signal" } else { "" };
        format!("{kind}{place} {:?}{signal}", frame.found_by)
    }
}

impl Code for Program {
    fn is_executable(&self, at: Addr) -> bool {
        (CODE..CODE + self.code.len() as u64).contains(&at.0)
    }

    fn code(&self, at: Addr, into: &mut [u8]) -> bool {
        let tail = at.0.checked_sub(CODE).and_then(|offset| self.code.get(usize::try_from(offset).ok()?..));
        let bytes = tail.and_then(|tail| tail.get(..into.len()));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}

/// A stack under construction, from its lowest word up. Words may name places that come later.
#[derive(Default)]
pub(super) struct Stack {
    words: Vec<Word>,
    labels: HashMap<&'static str, u64>,
}

enum Word {
    Value(u64),
    Label(&'static str),
}

impl Stack {
    const LOW: u64 = 0x7000_0000;

    /// Adds a word.
    pub(super) fn word(mut self, value: u64) -> Stack {
        self.words.push(Word::Value(value));
        self
    }

    /// Adds words that mean nothing.
    pub(super) fn skip(mut self, count: usize) -> Stack {
        self.words.extend((0..count).map(|_| Word::Value(0xdead_beef)));
        self
    }

    /// Names the address of the next word.
    pub(super) fn label(mut self, name: &'static str) -> Stack {
        self.labels.insert(name, self.end());
        self
    }

    /// Adds a word that holds the address called `name`.
    pub(super) fn address_of(mut self, name: &'static str) -> Stack {
        self.words.push(Word::Label(name));
        self
    }

    /// The address called `name`.
    pub(super) fn at(&self, name: &str) -> u64 {
        self.labels[name]
    }

    fn end(&self) -> u64 {
        Stack::LOW + 8 * self.words.len() as u64
    }

    fn memory(&self) -> Copied {
        let value = |word: &Word| match word {
            Word::Value(value) => *value,
            Word::Label(name) => self.labels[name],
        };
        let mut memory = Copied::default();
        memory.insert(Addr(Stack::LOW), self.words.iter().flat_map(|word| value(word).to_le_bytes()).collect());
        memory
    }
}

/// Registers of which these are known.
pub(super) fn registers(known: &[(Register, u64)]) -> Registers {
    let mut registers = Registers::unknown();
    for (register, value) in known {
        registers.set(*register, *value);
    }
    registers
}
