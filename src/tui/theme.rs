//! How things look: the terminal's own sixteen colours or none, Unicode or ASCII.
//!
//! Colour never is the only sign of anything: what it shows stands there as a mark, a word or a shape too. No colour is
//! named that a light or a dark background hides.

use ratatui::style::{Color, Modifier, Style};

use crate::report::style::Style as Signs;
use crate::snapshot::Level;

/// What the user asked the screen to look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Whether colours may be used; without them bold, dim and reverse remain.
    pub colors: bool,
    /// Whether only ASCII may be used.
    pub ascii: bool,
}

impl Look {
    /// The marks of the reports.
    pub(super) fn signs(self) -> Signs {
        Signs { color: false, ascii: self.ascii }
    }

    /// Whether colours may be used.
    pub(super) fn colors(self) -> bool {
        self.colors
    }

    fn colored(self, color: Color) -> Style {
        if self.colors { Style::new().fg(color) } else { Style::new() }
    }

    /// Headings.
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What matters less.
    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The selected row.
    pub(super) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Bytes in use now.
    pub(super) fn now(self) -> Style {
        self.colored(Color::Blue)
    }

    /// Where a backtrace goes on on another stack.
    pub(super) fn crossing(self) -> Style {
        self.colored(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Something to look at.
    pub(super) fn warning(self) -> Style {
        self.colored(Color::Yellow)
    }

    /// How close to its end a stack is.
    pub(super) fn level(self, level: Level) -> Style {
        match level {
            Level::Ok => Style::new(),
            Level::Warn => self.warning(),
            Level::High => self.colored(Color::Magenta).add_modifier(Modifier::BOLD),
            Level::Over => self.colored(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED),
        }
    }

    /// The character of horizontal rules.
    pub(super) fn rule(self) -> char {
        if self.ascii { '-' } else { '─' }
    }

    /// The mark before the selected row, for terminals that show no reverse.
    pub(super) fn pointer(self) -> char {
        if self.ascii { '>' } else { '▸' }
    }

    /// The same text with all that is not ASCII replaced, where only that may be used.
    pub(super) fn fit(self, text: &str) -> String {
        self.signs().fit(text)
    }
}
