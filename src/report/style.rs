//! How text may look: colours or none, Unicode or ASCII.

use crate::snapshot::{Level, Method};

/// What the reader's terminal can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Style {
    /// Whether SGR escape sequences may be used.
    pub color: bool,
    /// Whether only ASCII may be used.
    pub ascii: bool,
}

/// A meaning that text can have; colour is never its only sign.
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
    /// `text` in `tone`, or as it is if there are no colours.
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

    /// The mark of a number that is known by touched pages: true to a page, and at most too high.
    pub fn about(self) -> &'static str {
        if self.ascii { "~" } else { "≈" }
    }

    /// The mark of a number that is only the most that a look happened to see: a lower bound.
    pub fn at_least(self) -> &'static str {
        if self.ascii { ">" } else { "≥" }
    }

    /// The mark of a peak that is known in this way.
    pub fn method(self, method: Method) -> &'static str {
        match method {
            Method::Exact => "=",
            Method::Pages => self.about(),
            Method::Sampled => self.at_least(),
        }
    }

    /// The mark of a level.
    pub fn level_mark(self, level: Level) -> char {
        match (level, self.ascii) {
            (Level::Ok, false) => '·',
            (Level::Warn, false) => '▲',
            (Level::High, false) => '◆',
            (Level::Over, false) => '✗',
            (Level::Ok, true) => '.',
            (Level::Warn, true) => '!',
            (Level::High, true) => '*',
            (Level::Over, true) => 'X',
        }
    }

    /// In a bar: bytes in use now, bytes that were ever in use, and free ones.
    pub fn bar_signs(self) -> [char; 3] {
        if self.ascii { ['@', '#', '.'] } else { ['█', '▒', '·'] }
    }

    /// At the end of a bar: whether an overflow would be stopped there, if that is known.
    pub fn guard_sign(self, guarded: Option<bool>) -> char {
        match (guarded, self.ascii) {
            (Some(true), false) => '┃',
            (Some(true), true) => '|',
            (Some(false), false) => '╎',
            (Some(false), true) => ':',
            (None, _) => '?',
        }
    }

    /// `text` in at most `width` characters; if it is longer, a sign replaces its end.
    pub fn shorten(self, text: &str, width: usize) -> String {
        if text.chars().count() <= width {
            return text.to_owned();
        }
        let sign = self.cut();
        let kept = width.saturating_sub(sign.chars().count());
        text.chars().take(kept).chain(sign.chars()).take(width).collect()
    }

    /// The same, but the sign replaces the start: of a path of modules, the function remains.
    pub fn tail(self, text: &str, width: usize) -> String {
        let length = text.chars().count();
        if length <= width {
            return text.to_owned();
        }
        let sign = self.cut();
        let kept = width.saturating_sub(sign.chars().count());
        sign.chars().chain(text.chars().skip(length - kept)).take(width).collect()
    }

    /// The sign where text was left out.
    fn cut(self) -> &'static str {
        if self.ascii { "..." } else { "…" }
    }

    /// The sign between a thing and how often it occurs.
    pub fn times(self) -> &'static str {
        if self.ascii { "x" } else { "×" }
    }

    /// `text` with every character that is not ASCII replaced, if only ASCII may be used.
    pub fn fit(self, text: &str) -> String {
        if !self.ascii || text.is_ascii() {
            return text.to_owned();
        }
        let plain = text.replace('…', "...");
        plain.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_shortened_with_a_sign() {
        let [wide, narrow] = [false, true].map(|ascii| Style { color: false, ascii });
        assert_eq!(wide.shorten("a::function", 7), "a::fun…");
        assert_eq!(narrow.shorten("a::function", 7), "a::f...");
        assert_eq!(
            (wide.tail("a::function", 7), narrow.tail("a::function", 7)),
            ("…nction".to_owned(), "...tion".to_owned())
        );
        assert_eq!((narrow.shorten("abcdef", 2), wide.shorten("abc", 3)), ("..".to_owned(), "abc".to_owned()));
    }
}
