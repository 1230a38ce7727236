//! x86-64 under Linux.
//!
//! Register numbers: System V ABI, AMD64 supplement, figure 3.36. Register block: `user_regs_struct` in `sys/user.h`.
//! Signal frame: `struct rt_sigframe` in the kernel's `arch/x86/include/asm/sigframe.h`.

use super::Arch;
use crate::addr::Addr;
use crate::registers::Register;

const RAX: Register = Register(0);
const RDX: Register = Register(1);
const RCX: Register = Register(2);
const RBX: Register = Register(3);
const RSI: Register = Register(4);
const RDI: Register = Register(5);
const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RIP: Register = Register(16);

const fn r(number: u8) -> Register {
    Register(number)
}

/// x86-64, System V calling convention.
pub static X86_64: Arch = Arch {
    name: "x86_64",
    elf_machine: 62,
    sp: RSP,
    pc: RIP,
    fp: RBP,
    link: None,
    callee_saved: 1 << RBX.0 | 1 << RBP.0 | 0xf << 12,
    red_zone: 128,
    instruction_unit: 1,
    prstatus: &[
        Some(r(15)),
        Some(r(14)),
        Some(r(13)),
        Some(r(12)),
        Some(RBP),
        Some(RBX),
        Some(r(11)),
        Some(r(10)),
        Some(r(9)),
        Some(r(8)),
        Some(RAX),
        Some(RCX),
        Some(RDX),
        Some(RSI),
        Some(RDI),
        None, // orig_rax: the number of the system call
        Some(RIP),
        None, // cs
        None, // eflags
        Some(RSP),
    ],
    prstatus_words: 27,
    thread_pointer_word: Some(21),
    thread_pointer_points_to_itself: true,
    // mov $15, %rax; syscall: glibc's and musl's __restore_rt, Go's runtime.sigreturn.
    sigreturn: &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    // In the trampoline the handler's return address is popped, so the stack pointer is at `uc`; its
    // `uc_mcontext` begins 40 bytes in: r8–r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    sigframe: &[
        (r(8), 40),
        (r(9), 48),
        (r(10), 56),
        (r(11), 64),
        (r(12), 72),
        (r(13), 80),
        (r(14), 88),
        (r(15), 96),
        (RDI, 104),
        (RSI, 112),
        (RBP, 120),
        (RBX, 128),
        (RDX, 136),
        (RAX, 144),
        (RCX, 152),
        (RSP, 160),
        (RIP, 168),
    ],
    sigframe_uc_stack: 16,
    ends_with_call,
    direct_call_target,
    call_slot,
    is_stub,
    // xor %ebp, %ebp, with and without a REX prefix, in both encodings.
    clears_fp: &[&[0x31, 0xed], &[0x33, 0xed]],
    longest_call: 8,
    address_bits: 57,
};

/// `E8 rel32`, or `FF /2` in each length its ModRM byte allows, with an optional REX prefix (which need not be
/// checked).
fn ends_with_call(before: &[u8]) -> bool {
    let from_end = |back: usize| before.get(before.len().checked_sub(back)?).copied();
    if from_end(5) == Some(0xe8) {
        return true;
    }
    (2..=7).any(|length| {
        let (Some(0xff), Some(modrm)) = (from_end(length), from_end(length - 1)) else { return false };
        modrm >> 3 & 7 == 2 && indirect_call_length(modrm, from_end(length - 2)) == length
    })
}

/// The length in bytes of an `FF /2` with this ModRM byte and the byte after it, a SIB byte if there is one.
fn indirect_call_length(modrm: u8, sib: Option<u8>) -> usize {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if has_sib && sib.is_some_and(|sib| sib & 7 == 5) => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    2 + usize::from(has_sib) + displacement
}

/// `E8 rel32`: the offset counts from the return address.
fn direct_call_target(before: &[u8], return_address: Addr) -> Option<Addr> {
    let [0xe8, offset @ ..] = *before.last_chunk::<5>()? else { return None };
    Some(return_address.offset(i32::from_le_bytes(offset).into()))
}

/// `FF 15 disp32`: `call [rip + disp32]`, where `rip` is the return address.
fn call_slot(before: &[u8], return_address: Addr) -> Option<Addr> {
    let [0xff, 0x15, offset @ ..] = *before.last_chunk::<6>()? else { return None };
    Some(return_address.offset(i32::from_le_bytes(offset).into()))
}

/// `jmp [rip + x]` or `jmp x`, after an optional `endbr64` and `bnd`; or the `push` of a stub that is not bound yet.
fn is_stub(code: &[u8]) -> bool {
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    let code = code.strip_prefix(&[0xf2]).unwrap_or(code);
    matches!(code, [0xff, 0x25, ..] | [0xe9 | 0xeb | 0x68, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_each_form_of_call() {
        let calls: &[&[u8]] = &[
            &[0xe8, 1, 2, 3, 4],             // call rel32
            &[0xff, 0xd0],                   // call rax
            &[0x41, 0xff, 0xd4],             // call r12
            &[0xff, 0x12],                   // call [rdx]
            &[0xff, 0x50, 0x18],             // call [rax+0x18]
            &[0xff, 0x90, 0, 1, 0, 0],       // call [rax+0x100]
            &[0xff, 0x15, 1, 2, 3, 4],       // call [rip+x]
            &[0xff, 0x14, 0x24],             // call [rsp]
            &[0x41, 0xff, 0x14, 0xc4],       // call [r12+rax*8]
            &[0xff, 0x54, 0x24, 8],          // call [rsp+8]
            &[0xff, 0x94, 0x24, 0, 1, 0, 0], // call [rsp+0x100]
            &[0xff, 0x14, 0xc5, 0, 0, 0, 0], // call [rax*8+x]
        ];
        for call in calls {
            let mut code = vec![0x90; 8];
            code.extend_from_slice(call);
            assert!(ends_with_call(&code), "{call:x?}");
        }
    }

    #[test]
    fn a_direct_call_goes_to_its_offset_from_the_return_address() {
        assert_eq!(direct_call_target(&[0x90, 0xe8, 0xf0, 0xff, 0xff, 0xff], Addr(0x1000)), Some(Addr(0xff0)));
        assert_eq!(direct_call_target(&[0xff, 0xd0], Addr(0x1000)), None);
        assert_eq!(call_slot(&[0xff, 0x15, 0x10, 0, 0, 0], Addr(0x1000)), Some(Addr(0x1010)));
        assert_eq!(call_slot(&[0x90, 0xe8, 0xf0, 0xff, 0xff, 0xff], Addr(0x1000)), None);
    }

    #[test]
    fn knows_stubs() {
        assert!(is_stub(&[0xff, 0x25, 1, 2, 3, 4]));
        assert!(is_stub(&[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 1, 2, 3, 4]));
        assert!(is_stub(&[0xf3, 0x0f, 0x1e, 0xfa, 0x68, 1, 0, 0, 0]));
        assert!(!is_stub(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55]) && !is_stub(&[]));
    }

    #[test]
    fn refuses_what_is_no_call() {
        let others: &[&[u8]] = &[&[], &[0x90; 8], &[0xc3; 8], &[0xff, 0xe0], &[0xff, 0x30], &[0xff, 0x10, 0x90]];
        for other in others {
            assert!(!ends_with_call(other), "{other:x?}");
        }
    }
}
