//! Switch routines that are called: what they save before the switch, and what they load after it.

use super::{Descriptor, Layout, Mangling, Place, Resume};
use crate::find::descriptors::flow::{LONGEST_END, Reader, is_foreign};
use crate::find::descriptors::machine::{Base, CALLEE_SAVED, DWARF, Gpr, Machine, RSP, Sum, Twist, Value};
use crate::registers::Register;

/// A switch that saves fewer registers than this leaves too little to recognise it by, unless it keeps all in a block.
const FEWEST_SAVED: usize = 2;

/// One that loads fewer from a block is not the other half of a `setjmp`.
const FEWEST_LOADED: usize = 4;

/// What was learned at one switch site.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) descriptor: Option<Descriptor>,
    pub(super) loader: Option<Loader>,
}

/// A routine that loads registers, stack pointer and code address from one block, like `longjmp`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Loader {
    pub(super) site: u64,
    pub(super) sp_slot: i64,
    pub(super) pc_slot: i64,
    pub(super) registers: Vec<(Gpr, i64)>,
    pub(super) mangling: Option<Mangling>,
}

impl Loader {
    /// Whether `other` loads the same from the same slots.
    pub(super) fn loads_like(&self, other: &Loader) -> bool {
        Loader { site: other.site, ..self.clone() } == *other
    }
}

/// Looks at the routine around `site`; of several possible entries the one from which most registers are saved counts.
pub(super) fn derive(reader: &Reader<'_>, site: u64) -> Findings {
    let mut best = Findings::default();
    for entry in reader.entries(site) {
        let Some(found) = derive_from(reader, entry, site) else { continue };
        let saved = |found: &Option<Descriptor>| found.as_ref().map_or(0, |found| found.layout.registers.len());
        if saved(&found.descriptor) > saved(&best.descriptor) {
            best.descriptor = found.descriptor;
        }
        best.loader = best.loader.or(found.loader);
    }
    best
}

fn derive_from(reader: &Reader<'_>, entry: u64, site: u64) -> Option<Findings> {
    let before = reader.reach(entry, site)?;
    let mut after = before.clone();
    let next = reader.step(&mut after, site)?;
    let loaded = after.get(RSP);
    if !is_foreign(&after, loaded) {
        return None;
    }
    let target = reader.leave(&mut after, next, LONGEST_END);
    let sp = before.get(RSP);
    // A block can still be filled in when the stack pointer is the other one.
    let layout = saved_by(&before, sp)
        .or_else(|| target.and_then(|_| saved_by(&after, sp)))
        .filter(|layout| target.is_some() || keeps_all_in_block(layout));
    let describe = |layout: Layout| {
        let fresh = target.and_then(|target| fresh(&after, &layout, loaded, target));
        Descriptor { site, resume: Resume::AfterCallsOf(entry), layout, fresh, saves_only: false }
    };
    let descriptor = layout.map(describe);
    Some(Findings { descriptor, loader: target.and_then(|target| loaded_by(&after, site, loaded, target)) })
}

/// Where a context that never ran has its words, if the routine jumps to `target` through the block that it takes the stack
/// pointer `sp` from.
fn fresh(machine: &Machine, layout: &Layout, sp: Value, target: Value) -> Option<Layout> {
    let (sp_place, _) = machine.source(sp)?;
    let (pc_place, twist) = machine.source(target)?;
    let is_one_block =
        pc_place.base == sp_place.base && twist == Twist::None && layout.sp_slot == Some(sp_place.offset);
    (is_one_block && matches!(layout.resume_word, Place::Stack(_))).then(|| Layout {
        resume_word: Place::Block(pc_place.offset),
        stack_copy: None,
        sp_after: 0,
        ..layout.clone()
    })
}

/// Whether both the code address and the stack pointer were copied to one block, which a call does not do by itself.
///
/// Such a routine needs not come back by what it loads: it may call a scheduler on the other stack.
fn keeps_all_in_block(layout: &Layout) -> bool {
    matches!(layout.resume_word, Place::Block(_)) && layout.sp_slot.is_some()
}

/// Where the routine kept the stack pointer of the stack that it is about to leave.
#[derive(Clone, Copy)]
struct SavedSp {
    /// In bytes from the return address's place.
    value: i64,
    /// Where in which block; `None` where it is handed on in a register.
    slot: Option<Sum>,
}

