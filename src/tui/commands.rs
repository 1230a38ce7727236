//! The words of the command line: words for what keys do, and for what takes a word more.

use super::theme::Theme;
use crate::report::GroupBy;

/// The commands, each with what follows it and what it does.
pub(super) const COMMANDS: [(&str, &str, &str); 16] = [
    ("stacks", "", "all stacks"),
    ("groups", "[stack|entry|top|state]", "stacks in groups"),
    ("events", "", "what happened"),
    ("output", "", "the program's terminal"),
    ("report", "", "the report so far"),
    ("goto", "NUMBER", "the stack with this number, or of this thread"),
    ("filter", "[EXPR]", "show only what fits"),
    ("sort", "COLUMN", "sort by head, now, peak, size, name or id"),
    ("reverse", "", "reverse the order"),
    ("dump", "[FILE]", "write what is shown to a file"),
    ("interval", "MILLISECONDS", "the time between two looks"),
    ("theme", "NAME", "ansi, dark, light, colorblind or mono"),
    ("freeze", "", "freeze, thaw the display"),
    ("stop", "", "stop the program, let it go on"),
    ("help", "", "the help page"),
    ("quit", "", "leave"),
];

/// The names of columns, in the order of [`Sort::ALL`](super::sort::Sort::ALL).
pub(super) const COLUMNS: [&str; 6] = ["head", "now", "peak", "size", "name", "id"];

/// By what stacks may be put together, with the key for each.
pub(super) const GROUPS: [(char, &str, GroupBy); 4] = [
    ('s', "stack", GroupBy::Stack),
    ('e', "entry", GroupBy::Entry),
    ('t', "top", GroupBy::Top),
    ('a', "state", GroupBy::State),
];

/// Completes a command that is being typed, as far as there is only one way.
pub(super) fn complete(text: &str) -> String {
    let (command, rest) = match text.split_once(' ') {
        None => ("", text),
        Some((command, rest)) => (command, rest),
    };
    let candidates: Vec<&str> = match command {
        "" => COMMANDS.iter().map(|(name, ..)| *name).collect(),
        "sort" => COLUMNS.to_vec(),
        "groups" => GROUPS.iter().map(|(_, name, _)| *name).collect(),
        "theme" => Theme::ALL.iter().map(|theme| theme.name()).collect(),
        _ => Vec::new(),
    };
    let mut fitting = candidates.into_iter().filter(|candidate| candidate.starts_with(rest));
    let Some(first) = fitting.next() else { return text.to_owned() };
    let common = fitting.fold(first.to_owned(), |common, other| {
        common.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(letter, _)| letter).collect()
    });
    let is_whole = common == first && command.is_empty() && COMMANDS.iter().any(|(name, ..)| *name == common);
    let space = if is_whole { " " } else { "" };
    if command.is_empty() { format!("{common}{space}") } else { format!("{command} {common}") }
}
