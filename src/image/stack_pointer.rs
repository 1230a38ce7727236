//! Searches for the instructions that set the stack pointer to a value that may belong to another stack.
//!
//! It leaves out those that move it by a constant, or back from a frame pointer that the same function made of it;
//! and `sub`, which makes room. As in every search of undecoded bytes, a find may lie inside another instruction.

use super::CodeBytes;
use super::scan::places;

/// Bytes before the stack pointer is set from `rbp`, in which that register may get its value from elsewhere.
const NEAR: usize = 40;

/// The number of `rsp` and of `rbp` in an instruction's encoding.
const RSP: u8 = 4;
const RBP: u8 = 5;

/// Instructions that may move the stack pointer to another stack: `mov rsp, r/m` and its reverse, with `fs:` too,
/// `lea rsp, [r+x]`, `xchg`, `add rsp, r/m`, and `pop rsp` next to another push or pop; if `rbp` was given a value
/// shortly before, also `leave` and whatever else sets the stack pointer from it.
///
/// Returns the address of each, in order.
pub fn stack_pointer_writes(code: CodeBytes<'_>) -> impl Iterator<Item = u64> {
    let found = places(code.bytes, may_write_stack_pointer).filter_map(move |place| writes_at(code.bytes, place));
    found.map(move |place| code.svma.wrapping_add(place as u64))
}

/// Whether [`writes_at`] may find one in code that begins with these bytes; tests only what is needed, without
/// branches.
fn may_write_stack_pointer([first, second, third, _]: [u8; 4]) -> bool {
    // With REX.R clear, `reg` 4 is rsp; with REX.B clear, `rm` 4 is.
    let reg = (first & 0xfc == 0x48) & (third & 0x38 == 0x20);
    let rm = first & 0xf9 == 0x48;
    // `lea rsp, [rbp+x]`, in the epilogue of every other function.
    let own = (second == 0x8d) & (third & 7 == 5) & (first & 1 == 0);
    let takes = (third & 0xf8 == 0x58) | (third == 0x41) | (third == 0xc3);
    reg & ((second == 0x8b) | (second == 0x8d) | (second == 0x87) | (second == 0x03)) & !own
        | rm & ((second == 0x89) | (second == 0x87) | (second == 0x01)) & (third & 0xc7 == 0xc4)
        | rm & (second == 0x94)
        | (first == 0xc9) & ((second & 0xf8 == 0x58) | (second == 0x41) | (second == 0xc3))
        | (second == 0x5c) & (first & 0xf1 != 0x41) & (takes | (first & 0xf8 == 0x50))
}

/// Where the instruction that is searched for begins, if one is at `place` or begins next to it.
fn writes_at(code: &[u8], place: usize) -> Option<usize> {
    let tail = &code[place..];
    match *tail {
        [0xc9, ..] => is_given_frame_pointer(code, place).then_some(place),
        // REX.B would make it another register's.
        [before, 0x5c, ..] if before & 0xf1 != 0x41 => Some(place + 1),
        [rex @ 0x48..=0x4f, opcode, modrm, ref rest @ ..] => {
            let write = write_of(rex, opcode, modrm, rest)?;
            let before = place.checked_sub(1).filter(|before| code[*before] == FS && write == Write::Loaded);
            match write {
                Write::Restored => is_given_frame_pointer(code, place).then_some(place),
                _ => Some(before.unwrap_or(place)),
            }
        }
        _ => None,
    }
}

/// The prefix of an operand in the thread's own memory.
const FS: u8 = 0x64;

/// How an instruction sets the stack pointer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Loaded,
    Moved,
    Restored,
}

fn write_of(rex: u8, opcode: u8, modrm: u8, rest: &[u8]) -> Option<Write> {
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7 | (rex & 4) << 1, modrm & 7 | (rex & 1) << 3);
    let sib = rest.first().copied().filter(|_| mode != 3 && modrm & 7 == 4);
    let base = sib.map_or(rm, |sib| sib & 7 | (rex & 1) << 3);
    let has_index = sib.is_some_and(|sib| (sib >> 3 & 7 | (rex & 2) << 2) != 4);
    let from = |register: u8| match register {
        RSP => None,
        RBP => Some(Write::Restored),
        _ => Some(Write::Moved),
    };
    match opcode {
        0x8b if mode == 3 && reg == RSP => from(rm),
        0x8b | 0x03 if mode != 3 && reg == RSP => Some(Write::Loaded),
        0x89 if mode == 3 && rm == RSP => from(reg),
        0x01 if mode == 3 && rm == RSP => Some(Write::Moved),
        0x03 if mode == 3 && reg == RSP => Some(Write::Moved),
        0x8d if reg == RSP && mode != 3 && (base != RSP || has_index) && base != RBP => Some(Write::Moved),
        0x87 if mode != 3 && reg == RSP => Some(Write::Loaded),
        0x87 if mode == 3 && (reg == RSP || rm == RSP) => Some(Write::Moved),
        0x94 if rex & 1 == 0 => Some(Write::Moved),
        _ => None,
    }
}

