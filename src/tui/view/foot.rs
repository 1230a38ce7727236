//! The bottom line: hints from the key table, a search being typed, or a word on what was done.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::keys::{Action, BINDINGS, Binding};
use super::super::model::{Model, Overlay, Page};
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
        (_, Some(notice)) => {
            pen.left_cell(notice, room, look.strong());
        }
        _ => {
            pen.left_cell(&hints(model, room), room, Style::new());
        }
    }
    pen.skip(2).text(&always, Style::new());
}

/// What stands to the left, as many hints as fit whole.
fn hints(model: &Model, room: usize) -> String {
    let mut line = match (model.end, model.frozen) {
        (Some(End::Ended(_) | End::Vanished), _) => "the program has ended  ".to_owned(),
        _ if model.paused => "P lets the program go on  ".to_owned(),
        (_, true) => "the program runs on  ".to_owned(),
        _ => String::new(),
    };
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
        let word = match binding.action {
            Action::Groups if model.lists.first().is_some_and(|list| list.page == Page::Groups) => "ungroup",
            _ => word,
        };
        let hint = format!("{} {word}  ", binding.first(model.look.ascii));
        if line.chars().count() + hint.chars().count() <= room {
            line.push_str(&hint);
        }
    }
    line
}

fn is_always(binding: &Binding) -> bool {
    matches!(binding.action, Action::Help | Action::Quit)
}

fn always_shown(model: &Model) -> String {
    let bindings = BINDINGS.iter().filter(|binding| is_always(binding));
    let hints = bindings.filter_map(|binding| Some(format!("{} {} ", binding.first(model.look.ascii), binding.hint?)));
    hints.collect::<Vec<_>>().join(" ")
}
