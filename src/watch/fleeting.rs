//! What shows that stacks come and go between looks.

use crate::addr::PAGE;
use crate::snapshot::{Method, Peak};

/// What shows that stacks other than threads' own live shorter than the time between two looks. How many of them no
/// look showed, and what these held, is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fleeting {
    /// Stacks that only one look showed, and that had ended unseen by the next one.
    pub met_once: usize,
    /// Stacks in whose place a later look showed another: memory that they had touched was given back.
    pub replaced: usize,
}

/// Whether memory that a stack had touched, as `before` says, was given back by `now`: what is in its
/// place then is another stack, or a new user of this one.
pub(super) fn gave_back(before: Option<Peak>, now: Option<Peak>) -> bool {
    let touched = |peak: Option<Peak>| {
        let peak = peak.filter(|peak| peak.method == Method::Pages)?;
        Some(peak.apart.map_or(peak.bytes, |apart| apart.bytes))
    };
    touched(before).zip(touched(now)).is_some_and(|(before, now)| now + PAGE <= before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Apart;

    #[test]
    fn only_less_touched_memory_was_given_back() {
        let told = |bytes| Some(Peak::by_pages(bytes));
        assert!(gave_back(told(0x9000), told(0x2000)));
        assert!(!gave_back(told(0x2000), told(0x9000)));
        assert!(!gave_back(told(0x2800), told(0x2000)), "less than a page is where the stack pointer stood");
        assert!(!gave_back(told(0x9000), None));
        let apart = Some(Apart { bytes: 0x9000, pages: 1 });
        assert!(!gave_back(told(0x9000), Some(Peak { apart, ..Peak::by_pages(0x2000) })), "it is still touched");
    }
}
