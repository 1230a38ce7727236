//! The bottom line: hints from the key table, a search being typed, or a word on what was done.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};

use super::super::commands::{COMMANDS, GROUPS};
use super::super::keys::{Action, BINDINGS, Binding};
use super::super::model::{Model, Overlay, Page};
use super::pen::{Pen, wrap};
use crate::watch::End;

/// Draws it. The hints for help and for leaving are always there, except while something is typed.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let look = model.look;
    let mut pen = Pen::new(buffer, look, area, 0);
    pen.skip(1);
    if let Some((typed, notes)) = prompt(model) {
        let room = pen.left();
        // Of a text that is too long its end is seen, where the next letter goes.
        let typed = look.signs().tail(&look.fit(&typed), room);
        let left = room.saturating_sub(typed.chars().count());
        let note = notes.into_iter().find(|note| note.chars().count() + 3 <= left);
        pen.text(&typed, look.strong()).skip(3).text(&note.unwrap_or_default(), Style::new());
        return;
    }
    let always = always_shown(model);
    let room = pen.left().saturating_sub(always.chars().count() + 2);
    match &model.notice {
        Some(notice) => pen.left_cell(notice, room, look.strong()),
        None => pen.left_cell(hints(model, room).trim_end(), room, Style::new()),
    };
    pen.skip(2).text(&always, Style::new());
}

/// What is being typed or asked, and notes to show after it, the longest first.
fn prompt(model: &Model) -> Option<(String, Vec<String>)> {
    let cursor = if model.look.ascii { "_" } else { "▏" };
    let keep = || ["Enter keep, Esc cancel".to_owned(), "Enter, Esc".to_owned()];
    let notice = model.notice.as_deref();
    Some(match &model.overlay {
        Overlay::Typing => ("keys go to the program, until ^]".to_owned(), Vec::new()),
        Overlay::Search { .. } => {
            let notes = match notice {
                None => keep().to_vec(),
                Some(notice) => vec![format!("{notice}   {}", keep()[0]), notice.to_owned()],
            };
            (format!("/{}{cursor}", model.search), notes)
        }
        Overlay::Filter { text, problem, .. } => {
            (format!("\\{text}{cursor}"), if problem.is_none() { keep().to_vec() } else { Vec::new() })
        }
        Overlay::GroupBy => {
            let keys = GROUPS.iter().map(|(key, name, _)| format!("{key} {name} ")).collect::<String>();
            (format!("by {keys}n not"), vec!["Esc cancel".to_owned()])
        }
        Overlay::Command { text } => {
            (format!(":{text}{cursor}"), if notice.is_none() { usage(text) } else { Vec::new() })
        }
        Overlay::None | Overlay::Help { .. } | Overlay::Quit { .. } => return None,
    })
}

/// Draws what is wrong with the text that is being typed on lines of its own.
pub(super) fn draw_problem(model: &Model, buffer: &mut Buffer, whole: Rect) {
    let problem = match (&model.overlay, model.notice.as_deref()) {
        (Overlay::Filter { problem, .. }, _) => problem.as_deref(),
        (Overlay::Command { .. }, notice) => notice,
        _ => None,
    };
    let Some(problem) = problem else { return };
    let lines = wrap(problem, usize::from(whole.width).saturating_sub(2));
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(whole.height / 2);
    let area = Rect { y: whole.bottom().saturating_sub(1 + height), height, ..whole };
    Clear.render(area, buffer);
    for (line, text) in (0..height).zip(&lines) {
        Pen::new(buffer, model.look, area, line).skip(1).text(text, model.look.warning());
    }
}

/// What is known of the command that is being typed.
fn usage(text: &str) -> Vec<String> {
    let name = text.split(' ').next().unwrap_or_default();
    let fitting: Vec<_> = COMMANDS.iter().filter(|(command, ..)| command.starts_with(name)).collect();
    match fitting.as_slice() {
        [(command, argument, what)] => vec![format!("{command} {argument}  {what}"), format!("{command} {argument}")],
        many => {
            vec![many.iter().map(|(command, ..)| *command).collect::<Vec<_>>().join(" "), "Tab completes".to_owned()]
        }
    }
}

