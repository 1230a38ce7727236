//! Finds out from a target's code what can still come behind a place in it.

use std::collections::HashSet;

use foldhash::HashMap;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::addr::{Addr, Pc};
use crate::arch::{Callee, X86_64};
use crate::memory::Memory;
use crate::unwind::Frame;

/// At most this many instructions of a function are looked at.
const MOST_INSTRUCTIONS: usize = 512;

/// Calls of functions that never return are followed this deep to find out.
const DEEPEST: usize = 3;

/// At most this many instructions are looked at in all: it bounds what a hostile target can make us do.
const MOST_IN_ALL: usize = 1 << 23;

/// Functions of which nothing is known are taken to be shorter than this, in bytes.
const SHORT: u64 = 4096;

/// The target's code, and what it jumps through.
#[derive(Clone, Copy)]
pub struct CodeView<'a> {
    /// Fills a buffer with the code at an address; `false` where there is none.
    pub read: &'a (dyn Fn(Addr, &mut [u8]) -> bool + Sync),
    /// The start of the function that covers an address, where it is known.
    pub function_start: &'a (dyn Fn(Addr) -> Option<Addr> + Sync),
    /// Where jumps through memory find their targets.
    pub memory: &'a (dyn Memory + Sync),
    /// The function that a table's entry, at the first address, will lead to, where the loader has not bound it yet and
    /// it holds the second.
    pub unbound: &'a (dyn Fn(Addr, Addr) -> Option<Addr> + Sync),
}

impl CodeView<'_> {
    /// What tells the function that `pc` lies in from others: where it begins, or `pc` itself where no table tells.
    pub fn function_of(&self, pc: Pc) -> Addr {
        (self.function_start)(pc.lookup()).unwrap_or(pc.addr())
    }

    /// The function that the call before a return address names, or that it finds in a table.
    pub(super) fn called(&self, pc: Pc) -> Option<Addr> {
        let Pc::After(at) = pc else { return None };
        match X86_64.callee(at, self.read)? {
            Callee::Routine(routine) => Some(routine),
            Callee::Slot(slot) => {
                let target = self.memory.read_u64(slot).ok().map(Addr)?;
                Some((self.unbound)(slot, target).unwrap_or(target))
            }
        }
    }

    /// The routine that the call before a return address leads to, by way of a stub of the procedure linkage table or not.
    pub(super) fn routine_called(&self, pc: Pc) -> Option<Addr> {
        let mut called = self.called(pc)?;
        // A stub may begin with `endbr64`.
        let mut instruction = self.instruction(called)?;
        if instruction.mnemonic() == Mnemonic::Endbr64 {
            instruction = self.instruction(Addr(instruction.next_ip()))?;
        }
        if matches!(instruction.flow_control(), FlowControl::UnconditionalBranch | FlowControl::IndirectBranch) {
            called = self.target(&instruction)?;
        }
        Some(called)
    }

    /// Whether `place` is an earlier place in the function that `at` lies in.
    pub(super) fn is_earlier(&self, place: Pc, at: Pc) -> bool {
        let function = |pc: Pc| (self.function_start)(pc.lookup());
        let (low, high) = (place.addr(), at.addr());
        // Where no table tells the functions apart, they are taken to be short.
        let is_same = function(place) == function(at) && (function(at).is_some() || high.0.wrapping_sub(low.0) < SHORT);
        low < high && is_same
    }
}

/// What can come behind places in the code, each found out once.
pub(super) struct Ends<'a> {
    pub(super) code: CodeView<'a>,
    /// By place, what is sought, and how deep calls are followed.
    known: HashMap<(Addr, Sought, usize), bool>,
    /// By place, whether what stands there is stuck.
    stuck: HashMap<Addr, bool>,
    /// How many more instructions may be looked at.
    left: usize,
}

/// What is looked for behind a place in the code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Sought {
    /// A return from the function.
    Return,
    /// The call with this return address.
    Call(Addr),
    /// A return, or once more the call that the search begins behind.
    Any,
    /// A call that comes back.
    Act,
    /// A jump out of the function, which then goes on as another one.
    Jump,
}

