//! A small machine that runs x86-64 code to know one thing: how far the stack pointer is below the CFA.
//!
//! It knows of each register whether it holds a place on the stack, a constant, or something read by a constant address;
//! that is what calls and jumps through registers need. What it does not know is [`Value::Unknown`], never a guess.
//!
//! A *depth* is the distance in bytes from the CFA down to a place on the stack.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

/// What a register is known to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Value {
    /// Anything.
    #[default]
    Unknown,
    /// The place of this depth on the stack.
    Below(i64),
    /// Some place on the stack.
    OnStack,
    /// A number, or an address in the image.
    Constant(u64),
    /// The word at this address.
    Loaded(u64),
    /// One of the words in the table at this address.
    LoadedFrom(u64),
    /// One of the four-byte distances in the table at this address.
    Distance(u64),
    /// One of the places that are told by the distances in the table at this address, counted from it.
    Told(u64),
}

/// Where the stack pointer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sp {
    /// At this depth.
    At(i64),
    /// At this depth or lower: the function took room by a number that is not known.
    AtLeast(i64),
    /// Somewhere on the function's stack; this is the deepest that it is known to have been.
    Guess(i64),
    /// On another stack.
    Elsewhere,
}

impl Sp {
    /// The depth, as far as it is known.
    pub(super) fn depth(self) -> Option<i64> {
        match self {
            Sp::At(depth) | Sp::AtLeast(depth) | Sp::Guess(depth) => Some(depth),
            Sp::Elsewhere => None,
        }
    }

    fn moved(self, by: i64) -> Sp {
        match self {
            Sp::At(depth) => Sp::At(depth.saturating_add(by)),
            Sp::AtLeast(depth) => Sp::AtLeast(depth.saturating_add(by)),
            Sp::Guess(depth) => Sp::Guess(depth.saturating_add(by)),
            Sp::Elsewhere => Sp::Elsewhere,
        }
    }
}

/// Where a call or jump leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum To {
    /// To this address.
    At(u64),
    /// To where the word at this address leads.
    Slot(u64),
    /// To where one of the words in the table at this address leads.
    Table(u64),
    /// To a place that is told by one of the distances in the table at this address.
    Told(u64),
    /// Not known.
    Unknown,
}

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// The next one.
    Next,
    /// A call, then the next one.
    Call(To),
    /// A jump.
    Jump(To),
    /// A jump or the next one.
    Branch(u64),
    /// The end of a loop that moves the stack pointer down page by page: the next one, with the loop over.
    ProbedUp,
    /// The same, where the jump leaves the loop.
    ProbedOut(u64),
    /// Nothing: a return, or an instruction that ends the program.
    End,
}

/// What is known before an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) sp: Sp,
    registers: [Value; 16],
    /// What the instruction before compared.
    compared: Option<Compared>,
    /// How many values an index has that a branch has just checked.
    checked: Option<u64>,
}

/// What was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compared {
    /// The stack pointer with the register of this number.
    Sp(usize),
    /// Something with this number.
    With(u64),
}

/// The numbers of registers as instructions encode them.
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// Registers that a call does not preserve (System V ABI, AMD64 supplement, section 3.2.1).
const VOLATILE: [usize; 9] = [RAX, RCX, RDX, RSI, RDI, 8, 9, 10, 11];

/// A depth beyond this is none: the address space of a program ends there.
const DEEPEST: i64 = 1 << 47;

impl State {
    /// With the stack pointer there, and nothing else known.
    pub(super) fn new(sp: Sp) -> State {
        State { sp, registers: [Value::Unknown; 16], compared: None, checked: None }
    }

    /// Learns that the DWARF register of this number is `offset` bytes below the CFA.
    pub(super) fn learn(&mut self, dwarf: u16, offset: i64) {
        const BY_DWARF: [usize; 16] = [RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, 8, 9, 10, 11, 12, 13, 14, 15];
        if let Some(number) = BY_DWARF.get(usize::from(dwarf)).filter(|number| **number != RSP) {
            self.registers[*number] = Value::Below(offset);
        }
    }

