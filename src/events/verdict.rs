//! What a fatal signal, or a fault that a program handles, comes from.
//!
//! You give a snapshot whose [`Snapshot::fault`] is set, taken while the thread stands at its signal; you get a
//! [`Verdict`]. Pure: it looks at the snapshot alone.

use super::overflow::{On, Overflow, guarded, overflow};
use crate::addr::Addr;
use crate::process::Fault as Raised;
use crate::snapshot::{Fault, Land, Snapshot};

/// Addresses below this are those of a null pointer with an offset: the kernel lets no program map the first 64 KiB
/// (`vm.mmap_min_addr`).
const NULL_REACH: u64 = 64 << 10;

/// A signal, and what it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The signal.
    pub fault: Fault,
    /// What it comes from.
    pub cause: Cause,
}

/// What a signal comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A stack was run out of.
    Overflow(Overflow),
    /// A null pointer was followed, with this offset.
    Null {
        /// Bytes from address 0.
        offset: u64,
    },
    /// Code was run where there is none.
    Jump {
        /// Where that is.
        to: Addr,
    },
    /// The guard of a stack was touched by something that is not on that stack, or not at its end.
    Guard {
        /// The stack.
        stack: On,
        /// Whether it is the stack that the thread runs on.
        own: bool,
    },
    /// Memory was touched that nobody may touch.
    Forbidden,
    /// Memory was written to that may only be read, or run that may not be.
    Kept,
    /// Nothing is mapped at the address.
    Unmapped,
    /// An address was used that no pointer can have, or an instruction that only the kernel may use.
    General,
    /// A page of a file could not be read: mostly because the file ends before it.
    File,
    /// Memory can't be accessed as it was: it is broken, or the address is not aligned.
    Bus,
    /// An instruction that the processor does not have, or `ud2`, by which compilers end what must not be reached.
    Illegal,
    /// A division by zero, or one whose result has no room.
    Arithmetic,
    /// The program ended itself by `abort`.
    Abort,
    /// Somebody sent it.
    Sent,
}

/// The verdict on the signal of a snapshot; `None` if it has none.
pub fn judge(snapshot: &Snapshot) -> Option<Verdict> {
    let fault = snapshot.fault?;
    Some(Verdict { fault, cause: cause(snapshot, fault) })
}

fn cause(snapshot: &Snapshot, fault: Fault) -> Cause {
    let Raised { signal, code, address } = fault.raised;
    match signal {
        libc::SIGABRT => return Cause::Abort,
        _ if !fault.raised.is_own_doing() => return Cause::Sent,
        libc::SIGILL => return Cause::Illegal,
        libc::SIGFPE => return Cause::Arithmetic,
        _ => {}
    }
    let stack = snapshot.threads.iter().find(|thread| thread.tid == fault.thread).map(|thread| thread.stack);
    if let Some(found) = stack.and_then(|stack| overflow(snapshot, stack, address)) {
        return Cause::Overflow(found);
    }
    let Some(address) = address else { return if code == Raised::BY_KERNEL { Cause::General } else { Cause::Sent } };
    let pc = stack.and_then(|stack| snapshot.stacks.get(stack)?.frames.first()).map(|frame| frame.frame.pc.addr());
    // An instruction of up to 15 bytes may begin on the page before.
    let is_at_pc = pc.is_some_and(|pc| address.0.wrapping_sub(pc.0) < 16);
    if is_at_pc && !matches!(fault.at, Land::File(_) | Land::Code(_)) {
        return Cause::Jump { to: address };
    }
    if address.0 < NULL_REACH {
        return Cause::Null { offset: address.0 };
    }
    if let Some(of) = guarded(snapshot, address) {
        return Cause::Guard { stack: of, own: stack.is_some_and(|own| snapshot.id(own) == of.id) };
    }
    match fault.at {
        Land::File(_) => Cause::File,
        _ if signal == libc::SIGBUS => Cause::Bus,
        Land::Forbidden(_) => Cause::Forbidden,
        Land::Kept(_) | Land::Code(_) | Land::Writable(_) => Cause::Kept,
        Land::Nothing => Cause::Unmapped,
    }
}

impl Cause {
    /// The word of the JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Cause::Overflow(_) => "overflow",
            Cause::Null { .. } => "null",
            Cause::Jump { .. } => "jump",
            Cause::Guard { .. } => "guard",
            Cause::Forbidden => "forbidden",
            Cause::Kept => "protected",
            Cause::Unmapped => "unmapped",
            Cause::General => "general_protection",
            Cause::File => "file",
            Cause::Bus => "bus",
            Cause::Illegal => "illegal_instruction",
            Cause::Arithmetic => "arithmetic",
            Cause::Abort => "abort",
            Cause::Sent => "sent",
        }
    }
}

impl Verdict {
    /// The overflow, if it is one.
    pub fn overflow(&self) -> Option<&Overflow> {
        match &self.cause {
            Cause::Overflow(overflow) => Some(overflow),
            _ => None,
        }
    }
}
