//! What a stack was started for, and where it is now: the outermost and the innermost function of the program's own code.
//!
//! Outside it lie the ways in: the C library's start, the language's thread start, a coroutine library's trampoline.
//! They are known by where their code comes from, not by a list of their names: a system library, the language's
//! standard library, or a package that a build tool fetched.

use std::sync::Arc;

use super::{Place, Places, StackFrame};
use crate::image::names::Name;

/// Parts of the paths under which sources lie that are not the program's own.
const FOREIGN_SOURCES: &[&str] = &[
    "/rustc/",
    "/.cargo/registry/",
    "/.cargo/git/",
    "/library/std/",
    "/library/core/",
    "/usr/include/",
    "../sysdeps/",
];

/// First parts of function names that belong to a language's own start-up code, to C's start files, and to our own
/// coroutines.
const FOREIGN_NAMES: &[&str] = &[
    "std::",
    "core::",
    "alloc::",
    "<alloc::",
    "<core::",
    "<std::",
    "__rust",
    "_start",
    "__libc_",
    "__clone",
    "clone3",
    "start_thread",
    "void std::",
    "decltype",
    "runtime.",
    "__gnu_cxx::",
    "stackscope::switch::",
    "<stackscope::switch::",
];

/// The outermost function of the program's own code on a stack; the outermost known function where none is its own.
pub(super) fn entry(frames: &[StackFrame], places: &Places) -> Option<Arc<str>> {
    let outermost_first = || frames.iter().rev().flat_map(|frame| named(frame, places).rev());
    first_own(outermost_first).cloned()
}

/// The innermost one.
pub(super) fn top<'p>(frames: &[StackFrame], places: &'p Places) -> Option<&'p Arc<str>> {
    first_own(|| frames.iter().flat_map(|frame| named(frame, places)))
}

/// The functions in a frame, innermost first.
fn named<'p>(
    frame: &StackFrame,
    places: &'p Places,
) -> impl DoubleEndedIterator<Item = (&'p Place, &'p Name)> + use<'p> {
    let place = places.get(frame.frame.pc);
    place.names.iter().map(move |name| (place, name))
}

fn first_own<'p, I: Iterator<Item = (&'p Place, &'p Name)>>(names: impl Fn() -> I) -> Option<&'p Arc<str>> {
    let own = names().find(|(place, name)| is_own(place, name));
    let any = || names().find(|(_, name)| name.function.is_some());
    own.or_else(any).and_then(|(_, name)| name.function.as_ref())
}

fn is_own(place: &Place, name: &Name) -> bool {
    let Some(function) = &name.function else { return false };
    if place.system || FOREIGN_NAMES.iter().any(|start| function.starts_with(start)) {
        return false;
    }
    name.file.as_ref().is_none_or(|file| !FOREIGN_SOURCES.iter().any(|part| file.contains(part)))
}
