//! Whether a function's own code explains that its frame is larger than a guard.
//!
//! A frame that begins on one side of a guard and ends on the other is either a switch's, which sets the stack pointer to
//! another stack, or so large that it passed the guard: then the function took a variable or a large amount from the
//! stack pointer, and set it to nothing else.

use crate::addr::{Addr, PAGE, Pc};
use crate::image::{CodeBytes, Modules, stack_pointer_writes};
use crate::unwind::Tables;

/// Longer functions are not read.
const LONGEST: u64 = 1 << 20;

/// The length of the longest instruction that takes an amount from the stack pointer.
const LONGEST_SUBTRACTION: usize = 8;

/// Whether the function at `pc` has taken a page or more from the stack pointer before that, and moved it by nothing
/// else but constants.
pub(crate) fn makes_room(pc: Pc, tables: &Tables<'_>, modules: &Modules) -> bool {
    let Some(start) = tables.function_start(pc.lookup()) else { return false };
    let Some(length) = pc.addr().0.checked_sub(start.0).filter(|length| *length <= LONGEST) else { return false };
    let mut bytes = vec![0; length as usize];
    modules.code(start, &mut bytes) && explains(start, &bytes)
}

fn explains(start: Addr, bytes: &[u8]) -> bool {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len() + LONGEST_SUBTRACTION, 0);
    let takes = padded.windows(LONGEST_SUBTRACTION).take(bytes.len()).any(takes_room);
    takes && stack_pointer_writes(CodeBytes { svma: start.0, bytes }).next().is_none()
}

/// `sub rsp, register`, or `sub rsp`, `add rsp` and `lea rsp, [rsp+…]` with at least a page.
fn takes_room(code: &[u8]) -> bool {
    let constant = |at: usize| code.get(at..).and_then(|rest| rest.first_chunk()).map(|word| i32::from_le_bytes(*word));
    let taken = match *code {
        // The register is in `reg`, and rsp in `rm`; or the other way round.
        [0x48 | 0x4c, 0x29, modrm, ..] if modrm & 0xc7 == 0xc4 => return true,
        [0x48 | 0x49, 0x2b, modrm, ..] if modrm & 0xf8 == 0xe0 => return true,
        [0x48, 0x81, 0xec, ..] => constant(3),
        [0x48, 0x81, 0xc4, ..] => constant(3).map(i32::wrapping_neg),
        [0x48, 0x8d, 0xa4, 0x24, ..] => constant(4).map(i32::wrapping_neg),
        _ => None,
    };
    taken.is_some_and(|taken| i64::from(taken) >= PAGE as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: bool) {
        assert_eq!(explains(Addr(0x1000), bytes), expected, "{bytes:x?}");
    }

    #[test]
    fn large_and_variable_frames_explain_it() {
        // push rbp; mov rbp, rsp; sub rsp, rax
        check(&[0x55, 0x48, 0x89, 0xe5, 0x48, 0x29, 0xc4], true);
        // sub rsp, 0x9000
        check(&[0x48, 0x81, 0xec, 0x00, 0x90, 0, 0], true);
        // lea rsp, [rsp-0x9000]
        check(&[0x48, 0x8d, 0xa4, 0x24, 0x00, 0x70, 0xff, 0xff], true);
    }

    #[test]
    fn small_frames_and_switches_do_not() {
        // sub rsp, 0x200; sub rsp, 0x18
        check(&[0x48, 0x81, 0xec, 0x00, 0x02, 0, 0, 0x48, 0x83, 0xec, 0x18], false);
        // sub rsp, 0x9000; mov rsp, rdi
        check(&[0x48, 0x81, 0xec, 0x00, 0x90, 0, 0, 0x48, 0x89, 0xfc], false);
        check(&[], false);
    }
}
