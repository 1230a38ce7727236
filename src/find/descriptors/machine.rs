//! Runs x86-64 code on symbols instead of numbers, to learn what a routine does with the stack pointer.
//!
//! You give a place to start; each step tells where control goes, and the [`Machine`] knows what every register and every
//! word of memory that was written holds, in terms of what the registers held at the start.
//! It knows the instructions that stack switching is made of and forgets what any other instruction writes.
//! It assumes that two places it cannot compare are different places, as hand-written switch code does.

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind,
    Register as R,
};

/// A general register by its number in an instruction's encoding: 0 is `rax`, 4 `rsp`, 5 `rbp`, 15 `r15`.
pub(super) type Gpr = u8;
pub(super) const RSP: Gpr = 4;
pub(super) const RBP: Gpr = 5;
/// `rbx`, `rbp`, `r12` to `r15`: what a called function must give back (System V ABI, AMD64 supplement, section 3.2.1).
pub(super) const CALLEE_SAVED: [Gpr; 6] = [3, RBP, 12, 13, 14, 15];

/// The DWARF number of each general register (System V ABI, AMD64 supplement, figure 3.36).
pub(super) const DWARF: [u8; 16] = [0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// What a value counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    /// What this register held at the start.
    Start(Gpr),
    /// The word that was loaded from [`Machine::loads`] at this index.
    Loaded(u16),
    /// What the call with this number returned.
    Result(u16),
    /// The thread pointer, which `fs` stands for.
    Thread,
    /// Nothing: the offset is the value.
    Zero,
}

/// A place, or a number: a base and an offset in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub(super) base: Base,
    pub(super) offset: i64,
}

/// How a C library makes a pointer unreadable before it stores it, and readable again (glibc's `PTR_MANGLE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Twist {
    #[default]
    None,
    /// Exclusive-or with the word at `fs:offset`.
    Xor(u32),
    /// That, then turned left by so many bits: mangled.
    XorRotated(u32, u8),
    /// Turned right by so many bits.
    Rotated(u8),
    /// That, then exclusive-or with the word at `fs:offset`: readable again.
    RotatedXor(u8, u32),
    /// Less what the stack pointer held at the start: a distance between stacks.
    LessStack,
}

/// What is known of a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Unknown,
    Known(Sum, Twist),
}

impl Value {
    pub(super) fn start(register: Gpr, offset: i64) -> Value {
        Value::plain(Base::Start(register), offset)
    }

    fn plain(base: Base, offset: i64) -> Value {
        Value::Known(Sum { base, offset }, Twist::None)
    }

    /// Base and offset of a value that is not twisted.
    pub(super) fn sum(self) -> Option<Sum> {
        match self {
            Value::Known(sum, Twist::None) => Some(sum),
            _ => None,
        }
    }

    fn add(self, by: i64) -> Value {
        self.sum().map_or(Value::Unknown, |sum| Value::plain(sum.base, sum.offset.wrapping_add(by)))
    }

    /// The sum of two values: of a number and a place, or of the stack pointer and a distance from it.
    fn plus(self, other: Value) -> Value {
        let own = Base::Start(RSP);
        match (self, other) {
            (Value::Known(left, Twist::None), Value::Known(right, Twist::None)) => match (left.base, right.base) {
                (_, Base::Zero) => self.add(right.offset),
                (Base::Zero, _) => other.add(left.offset),
                _ => Value::Unknown,
            },
            (Value::Known(place, Twist::None), Value::Known(far, Twist::LessStack))
            | (Value::Known(far, Twist::LessStack), Value::Known(place, Twist::None))
                if place.base == own =>
            {
                Value::plain(far.base, far.offset.wrapping_add(place.offset))
            }
            _ => Value::Unknown,
        }
    }

    /// The difference of two values: less a number, or a distance from the stack pointer.
    fn minus(self, other: Value) -> Value {
        let (Some(left), Some(right)) = (self.sum(), other.sum()) else { return Value::Unknown };
        let difference = Sum { base: left.base, offset: left.offset.wrapping_sub(right.offset) };
        match right.base {
            Base::Zero => Value::Known(difference, Twist::None),
            base if base == left.base => Value::plain(Base::Zero, difference.offset),
            Base::Start(RSP) => Value::Known(difference, Twist::LessStack),
            _ => Value::Unknown,
        }
    }

    fn twist(self, by: impl Fn(Twist) -> Option<Twist>) -> Value {
        match self {
            Value::Known(sum, twist) => by(twist).map_or(Value::Unknown, |twist| Value::Known(sum, twist)),
            Value::Unknown => Value::Unknown,
        }
    }
}

