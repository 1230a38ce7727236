//! Finds where commands are named: in Rust and Python sources, in shell scripts, and in the documents' lines for a shell.

use std::fs;
use std::path::{Path, PathBuf};

/// A place that names a command.
#[derive(Debug)]
pub(crate) struct Mention {
    pub(crate) command: String,
    pub(crate) place: PathBuf,
    /// Whether it can be nothing else; otherwise it is a command if there is one of this name.
    pub(crate) is_certain: bool,
}

/// What no sentence holds, but a line for a shell.
const SHELL_SIGNS: [&str; 5] = ["&& ", "| ", "$", "echo ", "exec "];

/// Words after which a shell expects a command.
const SHELL_WORDS: [&str; 11] = ["!", "do", "else", "exec", "if", "then", "until", "while", "nice", "time", "env"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below these folders or named by these paths, by their path from the root.
pub(crate) fn files(paths: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        let full = root().join(&path);
        if full.is_file() {
            found.push(path);
        } else if !full.join("CACHEDIR.TAG").exists() {
            open.extend(fs::read_dir(full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
    }
    found.sort();
    found
}

/// Every place that names a command, or may.
pub(crate) fn mentions() -> Vec<Mention> {
    let mut mentions = Vec::new();
    for place in files(&["test.sh", "README.md", "docs", "src", "tests", "fixtures", "benches"]) {
        // This test names what it looks for.
        let Some(kind) = place.extension().filter(|_| !place.starts_with("tests/packages")) else { continue };
        let text = || fs::read_to_string(root().join(&place)).unwrap();
        let found = match kind.to_str() {
            Some("rs") if place.starts_with("src") => of_program(tests_of(&place, &text())),
            Some("rs" | "py") => of_program(&text()),
            Some("sh") => of_script(&text()),
            Some("md") => of_document(&text()),
            _ => Vec::new(),
        };
        mentions.extend(found.into_iter().map(|(command, is_certain)| Mention {
            command,
            place: place.clone(),
            is_certain,
        }));
    }
    assert!(mentions.len() > 100, "{mentions:?}");
    mentions
}

/// The tests in a source of the tool, which itself runs nothing but what its user names.
fn tests_of<'t>(place: &Path, text: &'t str) -> &'t str {
    let is_test = place.iter().any(|part| part.to_string_lossy().contains("test"));
    if is_test { text } else { text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests) }
}

type Found = Vec<(String, bool)>;

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "._+-".contains(letter))
        && word.contains(|letter: char| letter.is_ascii_lowercase())
}

/// Commands among the string literals of a Rust or Python source.
fn of_program(text: &str) -> Found {
    let mut found = Found::new();
    for (start, literal, end) in literals(text) {
        let (before, after) = (&text[..start], &text[end..]);
        let is_certain = ["Command::new(", "execvp("].iter().any(|call| before.ends_with(call));
        if is_name(literal) {
            let stands_alone = [".arg(", "Some(", "=> ", ": &str = "].iter().any(|sign| before.ends_with(sign));
            if is_certain || stands_alone || after.starts_with(", &[") || is_in_list(before) {
                found.push((literal.to_owned(), is_certain));
            }
        } else if before.ends_with("\"-c\", ") || SHELL_SIGNS.iter().any(|sign| literal.contains(sign)) {
            found.extend(of_shell(&literal.replace('\\', "")).into_iter().map(|command| (command, false)));
        }
    }
    found
}

/// Whether what follows is an element of a list of arguments.
fn is_in_list(before: &str) -> bool {
    let Some(open) = before.rfind('[') else { return false };
    let list = &before[..open];
    (list.ends_with("args(") || list.ends_with('&')) && !before[open..].contains(']')
}

/// Start, content and end of each string literal that stands between simple quotes; comments are passed over.
fn literals(text: &str) -> Vec<(usize, &str, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") || rest.starts_with("# ") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(quote) = ["'\"'", "'\\\"'", "b'\"'"].iter().find(|quote| rest.starts_with(**quote)) {
            quote.len()
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            3 + raw.find("\"#").map_or(raw.len(), |end| end + 2)
        } else if let Some(inside) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = inside.find(|letter| {
                let ends = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                ends
            });
            let end = end.unwrap_or(inside.len());
            found.push((at, &inside[..end], (at + end + 2).min(text.len())));
            end + 2
        } else {
            first.len_utf8()
        };
        at = (at + length).min(text.len());
    }
    found
}

/// Commands of a shell script, and what it names for cargo to run.
fn of_script(text: &str) -> Found {
    let (before, list) = text.split_once("\npackages=(").unwrap_or((text, ""));
    let rest = list.split_once("\n)\n").map_or("", |(_, rest)| rest);
    let lines = [before, rest].concat();
    let lines: Vec<&str> = lines
        .lines()
        .map(|line| line.split(" #").next().unwrap_or(line))
        .filter(|line| !line.starts_with('#'))
        .collect();
    let own: Vec<&str> = lines.iter().filter_map(|line| Some(line.split_once("() {")?.0)).collect();
    let mut found = Found::new();
    for line in &lines {
        found.extend(
            of_shell(line)
                .into_iter()
                .filter(|command| !own.contains(&command.as_str()))
                .map(|command| (command, false)),
        );
        for named in ["_LINKER=", "_RUNNER="].iter().filter_map(|sign| line.split_once(sign)) {
            let word: String =
                named.1.trim_start_matches('"').chars().take_while(|letter| !" \"".contains(*letter)).collect();
            found.extend(Some(word).filter(|word| is_name(word)).map(|word| (word, true)));
        }
    }
    found
}

/// Commands in a document's blocks for a shell, and in its code with options.
fn of_document(text: &str) -> Found {
    let mut found = Found::new();
    for block in text.split("\n```").filter_map(|block| block.strip_prefix("sh\n")) {
        // A quoted text may hold what looks like a command.
        let unquoted: String = block.split('\'').step_by(2).collect();
        let lines = unquoted.lines().map(|line| line.split(" #").next().unwrap_or(line));
        found.extend(lines.flat_map(of_shell).map(|command| (command, true)));
    }
    for code in text.split('`').filter(|code| code.contains(" -") && !code.contains('[')) {
        found.extend(code.split(' ').next().filter(|word| is_name(word)).map(|word| (word.to_owned(), false)));
    }
    found
}

/// The words that stand where a shell expects a command.
fn of_shell(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split(['\n', ';', '|', '&', '(', '{', '"', '\'', '`']) {
        for word in part.split_whitespace() {
            let is_assignment = word
                .split_once('=')
                .is_some_and(|(name, _)| name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'));
            if !is_assignment && !SHELL_WORDS.contains(&word) {
                found.extend(Some(word.to_owned()).filter(|word| is_name(word)));
                break;
            }
            found.extend(Some(word.to_owned()).filter(|word| ["nice", "time", "env"].contains(&word.as_str())));
        }
    }
    found
}
