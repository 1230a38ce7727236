//! Rows: how to get from a frame to its caller, compiled from call frame information for one program counter.
//!
//! Nearly every row says "the CFA is this register plus that offset, and these registers are saved at these offsets
//! from it". Such a row fits a cache line ([`Row`]). What does not fit (expressions, values kept in other registers) is
//! kept aside as a [`FullRow`] and named by its number.

use super::expr::{Surroundings, evaluate};
use super::program::{Cfa, Rule, RuleSet};
use crate::addr::{Addr, Pc};
use crate::arch::Arch;
use crate::memory::{Memory, Unreadable};
use crate::registers::{Register, Registers};

/// What a row is compiled for: an address, and whether it is a return address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key(u64);

impl Key {
    /// The key of no row.
    pub(super) const NONE: Key = Key(0);

    /// The key of `pc`. A program's addresses leave the topmost bit free.
    #[inline]
    pub(super) fn of(pc: Pc) -> Key {
        match pc {
            Pc::At(addr) => Key(addr.0 << 1),
            Pc::After(addr) => Key(addr.0 << 1 | 1),
        }
    }

    /// Spreads keys over the slots of a table (Fibonacci hashing).
    #[inline]
    pub(super) fn hash(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
    }
}

/// Where the rules of a row come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// There is no code at this address.
    NotCode,
    /// There is code, and nothing describes it.
    Missing,
    /// `CFA = register + offset`, registers saved at words from the CFA.
    Saved,
    /// The CFA as in `Saved`; the caller is said not to exist (an undefined return address).
    Root,
    /// See the [`FullRow`] whose number is `offset`.
    Full,
    /// The kernel's signal return trampoline: the registers are where [`Arch::sigframe`] says.
    Trampoline,
}

/// What an address that was taken for a return address turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// What it was taken for: a place after a call; or the place where execution is.
    Ordinary,
    /// The start of a signal trampoline, put there by the kernel.
    Signal,
    /// Not after a call, but the first byte of a routine (or the second instruction, as Go does), or in code that
    /// nothing describes: put on the stack by hand, so that the routine runs when the last function returns.
    Planted,
    /// After a call that ends a routine, and the first byte of the next one: either of the two above.
    Doubtful,
    /// In the middle of a routine, but not after a call.
    Stray,
    /// Nothing describes it, and its code can't be read: it may lie after a call, or be any of the above.
    Unseen,
}

/// How many saved registers fit in a [`Row`]: x86_64 has 7 to save, aarch64 12, including the return address.
const MOST_SAVED: usize = 12;
/// How far apart, in words, they may lie.
const MOST_WORDS: usize = 32;
/// Saved registers are read in groups of this many.
const GROUP: usize = 4;

/// A row that fits a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Row {
    pub(super) key: Key,
    /// The registers that have the same value in the caller, a bit for each.
    keeps: u64,
    /// The registers that are saved, a bit for each.
    saves: u64,
    /// What is added to the register for the CFA; of a `Full` row its number.
    offset: i32,
    /// The lowest saved word, counted in words from the CFA.
    lowest: i16,
    /// How many words it is from there to the end of the highest.
    span: u8,
    /// The register that the CFA counts from.
    base: Register,
    pub(super) kind: Kind,
    pub(super) standing: Standing,
    /// How many groups of saved registers there are: a loop whose count rarely changes is fast.
    groups: u8,
    /// The saved registers, the return address first; the last group is filled up with copies of it.
    registers: [[Register; GROUP]; MOST_SAVED / GROUP],
    /// Where each is saved, counted in words from the lowest.
    words: [[u8; GROUP]; MOST_SAVED / GROUP],
}

const _: () = assert!(size_of::<Row>() == 64, "one cache line");

/// What a row says of the frame itself and of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The registers are the caller's now, and this is the address that it returns to.
    Up(Addr),
    /// There is no caller.
    Root,
    /// The rules need a register that is not known, or make no sense.
    Stuck,
    /// The return address could not be read.
    Unreadable(Addr),
}

