//! The list of stacks: one row each, and only the rows that are seen.

use ratatui::buffer::Buffer;
use ratatui::layout::{self, Rect};
use ratatui::style::Style;

use super::super::model::{Model, Page};
use super::super::picture::{Picture, danger, state_letter};
use super::super::sort::Sort;
use super::super::theme::Look;
use super::layout::{Scale, frame_lines, scale};
use super::pen::Pen;
use super::{bar, empty, list};
use crate::image::printable;
use crate::report::units;
use crate::report::words::singular;
use crate::snapshot::{Confidence, Guard, Kind, Method, Stack};

/// A column of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Number,
    Kind,
    KindLetter,
    Name,
    State,
    StateLetter,
    Bar,
    Now,
    Peak,
    Size,
    Head,
    Guard,
    Where,
}

/// From how many columns on kinds and states are words: below, the program's functions need the room.
const WORDS: u16 = 115;

/// Columns with their widths; that of width 0 takes what the others leave.
fn columns(size: layout::Size) -> Vec<(Column, usize)> {
    use Column::*;
    match scale(size) {
        Scale::Wide => {
            let letters = size.width < WORDS;
            let (kind, state) = if letters { ((KindLetter, 1), (StateLetter, 2)) } else { ((Kind, 9), (State, 9)) };
            let used = [(Bar, 18), (Now, 6), (Peak, 7), (Size, 5), (Head, 5), (Guard, 5)];
            [&[(Number, 8), kind, (Name, 16), state][..], &used, &[(Where, 0)]].concat()
        }
        Scale::Middle => {
            vec![(Number, 8), (KindLetter, 1), (Name, 0), (StateLetter, 2), (Bar, 17), (Peak, 7), (Size, 5), (Head, 5)]
        }
        Scale::Narrow | Scale::Line => vec![(Number, 7), (Name, 0), (Bar, 8), (Peak, 7), (Head, 5)],
    }
}

/// Draws title, headings and rows.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    title(model, buffer, area);
    let columns = columns(model.size);
    headings(model, &columns, buffer, area);
    let list = model.list();
    empty::draw(model, buffer, area);
    let lines = area.height.saturating_sub(frame_lines(list.page));
    let seen = list.rows.seen(list.top, usize::from(lines));
    for (line, (at, id)) in (2..).zip(seen) {
        let Some(stack) = model.picture.stack(id) else { continue };
        let mut pen = Pen::new(buffer, model.look, area, line);
        let selected = at == list.cursor;
        pen.text(&if selected { model.look.pointer() } else { ' ' }.to_string(), model.look.strong());
        let flexible = flexible(&columns, area.width);
        for (column, width) in &columns {
            let width = if *width == 0 { flexible } else { *width };
            cell(&mut pen, *column, width, &model.picture, id, stack, model.look);
            pen.skip(1);
        }
        if selected {
            pen.restyle(area, model.look.selected());
        }
    }
}

/// What the fixed columns, the spaces between all and the pointer leave.
fn flexible(columns: &[(Column, usize)], width: u16) -> usize {
    let fixed: usize = columns.iter().map(|(_, width)| width + 1).sum();
    usize::from(width).saturating_sub(fixed + 1)
}

fn title(model: &Model, buffer: &mut Buffer, area: Rect) {
    let group = match model.list().page {
        Page::Members(fingerprint) => model.picture.groups.iter().find(|cluster| cluster.fingerprint == fingerprint),
        _ => None,
    };
    let what = group.map_or("Stacks".to_owned(), |cluster| {
        let place = model.picture.whereabouts(cluster.worst).unwrap_or("-");
        format!("Stacks of the group {}", printable(place))
    });
    let what = format!("{what}{}", list::loading(model));
    Pen::new(buffer, model.look, area, 0).rule(&model.look.fit(&what), &list::position(model, area));
}

fn headings(model: &Model, columns: &[(Column, usize)], buffer: &mut Buffer, area: Rect) {
    let look = model.look;
    let flexible = flexible(columns, area.width);
    let mut pen = Pen::new(buffer, look, area, 1);
    pen.skip(1);
    for (column, width) in columns {
        let width = if *width == 0 { flexible } else { *width };
        let text = heading(*column, width, look);
        match column {
            Column::Kind | Column::Name | Column::State | Column::Where | Column::Bar | Column::KindLetter => {
                pen.left_cell(&text, width, look.dim())
            }
            _ => pen.right_cell(&text, width, look.dim()),
        };
        pen.skip(1);
    }
}

