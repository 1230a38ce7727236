//! Keys while something else than the list takes them: a text that is typed, a question, the help page, the program.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::act::act;
use super::commands::{self, GROUPS};
use super::model::{Effect, Model, Overlay, Page};
use super::pane::Modes;
use super::view::help;
use super::view::quit::{self, Answer};
use super::{perform, typing};
use crate::filter::Filter;

/// A key for whatever is open.
pub(super) fn key(model: &mut Model, overlay: Overlay, event: KeyEvent) -> Option<Effect> {
    match overlay {
        Overlay::None => None,
        Overlay::Search { origin } => {
            search_key(model, event.code, origin);
            None
        }
        Overlay::Help { wanted, cursor } => help_key(model, event.code, wanted, cursor),
        Overlay::Quit { cursor } => quit_key(model, event.code, cursor),
        Overlay::Filter { text, former, problem } => filter_key(model, event.code, text, former, problem),
        Overlay::GroupBy => group_key(model, event.code),
        Overlay::Command { text } => command_key(model, event.code, text),
        Overlay::Typing => type_key(model, event),
    }
}

/// A key for the program, except the one that ends this.
fn type_key(model: &mut Model, event: KeyEvent) -> Option<Effect> {
    // Terminals report `^]` as `^5`, which is the same byte.
    let ends = matches!(event.code, KeyCode::Char(']' | '5')) && event.modifiers.contains(KeyModifiers::CONTROL);
    if ends {
        return None;
    }
    model.overlay = Overlay::Typing;
    let modes = model.pane.as_ref().map_or_else(Modes::default, |pane| pane.modes);
    Some(Effect::Type(typing::bytes(event, modes)))
}

pub(super) fn paste(model: &mut Model, text: &str) -> Option<Effect> {
    let modes = model.pane.as_ref().map_or_else(Modes::default, |pane| pane.modes);
    let plain = text.chars().filter(|letter| !letter.is_control());
    match &mut model.overlay {
        Overlay::Typing => return Some(Effect::Type(typing::pasted(text, modes))),
        Overlay::Search { .. } => model.search.extend(plain),
        Overlay::Filter { text, .. } | Overlay::Command { text } => text.extend(plain),
        _ => {}
    }
    None
}

/// A key on the question what is to become of the program.
fn quit_key(model: &mut Model, code: KeyCode, cursor: usize) -> Option<Effect> {
    let choices = quit::choices(model);
    let chosen = match code {
        KeyCode::Enter => choices.get(cursor).map(|choice| choice.answer),
        KeyCode::Char(letter) => choices.iter().find(|choice| choice.key == letter).map(|choice| choice.answer),
        KeyCode::Esc => Some(Answer::Cancel),
        _ => None,
    };
    let last = choices.len().saturating_sub(1);
    match chosen {
        Some(Answer::KeepRunning) => return Some(Effect::Leave),
        Some(Answer::End) => {
            let signal = if model.told_to_end { libc::SIGKILL } else { libc::SIGTERM };
            model.told_to_end = true;
            model.notice = Some("the program was told to end".to_owned());
            return Some(Effect::Send(signal));
        }
        Some(Answer::Cancel) => return None,
        None => {}
    }
    let cursor = match code {
        KeyCode::Up | KeyCode::Char('k') => cursor.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') | KeyCode::Tab => (cursor + 1).min(last),
        _ => cursor,
    };
    model.overlay = Overlay::Quit { cursor };
    None
}

/// A key while a search is typed: the first match from where it began is selected at once.
fn search_key(model: &mut Model, code: KeyCode, origin: usize) {
    match code {
        KeyCode::Enter => return,
        KeyCode::Esc => {
            model.search.clear();
            model.move_to(|_, _| origin);
            return;
        }
        KeyCode::Backspace => {
            model.search.pop();
        }
        KeyCode::Char(letter) => model.search.push(letter),
        _ => {}
    }
    model.overlay = Overlay::Search { origin };
    let count = model.list().rows.len();
    let found = (0..count).map(|step| (origin + step) % count).find(|at| model.fits(*at));
    model.move_to(|_, _| found.unwrap_or(origin));
    if found.is_none() && !model.search.is_empty() {
        model.notice = Some("nothing fits".to_owned());
    }
}

/// How many rows of the help a page is.
const PAGE: usize = 10;

/// A key on the help page: letters search it, Enter does what the selected line says.
fn help_key(model: &mut Model, code: KeyCode, mut wanted: String, mut cursor: usize) -> Option<Effect> {
    let count = help::rows(&wanted, model.look);
    match code {
        KeyCode::Esc | KeyCode::F(1) => return None,
        KeyCode::Enter => {
            if let Some(binding) = help::found(&wanted).get(cursor) {
                return act(model, binding.action);
            }
        }
        KeyCode::PageUp => cursor = cursor.saturating_sub(PAGE),
        KeyCode::PageDown => cursor = (cursor + PAGE).min(count.saturating_sub(1)),
        KeyCode::Home => cursor = 0,
        KeyCode::End => cursor = count.saturating_sub(1),
        KeyCode::Up => cursor = cursor.saturating_sub(1),
        KeyCode::Down => cursor = (cursor + 1).min(count.saturating_sub(1)),
        KeyCode::Backspace => {
            wanted.pop();
            cursor = 0;
        }
        KeyCode::Char(letter) => {
            wanted.push(letter);
            cursor = 0;
        }
        _ => {}
    }
    model.overlay = Overlay::Help { wanted, cursor };
    None
}

/// A key while a filter is typed: it is used as soon as it is one; until then the rows stay as they were.
fn filter_key(
    model: &mut Model,
    code: KeyCode,
    mut text: String,
    former: Filter,
    problem: Option<String>,
) -> Option<Effect> {
    match code {
        KeyCode::Enter if problem.is_none() => return None,
        KeyCode::Esc => {
            model.wanted.filter = former;
            return Some(Effect::Arrange);
        }
        KeyCode::Backspace => {
            text.pop();
        }
        KeyCode::Char(letter) => text.push(letter),
        _ => {}
    }
    let parsed = Filter::parse(&text);
    let problem = parsed.as_ref().err().map(ToString::to_string);
    model.overlay = Overlay::Filter { text, former, problem };
    let filter = parsed.ok().filter(|filter| *filter != model.wanted.filter)?;
    model.wanted.filter = filter;
    Some(Effect::Arrange)
}

fn group_key(model: &mut Model, code: KeyCode) -> Option<Effect> {
    let KeyCode::Char(letter) = code else { return None };
    if letter == 'n' {
        model.show(Page::Stacks);
        return None;
    }
    let (_, _, key) = GROUPS.iter().find(|(of, ..)| *of == letter)?;
    model.show(Page::Groups);
    model.wanted.group_by = *key;
    Some(Effect::Arrange)
}

fn command_key(model: &mut Model, code: KeyCode, mut text: String) -> Option<Effect> {
    match code {
        KeyCode::Enter => return perform::perform(model, &text),
        KeyCode::Esc => return None,
        KeyCode::Tab => text = commands::complete(&text),
        KeyCode::Backspace if text.is_empty() => return None,
        KeyCode::Backspace => {
            text.pop();
        }
        KeyCode::Char(letter) => text.push(letter),
        _ => {}
    }
    model.overlay = Overlay::Command { text };
    None
}
