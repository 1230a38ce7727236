//! How text may look: colours or none, Unicode or ASCII.

/// What the reader's terminal can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Style {
    /// Whether SGR escape sequences may be used.
    pub color: bool,
    /// Whether only ASCII may be used.
    pub ascii: bool,
}

/// A meaning that text can have; colour never is its only sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// A heading.
    Strong,
    /// Something that matters less.
    Dim,
    /// Something to look at.
    Warning,
    /// Something that is wrong.
    Danger,
}

impl Style {
    /// `text` in `tone`, or as it is where there are no colours.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Strong => "1",
            Tone::Dim => "2",
            Tone::Warning => "33",
            Tone::Danger => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The mark of a number that was told by touched pages: true to a page, and at most too high.
    pub fn about(self) -> &'static str {
        if self.ascii { "~" } else { "≈" }
    }

    /// The sign between a thing and how often it stands there.
    pub fn times(self) -> &'static str {
        if self.ascii { "x" } else { "×" }
    }

    /// `text` with every character that is not ASCII replaced, where only ASCII may be used.
    pub fn fit(self, text: &str) -> String {
        if !self.ascii || text.is_ascii() {
            return text.to_owned();
        }
        text.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect()
    }
}