/// What stands to the left, as many hints as fit whole.
fn hints(model: &Model, room: usize) -> String {
    pieces(model, room).into_iter().map(|(text, _)| text).collect()
}

/// The same in pieces, each with what it stands for.
fn pieces(model: &Model, room: usize) -> Vec<(String, Option<Action>)> {
    let state = match (model.end, model.frozen) {
        (Some(End::Ended(_) | End::Vanished), _) => "the program has ended  ",
        _ if model.paused => "P lets it go on  ",
        (_, true) => "the program runs on  ",
        _ => "",
    };
    let mut pieces = vec![(state.to_owned(), None)];
    let mut length = state.chars().count();
    for action in worth_a_hint(model) {
        let Some(binding) = BINDINGS.iter().find(|binding| binding.action == action) else { continue };
        let word = if action == Action::Freeze && model.frozen { "thaw" } else { binding.hint.unwrap_or_default() };
        let hint = format!("{} {word}  ", binding.first(model.look.ascii));
        if length + hint.chars().count() <= room {
            length += hint.chars().count();
            pieces.push((hint, Some(action)));
        }
    }
    pieces
}

/// What can be done on the page that is seen, the most useful first; the hints for leaving and for help stand elsewhere.
fn worth_a_hint(model: &Model) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(model.frozen.then_some(Action::Freeze));
    actions.extend((model.lists.len() > 1).then_some(Action::Back));
    actions.extend(match model.list().page {
        Page::Stacks | Page::Members(_) => {
            &[Action::Open, Action::GroupBy, Action::Search, Action::Filter, Action::SortRight][..]
        }
        Page::Groups => &[Action::Open, Action::GroupBy, Action::Search, Action::Filter, Action::SortRight],
        Page::Events => &[Action::Open, Action::Search],
        Page::Frames(_) => &[Action::Map, Action::Search],
        Page::Happened(_) | Page::Report => &[Action::Search],
        Page::Output => &[],
    });
    actions.extend(model.decides().then_some(Action::Type).filter(|_| model.list().page == Page::Output));
    actions.extend((!model.frozen).then_some(Action::Freeze));
    let others = [(Action::Stacks, Page::Stacks), (Action::Events, Page::Events), (Action::Report, Page::Report)];
    actions.extend(others.into_iter().filter(|(_, page)| model.list().page != *page).map(|(action, _)| action));
    actions.push(Action::Dump);
    actions
}

/// What the hint in column `x` of the line stands for.
pub(in crate::tui) fn action_at(model: &Model, area: Rect, x: u16) -> Option<Action> {
    let always = always_pieces(model);
    let width: usize = always.iter().map(|(text, _)| text.chars().count()).sum();
    let room = usize::from(area.width).saturating_sub(width + 3);
    let gap = (" ".repeat(2), None);
    let left = pieces(model, room);
    let used: usize = left.iter().map(|(text, _)| text.chars().count()).sum();
    let filler = (" ".repeat(room.saturating_sub(used)), None);
    let mut at = usize::from(x.checked_sub(area.x + 1)?);
    for (text, action) in left.into_iter().chain([filler, gap]).chain(always) {
        let length = text.chars().count();
        if at < length {
            return action;
        }
        at -= length;
    }
    None
}

fn is_always(binding: &Binding) -> bool {
    matches!(binding.action, Action::Help | Action::Quit)
}

fn always_shown(model: &Model) -> String {
    always_pieces(model).into_iter().map(|(text, _)| text).collect()
}

fn always_pieces(model: &Model) -> Vec<(String, Option<Action>)> {
    let bindings = BINDINGS.iter().filter(|binding| is_always(binding)).enumerate();
    let hints = bindings.filter_map(|(index, binding)| {
        let space = if index > 0 { " " } else { "" };
        Some((format!("{space}{} {} ", binding.first(model.look.ascii), binding.hint?), Some(binding.action)))
    });
    hints.collect()
}
