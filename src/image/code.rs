//! Looks for instructions in the bytes of x86-64 code, without decoding all of it.
//!
//! A scan looks at each byte as if an instruction began there, so what it finds may lie inside another instruction:
//! whoever uses a find decodes from a place where an instruction is known to begin. Encodings: Intel SDM, volume 2.

use std::ops::Range;

/// Code, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct CodeBytes<'a> {
    /// The svma of the first byte.
    pub svma: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> CodeBytes<'a> {
    /// The addresses that it covers.
    pub fn range(&self) -> Range<u64> {
        self.svma..self.svma.saturating_add(self.bytes.len() as u64)
    }

    /// The bytes from `svma` to the end.
    pub fn tail(&self, svma: u64) -> Option<&'a [u8]> {
        let offset = usize::try_from(svma.checked_sub(self.svma)?).ok()?;
        self.bytes.get(offset..).filter(|tail| !tail.is_empty())
    }
}

/// Instructions that give the stack pointer a value which may belong to another stack:
/// `mov rsp, r/m`, `mov r, rsp`'s reverse, `lea rsp, [r+x]` and `xchg`, but not what restores it from `rbp` or moves it by a constant.
///
/// You get the address of each, in order.
pub fn stack_pointer_writes(code: CodeBytes<'_>) -> Vec<u64> {
    let table = write_table();
    let mut found = Vec::new();
    for (index, window) in code.bytes.windows(2).enumerate().skip(1) {
        let key = usize::from(window[0]) << 8 | usize::from(window[1]);
        if table[key >> 6] >> (key & 63) & 1 == 1 && is_stack_pointer_write(&code.bytes[index - 1..]) {
            found.push(code.svma.wrapping_add(index as u64 - 1));
        }
    }
    found
}

/// For each pair of opcode and ModRM bytes, a bit: whether a REX prefix before them could make them a write of `rsp`.
fn write_table() -> Box<[u64; 1024]> {
    let mut table = Box::new([0; 1024]);
    for opcode in [0x87_usize, 0x89, 0x8b, 0x8d, 0x94] {
        for modrm in 0..256 {
            if (0x48..0x50).any(|rex| is_stack_pointer_write(&[rex, opcode as u8, modrm as u8, 0])) {
                let key = opcode << 8 | modrm;
                table[key >> 6] |= 1 << (key & 63);
            }
        }
    }
    table
}

/// Whether an instruction that begins here writes `rsp` from elsewhere.
fn is_stack_pointer_write(code: &[u8]) -> bool {
    let &[rex @ 0x48..=0x4f, opcode, modrm, ref rest @ ..] = code else { return false };
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7 | (rex & 4) << 1, modrm & 7 | (rex & 1) << 3);
    let base = if mode != 3 && modrm & 7 == 4 { rest.first().map_or(0, |sib| sib & 7 | (rex & 1) << 3) } else { rm };
    match opcode {
        0x8b if mode == 3 => reg == 4 && rm != 4 && rm != 5,
        0x8b => reg == 4,
        0x89 => mode == 3 && rm == 4 && reg != 4 && reg != 5,
        0x8d => reg == 4 && mode != 3 && base != 4 && base != 5,
        0x87 => reg == 4 || mode == 3 && rm == 4,
        0x94 => true,
        _ => false,
    }
}

/// A direct call or jump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The address of the instruction.
    pub at: u64,
    /// Where it leads.
    pub target: u64,
    /// Whether it is a call, which returns to `at + 5`.
    pub call: bool,
}

/// Direct calls and jumps (`E8`/`E9 rel32`) whose target `wanted` accepts, in order.
pub fn transfers(code: CodeBytes<'_>, wanted: impl Fn(u64) -> bool) -> Vec<Transfer> {
    let transfer = |index: usize| {
        let displacement = code.bytes.get(index + 1..)?.first_chunk::<4>()?;
        let at = code.svma.wrapping_add(index as u64);
        let target = at.wrapping_add(5).wrapping_add_signed(i64::from(i32::from_le_bytes(*displacement)));
        wanted(target).then_some(Transfer { at, target, call: code.bytes[index] == 0xe8 })
    };
    memchr::memchr2_iter(0xe8, 0xe9, code.bytes).filter_map(transfer).collect()
}

/// An indirect call or jump through a word at a fixed address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotTransfer {
    /// The address of the instruction, without prefixes.
    pub at: u64,
    /// The address of the word that holds the target.
    pub slot: u64,
    /// Whether it is a call, which returns to `at + 6`.
    pub call: bool,
}

/// `call [rip+x]` and `jmp [rip+x]` (`FF /2`, `FF /4`) through a word that `wanted` accepts, in order.
pub fn slot_transfers(code: CodeBytes<'_>, wanted: impl Fn(u64) -> bool) -> Vec<SlotTransfer> {
    let transfer = |index: usize| {
        let [modrm @ (0x15 | 0x25), a, b, c, d] = *code.bytes.get(index + 1..)?.first_chunk::<5>()? else {
            return None;
        };
        let at = code.svma.wrapping_add(index as u64);
        let slot = at.wrapping_add(6).wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        wanted(slot).then_some(SlotTransfer { at, slot, call: modrm == 0x15 })
    };
    memchr::memchr_iter(0xff, code.bytes).filter_map(transfer).collect()
}

