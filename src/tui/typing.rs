//! Keys as the bytes by which terminals report them to programs (those of xterm, which its terminfo entry lists).

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::pane::Modes;

/// The bytes of a key; none where terminals have none for it.
pub(super) fn bytes(event: KeyEvent, modes: Modes) -> Vec<u8> {
    let KeyEvent { code, modifiers, .. } = event;
    let mut bytes = match code {
        KeyCode::Char(letter) if modifiers.contains(KeyModifiers::CONTROL) => control(letter),
        KeyCode::Char(letter) => letter.to_string().into_bytes(),
        KeyCode::Enter => b"\r".to_vec(),
        KeyCode::Tab => b"\t".to_vec(),
        KeyCode::Backspace => b"\x7f".to_vec(),
        KeyCode::Esc => b"\x1b".to_vec(),
        code => return special(code, modifiers, modes),
    };
    if modifiers.contains(KeyModifiers::ALT) && !bytes.is_empty() {
        bytes.insert(0, 0x1b);
    }
    bytes
}

/// What was pasted, marked where the program wants that.
pub(super) fn pasted(text: &str, modes: Modes) -> Vec<u8> {
    // The end mark in the text would let the rest of it be taken for keys.
    let text = text.replace("\x1b[201~", "").replace('\n', "\r");
    match modes.bracketed_paste {
        true => format!("\x1b[200~{text}\x1b[201~").into_bytes(),
        false => text.into_bytes(),
    }
}

/// Control and a letter are the first 32 characters of ASCII.
fn control(letter: char) -> Vec<u8> {
    match letter {
        ' ' | '2' => vec![0],
        '3'..='7' => vec![letter as u8 - b'3' + 0x1b],
        '8' | '?' => vec![0x7f],
        '/' => vec![0x1f],
        'a'..='z' | '@'..='_' => vec![letter as u8 & 0x1f],
        _ => Vec::new(),
    }
}

fn special(code: KeyCode, modifiers: KeyModifiers, modes: Modes) -> Vec<u8> {
    let (number, letter) = match code {
        KeyCode::Up => (1, 'A'),
        KeyCode::Down => (1, 'B'),
        KeyCode::Right => (1, 'C'),
        KeyCode::Left => (1, 'D'),
        KeyCode::Home => (1, 'H'),
        KeyCode::End => (1, 'F'),
        KeyCode::BackTab => return b"\x1b[Z".to_vec(),
        KeyCode::Insert => (2, '~'),
        KeyCode::Delete => (3, '~'),
        KeyCode::PageUp => (5, '~'),
        KeyCode::PageDown => (6, '~'),
        KeyCode::F(number @ 1..=4) => (1, char::from(b'P' + number - 1)),
        KeyCode::F(number @ 5..=12) => ([15, 17, 18, 19, 20, 21, 23, 24][usize::from(number) - 5], '~'),
        _ => return Vec::new(),
    };
    let bits = [(KeyModifiers::SHIFT, 1), (KeyModifiers::ALT, 2), (KeyModifiers::CONTROL, 4)];
    let held: u8 = bits.iter().filter(|(modifier, _)| modifiers.contains(*modifier)).map(|(_, bit)| bit).sum();
    let is_function = matches!(code, KeyCode::F(1..=4));
    match (held, letter) {
        (0, '~') => format!("\x1b[{number}~"),
        (0, letter) if is_function || modes.application_cursor => format!("\x1bO{letter}"),
        (0, letter) => format!("\x1b[{letter}"),
        (held, letter) => format!("\x1b[{number};{}{letter}", held + 1),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_xterm() {
        let plain = Modes::default();
        let application = Modes { application_cursor: true, ..plain };
        let cases: [(KeyCode, KeyModifiers, Modes, &[u8]); 11] = [
            (KeyCode::Char('ö'), KeyModifiers::NONE, plain, "ö".as_bytes()),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, plain, b"\x03"),
            (KeyCode::Char('x'), KeyModifiers::ALT, plain, b"\x1bx"),
            (KeyCode::Char(' '), KeyModifiers::CONTROL, plain, b"\0"),
            (KeyCode::Enter, KeyModifiers::NONE, plain, b"\r"),
            (KeyCode::Up, KeyModifiers::NONE, plain, b"\x1b[A"),
            (KeyCode::Up, KeyModifiers::NONE, application, b"\x1bOA"),
            (KeyCode::Left, KeyModifiers::CONTROL, application, b"\x1b[1;5D"),
            (KeyCode::F(1), KeyModifiers::NONE, plain, b"\x1bOP"),
            (KeyCode::F(5), KeyModifiers::SHIFT, plain, b"\x1b[15;2~"),
            (KeyCode::Delete, KeyModifiers::NONE, plain, b"\x1b[3~"),
        ];
        for (code, modifiers, modes, expected) in cases {
            assert_eq!(bytes(KeyEvent::new(code, modifiers), modes), expected, "{code:?}");
        }
    }

    #[test]
    fn a_paste_cannot_end_itself() {
        let modes = Modes { bracketed_paste: true, ..Modes::default() };
        assert_eq!(pasted("a\x1b[201~b\n", modes), b"\x1b[200~ab\r\x1b[201~");
        assert_eq!(pasted("a\nb", Modes::default()), b"a\rb");
    }
}
