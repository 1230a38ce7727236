//! The help page, made from the key table: typing searches it, Enter does what the selected line says.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};

use super::super::keys::{BINDINGS, Binding, Section};
use super::super::model::Model;
use super::super::rows;
use super::super::theme::Look;
use super::pen::{Pen, wrap};
use crate::snapshot::{Level, Method};

/// The widest that the page gets.
const WIDTH: u16 = 80;
/// The cells of the column of keys.
const KEYS: usize = 13;

/// The lines of the page that fit what was typed.
pub(in crate::tui) fn found(wanted: &str) -> Vec<&'static Binding> {
    let fits = |binding: &&Binding| {
        [binding.help, binding.shown, binding.section.heading()].iter().any(|text| rows::contains(text, wanted))
    };
    BINDINGS.iter().filter(fits).collect()
}

/// How many of its rows can be selected: those of keys that fit what was typed, and those of the legend.
pub(in crate::tui) fn rows(wanted: &str, look: Look) -> usize {
    found(wanted).len() + found_in_legend(wanted, look).count()
}

fn found_in_legend(wanted: &str, look: Look) -> impl Iterator<Item = Explained> {
    legend(look).into_iter().filter(move |(word, signs)| {
        rows::contains(word, wanted) || signs.iter().any(|sign| rows::contains(sign, wanted))
    })
}

/// A line of the page.
enum HelpLine {
    Heading(Section),
    /// A binding with its number among those found, and what is said about it.
    Binding(usize, &'static Binding, String),
    /// What else is said about the binding above.
    More(usize, String),
    /// A line of the legend, which is counted on from the bindings.
    Legend(usize, String),
    /// That nothing fits.
    Nothing,
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
    let lines = lines(wanted, look, usize::from(area.width));
    let height = usize::from(area.height.saturating_sub(2));
    let at = lines.iter().rposition(|line| line.number() == Some(cursor)).unwrap_or(0);
    let first = (at + 2).saturating_sub(height).min(lines.len().saturating_sub(height));
    for (line, content) in (1..).zip(lines.iter().skip(first).take(height)) {
        let mut pen = Pen::new(buffer, look, area, line);
        let selected = content.number() == Some(cursor);
        match content {
            HelpLine::Heading(section) => {
                pen.skip(1).text(section.heading(), look.strong());
            }
            HelpLine::Legend(_, text) => {
                pen.skip(1).text(text, look.dim());
            }
            HelpLine::Nothing => {
                pen.skip(1).text("nothing fits", look.dim());
            }
            HelpLine::Binding(_, binding, text) => {
                pen.text(&if selected { look.pointer() } else { ' ' }.to_string(), look.strong());
                pen.skip(1)
                    .left_cell(binding.written(look.ascii), KEYS, look.strong())
                    .skip(1)
                    .text(text, Style::new());
            }
            HelpLine::More(_, text) => {
                pen.skip(KEYS + 3).text(text, Style::new());
            }
        }
        if selected {
            pen.restyle(area, look.selected());
        }
    }
    let more = if first + height < lines.len() { "more below" } else { "" };
    Pen::new(buffer, look, area, area.height.saturating_sub(1)).rule("Enter does the line, Esc closes", more);
}

impl HelpLine {
    /// The number of the binding that it is about.
    fn number(&self) -> Option<usize> {
        match self {
            HelpLine::Binding(number, ..) | HelpLine::More(number, _) | HelpLine::Legend(number, _) => Some(*number),
            HelpLine::Heading(_) | HelpLine::Nothing => None,
        }
    }
}

fn lines(wanted: &str, look: Look, width: usize) -> Vec<HelpLine> {
    let mut lines = Vec::new();
    let mut section = None;
    for (number, binding) in found(wanted).into_iter().enumerate() {
        if section.replace(binding.section) != Some(binding.section) {
            lines.push(HelpLine::Heading(binding.section));
        }
        let mut words = wrap(binding.help, width.saturating_sub(KEYS + 3)).into_iter();
        lines.push(HelpLine::Binding(number, binding, words.next().unwrap_or_default()));
        lines.extend(words.map(|text| HelpLine::More(number, text)));
    }
    for (number, entry) in (found(wanted).len()..).zip(found_in_legend(wanted, look)) {
        lines.extend(broken(&entry, width.saturating_sub(2)).into_iter().map(|text| HelpLine::Legend(number, text)));
    }
    if lines.is_empty() {
        lines.push(HelpLine::Nothing);
    }
    lines
}

/// A word, and signs with what they mean there.
type Explained = (&'static str, Vec<String>);

/// A row of the legend in lines.
fn broken((word, signs): &Explained, width: usize) -> Vec<String> {
    let mut lines = vec![format!("{word:<6}")];
    for sign in signs {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + sign.chars().count() <= width) {
            Some(line) => line.extend([" ", sign, " "]),
            None => lines.push(format!("{:<6} {sign} ", "")),
        }
    }
    lines
}

/// What the signs mean.
fn legend(look: Look) -> [Explained; 7] {
    let signs = look.signs();
    let with = |signs: &[(&str, &str)]| signs.iter().map(|(sign, means)| format!("{sign} {means}")).collect();
    let [now, peak, free] = signs.bar_signs().map(String::from);
    let [guard, none, unknown] = [Some(true), Some(false), None].map(|guarded| signs.guard_sign(guarded).to_string());
    let [ok, warn, high, over] =
        [Level::Ok, Level::Warn, Level::High, Level::Over].map(|level| signs.level_mark(level).to_string());
    [
        ("bar", with(&[(&now, "in use now"), (&peak, "ever in use"), (&free, "free")])),
        ("end", with(&[(&guard, "guard"), (&none, "none"), (&unknown, "unknown")])),
        (
            "peak",
            with(&[
                (signs.method(Method::Exact), "exact"),
                (signs.about(), "by touched pages"),
                (signs.at_least(), "most seen by a look"),
            ]),
        ),
        (
            "head",
            with(&[(&ok, "below 70 %"), (&warn, "warn: from 70 %"), (&high, "high: from 85 %"), (&over, "overflow")]),
        ),
        (
            "kind",
            with(&[("t", "thread"), ("c", "coroutine"), ("g", "segment"), ("s", "signal stack"), ("u", "unknown")]),
        ),
        (
            "state",
            with(&[
                ("R", "running"),
                ("W", "resuming another"),
                ("S", "suspended"),
                ("N", "new"),
                ("F", "finished"),
                ("*", "several"),
                ("?", "a guess"),
            ]),
        ),
        ("group", with(&[("IN USE", "is the sum of all"), ("the rest", "is of the one that is closest to its end")])),
    ]
}
