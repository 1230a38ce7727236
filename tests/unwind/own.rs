//! This process as something to unwind: its registers, its memory, its modules.
#![allow(unsafe_code)]

use std::arch::asm;
use std::fs::File;
use std::os::unix::fs::FileExt;

use stackscope::workshop::addr::Addr;
use stackscope::workshop::image::Modules;
use stackscope::workshop::memory::{Memory, Unreadable};
use stackscope::workshop::process::{Target, This};
use stackscope::workshop::registers::{Register, Registers};

/// Our own memory, read through the kernel, which refuses what is not mapped.
pub(crate) struct OwnMemory(File);

impl OwnMemory {
    pub(crate) fn open() -> OwnMemory {
        OwnMemory(File::open("/proc/self/mem").expect("our own memory"))
    }
}

impl Memory for OwnMemory {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read_exact_at(into, at.0).map_err(|_| Unreadable { at })
    }
}

pub(crate) fn modules() -> Modules {
    This::with(|this| Modules::load(this.mappings(), this, this)).expect("our own map")
}

/// Calls `then` with the registers of this function as they were just before.
#[inline(never)]
pub(crate) fn with_registers<T>(then: impl FnOnce(Registers) -> T) -> T {
    // In the order of DWARF numbers: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, rip.
    let mut words = [0u64; 17];
    // SAFETY: writes 17 words to `words`, which is that long, and changes no register but rcx.
    unsafe {
        asm!(
            "mov [rax + 8*3], rbx", "mov [rax + 8*6], rbp", "mov [rax + 8*7], rsp",
            "mov [rax + 8*12], r12", "mov [rax + 8*13], r13", "mov [rax + 8*14], r14", "mov [rax + 8*15], r15",
            "lea rcx, [rip]", "mov [rax + 8*16], rcx",
            in("rax") words.as_mut_ptr(), out("rcx") _, options(nostack),
        );
    }
    let mut registers = Registers::unknown();
    for number in [3, 6, 7, 12, 13, 14, 15, 16] {
        registers.set(Register(number), words[usize::from(number)]);
    }
    let result = then(registers);
    // Keeps `words`, and with it this frame, alive over the call.
    std::hint::black_box(&mut words);
    result
}
