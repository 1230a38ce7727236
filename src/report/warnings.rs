//! What could not be read and what is not seen, in sentences.

use std::fmt;

use super::units;
use crate::process::TooBusy;
use crate::snapshot::{BlindSpot, BlindSpotKind, Snapshot, Warning};
use crate::watch::{Missed, NotFollowed};

/// What is said if following would take a program's rights from it.
const WOULD_LOSE_RIGHTS: &str = "the program is set-uid or set-gid and would lose its rights if it were followed by a \
                                 user: only its end is seen; run stackscope as root to see more";

/// All that a look did not see, a sentence for each.
pub(crate) fn not_seen(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let warnings = snapshot.warnings.iter().map(|warning| Sentence(warning).to_string());
    warnings.chain(snapshot.blind_spots.iter().map(|spot| NotSeen(spot).to_string()))
}

/// A warning as a sentence.
pub(crate) struct Sentence<'w>(pub(crate) &'w Warning);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Warning::ThreadsMissing => {
                f.write_str("the program starts threads faster than they can be stopped: some may be missing")
            }
            Warning::ThreadNotStopped { tid, reason } => write!(f, "thread {tid} was not stopped: {reason}"),
            Warning::MemoryLimit { left_out, searched } => write!(
                f,
                "{} MiB of the program's memory were not searched for suspended contexts: there is too much of it to be \
                 copied while it stands; {} MiB were, the mappings that hold least first",
                left_out >> 20,
                searched >> 20
            ),
            Warning::MemoryUnreadable => {
                f.write_str("not all of the program's memory could be read, and searched for suspended contexts")
            }
            Warning::TooManyPlaces => {
                f.write_str("memory holds too many places that look like contexts: not all were looked at")
            }
            Warning::RosterCut => f.write_str("not all of the program's own list of its stacks could be read"),
            Warning::Image { path, problem } => write!(f, "{path}: {problem}"),
            Warning::FileShrank(path) => write!(f, "{}: the file shrank while it was read", path.display()),
            Warning::Core(warning) => warning.fmt(f),
        }
    }
}

/// What a watch missed, as a sentence.
pub(crate) struct MissedSentence<'m>(pub(crate) &'m Missed);

impl fmt::Display for MissedSentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Missed::NotFollowed { why: NotFollowed::WouldLoseRights, .. } => f.write_str(WOULD_LOSE_RIGHTS),
            Missed::NotFollowed { why: NotFollowed::TooBusy(why), since } => {
                match why {
                    TooBusy::Signals(most) => write!(f, "more than {most} signals came in a second")?,
                    TooBusy::Starts(most) => {
                        write!(f, "far more than {most} threads and processes started and ended in a second")?;
                    }
                }
                let seconds = since.as_secs_f64();
                write!(
                    f,
                    ": since {seconds:.3} s the program is not followed, so that it is not slowed down; from then on its \
                     new processes, its signals and its short-lived threads are not seen"
                )
            }
            Missed::Raises(error) => write!(
                f,
                "not all that is raised is seen: the kernel refuses breakpoints of perf_event_open ({}); stackscope \
                 doctor tells more",
                std::io::Error::from_raw_os_error(*error)
            ),
            Missed::NoLook(error) => write!(f, "at times there was no look: {error}"),
            Missed::InLook(warning) => Sentence(warning).fmt(f),
        }
    }
}

/// A blind spot as a sentence.
pub(crate) struct NotSeen<'b>(pub(crate) &'b BlindSpot);

impl fmt::Display for NotSeen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlindSpot { kind, module, address, bytes, count } = self.0;
        f.write_str(match kind {
            BlindSpotKind::SwitchNotUnderstood => "not seen: contexts that leave by a switch that is not understood",
            BlindSpotKind::SharedMemory => "not seen: contexts in memory that is shared with other processes",
            BlindSpotKind::MemoryLimit => "not seen: contexts in memory beyond the limit of what is copied",
            BlindSpotKind::CopiedStacks => "not seen: stacks that are copied away while they are suspended",
            BlindSpotKind::InsideForeignCode => "not seen: frames inside code of another language's runtime",
        })?;
        if let Some(module) = module {
            write!(f, ", in {module}")?;
        }
        if let Some(address) = address {
            write!(f, " at {address}")?;
        }
        if let Some(bytes) = bytes {
            write!(f, ", {}", units::bytes(*bytes))?;
        }
        if let Some(count) = count {
            write!(f, ", {count} of them")?;
        }
        Ok(())
    }
}
