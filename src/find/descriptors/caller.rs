//! What a routine has done with its caller's registers when it stands at one of its instructions.

use super::ImageCode;
use crate::find::descriptors::flow::Reader;
use crate::find::descriptors::machine::{Base, CALLEE_SAVED, Gpr, Machine, RSP, Sum, Value};
use crate::find::descriptors::routine::dwarf;
use crate::registers::Register;

/// Where a register of the caller's is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::find) enum Kept {
    /// In this one.
    InRegister(Register),
    /// So many bytes above the stack pointer.
    OnStack(i64),
}

/// Where everything of a routine's caller is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::find) struct Caller {
    /// The return address is so many bytes above the stack pointer.
    pub(in crate::find) return_address: i64,
    /// Each register that a called function gives back, where it is kept.
    pub(in crate::find) registers: Vec<(Register, Kept)>,
}

/// What is kept where when the routine that begins at `entry` is about to execute the instruction at `at`; `None` where its
/// code does not lead there, leads there in different ways, or has left the caller's stack.
pub(in crate::find) fn kept_at(code: &ImageCode<'_>, entry: u64, at: u64) -> Option<Caller> {
    let ways = Reader::new(code).reach(entry, at);
    let mut callers = ways.iter().map(caller);
    let first = callers.next()??;
    callers.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

fn caller(machine: &Machine) -> Option<Caller> {
    let Sum { base: Base::Start(RSP), offset: sp } = machine.get(RSP).sum()? else { return None };
    let is_overwritten = machine.written.iter().any(|(place, _)| *place == Sum { base: Base::Start(RSP), offset: 0 });
    let kept = |register: &Gpr| Some((dwarf(*register), kept(machine, Value::start(*register, 0), sp)?));
    let registers = CALLEE_SAVED.iter().filter_map(kept).collect();
    (!is_overwritten).then_some(Caller { return_address: -sp, registers })
}

fn kept(machine: &Machine, value: Value, sp: i64) -> Option<Kept> {
    let in_register = (0..16).find(|register| machine.get(*register) == value);
    let on_stack = || {
        machine.written.iter().find_map(|(place, written)| match place {
            Sum { base: Base::Start(RSP), offset } if *written == value && *offset >= sp => {
                Some(Kept::OnStack(offset - sp))
            }
            _ => None,
        })
    };
    in_register.map(|register| Kept::InRegister(dwarf(register))).or_else(on_stack)
}
