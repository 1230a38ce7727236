//! Rows: how to get from a frame to its caller, compiled from call frame information for one program counter.
//!
//! Nearly every row says "the CFA is this register plus that offset, and these registers are saved at these offsets from
//! it". Such a row fits a cache line ([`Row`]). What needs more (expressions, values kept in other registers) is kept
//! aside as a [`FullRow`] and named by its number.

use gimli::{CfaRule, RegisterRule};

use super::cfi::{Entries, Fde, Source};
use super::expr::{Surroundings, evaluate};
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
    /// The kernel's signal return trampoline: the registers stand where [`Arch::sigframe`] says.
    Trampoline,
}

/// What an address that was taken for a return address turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// What it was taken for: a place after a call; or where execution stands.
    Ordinary,
    /// The start of a signal trampoline, put there by the kernel.
    Signal,
    /// Not after a call, but the first byte of a routine (or the second instruction, as Go does), or in code that
    /// nothing describes: put on the stack by hand, so that the routine runs when the last function returns.
    Planted,
    /// After a call that ends a routine, and the first byte of the next one: either of the two above.
    Doubtful,
    /// In the middle of a routine, and not after a call.
    Stray,
}

/// How many saved registers fit a [`Row`]: x86_64 has 7 to save, aarch64 12, the return address among them.
const MOST_SAVED: usize = 12;

/// A row that fits a cache line. Offsets from the CFA are in words of eight bytes.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Row {
    pub(super) key: Key,
    /// The registers that have the same value in the caller, a bit for each.
    keeps: u64,
    /// What is added to the register to give the CFA; of a `Full` row its number.
    offset: i32,
    /// The lowest saved word, and how many words it is from there to the end of the highest.
    lowest: i16,
    span: u8,
    /// The register that the CFA counts from.
    base: Register,
    pub(super) kind: Kind,
    pub(super) standing: Standing,
    count: u8,
    registers: [Register; MOST_SAVED],
    words: [i16; MOST_SAVED],
}

const _: () = assert!(size_of::<Row>() == 64, "one cache line");

/// What a row gives for the frame itself and for its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The registers are the caller's now.
    Up,
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
        offset: 0,
        lowest: 0,
        span: 0,
        base: Register(0),
        kind: Kind::Missing,
        standing: Standing::Ordinary,
        count: 0,
        registers: [Register(0); MOST_SAVED],
        words: [0; MOST_SAVED],
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

    /// The CFA of a `Saved` or `Root` row.
    #[inline]
    pub(super) fn cfa(&self, registers: &Registers) -> Option<Addr> {
        Some(registers.addr(self.base)?.offset(i64::from(self.offset)))
    }

    /// Turns the registers of a frame into its caller's, by a `Saved` row whose CFA is `cfa`.
    #[inline]
    pub(super) fn step<'m, M: Memory + ?Sized>(
        &self,
        arch: &Arch,
        cfa: Addr,
        registers: &mut Registers,
        window: &mut Window<'m, M>,
    ) -> Step {
        let low = cfa.offset(8 * i64::from(self.lowest));
        registers.retain(self.keeps);
        registers.set(arch.sp, cfa.0);
        let saved = self.registers.iter().zip(&self.words).take(usize::from(self.count));
        if let Some(bytes) = window.bytes(low, 8 * usize::from(self.span)) {
            for (register, word) in saved {
                let at = 8 * usize::from(word.wrapping_sub(self.lowest) as u16);
                if let Some(bytes) = bytes.get(at..).and_then(|bytes| bytes.first_chunk()) {
                    registers.set(*register, u64::from_le_bytes(*bytes));
                }
            }
        } else {
            for (register, word) in saved {
                let at = cfa.offset(8 * i64::from(*word));
                match window.memory.read_u64(at) {
                    Ok(value) => registers.set(*register, value),
                    Err(_) if *register == arch.pc => return Step::Unreadable(at),
                    Err(_) => registers.forget(*register),
                }
            }
        }
        Step::Up
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
    copied: [u8; 8 * Window::<'static, ()>::WORDS],
}

impl Window<'static, ()> {
    /// How many words are copied in one go from memory that holds nothing ready.
    const WORDS: usize = 32;
}

