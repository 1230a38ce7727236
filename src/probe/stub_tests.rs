//! Stubs, carried out in this very process: what they note, and that they change nothing else.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use iced_x86::{Decoder, DecoderOptions};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::probe::table::{SIZE, Table};

/// The registers of `pushed`, in order from the lowest address: `rax` and `rcx` to `r15` without `rsp`, and the flags.
const REGISTERS: [Register; 15] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// The state in which code begins or ends: [`REGISTERS`], the flags, and the stack pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State([u64; 17]);

/// Memory that is mapped until this is dropped.
struct Mapped {
    at: u64,
    length: usize,
}

impl Mapped {
    fn new(length: u64, protection: i32, flags: i32, file: i32) -> Mapped {
        let length = length as usize;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Mapped { at: at as u64, length }
    }

    fn memory(length: u64) -> Mapped {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        Mapped::new(length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lasts as long as `self`, and nothing else refers to it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.at as *mut libc::c_void, self.length) };
    }
}

/// Stacks, a table and room for code.
struct Bench {
    code: Mapped,
    left: Mapped,
    entered: Mapped,
    state: Mapped,
    mapped: Mapped,
    table: Table,
}

/// Where things lie in the code: the way in, the window, the stub, and the way out.
const WINDOW: usize = 0x1000;
const STUB: usize = 0x2000;
const STATE_SP: i64 = 16 * 8;
const OUR_SP: i64 = 17 * 8;