impl Row {
    pub(super) const EMPTY: Row = Row {
        key: Key::NONE,
        keeps: 0,
        saves: 0,
        offset: 0,
        lowest: 0,
        span: 0,
        base: Register(0),
        kind: Kind::Missing,
        standing: Standing::Ordinary,
        groups: 0,
        registers: [[Register(0); GROUP]; MOST_SAVED / GROUP],
        words: [[0; GROUP]; MOST_SAVED / GROUP],
    };

    /// A row of a kind that needs nothing more.
    pub(super) fn of_kind(kind: Kind) -> Row {
        Row { kind, ..Row::EMPTY }
    }

    /// The row that stands for a [`FullRow`].
    pub(super) fn of_full(number: usize) -> Row {
        Row { offset: number as i32, ..Row::of_kind(Kind::Full) }
    }

    pub(super) fn keyed(self, key: Key) -> Row {
        Row { key, ..self }
    }

    pub(super) fn standing(self, standing: Standing) -> Row {
        Row { standing, ..self }
    }

    /// Whether it leads from a place after a call to the next by saved words alone, as nearly all rows do.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.kind == Kind::Saved && self.standing == Standing::Ordinary
    }

    /// The CFA of a `Saved` or `Root` row.
    #[inline]
    pub(super) fn cfa(&self, registers: &Registers) -> Option<Addr> {
        Some(registers.addr(self.base)?.offset(i64::from(self.offset)))
    }

    /// The same if the caller has the stack pointer: to read back what was just written to memory takes longer than
    /// all else that a step does.
    #[inline]
    pub(super) fn cfa_by(&self, arch: &Arch, sp: Option<Addr>, registers: &Registers) -> Option<Addr> {
        let offset = i64::from(self.offset);
        if self.base == arch.sp { Some(sp?.offset(offset)) } else { Some(registers.addr(self.base)?.offset(offset)) }
    }

    /// Turns the registers of a frame into its caller's, by a `Saved` row whose CFA is `cfa`.
    #[inline]
    pub(super) fn step<M: Memory + ?Sized>(
        &self,
        arch: &Arch,
        cfa: Addr,
        registers: &mut Registers,
        window: &mut Window<'_, M>,
    ) -> Step {
        let low = cfa.offset(8 * i64::from(self.lowest));
        match window.bytes(low, 8 * usize::from(self.span)) {
            Some(bytes) => self.take(arch, cfa, registers, bytes),
            None => self.step_by_copy(arch, cfa, registers, window.memory),
        }
    }

    /// Takes the saved registers out of the bytes from the lowest saved word on.
    #[inline]
    fn take(&self, arch: &Arch, cfa: Addr, registers: &mut Registers, bytes: &[u8]) -> Step {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: u8| words.get(usize::from(at)).map(|word| u64::from_le_bytes(*word));
        let Some(return_address) = word(self.words[0][0]) else { return Step::Stuck };
        registers.change(self.keeps, self.saves);
        for (group, at) in self.registers.iter().zip(&self.words).take(usize::from(self.groups)) {
            for (register, at) in group.iter().zip(at) {
                if let Some(word) = word(*at) {
                    registers.set_known(*register, word);
                }
            }
        }
        registers.set(arch.sp, cfa.0);
        Step::Up(Addr(return_address))
    }

    /// The same for memory that does not hold the bytes ready.
    #[cold]
    fn step_by_copy(&self, arch: &Arch, cfa: Addr, registers: &mut Registers, memory: &(impl Memory + ?Sized)) -> Step {
        let mut copied = [0; 8 * MOST_WORDS];
        let low = cfa.offset(8 * i64::from(self.lowest));
        if let Some(copied) = copied.get_mut(..8 * usize::from(self.span))
            && memory.read(low, copied).is_ok()
        {
            return self.take(arch, cfa, registers, copied);
        }
        self.step_by_word(arch, cfa, registers, memory)
    }

    /// The same if not all saved words can be read.
    fn step_by_word(&self, arch: &Arch, cfa: Addr, registers: &mut Registers, memory: &(impl Memory + ?Sized)) -> Step {
        let at = |word: u8| cfa.offset(8 * (i64::from(self.lowest) + i64::from(word)));
        let return_address = match memory.read_u64(at(self.words[0][0])) {
            Ok(address) => address,
            Err(unreadable) => return Step::Unreadable(unreadable.at),
        };
        registers.retain(self.keeps);
        registers.set(arch.sp, cfa.0);
        let saved = self.registers.as_flattened().iter().zip(self.words.as_flattened());
        for (register, word) in saved.take(GROUP * usize::from(self.groups)) {
            match memory.read_u64(at(*word)) {
                Ok(value) => registers.set(*register, value),
                Err(_) => registers.forget(*register),
            }
        }
        Step::Up(Addr(return_address))
    }

    /// The number of the [`FullRow`] that a `Full` row stands for.
    pub(super) fn number(&self) -> usize {
        self.offset as usize
    }
}