/// Whether some instruction may take the address `target`: `lea r, [rip+x]`, or one with the address as a number, as code
/// has it that is linked to run at a fixed place.
pub fn takes_address(code: CodeBytes<'_>, target: u64) -> bool {
    let leads_there = |index: usize| {
        let tail = code.bytes.get(index + 1..)?.first_chunk::<5>()?;
        let displacement = i64::from(i32::from_le_bytes([tail[1], tail[2], tail[3], tail[4]]));
        let next = code.svma.wrapping_add(index as u64 + 6);
        (tail[0] & 0xc7 == 0x05 && next.wrapping_add_signed(displacement) == target).then_some(())
    };
    let by_lea = || memchr::memchr_iter(0x8d, code.bytes).find_map(leads_there).is_some();
    let number = u32::try_from(target).ok().filter(|number| *number > 0xffff);
    let by_number = |number: u32| memchr::memmem::find(code.bytes, &number.to_le_bytes()).is_some();
    by_lea() || number.is_some_and(by_number)
}

/// The return addresses behind `call r/m` (`FF /2`), in order.
pub fn indirect_calls(code: CodeBytes<'_>) -> Vec<u64> {
    let after = |index: usize| {
        let tail = &code.bytes[index..];
        let length = indirect_call_length(tail)?;
        (length <= tail.len()).then(|| code.svma.wrapping_add((index + length) as u64))
    };
    memchr::memchr_iter(0xff, code.bytes).filter_map(after).collect()
}

/// The length of a `call r/m` that begins here, by its ModRM and SIB bytes.
fn indirect_call_length(code: &[u8]) -> Option<usize> {
    let modrm = *code.get(1)?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if has_sib && code.get(2)? & 7 == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    (modrm >> 3 & 7 == 2).then_some(2 + usize::from(has_sib) + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(bytes: &[u8]) -> Vec<u64> {
        stack_pointer_writes(CodeBytes { svma: 0x1000, bytes })
    }

    #[test]
    fn finds_each_form_of_stack_pointer_write() {
        let forms: &[&[u8]] = &[
            &[0x48, 0x89, 0xfc],                // mov rsp, rdi
            &[0x4c, 0x89, 0xc4],                // mov rsp, r8
            &[0x48, 0x8b, 0xe7],                // mov rsp, rdi, the other encoding
            &[0x49, 0x8b, 0xe5],                // mov rsp, r13
            &[0x48, 0x8b, 0x26],                // mov rsp, [rsi]
            &[0x48, 0x8b, 0x66, 0x08],          // mov rsp, [rsi+8]
            &[0x48, 0x8b, 0xa2, 0xa0, 0, 0, 0], // mov rsp, [rdx+0xa0]
            &[0x48, 0x8d, 0x62, 0x08],          // lea rsp, [rdx+8]
            &[0x48, 0x87, 0xe0],                // xchg rax, rsp
            &[0x48, 0x94],                      // xchg rax, rsp, the short form
        ];
        for form in forms {
            let mut code = vec![0x90; 3];
            code.extend_from_slice(form);
            code.extend_from_slice(&[0x90; 8]);
            assert_eq!(writes(&code), [0x1003], "{form:x?}");
        }
    }

    #[test]
    fn passes_over_what_stays_on_the_stack() {
        let forms: &[&[u8]] = &[
            &[0x48, 0x89, 0xec],             // mov rsp, rbp
            &[0x48, 0x8d, 0x65, 0xd8],       // lea rsp, [rbp-0x28]
            &[0x48, 0x8d, 0x64, 0x24, 0x40], // lea rsp, [rsp+0x40]
            &[0x48, 0x83, 0xec, 0x18],       // sub rsp, 0x18
            &[0x48, 0x89, 0xe0],             // mov rax, rsp
            &[0x4c, 0x8b, 0x26],             // mov r12, [rsi]
            &[0x49, 0x89, 0xfc],             // mov r12, rdi
            &[0x4c, 0x8d, 0x62, 0x08],       // lea r12, [rdx+8]
            &[0x48, 0x29, 0xc4],             // sub rsp, rax
        ];
        for form in forms {
            let mut code = vec![0x90; 3];
            code.extend_from_slice(form);
            code.extend_from_slice(&[0x90; 8]);
            assert!(writes(&code).is_empty(), "{form:x?}");
        }
    }

    #[test]
    fn code_cut_short_is_no_error() {
        for length in 0..4 {
            assert!(writes(&[0x48, 0x8b, 0x26][..length.min(3)]).len() <= 1);
            assert!(transfers(CodeBytes { svma: 0, bytes: &[0xe8, 0, 0, 0][..length] }, |_| true).is_empty());
            assert!(slot_transfers(CodeBytes { svma: 0, bytes: &[0xff, 0x15, 0, 0][..length] }, |_| true).is_empty());
        }
    }

    #[test]
    fn an_address_is_taken_by_lea_or_as_a_number() {
        let code = [0x90, 0x48, 0x8d, 0x3d, 0x08, 0, 0, 0, 0xbf, 0x56, 0x34, 0x12, 0];
        let takes = |target| takes_address(CodeBytes { svma: 0x1000, bytes: &code }, target);
        assert!(takes(0x1010) && takes(0x12_3456));
        assert!(!takes(0x1011) && !takes(0x3456));
    }

    #[test]
    fn transfers_lead_where_the_displacement_says() {
        let code = [0x90, 0xe8, 0xfa, 0xff, 0xff, 0xff, 0xe9, 0, 0, 0, 0];
        let found = transfers(CodeBytes { svma: 0x1000, bytes: &code }, |_| true);
        assert_eq!(found[0], Transfer { at: 0x1001, target: 0x1000, call: true });
        assert_eq!(found[1], Transfer { at: 0x1006, target: 0x100b, call: false });
        let code = [0xff, 0x25, 0x10, 0, 0, 0];
        let found = slot_transfers(CodeBytes { svma: 0x1000, bytes: &code }, |slot| slot == 0x1016);
        assert_eq!(found, [SlotTransfer { at: 0x1000, slot: 0x1016, call: false }]);
    }
}
