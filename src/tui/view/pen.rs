//! Writes a line of cells from left to right, never past its end.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

use super::super::theme::Look;

/// A place in a line, and what can be written from there.
pub(super) struct Pen<'b> {
    buffer: &'b mut Buffer,
    look: Look,
    x: u16,
    y: u16,
    end: u16,
}

impl<'b> Pen<'b> {
    /// A pen at the start of line `line` of `area`; it writes nothing where there is no such line.
    pub(super) fn new(buffer: &'b mut Buffer, look: Look, area: Rect, line: u16) -> Pen<'b> {
        let area = area.intersection(buffer.area);
        let end = if line < area.height { area.right() } else { area.left() };
        Pen { buffer, look, x: area.left(), y: area.top().saturating_add(line), end }
    }

    /// How many cells are left.
    pub(super) fn left(&self) -> usize {
        usize::from(self.end.saturating_sub(self.x))
    }

    /// Writes `text`, as much as there is room for.
    pub(super) fn text(&mut self, text: &str, style: Style) -> &mut Pen<'b> {
        if self.x < self.end {
            let text = self.look.fit(text);
            (self.x, _) = self.buffer.set_stringn(self.x, self.y, text, self.left(), style);
        }
        self
    }

    /// Leaves `count` cells as they are.
    pub(super) fn skip(&mut self, count: usize) -> &mut Pen<'b> {
        self.x = self.end.min(self.x.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)));
        self
    }

    /// Writes `text` to the left of a column of `width` cells, shortened to it.
    pub(super) fn left_cell(&mut self, text: &str, width: usize, style: Style) -> &mut Pen<'b> {
        let text = self.look.signs().shorten(&self.look.fit(text), width.min(self.left()));
        self.cell(&text, width, style)
    }

    /// The same for the name of a function, of which the end counts.
    pub(super) fn name_cell(&mut self, name: &str, width: usize, style: Style) -> &mut Pen<'b> {
        let width_of = |text: &str| Span::raw(text).width();
        // What all closures are called says little.
        let short = if width_of(name) > width { name.replace("{{closure}}", "{}") } else { name.to_owned() };
        let text = self.look.signs().tail(&self.look.fit(&short), width.min(self.left()));
        self.cell(&text, width, style)
    }

    fn cell(&mut self, text: &str, width: usize, style: Style) -> &mut Pen<'b> {
        let width = width.min(self.left());
        let end = std::mem::replace(&mut self.end, self.x.saturating_add(width as u16));
        self.text(text, style);
        (self.x, self.end) = (self.end, end);
        self
    }

    /// Writes `text` to the right of a column of `width` cells, shortened to it.
    pub(super) fn right_cell(&mut self, text: &str, width: usize, style: Style) -> &mut Pen<'b> {
        let width = width.min(self.left());
        let text = self.look.signs().shorten(&self.look.fit(text), width);
        let length = Span::raw(text.as_str()).width().min(width);
        self.skip(width - length).left_cell(&text, length, style)
    }

    /// Repeats a character to the end of the line, `keep` cells before it.
    pub(super) fn fill(&mut self, sign: char, keep: usize, style: Style) -> &mut Pen<'b> {
        let line: String = std::iter::repeat_n(sign, self.left().saturating_sub(keep)).collect();
        self.text(&line, style)
    }

    /// A horizontal rule with words in it: `── left ───────── right ──`.
    pub(super) fn rule(&mut self, left: &str, right: &str) {
        let (look, rule) = (self.look, self.look.rule());
        let edge: String = [rule, rule].iter().collect();
        let room = self.left();
        let right_width = if right.is_empty() { 0 } else { Span::raw(right).width() + 4 };
        let right_width = if right_width + 12 > room { 0 } else { right_width };
        let left = look.signs().shorten(left, room.saturating_sub(right_width + 6));
        self.text(&edge, look.dim()).text(&format!(" {left} "), look.strong()).fill(rule, right_width, look.dim());
        if right_width > 0 {
            self.text(&format!(" {right} "), Style::new()).text(&edge, look.dim());
        }
    }

    /// Gives the whole line, from `area`'s left edge, another style.
    pub(super) fn restyle(&mut self, area: Rect, style: Style) {
        self.buffer.set_style(Rect::new(area.left(), self.y, area.width, 1).intersection(area), style);
    }
}

/// `text` in lines of at most `width` cells, broken between words where that is possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        let fits = |line: &&mut String| Span::raw(line.as_str()).width() + 1 + Span::raw(word).width() <= width;
        match lines.last_mut().filter(fits) {
            Some(line) => line.extend([" ", word]),
            // A character may take two cells: then its line is cut where it is drawn.
            None => lines.extend(letters.chunks(width).map(|part| part.iter().collect::<String>())),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("the stack closest to overflow", 12), ["the stack", "closest to", "overflow"]);
        assert_eq!(wrap("unbreakable x", 4), ["unbr", "eaka", "ble", "x"]);
        assert_eq!(wrap("", 4), [""; 0]);
        assert_eq!(wrap("a b", 0), ["a", "b"]);
    }
}
