//! Makes text from a target harmless to show.

use std::borrow::Cow;
use std::fmt::Write;

/// The same text, with an escape for every character that a terminal might act on, or that hides or reorders others.
///
/// The target chooses the names of symbols, files and threads. Escape sequences in them could drive the terminal,
/// line breaks forge lines of a report, and marks of writing direction show a name as another (CVE-2021-42574).
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_harmless(character) {
            shown.push(character);
        } else if (character as u32) < 0x80 {
            // Writing to a string can't fail.
            let _ = write!(shown, "\\x{:02x}", character as u32);
        } else {
            let _ = write!(shown, "\\u{{{:x}}}", character as u32);
        }
    }
    Cow::Owned(shown)
}

fn is_harmless(character: char) -> bool {
    let hides_or_reorders = matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !character.is_control() && !hides_or_reorders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_out_what_a_terminal_would_act_on() {
        assert_eq!(printable("\x1b[2Jmain\r\n"), "\\x1b[2Jmain\\x0d\\x0a");
        assert_eq!(printable("a\u{9b}31mb\u{7f}"), "a\\u{9b}31mb\\x7f");
        assert_eq!(printable("\u{202e}niam"), "\\u{202e}niam");
    }

    #[test]
    fn leaves_names_as_they_are() {
        assert!(matches!(printable("größe::<[T; 3]>::δ"), Cow::Borrowed(_)));
    }
}
