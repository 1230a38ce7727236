//! Decides which of several finds in one room is the context there: a stack has one.
//!
//! Calls that have returned leave chains behind in the unused part of a stack. Where one of them happens to end at what
//! looks like a root, it seems to be a stack of its own, on the memory of another.

use foldhash::HashMap;

use crate::addr::{Addr, AddrRange};
use crate::arch::X86_64;

/// A find, as far as its rivals matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Find {
    /// From its stack pointer to its top.
    pub(super) extent: AddrRange,
    /// The room that it lies in, where something closes one.
    pub(super) room: Option<AddrRange>,
    /// Whether anything points to it.
    pub(super) is_held: bool,
    /// Whether that is out of its room.
    pub(super) is_held_from_outside: bool,
    /// How good a sign of a context its resume word is; greater is better.
    pub(super) rank: u8,
}

/// So many rooms of one length, and most of that length, hold one context: then each does.
const USUAL: usize = 4;

/// So many stacks equally far from each other share their room.
const FEWEST_SIDE_BY_SIDE: usize = 4;

/// Stacks side by side are at least so far from each other, in bytes.
const LEAST_DISTANCE: u64 = 1024;

/// Which of `finds`, sorted by their tops, are not ruled out by another one in their room, or by a thread that runs there
/// with one of the stack pointers `running`.
pub(super) fn remaining(finds: &[Find], running: &[Addr]) -> Vec<bool> {
    let mut rooms: HashMap<AddrRange, Vec<usize>> = HashMap::default();
    for (index, find) in finds.iter().enumerate() {
        if let Some(room) = find.room {
            rooms.entry(room).or_default().push(index);
        }
    }
    let lengths = Lengths::of(finds, &rooms);
    let mut remain: Vec<bool> = finds.iter().map(has_room_below).collect();
    for (room, members) in &rooms {
        if is_shared(finds, members) && !lengths.hold_one(room.len()) {
            continue;
        }
        let best = members.iter().copied().filter(|index| remain[*index]).max_by_key(|index| {
            let find = &finds[*index];
            (find.is_held_from_outside, find.rank, find.extent.high)
        });
        let runs_above = |find: &Find| running.iter().any(|sp| room.contains(*sp) && find.extent.low < *sp);
        for index in members {
            remain[*index] &= Some(*index) == best && !runs_above(&finds[*index]);
        }
    }
    remain
}

/// Whether the stack pointer is one with which code can go on: below it there is memory that its functions may use without
/// moving it.
fn has_room_below(find: &Find) -> bool {
    find.room.is_none_or(|room| find.extent.low >= room.low.offset(X86_64.red_zone as i64))
}

/// Whether several stacks share the room of `members`.
fn is_shared(finds: &[Find], members: &[usize]) -> bool {
    let held = || members.iter().map(|index| &finds[*index]).filter(|find| find.is_held);
    apart(held().filter(|find| find.is_held_from_outside)) > 1 || are_side_by_side(held())
}

/// How many of `finds` lie one above the other.
fn apart<'f>(finds: impl Iterator<Item = &'f Find>) -> usize {
    let mut top = Addr(0);
    let is_above = |find: &&Find| {
        let former = top;
        top = top.max(find.extent.high);
        find.extent.low >= former
    };
    finds.filter(is_above).count()
}

/// Whether most of `finds` are equally far from the next.
fn are_side_by_side<'f>(finds: impl Iterator<Item = &'f Find>) -> bool {
    let tops: Vec<Addr> = finds.map(|find| find.extent.high).collect();
    let mut distances: HashMap<u64, usize> = HashMap::default();
    for pair in tops.windows(2) {
        *distances.entry(pair[1].0 - pair[0].0).or_default() += 1;
    }
    let long = distances.into_iter().filter(|(distance, _)| *distance >= LEAST_DISTANCE);
    let most = long.map(|(_, count)| count).max().unwrap_or(0);
    tops.len() >= FEWEST_SIDE_BY_SIDE && 2 * most >= tops.len() - 1
}

