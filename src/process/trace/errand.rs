//! System calls that a stopped thread of the program makes for us.
//!
//! The calls are code of our own, put into memory that the program may execute and never does: the last bytes of the
//! kernel's `[vdso]`, after its content. A thread is sent there by a single change of its registers, and the code itself
//! ends with the registers and at the place where the thread was. So nothing depends on us from then on: if we are
//! killed at any moment, the thread makes the calls and goes on as if nothing had been. Signals stay blocked meanwhile,
//! by the code's own first and last call.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, IcedError, Instruction, InstructionBlock, MemoryOperand, Register,
};

use super::ptrace::{self, Change, Words};
use crate::addr::{Addr, AddrRange};
use crate::process::live::procfs;

/// A system call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub arguments: [Argument; 6],
    /// Whether what it returns is kept, for [`Argument::Kept`].
    pub keeps: bool,
}

/// An argument of a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Argument {
    /// This number.
    Number(u64),
    /// What the last call returned whose result is kept.
    Kept,
    /// The address of the errand's bytes.
    Bytes,
}

/// Calls to be made, one after the other, whatever the earlier ones return.
pub struct Errand {
    /// The calls.
    pub calls: Vec<Call>,
    /// What [`Argument::Bytes`] points to.
    pub bytes: Vec<u8>,
    /// Memory that may be executed and holds nothing.
    pub room: AddrRange,
    /// Is told of each result, in order, before the next call is made.
    pub told: Box<dyn FnMut(usize, i64) + Send>,
}

