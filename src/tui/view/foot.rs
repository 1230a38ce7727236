//! The bottom line: hints from the key table, a search being typed, or a word on what was done.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};

use super::super::commands::COMMANDS;
use super::super::keys::{Action, BINDINGS, Binding};
use super::super::model::{Model, Overlay, Page};
use super::super::prompts::GROUPS;
use super::pen::Pen;
use crate::watch::End;

/// Draws it. The hints for help and for leaving are always there.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let look = model.look;
    let always = always_shown(model);
    let mut pen = Pen::new(buffer, look, area, 0);
    pen.skip(1);
    let room = pen.left().saturating_sub(always.chars().count() + 2);
    let notice = model.notice.as_deref();
    match (&model.overlay, notice) {
        (Overlay::Typing, _) => {
            pen.left_cell("keys go to the program, until ^]", room, look.strong());
        }
        (Overlay::Search { .. }, notice) => {
            let cursor = if look.ascii { "_" } else { "▏" };
            let note = notice.map_or(String::new(), |notice| format!("   {notice}"));
            pen.left_cell(&format!("/{}{cursor}{note}   Enter keep, Esc cancel", model.search), room, look.strong());
        }
        (Overlay::Filter { text, problem, .. }, _) => {
            let cursor = if look.ascii { "_" } else { "▏" };
            let note = match problem.as_deref() {
                None => "Enter keep, Esc cancel",
                Some(_) if model.size.width < 100 => "",
                Some(problem) => problem,
            };
            pen.left_cell(&format!("\\{text}{cursor}   {note}"), room, look.strong());
        }
        (Overlay::GroupBy, _) => {
            let keys = GROUPS.iter().map(|(key, name, _)| format!("{key} {name}  "));
            pen.left_cell(&format!("group by  {}n not", keys.collect::<String>()), room, look.strong());
        }
        (Overlay::Command { text }, notice) => {
            let cursor = if look.ascii { "_" } else { "▏" };
            let note = notice.map_or_else(|| usage(text), str::to_owned);
            pen.left_cell(&format!(":{text}{cursor}   {note}"), room, look.strong());
        }
        (_, Some(notice)) => {
            pen.left_cell(notice, room, look.strong());
        }
        _ => {
            pen.left_cell(&hints(model, room), room, Style::new());
        }
    }
    pen.skip(2).text(&always, Style::new());
}

/// Draws what is wrong with the text that is being typed on a line of its own, where it does not fit beside it.
pub(super) fn draw_problem(model: &Model, buffer: &mut Buffer, whole: Rect) {
    let problem = match (&model.overlay, model.notice.as_deref()) {
        (Overlay::Filter { problem, .. }, _) => problem.as_deref(),
        (Overlay::Command { .. }, notice) => notice,
        _ => None,
    };
    let (Some(problem), true) = (problem, whole.width < 100 && whole.height > 3) else { return };
    let area = Rect { y: whole.y + whole.height - 2, height: 1, ..whole };
    Clear.render(area, buffer);
    let mut pen = Pen::new(buffer, model.look, area, 0);
    let room = pen.left();
    pen.left_cell(&format!(" {problem}"), room, model.look.warning());
}

/// What is known of the command that is being typed.
fn usage(text: &str) -> String {
    let name = text.split(' ').next().unwrap_or_default();
    let fitting: Vec<_> = COMMANDS.iter().filter(|(command, ..)| command.starts_with(name)).collect();
    match fitting.as_slice() {
        [(command, argument, what)] => format!("{command} {argument}  {what}"),
        many => many.iter().map(|(command, ..)| *command).collect::<Vec<_>>().join(" "),
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
        _ if model.paused => "P lets the program go on  ",
        (_, true) => "the program runs on  ",
        _ => "",
    };
    let mut pieces = vec![(state.to_owned(), None)];
    let mut length = state.chars().count();
    let has_rows_only = !matches!(model.list().page, Page::Stacks | Page::Groups | Page::Members(_) | Page::Events);
    let of = |action| BINDINGS.iter().filter(move |binding| binding.action == action);
    let thaw = of(Action::Freeze).filter(|_| model.frozen).map(|binding| (binding, "thaw"));
    let back = of(Action::Back).filter(|_| model.lists.len() > 1).map(|binding| (binding, "back"));
    let fitting = BINDINGS.iter().filter_map(|binding| Some((binding, binding.hint?)));
    let useless = |action| match action {
        Action::Open => has_rows_only,
        Action::SortRight => model.order().is_none(),
        Action::Freeze => model.frozen,
        _ => false,
    };
    let fitting = fitting.filter(|(binding, _)| !(is_always(binding) || useless(binding.action)));
    for (binding, word) in thaw.chain(back).chain(fitting) {
        let hint = format!("{} {word}  ", binding.first(model.look.ascii));
        if length + hint.chars().count() <= room {
            length += hint.chars().count();
            pieces.push((hint, Some(binding.action)));
        }
    }
    pieces
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
