//! The walk itself: frame after frame, until there is a reason to stop.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::fallback;
use super::rules::{Kind, Row, Standing, Step, Window};
use super::signal;
use super::unwinder::Rules;
use crate::addr::{Addr, Pc};
use crate::memory::Memory;
use crate::registers::Registers;

/// One frame of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Where execution stands in it.
    pub pc: Pc,
    /// Its canonical frame address; `None` where nothing tells it.
    pub cfa: Option<Addr>,
    /// How it was found.
    pub found_by: FoundBy,
    /// Whether it is a signal trampoline: the frame after it is the code that the signal interrupted.
    pub signal: bool,
}

/// How a frame was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FoundBy {
    /// Its registers were saved whole: the context that the walk started at, or one that the kernel saved for a signal.
    Context,
    /// Call frame information of the frame it called.
    Cfi,
    /// The chain of frame pointers: a guess that was checked. Frames may be missing before it.
    FramePointer,
    /// A word on the stack (or the link register) that looks like a return address: a guess that was checked.
    Scan,
}

/// Why a walk has no more frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// The last frame is the outermost: its rules say so, or its return address is zero, or it was put on the stack by
    /// hand as the place to return to at last.
    Root,
    /// Nothing says where the last frame returns to, or what does leads to no code.
    NoRule,
    /// The word that holds the last frame's return address could not be read.
    Unreadable(Addr),
    /// The next frame was there before: the chain is a ring.
    Repeats,
    /// The limit was reached, or the visitor asked to stop.
    TooDeep,
}

/// Walks from `start` and shows each frame to `visit` with the registers it has; at most `limit` frames.
///
/// A frame whose program counter is not in code is never shown, except where a context itself stands there.
pub fn walk<M: Memory + ?Sized>(
    rules: &mut Rules<'_, '_>,
    memory: &M,
    start: Registers,
    limit: usize,
    mut visit: impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
) -> Ended {
    let Some(pc) = start.addr(rules.tables().arch().pc) else { return Ended::NoRule };
    rules.passed.clear();
    let mut walk =
        Walk { rules, window: Window::new(memory), registers: start, pc: Pc::At(pc), found_by: FoundBy::Context };
    for _ in 0..limit {
        if let Err(ended) = walk.frame(&mut visit) {
            return ended;
        }
    }
    Ended::TooDeep
}

/// A walk under way.
struct Walk<'w, 't, 'd, 'm, M: ?Sized> {
    rules: &'w mut Rules<'t, 'd>,
    window: Window<'m, M>,
    registers: Registers,
    pc: Pc,
    found_by: FoundBy,
}

impl<M: Memory + ?Sized> Walk<'_, '_, '_, '_, M> {
    /// Shows the frame where the walk stands, and goes on to its caller.
    #[inline]
    fn frame(&mut self, visit: &mut impl FnMut(&Frame, &Registers) -> ControlFlow<()>) -> Result<(), Ended> {
        let memory = self.window.memory;
        let arch = self.rules.tables().arch();
        let row = self.rules.row(self.pc, &memory);
        if row.kind == Kind::Saved
            && row.standing == Standing::Ordinary
            && let Some(cfa) = row.cfa(&self.registers)
        {
            let row = *row;
            self.show(visit, Some(cfa), false)?;
            match row.step(arch, cfa, &mut self.registers, &mut self.window) {
                Step::Unreadable(at) => Err(Ended::Unreadable(at)),
                _ => self.go_on(FoundBy::Cfi),
            }
        } else {
            let row = *row;
            self.odd_frame(row, visit)
        }
    }

