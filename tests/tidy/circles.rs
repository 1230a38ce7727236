//! No file circles: of files that need each other none can be read alone.
//!
//! A folder's `mod.rs` holds the words that its files share and the door through which they are used, so that a file may
//! use the `mod.rs` of a folder that it lies in: that is no circle.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, has_word, identifier, report, sources};

/// Circles that are known and wait to be cut: the files of each, below `src`, and why they still hang together.
const KNOWN: [(&[&str], &str); 4] = [
    (
        &[
            "find/suspended/begun",
            "find/suspended/chains",
            "find/suspended/choose",
            "find/suspended/climb",
            "find/suspended/contexts",
        ],
        "a segment's record stands in chains, and whether a word lies among ranges in choose",
    ),
    (
        &[
            "image/debug_files",
            "image/dwarf",
            "image/dwarf/split",
            "image/file",
            "image/in_memory",
            "image/modules",
            "image/names",
            "image/perf_map",
            "image/pointers",
            "image/symbols",
            "image/unwind_sections",
        ],
        "an image keeps, once it was asked, what each of the others makes of its bytes",
    ),
    (&["sizes/graph", "sizes/link"], "what links routines fills the graph that they are kept in"),
    (
        &["switch/owned", "switch/roster", "switch/source"],
        "a roster's line says how large the guards of the sources are",
    ),
];

/// A module by its path from the crate's root.
type Module = Vec<String>;

/// A file's code, and what of it counts here.
struct File {
    /// All but what it passes on, comments and tests.
    code: String,
    /// What it passes on (`pub use`): each name with the path that it stands for.
    passed_on: BTreeMap<String, Vec<String>>,
}

impl File {
    fn of(source: &Source) -> File {
        let mut code = source.code.clone();
        if let Some(tests) = code.find("#[cfg(test)]\nmod tests {") {
            code.truncate(tests);
        }
        let (mut rest, mut passed_on) = (String::new(), BTreeMap::new());
        let mut left = code.as_str();
        while let Some(line) = left.split_inclusive('\n').next() {
            let start = line.trim_start();
            let used = start.strip_prefix("pub").and_then(|public| public.split_once("use ")).map(|(scope, _)| scope);
            let is_passed_on =
                used.is_some_and(|scope| scope == " " || scope.starts_with('(') && scope.ends_with(") "));
            let length = if is_passed_on { left.find(';').map_or(left.len(), |end| end + 1) } else { line.len() };
            if is_passed_on {
                let names = paths(&left[..length]).into_iter().filter(|path| path.len() > 1);
                passed_on.extend(names.filter_map(|path| Some((path.last()?.clone(), path))));
            } else {
                rest.push_str(line);
            }
            left = &left[length..];
        }
        File { code: rest, passed_on }
    }
}

/// All files of the library that are no tests.
struct Tree(BTreeMap<Module, File>);

impl Tree {
    fn new() -> Tree {
        let sources = sources();
        let files = sources.iter().filter(|source| source.layer().is_some());
        Tree(files.filter_map(|source| Some((module(source)?, File::of(source)))).collect())
    }

    /// The file that a path leads to from module `from`, through whatever passes the name on.
    fn resolve(&self, from: &[String], path: &[String], hops: usize) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Module::new(),
            "self" => from.to_vec(),
            "super" => from.split_last()?.1.to_vec(),
            _ => [from, std::slice::from_ref(first)].concat(),
        };
        if !at.is_empty() && !self.0.contains_key(&at) {
            return None;
        }
        for name in rest {
            let inner = [&at[..], std::slice::from_ref(name)].concat();
            if name == "super" {
                at.pop();
            } else if self.0.contains_key(&inner) {
                at = inner;
            } else {
                let onwards = self.0.get(&at).and_then(|file| file.passed_on.get(name)).filter(|_| hops > 0);
                return onwards.and_then(|path| self.resolve(&at, path, hops - 1)).or(Some(at));
            }
        }
        Some(at)
    }

    /// The files that each file uses.
    fn uses(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, file): (&Module, &File)| {
            let named = paths(&file.code);
            // A name that is passed on may be used in the same file.
            let own = file.passed_on.iter().filter(|(name, _)| file.code.lines().any(|line| has_word(line, name)));
            let all = named.iter().filter(|path| path.len() > 1).chain(own.map(|(_, path)| path));
            all.filter_map(|path| self.resolve(module, path, 4))
                .filter(|used| self.0.contains_key(used) && !module.starts_with(used))
                .collect()
        };
        self.0.iter().map(|entry| (entry.0, of(entry))).collect()
    }
}

