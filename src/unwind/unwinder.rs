//! The rows of one program, compiled when walks first need them, and kept.

use super::cache::Cache;
use super::entry::Cies;
use super::passed::Passed;
use super::program::{Machine, RuleSet};
use super::rules::{self, Compiled, FullRow, Key, Kind, Row, Standing};
use super::signal;
use super::tables::{Found, Tables};
use crate::addr::{Addr, Pc};
use crate::memory::Memory;
use crate::registers::Registers;

/// How many rows may be kept that do not fit a cache line.
const MOST_FULL: usize = 1 << 14;

/// Compiled rows. One serves any number of walks, one after another; each of our threads has its own.
pub struct Rules<'t, 'd> {
    tables: &'t Tables<'d>,
    cache: Cache,
    full: Vec<FullRow<'d>>,
    cies: Cies<'d>,
    machine: Machine<'d>,
    /// What the machine works on, kept to be used again.
    state: Box<RuleSet<'d>>,
    pub(super) passed: Passed,
}

impl<'t, 'd> Rules<'t, 'd> {
    /// Rules that know nothing yet.
    pub fn new(tables: &'t Tables<'d>) -> Rules<'t, 'd> {
        Rules {
            tables,
            cache: Cache::new(),
            full: Vec::new(),
            cies: Cies::default(),
            machine: Machine::default(),
            state: Box::new(RuleSet::NONE),
            passed: Passed::default(),
        }
    }

    pub(crate) fn tables(&self) -> &'t Tables<'d> {
        self.tables
    }

    /// Whether a frame at `pc` may lead to another stack: its CFA is the value of an expression, as in a library's
    /// trampoline, or it is that of a signal, which may have interrupted whatever ran.
    pub fn may_lead_elsewhere(&mut self, pc: Pc, memory: &dyn Memory) -> bool {
        let row = *self.row(pc, memory);
        match row.kind {
            Kind::Trampoline => true,
            Kind::Full => self.full(&row).is_some_and(FullRow::cfa_is_expression),
            _ => false,
        }
    }

    /// Whether the rules at `entry` are those of any function that is called there: so far only the return address is
    /// on its stack.
    pub fn is_entry_of_called(&mut self, entry: Addr, memory: &dyn Memory) -> bool {
        let arch = self.tables.arch();
        let pushed = if arch.link.is_some() { 0 } else { 8 };
        let row = *self.row(Pc::At(entry), memory);
        row.is_plain() && row.cfa_by(arch, Some(Addr(0)), &Registers::unknown()) == Some(Addr(pushed))
    }

    /// The row for `pc`.
    #[inline]
    pub(super) fn row(&mut self, pc: Pc, memory: &dyn Memory) -> &Row {
        let key = Key::of(pc);
        let slot = match self.cache.find(key) {
            Some(slot) => slot,
            None => self.add(key, pc, memory),
        };
        self.cache.row(slot)
    }