/// The part of memory that a walk is in, so that most words are read without asking for the piece that holds them.
pub(super) struct Window<'m, M: ?Sized> {
    pub(super) memory: &'m M,
    start: Addr,
    held: &'m [u8],
}

impl<'m, M: Memory + ?Sized> Window<'m, M> {
    pub(super) fn new(memory: &'m M) -> Window<'m, M> {
        Window { memory, start: Addr(0), held: &[] }
    }

    /// The `length` bytes at `at`, if memory holds them ready.
    #[inline]
    fn bytes(&mut self, at: Addr, length: usize) -> Option<&'m [u8]> {
        let offset = at.0.wrapping_sub(self.start.0) as usize;
        if offset.checked_add(length).is_none_or(|end| end > self.held.len()) {
            return self.bytes_elsewhere(at, length);
        }
        self.held.get(offset..offset + length)
    }

    #[cold]
    fn bytes_elsewhere(&mut self, at: Addr, length: usize) -> Option<&'m [u8]> {
        let held = self.memory.held(at);
        if length <= held.len() {
            (self.start, self.held) = (at, held);
        }
        held.get(..length)
    }
}

/// A row that does not fit a [`Row`].
#[derive(Clone, Debug)]
pub(super) struct FullRow<'d> {
    cfa: Cfa<'d>,
    /// The registers that the ABI makes a routine keep, even if its rules do not mention them.
    keeps: u64,
    rules: Box<[(Register, Rule<'d>)]>,
    /// The register whose rule is that of the return address.
    column: Register,
    return_address: Rule<'d>,
    bias: u64,
}

impl FullRow<'_> {
    /// Whether the CFA is the value of an expression, not a distance from a register.
    pub(super) fn cfa_is_expression(&self) -> bool {
        matches!(self.cfa, Cfa::Expression(_))
    }

    pub(super) fn cfa(&self, registers: &Registers, memory: &dyn Memory) -> Option<Addr> {
        match self.cfa {
            Cfa::Register(register, offset) => Some(registers.addr(register)?.offset(offset)),
            Cfa::Expression(bytes) => {
                evaluate(bytes, None, Surroundings { registers, memory, bias: self.bias }).map(Addr)
            }
        }
    }

    /// Turns the registers of a frame with this CFA into its caller's.
    pub(super) fn step(&self, arch: &Arch, cfa: Addr, registers: &mut Registers, memory: &dyn Memory) -> Step {
        let around = Surroundings { registers, memory, bias: self.bias };
        let mut caller = registers.clone();
        caller.retain(self.keeps);
        caller.set(arch.sp, cfa.0);
        for (register, rule) in &self.rules {
            match rule.value(*register, cfa, around) {
                Ok(Some(value)) => caller.set(*register, value),
                Ok(None) | Err(_) => caller.forget(*register),
            }
        }
        let return_address = match self.return_address.value(self.column, cfa, around) {
            Ok(Some(address)) => Addr(address),
            Ok(None) if matches!(self.return_address, Rule::Undefined) => return Step::Root,
            Ok(None) => return Step::Stuck,
            Err(unreadable) => return Step::Unreadable(unreadable.at),
        };
        *registers = caller;
        registers.set(arch.pc, return_address.0);
        Step::Up(return_address)
    }
}

