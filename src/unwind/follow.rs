//! Follows a row of any kind, for real or on trial.

use super::rules::{Kind, Row, Standing, Step, Window};
use super::signal;
use super::unwinder::Rules;
use crate::addr::{Addr, Pc};
use crate::memory::Memory;
use crate::registers::Registers;

/// Where following a row leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lead {
    /// To a place after a call, or a signal trampoline.
    On,
    /// To the end of the chain.
    Root,
    /// To a place that makes no sense.
    Astray,
}

/// Follows `row` on trial.
pub(super) fn lead(rules: &mut Rules<'_, '_>, row: &Row, registers: &Registers, memory: &dyn Memory) -> Lead {
    let return_address = match step(rules, row, &mut registers.clone(), memory) {
        Step::Up(address) => rules.tables().arch().strip(address),
        Step::Root => return Lead::Root,
        Step::Stuck | Step::Unreadable(_) => return Lead::Astray,
    };
    if return_address.0 == 0 {
        return Lead::Root;
    }
    let row = rules.row(Pc::After(return_address), memory);
    let makes_sense =
        matches!(row.standing, Standing::Ordinary | Standing::Doubtful | Standing::Signal | Standing::Unseen);
    if row.kind != Kind::NotCode && makes_sense { Lead::On } else { Lead::Astray }
}

/// The CFA of a frame with these registers.
pub(super) fn cfa(rules: &Rules<'_, '_>, row: &Row, registers: &Registers, memory: &dyn Memory) -> Option<Addr> {
    match row.kind {
        Kind::NotCode | Kind::Missing => None,
        Kind::Saved | Kind::Root => row.cfa(registers),
        Kind::Full => rules.full(row)?.cfa(registers, memory),
        Kind::Trampoline => signal::cfa(rules.tables().arch(), registers, memory),
    }
}

/// Turns the registers of a frame into its caller's, whatever the row's kind.
pub(super) fn step(rules: &Rules<'_, '_>, row: &Row, registers: &mut Registers, memory: &dyn Memory) -> Step {
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
