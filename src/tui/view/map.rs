//! A stack to scale, from its base down to its guard: what is in use now and by which frames, what was in use before, and
//! what is free.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::Model;
use super::super::theme::Look;
use super::pen::Pen;
use super::table;
use crate::image::printable;
use crate::report::units::{self, percent};
use crate::snapshot::{Guard, Snapshot, Stack};

/// The columns that the map takes beside the frames.
pub(super) const WIDTH: u16 = 46;
/// The cells of an address.
const ADDRESS: usize = 14;
/// The cells that show what a line of the map is.
const FILL: usize = 4;

/// What a line of the map shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Now,
    Before,
    Free,
}

/// A line between base and limit.
#[derive(Clone, PartialEq, Eq, Debug)]
struct MapLine {
    part: Part,
    /// How far below the base what the label names is, where an address stands for it.
    at: Option<u64>,
    label: String,
    /// Its size, to the right.
    right: String,
}

/// Draws the map of a stack; what is not known of its bounds is said instead.
pub(super) fn draw(model: &Model, stack: &Stack, buffer: &mut Buffer, area: Rect) {
    let look = model.look;
    let (Some(range), Some(size)) = (stack.bounds.range(), stack.size().filter(|size| *size > 0)) else {
        let mut pen = Pen::new(buffer, look, area, 0);
        pen.skip(1).text("where this stack begins and ends is not known", look.dim());
        return;
    };
    let guard = guard_line(stack, look);
    let ends = 2 + u16::from(guard.is_some());
    let [top, through, bottom] = if look.ascii { ["+", "|", "+"] } else { ["┬", "│", "┴"] };
    let end = |pen: &mut Pen<'_>, address: u64, sign: &str, word: &str, right: &str| {
        pen.right_cell(&format!("{address:x}"), ADDRESS, look.dim()).skip(1).text(sign, Style::new());
        text_and_right(pen, &format!(" {word}"), right, Style::new());
    };
    end(&mut Pen::new(buffer, look, area, 0), range.high.0, top, "base", &units::bytes(size));
    let lines = lines(&model.picture.snapshot, stack, size, usize::from(area.height.saturating_sub(ends)), look);
    for (row, line) in (1..).zip(&lines) {
        let mut pen = Pen::new(buffer, look, area, row);
        let address = line.at.map_or(String::new(), |at| format!("{:x}", range.high.0.saturating_sub(at)));
        pen.right_cell(&address, ADDRESS, look.dim()).skip(1).text(through, Style::new());
        let [now, before, free] = look.signs().bar_signs();
        let (sign, style) = match line.part {
            Part::Now => (now, look.now()),
            Part::Before => (before, Style::new()),
            Part::Free => (free, look.dim()),
        };
        pen.text(&std::iter::repeat_n(sign, FILL).collect::<String>(), style);
        text_and_right(&mut pen, &format!(" {}", line.label), &line.right, Style::new());
    }
    let last = 1 + lines.len() as u16;
    let level = stack.level().map_or(Style::new(), |level| look.level(level));
    let mut pen = Pen::new(buffer, look, area, last);
    pen.right_cell(&format!("{:x}", range.low.0), ADDRESS, look.dim()).skip(1).text(bottom, Style::new());
    let free = stack.most_used().map(|most| size.saturating_sub(most));
    let free = free.map_or(String::new(), |free| format!("{} {}%", units::bytes(free), percent(free, size)));
    let label =
        [" limit, never used", " limit, unused"].into_iter().find(|label| label.len() + free.len() < pen.left());
    text_and_right(&mut pen, label.unwrap_or(" limit"), &free, level);
    if let Some(words) = guard {
        let mut pen = Pen::new(buffer, look, area, last + 1);
        pen.skip(ADDRESS + 1).text(&words, Style::new());
    }
}

