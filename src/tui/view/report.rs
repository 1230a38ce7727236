//! The report so far, as it would stand on the normal screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::Model;
use super::pen::Pen;

/// Draws it as a page.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let list = model.list();
    Pen::new(buffer, model.look, area, 0).rule("Report so far", &super::groups::position(model, area));
    let seen = list.rows.seen(list.top, usize::from(area.height.saturating_sub(1)));
    for (line, (at, row)) in (1..).zip(seen) {
        let mut pen = Pen::new(buffer, model.look, area, line);
        let selected = at == list.cursor;
        pen.text(&if selected { model.look.pointer() } else { ' ' }.to_string(), model.look.strong());
        pen.text(model.report.get(row).map_or("", String::as_str), Style::new());
        if selected {
            pen.restyle(area, model.look.selected());
        }
    }
}
