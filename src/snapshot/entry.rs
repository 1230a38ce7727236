//! What a stack was started for, and where it is now: the outermost and the innermost function of the program's own code.
//!
//! Outside it lie the ways in: the C library's start, the language's thread start, a coroutine library's trampoline.
//! They are known by where their code comes from, not by a list of their names: a system library, the language's
//! standard library, or a package that a build tool fetched.

use std::collections::HashSet;
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

/// Packages that the build tool fetched, by the first part of their functions' names. Those of their functions that are
/// written in assembly have no source file to know them by.
pub(super) struct Fetched(HashSet<String>);

impl Fetched {
    /// Those that functions of a snapshot belong to.
    pub(super) fn of(places: &Places) -> Fetched {
        let names = places.iter().flat_map(|place| &place.names).filter(|name| has_foreign_source(name));
        Fetched(names.filter_map(|name| package(name.function.as_ref()?)).map(str::to_owned).collect())
    }

    fn has(&self, function: &str) -> bool {
        package(function).is_some_and(|package| self.0.contains(package))
    }
}

/// The package in the path of a Rust function.
fn package(function: &str) -> Option<&str> {
    Some(function.trim_start_matches(['<', '&']).split_once("::")?.0)
}

/// The outermost function of the program's own code on a stack. Where all code is the system's, as under an interpreter
/// that is a library, the outermost function that is no way in; `None` where the program's own code has no names.
pub(super) fn entry(frames: &[StackFrame], places: &Places, fetched: &Fetched) -> Option<Arc<str>> {
    let outermost_first = || {
        let named = |frame| named(frame, places).rev();
        frames.iter().rev().skip(usize::from(begins_in_assembly(frames, places))).flat_map(named)
    };
    let is_system = |frame: &StackFrame| places.get(frame.frame.pc).system;
    let is_own = |name: &Name| is_worth_naming(name, fetched);
    let own = outermost_first().find(|(place, name)| !place.system && is_own(name));
    let of_system = || outermost_first().find(|(_, name)| is_own(name));
    let found = own.or_else(|| frames.iter().all(is_system).then(of_system).flatten());
    found.and_then(|(_, name)| name.function.clone())
}

/// The innermost function of the program's own code; the innermost known function where none is its own.
pub(super) fn top<'p>(frames: &[StackFrame], places: &'p Places) -> Option<&'p Arc<str>> {
    let names = || frames.iter().flat_map(|frame| named(frame, places));
    let is_own = |(place, name): &(&Place, &Name)| !place.system && is_named(name) && !has_foreign_source(name);
    let own = names().find(is_own);
    let any = || names().find(|(_, name)| name.function.is_some());
    own.or_else(any).and_then(|(_, name)| name.function.as_ref())
}

/// The functions in a frame, innermost first.
fn named<'p>(
    frame: &StackFrame,
    places: &'p Places,
) -> impl DoubleEndedIterator<Item = (&'p Place, &'p Name)> + use<'p> {
    let place = places.get(frame.frame.pc);
    place.names.iter().map(move |name| (place, name))
}

/// Whether the outermost function has no source file, but the one that it called has: it is a trampoline.
fn begins_in_assembly(frames: &[StackFrame], places: &Places) -> bool {
    let has_file = |frame: &StackFrame| places.get(frame.frame.pc).names.iter().any(|name| name.file.is_some());
    matches!(frames, [.., called, outermost] if has_file(called) && !has_file(outermost))
}

fn is_worth_naming(name: &Name, fetched: &Fetched) -> bool {
    let is_fetched = |function: &Arc<str>| name.file.is_none() && fetched.has(function);
    is_named(name) && !has_foreign_source(name) && !name.function.as_ref().is_some_and(is_fetched)
}

/// Whether it has a name, which is not that of a language's way in.
fn is_named(name: &Name) -> bool {
    let is_way_in = |function: &Arc<str>| FOREIGN_NAMES.iter().any(|start| function.starts_with(start));
    name.function.as_ref().is_some_and(|function| !is_way_in(function))
}

fn has_foreign_source(name: &Name) -> bool {
    name.file.as_ref().is_some_and(|file| FOREIGN_SOURCES.iter().any(|part| file.contains(part)))
}