fn text_and_right(pen: &mut Pen<'_>, text: &str, right: &str, style: Style) {
    let width = right.chars().count();
    let room = pen.left().saturating_sub(width + 1);
    pen.left_cell(text, room, style).skip(1).right_cell(right, width, style);
}

fn guard_line(stack: &Stack, look: Look) -> Option<String> {
    let sign = if look.ascii { "%%%%%" } else { "▓▓▓▓▓" };
    match stack.bounds.guard {
        Guard::Ok(range) => Some(format!("{sign} guard {}", units::bytes(range.len()))),
        Guard::None => Some("no guard at the limit".to_owned()),
        Guard::Grows => Some("grows down to here by itself".to_owned()),
        Guard::Unknown => None,
    }
}

/// The lines between base and limit: `count` of them, each for as many bytes.
fn lines(snapshot: &Snapshot, stack: &Stack, size: u64, count: usize, look: Look) -> Vec<MapLine> {
    let used = stack.used().unwrap_or(0).min(size);
    let most = stack.most_used().unwrap_or(0).min(size);
    let row_of = |bytes: u64| {
        let row = u128::from(bytes.saturating_sub(1)) * count as u128 / u128::from(size.max(1));
        (row as usize).min(count.saturating_sub(1))
    };
    let part = |row: usize| match row {
        row if used > 0 && row <= row_of(used) => Part::Now,
        row if most > 0 && row <= row_of(most) => Part::Before,
        _ => Part::Free,
    };
    let empty = |row| MapLine { part: part(row), at: None, label: String::new(), right: String::new() };
    let mut lines: Vec<MapLine> = (0..count).map(empty).collect();
    for (row, label, right) in frames(snapshot, stack, &row_of) {
        if let Some(line) = lines.get_mut(row) {
            (line.label, line.right) = (label, right);
        }
    }
    let [pointer, peak] = if look.ascii { ["<- SP", "<- peak"] } else { ["◄─ SP", "◄─ peak"] };
    let mark = |lines: &mut Vec<MapLine>, bytes: u64, label: &str, right: String| {
        if let Some(line) = lines.get_mut(row_of(bytes)) {
            *line = MapLine {
                at: Some(bytes),
                label: label.to_owned(),
                right: format!("{right} {}%", percent(bytes, size)),
                ..*line
            };
        }
    };
    if most > used {
        mark(&mut lines, most, peak, table::peak(stack, look));
    }
    if stack.sp.is_some() && row_of(used) != row_of(most) || most == used && stack.sp.is_some() {
        mark(&mut lines, used, pointer, units::bytes(used));
    }
    lines
}

/// In which line the frames of a function begin, with their name and size; of several in one line, the largest.
fn frames(snapshot: &Snapshot, stack: &Stack, row_of: &impl Fn(u64) -> usize) -> Vec<(usize, String, String)> {
    // Those of one function that follow each other, as recursion leaves them, count as one.
    let mut runs: Vec<(&str, u64, u64)> = Vec::new();
    let mut below = 0u64;
    for frame in stack.frames.iter().rev() {
        let Some(bytes) = frame.bytes.filter(|bytes| *bytes > 0) else { continue };
        let names = &snapshot.place(frame.frame.pc).names;
        let name = names.last().and_then(|name| name.function.as_deref()).unwrap_or("??");
        match runs.last_mut() {
            Some((last, _, size)) if *last == name => *size = size.saturating_add(bytes),
            _ => runs.push((name, below, bytes)),
        }
        below = below.saturating_add(bytes);
    }
    let mut labels: Vec<(usize, &str, u64)> = Vec::new();
    for (name, from, bytes) in runs {
        let row = row_of(from.saturating_add(1));
        match labels.last_mut() {
            Some(last) if last.0 == row && last.2 >= bytes => {}
            Some(last) if last.0 == row => *last = (row, name, bytes),
            _ => labels.push((row, name, bytes)),
        }
    }
    labels.into_iter().map(|(row, name, bytes)| (row, printable(name).into_owned(), units::bytes(bytes))).collect()
}
