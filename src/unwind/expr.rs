//! Evaluates the DWARF expressions that call frame information is allowed to hold.
//!
//! From the bytes, the registers of the frame and the target's memory it computes a number, or `None` if the
//! expression is malformed, needs what is not known, or does not come to an end. DWARF 5, section 6.4.2, says which
//! operations are allowed: no calls, no type conversions, nothing that needs a compilation unit.

use gimli::{EndianSlice, Format, LittleEndian, Operation, Reader};

use super::sections::Slice;
use crate::addr::Addr;
use crate::memory::Memory;
use crate::registers::{Register, Registers};

/// How many operations an evaluation may take: those that occur have at most a few dozen, and none has a loop.
const MOST_STEPS: usize = 1000;
/// How many values the stack may hold.
const DEEPEST: usize = 64;

/// What an expression is evaluated against.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) registers: &'a Registers,
    pub(super) memory: &'a dyn Memory,
    /// What the loader added to the file's addresses.
    pub(super) bias: u64,
}

/// The value that `expression` leaves on top of its stack, which starts with `first` if there is one: the rules for
/// a register start with the CFA, the rule for the CFA with nothing.
pub(super) fn evaluate(expression: &[u8], first: Option<Addr>, around: Surroundings<'_>) -> Option<u64> {
    let mut stack = Stack::default();
    if let Some(first) = first {
        stack.push(first.0)?;
    }
    let whole = EndianSlice::new(expression, LittleEndian);
    let mut rest = whole;
    for _ in 0..MOST_STEPS {
        if rest.is_empty() {
            return stack.pop();
        }
        let at_head = rest.len() == whole.len();
        match Operation::parse(&mut rest, ENCODING).ok()? {
            Operation::Skip { target } => rest = jump(whole, rest, target)?,
            Operation::Bra { target } => {
                if stack.pop()? != 0 {
                    rest = jump(whole, rest, target)?;
                }
            }
            // The standard does not allow it, and libgcc reads it as the register's value: the trampolines of
            // wasmtime's fibers and others begin like this.
            Operation::Register { register } if at_head => stack.push(register_value(around.registers, register)?)?,
            operation => step(operation, &mut stack, around)?,
        }
    }
    None
}

const ENCODING: gimli::Encoding = gimli::Encoding { address_size: 8, format: Format::Dwarf32, version: 5 };

/// Carries out an operation that is not a jump.
fn step(operation: Operation<Slice<'_>>, stack: &mut Stack, around: Surroundings<'_>) -> Option<()> {
    let value = match operation {
        Operation::Nop => return Some(()),
        Operation::Drop => return stack.pop().map(drop),
        Operation::Swap => return stack.swap(),
        Operation::Rot => return stack.rotate(),
        Operation::Pick { index } => stack.peek(usize::from(index))?,
        Operation::UnsignedConstant { value } => value,
        Operation::SignedConstant { value } => value as u64,
        Operation::Address { address } => address.wrapping_add(around.bias),
        Operation::RegisterOffset { register, offset, .. } => {
            register_value(around.registers, register)?.wrapping_add_signed(offset)
        }
        Operation::Deref { size, space: false, base_type } if base_type.0 == 0 => {
            dereference(around.memory, Addr(stack.pop()?), size)?
        }
        Operation::PlusConstant { value } => stack.pop()?.wrapping_add(value),
        Operation::Not => !stack.pop()?,
        Operation::Neg => stack.pop()?.wrapping_neg(),
        Operation::Abs => (stack.pop()? as i64).unsigned_abs(),
        operation => {
            let (right, left) = (stack.pop()?, stack.pop()?);
            combine(operation, left, right)?
        }
    };
    stack.push(value)
}