/// Why an errand was not run. The thread is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// No thread stands where it could.
    #[error("no thread of the program stands where it could make a system call for us")]
    NoThread,
    /// The code is longer than the room for it.
    #[error("the program has no free room for a few instructions")]
    NoRoom,
    /// The kernel does not let us read or write what is needed.
    #[error("the kernel does not let us write to the program's code")]
    Refused(#[source] io::Error),
    /// A signal came first.
    #[error("a signal came for the thread")]
    Signal,
    /// The thread has ended.
    #[error("the thread has ended")]
    Ended,
    /// The code could not be made.
    #[error("the instructions can't be encoded")]
    Code(#[from] IcedError),
}

/// Where a thread's registers are in the kernel's `user_regs_struct`, in words.
mod word {
    pub(super) const RBX: usize = 5;
    pub(super) const R11: usize = 6;
    pub(super) const R10: usize = 7;
    pub(super) const R9: usize = 8;
    pub(super) const R8: usize = 9;
    pub(super) const RAX: usize = 10;
    pub(super) const RCX: usize = 11;
    pub(super) const RDX: usize = 12;
    pub(super) const RSI: usize = 13;
    pub(super) const RDI: usize = 14;
    pub(super) const ORIG_RAX: usize = 15;
    pub(super) const RIP: usize = 16;
}

/// No system call to be restarted (`orig_rax`).
const NONE: u64 = u64::MAX;
/// The number of `restart_syscall`.
const RESTART: u64 = 219;
/// What the kernel puts in `rax` where a call is to be made again: `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`, and
/// `ERESTART_RESTARTBLOCK` (include/linux/errno.h).
const AGAIN: [i64; 3] = [-512, -513, -514];
const AGAIN_WITH_REST: i64 = -516;
/// The length of `syscall`.
const SYSCALL: u64 = 2;

/// The arguments' registers, in order.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::R10, Register::R8, Register::R9];

/// What the code changes, by the word that has it.
const CHANGED: [(Register, usize); 10] = [
    (Register::RDI, word::RDI),
    (Register::RSI, word::RSI),
    (Register::RDX, word::RDX),
    (Register::R10, word::R10),
    (Register::R8, word::R8),
    (Register::R9, word::R9),
    (Register::RBX, word::RBX),
    (Register::RCX, word::RCX),
    (Register::R11, word::R11),
    (Register::RAX, word::RAX),
];

/// Has thread `tid`, which stands, make the calls; then it stands where it stood.
///
/// `enters` is whether it stands at the entry of a system call, which it makes after these.
pub(super) fn run(tid: i32, enters: bool, mut errand: Errand) -> Result<(), ErrandError> {
    let refused = ErrandError::Refused;
    let memory = OpenOptions::new().read(true).write(true).open(procfs::directory(tid).join("mem")).map_err(refused)?;
    let found = ptrace::words(tid).map_err(refused)?;
    let goes_on = goes_on(&found, enters);
    let mask = ptrace::signal_mask(tid).map_err(refused)?;
    let Prepared { code, after } = prepare(&errand, &goes_on, mask)?;
    if code.len() as u64 > errand.room.len() {
        return Err(ErrandError::NoRoom);
    }
    let room = errand.room.low;
    let mut before = vec![0; code.len()];
    memory.read_exact_at(&mut before, room.0).map_err(refused)?;
    memory.write_all_at(&code, room.0).map_err(refused)?;
    let mut sent = goes_on;
    sent[word::RIP] = room.0;
    let outcome = ptrace::set_words(tid, &sent).map_err(refused).and_then(|()| {
        let ran = follow(tid, room, &after, &mut *errand.told);
        // Where it has begun and not ended, the code itself sees to the rest.
        let ends = matches!(ran, Ok(())).then_some(&goes_on);
        // A call that was about to be made is made after the signal; one that the signal interrupts is the kernel's matter.
        let stays = matches!(ran, Err(ErrandError::Signal)).then_some(if enters { &goes_on } else { &found });
        if let Some(words) = ends.or(stays) {
            ptrace::set_words(tid, words).map_err(refused)?;
        }
        ran
    });
    if !matches!(outcome, Err(ErrandError::Ended)) {
        let _ = memory.write_all_at(&before, room.0);
    }
    outcome
}

/// The registers with which the thread goes on as the kernel would have it go on (arch/x86/kernel/signal.c).
fn goes_on(found: &Words, enters: bool) -> Words {
    let mut words = *found;
    let (called, result) = (found[word::ORIG_RAX], found[word::RAX] as i64);
    let in_call = called as i64 >= 0;
    let again = if enters || in_call && AGAIN.contains(&result) {
        Some(called)
    } else {
        (in_call && result == AGAIN_WITH_REST).then_some(RESTART)
    };
    if let Some(number) = again {
        words[word::RAX] = number;
        words[word::RIP] = words[word::RIP].wrapping_sub(SYSCALL);
    }
    words[word::ORIG_RAX] = NONE;
    words
}

/// Code, and where in it each of the errand's own calls has been made.
struct Prepared {
    code: Vec<u8>,
    after: Vec<(Addr, Option<usize>)>,
}

/// The code of an errand from which a thread goes on with these registers, and this set of blocked signals.
fn prepare(errand: &Errand, goes_on: &Words, mask: u64) -> Result<Prepared, ErrandError> {
    let start = errand.room.low.0;
    // The numbers are in front of the data's place by as much as the code is long: the first try shows that.
    let mut data = start + 0x400;
    for _ in 0..2 {
        let (instructions, calls) = instructions(errand, goes_on, data)?;
        let block = InstructionBlock::new(&instructions, start);
        let encoded = BlockEncoder::encode(64, block, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
        let mut code = encoded.code_buffer;
        code.resize(code.len().next_multiple_of(8), 0xcc);
        if data == start + code.len() as u64 {
            let offset = |index: usize| encoded.new_instruction_offsets.get(index + 1).copied().unwrap_or(u32::MAX);
            let after = calls.iter().map(|(index, call)| (Addr(start + u64::from(offset(*index))), *call)).collect();
            code.extend(u64::MAX.to_le_bytes());
            code.extend(mask.to_le_bytes());
            code.extend(goes_on[word::RIP].to_le_bytes());
            code.extend(&errand.bytes);
            return Ok(Prepared { code, after });
        }
        data = start + code.len() as u64;
    }
    Err(ErrandError::NoRoom)
}

/// The instructions, with the index of each `syscall` and the errand's call that it is; after them, at `data`: all
/// signals, the mask, the address to go on at, and the errand's bytes.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn instructions(
    errand: &Errand,
    goes_on: &Words,
    data: u64,
) -> Result<(Vec<Instruction>, Vec<(usize, Option<usize>)>), IcedError> {
    let mut code = Vec::new();
    let mut calls = Vec::new();
    code.extend(set_mask(data)?);
    calls.push((code.len() - 1, None));
    for (index, call) in errand.calls.iter().enumerate() {
        for (register, argument) in ARGUMENTS.into_iter().zip(call.arguments) {
            code.push(match argument {
                Argument::Number(number) => load(register, number)?,
                Argument::Kept => Instruction::with2(Code::Mov_r64_rm64, register, Register::RBX)?,
                Argument::Bytes => load(register, data + 24)?,
            });
        }
        code.push(load(Register::RAX, call.number)?);
        code.push(Instruction::with(Code::Syscall));
        calls.push((code.len() - 1, Some(index)));
        if call.keeps {
            code.push(Instruction::with2(Code::Mov_r64_rm64, Register::RBX, Register::RAX)?);
        }
    }
    code.extend(set_mask(data + 8)?);
    calls.push((code.len() - 1, None));
    for (register, word) in CHANGED {
        code.push(load(register, goes_on[word])?);
    }
    let place = MemoryOperand::with_base_displ(Register::RIP, (data + 16) as i64);
    code.push(Instruction::with1(Code::Jmp_rm64, place)?);
    Ok((code, calls))
}

/// Blocks the signals in the set at `set`, and no others.
fn set_mask(set: u64) -> Result<[Instruction; 6], IcedError> {
    Ok([
        load(Register::RDI, libc::SIG_SETMASK as u64)?,
        load(Register::RSI, set)?,
        load(Register::RDX, 0)?,
        load(Register::R10, 8)?,
        load(Register::RAX, libc::SYS_rt_sigprocmask as u64)?,
        Instruction::with(Code::Syscall),
    ])
}

fn load(register: Register, number: u64) -> Result<Instruction, IcedError> {
    match u32::try_from(number) {
        // What is written to the lower half clears the upper one.
        Ok(small) => Instruction::with2(Code::Mov_r32_imm32, register.full_register32(), small),
        Err(_) => Instruction::with2(Code::Mov_r64_imm64, register, number),
    }
}

/// Lets the thread run from call to call until it has made the last one.
fn follow(
    tid: i32,
    room: Addr,
    after: &[(Addr, Option<usize>)],
    told: &mut dyn FnMut(usize, i64),
) -> Result<(), ErrandError> {
    let mut postponed = Vec::new();
    let mut next = 0;
    let mut entered = false;
    while let Some((place, call)) = after.get(next) {
        ptrace::go_on_to_call(tid, 0).map_err(|_| ErrandError::Ended)?;
        let change = ptrace::await_change(tid).ok_or(ErrandError::Ended)?;
        let words = ptrace::words(tid);
        match change {
            Change::Exited(_) | Change::Killed { .. } => return Err(ErrandError::Ended),
            Change::Signal(_) if words.as_ref().is_ok_and(|words| words[word::RIP] == room.0) => {
                // It stays where it is, to be given to the thread as any other.
                return Err(ErrandError::Signal);
            }
            // Only signals that can't be blocked come later.
            Change::Signal(signal) => postponed.push(signal),
            _ => {}
        }
        ptrace::collect(tid);
        let words = words.map_err(|_| ErrandError::Ended)?;
        if !matches!(change, Change::Call) || words[word::RIP] != place.0 {
            continue;
        }
        entered = !entered;
        if !entered {
            if let Some(call) = call {
                told(*call, words[word::RAX] as i64);
            }
            next += 1;
        }
    }
    for signal in postponed {
        ptrace::send(tid, signal);
    }
    Ok(())
}

/// Opens a file that a process has open, by its number there.
pub fn open_of(pid: i32, number: i64) -> io::Result<File> {
    let path = procfs::directory(pid).join("fd").join(number.to_string());
    OpenOptions::new().read(true).write(true).open(path)
}
