//! House rules that no compiler checks: layers, file sizes, placeholders, where `unsafe` stands, and module docs.

#![allow(clippy::unwrap_used, reason = "what cannot be read fails the test")]

#[path = "tidy/circles.rs"]
mod circles;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stackscope_harness::{RECIPES, Tool};

/// The layers, lowest first: a module uses only itself and those before it.
const LAYERS: [&str; 23] = [
    "share",
    "addr",
    "memory",
    "mapping",
    "registers",
    "arch",
    "switch",
    "image",
    "process",
    "unwind",
    "sizes",
    "snapshot",
    "find",
    "look",
    "events",
    "probe",
    "filter",
    "watch",
    "report",
    "debugger",
    "own",
    "tui",
    "cli",
];

/// The layers that may hold `unsafe`.
const UNSAFE_LAYERS: [&str; 3] = ["switch", "process", "probe"];

/// The longest file that can still be read from top to bottom.
const LINES: usize = 600;

/// Signs of unfinished work, put together here so that this file does not hold them itself.
const PLACEHOLDERS: [&str; 7] = [
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("#[ig", "nore"),
    concat!("thread::", "sleep"),
];

/// Paths of one person's machine.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/tmp/", "wt"), concat!("/ho", "me/"), concat!("/ro", "ot/")];

/// The names that users of the library may rely on, beside those of `switch`: one that is added or taken away is meant.
const FRONT: [&str; 54] = [
    "Addr",
    "AddrRange",
    "Attached",
    "BlindSpot",
    "BlindSpotKind",
    "Bounds",
    "BoundsFrom",
    "CacheFolder",
    "Confidence",
    "Contexts",
    "Core",
    "CoreFiles",
    "DumpError",
    "Ended",
    "Filter",
    "FoundBy",
    "Frame",
    "FreezeError",
    "GroupBy",
    "Guard",
    "Held",
    "Kind",
    "Launched",
    "Level",
    "Lines",
    "Listing",
    "Live",
    "LookError",
    "Looker",
    "Method",
    "Naming",
    "OpenError",
    "Options",
    "Pc",
    "Peak",
    "Place",
    "SaveError",
    "Snapshot",
    "Stack",
    "StackFrame",
    "State",
    "StopError",
    "Style",
    "ThreadEntry",
    "Warning",
    "Watched",
    "Whole",
    "Wish",
    "dump_on_signal",
    "dump_self",
    "dump_self_to",
    "snapshot_self",
    "write_json",
    "write_text",
];

/// A Rust source file.
struct Source {
    /// Its path below the root of the repository.
    path: PathBuf,
    /// All of it.
    text: String,
    /// The same without comments and without what stands in strings, line for line.
    code: String,
}

impl Source {
    /// The layer it belongs to; `None` for `lib.rs`, `main.rs` and files outside `src`.
    fn layer(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src").ok()?;
        let first = inside.components().next()?.as_os_str().to_str()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(name, "lib" | "main")).then_some(name)
    }

    /// How many modules deep its items lie: 1 for `src/addr.rs` and `src/process/mod.rs`.
    fn depth(&self) -> usize {
        let parts = self.path.components().count() - 1;
        if self.path.ends_with("mod.rs") { parts - 1 } else { parts }
    }
}

fn sources() -> Vec<Source> {
    let files = files(&["src", "tests", "fixtures", "benches", "fuzz"]);
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let text = read(&path);
        let code = code_only(&text);
        Source { path, text, code }
    })
    .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below these folders, by their path from the root.
fn files(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            match entry.file_type().unwrap() {
                // Cargo marks the folders that it builds in.
                kind if kind.is_dir() && !root().join(&path).join("CACHEDIR.TAG").exists() => open.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Rust source with comments and the content of strings and characters blanked out, line breaks kept.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = token(rest);
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the comment, string or character that `text` starts with; 0 if it starts with code.
fn token(text: &str) -> usize {
    let upto = |end: &str, skip: usize| text[skip..].find(end).map_or(text.len(), |at| skip + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return upto("*/", 2);
    }
    for raw in ["r\"", "br\""] {
        if text.starts_with(raw) {
            return upto("\"", raw.len());
        }
    }
    for (raw, end) in [("r#\"", "\"#"), ("br#\"", "\"#"), ("r##\"", "\"##")] {
        if text.starts_with(raw) {
            return upto(end, raw.len());
        }
    }
    if text.starts_with('"') {
        return escaped(text, '"');
    }
    // A quote starts a lifetime unless another one closes it after one character or one escape.
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => escaped(text, '\''),
        (Some('\''), Some(inner), Some('\'')) => inner.len_utf8() + 2,
        _ => 0,
    }
}

/// The length of a quoted token in which a backslash escapes the next character.
fn escaped(text: &str, quote: char) -> usize {
    let mut backslash = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if backslash => backslash = false,
            '\\' => backslash = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The first names of all paths in `code` that start with `crate::`, groups in braces included, each with its line.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let after = &code[at + start.len()..];
        match after.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group).into_iter().map(|head| (line, head))),
            None => found.push((line, identifier(after))),
        }
    }
    found
}

