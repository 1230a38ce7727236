//! Rows by program counter: an open hash table whose slots are cache lines.
//!
//! A walk finds the row of each frame with one multiplication and, nearly always, one cache line of memory. The table
//! holds what one unwinder has seen and grows with it, up to a limit at which it starts again.

use super::rules::{Key, Row};

/// The table holds at most this many slots: 64 MiB of rows.
const MOST_SLOTS: usize = 1 << 20;
const FEWEST_SLOTS: usize = 1 << 6;

/// Compiled rows by what they were compiled for.
pub(super) struct Cache {
    /// A power of two of them, at most half in use: a search ends at an empty one.
    slots: Vec<Row>,
    used: usize,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { slots: vec![Row::EMPTY; FEWEST_SLOTS], used: 0 }
    }

    /// The slot of the row for `key`, if it was compiled before.
    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut slot = key.hash() & mask;
        loop {
            let row = self.slots.get(slot)?;
            if row.key == key {
                return Some(slot);
            }
            if row.key == Key::NONE {
                return None;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The row in a slot that was found, or that [`Cache::insert`] returned.
    #[inline]
    pub(super) fn row(&self, slot: usize) -> &Row {
        &self.slots[slot]
    }

    /// Adds a row that was not found, and returns its slot.
    pub(super) fn insert(&mut self, row: Row) -> usize {
        if 2 * (self.used + 1) > self.slots.len() {
            self.grow();
        }
        self.place(row)
    }

    fn grow(&mut self) {
        if self.slots.len() >= MOST_SLOTS {
            *self = Cache::new();
            return;
        }
        let larger = vec![Row::EMPTY; 2 * self.slots.len()];
        let rows = std::mem::replace(&mut self.slots, larger);
        self.used = 0;
        for row in rows.into_iter().filter(|row| row.key != Key::NONE) {
            self.place(row);
        }
    }

    fn place(&mut self, row: Row) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = row.key.hash() & mask;
        while self.slots[slot].key != Key::NONE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = row;
        self.used += 1;
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Pc};

    fn row(pc: u64) -> Row {
        Row::EMPTY.keyed(Key::of(Pc::After(Addr(pc))))
    }

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let mut cache = Cache::new();
        for pc in 1..5000 {
            assert!(cache.find(row(pc * 16).key).is_none());
            cache.insert(row(pc * 16));
        }
        for pc in 1..5000 {
            assert!(cache.find(row(pc * 16).key).is_some());
            assert!(cache.find(row(pc * 16 + 1).key).is_none());
            assert!(cache.find(Key::of(Pc::At(Addr(pc * 16)))).is_none());
        }
    }

    #[test]
    fn a_full_table_starts_anew() {
        let mut cache = Cache::new();
        for pc in 1..=MOST_SLOTS as u64 / 2 + 1 {
            cache.insert(row(pc));
        }
        assert_eq!(cache.used, 1);
        assert_eq!(cache.slots.len(), FEWEST_SLOTS);
    }
}