impl Bench {
    fn new() -> Bench {
        let file = File::from(memfd_create("stackscope-test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(SIZE).unwrap();
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let mapped = Mapped::new(SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, file.as_raw_fd());
        let [left, entered, state] = [(); 3].map(|()| Mapped::memory(0x4000));
        Bench { code: Mapped::memory(0x4000), left, entered, state, mapped, table: Table::new(file) }
    }

    fn note(&self) -> Note {
        Note { table: self.mapped.at, site: 77, class: 3, keeps_pair: true }
    }

    /// Carries out `window`, whose site is its instruction `site`, in place or through a stub, from `state`; returns the
    /// state after it.
    fn run(&mut self, window: &[u8], site: usize, through_stub: bool, state: State) -> State {
        let base = self.code.at;
        let at = base + WINDOW as u64;
        let instructions: Vec<Instruction> =
            Decoder::with_ip(64, window, at, DecoderOptions::NONE).into_iter().collect();
        self.code.bytes().fill(0xcc);
        self.code.bytes()[WINDOW..][..window.len()].copy_from_slice(window);
        let out = at + window.len() as u64;
        self.put(out, &way_out(self.state.at));
        let mut begin = at;
        if through_stub {
            let note = self.note();
            let stub = stub(&Window { instructions, site, bytes: window.to_vec() }, note, base + STUB as u64).unwrap();
            self.code.bytes()[STUB..][..stub.code.len()].copy_from_slice(&stub.code);
            // What is displaced must not be needed any more.
            self.code.bytes()[WINDOW..][..window.len()].fill(0xcc);
            begin = base + STUB as u64;
        }
        self.put(base, &way_in(self.state.at, begin));
        for (word, value) in self.state.bytes().chunks_exact_mut(8).zip(state.0) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        // SAFETY: `way_in` keeps what the calling convention wants kept, and `way_out` restores it and returns.
        let entry: extern "C" fn() = unsafe { std::mem::transmute(base as *const ()) };
        entry();
        let words = self.state.bytes().chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        State(words.take(17).collect::<Vec<_>>().try_into().unwrap())
    }

    fn put(&mut self, at: u64, code: &[Instruction]) {
        let block = InstructionBlock::new(code, at);
        let bytes = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE).unwrap().code_buffer;
        let offset = (at - self.code.at) as usize;
        self.code.bytes()[offset..][..bytes.len()].copy_from_slice(&bytes);
    }

    /// A state with a different value in each register, on the stack that is left.
    fn state(&self, flags: u64) -> State {
        let mut words = std::array::from_fn(|index| 0x1111_1111_1111_1111_u64.wrapping_mul(index as u64 + 1));
        words[15] = flags;
        words[16] = self.left.at + 0x2000;
        State(words)
    }
}

/// Keeps what the calling convention wants kept, loads the state at `state`, and jumps to `to`.
fn way_in(state: u64, to: u64) -> Vec<Instruction> {
    let register =
        |register, place| Instruction::with2(Code::Mov_r64_rm64, register, at(Register::RAX, place)).unwrap();
    let mut code: Vec<Instruction> =
        [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15]
            .map(|kept| Instruction::with1(Code::Push_r64, kept).unwrap())
            .to_vec();
    code.push(Instruction::with2(Code::Mov_r64_imm64, Register::RAX, state).unwrap());
    code.push(Instruction::with2(Code::Mov_rm64_r64, at(Register::RAX, OUR_SP), Register::RSP).unwrap());
    code.push(Instruction::with1(Code::Push_rm64, at(Register::RAX, 15 * 8)).unwrap());
    code.push(Instruction::with(Code::Popfq));
    code.push(register(Register::RSP, STATE_SP));
    code.extend(REGISTERS.into_iter().zip((0..).step_by(8)).skip(1).map(|(name, place)| register(name, place)));
    code.push(register(Register::RAX, 0));
    code.push(Instruction::with_branch(Code::Jmp_rel32_64, to).unwrap());
    code
}

/// Keeps the state at `state`, and returns to who called [`way_in`].
fn way_out(state: u64) -> Vec<Instruction> {
    let store = |place, register| Instruction::with2(Code::Mov_rm64_r64, at(Register::RAX, place), register).unwrap();
    let mut code = vec![
        // `rax` goes by way of the state's own memory, as the stack may be any.
        Instruction::with2(Code::Mov_moffs64_RAX, MemoryOperand::with_displ(state, 8), Register::RAX).unwrap(),
        Instruction::with2(Code::Mov_r64_imm64, Register::RAX, state).unwrap(),
    ];
    code.extend(REGISTERS.into_iter().zip((0..).step_by(8)).skip(1).map(|(name, place)| store(place, name)));
    code.push(store(STATE_SP, Register::RSP));
    code.push(Instruction::with2(Code::Mov_r64_rm64, Register::RSP, at(Register::RAX, OUR_SP)).unwrap());
    code.push(Instruction::with(Code::Pushfq));
    code.push(Instruction::with1(Code::Pop_rm64, at(Register::RAX, 15 * 8)).unwrap());
    let kept = [Register::R15, Register::R14, Register::R13, Register::R12, Register::RBP, Register::RBX];
    code.extend(kept.map(|kept| Instruction::with1(Code::Pop_r64, kept).unwrap()));
    code.push(Instruction::with(Code::Retnq));
    code
}

/// Flags that user code may set: all of the arithmetic ones, or none. Bit 1 always reads as one.
const ALL_FLAGS: u64 = 0x8d7;
const NO_FLAGS: u64 = 0x202;

/// Ways to set the stack pointer: the bytes, which instruction it is, and the register that is to hold the new one, or
/// what points to it.
const WAYS: [(&str, &[u8], usize, usize, bool); 8] = [
    ("mov rsp, rdi; mov r8, [rsp+0x38]", &[0x48, 0x89, 0xfc, 0x4c, 0x8b, 0x44, 0x24, 0x38], 0, 6, false),
    ("mov rsp, rax; pop rcx; nop", &[0x48, 0x89, 0xc4, 0x59, 0x90], 0, 0, false),
    ("mov rsp, r8; mov rbp, r9", &[0x4c, 0x89, 0xc4, 0x4c, 0x89, 0xcd], 0, 7, false),
    ("mov [rdi], rsp is before mov rsp, [rsi]", &[0x48, 0x89, 0x62, 0x08, 0x48, 0x8b, 0x26], 1, 5, true),
    ("mov rsp, [rdx]; pop rbp; nop", &[0x48, 0x8b, 0x22, 0x5d, 0x90], 0, 2, true),
    ("lea rsp, [rcx+8]; nop", &[0x48, 0x8d, 0x61, 0x08, 0x90], 0, 1, false),
    ("xchg [rcx], rsp; nop; nop", &[0x48, 0x87, 0x21, 0x90, 0x90], 0, 1, true),
    ("xchg rdx, rsp; nop; nop", &[0x48, 0x87, 0xd4, 0x90, 0x90], 0, 2, false),
];

#[test]
fn a_stub_does_what_its_window_does_and_changes_nothing_else() {
    let mut bench = Bench::new();
    let target = bench.entered.at + 0x3000;
    for (what, window, site, register, is_pointer) in WAYS {
        for flags in [ALL_FLAGS, NO_FLAGS] {
            let mut state = bench.state(flags);
            // What is pushed below the stack pointer without moving it, a signal's handler leaves alone; so must we.
            let red_zone: Vec<u8> = (0..128).collect();
            let prepare = |bench: &mut Bench| {
                bench.entered.bytes().fill(0x55);
                bench.left.bytes().fill(0);
                bench.left.bytes()[0x2000 - 128..0x2000].copy_from_slice(&red_zone);
                bench.left.bytes()[0x2100..0x2108].copy_from_slice(&target.to_le_bytes());
            };
            // `rdx` points to memory in the way that stores through it as well.
            state.0[2] = bench.left.at + 0x2200;
            state.0[register] = if is_pointer { bench.left.at + 0x2100 } else { target };
            prepare(&mut bench);
            let plain = bench.run(window, site, false, state);
            let (left, entered) = (bench.left.bytes().to_vec(), bench.entered.bytes().to_vec());
            prepare(&mut bench);
            let probed = bench.run(window, site, true, state);
            assert_eq!(probed, plain, "{what}: registers and flags");
            assert_eq!(bench.entered.bytes(), entered, "{what}: the stack that is entered");
            let above = 0x2000 - 128..;
            assert_eq!(bench.left.bytes()[above.clone()], left[above], "{what}: the red zone and what is above it");
        }
    }
}

#[test]
fn what_is_noted_is_the_switch() {
    for (what, window, site, register, is_pointer) in WAYS {
        let mut bench = Bench::new();
        let target = bench.entered.at + 0x3000;
        let entered = if what.starts_with("lea") { target + 8 } else { target };
        let mut state = bench.state(NO_FLAGS);
        state.0[2] = bench.left.at + 0x2200;
        state.0[register] = if is_pointer { bench.left.at + 0x2100 } else { target };
        for _ in 0..3 {
            bench.left.bytes()[0x2100..0x2108].copy_from_slice(&target.to_le_bytes());
            bench.run(window, site, true, state);
        }
        bench.table.read().unwrap();
        let slots = bench.table.slots();
        assert_eq!(slots.len(), 2, "{what}");
        let sp = bench.left.at + 0x2000;
        let left = &slots[&(sp >> 12)];
        assert_eq!((left.sp, left.site, left.runs, left.ins, left.outs[3]), (sp, 77, false, 0, 3), "{what}");
        let entered_slot = &slots[&(entered >> 12)];
        let seen = (entered_slot.sp, entered_slot.runs, entered_slot.ins, entered_slot.from);
        assert_eq!(seen, (entered, true, 3, sp), "{what}");
        assert_eq!(bench.table.pair(77), Some((sp, entered)), "{what}");
    }
}

#[test]
fn a_stack_pointer_that_is_none_stays_within_the_table() {
    let mut bench = Bench::new();
    for wild in [0, 0xffff_ffff_ffff_fff0, 0x8000_0000_0000, 0x1234_5678_9abc_def0] {
        let mut state = bench.state(NO_FLAGS);
        state.0[6] = wild;
        // mov rsp, rdi; nop; nop
        let after = bench.run(&[0x48, 0x89, 0xfc, 0x90, 0x90], 0, true, state);
        assert_eq!(after.0[16], wild);
    }
    bench.table.read().unwrap();
    assert!(bench.table.slots().keys().all(|page| *page < 1 << 35));
}
