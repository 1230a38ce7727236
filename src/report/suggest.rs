//! Which stack size to suggest, by what stacks were seen to hold.
//!
//! More is suggested whatever is known. Less is suggested only if nothing contradicts it: a program that follows the
//! suggestion must not crash because of it.

use crate::addr::PAGE;
use crate::process;
use crate::snapshot::{Kind, Method};
use crate::watch::Group;

/// What a panic of a Rust program with a backtrace takes of a stack, in bytes: 23,536 in a debug build and 22,304 in a
/// release build with Rust 1.95 on x86-64, including all that is in use below the panic. Measured on a painted stack of
/// corosensei whose coroutine indexes past the end of a vector, with `RUST_BACKTRACE=1` as with `full`, debug
/// information in the program; the next smaller size in pages, 20 KiB, ends the program by a signal.
const PANIC: u64 = 24 << 10;

/// What a signal frame takes if the kernel does not say: all of x86-64's registers with AVX-512, in bytes.
const SIGNAL_FRAME: u64 = 4 << 10;

/// The size to give to the stacks of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Suggested {
    /// Another than today's, in bytes.
    Size(u64),
    /// Today's.
    Keep(Why),
}

/// Why no other size is suggested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Nothing is known of the size, or of what was held.
    Unknown,
    /// They grow by themselves as far as they need.
    Grows,
    /// They are alternate signal stacks: the kernel decides what those need.
    Signal,
    /// It is as good as any.
    Fits,
    /// Only a lower bound of what was held is known.
    LowerBound,
    /// Some of them ended without a look that shows what they held then.
    EndUnseen,
}

impl Why {
    /// Its word in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Why::Unknown => "unknown",
            Why::Grows => "grows",
            Why::Signal => "signal",
            Why::Fits => "fits",
            Why::LowerBound => "lower_bound",
            Why::EndUnseen => "end_unseen",
        }
    }
}

/// The size to give to the stacks of `group`: the next page above `margin` times the most that was held, and if that is
/// less than today's, no less than a signal frame and a panic with a backtrace need.
pub(crate) fn suggested(group: &Group, margin: f64) -> Suggested {
    let (Some(peaks), Some(size)) = (group.peaks, group.size) else { return Suggested::Keep(Why::Unknown) };
    let wanted = ((peaks.max as f64 * margin / PAGE as f64).ceil() as u64).saturating_mul(PAGE);
    let less = wanted.max(least());
    match () {
        () if group.grows => Suggested::Keep(Why::Grows),
        () if group.kind == Kind::Signal => Suggested::Keep(Why::Signal),
        () if wanted > size => Suggested::Size(wanted),
        () if less >= size => Suggested::Keep(Why::Fits),
        () if peaks.method == Method::Sampled => Suggested::Keep(Why::LowerBound),
        () if group.ends_unseen > 0 => Suggested::Keep(Why::EndUnseen),
        () => Suggested::Size(less),
    }
}

/// The size that is suggested, if it differs from today's.
pub(crate) fn suggested_size(group: &Group, margin: f64) -> Option<u64> {
    match suggested(group, margin) {
        Suggested::Size(size) => Some(size),
        Suggested::Keep(_) => None,
    }
}

/// The bytes of address space that the suggested size would save, with the most stacks that there were at one time.
pub(crate) fn saved_bytes(group: &Group, margin: f64) -> Option<u64> {
    let saved = group.size?.checked_sub(suggested_size(group, margin)?)?;
    saved.checked_mul(u64::try_from(group.most_at_once).ok()?)
}

/// The least that is suggested instead of more: room for a signal frame and a panic with a backtrace.
fn least() -> u64 {
    (PANIC + process::signal_frame().unwrap_or(SIGNAL_FRAME)).next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Peaks;

    fn group(size: u64, max: u64, method: Method, ends_unseen: usize) -> Group {
        Group {
            kind: Kind::Coroutine,
            entry: Some("worker".into()),
            count: 8,
            most_at_once: 4,
            size: Some(size),
            grows: false,
            peaks: Some(Peaks { p50: max, p99: max, max, method }),
            apart: None,
            ends_unseen,
            pooled: false,
            guarded: Some(Some(true)),
        }
    }

    #[test]
    fn less_is_suggested_only_where_the_ends_were_seen() {
        let suggested = |size, max, method, unseen| suggested(&group(size, max, method, unseen), 1.5);
        assert_eq!(suggested(65536, 4300, Method::Pages, 0), Suggested::Size(least()));
        assert_eq!(suggested(1 << 20, 300_000, Method::Pages, 0), Suggested::Size(450_560));
        assert_eq!(suggested(65536, 4300, Method::Pages, 1), Suggested::Keep(Why::EndUnseen));
        assert_eq!(suggested(65536, 4300, Method::Sampled, 0), Suggested::Keep(Why::LowerBound));
        assert_eq!(suggested(65536, 60000, Method::Sampled, 3), Suggested::Size(90112), "more is, whatever is known");
        assert_eq!(suggested(16384, 10600, Method::Pages, 0), Suggested::Keep(Why::Fits));
        assert_eq!(suggested(24576, 4300, Method::Pages, 0), Suggested::Keep(Why::Fits), "a panic would not fit");
    }

    #[test]
    fn smaller_stacks_save_what_they_leave() {
        assert_eq!(saved_bytes(&group(65536, 4300, Method::Pages, 0), 1.5), Some(4 * (65536 - least())));
        assert_eq!(saved_bytes(&group(65536, 60000, Method::Pages, 0), 1.5), None);
    }
}
