//! The program's terminal: as a page, and its last line below other pages.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::Span;

use super::super::keys::{Action, BINDINGS};
use super::super::model::{Model, Overlay, Page};
use super::empty;
use super::layout::frame_lines;
use super::pen::Pen;
use crate::image::printable;
use crate::report::units;

/// Draws the terminal as a page.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let Some(pane) = &model.pane else {
        Pen::new(buffer, model.look, area, 0).rule("Output", "");
        empty::draw(model, buffer, area);
        return;
    };
    let right = match (&model.overlay, pane.scrolled) {
        (Overlay::Typing, _) => "typing into the program: ^] ends".to_owned(),
        (_, 0) => format!("{} lines above", units::count(pane.kept)),
        (_, lines) => format!("{} lines up of {}", units::count(lines), units::count(pane.kept)),
    };
    Pen::new(buffer, model.look, area, 0).rule("Output", &right);
    let place = place(area);
    for position in pane.cells.area.positions() {
        let to = Position::new(place.x.saturating_add(position.x), place.y.saturating_add(position.y));
        let (Some(from), true) = (pane.cells.cell(position), place.contains(to)) else { continue };
        if let Some(cell) = buffer.cell_mut(to) {
            *cell = from.clone();
            if !model.look.colors() {
                cell.set_fg(Color::Reset).set_bg(Color::Reset);
            }
            if model.look.ascii && !cell.symbol().is_ascii() {
                cell.set_symbol("?");
            }
        }
    }
}

/// Draws the last line that the program wrote.
pub(super) fn draw_line(model: &Model, buffer: &mut Buffer, area: Rect) {
    let look = model.look;
    let last = model.pane.as_ref().map_or("", |pane| pane.last_line.as_str());
    let of = |action| BINDINGS.iter().find(|binding| binding.action == action);
    let key = |action| of(action).map_or("", |binding| binding.first(look.ascii));
    let hints = format!("{} output  {} type ", key(Action::Output), key(Action::Type));
    let mut pen = Pen::new(buffer, look, area, 0);
    let room = pen.left().saturating_sub(Span::raw(&hints).width() + 4);
    pen.text(if look.ascii { "> " } else { "› " }, look.dim()).left_cell(&printable(last), room, Style::new());
    pen.skip(2).text(&hints, look.dim());
}

/// Where the program's cursor is seen: only while keys go to it.
pub(super) fn cursor(model: &Model, area: Rect) -> Option<Position> {
    let is_seen = matches!(model.overlay, Overlay::Typing) && model.list().page == Page::Output;
    let (x, y) = model.pane.as_ref().filter(|_| is_seen)?.cursor?;
    let place = place(area);
    let position = Position::new(place.x.saturating_add(x), place.y.saturating_add(y));
    place.contains(position).then_some(position)
}

/// The part of the page that is the terminal.
fn place(area: Rect) -> Rect {
    let title = frame_lines(Page::Output).min(area.height);
    Rect { y: area.y + title, height: area.height - title, ..area }
}