fn heading(column: Column, width: usize, look: Look) -> String {
    let [now, peak, free] = look.signs().bar_signs();
    let plain = match column {
        Column::Number => Sort::Number.heading(false),
        Column::Kind => "KIND",
        Column::KindLetter => "K",
        Column::Name => Sort::Name.heading(false),
        Column::State => "STATE",
        Column::StateLetter => "ST",
        Column::Bar if width > 16 => return format!("NOW{now} PEAK{peak} FREE{free}"),
        Column::Bar => return format!("NOW{now} {peak} {free}"),
        Column::Now => Sort::Now.heading(false),
        Column::Peak => Sort::Peak.heading(false),
        Column::Size => Sort::Size.heading(false),
        Column::Head => Sort::Danger.heading(false),
        Column::Guard => "GUARD",
        Column::Where => "WHERE",
    };
    plain.to_owned()
}

fn cell(pen: &mut Pen<'_>, column: Column, width: usize, picture: &Picture, id: usize, stack: &Stack, look: Look) {
    let plain = Style::new();
    match column {
        Column::Number => pen.right_cell(&picture.number(id), width, plain),
        Column::Kind => pen.left_cell(kind_word(stack.kind), width, plain),
        Column::KindLetter => pen.left_cell(kind_letter(stack.kind), width, plain),
        Column::Name => pen.name_cell(&printable(picture.name(id)), width, plain),
        Column::State => pen.left_cell(&with_doubt(stack.state.word(), stack), width, plain),
        Column::StateLetter => pen.right_cell(&with_doubt(&state_letter(stack.state).to_string(), stack), width, plain),
        Column::Bar => {
            bar::draw(pen, stack, width, look);
            pen
        }
        Column::Now => pen.right_cell(&stack.used().map_or("-".to_owned(), units::bytes), width, plain),
        Column::Peak => pen.right_cell(&peak(stack, look), width, plain),
        Column::Size => pen.right_cell(&stack.size().map_or("-".to_owned(), units::bytes), width, plain),
        Column::Head => head_room(pen, stack, width, look),
        Column::Guard => pen.right_cell(&guard(stack.bounds.guard), width, plain),
        Column::Where => pen.name_cell(&printable(picture.whereabouts(id).unwrap_or("-")), width, plain),
    };
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Signal => "signal",
        Kind::Unknown => "unknown",
        kind => singular(kind),
    }
}

/// A kind in one letter; the help page explains them.
pub(super) fn kind_letter(kind: Kind) -> &'static str {
    match kind {
        Kind::Thread => "t",
        Kind::Coroutine => "c",
        Kind::Segment => "g",
        Kind::Signal => "s",
        Kind::Unknown => "u",
    }
}

/// A state that is a guess has a question mark.
pub(super) fn with_doubt(word: &str, stack: &Stack) -> String {
    let doubt = if stack.confidence == Confidence::Guess { "?" } else { "" };
    format!("{word}{doubt}")
}

/// The most bytes in use, with the mark of how that is known; a lower bound where it is only what this look shows.
pub(super) fn peak(stack: &Stack, look: Look) -> String {
    let Some(most) = stack.most_used() else { return "-".to_owned() };
    let told = stack.peak.filter(|peak| peak.bytes >= most);
    let method = told.map_or(Method::Sampled, |peak| peak.method);
    format!("{}{}", units::bytes(most), look.signs().method(method))
}

/// The share of the size that was never in use, with the mark of the level.
pub(super) fn head_room<'p, 'b>(pen: &'p mut Pen<'b>, stack: &Stack, width: usize, look: Look) -> &'p mut Pen<'b> {
    let Some(level) = stack.level() else { return pen.right_cell("-", width, Style::new()) };
    let left = 10_000u64.saturating_sub(danger(stack)) / 100;
    let text = format!("{}{left:>2}%", look.signs().level_mark(level));
    pen.right_cell(&text, width, look.level(level))
}

fn guard(guard: Guard) -> String {
    match guard {
        Guard::Ok(range) => units::bytes(range.len()),
        Guard::None => "none".to_owned(),
        Guard::Grows => "grow".to_owned(),
        Guard::Unknown => "?".to_owned(),
    }
}
