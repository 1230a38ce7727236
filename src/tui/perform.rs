//! Does what a line of the command line says.

use std::time::Duration;

use super::act::act;
use super::commands::{COLUMNS, GROUPS};
use super::keys::Action;
use super::model::{Effect, Model, Overlay, Page};
use super::sort::Sort;
use super::theme::Theme;
use crate::filter::Filter;

/// Does what a command says; what is wrong with it is said instead, and it can be mended.
pub(super) fn perform(model: &mut Model, text: &str) -> Option<Effect> {
    match run(model, text.trim()) {
        Ok(effect) => effect,
        Err(problem) => {
            model.notice = Some(problem);
            model.overlay = Overlay::Command { text: text.to_owned() };
            None
        }
    }
}

fn run(model: &mut Model, text: &str) -> Result<Option<Effect>, String> {
    let (command, word) = text.split_once(' ').map_or((text, ""), |(command, rest)| (command, rest.trim()));
    let action = match command {
        "" => return Ok(None),
        "stacks" => Some(Action::Stacks),
        "events" => Some(Action::Events),
        "output" => Some(Action::Output),
        "report" => Some(Action::Report),
        "reverse" => Some(Action::Reverse),
        "freeze" => Some(Action::Freeze),
        "stop" => Some(Action::Pause),
        "help" => Some(Action::Help),
        "quit" | "q" => Some(Action::Quit),
        _ => None,
    };
    if let Some(action) = action {
        return Ok(act(model, action));
    }
    match command {
        "groups" => groups(model, word),
        "goto" => goto(model, word),
        "sort" => sort(model, word),
        "dump" => Ok(Some(Effect::Dump((!word.is_empty()).then(|| word.to_owned())))),
        "filter" => {
            model.wanted.filter = Filter::parse(word).map_err(|error| error.to_string())?;
            Ok(Some(Effect::Arrange))
        }
        "interval" => {
            let milliseconds: u64 = word.parse().map_err(|_| format!("no number of milliseconds: {word}"))?;
            Ok(Some(model.set_interval(Duration::from_millis(milliseconds))))
        }
        "theme" => {
            let theme = Theme::ALL.into_iter().find(|theme| theme.name() == word);
            model.look.theme = theme.ok_or_else(|| format!("no theme is called {word}"))?;
            Ok(Some(Effect::Redraw))
        }
        _ => Err(format!("no command is called {command}")),
    }
}

fn groups(model: &mut Model, word: &str) -> Result<Option<Effect>, String> {
    if !word.is_empty() {
        let found = GROUPS.iter().find(|(_, name, _)| *name == word);
        model.wanted.group_by = found.ok_or_else(|| format!("stacks are not put together by {word}"))?.2;
    }
    model.show(Page::Groups);
    Ok(Some(Effect::Arrange))
}

fn sort(model: &mut Model, word: &str) -> Result<Option<Effect>, String> {
    let at = COLUMNS.iter().position(|column| *column == word).ok_or_else(|| format!("no column is called {word}"))?;
    model.reorder(|order| order.sort = Sort::ALL[at]);
    Ok(Some(Effect::Arrange))
}

/// Selects the stack with a number, `1042` or `#1042`, or the one that a thread began on.
fn goto(model: &mut Model, word: &str) -> Result<Option<Effect>, String> {
    let is_written = |id: &usize| model.picture.number(*id).trim_start_matches('#') == word.trim_start_matches('#');
    let ids = 0..model.picture.snapshot.stacks.len();
    // A thread's number counts before that of a stack.
    let exact = ids.clone().find(|id| model.picture.number(*id) == word);
    let id = exact.or_else(|| ids.into_iter().find(is_written)).ok_or_else(|| format!("no stack has number {word}"))?;
    model.show(Page::Stacks);
    match model.list().rows.position(id) {
        Some(_) => model.select(id),
        None => return Err(format!("the filter hides stack {word}")),
    }
    Ok(None)
}