/// Carries out an operation on the two topmost values. Comparison and division are signed (DWARF 5, section 2.5.1.4).
fn combine(operation: Operation<Slice<'_>>, left: u64, right: u64) -> Option<u64> {
    let (signed_left, signed_right) = (left as i64, right as i64);
    let shift = u32::try_from(right).ok();
    Some(match operation {
        Operation::And => left & right,
        Operation::Or => left | right,
        Operation::Xor => left ^ right,
        Operation::Plus => left.wrapping_add(right),
        Operation::Minus => left.wrapping_sub(right),
        Operation::Mul => left.wrapping_mul(right),
        Operation::Div if right != 0 => signed_left.wrapping_div(signed_right) as u64,
        Operation::Mod if right != 0 => left % right,
        Operation::Shl => shift.and_then(|shift| left.checked_shl(shift)).unwrap_or(0),
        Operation::Shr => shift.and_then(|shift| left.checked_shr(shift)).unwrap_or(0),
        Operation::Shra => (signed_left >> shift.unwrap_or(63).min(63)) as u64,
        Operation::Eq => u64::from(left == right),
        Operation::Ne => u64::from(left != right),
        Operation::Ge => u64::from(signed_left >= signed_right),
        Operation::Gt => u64::from(signed_left > signed_right),
        Operation::Le => u64::from(signed_left <= signed_right),
        Operation::Lt => u64::from(signed_left < signed_right),
        _ => return None,
    })
}

/// Where a jump of `distance` bytes from the start of `rest` leads, within `whole`.
fn jump<'d>(whole: Slice<'d>, rest: Slice<'d>, distance: i16) -> Option<Slice<'d>> {
    let from = whole.len() - rest.len();
    let to = from.checked_add_signed(isize::from(distance))?;
    (to <= whole.len()).then(|| whole.range_from(to..))
}

fn register_value(registers: &Registers, register: gimli::Register) -> Option<u64> {
    registers.get(Register(u8::try_from(register.0).ok()?))
}

fn dereference(memory: &dyn Memory, at: Addr, size: u8) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(at, bytes.get_mut(..usize::from(size)).filter(|bytes| !bytes.is_empty())?).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// The stack of an evaluation: it refuses to grow past its end and to be read below its start.
struct Stack {
    values: [u64; DEEPEST],
    length: usize,
}

impl Default for Stack {
    fn default() -> Stack {
        Stack { values: [0; DEEPEST], length: 0 }
    }
}

impl Stack {
    fn push(&mut self, value: u64) -> Option<()> {
        *self.values.get_mut(self.length)? = value;
        self.length += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<u64> {
        let value = self.peek(0)?;
        self.length -= 1;
        Some(value)
    }

    /// The value that lies `below` the top.
    fn peek(&self, below: usize) -> Option<u64> {
        self.values.get(self.length.checked_sub(below)?.checked_sub(1)?).copied()
    }

    fn swap(&mut self) -> Option<()> {
        let (top, second) = (self.pop()?, self.pop()?);
        self.push(top)?;
        self.push(second)
    }

    /// The topmost value becomes the third, the two below it move up.
    fn rotate(&mut self) -> Option<()> {
        let (top, second, third) = (self.pop()?, self.pop()?, self.pop()?);
        self.push(top)?;
        self.push(third)?;
        self.push(second)
    }
}

#[cfg(test)]
mod tests {
    use gimli::constants::*;

    use super::*;
    use crate::memory::Copied;

    /// Evaluates `expression` when register 7 is 0x1000, register 3 is unknown, and memory at 0x1000 holds 1, 2, 3, ….
    fn value_of(expression: &[u8]) -> Option<u64> {
        let mut registers = Registers::unknown();
        registers.set(Register(7), 0x1000);
        let mut memory = Copied::default();
        memory.insert(Addr(0x1000), (1..=16).collect());
        evaluate(expression, None, Surroundings { registers: &registers, memory: &memory, bias: 0x40_0000 })
    }

