//! What happened to the program: a line each, and where the selected one happened.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::Model;
use super::detail;
use super::layout::{Scale, frame_lines, scale};
use super::pen::Pen;
use crate::image::printable;
use crate::report::units;
use crate::snapshot::Level;
use crate::watch::{Event, EventKind};

/// Draws the list, the newest first.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let (list, look) = (model.list(), model.look);
    let forgotten = match model.forgotten {
        0 => String::new(),
        count => format!("{} older ones forgotten, ", units::count(count)),
    };
    let right = format!("newest first, {forgotten}{}", super::groups::position(model, area));
    Pen::new(buffer, look, area, 0).rule("Events", &right);
    let wide = scale(model.size) >= Scale::Middle;
    let mut pen = Pen::new(buffer, look, area, 1);
    pen.skip(1).right_cell("#", 5, look.dim()).skip(1).right_cell("TIME", 12, look.dim()).skip(1);
    pen.left_cell("KIND", 7, look.dim()).skip(1);
    if wide {
        pen.right_cell("PROCESS", 8, look.dim()).skip(1).right_cell("THREAD", 8, look.dim()).skip(2);
    }
    pen.text("WHAT", look.dim());
    let lines = usize::from(area.height.saturating_sub(frame_lines(list.page)));
    for (line, (at, number)) in (2..).zip(list.rows.seen(list.top, lines)) {
        let Some(event) = model.event(number) else { continue };
        let mut pen = Pen::new(buffer, look, area, line);
        let selected = at == list.cursor;
        pen.text(&if selected { look.pointer() } else { ' ' }.to_string(), look.strong());
        row(&mut pen, event, number, wide, model);
        if selected {
            pen.restyle(area, look.selected());
        }
    }
}

fn row(pen: &mut Pen<'_>, event: &Event, number: usize, wide: bool, model: &Model) {
    let look = model.look;
    let style = if event.killed || event.kind == EventKind::High { look.level(Level::High) } else { Style::new() };
    pen.right_cell(&(number + 1).to_string(), 5, Style::new()).skip(1);
    pen.right_cell(&clock(event), 12, Style::new()).skip(1);
    pen.left_cell(event.kind.word(), 7, style).skip(1);
    if wide {
        pen.right_cell(&event.pid.to_string(), 8, Style::new()).skip(1);
        pen.right_cell(&event.thread.map_or("-".to_owned(), |tid| tid.to_string()), 8, Style::new()).skip(2);
    }
    let end = match (event.killed, look.ascii) {
        (true, false) => "✗ ",
        (true, true) => "X ",
        (false, _) => "",
    };
    pen.text(end, style).text(&printable(&event.message), Style::new());
}

/// `00:03:44.118`.
fn clock(event: &Event) -> String {
    let (seconds, milliseconds) = (event.time.as_secs(), event.time.subsec_millis());
    format!("{:02}:{:02}:{:02}.{milliseconds:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Draws where the selected event happened, as far as there is room.
pub(super) fn draw_preview(model: &Model, buffer: &mut Buffer, area: Rect) {
    title(model, buffer, area);
    detail::draw_rows(model, buffer, area, 1, 0, None);
}

/// Draws where an event happened as a page, with a cursor.
pub(super) fn draw_page(model: &Model, buffer: &mut Buffer, area: Rect) {
    title(model, buffer, area);
    let list = model.list();
    detail::draw_rows(model, buffer, area, 1, list.top, Some(list.cursor));
}

fn title(model: &Model, buffer: &mut Buffer, area: Rect) {
    let event = match model.shown {
        Some(super::super::model::Shown::Event(number)) => model.event(number),
        _ => None,
    };
    let words = match event {
        None => "no event".to_owned(),
        Some(event) if event.look.is_some() => format!("stack at: {}", printable(&event.message)),
        Some(event) => format!("{}: no stack was looked at", printable(&event.message)),
    };
    Pen::new(buffer, model.look, area, 0).rule(&model.look.fit(&words), "");
}