    /// A frame that needs a second look.
    #[cold]
    fn odd_frame(
        &mut self,
        row: Row,
        visit: &mut impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
    ) -> Result<(), Ended> {
        let memory = self.window.memory;
        let (row, is_last) = self.settle(row)?;
        let cfa = cfa(self.rules, &row, &self.registers, &memory);
        self.show(visit, cfa, row.standing == Standing::Signal)?;
        if is_last {
            return Err(Ended::Root);
        }
        let found_by = match step(self.rules, &row, &mut self.registers, &memory) {
            Step::Up if row.kind == Kind::Trampoline => FoundBy::Context,
            Step::Up => FoundBy::Cfi,
            Step::Root => return Err(Ended::Root),
            Step::Unreadable(at) => return Err(Ended::Unreadable(at)),
            Step::Stuck => self.guess(&row)?,
        };
        if row.standing == Standing::Signal {
            let pc = self.registers.addr(self.rules.tables().arch().pc).ok_or(Ended::NoRule)?;
            (self.pc, self.found_by) = (Pc::At(pc), found_by);
            return Ok(());
        }
        self.go_on(found_by)
    }

    /// Decides what an address is that is not simply behind a call: gives the row to go on by, and whether there is
    /// nothing to go on to.
    fn settle(&mut self, row: Row) -> Result<(Row, bool), Ended> {
        let memory = self.window.memory;
        let at = Pc::At(self.pc.addr());
        let is_context = self.pc == at;
        if row.kind == Kind::NotCode && !is_context {
            return Err(Ended::NoRule);
        }
        if is_context {
            return Ok((row, false));
        }
        match row.standing {
            Standing::Ordinary => Ok((row, false)),
            Standing::Signal => {
                self.pc = at;
                Ok((row, false))
            }
            Standing::Planted | Standing::Stray => {
                let leads_on = lead(self.rules, &row, &self.registers, &memory) == Lead::On;
                if row.standing == Standing::Stray && !leads_on {
                    return Err(Ended::NoRule);
                }
                self.pc = at;
                Ok((row, !leads_on))
            }
            Standing::Doubtful => {
                if lead(self.rules, &row, &self.registers, &memory) != Lead::Astray {
                    return Ok((row, false));
                }
                self.pc = at;
                let row = *self.rules.row(at, &memory);
                let leads_on = lead(self.rules, &row, &self.registers, &memory) == Lead::On;
                Ok((row, !leads_on))
            }
        }
    }

    #[inline]
    fn show(
        &mut self,
        visit: &mut impl FnMut(&Frame, &Registers) -> ControlFlow<()>,
        cfa: Option<Addr>,
        signal: bool,
    ) -> Result<(), Ended> {
        let arch = self.rules.tables().arch();
        let place = || self.registers.addr(arch.sp).or(self.registers.addr(arch.fp));
        let place = cfa.or_else(place).unwrap_or_default();
        if self.rules.passed.again(self.pc.addr(), place) {
            return Err(Ended::Repeats);
        }
        let frame = Frame { pc: self.pc, cfa, found_by: self.found_by, signal };
        match visit(&frame, &self.registers) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Ended::TooDeep),
        }
    }

    /// Stands at the caller, whose registers are set.
    #[inline]
    fn go_on(&mut self, found_by: FoundBy) -> Result<(), Ended> {
        let arch = self.rules.tables().arch();
        let pc = arch.strip(self.registers.addr(arch.pc).ok_or(Ended::NoRule)?);
        if pc.0 == 0 {
            return Err(Ended::Root);
        }
        self.registers.set(arch.pc, pc.0);
        (self.pc, self.found_by) = (Pc::After(pc), found_by);
        Ok(())
    }

    /// Guesses the caller of a frame whose row gave none.
    fn guess(&mut self, row: &Row) -> Result<FoundBy, Ended> {
        let memory = self.window.memory;
        if matches!(row.kind, Kind::Missing | Kind::NotCode) {
            let fp = self.registers.addr(self.rules.tables().arch().fp);
            let guess = fallback::caller(self.rules, self.pc, &mut self.registers, &memory);
            // A frame pointer of zero marks the outermost frame (System V ABI, AMD64 supplement, section 3.4.1).
            let nothing = if fp == Some(Addr(0)) { Ended::Root } else { Ended::NoRule };
            return guess.ok_or(nothing);
        }
        let known = fallback::frame_pointer(self.rules, &mut self.registers, &memory);
        known.map(|()| FoundBy::FramePointer).ok_or(Ended::NoRule)
    }
}

