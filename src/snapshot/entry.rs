//! What a stack was started for, and where it is now: the outermost and the innermost function of the program's own
//! code.
//!
//! Outside it lie the ways in: the C library's start, the language's thread start, a coroutine library's trampoline.
//! They are recognized by where their code comes from, not by a list of their names: a system library, the language's
//! standard library, or a package that a build tool fetched.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::HashMap;

use super::{Place, Places, StackFrame};
use crate::addr::Pc;
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

/// Packages that the build tool fetched, by the first part of their functions' names: their functions
/// in assembly have no source file to recognize them by.
struct Fetched(HashSet<String>);

impl Fetched {
    /// Those that the functions of a snapshot belong to.
    fn of(places: &Places) -> Fetched {
        let names = places.iter().flat_map(|(_, place)| &place.names).filter(|name| has_foreign_source(name));
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

/// What matters of each place when the outermost function of a stack is searched for.
pub(crate) struct Entries<'p>(HashMap<Pc, Facts<'p>>);

/// What matters of one place.
#[derive(Clone, Copy)]
struct Facts<'p> {
    is_system: bool,
    has_file: bool,
    /// The outermost function there that is no way in.
    own: Option<&'p Arc<str>>,
}

impl<'p> Entries<'p> {
    /// Those of a snapshot's places.
    pub(crate) fn of(places: &'p Places) -> Entries<'p> {
        let fetched = Fetched::of(places);
        let facts = |place: &'p Place| {
            let own = place.names.iter().rev().find(|name| is_worth_naming(name, &fetched));
            Facts {
                is_system: place.system,
                has_file: place.names.iter().any(|name| name.file.is_some()),
                own: own.and_then(|name| name.function.as_ref()),
            }
        };
        Entries(places.iter().map(|(pc, place)| (pc, facts(place))).collect())
    }

    /// The outermost function of the program's own code on a stack. If all code is the system's, as under an
    /// interpreter that is a library, the outermost function that is no way in; `None` if the program's own code has no
    /// names.
    pub(crate) fn entry(&self, frames: &[StackFrame]) -> Option<Arc<str>> {
        let facts = |frame: &StackFrame| self.0.get(&frame.frame.pc);
        // The outermost function has no source file, but the one that it called has: it is a trampoline.
        let begins_in_assembly = match frames {
            [.., called, outermost] => {
                facts(called).is_some_and(|facts| facts.has_file)
                    && facts(outermost).is_none_or(|facts| !facts.has_file)
            }
            _ => false,
        };
        let outermost_first = || frames.iter().rev().skip(usize::from(begins_in_assembly)).filter_map(facts);
        let own = outermost_first().filter(|facts| !facts.is_system).find_map(|facts| facts.own);
        let is_all_system = || frames.iter().all(|frame| facts(frame).is_some_and(|facts| facts.is_system));
        own.or_else(|| outermost_first().find_map(|facts| facts.own).filter(|_| is_all_system())).cloned()
    }
}

/// The innermost function of the program's own code; the innermost known function if none is its own.
pub(super) fn top<'p>(frames: &[StackFrame], places: &'p Places) -> Option<&'p Arc<str>> {
    let names = || frames.iter().flat_map(|frame| named(frame, places));
    let own = names().find(|(place, name)| is_own(place, name));
    let any = || names().find(|(_, name)| name.function.is_some());
    own.or_else(any).and_then(|(_, name)| name.function.as_ref())
}

/// The innermost function of the program's own code, else of a package's, else any.
pub(super) fn holder<'p>(frames: &[StackFrame], places: &'p Places) -> Option<&'p Arc<str>> {
    let names = || frames.iter().flat_map(|frame| named(frame, places));
    let own = names().find(|(place, name)| is_own(place, name));
    let of_package = || names().find(|(place, name)| !place.system && is_named(name));
    let any = || names().find(|(_, name)| name.function.is_some());
    own.or_else(of_package).or_else(any).and_then(|(_, name)| name.function.as_ref())
}

/// Whether a place is in the program's own code.
pub(super) fn has_own(place: &Place) -> bool {
    place.names.iter().any(|name| is_own(place, name))
}

fn is_own(place: &Place, name: &Name) -> bool {
    !place.system && is_named(name) && !has_foreign_source(name)
}

/// The functions in a frame, innermost first.
fn named<'p>(
    frame: &StackFrame,
    places: &'p Places,
) -> impl DoubleEndedIterator<Item = (&'p Place, &'p Name)> + use<'p> {
    let place = places.get(frame.frame.pc);
    place.names.iter().map(move |name| (place, name))
}

fn is_worth_naming(name: &Name, fetched: &Fetched) -> bool {
    let is_fetched = |function: &Arc<str>| name.file.is_none() && fetched.has(function);
    is_named(name) && !has_foreign_source(name) && !name.function.as_ref().is_some_and(is_fetched)
}

/// Whether it has a name that is not that of a language's way in.
fn is_named(name: &Name) -> bool {
    let is_way_in = |function: &Arc<str>| FOREIGN_NAMES.iter().any(|start| function.starts_with(start));
    name.function.as_ref().is_some_and(|function| !is_way_in(function))
}

fn has_foreign_source(name: &Name) -> bool {
    name.file.as_ref().is_some_and(|file| FOREIGN_SOURCES.iter().any(|part| file.contains(part)))
}
