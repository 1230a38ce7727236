//! Where a stack ends: its bounds and its guard.
//!
//! A stack grows down. Its *bounds* hold the usable part; the *guard* lies below them and kills who touches it. Every
//! answer says what it rests on, so that a guess never looks like knowledge.

use crate::addr::{Addr, AddrRange, PAGE};
use crate::mapping::{Access, Mapping, Origin, mapping_at};
use crate::process::{PageState, Pages, PagesUnknown};
pub(in crate::find) use crate::snapshot::{Bounds, BoundsFrom, Guard};

/// The kernel keeps this much free below a stack that grows (`stack_guard_gap`, 256 pages; mm/mmap.c since Linux 4.12).
const GROWTH_GAP: u64 = 256 * 4096;

/// A mapping longer than this, without a guard in it, holds more than one stack.
const LONGEST_LONE_STACK: u64 = 64 << 20;

/// The C library's further heaps begin at a multiple of so many bytes, and the memory up to the next multiple is set aside
/// for each (glibc `malloc/arena.c`, `HEAP_MAX_SIZE`).
const HEAP_SPACING: u64 = 64 << 20;

/// Which stack's bounds are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The stack that a thread began on.
    Thread,
    /// An alternate signal stack with the range that `sigaltstack` was given.
    Signal(AddrRange),
    /// Any other stack.
    Other {
        /// The stack pointer in its outermost known frame.
        outermost: Addr,
        /// The lowest thread descriptor above that in the same mapping: memory that is not the stack's.
        foreign: Option<Addr>,
    },
}

/// The bounds of the stack that holds `sp`.
///
/// `stack_limit` is the soft `RLIMIT_STACK` in bytes, `None` where it is unlimited or unknown. `pages` are those of at
/// least the mapping around `sp`, as [`page_window`] cuts it.
pub fn bounds(
    owner: Owner,
    sp: Addr,
    mappings: &[Mapping],
    stack_limit: Option<u64>,
    pages: &Result<Pages, PagesUnknown>,
) -> Bounds {
    let Some(mapping) = mapping_at(mappings, sp) else {
        return Bounds::UNKNOWN;
    };
    if let Owner::Signal(range) = owner {
        return Bounds::of(range, BoundsFrom::Call, guard_below(range.low, mappings, pages));
    }
    if mapping.origin == Origin::MainStack {
        return growing(mapping, mappings, stack_limit);
    }
    let mut range = between_guards(sp, mapping.range, pages);
    let guard = guard_below(range.low, mappings, pages);
    let guarded = matches!(guard, Guard::Ok(_));
    if let Owner::Other { outermost, foreign: Some(foreign) } = owner
        && range.contains(foreign)
    {
        // The kernel made one mapping of neighbours; stacks begin and end at pages, so this one ends with its root's.
        range.high = outermost.offset(1).align_up(PAGE).min(foreign);
        return if guarded || alone(mapping, mappings) {
            Bounds::of(range, BoundsFrom::Inferred, guard)
        } else {
            Bounds::UNKNOWN
        };
    }
    match owner {
        Owner::Thread => Bounds::of(range, BoundsFrom::Thread, guard),
        _ if guarded => Bounds::of(range, BoundsFrom::Guard, guard),
        _ if alone(mapping, mappings) => Bounds::of(range, BoundsFrom::Mapping, guard),
        _ => Bounds::UNKNOWN,
    }
}

/// The bounds of a stack that the program lists; `pages` are those below it.
pub fn registered(range: AddrRange, mappings: &[Mapping], pages: &Result<Pages, PagesUnknown>) -> Bounds {
    Bounds::of(range, BoundsFrom::Registered, guard_below(range.low, mappings, pages))
}

/// Where the stack that `sp` is on lies: `sp` itself, or, where it has run out of its stack into the guard or the gap
/// below, the lowest address of the mapping that begins above that.
pub fn home(sp: Addr, mappings: &[Mapping]) -> Addr {
    let next = mappings.partition_point(|mapping| mapping.range.low <= sp);
    let below = next.checked_sub(1).map(|index| &mappings[index]).filter(|mapping| mapping.range.contains(sp));
    match (below, mappings.get(next)) {
        (Some(below), Some(above)) if below.access == Access::default() && below.range.high == above.range.low => {
            above.range.low
        }
        (None, Some(above)) if above.origin == Origin::MainStack && above.range.low.0 - sp.0 <= GROWTH_GAP => {
            above.range.low
        }
        _ => sp,
    }
}