/// What following a row would come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lead {
    /// To a place behind a call, or a signal trampoline.
    On,
    /// To the end of the chain.
    Root,
    /// To nothing that makes sense.
    Astray,
}

/// Follows `row` on trial.
pub(super) fn lead(rules: &mut Rules<'_, '_>, row: &Row, registers: &Registers, memory: &dyn Memory) -> Lead {
    let mut caller = registers.clone();
    let arch = rules.tables().arch();
    match step(rules, row, &mut caller, memory) {
        Step::Up => {}
        Step::Root => return Lead::Root,
        Step::Stuck | Step::Unreadable(_) => return Lead::Astray,
    }
    match caller.addr(arch.pc).map(|pc| arch.strip(pc)) {
        None => Lead::Astray,
        Some(Addr(0)) => Lead::Root,
        Some(pc) => {
            let row = rules.row(Pc::After(pc), memory);
            let makes_sense = matches!(row.standing, Standing::Ordinary | Standing::Doubtful | Standing::Signal);
            if row.kind != Kind::NotCode && makes_sense { Lead::On } else { Lead::Astray }
        }
    }
}

/// The CFA of a frame with these registers.
fn cfa(rules: &Rules<'_, '_>, row: &Row, registers: &Registers, memory: &dyn Memory) -> Option<Addr> {
    match row.kind {
        Kind::NotCode | Kind::Missing => None,
        Kind::Saved | Kind::Root => row.cfa(registers),
        Kind::Full => rules.full(row)?.cfa(registers, memory),
        Kind::Trampoline => signal::cfa(rules.tables().arch(), registers, memory),
    }
}

/// Turns the registers of a frame into its caller's, whatever the row's kind.
fn step(rules: &Rules<'_, '_>, row: &Row, registers: &mut Registers, memory: &dyn Memory) -> Step {
    let arch = rules.tables().arch();
    match row.kind {
        Kind::NotCode | Kind::Missing => Step::Stuck,
        Kind::Root => Step::Root,
        Kind::Trampoline => signal::step(arch, registers, memory),
        Kind::Saved => match row.cfa(registers) {
            Some(cfa) => row.step(arch, cfa, registers, &mut Window::new(&memory)),
            None => Step::Stuck,
        },
        Kind::Full => {
            let Some(full) = rules.full(row) else { return Step::Stuck };
            match full.cfa(registers, memory) {
                Some(cfa) => full.step(arch, cfa, registers, memory),
                None => Step::Stuck,
            }
        }
    }
}

/// The frames that a walk has passed, to know one that it comes by again.
///
/// As long as the CFA rises nothing can repeat, and a list is all that is kept. From the first step down on, which in
/// the stacks of threads alone never comes, frames are looked up in a set.
#[derive(Default)]
pub(super) struct Passed {
    rising: Vec<(Addr, Addr)>,
    /// Empty as long as the CFA rises.
    all: HashSet<(Addr, Addr)>,
}

impl Passed {
    fn clear(&mut self) {
        self.rising.clear();
        self.all.clear();
    }

    /// Notes a frame; says whether it was there before.
    #[inline]
    fn again(&mut self, pc: Addr, cfa: Addr) -> bool {
        let rises = self.rising.last().is_none_or(|(_, last)| *last < cfa);
        if rises && self.all.is_empty() {
            self.rising.push((pc, cfa));
            return false;
        }
        self.again_in_set(pc, cfa)
    }

    #[cold]
    fn again_in_set(&mut self, pc: Addr, cfa: Addr) -> bool {
        self.all.extend(self.rising.drain(..));
        !self.all.insert((pc, cfa))
    }
}
