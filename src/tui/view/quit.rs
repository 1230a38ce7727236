//! The question what is to become of a program of ours when the screen is left.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};

use super::super::model::Model;
use super::pen::Pen;

/// What the user may decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tui) enum Answer {
    /// It runs on without us.
    KeepRunning,
    /// It is told to end.
    End,
    /// The screen stays.
    Cancel,
}

/// An answer, its key, and what it does.
pub(in crate::tui) struct Choice {
    pub(in crate::tui) answer: Answer,
    pub(in crate::tui) key: char,
    words: &'static str,
}

/// The answers, the first of which harms nothing.
pub(in crate::tui) fn choices(model: &Model) -> [Choice; 3] {
    let end = match model.told_to_end {
        false => "end it (SIGTERM)",
        true => "kill it (SIGKILL); SIGTERM was sent",
    };
    [
        Choice { answer: Answer::KeepRunning, key: 'r', words: "leave; it runs on and writes here" },
        Choice { answer: Answer::End, key: 'e', words: end },
        Choice { answer: Answer::Cancel, key: 'c', words: "stay here (Esc)" },
    ]
}

/// The widest that the question gets.
const WIDTH: u16 = 64;

/// Draws the question over the middle of the screen.
pub(super) fn draw(model: &Model, cursor: usize, buffer: &mut Buffer, whole: Rect) {
    let look = model.look;
    let choices = choices(model);
    let (width, height) = (whole.width.min(WIDTH), 5.min(whole.height));
    let area = Rect { x: (whole.width - width) / 2, y: (whole.height - height) / 2, width, height };
    let margin = Rect { x: area.x.saturating_sub(1), width: area.width + 2, ..area };
    Clear.render(margin.intersection(whole), buffer);
    Pen::new(buffer, look, area, 0).rule("The program is still running", "");
    for (index, choice) in choices.iter().enumerate() {
        let mut pen = Pen::new(buffer, look, area, index as u16 + 1);
        let selected = index == cursor;
        pen.text(&if selected { look.pointer() } else { ' ' }.to_string(), look.strong());
        pen.text(&format!(" {}  ", choice.key), look.strong()).text(choice.words, Style::new());
        if selected {
            pen.restyle(area, look.selected());
        }
    }
    Pen::new(buffer, look, area, 4).rule("Enter does the line", "");
}