/// The first names of the paths in a group, whose opening brace has been taken off.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut at_head) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && !c.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// Fails with all violations at once, so that one run shows what is to be done.
fn report(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n  {}\n", violations.join("\n  "));
}

#[test]
fn modules_use_only_lower_layers() {
    let mut violations = Vec::new();
    let number = |layer: &str| LAYERS.iter().position(|known| *known == layer);
    for source in sources() {
        let Some(layer) = source.layer() else { continue };
        let path = source.path.display();
        let Some(own) = number(layer) else {
            violations.push(format!("{path}: {layer} is no layer"));
            continue;
        };
        for (line, name) in crate_paths(&source.code) {
            // A name that is no layer is an item of the crate root, as a macro is.
            if number(&name).is_some_and(|used| used > own) {
                violations.push(format!("{path}:{line}: {layer} uses {name}, a layer above it"));
            }
        }
        let mut in_tests = 0;
        for (line, text) in source.code.lines().enumerate() {
            in_tests += usize::from(text.starts_with("mod ") && text.ends_with('{'));
            let chain = text.matches("super::").count();
            if chain > 0 && text.contains(&"super::".repeat(chain)) && chain >= source.depth() + in_tests.min(1) {
                violations.push(format!("{path}:{}: write crate:: for what lies in the root", line + 1));
            }
        }
    }
    report("a module uses only lower layers", violations);
}

#[test]
fn unsafe_stands_where_it_may() {
    let mut violations = Vec::new();
    for source in sources() {
        let in_src = source.path.starts_with("src");
        if !in_src || source.layer().is_some_and(|layer| UNSAFE_LAYERS.contains(&layer)) {
            continue;
        }
        for (line, text) in source.code.lines().enumerate() {
            if has_word(text, "unsafe") || text.contains("allow(unsafe_code)") {
                violations.push(format!("{}:{}", source.path.display(), line + 1));
            }
        }
    }
    report("unsafe only in switch, process and probe", violations);
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > LINES).then(|| format!("{}: {lines} lines", source.path.display()))
    };
    report("no file over 600 lines", sources().iter().filter_map(long).collect());
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |source: &Source| {
        let first: Vec<&str> =
            source.text.lines().take_while(|line| line.starts_with("//!") && line.len() > 3).collect();
        let sentence = first.first().is_some_and(|line| line.starts_with("//! "))
            && first.last().is_some_and(|line| line.ends_with(['.', '?', ':']));
        (!sentence).then(|| source.path.display().to_string())
    };
    report("a file starts with //! and a whole sentence", sources().iter().filter_map(silent).collect());
}

#[test]
fn nothing_is_left_unfinished() {
    let mut violations = Vec::new();
    for source in sources() {
        for (line, text) in source.text.lines().enumerate() {
            for placeholder in PLACEHOLDERS {
                let found = match placeholder.chars().all(|c| c.is_ascii_uppercase()) {
                    true => has_word(text, placeholder),
                    false => text.contains(placeholder),
                };
                if found {
                    violations.push(format!("{}:{}: {placeholder}", source.path.display(), line + 1));
                }
            }
        }
    }
    report("no placeholders, no ignored tests, no sleeping", violations);
}

#[test]
fn no_path_of_one_machine_is_kept() {
    let mut paths = files(&["src", "tests", "fixtures", "benches", "fuzz", "docs", ".ci"]);
    paths.extend(["README.md", "CHANGELOG.md", "Cargo.toml", "test.sh"].map(PathBuf::from));
    let mut violations = Vec::new();
    for path in paths {
        // What is not text, as a core file kept for a test, has no lines to look at; a page not yet written has none.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (line, text) in text.lines().enumerate() {
            if MACHINE_PATHS.iter().any(|machine| text.contains(machine)) {
                violations.push(format!("{}:{}: {}", path.display(), line + 1, text.trim()));
            }
        }
    }
    report("no path of one machine", violations);
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let code =
        code_only("let a = 'x'; // unsafe\nlet b: &'a str = \"unsafe \\\" {\"; /* unsafe */ f(r#\"unsafe\"#, '\\'')");
    assert!(!code.contains("unsafe") && !code.contains('x'), "{code}");
    assert!(code.contains("let b: &'a str") && code.contains("f(") && code.lines().count() == 2, "{code}");
}