    #[test]
    fn computes() {
        let lit = |number: u8| DW_OP_lit0.0 + number;
        let cases: &[(&[u8], Option<u64>)] = &[
            (&[lit(7), lit(5), DW_OP_minus.0], Some(2)),
            (&[lit(5), lit(7), DW_OP_minus.0], Some(-2i64 as u64)),
            (&[lit(5), DW_OP_neg.0, lit(2), DW_OP_div.0], Some(-2i64 as u64)),
            (&[lit(5), DW_OP_neg.0, DW_OP_abs.0], Some(5)),
            (&[lit(5), lit(0), DW_OP_div.0], None),
            (&[lit(5), lit(0), DW_OP_mod.0], None),
            (&[lit(1), DW_OP_const1u.0, 64, DW_OP_shl.0], Some(0)),
            (&[lit(1), DW_OP_neg.0, DW_OP_const1u.0, 200, DW_OP_shra.0], Some(u64::MAX)),
            (&[lit(1), DW_OP_neg.0, lit(1), DW_OP_lt.0], Some(1)),
            (&[lit(1), lit(2), DW_OP_swap.0, DW_OP_minus.0], Some(1)),
            // 1 2 3 -> rot -> 3 1 2; 1 - 2 = -1; 3 + -1 = 2
            (&[lit(1), lit(2), lit(3), DW_OP_rot.0, DW_OP_minus.0, DW_OP_plus.0], Some(2)),
            (&[lit(9), lit(2), DW_OP_over.0, DW_OP_plus.0], Some(11)),
            (&[lit(9), lit(2), DW_OP_pick.0, 1], Some(9)),
            (&[lit(9), DW_OP_pick.0, 1], None),
            (&[DW_OP_addr.0, 1, 0, 0, 0, 0, 0, 0, 0], Some(0x40_0001)),
            (&[DW_OP_drop.0], None),
            (&[], None),
        ];
        for (expression, value) in cases {
            assert_eq!(value_of(expression), *value, "{expression:x?}");
        }
    }

    #[test]
    fn reads_registers_and_memory() {
        assert_eq!(value_of(&[DW_OP_breg7.0, 8, DW_OP_deref.0]), Some(0x100f_0e0d_0c0b_0a09));
        assert_eq!(value_of(&[DW_OP_breg7.0, 8, DW_OP_deref_size.0, 2]), Some(0x0a09));
        assert_eq!(value_of(&[DW_OP_breg7.0, 8, DW_OP_deref_size.0, 9]), None);
        assert_eq!(value_of(&[DW_OP_breg7.0, 9, DW_OP_deref.0]), None, "reads past the end of memory");
        assert_eq!(value_of(&[DW_OP_breg3.0, 0]), None, "an unknown register has no value");
    }

    #[test]
    fn a_register_location_at_the_head_is_its_value() {
        assert_eq!(value_of(&[DW_OP_reg7.0, DW_OP_plus_uconst.0, 16]), Some(0x1010));
        assert_eq!(value_of(&[DW_OP_lit1.0, DW_OP_reg7.0]), None);
    }

    #[test]
    fn jumps_stay_inside_and_loops_end() {
        // lit1; bra over lit5 to lit6
        assert_eq!(value_of(&[DW_OP_lit1.0, DW_OP_bra.0, 1, 0, DW_OP_lit5.0, DW_OP_lit6.0]), Some(6));
        assert_eq!(value_of(&[DW_OP_lit0.0, DW_OP_bra.0, 1, 0, DW_OP_lit5.0]), Some(5));
        assert_eq!(value_of(&[DW_OP_skip.0, 0xfd, 0xff]), None, "an endless loop");
        assert_eq!(value_of(&[DW_OP_lit0.0, DW_OP_skip.0, 0xfc, 0xff]), None, "a loop that pushes");
        assert_eq!(value_of(&[DW_OP_skip.0, 1, 0]), None, "a jump past the end");
        assert_eq!(value_of(&[DW_OP_skip.0, 0xf0, 0xff]), None, "a jump before the start");
    }
}
