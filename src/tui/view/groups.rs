//! The list of groups: stacks with equal backtraces in one row.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::super::model::Model;
use super::super::picture::{Cluster, state_letter};
use super::layout::{Scale, frame_lines, scale};
use super::pen::Pen;
use super::{bar, empty, list, table};
use crate::image::printable;
use crate::report::words::singular;
use crate::report::{GroupBy, units};
use crate::snapshot::Stack;

/// The cells of the bar that shows a group's share of all stacks.
const SHARE: usize = 10;
/// The cells of the column that says what the stacks of a group do.
const STATES: usize = 14;

/// Draws title, headings and rows.
pub(super) fn draw(model: &Model, buffer: &mut Buffer, area: Rect) {
    let title = format!("{}{}", title(model), list::loading(model));
    Pen::new(buffer, model.look, area, 0).rule(&title, &list::position(model, area));
    headings(model, buffer, area);
    let list = model.list();
    empty::draw(model, buffer, area);
    let lines = area.height.saturating_sub(frame_lines(list.page));
    let seen = list.rows.seen(list.top, usize::from(lines));
    for (line, (at, row)) in (2..).zip(seen) {
        let Some(cluster) = model.picture.groups.get(row) else { continue };
        let mut pen = Pen::new(buffer, model.look, area, line);
        let selected = at == list.cursor;
        pen.text(&if selected { model.look.pointer() } else { ' ' }.to_string(), model.look.strong());
        draw_row(&mut pen, model, cluster);
        if selected {
            pen.restyle(area, model.look.selected());
        }
    }
}

fn title(model: &Model) -> &'static str {
    match model.picture.wanted.group_by {
        GroupBy::Stack => "Groups of equal backtraces",
        GroupBy::Entry => "Groups by entry",
        GroupBy::Top => "Groups by innermost function",
        GroupBy::State => "Groups by state",
    }
}

fn headings(model: &Model, buffer: &mut Buffer, area: Rect) {
    let look = model.look;
    let mut pen = Pen::new(buffer, look, area, 1);
    let [now, peak, free] = look.signs().bar_signs();
    pen.skip(1).right_cell("COUNT", 8, look.dim()).skip(1);
    if scale(model.size) == Scale::Wide {
        pen.left_cell("SHARE", SHARE, look.dim()).skip(1);
        pen.left_cell("KIND", 9, look.dim()).skip(1);
        pen.left_cell("STATE", STATES, look.dim()).skip(1);
        pen.left_cell(&format!("DEEPEST{now}{peak}{free}"), 14, look.dim()).skip(1);
        pen.right_cell("IN USE", 6, look.dim()).skip(1);
    }
    if scale(model.size) == Scale::Middle {
        pen.left_cell("K", 1, look.dim()).skip(1).left_cell("ST", 2, look.dim()).skip(1);
    }
    if scale(model.size) >= Scale::Middle {
        pen.right_cell("MAX", 7, look.dim()).skip(1).right_cell("SIZE", 5, look.dim()).skip(1);
    }
    pen.right_cell("HEAD", 5, look.dim()).skip(1).text("WHERE", look.dim());
}

/// What the stacks of a group do: a word, or how many do what.
fn states(cluster: &Cluster, worst: &Stack) -> String {
    match cluster.states.as_slice() {
        [_] => table::with_doubt(worst.state.word(), worst),
        several => {
            let parts =
                several.iter().map(|(state, count)| format!("{} {}", state_letter(*state), units::count(*count)));
            let text = parts.collect::<Vec<_>>().join(" ");
            if text.chars().count() > STATES { "several".to_owned() } else { text }
        }
    }
}

/// The numbers are those of the group's stack that is closest to its end, except the bytes in use, which are of all.
fn draw_row(pen: &mut Pen<'_>, model: &Model, cluster: &Cluster) {
    let (picture, look, plain) = (&model.picture, model.look, Style::new());
    let Some(stack) = picture.stack(cluster.worst) else { return };
    let count = cluster.group.stacks.len();
    pen.right_cell(&units::count(count), 8, plain).skip(1);
    if scale(model.size) == Scale::Wide {
        let [full, _, free] = look.signs().bar_signs();
        let filled = (count * SHARE).div_ceil(picture.snapshot.stacks.len().max(1)).min(SHARE);
        let share: String =
            std::iter::repeat_n(full, filled).chain(std::iter::repeat_n(free, SHARE - filled)).collect();
        pen.left_cell(&share, SHARE, plain).skip(1);
        pen.left_cell(singular(stack.kind), 9, plain).skip(1);
        pen.left_cell(&states(cluster, stack), STATES, plain).skip(1);
        bar::draw(pen, stack, 14, look);
        pen.skip(1).right_cell(&units::bytes(cluster.used), 6, plain).skip(1);
    }
    if scale(model.size) == Scale::Middle {
        pen.left_cell(table::kind_letter(stack.kind), 1, plain).skip(1);
        let letter = if cluster.states.len() == 1 { state_letter(stack.state) } else { '*' };
        pen.right_cell(&table::with_doubt(&letter.to_string(), stack), 2, plain).skip(1);
    }
    if scale(model.size) >= Scale::Middle {
        pen.right_cell(&table::peak(stack, look), 7, plain).skip(1);
        pen.right_cell(&stack.size().map_or("-".to_owned(), units::bytes), 5, plain).skip(1);
    }
    table::head_room(pen, stack, 5, look).skip(1);
    let place = picture.whereabouts(cluster.worst).unwrap_or("-");
    let entry = stack.entry.as_deref().filter(|entry| *entry != place);
    let from = entry.map_or(String::new(), |entry| format!("  from {}", printable(entry)));
    let room = pen.left();
    pen.left_cell(&format!("{}{from}", printable(place)), room, plain);
}