    /// Keeps what this and `other` agree on, and the deeper of their stack pointers; whether that changed anything.
    pub(super) fn join(&mut self, other: &State) -> bool {
        let before = self.clone();
        self.sp = match (self.sp, other.sp) {
            (Sp::At(a), Sp::At(b)) => Sp::At(a.max(b)),
            (Sp::Elsewhere, known) | (known, Sp::Elsewhere) => known,
            (Sp::Guess(a), Sp::Guess(b)) => Sp::Guess(a.max(b)),
            (Sp::Guess(_), known) | (known, Sp::Guess(_)) => known,
            (Sp::At(a) | Sp::AtLeast(a), Sp::At(b) | Sp::AtLeast(b)) => Sp::AtLeast(a.max(b)),
        };
        for (register, other) in self.registers.iter_mut().zip(&other.registers) {
            if register != other {
                *register = match (*register, *other) {
                    (Value::Below(_) | Value::OnStack, Value::Below(_) | Value::OnStack) => Value::OnStack,
                    _ => Value::Unknown,
                };
            }
        }
        self.compared = None;
        if self.checked != other.checked {
            self.checked = None;
        }
        *self != before
    }

    /// How deep an instruction that runs in this state reads or writes the stack below the stack pointer.
    pub(super) fn touched(&self, instruction: &Instruction) -> Option<i64> {
        if matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop) {
            return None;
        }
        let base = number(instruction.memory_base())?;
        let sp = self.sp.depth()?;
        let place = match base {
            RSP => sp,
            number => match self.registers[number] {
                Value::Below(depth) => depth,
                _ => return None,
            },
        };
        let depth = place.saturating_sub(instruction.memory_displacement64().cast_signed());
        let is_fixed = instruction.memory_index() == Register::None;
        (depth > sp && depth < DEEPEST).then(|| if is_fixed { depth } else { sp + RED_ZONE })
    }

    /// Carries out `instruction`, and tells what comes next.
    pub(super) fn step(&mut self, instruction: &Instruction) -> Flow {
        let compared = self.compared.take();
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::Interrupt if instruction.mnemonic() == Mnemonic::Int3 => Flow::End,
            FlowControl::Next | FlowControl::XbeginXabortXend | FlowControl::Interrupt => {
                self.carry_out(instruction);
                Flow::Next
            }
            FlowControl::Call | FlowControl::IndirectCall if instruction.mnemonic() != Mnemonic::Call => {
                self.forget(&VOLATILE);
                Flow::Next
            }
            FlowControl::Call => self.call(To::At(instruction.near_branch_target())),
            FlowControl::IndirectCall => {
                let target = self.target(instruction);
                self.call(target)
            }
            FlowControl::UnconditionalBranch => Flow::Jump(To::At(instruction.near_branch_target())),
            FlowControl::IndirectBranch => Flow::Jump(self.target(instruction)),
            FlowControl::ConditionalBranch => self.branch(instruction, compared),
            FlowControl::Return | FlowControl::Exception => Flow::End,
        }
    }

    /// How many entries a table has through which is jumped now, where that was checked.
    pub(super) fn checked(&self) -> Option<u64> {
        self.checked
    }

    fn call(&mut self, to: To) -> Flow {
        self.checked = None;
        self.forget(&VOLATILE);
        Flow::Call(to)
    }

    fn branch(&mut self, instruction: &Instruction, compared: Option<Compared>) -> Flow {
        let target = instruction.near_branch_target();
        self.checked = match (compared, instruction.mnemonic()) {
            (Some(Compared::With(most)), Mnemonic::Ja) => most.checked_add(1),
            (Some(Compared::With(count)), Mnemonic::Jae) => Some(count),
            _ => None,
        };
        let Some(Compared::Sp(register)) = compared else { return Flow::Branch(target) };
        let after = match self.registers[register] {
            Value::Below(depth) => Sp::At(depth),
            _ => Sp::AtLeast(self.sp.depth().unwrap_or(0)),
        };
        match instruction.mnemonic() {
            Mnemonic::Jne | Mnemonic::Ja | Mnemonic::Jae if target < instruction.ip() => {
                self.sp = after;
                Flow::ProbedUp
            }
            Mnemonic::Je if target > instruction.ip() => Flow::ProbedOut(target),
            _ => Flow::Branch(target),
        }
    }

    /// The state after a loop that ended because the stack pointer had come to be equal to `register`.
    pub(super) fn after_probes(&self, instruction: &Instruction) -> State {
        let mut after = self.clone();
        let register = if instruction.op0_register() == Register::RSP {
            instruction.op1_register()
        } else {
            instruction.op0_register()
        };
        after.sp = match self.held(register) {
            Value::Below(depth) => Sp::At(depth),
            _ => Sp::AtLeast(self.sp.depth().unwrap_or(0)),
        };
        after
    }

    fn target(&self, instruction: &Instruction) -> To {
        if instruction.op0_kind() == OpKind::Register {
            return match self.held(instruction.op0_register()) {
                Value::Constant(address) => To::At(address),
                Value::Loaded(slot) => To::Slot(slot),
                Value::LoadedFrom(table) => To::Table(table),
                Value::Told(table) => To::Told(table),
                _ => To::Unknown,
            };
        }
        match self.address(instruction) {
            Place::At(slot) => To::Slot(slot),
            Place::Among(table) => To::Table(table),
            Place::Unknown => To::Unknown,
        }
    }

    /// The constant address of a memory operand.
    fn address(&self, instruction: &Instruction) -> Place {
        if instruction.is_ip_rel_memory_operand() {
            return Place::At(instruction.ip_rel_memory_address());
        }
        if instruction.segment_prefix() != Register::None {
            return Place::Unknown;
        }
        let constant = |register: Register| match (register, self.held(register)) {
            (Register::None, _) => Some(0),
            (_, Value::Constant(number)) => Some(number),
            _ => None,
        };
        let (base, index) = (constant(instruction.memory_base()), constant(instruction.memory_index()));
        let index = index.map(|index| index.wrapping_mul(u64::from(instruction.memory_index_scale())));
        let displacement = instruction.memory_displacement64();
        match (base, index) {
            (Some(base), Some(index)) => Place::At(base.wrapping_add(index).wrapping_add(displacement)),
            // Which of both is the table's address is told by which is known.
            (Some(start), None) | (None, Some(start)) if start.wrapping_add(displacement) != 0 => {
                Place::Among(start.wrapping_add(displacement))
            }
            _ => Place::Unknown,
        }
    }

    fn carry_out(&mut self, instruction: &Instruction) {
        let moved = i64::from(instruction.stack_pointer_increment());
        if moved != 0 {
            self.sp = self.sp.moved(-moved);
        }
        if instruction.op_count() == 0 {
            return self.carry_out_unusual(instruction);
        }
        let written = number(instruction.op0_register()).filter(|_| instruction.op0_kind() == OpKind::Register);
        match instruction.mnemonic() {
            Mnemonic::Cmp => self.compare(instruction),
            Mnemonic::Test | Mnemonic::Bt | Mnemonic::Push | Mnemonic::Nop => {}
            _ if written == Some(RSP) => self.write_sp(instruction),
            Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Movsxd | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Xor => {
                if let Some(number) = written {
                    self.registers[number] = self.result(instruction, number);
                }
            }
            _ => {
                if let Some(number) = written {
                    self.registers[number] = Value::Unknown;
                }
                self.carry_out_unusual(instruction);
            }
        }
        if self.sp.depth().is_some_and(|depth| !(-DEEPEST..DEEPEST).contains(&depth)) {
            self.sp = Sp::AtLeast(0);
        }
    }

    /// Forgets the registers that an instruction may change without naming them first.
    fn carry_out_unusual(&mut self, instruction: &Instruction) {
        match instruction.mnemonic() {
            Mnemonic::Leave => {
                self.sp = match self.registers[RBP] {
                    Value::Below(depth) => Sp::At(depth.saturating_sub(8)),
                    _ => Sp::Guess(self.sp.depth().unwrap_or(0)),
                };
                self.registers[RBP] = Value::Unknown;
            }
            Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg | Mnemonic::Mulx => {
                for register in [instruction.op0_register(), instruction.op1_register()] {
                    match number(register) {
                        None => {}
                        Some(RSP) => self.sp = Sp::Elsewhere,
                        Some(number) => self.registers[number] = Value::Unknown,
                    }
                }
                self.forget(&VOLATILE);
            }
            Mnemonic::Mul
            | Mnemonic::Imul
            | Mnemonic::Div
            | Mnemonic::Idiv
            | Mnemonic::Cwd
            | Mnemonic::Cdq
            | Mnemonic::Cqo
            | Mnemonic::Cbw
            | Mnemonic::Cwde
            | Mnemonic::Cdqe => self.forget(&[RAX, RDX]),
            Mnemonic::Cpuid
            | Mnemonic::Cmpxchg8b
            | Mnemonic::Cmpxchg16b
            | Mnemonic::Rdtsc
            | Mnemonic::Rdtscp
            | Mnemonic::Xgetbv
            | Mnemonic::Syscall
            | Mnemonic::Enter
            | Mnemonic::Rdpkru => self.forget(&[RAX, RCX, RDX, RBX, 11]),
            _ if instruction.is_string_instruction() => self.forget(&[RAX, RCX, RSI, RDI]),
            _ => {}
        }
    }

    fn forget(&mut self, registers: &[usize]) {
        for register in registers {
            self.registers[*register] = Value::Unknown;
        }
    }

    fn compare(&mut self, instruction: &Instruction) {
        self.compared = match (instruction.op0_register(), instruction.op1_register()) {
            (Register::RSP, other) | (other, Register::RSP) if other.is_gpr64() => number(other).map(Compared::Sp),
            (_, Register::None) => match instruction.op1_kind() {
                OpKind::Register | OpKind::Memory => None,
                _ => Some(Compared::With(instruction.immediate(1))),
            },
            _ => None,
        };
    }

    /// What an instruction that writes to the register of this number, and is one of the few that are followed, leaves.
    fn result(&self, instruction: &Instruction, number: usize) -> Value {
        let is_whole = instruction.op0_register().is_gpr64();
        // Four bytes that are written clear those above them; less than that leaves them.
        if !is_whole && !instruction.op0_register().is_gpr32() {
            return Value::Unknown;
        }
        match instruction.mnemonic() {
            Mnemonic::Lea => self.effective(instruction),
            Mnemonic::Movsxd => match self.address(instruction) {
                Place::Among(table) if instruction.op1_kind() == OpKind::Memory => Value::Distance(table),
                _ => Value::Unknown,
            },
            Mnemonic::Mov => match instruction.op1_kind() {
                OpKind::Register => self.held(instruction.op1_register()),
                OpKind::Memory if is_whole => match self.address(instruction) {
                    Place::At(slot) => Value::Loaded(slot),
                    Place::Among(table) => Value::LoadedFrom(table),
                    Place::Unknown => Value::Unknown,
                },
                OpKind::Memory => Value::Unknown,
                _ if is_whole => Value::Constant(instruction.immediate(1)),
                _ => Value::Constant(instruction.immediate(1) & 0xffff_ffff),
            },
            Mnemonic::Xor if instruction.op0_register() == instruction.op1_register() => Value::Constant(0),
            Mnemonic::Add if instruction.op1_kind() == OpKind::Register => {
                match (self.registers[number], self.held(instruction.op1_register())) {
                    (Value::Distance(table), Value::Constant(start))
                    | (Value::Constant(start), Value::Distance(table))
                        if table == start =>
                    {
                        Value::Told(table)
                    }
                    (Value::OnStack | Value::Below(_), _) | (_, Value::OnStack | Value::Below(_)) => Value::OnStack,
                    _ => Value::Unknown,
                }
            }
            Mnemonic::Sub if instruction.op1_kind() == OpKind::Register => match self.registers[number] {
                Value::OnStack | Value::Below(_) => Value::OnStack,
                _ => Value::Unknown,
            },
            Mnemonic::Add | Mnemonic::Sub if is_whole && instruction.op1_kind() != OpKind::Memory => {
                let by = instruction.immediate(1).cast_signed();
                let by = if instruction.mnemonic() == Mnemonic::Add { by } else { by.wrapping_neg() };
                offset(self.registers[number], by)
            }
            _ => Value::Unknown,
        }
    }

    /// What `lea` leaves.
    fn effective(&self, instruction: &Instruction) -> Value {
        if instruction.is_ip_rel_memory_operand() {
            return Value::Constant(instruction.ip_rel_memory_address());
        }
        let (base, by) = (instruction.memory_base(), instruction.memory_displacement64().cast_signed());
        match (base, instruction.memory_index()) {
            (Register::None, Register::None) => Value::Constant(by.cast_unsigned()),
            (base, Register::None) if base.is_gpr64() => offset(self.held(base), by),
            (base, _) if base.is_gpr64() => match self.held(base) {
                Value::OnStack | Value::Below(_) => Value::OnStack,
                _ => Value::Unknown,
            },
            _ => Value::Unknown,
        }
    }

    fn held(&self, register: Register) -> Value {
        match (register, self.sp) {
            (Register::RSP, Sp::At(depth)) => Value::Below(depth),
            (Register::RSP, Sp::AtLeast(_) | Sp::Guess(_)) => Value::OnStack,
            (Register::RSP, Sp::Elsewhere) => Value::Unknown,
            (register, _) => match number(register).map(|number| self.registers[number]) {
                Some(value) if register.is_gpr64() => value,
                Some(Value::Constant(number)) if register.is_gpr32() => Value::Constant(number & 0xffff_ffff),
                _ => Value::Unknown,
            },
        }
    }

    fn write_sp(&mut self, instruction: &Instruction) {
        let least = self.sp.depth().unwrap_or(0);
        let takes_unknown = matches!(self.sp, Sp::AtLeast(_));
        let at = |value: Value| match value {
            Value::Below(depth) => Sp::At(depth),
            Value::OnStack => Sp::AtLeast(least),
            // Where the room that was taken is not known, what is set back is not either.
            _ if takes_unknown => Sp::AtLeast(least),
            _ => Sp::Elsewhere,
        };
        let by_register = |register: Register, sign: i64| match self.held(register) {
            Value::Constant(number) if number < DEEPEST.cast_unsigned() => self.sp.moved(sign * number.cast_signed()),
            _ => Sp::AtLeast(least),
        };
        self.sp = match (instruction.mnemonic(), instruction.op1_kind()) {
            (Mnemonic::Sub, OpKind::Register) => by_register(instruction.op1_register(), 1),
            (Mnemonic::Add, OpKind::Register) => by_register(instruction.op1_register(), -1),
            (Mnemonic::Sub | Mnemonic::Add, OpKind::Memory) => Sp::AtLeast(least),
            (Mnemonic::Sub, _) => self.sp.moved(instruction.immediate(1).cast_signed()),
            (Mnemonic::Add, _) => self.sp.moved(instruction.immediate(1).cast_signed().wrapping_neg()),
            (Mnemonic::And, OpKind::Register | OpKind::Memory) => Sp::AtLeast(least),
            (Mnemonic::And, _) => aligned(self.sp, instruction.immediate(1)),
            (Mnemonic::Lea, _) if instruction.memory_index() == Register::None => at(self.effective(instruction)),
            (Mnemonic::Lea, _) => Sp::AtLeast(least),
            (Mnemonic::Mov, OpKind::Register) => at(self.held(instruction.op1_register())),
            (Mnemonic::Mov, OpKind::Memory) if self.is_on_stack(instruction.memory_base()) => Sp::AtLeast(least),
            (Mnemonic::Pop, _) => Sp::Elsewhere,
            _ => at(Value::Unknown),
        };
    }

    fn is_on_stack(&self, base: Register) -> bool {
        base == Register::RSP || matches!(self.held(base), Value::Below(_) | Value::OnStack)
    }
}

