//! aarch64 under Linux.
//!
//! Register numbers: "DWARF for the Arm 64-bit Architecture", section 4.1. Register block: `user_pt_regs`.
//! Signal frame: `struct rt_sigframe` in the kernel's `arch/arm64/kernel/signal.c`.

use super::Arch;
use crate::addr::Addr;
use crate::registers::Register;

const FP: Register = Register(29);
const LR: Register = Register(30);
const SP: Register = Register(31);
const PC: Register = Register(32);

const fn all_words() -> [Option<Register>; 33] {
    let mut words = [None; 33];
    let mut word = 0;
    while word < words.len() {
        words[word] = Some(Register(word as u8));
        word += 1;
    }
    words
}

/// The signal frame begins at the stack pointer with `siginfo` (128 bytes), then `ucontext`, whose `uc_mcontext`
/// lies 176 bytes in and begins with the fault address: x0 is 312 bytes above the stack pointer.
const fn signal_words() -> [(Register, u64); 33] {
    let mut words = [(PC, 0); 33];
    let mut word = 0;
    while word < words.len() {
        words[word] = (Register(word as u8), 128 + 176 + 8 + 8 * word as u64);
        word += 1;
    }
    words
}

/// aarch64, the AAPCS64 calling convention.
pub static AARCH64: Arch = Arch {
    name: "aarch64",
    elf_machine: 183,
    sp: SP,
    pc: PC,
    fp: FP,
    link: Some(LR),
    // x19–x29; the stack pointer follows from the CFA.
    callee_saved: 0x7ff << 19,
    red_zone: 0,
    instruction_unit: 4,
    prstatus: &all_words(),
    prstatus_words: 34,
    thread_pointer_word: None,
    thread_pointer_points_to_itself: false,
    // mov x8, #139; svc #0
    sigreturn: &[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4],
    sigframe: &signal_words(),
    sigframe_uc_stack: 128 + 16,
    ends_with_call,
    direct_call_target,
    // Such a call takes three instructions here, of which the last alone says nothing.
    call_slot: |_, _| None,
    is_stub,
    // mov x29, #0
    clears_fp: &[&[0x1d, 0x00, 0x80, 0xd2]],
    longest_call: 4,
    address_bits: 48,
};

/// `BL`, `BLR`, or one of `BLRAA`, `BLRAB`, `BLRAAZ`, `BLRABZ`.
fn ends_with_call(before: &[u8]) -> bool {
    let Some(word) = before.last_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) else { return false };
    word >> 26 == 0b100101 || word & 0xfefff000 == 0xd63f0000
}

/// `BL`: 26 bits count words from the instruction itself, which lies before the return address.
fn direct_call_target(before: &[u8], return_address: Addr) -> Option<Addr> {
    let word = before.last_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))?;
    let words = i64::from((word << 6).cast_signed() >> 6);
    (word >> 26 == 0b100101).then(|| return_address.offset(4 * words - 4))
}

/// `ADRP x16`, or `B`, after an optional `BTI c`.
fn is_stub(code: &[u8]) -> bool {
    let code = code.strip_prefix(&[0x5f, 0x24, 0x03, 0xd5]).unwrap_or(code);
    let Some(word) = code.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) else { return false };
    word & 0x9f00_001f == 0x9000_0010 || word >> 26 == 0b000101
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_calls_from_branches() {
        let is_call = |word: u32| ends_with_call(&word.to_le_bytes());
        assert!(is_call(0x9400_0001)); // bl .+4
        assert!(is_call(0xd63f_0020)); // blr x1
        assert!(is_call(0xd73f_0822)); // blraa x1, x2
        assert!(is_call(0xd63f_083f)); // blraaz x1
        assert!(!is_call(0x1400_0001)); // b .+4
        assert!(!is_call(0xd61f_0020)); // br x1
        assert!(!is_call(0xd65f_03c0)); // ret
    }

    #[test]
    fn knows_stubs() {
        assert!(is_stub(&0xb000_0090_u32.to_le_bytes())); // adrp x16, .+0x11000
        assert!(is_stub(&[0x5f, 0x24, 0x03, 0xd5, 0x90, 0, 0, 0xb0])); // bti c; adrp
        assert!(is_stub(&0x1400_0001_u32.to_le_bytes())); // b .+4
        assert!(!is_stub(&0xa9bf_7bfd_u32.to_le_bytes()) && !is_stub(&[])); // stp x29, x30, [sp, -16]!
    }

    #[test]
    fn a_direct_call_goes_to_its_offset_from_itself() {
        let target = |word: u32| direct_call_target(&word.to_le_bytes(), Addr(0x1004));
        assert_eq!(target(0x9400_0001), Some(Addr(0x1004))); // bl .+4
        assert_eq!(target(0x97ff_ffff), Some(Addr(0xffc))); // bl .-4
        assert_eq!(target(0xd63f_0020), None); // blr x1
    }
}