impl<'m, M: Memory + ?Sized> Window<'m, M> {
    pub(super) fn new(memory: &'m M) -> Window<'m, M> {
        Window { memory, start: Addr(0), held: &[], copied: [0; _] }
    }

    /// The `length` bytes at `at`, if they can be had in one piece.
    #[inline]
    fn bytes(&mut self, at: Addr, length: usize) -> Option<&[u8]> {
        let offset = at.0.wrapping_sub(self.start.0) as usize;
        if offset.checked_add(length).is_some_and(|end| end <= self.held.len()) {
            return self.held.get(offset..offset + length);
        }
        self.bytes_elsewhere(at, length)
    }

    #[cold]
    fn bytes_elsewhere(&mut self, at: Addr, length: usize) -> Option<&[u8]> {
        let held = self.memory.held(at);
        if length <= held.len() {
            (self.start, self.held) = (at, held);
            return self.held.get(..length);
        }
        let copied = self.copied.get_mut(..length)?;
        self.memory.read(at, copied).ok()?;
        Some(copied)
    }
}

/// A row that does not fit a [`Row`].
#[derive(Clone, Debug)]
pub(super) struct FullRow<'d> {
    cfa: Cfa<'d>,
    /// What the callee does not say anything about and the ABI makes it keep.
    keeps: u64,
    rules: Vec<(Register, Rule<'d>)>,
    /// The rule for the return address, with the column that holds it.
    return_address: (Register, Rule<'d>),
    bias: u64,
}

#[derive(Clone, Copy, Debug)]
enum Cfa<'d> {
    Register(Register, i64),
    Expression(&'d [u8]),
}

/// How the caller's value of a register is found (DWARF 5, section 6.4.1).
#[derive(Clone, Copy, Debug)]
enum Rule<'d> {
    Undefined,
    /// The register itself.
    Same,
    /// `*(CFA + offset)`
    At(i64),
    /// `CFA + offset`
    Value(i64),
    /// Another register.
    Register(Register),
    /// `*expression`
    AtExpression(&'d [u8]),
    /// The expression itself.
    ValueExpression(&'d [u8]),
}

impl FullRow<'_> {
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
        let (column, rule) = self.return_address;
        match rule.value(column, cfa, around) {
            Ok(Some(value)) => caller.set(arch.pc, value),
            Ok(None) if matches!(rule, Rule::Undefined) => return Step::Root,
            Ok(None) => return Step::Stuck,
            Err(unreadable) => return Step::Unreadable(unreadable.at),
        }
        *registers = caller;
        Step::Up
    }
}

impl Rule<'_> {
    /// The caller's value of `register`; `None` where it has none that can be known.
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

/// How a gimli row keeps its rules: enough for every general and vector register, and states remembered deeper than any
/// compiler nests them. What needs more is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage;

impl gimli::UnwindContextStorage<usize> for Storage {
    type Rules = [(gimli::Register, RegisterRule<usize>); 96];
    type Stack = Box<[gimli::UnwindTableRow<usize, Storage>; 16]>;
}

/// Compiles rows of one kind of CPU; reuses its working memory.
pub(super) struct Compiler {
    arch: &'static Arch,
    context: gimli::UnwindContext<usize, Storage>,
}

/// A compiled row: in one cache line, or not.
pub(super) enum Compiled<'d> {
    Row(Row),
    Full(FullRow<'d>),
}

impl Compiler {
    pub(super) fn new(arch: &'static Arch) -> Compiler {
        Compiler { arch, context: gimli::UnwindContext::new_in() }
    }

