//! Which rows a list has, in which order, and which of them fit a search.
//!
//! A row is a number: of a stack, of a group, or of a row of a backtrace. What it shows is made when it is drawn.

use std::cmp::{Ordering, Reverse};

use super::picture::{Order, Picture, danger};
use crate::report::words::singular;

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

/// The wanted stacks in order.
pub(super) fn stacks(picture: &Picture, Order { sort, reversed }: Order) -> Vec<usize> {
    let mut rows: Vec<usize> = picture.stacks.to_vec();
    let stack = |id: &usize| picture.stack(*id);
    // Ties are in order of numbers, so that rows do not jump from look to look.
    match sort {
        Sort::Danger => rows.sort_by_cached_key(|id| (Reverse(stack(id).map(danger)), *id)),
        Sort::Now => rows.sort_by_cached_key(|id| (Reverse(stack(id).and_then(|stack| stack.used())), *id)),
        Sort::Peak => rows.sort_by_cached_key(|id| (Reverse(stack(id).and_then(|stack| stack.most_used())), *id)),
        Sort::Size => rows.sort_by_cached_key(|id| (Reverse(stack(id).and_then(|stack| stack.size())), *id)),
        Sort::Name => rows.sort_by(|a, b| names_first(picture.name(*a), picture.name(*b)).then(a.cmp(b))),
        Sort::Number => rows.sort_unstable(),
    }
    if reversed {
        rows.reverse();
    }
    rows
}

/// The groups in order.
pub(super) fn groups(picture: &Picture, Order { sort, reversed }: Order) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..picture.groups.len()).collect();
    let worst = |row: usize| picture.stack(picture.groups[row].worst);
    match sort {
        Sort::Danger => rows.sort_by_cached_key(|row| (Reverse(worst(*row).map(danger)), *row)),
        Sort::Now => rows.sort_by_key(|row| (Reverse(picture.groups[*row].used), *row)),
        Sort::Peak => rows.sort_by_key(|row| (Reverse(worst(*row).and_then(|stack| stack.most_used())), *row)),
        Sort::Size => rows.sort_by_key(|row| (Reverse(picture.groups[*row].group.stacks.len()), *row)),
        Sort::Name => {
            let name = |row: usize| picture.whereabouts(picture.groups[row].worst).unwrap_or("");
            rows.sort_by(|a, b| names_first(name(*a), name(*b)).then(a.cmp(b)));
        }
        Sort::Number => rows.sort_by_key(|row| picture.groups[*row].worst),
    }
    if reversed {
        rows.reverse();
    }
    rows
}

/// Stacks without a name come last.
fn names_first(a: &str, b: &str) -> Ordering {
    (a.is_empty(), a).cmp(&(b.is_empty(), b))
}

/// Whether a stack fits a search: by its number, kind, state, name, or one of the functions that rows show.
pub(super) fn stack_fits(picture: &Picture, id: usize, wanted: &str) -> bool {
    let Some(stack) = picture.stack(id) else { return false };
    let texts = [Some(picture.name(id)), stack.entry.as_deref(), picture.whereabouts(id)];
    let words = [singular(stack.kind), stack.state.word()];
    // "read" is not to find every thread.
    let begins = |word: &str| word.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
    texts.into_iter().flatten().any(|text| contains(text, wanted))
        || words.into_iter().any(begins)
        || contains(&picture.number(id), wanted)
}

/// Whether `text` holds `wanted`, whatever the case of ASCII letters.
pub(super) fn contains(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    wanted.is_empty() || text.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_passes_over_case() {
        assert!(contains("Conn::Read", "conn::r") && contains("x", "") && !contains("Conn", "connx"));
        assert!(contains("größe", "öß") && !contains("", "a"));
    }

    #[test]
    fn what_has_no_name_comes_last() {
        assert_eq!(names_first("", "a"), Ordering::Greater);
        assert_eq!(names_first("a", "b"), Ordering::Less);
    }
}
