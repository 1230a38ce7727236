//! One stack's backtrace: stitched, with the crossings from stack to stack, recursion folded; and the stack to scale.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::Model;
use super::layout::{Scale, scale};
use super::pen::Pen;
use super::{bar, list, map, table};
use crate::image::printable;
use crate::report::backtrace::{FrameRow, Row};
use crate::report::units::{self, percent};
use crate::report::words::{apart_words, guard_words, singular};
use crate::snapshot::Stack;

/// Draws the frames as a page, with a cursor.
pub(super) fn draw_page(model: &Model, buffer: &mut Buffer, area: Rect) {
    draw_stack(model, buffer, area, &list::position(model, area));
    let list = model.list();
    draw_below(model, buffer, area, list.top, Some(list.cursor));
}

/// Draws as many frames of the selected stack as there is room for, from the innermost.
pub(super) fn draw_preview(model: &Model, buffer: &mut Buffer, area: Rect) {
    let rows = usize::from(area.height.saturating_sub(3));
    let hidden = model.backtrace.len().saturating_sub(rows);
    let more = if hidden > 0 { format!("{} more: Enter", units::count(hidden)) } else { String::new() };
    draw_stack(model, buffer, area, &more);
    draw_below(model, buffer, area, 0, None);
}

/// The frames and the map beside each other, or one of them where there is no room for both.
fn draw_below(model: &Model, buffer: &mut Buffer, area: Rect, top: usize, cursor: Option<usize>) {
    let selected = model.selected().and_then(|id| model.picture.stack(id));
    let lines = 2.min(area.height);
    let below = Rect { y: area.y + lines, height: area.height - lines, ..area };
    let is_wide = scale(model.size) == Scale::Wide;
    let map = match (is_wide, model.map) {
        // Beside the frames, unless it is not wanted there.
        (true, false) => Rect { x: area.right() - map::WIDTH, width: map::WIDTH, ..below },
        (true, true) => Rect { width: 0, ..below },
        (false, true) => below,
        (false, false) => Rect { width: 0, ..below },
    };
    if let Some(stack) = selected.filter(|_| map.width > 0) {
        map::draw(model, stack, buffer, map);
    }
    if map.width < area.width {
        let frames = Rect { width: area.width - map.width, ..area };
        Pen::new(buffer, model.look, frames, 2)
            .right_cell("BYTES", 8, model.look.dim())
            .skip(2)
            .text("FUNCTION", model.look.dim());
        draw_rows(model, buffer, frames, 3, top, cursor);
    }
}

/// The title, and the stack to scale.
fn draw_stack(model: &Model, buffer: &mut Buffer, area: Rect, right: &str) {
    let (picture, look) = (&model.picture, model.look);
    let selected = model.selected().and_then(|id| Some((id, picture.stack(id)?)));
    let Some((id, stack)) = selected else {
        Pen::new(buffer, look, area, 0).rule("no stack", right);
        return;
    };
    Pen::new(buffer, look, area, 0).rule(&look.fit(&title(model, id, stack)), right);
    let words = measures(stack, model);
    let mut pen = Pen::new(buffer, look, area, 1);
    let room = usize::from(area.width).saturating_sub(words.chars().count() + 4);
    pen.skip(1);
    bar::draw(&mut pen, stack, room.clamp(10, 60), look);
    pen.skip(1).text(&words, Style::new());
}

/// `thread 48213 "main" · running`, `coroutine #7 conn · suspended`.
fn title(model: &Model, id: usize, stack: &Stack) -> String {
    let picture = &model.picture;
    let name = printable(picture.name(id)).into_owned();
    let number = picture.number(id);
    let on = match picture.thread(id) {
        Some(tid) if number != tid.to_string() => format!(" on thread {tid}"),
        _ => String::new(),
    };
    format!("{} {number} {name} {}{on}", singular(stack.kind), stack.state.word())
}

