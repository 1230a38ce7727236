//! The walk itself: frame after frame, until there is a reason to stop.

use std::ops::ControlFlow;

use super::fallback;
use super::follow::{self, Lead};
use super::frame::{Ended, FoundBy, Frame};
use super::passed::Passed;
use super::rules::{Kind, Row, Standing, Step, Window};
use super::unwinder::Rules;
use crate::addr::{Addr, Pc};
use crate::memory::Memory;
use crate::registers::Registers;

/// Walks from `start` and shows each frame to `visit` with the registers it has; at most `limit` frames.
///
/// A frame whose program counter is not in code is never shown, unless it is the context's own.
pub fn walk<M: Memory + ?Sized>(
    rules: &mut Rules<'_, '_>,
    memory: &M,
    start: Registers,
    limit: usize,
    visit: impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
) -> Ended {
    let Some(pc) = start.addr(rules.tables().arch().pc) else { return Ended::NoRule };
    walk_from(rules, memory, Pc::At(pc), start, limit, visit)
}

/// The same from a context at `pc`, which may be a return address.
pub fn walk_from<M: Memory + ?Sized>(
    rules: &mut Rules<'_, '_>,
    memory: &M,
    pc: Pc,
    mut start: Registers,
    limit: usize,
    mut visit: impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
) -> Ended {
    let mut passed = std::mem::take(&mut rules.passed);
    passed.clear();
    let place = Place { pc, sp: start.addr(rules.tables().arch().sp), found_by: FoundBy::Context };
    let mut walk = Walk { rules, window: Window::new(memory), registers: &mut start, passed };
    let ended = walk.run(place, limit, &mut visit);
    walk.rules.passed = walk.passed;
    ended
}

/// A walk under way.
struct Walk<'w, 't, 'd, 'm, M: ?Sized> {
    rules: &'w mut Rules<'t, 'd>,
    window: Window<'m, M>,
    /// Those of the frame that the walk is at.
    registers: &'w mut Registers,
    passed: Passed,
}

/// Where a walk is: the part that is better kept out of memory, because the next step begins with it.
#[derive(Clone, Copy)]
struct Place {
    pc: Pc,
    sp: Option<Addr>,
    found_by: FoundBy,
}

impl<M: Memory + ?Sized> Walk<'_, '_, '_, '_, M> {
    /// Shows the frame at `place` and its callers.
    ///
    /// The loop holds only what most frames need, so that the place never leaves the CPU's registers.
    fn run(
        &mut self,
        mut place: Place,
        limit: usize,
        visit: &mut impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
    ) -> Ended {
        let arch = self.rules.tables().arch();
        for _ in 0..limit {
            let row = self.rules.row(place.pc, &self.window.memory);
            let cfa = if row.is_plain() { row.cfa_by(arch, place.sp, self.registers) } else { None };
            let Some(cfa) = cfa else {
                let row = *row;
                match self.odd_frame(place, row, visit) {
                    Ok(caller) => place = caller,
                    Err(ended) => return ended,
                }
                continue;
            };
            if self.passed.again(place.pc.addr(), cfa) {
                return Ended::Repeats;
            }
            if show(place, Some(cfa), Role::Routine, self.registers, visit).is_break() {
                return Ended::TooDeep;
            }
            let mut address = match row.step(arch, cfa, self.registers, &mut self.window) {
                Step::Up(address) => address,
                Step::Unreadable(at) => return Ended::Unreadable(at),
                Step::Root | Step::Stuck => return Ended::NoRule,
            };
            if arch.link.is_some() {
                address = arch.strip(address);
                self.registers.set(arch.pc, address.0);
            }
            if address.0 == 0 {
                return Ended::Root;
            }
            place = Place { pc: Pc::After(address), sp: Some(cfa), found_by: FoundBy::Cfi };
        }
        Ended::TooDeep
    }

