//! Tells Valgrind of stacks, so that it takes a switch for a switch and not for a very large frame.
//!
//! A client request is a sequence of instructions that does nothing on the CPU and that Valgrind recognises
//! (`valgrind.h`, "The following is a NO-OP sequence"). It costs a few cycles for each stack that is made.

#![allow(unsafe_code)]

use core::arch::asm;

/// `VG_USERREQ__STACK_REGISTER` and `VG_USERREQ__STACK_DEREGISTER`.
const REGISTER: usize = 0x1501;
const DEREGISTER: usize = 0x1502;
/// `VG_USERREQ__MAKE_MEM_DEFINED` of memcheck; its other tools do not know it.
const MAKE_DEFINED: usize = 0x4d43_0002;

/// Makes the stack `low..high` known; gives the number under which [`deregister`] forgets it.
pub(super) fn register(low: *mut u8, high: *mut u8) -> usize {
    request(&[REGISTER, low.addr(), high.addr() - 1, 0, 0, 0])
}

/// Makes Valgrind forget the stack numbered `id`.
pub(super) fn deregister(id: usize) {
    request(&[DEREGISTER, id, 0, 0, 0, 0]);
}

/// Tells memcheck that `low..high` may be used, although it lies below where the stack pointer was last.
pub(super) fn allow(low: *mut u8, high: *mut u8) {
    request(&[MAKE_DEFINED, low.addr(), high.addr() - low.addr(), 0, 0, 0]);
}

/// Valgrind's answer to a request and its five arguments; 0 where no Valgrind runs.
#[cfg(target_arch = "x86_64")]
fn request(arguments: &[usize; 6]) -> usize {
    let mut answer = 0;
    // SAFETY: the four rotations of rdi add up to 128 bits and the exchange is one of a register with itself: on the CPU
    // nothing changes. Valgrind reads the arguments and writes rdx.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdx") answer,
            in("rax") arguments,
            in("rdi") 0_usize,
            options(nostack),
        );
    }
    answer
}

/// Valgrind's answer to a request and its five arguments; 0 where no Valgrind runs.
#[cfg(target_arch = "aarch64")]
fn request(arguments: &[usize; 6]) -> usize {
    let mut answer = 0;
    // SAFETY: the rotations of x12 add up to 128 bits and the `orr` copies a register to itself: on the CPU nothing
    // changes. Valgrind reads the arguments and writes x3.
    unsafe {
        asm!(
            "ror x12, x12, #3", "ror x12, x12, #13", "ror x12, x12, #51", "ror x12, x12, #61",
            "orr x10, x10, x10",
            inout("x3") answer,
            in("x4") arguments,
            in("x12") 0_usize,
            options(nostack),
        );
    }
    answer
}