    /// The row of `entry` for `address` (both as the file names them); `None` where the entry makes no sense.
    pub(super) fn compile<'d>(
        &mut self,
        entries: &Entries<'d>,
        entry: &(Fde<'d>, Source),
        address: u64,
        bias: u64,
    ) -> Option<Compiled<'d>> {
        let arch = self.arch;
        let source = entry.1;
        let column = register(entry.0.cie().return_address_register())?;
        let row = entries.row(entry, &mut self.context, address)?;
        let full = full_row(arch, entries, source, column, row, bias)?;
        Some(match full.shorten(arch) {
            Some(row) => Compiled::Row(row),
            None => Compiled::Full(full),
        })
    }
}

fn full_row<'d>(
    arch: &Arch,
    entries: &Entries<'d>,
    source: Source,
    column: Register,
    row: &gimli::UnwindTableRow<usize, Storage>,
    bias: u64,
) -> Option<FullRow<'d>> {
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register: base, offset } => Cfa::Register(register(*base)?, *offset),
        CfaRule::Expression(expression) => Cfa::Expression(entries.expression(source, expression)?),
    };
    let mut rules = Vec::new();
    // A leaf function that leaves the return address in the link register has no rule for it.
    let mut return_address = (arch.link == Some(column)).then_some(Rule::Same);
    for (number, rule) in row.registers() {
        // Vector registers and the like are not kept.
        let Some(number) = register(*number).filter(|number| usize::from(number.0) < Registers::LIMIT) else {
            continue;
        };
        let rule = match rule {
            RegisterRule::Undefined => Rule::Undefined,
            RegisterRule::SameValue => Rule::Same,
            RegisterRule::Offset(offset) => Rule::At(*offset),
            RegisterRule::ValOffset(offset) => Rule::Value(*offset),
            RegisterRule::Register(other) => register(*other).map_or(Rule::Undefined, Rule::Register),
            RegisterRule::Expression(expression) => Rule::AtExpression(entries.expression(source, expression)?),
            RegisterRule::ValExpression(expression) => Rule::ValueExpression(entries.expression(source, expression)?),
            // The state of a pointer's signature: signatures are removed wherever they stand.
            _ => continue,
        };
        if number == column {
            return_address = Some(rule);
        } else {
            rules.push((number, rule));
        }
    }
    Some(FullRow { cfa, keeps: arch.callee_saved, rules, return_address: (column, return_address?), bias })
}

fn register(register: gimli::Register) -> Option<Register> {
    u8::try_from(register.0).ok().map(Register)
}

impl FullRow<'_> {
    /// The same as a [`Row`], if it fits one.
    fn shorten(&self, arch: &Arch) -> Option<Row> {
        let Cfa::Register(base, offset) = self.cfa else { return None };
        let mut row = Row { base, offset: offset.try_into().ok()?, keeps: self.keeps, ..Row::EMPTY };
        match self.return_address.1 {
            Rule::Undefined => return Some(Row { kind: Kind::Root, ..row }),
            Rule::At(offset) => row.push(arch.pc, offset)?,
            _ => return None,
        }
        row.kind = Kind::Saved;
        for (register, rule) in &self.rules {
            match *rule {
                Rule::At(offset) if *register != arch.sp => row.push(*register, offset)?,
                Rule::Undefined => row.keeps &= !(1 << register.0),
                Rule::Same => row.keeps |= 1 << register.0,
                _ => return None,
            }
        }
        let words = row.words.get(..usize::from(row.count))?;
        row.lowest = *words.iter().min()?;
        row.span = (i32::from(*words.iter().max()?) - i32::from(row.lowest) + 1).try_into().ok()?;
        (usize::from(row.span) <= Window::WORDS).then_some(row)
    }
}

impl Row {
    /// Adds a register that is saved at `offset` bytes from the CFA; `None` where there is no room for it.
    fn push(&mut self, register: Register, offset: i64) -> Option<()> {
        if offset % 8 != 0 {
            return None;
        }
        let at = usize::from(self.count);
        *self.registers.get_mut(at)? = register;
        *self.words.get_mut(at)? = (offset / 8).try_into().ok()?;
        self.count += 1;
        Some(())
    }
}