impl Rule<'_> {
    /// The caller's value of `register`; `None` if it has none that can be known.
    fn value(&self, register: Register, cfa: Addr, around: Surroundings<'_>) -> Result<Option<u64>, Unreadable> {
        match *self {
            Rule::Undefined => Ok(None),
            Rule::Same => Ok(around.registers.get(register)),
            Rule::Register(other) => Ok(around.registers.get(other)),
            Rule::Value(offset) => Ok(Some(cfa.offset(offset).0)),
            Rule::ValueExpression(bytes) => Ok(evaluate(bytes, Some(cfa), around)),
            Rule::At(offset) => around.memory.read_u64(cfa.offset(offset)).map(Some),
            Rule::AtExpression(bytes) => match evaluate(bytes, Some(cfa), around) {
                Some(at) => around.memory.read_u64(Addr(at)).map(Some),
                None => Ok(None),
            },
        }
    }
}

/// A compiled row: in one cache line, or not.
pub(super) enum Compiled<'d> {
    Row(Row),
    Full(FullRow<'d>),
}

/// The row for rules whose return address stands in `column`; `None` where there is no rule for that.
pub(super) fn compile<'d>(arch: &Arch, state: &RuleSet<'d>, column: Register, bias: u64) -> Option<Compiled<'d>> {
    // A leaf function that leaves the return address in the link register has no rule for it.
    let in_link = (arch.link == Some(column)).then_some(Rule::Same);
    let return_address = state.rule(column).or(in_link)?;
    if let Some(row) = compile_short(arch, state, column, return_address) {
        return Some(Compiled::Row(row));
    }
    let rules = state.rules().filter(|(register, _)| *register != column).collect();
    Some(Compiled::Full(FullRow { cfa: state.cfa, keeps: arch.callee_saved, rules, column, return_address, bias }))
}

/// The same as a [`Row`], if it fits one.
fn compile_short(arch: &Arch, state: &RuleSet<'_>, column: Register, return_address: Rule<'_>) -> Option<Row> {
    let Cfa::Register(base, offset) = state.cfa else { return None };
    let mut row = Row { base, offset: offset.try_into().ok()?, keeps: arch.callee_saved, ..Row::EMPTY };
    let mut saved = Saved::default();
    match return_address {
        Rule::Undefined => return Some(Row { kind: Kind::Root, ..row }),
        Rule::At(offset) => saved.push(arch.pc, offset)?,
        _ => return None,
    }
    for (register, rule) in state.rules().filter(|(register, _)| *register != column) {
        match rule {
            Rule::At(offset) if register != arch.sp => saved.push(register, offset)?,
            Rule::Undefined => row.keeps &= !(1 << register.0),
            Rule::Same => row.keeps |= 1 << register.0,
            _ => return None,
        }
    }
    saved.fill(&mut row)?;
    Some(Row { kind: Kind::Saved, ..row })
}

/// Registers and the words from the CFA where they are saved.
#[derive(Default)]
struct Saved {
    count: usize,
    registers: [Register; MOST_SAVED],
    words: [i16; MOST_SAVED],
}

impl Saved {
    /// Adds a register that is saved at `offset` bytes from the CFA; `None` if there is no room for it.
    fn push(&mut self, register: Register, offset: i64) -> Option<()> {
        if offset % 8 != 0 {
            return None;
        }
        *self.registers.get_mut(self.count)? = register;
        *self.words.get_mut(self.count)? = (offset / 8).try_into().ok()?;
        self.count += 1;
        Some(())
    }

    /// Writes them into `row`; `None` if they lie too far apart to be read in one piece.
    fn fill(&self, row: &mut Row) -> Option<()> {
        let words = self.words.get(..self.count)?;
        row.lowest = *words.iter().min()?;
        row.span = (i32::from(*words.iter().max()?) - i32::from(row.lowest) + 1).try_into().ok()?;
        row.groups = self.count.div_ceil(GROUP) as u8;
        let places = row.registers.as_flattened_mut().iter_mut().zip(row.words.as_flattened_mut());
        for (number, (register, word)) in places.enumerate() {
            let number = if number < self.count { number } else { 0 };
            *register = self.registers[number];
            *word = (self.words[number] - row.lowest) as u8;
            row.saves |= 1 << register.0;
        }
        (usize::from(row.span) <= MOST_WORDS).then_some(())
    }
}
