//! Which rows fit a search.

use super::picture::Picture;
use crate::report::words::singular;

/// Whether a stack fits a search: by its number, kind, state, name, or one of the functions that rows show.
pub(super) fn stack_fits(picture: &Picture, id: usize, wanted: &str) -> bool {
    let Some(stack) = picture.stack(id) else { return false };
    let texts = [Some(picture.name(id)), stack.entry.as_deref(), picture.whereabouts(id)];
    let words = [singular(stack.kind), stack.state.word()];
    // "read" is not to find every thread.
    let begins = |word: &str| word.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
    texts.into_iter().flatten().any(|text| contains(text, wanted))
        || words.into_iter().any(begins)
        || contains(&picture.number(id), wanted)
}

/// Whether `text` holds `wanted`, whatever the case of ASCII letters.
pub(super) fn contains(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    wanted.is_empty() || text.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_passes_over_case() {
        assert!(contains("Conn::Read", "conn::r") && contains("x", "") && !contains("Conn", "connx"));
        assert!(contains("größe", "öß") && !contains("", "a"));
    }
}