impl<'a> Ends<'a> {
    pub(super) fn new(code: CodeView<'a>) -> Ends<'a> {
        Ends { code, known: HashMap::default(), stuck: HashMap::default(), left: MOST_IN_ALL }
    }

    /// Whether from this return address on neither a return nor the call before it can be reached again.
    pub(super) fn is_end(&mut self, at: Addr) -> bool {
        !self.leads(at, Sought::Any, DEEPEST)
    }

    /// Whether from this return address on the call before it can be reached again: it stands in a loop.
    pub(super) fn is_in_loop(&mut self, at: Addr) -> bool {
        self.reaches(at, at)
    }

    /// Whether from a return address on the call with the return address `call` can be reached.
    pub(super) fn reaches(&mut self, at: Addr, call: Addr) -> bool {
        self.leads(at, Sought::Call(call), DEEPEST)
    }

    /// Whether from these frames on, which stand inside the one at `at`, nothing is done any more but to return from them and
    /// from that one.
    pub(super) fn only_return(&mut self, inside: &[Frame], at: Addr) -> bool {
        let mut places = inside.iter().map(|frame| frame.pc.addr()).chain([at]);
        places.all(|place| !self.leads(place, Sought::Act, DEEPEST))
    }

    /// Whether the function that begins at `start` may end as another one, to which it jumps.
    pub(super) fn may_jump_away(&mut self, start: Addr) -> bool {
        self.leads(start, Sought::Jump, DEEPEST)
    }

    /// Whether from this return address on the stack is not left any more, by no return and by no switch: all that can come
    /// is the end of the program.
    pub(super) fn is_stuck(&mut self, at: Addr) -> bool {
        if let Some(known) = self.stuck.get(&at) {
            return *known;
        }
        let is_stuck = !self.may_leave(at);
        self.stuck.insert(at, is_stuck);
        is_stuck
    }

    /// Whether code from `start` on leads to what is sought; what can't be followed is taken to return, and to act.
    fn leads(&mut self, start: Addr, sought: Sought, depth: usize) -> bool {
        if let Some(known) = self.known.get(&(start, sought, depth)) {
            return *known;
        }
        let leads = self.search(start, sought, depth);
        self.known.insert((start, sought, depth), leads);
        leads
    }

    fn search(&mut self, start: Addr, sought: Sought, depth: usize) -> bool {
        let returns_count = matches!(sought, Sought::Return | Sought::Any);
        let unknown_counts = !matches!(sought, Sought::Call(_));
        let call = match sought {
            Sought::Return | Sought::Act | Sought::Jump => None,
            Sought::Call(call) => Some(call),
            Sought::Any => Some(start),
        };
        let mut waiting = vec![start];
        let mut visited = HashSet::new();
        while let Some(at) = waiting.pop() {
            if !visited.insert(at) {
                continue;
            }
            if visited.len() > MOST_INSTRUCTIONS || self.left == 0 {
                return unknown_counts;
            }
            self.left -= 1;
            let Some(instruction) = self.code.instruction(at) else { return unknown_counts };
            let next = Addr(instruction.next_ip());
            match instruction.flow_control() {
                // Assembly has conditional jumps over the ends of what tables call a function.
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
                    if sought == Sought::Jump && self.jumps_away(at, &instruction) =>
                {
                    return true;
                }
                FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt || self.code.runs_off(at, next) => {}
                FlowControl::Next => waiting.push(next),
                FlowControl::UnconditionalBranch => waiting.push(Addr(instruction.near_branch_target())),
                FlowControl::ConditionalBranch => waiting.extend([next, Addr(instruction.near_branch_target())]),
                FlowControl::Call | FlowControl::IndirectCall => {
                    if Some(next) == call {
                        return true;
                    }
                    if self.comes_back(&instruction, depth) {
                        if sought == Sought::Act {
                            return true;
                        }
                        waiting.push(next);
                    }
                }
                FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                    let target = self.code.through_slot(&instruction);
                    waiting.extend(target);
                    if target.is_none() && unknown_counts {
                        return true;
                    }
                }
                FlowControl::Exception => {}
                FlowControl::Return if !returns_count => {}
                _ if unknown_counts => return true,
                _ => {}
            }
        }
        false
    }

    /// Whether the jump at `at` may lead to another function.
    fn jumps_away(&self, at: Addr, jump: &Instruction) -> bool {
        let function = |at: Addr| (self.code.function_start)(at);
        self.code.target(jump).is_none_or(|target| function(target).is_none() || function(target) != function(at))
    }

    /// Whether what is called by `call` returns.
    fn comes_back(&mut self, call: &Instruction, depth: usize) -> bool {
        let Some(called) = self.code.target(call) else { return true };
        // Behind a call that never returns, the compiler puts nothing.
        let is_last = self.code.runs_off(Addr(call.ip()), Addr(call.next_ip()));
        !is_last && (depth == 0 || self.leads(called, Sought::Return, depth - 1))
    }