/// The numbers beside the bar; fewer where there is little room.
fn measures(stack: &Stack, model: &Model) -> String {
    let look = model.look;
    let of = |bytes: u64| stack.size().map_or(String::new(), |size| format!(" {}%", percent(bytes, size)));
    let now = stack.used().map_or(String::new(), |used| format!("now {}{}", units::bytes(used), of(used)));
    let most = stack.most_used().map_or(String::new(), of);
    let peak = format!("peak {}{most}", table::peak(stack, look));
    let size = stack.size().map_or("size unknown".to_owned(), |size| format!("of {}", units::bytes(size)));
    let guard = guard_words(stack.bounds.guard);
    let apart = stack.peak.and_then(|peak| peak.apart).map_or(String::new(), apart_words);
    let parts = match scale(model.size) {
        Scale::Wide => vec![now, peak, size, guard, apart],
        Scale::Middle => vec![now, peak, size, guard],
        Scale::Narrow | Scale::Line => vec![peak, size],
    };
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    look.fit(&parts.join("  "))
}

/// Draws the rows of the backtrace below the first `from` lines.
pub(super) fn draw_rows(model: &Model, buffer: &mut Buffer, area: Rect, from: u16, top: usize, cursor: Option<usize>) {
    let lines = usize::from(area.height.saturating_sub(from));
    for (line, (at, row)) in (from..).zip(model.backtrace.iter().enumerate().skip(top).take(lines)) {
        let mut pen = Pen::new(buffer, model.look, area, line);
        let selected = cursor == Some(at);
        pen.text(&if selected { model.look.pointer() } else { ' ' }.to_string(), model.look.strong());
        match row {
            Row::Frame(frame) => draw_frame(&mut pen, frame, model),
            Row::Crossing { words, stack } => draw_crossing(&mut pen, words, *stack, model),
            Row::Ended(reason) => {
                pen.skip(9).text(&format!("({reason})"), model.look.warning());
            }
        }
        if selected {
            pen.restyle(area, model.look.selected());
        }
    }
}

fn draw_frame(pen: &mut Pen<'_>, frame: &FrameRow, model: &Model) {
    let look = model.look;
    let bytes = match (frame.inlined, frame.bytes) {
        (true, _) => String::new(),
        (false, bytes) => bytes.map_or("-".to_owned(), units::bytes),
    };
    let place = frame.place.as_deref().unwrap_or_default();
    let place_width = if scale(model.size) >= Scale::Middle { (pen.left() / 3).min(36) } else { 0 };
    let times = if frame.times > 1 { format!("  {}{}", look.signs().times(), frame.times) } else { String::new() };
    let note = frame.note.map_or(String::new(), |note| format!("  {note}"));
    pen.right_cell(&bytes, 7, Style::new()).skip(2);
    let tail = times.chars().count() + note.chars().count();
    let room = pen.left().saturating_sub(place_width + 1);
    let width = frame.function.chars().count().min(room.saturating_sub(tail));
    pen.name_cell(&frame.function, width, if frame.inlined { look.dim() } else { Style::new() });
    pen.left_cell(&times, times.chars().count(), look.strong());
    let rest = room.saturating_sub(width + times.chars().count());
    pen.left_cell(&note, rest, look.dim()).skip(1).left_cell(place, place_width, look.dim());
}

/// `╞══ resumed by thread 48216 "worker" ═══ now 31K of 2M ══`.
fn draw_crossing(pen: &mut Pen<'_>, words: &str, stack: usize, model: &Model) {
    let look = model.look;
    let (start, line) = if look.ascii { ("+== ", '=') } else { ("╞══ ", '═') };
    let shown = model.backtrace_of().and_then(|snapshot| snapshot.stacks.get(stack));
    let of = shown.and_then(|stack| Some((stack.used()?, stack.size()?)));
    let of = of.map_or(String::new(), |(used, size)| format!(" now {} of {} ", units::bytes(used), units::bytes(size)));
    let words = look.fit(words);
    let left = pen.left().saturating_sub(start.chars().count());
    // Where the backtrace goes on counts for more than how full that stack is.
    let fits = words.chars().count() + of.chars().count() + 3 <= left;
    let of = if fits { of } else { String::new() };
    let words = look.signs().shorten(&words, left);
    pen.text(start, look.crossing()).text(&words, look.crossing()).text(" ", look.crossing());
    pen.fill(line, of.chars().count() + 2, look.crossing()).text(&of, Style::new()).fill(line, 0, look.crossing());
}
