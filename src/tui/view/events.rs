//! What happened to the program: a line each, and where the selected one happened.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::{Model, Page, Shown};
use super::layout::{Scale, frame_lines, scale};
use super::pen::{Pen, wrap};
use super::{detail, empty, list};
use crate::image::printable;
use crate::report::{route, units, verdict};
use crate::snapshot::Level;
use crate::watch::{Event, EventKind};

/// Draws the list, the newest first.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let (list, look) = (model.list(), model.look);
    let forgotten = match model.forgotten {
        0 => String::new(),
        count => format!("{} older ones forgotten, ", units::count(count)),
    };
    let right = format!("newest first, {forgotten}{}", list::position(model, area));
    Pen::new(buffer, look, area, 0).rule("Events", &right);
    let wide = scale(model.size) >= Scale::Middle;
    let mut pen = Pen::new(buffer, look, area, 1);
    pen.skip(1);
    if wide {
        pen.right_cell("#", 5, look.dim()).skip(1);
    }
    pen.right_cell("TIME", clock_width(wide), look.dim()).skip(1).left_cell("KIND", KIND, look.dim()).skip(1);
    if wide {
        pen.right_cell("PROCESS", 8, look.dim()).skip(1).right_cell("THREAD", 8, look.dim()).skip(2);
    }
    pen.text("WHAT", look.dim());
    empty::draw(model, buffer, area);
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
    if wide {
        pen.right_cell(&(number + 1).to_string(), 5, Style::new()).skip(1);
    }
    pen.right_cell(&clock(event, wide), clock_width(wide), Style::new()).skip(1);
    pen.left_cell(kind_word(event.kind), KIND, style).skip(1);
    if wide {
        pen.right_cell(&event.pid.to_string(), 8, Style::new()).skip(1);
        pen.right_cell(&event.thread.map_or("-".to_owned(), |tid| tid.to_string()), 8, Style::new()).skip(2);
    }
    let end = match (event.killed, look.ascii) {
        (true, false) => "✗ ",
        (true, true) => "X ",
        (false, _) => "",
    };
    let room = pen.text(end, style).left();
    let outcome = route::outcome(event).map_or(String::new(), |outcome| format!("  · {outcome}"));
    pen.left_cell(&look.fit(&format!("{}{outcome}", printable(&verdict::message(event)))), room, Style::new());
}

/// The cells of an event's kind.
const KIND: usize = 9;

/// The kind in so many cells.
fn kind_word(kind: EventKind) -> &'static str {
    if kind == EventKind::ForcedUnwind { "unwinding" } else { kind.word() }
}

/// The cells that [`clock`] takes.
fn clock_width(exact: bool) -> usize {
    if exact { 12 } else { 8 }
}

/// `00:03:44.118`, or without the parts of a second.
fn clock(event: &Event, exact: bool) -> String {
    let clock = units::clock(event.time);
    if exact { format!("{clock}.{:03}", event.time.subsec_millis()) } else { clock }
}

/// Draws where the selected event happened, as far as there is room.
pub(super) fn draw_preview(model: &Model, buffer: &mut Buffer, area: Rect) {
    what_happened(model, buffer, area);
    detail::draw_rows(model, buffer, area, frame_lines(Page::Happened(0)), 0, None);
}

/// Draws where an event happened as a page, with a cursor.
pub(super) fn draw_page(model: &Model, buffer: &mut Buffer, area: Rect) {
    what_happened(model, buffer, area);
    let list = model.list();
    detail::draw_rows(model, buffer, area, frame_lines(list.page), list.top, Some(list.cursor));
}

/// A title, and what happened in full, on the lines before its stack.
fn what_happened(model: &Model, buffer: &mut Buffer, area: Rect) {
    let event = match model.shown {
        Some(Shown::Event(number)) => model.event(number).map(|event| (number, event)),
        _ => None,
    };
    let Some((number, event)) = event else {
        Pen::new(buffer, model.look, area, 0).rule("no event", "");
        return;
    };
    let thread = event.thread.map_or(String::new(), |tid| format!(" in thread {tid}"));
    let title = format!("{} {}{thread}", kind_word(event.kind), number + 1);
    Pen::new(buffer, model.look, area, 0).rule(&title, &clock(event, true));
    let lines = wrap(&printable(&verdict::message(event)), usize::from(area.width).saturating_sub(2));
    for (line, text) in (1..frame_lines(Page::Happened(0))).zip(lines) {
        Pen::new(buffer, model.look, area, line).skip(1).text(&text, model.look.strong());
    }
    if let Some(outcome) = route::outcome(event) {
        let line = frame_lines(Page::Happened(0)) - 1;
        let words = format!("{outcome}    {}", route::legend(model.look.ascii));
        Pen::new(buffer, model.look, area, line).skip(1).text(&model.look.fit(&words), Style::new());
    }
    if event.look.is_none() {
        let mut pen = Pen::new(buffer, model.look, area, frame_lines(Page::Happened(0)));
        pen.skip(1).text("no stack was looked at then", model.look.dim());
    }
}
