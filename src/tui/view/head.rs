//! The top of the screen: what is watched, whether the display is live, and how many stacks are in danger.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

use super::super::model::{Model, Overlay};
use super::super::theme::Look;
use super::layout::{Scale, scale};
use super::pen::Pen;
use crate::image::printable;
use crate::report::units;
use crate::report::words::plural;
use crate::snapshot::Level;
use crate::watch::End;

/// Draws one or two lines.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let wide = area.height > 1;
    let (picture, look) = (&model.picture, model.look);
    let process = &picture.snapshot.process;
    let stacks = stacks(model);
    let mut right = levels_width(model) + stacks.chars().count() + 2;
    let mut pen = Pen::new(buffer, look, area, 0);
    pen.text(if wide { " stackscope  " } else { " " }, look.strong());
    live(&mut pen, model);
    if wide {
        right = clock(model).chars().count() + 1;
    }
    let command = process.command.join(" ");
    let program = process.command.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program));
    let (what, number) = match scale(model.size) {
        Scale::Wide => (command.as_str(), format!("   pid {}", process.pid)),
        Scale::Middle => (program, format!("[{}]  {}", process.pid, units::clock(picture.time))),
        Scale::Narrow | Scale::Line => (program, String::new()),
    };
    let gap = if wide { 3 } else { 1 };
    let room = pen.left().saturating_sub(right + gap);
    // Of a long command its number stays.
    let what = look.signs().shorten(&look.fit(&printable(what)), room.saturating_sub(number.chars().count() + 2));
    pen.left_cell(&format!("  {what}{number}"), room, Style::new()).skip(gap);
    if !wide {
        pen.text(&stacks, Style::new()).skip(2);
        levels(&mut pen, model);
        return;
    }
    pen.right_cell(&clock(model), right.saturating_sub(1), Style::new());
    let mut pen = Pen::new(buffer, look, area, 1);
    let kinds = picture.kinds.iter().map(|(kind, count)| format!("{} {}", units::count(*count), plural(*kind, *count)));
    let separator = if look.ascii { ", " } else { " · " };
    let kinds: Vec<String> = kinds.collect();
    let counts = match kinds.as_slice() {
        [] => " no stacks were seen yet".to_owned(),
        kinds => format!(" {stacks}: {}", kinds.join(separator)),
    };
    let room = pen.left().saturating_sub(levels_width(model) + 1);
    pen.left_cell(&counts, room, Style::new()).skip(1);
    levels(&mut pen, model);
}

/// Everything that fits into one line.
pub(super) fn status_line(model: &Model, buffer: &mut Buffer, area: Rect) {
    let mut pen = Pen::new(buffer, model.look, area, 0);
    if let Overlay::Quit { .. } = model.overlay {
        // It takes the keys, so it has to be seen.
        pen.text("r run on  e end  c stay", model.look.strong());
        return;
    }
    live(&mut pen, model);
    pen.text(&format!(" {} ", stacks(model)), Style::new());
    levels(&mut pen, model);
}

/// `15 stacks`.
fn stacks(model: &Model) -> String {
    let count = model.picture.snapshot.stacks.len();
    format!("{} {}", units::count(count), if count == 1 { "stack" } else { "stacks" })
}

/// Whether the display shows the newest look, an older one, or the last one of all.
fn live(pen: &mut Pen<'_>, model: &Model) {
    let mark = |mark: &'static str, ascii: &'static str| if model.look.ascii { ascii } else { mark };
    let strong = model.look.strong();
    if model.paused && model.end.is_none() {
        pen.text(mark("■ STOPPED", "# STOPPED"), strong);
        return;
    }
    match (model.end, model.frozen) {
        (Some(End::Left), _) => pen.text(mark("■ LEFT", "# LEFT"), strong),
        (Some(_), _) => pen.text(mark("■ ENDED", "# ENDED"), strong),
        (None, true) => pen.text(mark("◌ FROZEN", "= FROZEN"), strong),
        (None, false) => pen.text(mark("● LIVE", "* LIVE"), strong),
    };
}

/// When the picture was taken, what it cost, and when the next one comes.
fn clock(model: &Model) -> String {
    let picture = &model.picture;
    let stopped = units::time(picture.snapshot.stopped);
    let next = units::time(picture.next);
    let time = units::clock(picture.time);
    let warnings = match picture.snapshot.warnings.len() {
        0 => String::new(),
        1 => "1 warning   ".to_owned(),
        count => format!("{count} warnings   "),
    };
    model.look.fit(&format!("{warnings}stopped {stopped}, look every {next}   {time}"))
}

const LEVELS: [(Level, &str); 3] = [(Level::High, " high"), (Level::Warn, " warn"), (Level::Over, " over")];

fn level_words(model: &Model) -> [(Level, String); 3] {
    let words = model.size.width >= 100;
    LEVELS.map(|(level, word)| {
        let count = match level {
            Level::High => model.picture.high,
            Level::Warn => model.picture.warn,
            _ => model.picture.over,
        };
        let mark = model.look.signs().level_mark(level);
        (level, format!("{mark}{}{}", units::count(count), if words { word } else { "" }))
    })
}

fn levels_width(model: &Model) -> usize {
    level_words(model).iter().map(|(_, text)| Span::raw(text).width() + 1).sum()
}

/// How many stacks are close to their end.
fn levels(pen: &mut Pen<'_>, model: &Model) {
    let look: Look = model.look;
    for (level, text) in level_words(model) {
        let none = text.contains('0') && !text.contains(|digit: char| ('1'..='9').contains(&digit));
        let style = if none { look.dim() } else { look.level(level) };
        pen.text(&text, style).text(" ", Style::new());
    }
}
