//! Each kind of stack, laid out by hand.

use super::*;
use crate::mapping::Access;
use crate::process::PageRun;

const READ_WRITE: Access = Access { read: true, write: true, execute: false };
const NOTHING: Access = Access { read: false, write: false, execute: false };

/// A coroutine's stack with nothing foreign above it.
const OTHER: Owner = Owner::Other { outermost: Addr(0x1f000), foreign: None };

fn mapping(low: u64, high: u64, access: Access, origin: Origin) -> Mapping {
    Mapping { range: range(low, high), access, shared: false, origin }
}

fn range(low: u64, high: u64) -> AddrRange {
    AddrRange::new(Addr(low), Addr(high))
}

fn pages(runs: &[(u64, u64, PageState)]) -> Result<Pages, PagesUnknown> {
    let runs = runs.iter().map(|(low, high, state)| PageRun { range: range(*low, *high), state: *state }).collect();
    Ok(Pages { runs, sees_guards: true })
}

#[test]
fn a_thread_has_its_mapping_and_the_guard_below() {
    let mappings = [
        mapping(0x10000, 0x11000, NOTHING, Origin::Anonymous),
        mapping(0x11000, 0x20000, READ_WRITE, Origin::Anonymous),
    ];
    let found = bounds(Owner::Thread, Addr(0x1e000), &mappings, None, &pages(&[]));
    let guard = Guard::Ok(range(0x10000, 0x11000));
    assert_eq!(found, Bounds::of(range(0x11000, 0x20000), BoundsFrom::Thread, guard));
}

#[test]
fn guards_inside_a_mapping_bound_the_stacks_between_them() {
    let mappings = [mapping(0x10000, 0x40000, READ_WRITE, Origin::Anonymous)];
    let pages = pages(&[
        (0x10000, 0x11000, PageState::Guard),
        (0x1e000, 0x20000, PageState::Touched),
        (0x20000, 0x21000, PageState::Guard),
        (0x3f000, 0x40000, PageState::Touched),
    ]);
    let lower = bounds(OTHER, Addr(0x1f000), &mappings, None, &pages);
    let guard = Guard::Ok(range(0x10000, 0x11000));
    assert_eq!(lower, Bounds::of(range(0x11000, 0x20000), BoundsFrom::Guard, guard));
    let upper = bounds(Owner::Thread, Addr(0x3f000), &mappings, None, &pages);
    let guard = Guard::Ok(range(0x20000, 0x21000));
    assert_eq!(upper, Bounds::of(range(0x21000, 0x40000), BoundsFrom::Thread, guard));
}

#[test]
fn the_first_threads_stack_reaches_down_to_its_limit() {
    let stack = mapping(0x7ffe_0000_0000, 0x7ffe_0002_0000, READ_WRITE, Origin::MainStack);
    let found = bounds(Owner::Thread, Addr(0x7ffe_0001_0000), std::slice::from_ref(&stack), Some(8 << 20), &pages(&[]));
    let whole = range(0x7ffe_0002_0000 - (8 << 20), 0x7ffe_0002_0000);
    assert_eq!(found, Bounds::of(whole, BoundsFrom::Thread, Guard::Grows));
    let unlimited = bounds(Owner::Thread, Addr(0x7ffe_0001_0000), &[stack], None, &pages(&[]));
    assert_eq!((unlimited.low, unlimited.high), (None, Some(Addr(0x7ffe_0002_0000))));
}

#[test]
fn what_lies_below_a_growing_stack_stops_it_above_its_limit() {
    let mappings = [
        mapping(0x7ffd_ffd0_0000, 0x7ffd_ffe0_0000, READ_WRITE, Origin::Anonymous),
        mapping(0x7ffe_0000_0000, 0x7ffe_0002_0000, READ_WRITE, Origin::MainStack),
    ];
    let found = bounds(Owner::Thread, Addr(0x7ffe_0001_0000), &mappings, Some(8 << 20), &pages(&[]));
    assert_eq!(found.range(), Some(range(0x7ffd_ffe0_0000 + GROWTH_GAP, 0x7ffe_0002_0000)));
}

