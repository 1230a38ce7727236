//! What lists are sorted by.

use std::cmp::Ordering;

/// What a list is sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// How close to the end.
    Danger,
    /// Bytes in use now.
    Now,
    /// The most bytes in use.
    Peak,
    /// The size; of groups, how many stacks.
    Size,
    /// What it is called.
    Name,
    /// The number.
    Number,
}

impl Sort {
    /// All of them, in the order in which keys go through them.
    pub(super) const ALL: [Sort; 6] = [Sort::Danger, Sort::Now, Sort::Peak, Sort::Size, Sort::Name, Sort::Number];

    /// The column's heading. Those of groups differ: they have a count, and the sum of the bytes in use.
    pub(super) fn heading(self, of_groups: bool) -> &'static str {
        match (self, of_groups) {
            (Sort::Danger, _) => "HEAD",
            (Sort::Now, false) => "NOW",
            (Sort::Now, true) => "IN USE",
            (Sort::Peak, false) => "PEAK",
            (Sort::Peak, true) => "MAX",
            (Sort::Size, false) => "SIZE",
            (Sort::Size, true) => "COUNT",
            (Sort::Name, false) => "NAME",
            (Sort::Name, true) => "WHERE",
            (Sort::Number, _) => "ID",
        }
    }
}

/// A column to sort by, and whether the order is turned around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) sort: Sort,
    pub(super) reversed: bool,
}

/// Stacks without a name come last.
pub(super) fn names_first(a: &str, b: &str) -> Ordering {
    (a.is_empty(), a).cmp(&(b.is_empty(), b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_comes_last() {
        assert_eq!(names_first("", "a"), Ordering::Greater);
        assert_eq!(names_first("a", "b"), Ordering::Less);
    }
}