/// The module of a source; `None` for tests.
fn module(source: &Source) -> Option<Module> {
    let path = source.path.strip_prefix("src").ok()?.with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.iter().any(|part| part.ends_with("tests") || part == "testing") {
        return None;
    }
    parts.pop_if(|last| last == "mod");
    Some(parts)
}

/// All paths in code, those in braces each for itself.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if identifier(rest).is_empty() { 0 } else { path(rest, &[], &mut found) };
        rest = &rest[length.max(first.len_utf8())..];
    }
    found
}

/// Takes the path that `text` starts with, which goes on from `before`; returns its length.
fn path(text: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let name = identifier(text);
    let whole = [before, std::slice::from_ref(&name)].concat();
    let Some(after) = text[name.len()..].strip_prefix("::").filter(|_| !name.is_empty()) else {
        found.push(whole);
        return name.len();
    };
    let mut at = name.len() + 2;
    if !after.starts_with('{') {
        return at + path(after, &whole, found);
    }
    at += 1;
    while let Some(next) = text[at..].chars().next().filter(|next| *next != '}') {
        let part = if identifier(&text[at..]).is_empty() { 0 } else { path(&text[at..], &whole, found) };
        at += part.max(next.len_utf8());
    }
    at + 1
}

/// All that is reached from `start`, over one step or more.
fn reached<'m>(uses: &'m BTreeMap<&Module, BTreeSet<Module>>, start: &Module) -> BTreeSet<&'m Module> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Module> = uses.get(start).into_iter().flatten().collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(uses.get(module).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn no_files_need_each_other() {
    let tree = Tree::new();
    let uses = tree.uses();
    let reach: BTreeMap<&Module, _> = uses.keys().map(|module| (*module, reached(&uses, module))).collect();
    let mut circles = BTreeSet::new();
    for (module, far) in &reach {
        let circle: BTreeSet<&Module> = far.iter().copied().filter(|other| reach[other].contains(module)).collect();
        circles.insert(circle);
    }
    let mut violations = Vec::new();
    for circle in circles.iter().filter(|circle| !circle.is_empty()) {
        let names: Vec<String> = circle.iter().map(|module| module.join("/")).collect();
        if KNOWN.iter().any(|(known, _)| *known == names) {
            continue;
        }
        violations.push(names.join(", "));
        for module in circle {
            let used = uses[module].iter().filter(|used| circle.contains(used)).map(|used| used.join("/"));
            violations.push(format!("    {} uses {}", module.join("/"), used.collect::<Vec<_>>().join(", ")));
        }
    }
    let is_there = |known: &[&str]| {
        circles.iter().any(|circle| circle.iter().map(|module| module.join("/")).eq(known.iter().copied()))
    };
    let gone = KNOWN.iter().filter(|(known, _)| !is_there(known));
    violations.extend(gone.map(|(known, _)| format!("{} is no circle any more", known.join(", "))));
    report("no files that need each other", violations);
}

#[test]
fn paths_are_taken_apart() {
    let found = paths("use super::{a::{B, c}, d::*};\nlet x = e::f(g.h::<i>());");
    let found: Vec<String> = found.iter().map(|path| path.join("::")).filter(|path| path.contains("::")).collect();
    assert_eq!(found, ["super::a::B", "super::a::c", "super::d::", "e::f", "h::"]);
}