#[test]
fn paths_are_found_in_groups_too() {
    let paths = crate_paths("use crate::{addr::{Addr, Pc}, tui, cli::run};\npub(crate) fn f() { crate::probe::g() }");
    let names: Vec<&str> = paths.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["addr", "tui", "cli", "probe"]);
    assert_eq!(paths[3].0, 2);
}

/// What stands in backquotes in the first cells of a page's tables.
fn first_cells(page: &str) -> Vec<&str> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_fixture_is_described() {
    let page = read(Path::new("fixtures/README.md"));
    let described = first_cells(&page);
    let mut violations = Vec::new();
    for path in files(&["fixtures"]) {
        let name = path.strip_prefix("fixtures").unwrap().to_str().unwrap();
        let is_source = !name.starts_with("harness/") && !name.ends_with("Cargo.toml") && name != "README.md";
        if is_source && !described.contains(&name) {
            violations.push(format!("{name} has no line"));
        }
    }
    for name in described {
        if !root().join("fixtures").join(name).exists() {
            violations.push(format!("{name} does not exist"));
        }
    }
    report("fixtures/README.md has a line for each source, and for no other", violations);
}

#[test]
fn every_fixture_is_built() {
    let page = read(Path::new("fixtures/README.md"));
    let is_built = |source: &str| {
        RECIPES.iter().any(|recipe| match recipe.tool {
            Tool::Cargo => source.ends_with(&format!("/bin/{}.rs", recipe.source)),
            _ => source == recipe.source,
        })
    };
    let rows = page.lines().filter(|line| !line.contains("| (shared) ") && !line.contains("| (not a recipe: "));
    let unused = rows.flat_map(first_cells).filter(|source| !is_built(source));
    report("each fixture has a recipe", unused.map(str::to_owned).collect());
}

#[test]
fn the_map_is_that_of_the_sources() {
    let page = read(Path::new("docs/ARCHITECTURE.md"));
    let mut violations = Vec::new();
    if !page.contains(&LAYERS.join(" < ")) {
        violations.push("the layers are others than here".to_owned());
    }
    let listed: Vec<&str> = first_cells(&page).into_iter().map(|name| name.trim_end_matches('/')).collect();
    let sources = sources();
    for layer in sources.iter().filter_map(Source::layer).collect::<BTreeSet<_>>() {
        if !listed.contains(&layer) {
            violations.push(format!("{layer} is not in the table"));
        }
    }
    let exists = |path: &Path| sources.iter().any(|source| source.path == path);
    let is_module = |path: &Path| exists(&path.with_extension("rs")) || exists(&path.join("mod.rs"));
    for name in page.split('`').skip(1).step_by(2).chain(listed) {
        let path = Path::new("src").join(name.replace("::", "/"));
        let is_file = name.ends_with(".rs") && LAYERS.iter().any(|layer| name.starts_with(&format!("{layer}/")));
        let is_path = name.split_once("::").is_some_and(|(layer, inner)| {
            LAYERS.contains(&layer) && inner.chars().all(|c| c.is_lowercase() || "_:".contains(c))
        });
        if is_file && !exists(&path) || is_path && !is_module(&path) {
            violations.push(format!("{name} does not exist"));
        }
    }
    report("docs/ARCHITECTURE.md names the modules that there are", violations);
}

#[test]
fn the_front_is_the_one_that_is_meant() {
    let library = code_only(&read(Path::new("src/lib.rs")));
    let (before, after) = library.split_once("mod front {").unwrap();
    let (front, after) = after.split_once("\n}\n").unwrap();
    let words = front.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let shown = words.filter(|word| !word.is_empty() && !word.ends_with("::") && !["pub", "use", "as"].contains(word));
    let mut names: BTreeSet<&str> = shown.map(|word| word.rsplit("::").next().unwrap()).collect();
    // What is renamed is shown by its new name alone.
    names.remove("write");
    assert_eq!(names, FRONT.into_iter().collect());
    let shown =
        |part: &str| part.lines().filter(|line| line.starts_with("pub ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(shown(before), ["pub mod switch;", "pub mod cli;", "pub use front::*;"]);
    assert_eq!(shown(after), ["pub mod workshop {"]);
}