/// The number of a register as instructions encode it, or of the one that it is part of.
fn number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number() & 15)
}

/// Bytes below the stack pointer that a function may use (System V ABI, AMD64 supplement, section 3.2.2).
const RED_ZONE: i64 = 128;

/// A memory operand's address, as far as it is constant.
enum Place {
    At(u64),
    /// An element of what begins here.
    Among(u64),
    Unknown,
}

fn offset(value: Value, by: i64) -> Value {
    match value {
        Value::Below(depth) => Value::Below(depth.wrapping_sub(by)),
        Value::OnStack => Value::OnStack,
        Value::Constant(number) => Value::Constant(number.wrapping_add_signed(by)),
        _ => Value::Unknown,
    }
}

/// The stack pointer after `and rsp, mask`: at its deepest, for all that is known is that a CFA is a multiple of 16
/// (System V ABI, AMD64 supplement, section 3.2.2).
fn aligned(sp: Sp, mask: u64) -> Sp {
    const OF_CFA: i64 = 16;
    let alignment = mask.cast_signed().wrapping_neg();
    let Some(depth) = sp.depth() else { return Sp::Elsewhere };
    if !(1..=1 << 20).contains(&alignment) || alignment & (alignment - 1) != 0 {
        return Sp::AtLeast(depth);
    }
    let waste = |cfa: i64| (cfa - depth).rem_euclid(alignment);
    let most = (0..alignment).step_by(OF_CFA as usize).map(waste).max().unwrap_or(0);
    sp.moved(most)
}
