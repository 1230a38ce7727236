//! Switch routines that are called: what they save before the switch, and what they load after it.

use super::{Descriptor, Layout, Mangling, Place, Resume};
use crate::find::descriptors::flow::{LONGEST_END, Reader, is_foreign};
use crate::find::descriptors::machine::{Base, CALLEE_SAVED, DWARF, Gpr, Machine, RSP, Sum, Twist, Value};
use crate::registers::Register;

/// A switch that saves fewer registers than this leaves too little to recognise it by, unless it keeps all in a block or is
/// resumed by exactly what it left.
const FEWEST_SAVED: usize = 2;

/// One that loads fewer from a block is not the other half of a `setjmp`.
const FEWEST_LOADED: usize = 4;

/// A block of registers is shorter than this, in bytes.
const LONGEST_BLOCK: u64 = 1024;

/// What was learned at one switch site.
#[derive(Default)]
pub(super) struct Findings {
    /// One for each way to the site that leaves something else on the stack.
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) loader: Option<Loader>,
    pub(super) jump: Option<BlockJump>,
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
        let mut found = Findings::default();
        for before in reader.reach(entry, site) {
            let Some(learned) = derive_from(reader, entry, site, &before) else { continue };
            found.descriptors.extend(learned.descriptors);
            found.loader = found.loader.or(learned.loader);
            found.jump = found.jump.or(learned.jump);
        }
        // Some routines save no register at all.
        let saved = |found: &Findings| found.descriptors.iter().map(|found| found.layout.registers.len()).max();
        if saved(&found) > saved(&best) {
            best.descriptors = found.descriptors;
        }
        best.loader = best.loader.or(found.loader);
        best.jump = best.jump.or(found.jump);
    }
    best
}

/// Looks at a routine that is in the state `before` at its site.
fn derive_from(reader: &Reader<'_>, entry: u64, site: u64, before: &Machine) -> Option<Findings> {
    let mut after = before.clone();
    let next = reader.step(&mut after, site)?;
    let (left, loaded) = (before.get(RSP), after.get(RSP));
    if !is_foreign(&after, loaded) {
        return None;
    }
    let mut past_calls = after.clone();
    let target = reader.leave(&mut after, next, LONGEST_END);
    let end = target.map(|target| End { machine: &after, loaded, target });
    // A block can still be filled in when the stack pointer is the other one.
    let fits = |saved: &Saved| match end {
        Some(end) => saved.says_enough() || end.mirrors(&saved.layout),
        None => saved.is_usual && keeps_all_in_block(&saved.layout),
    };
    let kept_before = saved_by(before, left).find(fits);
    let kept_after = end.and_then(|_| saved_by(&after, left).find(fits));
    // Of two that save as many registers it is the first.
    let plain = kept_after.into_iter().chain(kept_before).max_by_key(|saved| saved.layout.registers.len());
    let layout = plain.or_else(|| {
        let target = reader.leave_past_calls(&mut past_calls, next, LONGEST_END)?;
        let end = End { machine: &past_calls, loaded, target };
        saved_by(&past_calls, left).find(|saved| end.mirrors(&saved.layout))
    });
    let describe = |Saved { layout, .. }: Saved| {
        let tags = layout.tags | cleared_of(before, loaded);
        let fresh = end.and_then(|end| fresh(end.machine, &layout, loaded, end.target));
        let layout = Layout { tags, ..layout };
        Descriptor { site, resume: Resume::AfterCallsOf(entry), layout, fresh, saves_only: false }
    };
    let loader = end.and_then(|end| loaded_by(end.machine, site, loaded, end.target));
    let jump = end.and_then(|end| BlockJump::of(end.machine, site, loaded, end.target));
    Some(Findings { descriptors: layout.map(describe).into_iter().collect(), loader, jump })
}

/// How a routine goes on with the other stack.
#[derive(Clone, Copy)]
struct End<'m> {
    /// The state in which it leaves.
    machine: &'m Machine,
    /// The other stack's pointer, as it was first set.
    loaded: Value,
    /// Where it goes.
    target: Value,
}

impl End<'_> {
    /// Whether it goes on where the routine itself, as `layout` says, leaves the word to go on by.
    fn mirrors(&self, layout: &Layout) -> bool {
        let (Some(loaded), Some((place, twist))) = (self.loaded.sum(), self.machine.source(self.target)) else {
            return false;
        };
        let goes_on_by = Place::Stack(place.offset);
        place.base == loaded.base
            && twist == Twist::None
            && goes_on_by == layout.resume_word
            && (layout.sp_slot.is_some() || !layout.registers.is_empty())
    }
}

/// The lowest bits that were cleared of what became the stack pointer `loaded`.
fn cleared_of(machine: &Machine, loaded: Value) -> u8 {
    let of = |base: Base| machine.cleared.iter().filter(move |(cleared, _)| *cleared == base).map(|(_, bits)| bits);
    loaded.sum().map_or(0, |sum| of(sum.base).fold(0, |all, bits| all | bits))
}

/// What a routine may have saved.
struct Saved {
    layout: Layout,
    /// Whether the stack pointer was kept in one of the usual ways.
    is_usual: bool,
}

