//! Runs the instructions of call frame information up to one address (DWARF 5, section 6.4.2).
//!
//! The result is a [`RuleSet`]: the rule for the CFA and for each register, as they hold at that address.

use gimli::{CallFrameInstruction, CallFrameInstructionIter, UnwindExpression};

use super::sections::{Sections, Slice, Source};
use crate::registers::{Register, Registers};

/// How many states may be remembered at a time. Compilers nest one or two.
const DEEPEST: usize = 32;

/// How the CFA is found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cfa<'d> {
    /// `register + offset`
    Register(Register, i64),
    /// The value of an expression.
    Expression(&'d [u8]),
}

/// How the caller's value of a register is found (DWARF 5, section 6.4.1).
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule<'d> {
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

/// The rules that hold at one address.
#[derive(Clone, Debug)]
pub(super) struct RuleSet<'d> {
    pub(super) cfa: Cfa<'d>,
    /// The registers that have a rule, a bit for each.
    pub(super) defined: u64,
    /// By register number; those of registers without a rule are left over from before.
    rules: [Rule<'d>; Registers::LIMIT],
}

impl<'d> RuleSet<'d> {
    /// No rule for any register.
    pub(super) const NONE: RuleSet<'static> =
        RuleSet { cfa: Cfa::Register(Register(0), 0), defined: 0, rules: [Rule::Undefined; Registers::LIMIT] };

    /// The rule for `register`, if it has one.
    pub(super) fn rule(&self, register: Register) -> Option<Rule<'d>> {
        let rule = *self.rules.get(usize::from(register.0))?;
        (self.defined >> register.0 & 1 == 1).then_some(rule)
    }

    /// The registers that have a rule, with their rules.
    pub(super) fn rules(&self) -> impl Iterator<Item = (Register, Rule<'d>)> {
        let mut left = self.defined;
        std::iter::from_fn(move || {
            let number = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            Some((Register(number as u8), *self.rules.get(number as usize)?))
        })
    }

    /// Makes this equal to `other`, of which only the rules that there are need to be copied.
    pub(super) fn become_equal(&mut self, other: &RuleSet<'d>) {
        self.cfa = other.cfa;
        self.defined = other.defined;
        for (register, rule) in other.rules() {
            self.rules[usize::from(register.0)] = rule;
        }
    }

    /// Vector registers and the like are not kept.
    fn set(&mut self, register: gimli::Register, rule: Rule<'d>) {
        if let Some(slot) = self.rules.get_mut(usize::from(register.0)) {
            *slot = rule;
            self.defined |= 1 << register.0;
        }
    }

    /// Gives `register` the rule that it has in `initial`.
    fn restore(&mut self, register: gimli::Register, initial: &RuleSet<'d>) {
        let rule = number(register).and_then(|register| initial.rule(register));
        match rule {
            Some(rule) => self.set(register, rule),
            None if usize::from(register.0) < Registers::LIMIT => self.defined &= !(1 << register.0),
            None => {}
        }
    }

    fn set_cfa_register(&mut self, register: gimli::Register) -> Option<()> {
        let Cfa::Register(base, _) = &mut self.cfa else { return None };
        *base = number(register)?;
        Some(())
    }

    fn set_cfa_offset(&mut self, to: i64) -> Option<()> {
        let Cfa::Register(_, offset) = &mut self.cfa else { return None };
        *offset = to;
        Some(())
    }
}

/// A register's number, if it is one that may be known here.
pub(super) fn number(register: gimli::Register) -> Option<Register> {
    u8::try_from(register.0).ok().map(Register)
}

/// What the instructions of an entry go by.
#[derive(Clone, Copy)]
pub(super) struct Terms<'t, 'd> {
    pub(super) sections: &'t Sections<'d>,
    pub(super) source: Source,
    /// The first address that the entry covers.
    pub(super) start: u64,
    pub(super) code_alignment: u64,
    pub(super) data_alignment: i64,
}