    /// What `row`, of kind `Full`, stands for.
    pub(super) fn full(&self, row: &Row) -> Option<&FullRow<'d>> {
        self.full.get(row.number())
    }

    #[cold]
    fn add(&mut self, key: Key, pc: Pc, memory: &dyn Memory) -> usize {
        if self.full.len() >= MOST_FULL {
            self.full.clear();
            self.cache = Cache::new();
        }
        let row = match pc {
            // The topmost bit marks the kernel's half of the address space, where no program's code is.
            _ if pc.addr().0 >> 63 != 0 => Row::of_kind(Kind::NotCode),
            Pc::At(addr) => self.compile_place(addr, memory),
            Pc::After(addr) => self.compile_return(addr, memory),
        };
        self.cache.insert(row.keyed(key))
    }

    /// The row for a place where execution is.
    fn compile_place(&mut self, addr: Addr, memory: &dyn Memory) -> Row {
        if !self.tables.is_executable(addr) {
            return Row::of_kind(Kind::NotCode);
        }
        if signal::contains(self.tables, memory, addr) {
            return Row::of_kind(Kind::Trampoline).standing(Standing::Signal);
        }
        let found = self.tables.find(addr, &mut self.cies);
        let is_signal = found.as_ref().is_some_and(Found::is_signal);
        self.compile(found, addr, if is_signal { Standing::Signal } else { Standing::Ordinary })
    }

    /// The row for an address that lies where a return address is expected.
    fn compile_return(&mut self, addr: Addr, memory: &dyn Memory) -> Row {
        let tables = self.tables;
        let call = addr.offset(-1);
        let (is_code, follows_code) = (tables.is_executable(addr), tables.is_executable(call));
        if !is_code && !follows_code {
            return Row::of_kind(Kind::NotCode);
        }
        let around = Around::look(tables, memory, addr);
        if is_code && around.is_trampoline {
            return Row::of_kind(Kind::Trampoline).standing(Standing::Signal);
        }
        // Code that can't be read is not said to be no call.
        let called = follows_code && around.is_after_call != Some(false);
        if !called && !is_code {
            return Row::of_kind(Kind::NotCode);
        }
        let before = tables.find(call, &mut self.cies);
        if before.as_ref().is_some_and(|before| before.covers(addr)) {
            return match &before {
                Some(routine) if routine.is_signal() => self.compile(before, addr, Standing::Signal),
                _ if called => self.compile(before, call, Standing::Ordinary),
                _ => planted(tables, before.as_ref(), addr),
            };
        }
        match tables.find(addr, &mut self.cies) {
            Some(here) if here.is_signal() => self.compile(Some(here), addr, Standing::Signal),
            Some(_) if called => self.compile(before, call, Standing::Doubtful),
            None if called && before.is_none() && around.is_after_call.is_none() => {
                Row::of_kind(Kind::Missing).standing(Standing::Unseen)
            }
            None if called => self.compile(before, call, Standing::Ordinary),
            here => planted(tables, here.as_ref(), addr),
        }
    }

    fn compile(&mut self, found: Option<Found<'_, 'd>>, addr: Addr, standing: Standing) -> Row {
        let compiled = found.and_then(|found| {
            let column = found.entry.return_address?;
            found.entry.state_at(found.svma(addr), &mut self.cies, &mut self.machine, &mut self.state)?;
            rules::compile(self.tables.arch(), &self.state, column, found.bias)
        });
        match compiled {
            None => Row::of_kind(Kind::Missing).standing(standing),
            Some(Compiled::Row(row)) => row.standing(standing),
            Some(Compiled::Full(full)) => {
                self.full.push(full);
                Row::of_full(self.full.len() - 1).standing(standing)
            }
        }
    }
}

/// The row for an address that no call has left, in the routine that `here` describes. It only says so: a walk
/// goes on by the row for the place itself.
fn planted(tables: &Tables<'_>, here: Option<&Found<'_, '_>>, addr: Addr) -> Row {
    let offset = here.map_or(0, |here| addr.0.wrapping_sub(here.start().0));
    let is_start = offset == 0 || offset == tables.arch().instruction_unit;
    Row::of_kind(Kind::Missing).standing(if is_start { Standing::Planted } else { Standing::Stray })
}

/// What the code around an address says about it.
struct Around {
    /// `None` if the code can't be read.
    is_after_call: Option<bool>,
    is_trampoline: bool,
}

impl Around {
    fn look(tables: &Tables<'_>, memory: &dyn Memory, addr: Addr) -> Around {
        let arch = tables.arch();
        let mut code = [0; 32];
        let Some(code) = code.get_mut(..arch.longest_call + arch.sigreturn.len()) else {
            return Around { is_after_call: None, is_trampoline: false };
        };
        // Nearly always all of it can be read in one piece.
        if tables.code(memory, addr.offset(-(arch.longest_call as i64)), code) {
            let (before, after) = code.split_at(arch.longest_call);
            return Around {
                is_after_call: Some((arch.ends_with_call)(before)),
                is_trampoline: after == arch.sigreturn,
            };
        }
        let mut before = [0; 16];
        let before = tables.code_before(memory, addr, &mut before);
        Around {
            is_after_call: (!before.is_empty()).then(|| (arch.ends_with_call)(before)),
            is_trampoline: signal::starts_at(tables, memory, addr),
        }
    }
}