impl Saved {
    /// Whether it is enough to recognise a switch by.
    fn says_enough(&self) -> bool {
        self.is_usual && (self.layout.registers.len() >= FEWEST_SAVED || keeps_all_in_block(&self.layout))
    }
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
    /// Bits that it was kept with.
    tags: u8,
    /// Where in which block; `None` where it is handed on in a register.
    slot: Option<Sum>,
}

impl SavedSp {
    fn of(value: Value, slot: Option<Sum>) -> Option<SavedSp> {
        let sum = value.sum().filter(|sum| sum.base == Base::Start(RSP))?;
        Some(SavedSp::at(sum.offset, slot))
    }

    fn at(offset: i64, slot: Option<Sum>) -> SavedSp {
        SavedSp { value: offset & !7, tags: (offset & 7) as u8, slot }
    }
}

/// What a routine may have saved that leaves its stack at `sp`, what is most likely first.
fn saved_by(machine: &Machine, sp: Value) -> impl Iterator<Item = Saved> {
    let top = sp.sum().filter(|sum| sum.base == Base::Start(RSP)).map(|sum| sum.offset);
    top.into_iter().flat_map(move |top| {
        let saved = move |(sp, is_usual)| Saved { layout: layout(machine, top, sp), is_usual };
        saved_sps(machine, top).into_iter().map(saved)
    })
}

fn layout(machine: &Machine, top: i64, saved_sp: SavedSp) -> Layout {
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
    Layout {
        resume_word,
        stack_copy: Some(stack_copy),
        sp_slot: saved_sp.slot.map(|slot| slot.offset),
        tags: saved_sp.tags,
        sp_after: stack_copy + 8,
        registers,
        mangling: None,
    }
}

/// The stack pointer as it is, as it was on entry, or as it will be after returning: whatever of them was kept outside
/// the stack, in memory rather than in a register; last, what is less usual: as it was in between, or as it is, by a
/// function that was called. You get with each whether it is usual.
fn saved_sps(machine: &Machine, top: i64) -> Vec<(SavedSp, bool)> {
    let in_block = machine.written.iter().filter(|(place, _)| !matches!(place.base, Base::Start(RSP)));
    let in_block = in_block.filter_map(|(place, value)| SavedSp::of(*value, Some(*place)));
    let (kept, between): (Vec<_>, Vec<_>) =
        in_block.filter(|saved| (top..=8).contains(&saved.value)).partition(|saved| [top, 0, 8].contains(&saved.value));
    let free = (0..16).filter(|register| *register != RSP && !CALLEE_SAVED.contains(register));
    let in_registers = free.filter_map(|register| SavedSp::of(machine.get(register), None));
    let by_calls = machine.handed.iter().map(|offset| SavedSp::at(*offset, None));
    let is_left = |saved: &SavedSp| saved.value == top;
    let usual = kept.into_iter().chain(in_registers.filter(is_left));
    let unusual = between.into_iter().chain(by_calls.filter(is_left));
    usual.map(|saved| (saved, true)).chain(unusual.map(|saved| (saved, false))).collect()
}

/// The return address as a loaded word, if the routine looked at it.
fn return_address(machine: &Machine) -> Option<Value> {
    let place = Sum { base: Base::Start(RSP), offset: 0 };
    let index = machine.loads.iter().position(|load| *load == place)?;
    Some(Value::Known(Sum { base: Base::Loaded(u16::try_from(index).ok()?), offset: 0 }, Twist::None))
}

/// A jump that takes stack pointer, code address and some registers from one block, wherever that is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BlockJump {
    pub(super) site: u64,
    /// Where the code address is, in bytes above the stack pointer.
    pub(super) pc_slot: i64,
    /// The registers, each with where it is, counted in the same way.
    pub(super) registers: Vec<(Gpr, i64)>,
}

impl BlockJump {
    fn of(machine: &Machine, site: u64, sp: Value, target: Value) -> Option<BlockJump> {
        let (block, twist) = machine.source(sp)?;
        let slot = |value: Value| {
            let (place, twist) = machine.source(value)?;
            (place.base == block.base && twist == Twist::None).then(|| place.offset.wrapping_sub(block.offset))
        };
        let pc_slot = slot(target).filter(|slot| twist == Twist::None && slot.unsigned_abs() < LONGEST_BLOCK)?;
        let saved = |register: Gpr| Some((register, slot(machine.get(register))?));
        Some(BlockJump { site, pc_slot, registers: CALLEE_SAVED.into_iter().filter_map(saved).collect() })
    }

    /// Whether code that goes on at `target` with its stack pointer does it this way.
    pub(super) fn is_made(&self, machine: &Machine, target: Value) -> bool {
        let made = BlockJump::of(machine, self.site, machine.get(RSP), target);
        made.is_some_and(|made| made.pc_slot == self.pc_slot)
    }

    /// Whether `other` takes the same from the same places.
    pub(super) fn is_like(&self, other: &BlockJump) -> bool {
        (self.pc_slot, &self.registers) == (other.pc_slot, &other.registers)
    }
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