/// How many rooms of each length hold one context, and how many hold several.
struct Lengths(HashMap<u64, (usize, usize)>);

impl Lengths {
    fn of(finds: &[Find], rooms: &HashMap<AddrRange, Vec<usize>>) -> Lengths {
        let mut lengths: HashMap<u64, (usize, usize)> = HashMap::default();
        for (room, members) in rooms {
            let (one, several) = lengths.entry(room.len()).or_default();
            *if is_shared(finds, members) { several } else { one } += 1;
        }
        Lengths(lengths)
    }

    fn hold_one(&self, length: u64) -> bool {
        self.0.get(&length).is_some_and(|(one, several)| *one >= USUAL && one > several)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 0x1_0000;
    const HEAP: u64 = 0x5000_0000;

    /// A find in room `number`, with its stack pointer and its top so far below the room's end.
    fn find(number: u64, depth: u64, top: u64, holder: Option<u64>) -> Find {
        let high = (number + 1) * ROOM;
        let room = AddrRange::new(Addr(number * ROOM), Addr(high));
        Find {
            extent: AddrRange::new(Addr(high - depth), Addr(high - top)),
            room: Some(room),
            is_held: holder.is_some(),
            is_held_from_outside: holder.is_some_and(|at| !room.contains(Addr(at))),
            rank: 0,
        }
    }

    #[test]
    fn what_is_held_from_outside_is_the_only_one_in_its_room() {
        let (live, left) = (find(1, 512, 16, Some(HEAP)), find(1, 2048, 1024, None));
        assert_eq!(remaining(&[left, live], &[]), [false, true]);
        let pointed_to_on_its_stack = find(1, 2048, 1024, Some(2 * ROOM - 256));
        assert_eq!(remaining(&[pointed_to_on_its_stack, live], &[]), [false, true]);
    }

    #[test]
    fn of_what_nothing_outside_points_to_the_highest_remains() {
        assert_eq!(remaining(&[find(1, 4096, 2048, None), find(1, 512, 16, None)], &[]), [false, true]);
    }

    #[test]
    fn stacks_that_share_their_room_all_remain() {
        let stacks = [find(1, 0x8000, 0x7000, Some(HEAP)), find(1, 0x2000, 0x1000, Some(HEAP + 8))];
        assert_eq!(remaining(&stacks, &[]), [true, true]);
        // Each has its pointer at its own end.
        let side_by_side = [6, 4, 2, 0].map(|place| find(1, place * ROOM / 8 + 512, place * ROOM / 8, Some(ROOM + 8)));
        assert_eq!(remaining(&side_by_side, &[]), [true; 4]);
    }

    #[test]
    fn where_such_rooms_hold_one_each_does() {
        let mut stacks: Vec<Find> = (1..=5).map(|number| find(number, 512, 16, Some(HEAP + 8 * number))).collect();
        stacks.insert(2, find(3, 4096, 2048, Some(HEAP)));
        assert_eq!(remaining(&stacks, &[]), [true, true, false, true, true, true]);
    }

    /// The low end of a stack is often in a register or a structure.
    #[test]
    fn a_stack_pointer_at_the_low_end_of_its_room_is_none() {
        assert_eq!(remaining(&[find(1, ROOM, ROOM, Some(HEAP)), find(2, ROOM - 64, 64, Some(HEAP))], &[]), [false; 2]);
        assert_eq!(remaining(&[find(1, ROOM - 256, 64, Some(HEAP))], &[]), [true]);
    }

    #[test]
    fn below_a_thread_nothing_remains() {
        let stack = find(1, 2048, 1024, Some(HEAP));
        assert_eq!(remaining(&[stack], &[Addr(2 * ROOM - 512)]), [false]);
        assert_eq!(remaining(&[stack], &[Addr(2 * ROOM - 4096)]), [true]);
    }
}