/// Whether `rbp` seems to get a value from elsewhere shortly before `place`: not by `mov rbp, rsp`, as a function does
/// that keeps a frame pointer.
fn is_given_frame_pointer(code: &[u8], place: usize) -> bool {
    let gives = |four: &[u8]| {
        let &[rex, opcode, modrm, ..] = four else { return false };
        let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7 | (rex & 4) << 1, modrm & 7 | (rex & 1) << 3);
        match opcode {
            _ if rex & 0xf8 != 0x48 => false,
            0x89 => mode == 3 && rm == RBP && reg != RSP,
            0x8b | 0x87 => reg == RBP && (mode != 3 || rm != RSP),
            _ => false,
        }
    };
    code[place.saturating_sub(NEAR)..place].windows(3).any(gives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(bytes: &[u8]) -> Vec<u64> {
        stack_pointer_writes(CodeBytes { svma: 0x1000, bytes }).collect()
    }

    #[test]
    fn finds_each_form_of_stack_pointer_write() {
        let forms: &[&[u8]] = &[
            &[0x48, 0x89, 0xfc],                               // mov rsp, rdi
            &[0x4c, 0x89, 0xc4],                               // mov rsp, r8
            &[0x48, 0x8b, 0xe7],                               // mov rsp, rdi, the other encoding
            &[0x49, 0x8b, 0xe5],                               // mov rsp, r13
            &[0x48, 0x8b, 0x26],                               // mov rsp, [rsi]
            &[0x48, 0x8b, 0x66, 0x08],                         // mov rsp, [rsi+8]
            &[0x48, 0x8b, 0xa2, 0xa0, 0, 0, 0],                // mov rsp, [rdx+0xa0]
            &[0x64, 0x48, 0x8b, 0x24, 0x25, 0xf8, 0xff, 0xff], // mov rsp, fs:-8
            &[0x48, 0x8d, 0x62, 0x08],                         // lea rsp, [rdx+8]
            &[0x48, 0x8d, 0x24, 0x34],                         // lea rsp, [rsp+rsi]
            &[0x48, 0x87, 0xe0],                               // xchg rax, rsp
            &[0x48, 0x87, 0x27],                               // xchg [rdi], rsp
            &[0x48, 0x94],                                     // xchg rax, rsp, the short form
            &[0x48, 0x01, 0xf4],                               // add rsp, rsi
            &[0x48, 0x03, 0x26],                               // add rsp, [rsi]
            &[0x5c, 0x41, 0x5f],                               // pop rsp; pop r15
            &[0x5c, 0xc3],                                     // pop rsp; ret
        ];
        for form in forms {
            let mut code = vec![0x90; 3];
            code.extend_from_slice(form);
            code.extend_from_slice(&[0x90; 8]);
            assert_eq!(writes(&code), [0x1003], "{form:x?}");
        }
        assert_eq!(writes(&[0x56, 0x5c, 0x90, 0x90]), [0x1001], "push rsi; pop rsp");
    }

    #[test]
    fn the_frame_pointer_carries_a_stack_pointer_that_it_was_given() {
        let given: &[&[u8]] = &[
            &[0x48, 0x89, 0xf5],       // mov rbp, rsi
            &[0x48, 0x8b, 0x6e, 0x08], // mov rbp, [rsi+8]
            &[0x48, 0x87, 0x2e],       // xchg [rsi], rbp
        ];
        let own: &[u8] = &[0x48, 0x89, 0xe5]; // mov rbp, rsp
        let moves: &[&[u8]] = &[
            &[0x48, 0x89, 0xec], // mov rsp, rbp
            &[0x48, 0x8b, 0xe5], // the same, the other encoding
            &[0xc9, 0xc3],       // leave; ret
        ];
        for moves in moves {
            for given in given {
                let code = [*given, &[0x90; 4], *moves, &[0x90; 8]].concat();
                assert_eq!(writes(&code), [0x1000 + given.len() as u64 + 4], "{given:x?} {moves:x?}");
            }
            assert!(writes(&[own, &[0x90; 4], *moves, &[0x90; 8]].concat()).is_empty(), "{moves:x?}");
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
            &[0x41, 0x5c, 0x41, 0x5d],       // pop r12; pop r13
            &[0x48, 0x89, 0x5c, 0x24, 0x08], // mov [rsp+8], rbx
            &[0xc9, 0xc3],                   // leave; ret
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
        for form in [&[0x48, 0x8b, 0x26][..], &[0x64, 0x48, 0x8b, 0x24, 0x25], &[0x56, 0x5c], &[0xc9]] {
            for length in 0..form.len() {
                assert!(writes(&form[..length]).len() <= 1);
            }
        }
    }
}