/// Where control goes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// To the next instruction; after a call too.
    Next,
    /// There, always.
    Jump(u64),
    /// There, or to the next instruction.
    Branch(u64),
    /// To a function, which returns here; the address where the instruction names it.
    Call(Option<u64>),
    /// To an address that a register or memory held: a jump through it, or a return.
    Leave(Value),
    /// Somewhere that is not worth following.
    Stop,
}

/// More stores than this are not kept: switch code has about ten.
const MOST_WORDS: usize = 64;

/// What a call is handed in registers, in their order (System V ABI, AMD64 supplement, section 3.2.3).
const ARGUMENTS: [Gpr; 6] = [7, 6, 2, 1, 8, 9];

/// The register that a result is returned in: `rax`.
const RESULT: Gpr = 0;

/// The state of the symbolic CPU.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    registers: [Value; 16],
    /// Words that were written, latest value each.
    pub(super) written: Vec<(Sum, Value)>,
    /// Where each loaded word came from.
    pub(super) loads: Vec<Sum>,
    /// Places on its stack that calls were handed.
    pub(super) handed: Vec<i64>,
    /// The bases whose lowest bits were cleared, and which bits.
    pub(super) cleared: Vec<(Base, u8)>,
    /// How many calls were made.
    calls: u16,
}

impl Machine {
    /// Every register holds what it held at the start.
    pub(super) fn new() -> Machine {
        let registers = std::array::from_fn(|register| Value::start(register as Gpr, 0));
        Machine { registers, written: Vec::new(), loads: Vec::new(), handed: Vec::new(), cleared: Vec::new(), calls: 0 }
    }

    pub(super) fn get(&self, register: Gpr) -> Value {
        self.registers[usize::from(register & 15)]
    }

    pub(super) fn set(&mut self, register: Gpr, value: Value) {
        self.registers[usize::from(register & 15)] = value;
    }

    /// The word at `place`: what was written there, or a new unknown that remembers where it came from.
    pub(super) fn load(&mut self, place: Sum) -> Value {
        if let Some((_, value)) = self.written.iter().find(|(written, _)| *written == place) {
            return *value;
        }
        let known = self.loads.iter().position(|load| *load == place);
        let index = known.unwrap_or_else(|| {
            self.loads.push(place);
            self.loads.len() - 1
        });
        if self.loads.len() > MOST_WORDS { Value::Unknown } else { Value::plain(Base::Loaded(index as u16), 0) }
    }

    /// Where a value that is a loaded word, as it was loaded, came from.
    pub(super) fn source(&self, value: Value) -> Option<(Sum, Twist)> {
        match value {
            Value::Known(Sum { base: Base::Loaded(index), offset: 0 }, twist) => {
                self.loads.get(usize::from(index)).map(|place| (*place, twist))
            }
            _ => None,
        }
    }

    fn store(&mut self, place: Sum, value: Value) {
        let full = self.written.len() >= MOST_WORDS;
        match self.written.iter_mut().find(|(written, _)| *written == place) {
            Some((_, old)) => *old = value,
            None if !full => self.written.push((place, value)),
            None => {}
        }
    }

    fn push(&mut self, value: Value) {
        let top = self.get(RSP).add(-8);
        self.set(RSP, top);
        if let Some(place) = top.sum() {
            self.store(place, value);
        }
    }

    fn pop(&mut self) -> Value {
        let top = self.get(RSP);
        let value = top.sum().map_or(Value::Unknown, |place| self.load(place));
        self.set(RSP, top.add(8));
        value
    }

