//! The registers of a stopped thread.

use std::io;

use super::ptrace;
use crate::arch::Arch;
use crate::registers::Registers;

/// What was read of one thread.
pub(super) struct Read {
    /// Its general registers.
    pub registers: Registers,
    /// Its thread pointer, if it is known.
    pub thread_pointer: Option<u64>,
}

/// `NT_PRSTATUS` in `elf.h`.
const NT_PRSTATUS: u32 = 1;
/// `NT_ARM_TLS` in `elf.h`: `TPIDR_EL0`.
const NT_ARM_TLS: u32 = 0x401;

/// Reads the registers of `tid`, which this thread traces and which stands still.
pub(super) fn read(tid: i32, arch: &'static Arch) -> io::Result<Read> {
    // The largest general register set of any CPU known here has 34 words.
    let mut block = [0; 64 * 8];
    let filled = ptrace::register_set(tid, NT_PRSTATUS, &mut block)?;
    if filled.len() < arch.prstatus.len() * 8 {
        // A thread in 32-bit mode has a shorter set with another meaning.
        return Ok(Read { registers: Registers::unknown(), thread_pointer: None });
    }
    let thread_pointer = match arch.thread_pointer_word {
        Some(word) => filled.chunks_exact(8).nth(word).and_then(as_word),
        None => ptrace::register_set(tid, NT_ARM_TLS, &mut [0; 16]).ok().and_then(|set| as_word(set.get(..8)?)),
    };
    Ok(Read { registers: arch.registers_from_prstatus(filled), thread_pointer })
}

fn as_word(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
