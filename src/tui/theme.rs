//! How things look: the colours of a theme or none, Unicode or ASCII.
//!
//! Colour never is the only sign of anything: what it shows stands there as a mark, a word or a shape too. The
//! terminal's own colours are the default: no background hides them.

use ratatui::style::{Color, Modifier, Style};

use crate::report::style::Style as Signs;
use crate::snapshot::Level;

/// What the screen is coloured with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Theme {
    /// The terminal's own sixteen colours.
    Ansi,
    /// Light colours, for a dark background.
    Dark,
    /// Dark colours, for a light background.
    Light,
    /// Colours that people of any colour vision tell apart (those of Okabe and Ito).
    ColorBlind,
    /// None: bold, dim and reverse remain.
    Mono,
}

impl Theme {
    /// All of them.
    pub const ALL: [Theme; 5] = [Theme::Ansi, Theme::Dark, Theme::Light, Theme::ColorBlind, Theme::Mono];

    /// Its name in options, commands and the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Theme::Ansi => "ansi",
            Theme::Dark => "dark",
            Theme::Light => "light",
            Theme::ColorBlind => "colorblind",
            Theme::Mono => "mono",
        }
    }

    fn color(self, hue: Hue) -> Color {
        let [now, crossing, warning, high, over] = match self {
            Theme::Ansi => [Color::Blue, Color::Cyan, Color::Yellow, Color::Magenta, Color::Red],
            Theme::Dark => [0x7aa2f7, 0x7dcfff, 0xe0af68, 0xff9e64, 0xf7768e].map(rgb),
            Theme::Light => [0x1f4fa8, 0x006c7a, 0x7a5300, 0xa63a00, 0xb00020].map(rgb),
            Theme::ColorBlind => [0x0072b2, 0x009e73, 0xe69f00, 0xcc79a7, 0xd55e00].map(rgb),
            Theme::Mono => [Color::Reset; 5],
        };
        match hue {
            Hue::Now => now,
            Hue::Crossing => crossing,
            Hue::Warning => warning,
            Hue::High => high,
            Hue::Over => over,
        }
    }
}

fn rgb(number: u32) -> Color {
    let [_, red, green, blue] = number.to_be_bytes();
    Color::Rgb(red, green, blue)
}

/// What colours are used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hue {
    Now,
    Crossing,
    Warning,
    High,
    Over,
}

/// What the user asked the screen to look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// The colours.
    pub theme: Theme,
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
        self.theme != Theme::Mono
    }

    fn colored(self, hue: Hue) -> Style {
        if self.colors() { Style::new().fg(self.theme.color(hue)) } else { Style::new() }
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
        self.colored(Hue::Now)
    }

    /// Where a backtrace goes on on another stack.
    pub(super) fn crossing(self) -> Style {
        self.colored(Hue::Crossing).add_modifier(Modifier::BOLD)
    }

    /// Something to look at.
    pub(super) fn warning(self) -> Style {
        self.colored(Hue::Warning)
    }

    /// How close to its end a stack is.
    pub(super) fn level(self, level: Level) -> Style {
        match level {
            Level::Ok => Style::new(),
            Level::Warn => self.warning(),
            Level::High => self.colored(Hue::High).add_modifier(Modifier::BOLD),
            Level::Over => self.colored(Hue::Over).add_modifier(Modifier::BOLD | Modifier::REVERSED),
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