    /// Carries out one instruction.
    pub(super) fn step(&mut self, instruction: &Instruction, information: &mut InstructionInfoFactory) -> Flow {
        match instruction.flow_control() {
            FlowControl::Next => {
                self.compute(instruction, information);
                Flow::Next
            }
            FlowControl::UnconditionalBranch => Flow::Jump(instruction.near_branch_target()),
            FlowControl::ConditionalBranch => Flow::Branch(instruction.near_branch_target()),
            FlowControl::IndirectBranch => Flow::Leave(self.operand(instruction, 0)),
            FlowControl::Return => Flow::Leave(self.pop()),
            FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                self.call();
                Flow::Call(Some(instruction.near_branch_target()))
            }
            FlowControl::IndirectCall => {
                self.call();
                Flow::Call(None)
            }
            // A system call: rax, rcx and r11 are lost (syscall(2)).
            FlowControl::Call if instruction.mnemonic() == Mnemonic::Syscall => {
                [0, 1, 11].into_iter().for_each(|register| self.set(register, Value::Unknown));
                Flow::Next
            }
            _ => Flow::Stop,
        }
    }

    fn call(&mut self) {
        let on_stack = |value: Value| value.sum().filter(|sum| sum.base == Base::Start(RSP)).map(|sum| sum.offset);
        let handed = ARGUMENTS.into_iter().filter_map(|register| on_stack(self.get(register)));
        let room = MOST_WORDS.saturating_sub(self.handed.len());
        let handed: Vec<i64> = handed.take(room).collect();
        self.handed.extend(handed);
        self.forget_called();
        self.set(RESULT, Value::plain(Base::Result(self.calls), 0));
        self.calls = self.calls.saturating_add(1);
    }

    fn forget_called(&mut self) {
        for register in (0..16).filter(|register| *register != RSP && !CALLEE_SAVED.contains(register)) {
            self.set(register, Value::Unknown);
        }
    }

    fn compute(&mut self, instruction: &Instruction, information: &mut InstructionInfoFactory) {
        if self.compute_known(instruction).is_none() {
            self.forget_written(instruction, information);
        }
    }

    /// Carries out an instruction of the kinds that switch code is made of; `None` for any other.
    fn compute_known(&mut self, instruction: &Instruction) -> Option<()> {
        match instruction.mnemonic() {
            Mnemonic::Push => {
                let value = self.operand(instruction, 0);
                is_wide(instruction, 0).then(|| self.push(value))
            }
            Mnemonic::Pop if is_wide(instruction, 0) => {
                let value = self.pop();
                self.assign(instruction, 0, value)
            }
            Mnemonic::Mov if is_wide(instruction, 0) => {
                let value = self.operand(instruction, 1);
                self.assign(instruction, 0, value)
            }
            Mnemonic::Lea if is_wide(instruction, 0) => {
                let value = self.address(instruction);
                self.assign(instruction, 0, value)
            }
            Mnemonic::Add | Mnemonic::Sub if is_wide(instruction, 0) => {
                let (left, right) = (self.operand(instruction, 0), self.operand(instruction, 1));
                let is_sum = instruction.mnemonic() == Mnemonic::Add;
                self.assign(instruction, 0, if is_sum { left.plus(right) } else { left.minus(right) })
            }
            Mnemonic::And | Mnemonic::Or if is_wide(instruction, 0) => {
                let bits = immediate(instruction, 1)?;
                let value = self.operand(instruction, 0);
                let value = match instruction.mnemonic() {
                    Mnemonic::Or => tagged(value, bits)?,
                    _ => self.untagged(value, bits)?,
                };
                self.assign(instruction, 0, value)
            }
            Mnemonic::Xchg if is_wide(instruction, 0) => {
                let (left, right) = (self.operand(instruction, 0), self.operand(instruction, 1));
                self.assign(instruction, 0, right)?;
                self.assign(instruction, 1, left)
            }
            Mnemonic::Leave => {
                self.set(RSP, self.get(RBP));
                let value = self.pop();
                self.set(RBP, value);
                Some(())
            }
            Mnemonic::Xor if is_wide(instruction, 0) && instruction.op1_kind() == OpKind::Memory => {
                let guard = thread_word(instruction)?;
                let value = self.operand(instruction, 0).twist(|twist| match twist {
                    Twist::None => Some(Twist::Xor(guard)),
                    Twist::Rotated(by) => Some(Twist::RotatedXor(by, guard)),
                    _ => None,
                });
                self.assign(instruction, 0, value)
            }
            Mnemonic::Rol | Mnemonic::Ror if is_wide(instruction, 0) => {
                let by = immediate(instruction, 1)? as u8 & 63;
                let left = instruction.mnemonic() == Mnemonic::Rol;
                let value = self.operand(instruction, 0).twist(|twist| match twist {
                    Twist::Xor(guard) if left => Some(Twist::XorRotated(guard, by)),
                    Twist::None if !left => Some(Twist::Rotated(by)),
                    _ => None,
                });
                self.assign(instruction, 0, value)
            }
            _ => None,
        }
    }

    /// What operand number `index` holds before the instruction.
    fn operand(&mut self, instruction: &Instruction, index: u32) -> Value {
        match instruction.op_kind(index) {
            OpKind::Register => wide_register(instruction.op_register(index)).map_or(Value::Unknown, |r| self.get(r)),
            OpKind::Memory if is_wide(instruction, index) => {
                self.place(instruction).map_or(Value::Unknown, |place| self.load(place))
            }
            OpKind::Memory => Value::Unknown,
            _ => immediate(instruction, index).map_or(Value::Unknown, |value| Value::plain(Base::Zero, value)),
        }
    }

    /// Writes `value` to operand number `index`.
    fn assign(&mut self, instruction: &Instruction, index: u32, value: Value) -> Option<()> {
        match instruction.op_kind(index) {
            OpKind::Register => self.set(wide_register(instruction.op_register(index))?, value),
            OpKind::Memory => {
                if let Some(place) = self.place(instruction) {
                    self.store(place, value);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The value without those of its lowest bits that are not in `mask`, as code does that keeps something in them.
    fn untagged(&mut self, value: Value, mask: i64) -> Option<Value> {
        let sum = value.sum().filter(|_| (-(WORD as i64)..0).contains(&mask))?;
        if sum.base == Base::Start(RSP) {
            return Some(Value::plain(sum.base, sum.offset & mask));
        }
        if self.cleared.len() < MOST_WORDS {
            self.cleared.push((sum.base, !mask as u8));
        }
        Some(value)
    }

    /// What `lea` computes: a place, or the sum of two registers.
    fn address(&self, instruction: &Instruction) -> Value {
        if instruction.memory_index() == R::None {
            return self.place(instruction).map_or(Value::Unknown, |place| Value::plain(place.base, place.offset));
        }
        let registers = [instruction.memory_base(), instruction.memory_index()].map(wide_register);
        match registers {
            [Some(base), Some(index)] if instruction.memory_index_scale() == 1 => {
                self.get(base).plus(self.get(index)).add(instruction.memory_displacement64() as i64)
            }
            _ => Value::Unknown,
        }
    }

    /// The place that the memory operand names, if it is a known base and an offset.
    fn place(&self, instruction: &Instruction) -> Option<Sum> {
        let segment = instruction.segment_prefix();
        if segment == R::GS || instruction.memory_index() != R::None {
            return None;
        }
        if segment == R::FS {
            let is_alone = instruction.memory_base() == R::None;
            return is_alone.then(|| Sum { base: Base::Thread, offset: instruction.memory_displacement64() as i64 });
        }
        if instruction.is_ip_rel_memory_operand() {
            return Some(Sum { base: Base::Zero, offset: instruction.ip_rel_memory_address() as i64 });
        }
        let offset = instruction.memory_displacement64() as i64;
        match instruction.memory_base() {
            R::None => Some(Sum { base: Base::Zero, offset }),
            base => self.get(wide_register(base)?).add(offset).sum(),
        }
    }

    /// Forgets what an instruction of an unknown kind writes.
    fn forget_written(&mut self, instruction: &Instruction, information: &mut InstructionInfoFactory) {
        let changes = |access: OpAccess| {
            matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        };
        let info = information.info_options(instruction, InstructionInfoOptions::NONE);
        for used in info.used_registers().iter().filter(|used| changes(used.access())) {
            if let Some(register) = wide_register(used.register().full_register()) {
                self.set(register, Value::Unknown);
            }
        }
        if info.used_memory().iter().any(|used| changes(used.access()))
            && let Some(place) = self.place(instruction)
        {
            self.store(place, Value::Unknown);
        }
        if instruction.code() == Code::Xor_r32_rm32
            && instruction.op0_register() == instruction.op1_register()
            && let Some(register) = wide_register(instruction.op0_register().full_register())
        {
            self.set(register, Value::plain(Base::Zero, 0));
        }
    }
}

/// A word's size in bytes: below it, a place on the stack has no bits of its own.
const WORD: u64 = 8;

/// A place on the stack with some of the bits that it has no use for.
fn tagged(value: Value, bits: i64) -> Option<Value> {
    let sum = value.sum().filter(|sum| sum.base == Base::Start(RSP) && (sum.offset as u64).is_multiple_of(WORD))?;
    (0..WORD as i64).contains(&bits).then(|| Value::plain(sum.base, sum.offset | bits))
}

/// The number of a 64-bit general register.
fn wide_register(register: R) -> Option<Gpr> {
    register.is_gpr64().then(|| register.number() as Gpr)
}

/// Whether operand number `index` is a word of 64 bits.
fn is_wide(instruction: &Instruction, index: u32) -> bool {
    match instruction.op_kind(index) {
        OpKind::Register => instruction.op_register(index).is_gpr64(),
        OpKind::Memory => instruction.mnemonic() == Mnemonic::Lea || instruction.memory_size().size() == 8,
        _ => true,
    }
}

fn immediate(instruction: &Instruction, index: u32) -> Option<i64> {
    instruction.try_immediate(index).ok().map(|value| value as i64)
}

/// The offset of a memory operand `fs:offset` without any register.
fn thread_word(instruction: &Instruction) -> Option<u32> {
    let plain = instruction.memory_base() == R::None && instruction.memory_index() == R::None;
    (plain && instruction.segment_prefix() == R::FS).then(|| instruction.memory_displacement64() as u32)
}