impl<'d> Terms<'_, 'd> {
    /// The bytes of an expression that the entry holds.
    fn expression(&self, expression: &UnwindExpression<usize>) -> Option<&'d [u8]> {
        let expression = match self.source {
            Source::EhFrame => expression.get(&self.sections.eh_frame),
            Source::DebugFrame => expression.get(&self.sections.debug_frame),
        };
        expression.ok().map(|expression| expression.0.slice())
    }
}

/// What runs instructions: working memory that is used again and again.
#[derive(Default)]
pub(super) struct Machine<'d> {
    remembered: Vec<RuleSet<'d>>,
}

impl<'d> Machine<'d> {
    /// Runs the instructions of an entry, or those of its CIE, on `state` up to `address`; `None` where they are
    /// malformed. `initial` is what the CIE's led to.
    pub(super) fn run(
        &mut self,
        terms: &Terms<'_, 'd>,
        mut instructions: CallFrameInstructionIter<'_, Slice<'d>>,
        state: &mut RuleSet<'d>,
        initial: Option<&RuleSet<'d>>,
        address: u64,
    ) -> Option<()> {
        self.remembered.clear();
        let mut location = terms.start;
        while let Some(instruction) = instructions.next().ok()? {
            match instruction {
                CallFrameInstruction::AdvanceLoc { delta } => {
                    let distance = u64::from(delta).wrapping_mul(terms.code_alignment);
                    location = location.checked_add(distance)?;
                }
                CallFrameInstruction::SetLoc { address } => {
                    location = Some(address).filter(|address| *address >= location)?;
                }
                CallFrameInstruction::RememberState if self.remembered.len() < DEEPEST => {
                    self.remembered.push(state.clone());
                }
                CallFrameInstruction::RestoreState => *state = self.remembered.pop()?,
                CallFrameInstruction::Restore { register } => state.restore(register, initial?),
                instruction => execute(terms, &instruction, state)?,
            }
            if location > address {
                break;
            }
        }
        Some(())
    }
}

/// Carries out an instruction that sets one rule.
fn execute<'d>(
    terms: &Terms<'_, 'd>,
    instruction: &CallFrameInstruction<usize>,
    state: &mut RuleSet<'d>,
) -> Option<()> {
    use CallFrameInstruction as I;
    let scale = |offset: i64| offset.wrapping_mul(terms.data_alignment);
    let bytes = |expression: &UnwindExpression<usize>| terms.expression(expression);
    match instruction {
        I::DefCfa { register, offset } => state.cfa = Cfa::Register(number(*register)?, *offset as i64),
        I::DefCfaSf { register, factored_offset } => {
            state.cfa = Cfa::Register(number(*register)?, scale(*factored_offset));
        }
        I::DefCfaRegister { register } => state.set_cfa_register(*register)?,
        I::DefCfaOffset { offset } => state.set_cfa_offset(*offset as i64)?,
        I::DefCfaOffsetSf { factored_offset } => state.set_cfa_offset(scale(*factored_offset))?,
        I::DefCfaExpression { expression } => state.cfa = Cfa::Expression(bytes(expression)?),
        I::Undefined { register } => state.set(*register, Rule::Undefined),
        I::SameValue { register } => state.set(*register, Rule::Same),
        I::Offset { register, factored_offset } => state.set(*register, Rule::At(scale(*factored_offset as i64))),
        I::OffsetExtendedSf { register, factored_offset } => state.set(*register, Rule::At(scale(*factored_offset))),
        I::ValOffset { register, factored_offset } => state.set(*register, Rule::Value(scale(*factored_offset as i64))),
        I::ValOffsetSf { register, factored_offset } => state.set(*register, Rule::Value(scale(*factored_offset))),
        I::Register { dest_register, src_register } => {
            state.set(*dest_register, number(*src_register).map_or(Rule::Undefined, Rule::Register));
        }
        I::Expression { register, expression } => state.set(*register, Rule::AtExpression(bytes(expression)?)),
        I::ValExpression { register, expression } => state.set(*register, Rule::ValueExpression(bytes(expression)?)),
        // Arguments on the stack matter only to a thrown exception. A signature is removed wherever there is one.
        I::ArgsSize { .. } | I::NegateRaState | I::Nop => {}
        _ => return None,
    }
    Some(())
}