/// The part of the mapping around `sp` whose pages are worth asking for; empty where nothing is mapped.
pub fn page_window(sp: Addr, mappings: &[Mapping]) -> AddrRange {
    let Some(mapping) = mapping_at(mappings, sp) else { return AddrRange::default() };
    let low = mapping.range.low.0.max(sp.0.saturating_sub(LONGEST_LONE_STACK));
    let high = mapping.range.high.0.min(sp.0.saturating_add(LONGEST_LONE_STACK));
    AddrRange::new(Addr(low).align_up(PAGE), Addr(high).align_down(PAGE))
}

/// Whether a mapping looks like the memory of one stack: not the heap, not a file, and not too long.
fn alone(mapping: &Mapping, mappings: &[Mapping]) -> bool {
    let named_heap = matches!(&mapping.origin, Origin::Special(name) if name == "heap");
    !named_heap && mapping.is_memory() && mapping.range.len() <= LONGEST_LONE_STACK && !is_heap(mapping, mappings)
}

/// Whether a mapping is the part in use of one of the C library's further heaps: what follows can't be touched, up to where
/// the next heap may begin. What lies below such a heap is what another one has left, and guards nothing.
fn is_heap(mapping: &Mapping, mappings: &[Mapping]) -> bool {
    let AddrRange { low, high } = mapping.range;
    let end = Addr(low.0.saturating_add(HEAP_SPACING));
    let is_left = |rest: &Mapping| rest.range.low == high && !rest.access.write && rest.file().is_none();
    low.0.is_multiple_of(HEAP_SPACING) && (high == end || mapping_at(mappings, end.offset(-1)).is_some_and(is_left))
}

/// The first thread's stack: from the top of its mapping down to the limit, or to what lies in the way.
fn growing(mapping: &Mapping, mappings: &[Mapping], stack_limit: Option<u64>) -> Bounds {
    let high = mapping.range.high;
    let below = mappings.partition_point(|other| other.range.low < mapping.range.low).checked_sub(1);
    let floor = below.map_or(0, |index| mappings[index].range.high.0.saturating_add(GROWTH_GAP));
    let low = stack_limit.map(|limit| Addr(high.0.saturating_sub(limit).max(floor)).align_up(PAGE));
    let low = low.map(|low| low.min(mapping.range.low));
    Bounds { low, high: Some(high), from: BoundsFrom::Thread, guard: Guard::Grows }
}

/// The part of `mapping` around `sp` that no guard inside the mapping cuts off.
fn between_guards(sp: Addr, mapping: AddrRange, pages: &Result<Pages, PagesUnknown>) -> AddrRange {
    let mut range = mapping;
    for guard in guards(pages) {
        if guard.low <= sp {
            range.low = range.low.max(guard.high);
        } else if guard.low > sp {
            range.high = range.high.min(guard.low);
        }
    }
    range
}

/// What lies directly below `low`.
fn guard_below(low: Addr, mappings: &[Mapping], pages: &Result<Pages, PagesUnknown>) -> Guard {
    if let Some(guard) = guards(pages).find(|guard| guard.high == low) {
        return Guard::Ok(guard);
    }
    let above = mapping_at(mappings, low).filter(|above| above.range.low == low);
    if above.is_some_and(|above| is_heap(above, mappings)) {
        return Guard::None;
    }
    match mapping_at(mappings, low.offset(-1)) {
        // gcore gives such memory as readable in its core files; what can't be written stops an overflow all the same.
        Some(below) if !below.access.write && below.is_memory() => Guard::Ok(below.range),
        // Without a look at the pages a guard inside a mapping stays unseen.
        Some(below) if below.range.contains(low) && pages.is_err() => Guard::Unknown,
        _ => Guard::None,
    }
}

/// The guards among `pages`, lowest first.
fn guards(pages: &Result<Pages, PagesUnknown>) -> impl Iterator<Item = AddrRange> {
    let runs = pages.as_ref().map_or(&[][..], |pages| &pages.runs);
    runs.iter().filter(|run| run.state == PageState::Guard).map(|run| run.range)
}

#[cfg(test)]
#[path = "bounds_tests.rs"]
mod tests;
