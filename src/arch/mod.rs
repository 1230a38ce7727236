//! What differs by CPU, as one constant table each, chosen at run time.
//!
//! A core file of one CPU is read on a machine of another, so nothing here depends on what we were built for.
//! To add a CPU: fill in an [`Arch`], name the standard that defines the numbers, and list it in
//! [`Arch::of_elf_machine`].

mod aarch64;
mod x86_64;

pub use aarch64::AARCH64;
pub use x86_64::X86_64;

use crate::addr::Addr;
use crate::registers::{Register, Registers};

/// The facts of one CPU under Linux that unwinding and reading registers need.
#[derive(Debug)]
pub struct Arch {
    /// The name used in reports.
    pub name: &'static str,
    /// `e_machine` in the ELF header.
    pub elf_machine: u16,
    /// The stack pointer.
    pub sp: Register,
    /// Where the address of the next instruction is kept.
    pub pc: Register,
    /// The frame pointer, if a function keeps one.
    pub fp: Register,
    /// The register in which a call leaves its return address; `None` if it is pushed on the stack.
    pub link: Option<Register>,
    /// Registers that a called function must preserve, a bit for each DWARF number.
    pub callee_saved: u64,
    /// Bytes below the stack pointer that the current function may use.
    pub red_zone: u64,
    /// The width of the smallest instruction, in bytes.
    pub instruction_unit: u64,
    /// The order of the words in `NT_PRSTATUS`'s register block (`PTRACE_GETREGSET`, `elf_gregset_t`):
    /// the DWARF register that each word is, `None` for one that is not kept.
    pub prstatus: &'static [Option<Register>],
    /// How many words that block has.
    pub prstatus_words: usize,
    /// Which word of that block is the thread pointer; `None` if another note holds it.
    pub thread_pointer_word: Option<usize>,
    /// Whether the word at the thread pointer holds the thread pointer, in whatever keeps to the ABI (ELF Handling For
    /// Thread-Local Storage, section 3.4.6: variant II, x86-64).
    pub thread_pointer_points_to_itself: bool,
    /// The instructions of the kernel's signal return trampoline, by which it is recognized if no rules describe it.
    pub sigreturn: &'static [u8],
    /// How far above the stack pointer, in the signal trampoline, the kernel keeps the interrupted registers,
    /// each as (DWARF register, offset in bytes from the stack pointer): `rt_sigframe` in the kernel's `sigframe.h`.
    pub sigframe: &'static [(Register, u64)],
    /// Where, from the same stack pointer, the signal frame keeps `uc_stack` (`stack_t`: base, flags, size).
    pub sigframe_uc_stack: u64,
    /// Whether the bytes that end at a return address end with a call instruction.
    pub ends_with_call: fn(&[u8]) -> bool,
    /// Where the call instruction that ends at a return address goes, by the bytes before it; `None` for a call
    /// through a register or memory, and if there is no call.
    pub direct_call_target: fn(&[u8], Addr) -> Option<Addr>,
    /// Where the word lies that the call instruction that ends at a return address took its target from; `None` for
    /// any call except one through memory at a fixed place, such as calls through the global offset table.
    pub call_slot: fn(&[u8], Addr) -> Option<Addr>,
    /// Whether a routine that begins with this code only jumps on, as the stubs of a procedure linkage table do.
    pub is_stub: fn(&[u8]) -> bool,
    /// Instructions that set the frame pointer to zero, as the routines do in which a program and a thread begin.
    pub clears_fp: &'static [&'static [u8]],
    /// How many bytes before a return address `ends_with_call` and `direct_call_target` need.
    pub longest_call: usize,
    /// Bits of an address in use; those above are a signature or a tag and are removed from return addresses.
    pub address_bits: u32,
}

/// What a call instruction names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callee {
    /// The routine itself.
    Routine(Addr),
    /// The word that holds the routine's address.
    Slot(Addr),
}

impl Arch {
    /// The table for an ELF file's `e_machine`; `None` for a CPU that is not known here.
    pub fn of_elf_machine(machine: u16) -> Option<&'static Arch> {
        [&X86_64, &AARCH64].into_iter().find(|arch| arch.elf_machine == machine)
    }

    /// Where the call that ends at a return address goes, or what it takes its target from. `read` fills a buffer with the
    /// code at an address, and returns whether there is any.
    pub fn callee(&self, return_address: Addr, read: impl FnOnce(Addr, &mut [u8]) -> bool) -> Option<Callee> {
        let mut before = vec![0; self.longest_call];
        if !read(return_address.offset(-(before.len() as i64)), &mut before) {
            return None;
        }
        let direct = (self.direct_call_target)(&before, return_address).map(Callee::Routine);
        direct.or_else(|| (self.call_slot)(&before, return_address).map(Callee::Slot))
    }

    /// A return address without its signature or tag (pointer authentication, aarch64). A CPU without them keeps all
    /// bits: there, an address with the upper ones set is not valid.
    pub fn strip(&self, address: Addr) -> Addr {
        match self.link {
            Some(_) => Addr(address.0 & ((1 << self.address_bits) - 1)),
            None => address,
        }
    }

    /// Reads registers from an `NT_PRSTATUS` register block of little-endian words. A short block leaves the rest
    /// unknown.
    pub fn registers_from_prstatus(&self, block: &[u8]) -> Registers {
        let mut registers = Registers::unknown();
        for (word, register) in block.chunks_exact(8).zip(self.prstatus) {
            if let (Ok(word), Some(register)) = (word.try_into(), register) {
                registers.set(*register, u64::from_le_bytes(word));
            }
        }
        registers
    }
}