    /// Whether code from `start` on may leave the stack: return from its function, or, in the functions that it calls too,
    /// load the stack pointer from elsewhere. What can't be followed is taken to do so, and so is a loop.
    fn may_leave(&mut self, start: Addr) -> bool {
        let code = self.code;
        // Places, and whether they are in the function itself.
        let mut waiting = vec![(start, true)];
        let mut visited = HashSet::new();
        while let Some((at, is_own)) = waiting.pop() {
            if !visited.insert((at, is_own)) {
                continue;
            }
            if visited.len() > MOST_INSTRUCTIONS || self.left == 0 {
                return true;
            }
            self.left -= 1;
            let Some(instruction) = code.instruction(at) else { return true };
            let next = Addr(instruction.next_ip());
            match instruction.flow_control() {
                _ if instruction.mnemonic() == Mnemonic::Syscall => waiting.push((next, is_own)),
                FlowControl::Next if loads_stack_pointer(&instruction) => return true,
                FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt || code.runs_off(at, next) => {}
                FlowControl::Next => waiting.push((next, is_own)),
                FlowControl::UnconditionalBranch => waiting.push((Addr(instruction.near_branch_target()), is_own)),
                FlowControl::ConditionalBranch => {
                    waiting.extend([(next, is_own), (Addr(instruction.near_branch_target()), is_own)]);
                }
                FlowControl::IndirectBranch => match code.target(&instruction) {
                    Some(target) => waiting.push((target, is_own)),
                    None => return true,
                },
                FlowControl::Call | FlowControl::IndirectCall => {
                    let Some(called) = code.target(&instruction).filter(|_| next != start) else { return true };
                    waiting.push((called, false));
                    if self.comes_back(&instruction, DEEPEST) {
                        waiting.push((next, is_own));
                    }
                }
                FlowControl::Return if !is_own => {}
                FlowControl::Exception => {}
                _ => return true,
            }
        }
        false
    }
}

impl CodeView<'_> {
    /// Whether the instruction behind the one at `at` belongs to another function: nothing was meant to come there.
    fn runs_off(&self, at: Addr, next: Addr) -> bool {
        let function = (self.function_start)(at);
        function.is_some() && (self.function_start)(next) != function
    }

    /// Where a jump or call leads; `None` where the instruction does not tell.
    fn target(&self, instruction: &Instruction) -> Option<Addr> {
        match instruction.op0_kind() {
            OpKind::NearBranch64 => Some(Addr(instruction.near_branch_target())),
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => self.through_slot(instruction),
            _ => None,
        }
    }

    /// Where a jump or call through memory leads that names its table entry.
    fn through_slot(&self, instruction: &Instruction) -> Option<Addr> {
        let slot = Addr(instruction.ip_rel_memory_address());
        let target = self.memory.read_u64(slot).ok().map(Addr)?;
        Some((self.unbound)(slot, target).unwrap_or(target))
    }

    fn instruction(&self, at: Addr) -> Option<Instruction> {
        // An instruction near the end of a page of code is read in what pieces there are.
        let mut bytes = [0; 15];
        let length = (1..=bytes.len()).rev().find(|length| (self.read)(at, &mut bytes[..*length]))?;
        let instruction = Decoder::with_ip(64, &bytes[..length], at.0, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }
}

