//! The registers in the innermost frame of each stack that a thread's chain of frames leads over.

use std::ops::ControlFlow;

use crate::addr::Pc;
use crate::memory::Memory;
use crate::process::Thread;
use crate::registers::Registers;
use crate::snapshot::Snapshot;
use crate::unwind::{Rules, Tables, walk};

/// Adds the registers of the stacks that threads' chains of frames lead over.
pub(super) fn add(snapshot: &mut Snapshot, threads: &[Thread], tables: &Tables<'_>, memory: &dyn Memory) {
    let mut rules = Rules::new(tables);
    for entry in snapshot.threads.clone() {
        let thread = threads.iter().find(|thread| thread.tid == entry.tid);
        let Some(Ok(start)) = thread.map(|thread| &thread.registers) else { continue };
        // The frame by which the chain comes to each stack; one that was found in memory has its registers already.
        let (mut arrivals, mut passed) = (Vec::new(), 0);
        for id in snapshot.stitched(entry.stack) {
            let stack = &snapshot.stacks[id];
            let Some(first) = stack.frames.first().filter(|_| stack.registers.is_none()) else { break };
            arrivals.push((passed, id, first.frame.pc));
            passed += stack.frames.len();
        }
        for (id, registers) in at_frames(&mut rules, tables, memory, start, &arrivals) {
            snapshot.stacks[id].registers = Some(Box::new(registers));
        }
    }
}

/// The registers in those frames of a chain, which are named by place in the chain, stack, and code address.
fn at_frames(
    rules: &mut Rules<'_, '_>,
    tables: &Tables<'_>,
    memory: &dyn Memory,
    start: &Registers,
    wanted: &[(usize, usize, Pc)],
) -> Vec<(usize, Registers)> {
    let arch = tables.arch();
    let mut wanted = wanted.iter().peekable();
    let (mut found, mut passed) = (Vec::new(), 0);
    let most = wanted.clone().last().map_or(0, |(place, ..)| place + 1);
    walk(rules, memory, start.clone(), most, |frame, registers| {
        if let Some((_, id, pc)) = wanted.next_if(|(place, ..)| *place == passed) {
            if frame.pc != *pc {
                return ControlFlow::Break(());
            }
            let mut registers = registers.clone();
            registers.set(arch.pc, tables.shown_pc(*pc).0);
            found.push((*id, registers));
        }
        passed += 1;
        ControlFlow::Continue(())
    });
    found
}
