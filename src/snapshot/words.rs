//! The words of the JSON and of the filter language for kinds, states and the like. They are kept stable.

use super::{BlindSpotKind, Confidence, Guard, Kind, Level, Method, State};

impl Kind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [Kind; 5] = [Kind::Thread, Kind::Coroutine, Kind::Segment, Kind::Signal, Kind::Unknown];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Thread => "thread",
            Kind::Coroutine => "coroutine",
            Kind::Segment => "segment",
            Kind::Signal => "signal",
            Kind::Unknown => "unknown",
        }
    }
}

impl State {
    /// All states, in the order in which they are listed.
    pub const ALL: [State; 5] = [State::Running, State::Resuming, State::Suspended, State::New, State::Finished];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Resuming => "resuming",
            State::Suspended => "suspended",
            State::New => "new",
            State::Finished => "finished",
        }
    }
}

impl Level {
    /// All levels, the best first.
    pub const ALL: [Level; 4] = [Level::Ok, Level::Warn, Level::High, Level::Over];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::High => "high",
            Level::Over => "over",
        }
    }
}

impl Confidence {
    /// All of them, the surest first.
    pub const ALL: [Confidence; 3] = [Confidence::Certain, Confidence::Likely, Confidence::Guess];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Confidence::Certain => "certain",
            Confidence::Likely => "likely",
            Confidence::Guess => "guess",
        }
    }
}

impl Guard {
    /// The words of all that can lie below a stack.
    pub const WORDS: [&'static str; 4] = ["ok", "none", "grows", "unknown"];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Guard::Ok(_) => "ok",
            Guard::None => "none",
            Guard::Grows => "grows",
            Guard::Unknown => "unknown",
        }
    }
}

impl Method {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Method::Exact => "exact",
            Method::Pages => "pages",
            Method::Sampled => "sampled",
        }
    }
}

impl BlindSpotKind {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            BlindSpotKind::SwitchNotUnderstood => "switch_not_understood",
            BlindSpotKind::SharedMemory => "shared_memory",
            BlindSpotKind::MemoryLimit => "memory_limit",
            BlindSpotKind::CopiedStacks => "copied_stacks",
            BlindSpotKind::InsideForeignCode => "inside_foreign_code",
        }
    }
}
