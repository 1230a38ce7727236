//! The language in which people pick stacks from a snapshot: `kind:coroutine peak>80% !fn:decode`.
//!
//! [`Filter::parse`] makes a [`Filter`] of a text, which says of each stack whether it fits; or it returns the column
//! and the sentence to show below the text. Nothing here reads anything but the snapshot.
//!
//! A *filter* is *terms* with spaces between them; a stack must fit all. A term is a key, an operator and a value; `!`
//! before it negates it. A value with spaces is in double quotes.
//!
//! | keys | operators | value |
//! |---|---|---|
//! | `kind` `state` `level` `guard` `confidence` | `:` | a word of the JSON, or its beginning |
//! | | `=` | the whole word |
//! | `name` `entry` `top` `fn` | `:` | a part of the text, whatever the case of ASCII letters |
//! | | `=` | the whole text |
//! | `id` `thread` | `:` `=` `<` `<=` `>` `>=` | a number |
//! | `used` `peak` `size` `free` | `:` `=` `<` `<=` `>` `>=` | bytes, with K, M or G for powers of 1,024; or `%` of the stack's size |
//!
//! `top` is the innermost function of the program's own code, `entry` the outermost, and `fn` any function in a frame
//! of the stack itself. `free` is what the peak, or else what is in use, leaves of the size. What is not known of a
//! stack fits no term, so the stack fits each term with `!`.

mod parse;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::snapshot::{Level, Snapshot, Stack};

pub use parse::{FilterError, Problem};

/// Which stacks are wanted. The default is all of them. It displays as the text that it was read from.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    text: String,
    terms: Vec<Term>,
}

/// One condition.
#[derive(Clone, PartialEq, Debug)]
struct Term {
    negated: bool,
    test: Test,
}

#[derive(Clone, PartialEq, Debug)]
enum Test {
    /// The word begins with this text; the parser made sure that some word does.
    Word(WordKey, Match, String),
    Text(TextKey, Match, String),
    Number(NumberKey, Compare, i64),
    Size(SizeKey, Compare, Amount),
}

/// A key whose values are words of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WordKey {
    /// What a stack serves.
    Kind,
    /// Whether anything runs on it.
    State,
    /// How close it is to its end.
    Level,
    /// What lies below it.
    Guard,
    /// How sure it is.
    Confidence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TextKey {
    Name,
    Entry,
    Top,
    Function,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NumberKey {
    Id,
    Thread,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SizeKey {
    Used,
    Peak,
    Size,
    Free,
}

/// How a text must fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Match {
    /// A word begins with the value; a text contains the value.
    Part,
    Whole,
}

/// Which orderings of a stack's number and the value fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compare {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Amount {
    Bytes(f64),
    /// Percent of the stack's size.
    Percent(f64),
}

impl Filter {
    /// Reads a filter. An empty text wants all stacks.
    ///
    /// # Errors
    /// If the text is no filter: at which column, and why.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        parse::terms(text).map(|terms| Filter { text: text.trim().to_owned(), terms })
    }

    /// Whether the stack with this id fits.
    pub fn matches(&self, snapshot: &Snapshot, id: usize) -> bool {
        let Some(stack) = snapshot.stacks.get(id) else { return false };
        self.terms.iter().all(|term| term.test.fits(snapshot, id, stack) != term.negated)
    }

    /// Whether it wants all stacks.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Test {
    fn fits(&self, snapshot: &Snapshot, id: usize, stack: &Stack) -> bool {
        match self {
            Test::Word(key, how, value) => word(*key, stack).is_some_and(|word| how.fits_word(word, value)),
            Test::Text(TextKey::Function, how, value) => functions(snapshot, stack).any(|it| how.fits_text(it, value)),
            Test::Text(key, how, value) => {
                text(*key, snapshot, id, stack).is_some_and(|text| how.fits_text(text, value))
            }
            Test::Number(NumberKey::Id, how, value) => i64::try_from(id).is_ok_and(|id| how.holds(id.cmp(value))),
            Test::Number(NumberKey::Thread, how, value) => {
                stack.thread.is_some_and(|thread| how.holds(i64::from(thread).cmp(value)))
            }
            Test::Size(key, how, amount) => amount.compare(*key, stack).is_some_and(|ordering| how.holds(ordering)),
        }
    }
}

impl Amount {
    /// How a stack's number compares to this one.
    fn compare(self, key: SizeKey, stack: &Stack) -> Option<Ordering> {
        let bytes = size(key, stack)? as f64;
        match self {
            Amount::Bytes(amount) => bytes.partial_cmp(&amount),
            Amount::Percent(percent) => (bytes * 100.0).partial_cmp(&(percent * stack.size()? as f64)),
        }
    }
}

impl Compare {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Compare::Less => ordering.is_lt(),
            Compare::AtMost => ordering.is_le(),
            Compare::Equal => ordering.is_eq(),
            Compare::AtLeast => ordering.is_ge(),
            Compare::More => ordering.is_gt(),
        }
    }
}

impl Match {
    fn fits_word(self, word: &str, value: &str) -> bool {
        match self {
            Match::Part => word.get(..value.len()).is_some_and(|start| start.eq_ignore_ascii_case(value)),
            Match::Whole => word.eq_ignore_ascii_case(value),
        }
    }

    fn fits_text(self, text: &str, value: &str) -> bool {
        let (text, value) = (text.as_bytes(), value.as_bytes());
        match self {
            Match::Part => value.is_empty() || text.windows(value.len()).any(|part| part.eq_ignore_ascii_case(value)),
            Match::Whole => text == value,
        }
    }
}

fn word(key: WordKey, stack: &Stack) -> Option<&'static str> {
    Some(match key {
        WordKey::Kind => stack.kind.word(),
        WordKey::State => stack.state.word(),
        WordKey::Level => stack.level().map(Level::word)?,
        WordKey::Guard => stack.bounds.guard.word(),
        WordKey::Confidence => stack.confidence.word(),
    })
}

fn text<'s>(key: TextKey, snapshot: &'s Snapshot, id: usize, stack: &'s Stack) -> Option<&'s str> {
    match key {
        TextKey::Name => stack.name.as_deref(),
        TextKey::Entry => stack.entry.as_deref(),
        TextKey::Top => snapshot.top(id).map(AsRef::as_ref),
        TextKey::Function => None,
    }
}

/// The functions in all frames of a stack.
fn functions<'s>(snapshot: &'s Snapshot, stack: &'s Stack) -> impl Iterator<Item = &'s str> {
    let names = stack.frames.iter().flat_map(|frame| &snapshot.place(frame.frame.pc).names);
    names.filter_map(|name| name.function.as_deref())
}

fn size(key: SizeKey, stack: &Stack) -> Option<u64> {
    let peak = stack.peak.map(|peak| peak.bytes);
    match key {
        SizeKey::Used => stack.used(),
        SizeKey::Peak => peak,
        SizeKey::Size => stack.size(),
        SizeKey::Free => Some(stack.size()?.saturating_sub(peak.or(stack.used())?)),
    }
}