#[test]
fn a_stack_ends_below_the_descriptor_that_its_mapping_was_joined_with() {
    let mappings = [
        mapping(0x10000, 0x11000, NOTHING, Origin::Anonymous),
        mapping(0x11000, 0x40000, READ_WRITE, Origin::Anonymous),
    ];
    let owner = Owner::Other { outermost: Addr(0x1fff0), foreign: Some(Addr(0x2e740)) };
    let found = bounds(owner, Addr(0x1e000), &mappings, None, &pages(&[]));
    let guard = Guard::Ok(range(0x10000, 0x11000));
    assert_eq!(found, Bounds::of(range(0x11000, 0x20000), BoundsFrom::Inferred, guard));
}

#[test]
fn a_stack_in_the_heap_has_no_known_bounds() {
    let heap = [mapping(0x10000, 0x40000, READ_WRITE, Origin::Special("heap".into()))];
    let found = bounds(OTHER, Addr(0x20000), &heap, None, &pages(&[]));
    assert_eq!(found, Bounds::UNKNOWN);
}

#[test]
fn a_signal_stack_is_what_sigaltstack_was_given() {
    let mappings = [
        mapping(0x10000, 0x11000, NOTHING, Origin::Anonymous),
        mapping(0x11000, 0x20000, READ_WRITE, Origin::Anonymous),
    ];
    let given = range(0x11000, 0x13000);
    let found = bounds(Owner::Signal(given), Addr(0x12000), &mappings, None, &pages(&[]));
    let guard = Guard::Ok(range(0x10000, 0x11000));
    assert_eq!(found, Bounds::of(given, BoundsFrom::Call, guard));
}

#[test]
fn without_the_pages_a_guard_inside_a_mapping_is_unknown() {
    let mappings = [mapping(0x10000, 0x20000, READ_WRITE, Origin::Anonymous)];
    let given = range(0x12000, 0x14000);
    let found = bounds(Owner::Signal(given), Addr(0x13000), &mappings, None, &Err(PagesUnknown));
    assert_eq!(found.guard, Guard::Unknown);
    let found = bounds(Owner::Signal(given), Addr(0x13000), &mappings, None, &pages(&[]));
    assert_eq!(found.guard, Guard::None);
}

#[test]
fn the_window_of_pages_stays_in_the_mapping_and_near_the_stack_pointer() {
    let huge = [mapping(0x1000_0000, 0x40_0000_0000, READ_WRITE, Origin::Anonymous)];
    let window = page_window(Addr(0x20_0000_0123), &huge);
    assert_eq!(window, range(0x20_0000_1000 - LONGEST_LONE_STACK, 0x20_0000_0000 + LONGEST_LONE_STACK));
    assert_eq!(page_window(Addr(1), &huge), AddrRange::default());
}

#[test]
fn what_a_heap_has_left_guards_nothing() {
    let (first, second) = (HEAP_SPACING, 2 * HEAP_SPACING);
    let heaps = |second_ends: u64| {
        [
            mapping(first, first + 0x21000, READ_WRITE, Origin::Anonymous),
            mapping(first + 0x21000, second, NOTHING, Origin::Anonymous),
            mapping(second, second + 0x40000, READ_WRITE, Origin::Anonymous),
            mapping(second + 0x40000, second_ends, NOTHING, Origin::Anonymous),
        ]
    };
    let found = |mappings: &[Mapping]| bounds(OTHER, Addr(second + 0x3000), mappings, None, &pages(&[]));
    assert_eq!(found(&heaps(second + HEAP_SPACING)), Bounds::UNKNOWN);
    // Neighbours may be joined to what is left.
    assert_eq!(found(&heaps(second + HEAP_SPACING + 0x1000)), Bounds::UNKNOWN);
    let guard = Guard::Ok(range(first + 0x21000, second));
    let stack = Bounds::of(range(second, second + 0x40000), BoundsFrom::Guard, guard);
    assert_eq!(found(&heaps(second + 0x41000)), stack);
}
