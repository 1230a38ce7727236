//! The rows of one program, compiled as walks come by them and kept.

use super::cache::Cache;
use super::rules::{Compiled, Compiler, FullRow, Key, Kind, Row, Standing};
use super::signal;
use super::tables::{Found, Tables};
use super::walk::Passed;
use crate::addr::{Addr, Pc};
use crate::memory::Memory;

/// How many rows may be kept that do not fit a cache line.
const MOST_FULL: usize = 1 << 16;

/// Compiled rows. One serves any number of walks, one after another; threads of ours have one each.
pub struct Rules<'t, 'd> {
    tables: &'t Tables<'d>,
    cache: Cache,
    full: Vec<FullRow<'d>>,
    compiler: Compiler,
    pub(super) passed: Passed,
}

impl<'t, 'd> Rules<'t, 'd> {
    /// Rules that know nothing yet.
    pub fn new(tables: &'t Tables<'d>) -> Rules<'t, 'd> {
        let compiler = Compiler::new(tables.arch());
        Rules { tables, cache: Cache::new(), full: Vec::new(), compiler, passed: Passed::default() }
    }

    pub(super) fn tables(&self) -> &'t Tables<'d> {
        self.tables
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

    /// The row for a place where execution stands.
    fn compile_place(&mut self, addr: Addr, memory: &dyn Memory) -> Row {
        if !self.tables.is_executable(addr) {
            return Row::of_kind(Kind::NotCode);
        }
        if signal::contains(self.tables, memory, addr) {
            return Row::of_kind(Kind::Trampoline).standing(Standing::Signal);
        }
        let found = self.tables.find(addr);
        let standing = match &found {
            Some(found) if found.is_signal() => Standing::Signal,
            _ => Standing::Ordinary,
        };
        self.compile(found, addr, standing)
    }

    /// The row for an address that stands where a return address is expected.
    fn compile_return(&mut self, addr: Addr, memory: &dyn Memory) -> Row {
        let tables = self.tables;
        let is_code = tables.is_executable(addr);
        if is_code && signal::starts_at(tables, memory, addr) {
            return Row::of_kind(Kind::Trampoline).standing(Standing::Signal);
        }
        let call = addr.offset(-1);
        let called = tables.is_executable(call) && self.is_after_call(addr, memory);
        if !called && !is_code {
            return Row::of_kind(Kind::NotCode);
        }
        let before = tables.find(call);
        if before.as_ref().is_some_and(|before| before.covers(addr)) {
            return match &before {
                Some(routine) if routine.is_signal() => self.compile(before, addr, Standing::Signal),
                _ if called => self.compile(before, call, Standing::Ordinary),
                _ => self.compile_planted(before, addr),
            };
        }
        match tables.find(addr) {
            Some(here) if here.is_signal() => self.compile(Some(here), addr, Standing::Signal),
            Some(here) if called && before.is_none() => self.compile_planted(Some(here), addr),
            Some(_) if called => self.compile(before, call, Standing::Doubtful),
            None if called => self.compile(before, call, Standing::Ordinary),
            here => self.compile_planted(here, addr),
        }
    }

    /// The row for an address that no call has left behind, in the routine that `here` describes.
    fn compile_planted(&mut self, here: Option<Found<'_, 'd>>, addr: Addr) -> Row {
        let offset = here.as_ref().map_or(0, |here| addr.0.wrapping_sub(here.start().0));
        let is_planted = offset == 0 || offset == self.tables.arch().instruction_unit;
        self.compile(here, addr, if is_planted { Standing::Planted } else { Standing::Stray })
    }

    fn compile(&mut self, found: Option<Found<'_, 'd>>, addr: Addr, standing: Standing) -> Row {
        let compiled =
            found.and_then(|found| self.compiler.compile(found.entries, &found.entry, found.svma(addr), found.bias));
        match compiled {
            None => Row::of_kind(Kind::Missing).standing(standing),
            Some(Compiled::Row(row)) => row.standing(standing),
            Some(Compiled::Full(full)) => {
                self.full.push(full);
                Row::of_full(self.full.len() - 1).standing(standing)
            }
        }
    }

    fn is_after_call(&self, addr: Addr, memory: &dyn Memory) -> bool {
        let arch = self.tables.arch();
        let mut code = [0; 16];
        let Some(code) = code.get_mut(..arch.longest_call) else { return false };
        self.tables.code(memory, addr.offset(-(arch.longest_call as i64)), code) && (arch.ends_with_call)(code)
    }
}