/// Whether an instruction may set the stack pointer to a place on another stack: to what was in memory, or in a register
/// other than the frame pointer.
fn loads_stack_pointer(instruction: &Instruction) -> bool {
    let is_written = (0..instruction.op_count())
        .any(|index| instruction.op_kind(index) == OpKind::Register && instruction.op_register(index) == Register::RSP);
    match instruction.mnemonic() {
        Mnemonic::Mov => instruction.op0_register() == Register::RSP && instruction.op1_register() != Register::RBP,
        Mnemonic::Lea => is_written && ![Register::RSP, Register::RBP].contains(&instruction.memory_base()),
        Mnemonic::Xchg | Mnemonic::Pop => is_written,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::memory::Slices;

    const CODE: u64 = 0x40_0000;
    /// So far apart functions lie.
    const FUNCTION: u64 = 0x1000;
    const CALLS: u64 = 400;

    /// Functions that each call the next one again and again and return, as deep as calls are followed and one more.
    fn nested() -> Vec<u8> {
        let mut code = vec![0x90; (DEEPEST + 2) * FUNCTION as usize];
        for function in code.chunks_mut(FUNCTION as usize) {
            for call in 0..CALLS {
                let at = 5 * call as usize;
                let distance = (FUNCTION - 5 * (call + 1)) as u32;
                function[at] = 0xe8;
                function[at + 1..at + 5].copy_from_slice(&distance.to_le_bytes());
            }
            function[5 * CALLS as usize] = 0xc3;
        }
        code
    }

    /// What `ask` answers of the places in `code`, and how many instructions it looked at.
    fn asked(code: &[u8], ask: impl Fn(&mut Ends<'_>) -> bool) -> (bool, usize) {
        let count = AtomicUsize::new(0);
        let read = |at: Addr, into: &mut [u8]| {
            let tail = at.0.checked_sub(CODE).and_then(|offset| code.get(offset as usize..));
            let bytes = tail.and_then(|tail| tail.get(..into.len()));
            count.fetch_add(usize::from(bytes.is_some()), Ordering::Relaxed);
            bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
        };
        let view =
            CodeView { read: &read, function_start: &|_| None, memory: &Slices::default(), unbound: &|_, _| None };
        let answer = ask(&mut Ends::new(view));
        (answer, count.load(Ordering::Relaxed))
    }

    #[test]
    fn what_may_come_behind_a_place_is_told_by_the_code() {
        // call +5, ret, hlt; and there: call to itself, jmp back.
        let code = [0xe8, 0, 0, 0, 0, 0xc3, 0xf4, 0xe8, 0xf4, 0xff, 0xff, 0xff, 0xeb, 0xf9, 0xf4];
        let at = |offset: u64| Addr(CODE + offset);
        assert!(!asked(&code, |ends| ends.is_end(at(5))).0);
        assert!(asked(&code, |ends| ends.is_end(at(6))).0);
        assert!(asked(&code, |ends| ends.is_in_loop(at(12))).0);
        assert!(!asked(&code, |ends| ends.is_in_loop(at(5))).0);
        assert!(asked(&code, |ends| ends.reaches(at(0), at(5))).0);
    }

    #[test]
    fn what_can_only_end_the_program_is_stuck() {
        // call +1, hlt; and there: mov eax, 231, syscall, hlt, jmp to the hlt.
        let exits = [0xe8, 1, 0, 0, 0, 0xf4, 0xb8, 231, 0, 0, 0, 0x0f, 0x05, 0xf4, 0xeb, 0xfd];
        // call +2, ud2; and there: mov rsp, rsi, ret.
        let switches = [0xe8, 2, 0, 0, 0, 0x0f, 0x0b, 0x48, 0x89, 0xf4, 0xc3];
        let is_stuck = |code: &[u8]| asked(code, |ends| ends.is_stuck(Addr(CODE))).0;
        assert!(is_stuck(&exits));
        assert!(!is_stuck(&switches));
        assert!(asked(&switches, |ends| ends.is_end(Addr(CODE))).0);
        // Neither what returns nor what can't be read is.
        assert!(!is_stuck(&[0xc3]));
        assert!(!is_stuck(&[]));
    }

    #[test]
    fn a_jump_to_another_function_is_one_away() {
        // jmp +0 and ret; at 8: je to there; at 16: jmp to there.
        let mut code = [0x90; 24];
        code[..3].copy_from_slice(&[0xeb, 0, 0xc3]);
        code[8..10].copy_from_slice(&[0x74, 0xf6]);
        code[10] = 0xc3;
        code[16..18].copy_from_slice(&[0xeb, 0xee]);
        let of_eight = |at: Addr| Some(at.align_down(8));
        let away = |at: u64| {
            let read = |from: Addr, into: &mut [u8]| {
                let bytes = from.0.checked_sub(CODE).and_then(|offset| code.get(offset as usize..)?.get(..into.len()));
                bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
            };
            let (memory, unbound) = (Slices::default(), |_, _| None);
            let view = CodeView { read: &read, function_start: &of_eight, memory: &memory, unbound: &unbound };
            Ends::new(view).may_jump_away(Addr(CODE + at))
        };
        assert_eq!([0, 8, 16].map(away), [false, false, true]);
    }

    #[test]
    fn a_call_is_followed_through_a_stub() {
        let mut code = vec![0x90; 16];
        // call +1, ret; and there: endbr64, jmp +1, nop, ret.
        code.extend([0xe8, 1, 0, 0, 0, 0xc3, 0xf3, 0x0f, 0x1e, 0xfa, 0xe9, 1, 0, 0, 0, 0x90, 0xc3]);
        let leads = |ends: &mut Ends<'_>| ends.code.routine_called(Pc::After(Addr(CODE + 21))) == Some(Addr(CODE + 32));
        assert!(asked(&code, leads).0);
    }

    #[test]
    fn what_only_returns_calls_nothing() {
        let only_returns = |code: &[u8]| asked(code, |ends| ends.only_return(&[], Addr(CODE))).0;
        // nop, leave, ret.
        assert!(only_returns(&[0x90, 0xc9, 0xc3]));
        // call +1, ret; and there: ret.
        assert!(!only_returns(&[0xe8, 1, 0, 0, 0, 0xc3, 0xc3]));
        assert!(!only_returns(&[]));
    }

    #[test]
    fn each_function_is_looked_at_once() {
        let (is_end, count) = asked(&nested(), |ends| ends.is_end(Addr(CODE)));
        assert!(!is_end);
        assert_eq!(count as u64, (CALLS + 1) * (DEEPEST as u64 + 1));
    }

    #[test]
    fn no_more_is_looked_at_than_may_be() {
        let (is_end, count) = asked(&nested(), |ends| {
            ends.left = 1000;
            ends.is_end(Addr(CODE))
        });
        assert!(!is_end);
        assert_eq!(count, 1000);
    }
}
