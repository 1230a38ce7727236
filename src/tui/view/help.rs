//! The help page, made from the key table: typing searches it, Enter does what the selected line says.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};

use super::super::keys::{BINDINGS, Binding, Section};
use super::super::model::Model;
use super::super::rows;
use super::super::theme::Look;
use super::pen::Pen;
use crate::snapshot::Level;

/// The widest that the page gets.
const WIDTH: u16 = 80;

/// The lines of the page that fit what was typed.
pub(in crate::tui) fn found(wanted: &str) -> Vec<&'static Binding> {
    let fits = |binding: &&Binding| {
        [binding.help, binding.shown, binding.section.heading()].iter().any(|text| rows::contains(text, wanted))
    };
    BINDINGS.iter().filter(fits).collect()
}

/// A line of the page.
enum Line {
    Heading(Section),
    /// A binding, and its number among those found.
    Binding(usize, &'static Binding),
    Text(String),
}

/// Draws the page over the rest of the screen.
pub(super) fn draw(model: &Model, wanted: &str, cursor: usize, buffer: &mut Buffer, whole: Rect) {
    let look = model.look;
    let area = Rect { x: (whole.width.saturating_sub(WIDTH)) / 2, width: whole.width.min(WIDTH), ..whole };
    // A column on each side stands between the page and what it covers.
    let margin = Rect { x: area.x.saturating_sub(1), width: area.width + 2, ..area };
    Clear.render(margin.intersection(whole), buffer);
    let typed = if wanted.is_empty() { "type to search".to_owned() } else { format!("search: {wanted}") };
    Pen::new(buffer, look, area, 0).rule("Help", &look.fit(&typed));
    let lines = lines(wanted, look);
    let height = usize::from(area.height.saturating_sub(2));
    let at = lines.iter().position(|line| matches!(line, Line::Binding(number, _) if *number == cursor)).unwrap_or(0);
    let first = (at + 2).saturating_sub(height).min(lines.len().saturating_sub(height));
    for (line, content) in (1..).zip(lines.iter().skip(first).take(height)) {
        let mut pen = Pen::new(buffer, look, area, line);
        match content {
            Line::Heading(section) => {
                pen.skip(1).text(section.heading(), look.strong());
            }
            Line::Text(text) => {
                pen.skip(1).text(text, look.dim());
            }
            Line::Binding(number, binding) => {
                let selected = *number == cursor;
                pen.text(&if selected { look.pointer() } else { ' ' }.to_string(), look.strong());
                pen.skip(1).left_cell(binding.written(look.ascii), 13, look.strong()).skip(1);
                pen.text(binding.help, Style::new());
                if selected {
                    pen.restyle(area, look.selected());
                }
            }
        }
    }
    let more = if first + height < lines.len() { "more below" } else { "" };
    Pen::new(buffer, look, area, area.height.saturating_sub(1)).rule("Enter does the line, Esc closes", more);
}

fn lines(wanted: &str, look: Look) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut section = None;
    for (number, binding) in found(wanted).into_iter().enumerate() {
        if section.replace(binding.section) != Some(binding.section) {
            lines.push(Line::Heading(binding.section));
        }
        lines.push(Line::Binding(number, binding));
    }
    if lines.is_empty() {
        lines.push(Line::Text("nothing fits".to_owned()));
    }
    let legend = legend(look).into_iter().filter(|text| rows::contains(text, wanted));
    lines.extend(legend.map(Line::Text));
    lines
}

/// What the signs mean.
fn legend(look: Look) -> [String; 5] {
    let signs = look.signs();
    let [now, peak, free] = signs.bar_signs();
    let [guard, none, unknown] = [Some(true), Some(false), None].map(|guarded| signs.guard_sign(guarded));
    let [ok, warn, high, over] =
        [Level::Ok, Level::Warn, Level::High, Level::Over].map(|level| signs.level_mark(level));
    [
        format!(
            "bar    {now} in use now  {peak} ever in use  {free} free  {guard} guard  {none} none  {unknown} unknown"
        ),
        format!("peak   {} by touched pages  {} most seen by a look", signs.about(), signs.at_least()),
        format!("head   {ok} below 70 %  {warn} warn: from 70 %  {high} high: from 85 %  {over} over: overflow"),
        "kind   t thread  c coroutine  g segment  s signal stack  u unknown".to_owned(),
        "state  R running  W resuming another  S suspended  N new  F finished".to_owned(),
    ]
}