/// What a routine has saved that leaves its stack at `sp`.
fn saved_by(machine: &Machine, sp: Value) -> Option<Layout> {
    let Sum { base: Base::Start(RSP), offset: top } = sp.sum()? else { return None };
    let saved_sp = saved_sp(machine, top)?;
    let place = |place: Sum| match place.base {
        Base::Start(RSP) => (top..0).contains(&place.offset).then_some(Place::Stack(place.offset - saved_sp.value)),
        base => saved_sp.slot.filter(|slot| slot.base == base).map(|_| Place::Block(place.offset)),
    };
    let find =
        |value: Value| machine.written.iter().find_map(|(at, written)| (*written == value).then(|| place(*at))?);
    let saved = |register: Gpr| Some((dwarf(register), find(Value::start(register, 0))?));
    let registers: Vec<_> = CALLEE_SAVED.into_iter().filter_map(saved).collect();
    let stack_copy = -saved_sp.value;
    let resume_word = return_address(machine)
        .and_then(find)
        .filter(|place| matches!(place, Place::Block(_)))
        .unwrap_or(Place::Stack(stack_copy));
    let layout = Layout {
        resume_word,
        stack_copy: Some(stack_copy),
        sp_slot: saved_sp.slot.map(|slot| slot.offset),
        sp_after: stack_copy + 8,
        registers,
        mangling: None,
    };
    (layout.registers.len() >= FEWEST_SAVED || keeps_all_in_block(&layout)).then_some(layout)
}

/// The stack pointer as it is, as it was on entry, or as it will be after returning: whatever of them was kept outside
/// the stack, in memory rather than in a register.
fn saved_sp(machine: &Machine, top: i64) -> Option<SavedSp> {
    let of_stack = |value: Value| match value.sum() {
        Some(Sum { base: Base::Start(RSP), offset }) if [top, 0, 8].contains(&offset) => Some(offset),
        _ => None,
    };
    let in_block = machine.written.iter().filter(|(place, _)| !matches!(place.base, Base::Start(RSP)));
    let mut kept = in_block.filter_map(|(place, value)| Some(SavedSp { value: of_stack(*value)?, slot: Some(*place) }));
    kept.next().or_else(|| {
        let free = (0..16).filter(|register| *register != RSP && !CALLEE_SAVED.contains(register));
        let mut handed = free.filter_map(|register| of_stack(machine.get(register)).filter(|value| *value == top));
        handed.next().map(|value| SavedSp { value, slot: None })
    })
}

/// The return address as a loaded word, if the routine looked at it.
fn return_address(machine: &Machine) -> Option<Value> {
    let place = Sum { base: Base::Start(RSP), offset: 0 };
    let index = machine.loads.iter().position(|load| *load == place)?;
    Some(Value::Known(Sum { base: Base::Loaded(u16::try_from(index).ok()?), offset: 0 }, Twist::None))
}

/// What a routine that is about to jump to `target` with the stack pointer `sp` has loaded from one block.
fn loaded_by(machine: &Machine, site: u64, sp: Value, target: Value) -> Option<Loader> {
    let (sp_place, twist) = machine.source(sp)?;
    let (pc_place, pc_twist) = machine.source(target)?;
    let base = sp_place.base;
    if !matches!(base, Base::Start(_)) || pc_place.base != base || pc_twist != twist {
        return None;
    }
    let mangling = match twist {
        Twist::None => None,
        Twist::RotatedXor(rotation, guard) => Some(Mangling { guard, rotation }),
        _ => return None,
    };
    let loaded = |register: Gpr| {
        let (place, _) = machine.source(machine.get(register))?;
        (place.base == base).then_some((register, place.offset))
    };
    let registers: Vec<_> = CALLEE_SAVED.into_iter().filter_map(loaded).collect();
    let loader = Loader { site, sp_slot: sp_place.offset, pc_slot: pc_place.offset, registers, mangling };
    (loader.registers.len() >= FEWEST_LOADED).then_some(loader)
}

pub(super) fn dwarf(register: Gpr) -> Register {
    Register(DWARF[usize::from(register & 15)])
}