    /// A frame that needs a second look.
    #[cold]
    fn odd_frame(
        &mut self,
        place: Place,
        row: Row,
        visit: &mut impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
    ) -> Result<Place, Ended> {
        let memory = self.window.memory;
        let arch = self.rules.tables().arch();
        let Settled { place, row, is_last } = self.settle(place, row)?;
        let cfa = follow::cfa(self.rules, &row, self.registers, &memory);
        // What distinguishes the frame from others at the same address: its CFA, or what comes nearest to it.
        let mark = cfa.or(self.registers.addr(arch.sp)).or(self.registers.addr(arch.fp));
        if self.passed.again(place.pc.addr(), mark.unwrap_or_default()) {
            return Err(Ended::Repeats);
        }
        let role = if row.standing == Standing::Signal { Role::Trampoline } else { Role::Routine };
        if show(place, cfa, role, self.registers, visit).is_break() {
            return Err(Ended::TooDeep);
        }
        if is_last {
            return Err(Ended::Root);
        }
        let (address, found_by) = match follow::step(self.rules, &row, self.registers, &memory) {
            Step::Up(address) if row.kind == Kind::Trampoline => (address, FoundBy::Context),
            Step::Up(address) => (address, FoundBy::Cfi),
            Step::Root => return Err(Ended::Root),
            Step::Unreadable(at) => return Err(Ended::Unreadable(at)),
            Step::Stuck => self.guess(place, &row)?,
        };
        let sp = self.registers.addr(arch.sp);
        if role == Role::Trampoline {
            return Ok(Place { pc: Pc::At(address), sp, found_by });
        }
        let address = arch.strip(address);
        self.registers.set(arch.pc, address.0);
        if address.0 == 0 { Err(Ended::Root) } else { Ok(Place { pc: Pc::After(address), sp, found_by }) }
    }

    /// Decides what an address is that does not simply lie after a call.
    fn settle(&mut self, place: Place, row: Row) -> Result<Settled, Ended> {
        let memory = self.window.memory;
        let as_it_seems = Settled { place, row, is_last: false };
        let Pc::After(addr) = place.pc else { return Ok(as_it_seems) };
        if row.kind == Kind::NotCode {
            return Err(Ended::NoRule);
        }
        let place = Place { pc: Pc::At(addr), ..place };
        match row.standing {
            Standing::Ordinary => return Ok(as_it_seems),
            Standing::Signal => return Ok(Settled { place, ..as_it_seems }),
            Standing::Doubtful if follow::lead(self.rules, &row, self.registers, &memory) != Lead::Astray => {
                return Ok(as_it_seems);
            }
            Standing::Unseen => return Ok(as_it_seems),
            Standing::Doubtful | Standing::Planted | Standing::Stray => {}
        }
        let here = *self.rules.row(place.pc, &memory);
        let leads_on = follow::lead(self.rules, &here, self.registers, &memory) == Lead::On;
        if row.standing == Standing::Stray && !leads_on {
            return Err(Ended::NoRule);
        }
        if !leads_on
            && row.kind == Kind::Missing
            && fallback::goes_on_by_frame_pointer(self.rules, addr, self.registers, &memory)
        {
            return Ok(as_it_seems);
        }
        Ok(Settled { place, row: here, is_last: !leads_on })
    }

    /// Guesses the caller of the frame at `place`, whose row has none.
    fn guess(&mut self, place: Place, row: &Row) -> Result<(Addr, FoundBy), Ended> {
        let memory = self.window.memory;
        let arch = self.rules.tables().arch();
        let found_by = if matches!(row.kind, Kind::Missing | Kind::NotCode) {
            if fallback::is_outermost(self.rules, place.pc, place.found_by, self.registers, &memory) {
                return Err(Ended::Root);
            }
            fallback::caller(self.rules, place.pc, self.registers, &memory).ok_or(Ended::NoRule)?
        } else {
            fallback::frame_pointer(self.rules, self.registers, &memory).ok_or(Ended::NoRule)?;
            FoundBy::FramePointer
        };
        Ok((self.registers.addr(arch.pc).ok_or(Ended::NoRule)?, found_by))
    }
}

/// What an address turned out to be: the place, the row to go on by, and whether there is nothing to go on to.
struct Settled {
    place: Place,
    row: Row,
    is_last: bool,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Routine,
    Trampoline,
}

#[inline]
fn show(
    place: Place,
    cfa: Option<Addr>,
    role: Role,
    registers: &Registers,
    visit: &mut impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let frame = Frame { pc: place.pc, cfa, found_by: place.found_by, signal: role == Role::Trampoline };
    visit(&frame, registers)
}
