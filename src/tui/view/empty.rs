//! What stands in a list that has no rows: a sentence on why.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::super::keys::{Action, BINDINGS};
use super::super::model::{Model, Page};
use super::layout::frame_lines;
use super::pen::Pen;

/// Draws the sentence where the list's rows would begin; nothing where it has rows.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let list = model.list();
    if list.rows.len() > 0 {
        return;
    }
    let lines = area.height.saturating_sub(frame_lines(list.page));
    let words = words(model, list.page);
    for (line, text) in (frame_lines(list.page)..)
        .zip(super::pen::wrap(&words, usize::from(area.width).saturating_sub(2)))
        .take(usize::from(lines))
    {
        Pen::new(buffer, model.look, area, line).skip(1).text(&text, model.look.dim());
    }
}

fn words(model: &Model, page: Page) -> String {
    let key = |action| BINDINGS.iter().find(|binding| binding.action == action);
    let key = |action| key(action).map_or("", |binding| binding.first(model.look.ascii));
    let snapshot = &model.picture.snapshot;
    match page {
        Page::Stacks | Page::Groups | Page::Members(_) if snapshot.stacks.is_empty() => {
            "the program was not looked at yet".to_owned()
        }
        Page::Stacks | Page::Groups | Page::Members(_) => format!("no stack fits the filter; {} changes it", key(Action::Filter)),
        Page::Events if model.launched => "nothing has happened yet".to_owned(),
        Page::Events => "nothing has happened yet; of a program that runs already, only stacks that come close to their end are told".to_owned(),
        Page::Report => "the report is being put together".to_owned(),
        Page::Output => "the program has written nothing yet".to_owned(),
        Page::Frames(_) => "no frame could be found on this stack".to_owned(),
        // Whether a stack was looked at then is said for the preview, too.
        Page::Happened(_) => String::new(),
    }
}
