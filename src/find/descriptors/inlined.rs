//! Switch code without a routine of its own: the compiler put it into each function that switches.
//!
//! Such code pushes the address of a label behind itself, keeps the stack pointer, and loads another one. Whoever
//! comes back arrives at the label, in one of two ways: with the stack pointer still to be set, from a register
//! (corosensei), or after the code that left has popped what was pushed (switcheroo).

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, Register as R};

use super::{Descriptor, Layout, Place, Resume};
use crate::find::descriptors::flow::{Reader, is_foreign};
use crate::find::descriptors::machine::{Base, CALLEE_SAVED, Flow, Machine, RSP, Sum, Value};
use crate::find::descriptors::routine::dwarf;

/// The label's address is taken at most this many bytes before the switch site.
const FARTHEST_BACK: u64 = 64;

/// The label is at most this many bytes behind it.
const FARTHEST_LABEL: u64 = 96;

/// From the site on, and from the label on, at most this many instructions are followed.
const LONGEST_END: usize = 16;

/// A label whose address stands on the stack when the stack pointer changes.
#[derive(Clone, Copy)]
struct Pushed {
    label: u64,
    /// Where it stands, in bytes above the stack pointer at the switch site.
    at: i64,
}

/// Looks for a label that the code before `site` pushes.
pub(super) fn derive(reader: &Reader<'_>, site: u64) -> Option<Descriptor> {
    derive_by(reader, site, site)
}

/// Looks for a label whose address is taken shortly before `exit`, from where at most jumps lead to `site`, and that stands
/// on the stack there.
pub(super) fn derive_by(reader: &Reader<'_>, exit: u64, site: u64) -> Option<Descriptor> {
    let starts = (exit.saturating_sub(FARTHEST_BACK)..exit).rev();
    let (pushed, before) = starts.filter_map(|start| pushed_from(reader, start, exit, site)).next()?;
    let mut after = before;
    let next = reader.step(&mut after, site)?;
    if !is_foreign(&after, after.get(RSP)) {
        return None;
    }
    reader.leave(&mut after, next, LONGEST_END)?;
    let (goes_on, state) = from_label(reader, pushed.label).or_else(|| from_site(reader, next, pushed))?;
    Some(Descriptor {
        site,
        resume: Resume::Label { label: pushed.label, goes_on },
        layout: state.layout(pushed)?,
        fresh: None,
        saves_only: false,
    })
}

/// The label behind `exit` whose address the instruction at `start` takes, if straight code from there to `site` pushes it.
fn pushed_from(reader: &Reader<'_>, start: u64, exit: u64, site: u64) -> Option<(Pushed, Machine)> {
    let tail = reader.tail(start)?;
    // lea r, [rip+x]: REX.W 8D, mode 0, r/m 5.
    if !matches!(tail, [0x48 | 0x4c, 0x8d, modrm, ..] if modrm & 0xc7 == 0x05) {
        return None;
    }
    let label = reader.instruction(start)?.ip_rel_memory_address();
    if !(exit..exit.saturating_add(FARTHEST_LABEL)).contains(&label) {
        return None;
    }
    let machine = reader.reach_straight(start, site)?;
    let Sum { base: Base::Start(RSP), offset: top } = machine.get(RSP).sum()? else { return None };
    let value = Value::Known(Sum { base: Base::Zero, offset: label as i64 }, Default::default());
    let stands_at = machine.written.iter().find_map(|(place, written)| {
        (place.base == Base::Start(RSP) && place.offset >= top && *written == value).then_some(place.offset)
    })?;
    Some((Pushed { label, at: stands_at - top }, machine))
}

/// The registers of a context that was resumed, in terms of the saved stack pointer.
struct Resumed {
    machine: Machine,
    /// The base that stands for the saved stack pointer.
    saved_sp: Base,
}

impl Resumed {
    fn layout(&self, pushed: Pushed) -> Option<Layout> {
        let sp = self.machine.get(RSP).sum().filter(|sum| sum.base == self.saved_sp)?;
        let saved = |register| {
            let (place, _) = self.machine.source(self.machine.get(register))?;
            (place.base == self.saved_sp).then_some((dwarf(register), Place::Stack(place.offset)))
        };
        Some(Layout {
            resume_word: Place::Stack(pushed.at),
            stack_copy: Some(pushed.at),
            sp_slot: None,
            tags: 0,
            sp_after: sp.offset,
            registers: CALLEE_SAVED.into_iter().filter_map(saved).collect(),
            mangling: None,
        })
    }
}

/// Arrival at a label where the stack pointer is still the resumer's: it is set from a register.
pub(super) fn arrives_by_register(reader: &Reader<'_>, label: u64) -> bool {
    from_label(reader, label).is_some()
}

fn from_label(reader: &Reader<'_>, label: u64) -> Option<(u64, Resumed)> {
    let mut machine = Machine::new();
    let mut at = label;
    for _ in 0..LONGEST_END {
        at = reader.step(&mut machine, at)?;
        match machine.get(RSP).sum()?.base {
            Base::Start(RSP) => {}
            base @ Base::Start(_) => return restore(reader, at, Resumed { machine, saved_sp: base }),
            _ => return None,
        }
    }
    None
}

/// Goes on from `at` as long as registers are taken from the stack.
fn restore(reader: &Reader<'_>, mut at: u64, mut resumed: Resumed) -> Option<(u64, Resumed)> {
    let mut information = InstructionInfoFactory::new();
    for _ in 0..LONGEST_END {
        let instruction = reader.instruction(at)?;
        if !(takes_from_stack(&instruction) || does_nothing(&instruction))
            || resumed.machine.step(&instruction, &mut information) != Flow::Next
        {
            break;
        }
        at = instruction.next_ip();
    }
    Some((at, resumed))
}

fn does_nothing(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Endbr64 | Mnemonic::Nop)
}

fn takes_from_stack(instruction: &Instruction) -> bool {
    let names_rsp = instruction.op0_register() == R::RSP || instruction.memory_base() == R::RSP;
    match instruction.mnemonic() {
        Mnemonic::Pop => true,
        Mnemonic::Mov => instruction.op0_register().is_gpr64() && instruction.memory_base() == R::RSP,
        Mnemonic::Add | Mnemonic::Lea => names_rsp,
        _ => false,
    }
}

/// Arrival through the code behind the site, which pops the label's address and jumps there.
fn from_site(reader: &Reader<'_>, next: u64, pushed: Pushed) -> Option<(u64, Resumed)> {
    let mut machine = Machine::new();
    let target = reader.leave(&mut machine, next, LONGEST_END)?;
    let (place, _) = machine.source(target)?;
    let pops_label = place == Sum { base: Base::Start(RSP), offset: pushed.at };
    let resumed = Resumed { machine, saved_sp: Base::Start(RSP) };
    // What comes at the label takes from the stack what the function's own rules do not know of.
    if pops_label { restore(reader, pushed.label, resumed) } else { None }
}
