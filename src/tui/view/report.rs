//! The report so far, as it would stand on the normal screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::Model;
use super::pen::Pen;
use super::{empty, list};

/// The cells before its text: the pointer, and one that stays free.
pub(in crate::tui) const MARGIN: usize = 2;

/// Draws it as a page.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let list = model.list();
    let ends = |line: &String| line.chars().count() <= model.shifted + usize::from(area.width).saturating_sub(MARGIN);
    let more = match (model.report.iter().all(ends), model.look.ascii) {
        (true, _) => "",
        (false, false) => "→ more · ",
        (false, true) => "Right more | ",
    };
    let position = list::position(model, area);
    Pen::new(buffer, model.look, area, 0).rule("Report so far", &format!("{more}{position}"));
    empty::draw(model, buffer, area);
    let seen = list.rows.seen(list.top, usize::from(area.height.saturating_sub(1)));
    for (line, (at, row)) in (1..).zip(seen) {
        let mut pen = Pen::new(buffer, model.look, area, line);
        let selected = at == list.cursor;
        pen.text(&if selected { model.look.pointer() } else { ' ' }.to_string(), model.look.strong());
        let text: String = model.report.get(row).map_or("", String::as_str).chars().skip(model.shifted).collect();
        let room = pen.skip(1).left();
        pen.left_cell(&text, room, Style::new());
        if selected {
            pen.restyle(area, model.look.selected());
        }
    }
}
