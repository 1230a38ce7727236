//! Threads on the way to a switch, in a routine that no rules describe.
//!
//! Up to the switch site the routine only saves: what its own instructions have done so far, from its entry on, says where
//! everything is that its caller will get back.

use crate::addr::{Addr, Pc};
use crate::arch::X86_64;
use crate::find::descriptors::{ImageCode, Kept, kept_at};
use crate::find::sites::Sites;
use crate::find::suspended::ends::CodeView;
use crate::find::suspended::midway;
use crate::image::CodeBytes;
use crate::memory::Memory;
use crate::registers::Registers;

/// A routine's switch site lies at most so many bytes after its entry.
const LONGEST: u64 = 256;

/// Where the caller of the routine goes on that a thread with `registers` is in the midst of, and the registers that it will
/// have there; `None` where the thread is on the way to no switch, or the code does not tell.
pub(super) fn caller(
    sites: &Sites,
    code: CodeView<'_>,
    registers: &Registers,
    memory: &(impl Memory + ?Sized),
) -> Option<(Pc, Registers)> {
    let pc = registers.addr(X86_64.pc)?;
    if !midway::is_before(sites, code, pc) {
        return None;
    }
    let entry = Addr(*sites.entries[..sites.entries.partition_point(|entry| *entry <= pc.0)].last()?);
    let site = Addr(*sites.switches.get(sites.switches.partition_point(|site| *site < pc.0))?);
    if site.0 - entry.0 > LONGEST {
        return None;
    }
    let mut bytes = vec![0; (site.0 - entry.0) as usize];
    if !(code.read)(entry, &mut bytes) {
        return None;
    }
    let parts = [CodeBytes { svma: entry.0, bytes: &bytes }];
    let function_start = |at: u64| (code.function_start)(Addr(at)).map(|start| start.0);
    let image = ImageCode { parts: &parts, function_start: &function_start, named_starts: &|_, _| Vec::new() };
    let kept = kept_at(&image, entry.0, pc.0)?;
    let sp = registers.addr(X86_64.sp)?;
    let return_address = sp.offset(kept.return_address);
    let mut of_caller = Registers::unknown();
    for (register, place) in kept.registers {
        let value = match place {
            Kept::InRegister(other) => registers.get(other),
            Kept::OnStack(offset) => memory.read_u64(sp.offset(offset)).ok(),
        };
        if let Some(value) = value {
            of_caller.set(register, value);
        }
    }
    let address = Addr(memory.read_u64(return_address).ok()?);
    of_caller.set(X86_64.sp, return_address.offset(8).0);
    of_caller.set(X86_64.pc, address.0);
    Some((Pc::After(address), of_caller))
}
