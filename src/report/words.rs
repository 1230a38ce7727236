//! The words by which people read kinds, states and threads; the same in a report and on a screen.

use crate::image::printable;
use crate::report::units;
use crate::snapshot::{Apart, Guard, Kind, Snapshot};
use crate::unwind::Ended;

/// What a stack of this kind is called.
pub(crate) fn singular(kind: Kind) -> &'static str {
    match kind {
        Kind::Thread => "thread",
        Kind::Coroutine => "coroutine",
        Kind::Segment => "segment",
        Kind::Signal => "signal stack",
        Kind::Unknown => "stack of unknown kind",
    }
}

/// What `count` stacks of this kind are called.
pub(crate) fn plural(kind: Kind, count: usize) -> String {
    match (kind, count) {
        (_, 1) => singular(kind).to_owned(),
        (Kind::Unknown, _) => "stacks of unknown kind".to_owned(),
        _ => format!("{}s", singular(kind)),
    }
}

/// The word with a capital letter.
pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// `thread 48213 "chatd"`.
pub(super) fn thread_words(tid: Option<i32>, snapshot: &Snapshot) -> String {
    let thread = snapshot.threads.iter().find(|thread| Some(thread.tid) == tid);
    thread.map_or("a thread".to_owned(), |thread| format!("thread {}{}", thread.tid, quoted(&thread.name)))
}

/// A space and the name in quotes; nothing if there is none.
pub(super) fn quoted(name: &Option<String>) -> String {
    name.as_ref().map_or(String::new(), |name| format!(" \"{}\"", printable(name)))
}

/// What lies below a stack.
pub(crate) fn guard_words(guard: Guard) -> String {
    match guard {
        Guard::Ok(range) => format!("guard {} ok", units::bytes(range.len())),
        Guard::None => "no guard".to_owned(),
        Guard::Grows => "grows".to_owned(),
        Guard::Unknown => "guard unknown".to_owned(),
    }
}

/// What was touched far below all that was used, and why it is not counted.
pub(crate) fn apart_words(apart: Apart) -> String {
    let pages = if apart.pages == 1 { "page" } else { "pages" };
    let (count, bytes) = (apart.pages, units::bytes(apart.bytes));
    format!("not counted: {count} {pages} touched {bytes} down, apart from what was used")
}

/// How the chain gets from a stack of this kind to the next.
pub(super) fn crossing_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Signal => "interrupted",
        Kind::Segment => "grown from",
        _ => "resumed by",
    }
}

/// Why there are no more frames; `None` if nothing is missing.
pub(super) fn ended_words(ended: Ended) -> Option<String> {
    match ended {
        Ended::Root => None,
        Ended::NoRule => Some("ends here: nothing says how to unwind this code".to_owned()),
        Ended::Unreadable(at) => Some(format!("ends here: the stack at {at} cannot be read")),
        Ended::Repeats => Some("ends here: the same frame comes again".to_owned()),
        Ended::TooDeep => Some("cut here: too many frames".to_owned()),
    }
}
