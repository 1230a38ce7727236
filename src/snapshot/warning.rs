//! What could not be read or was found wrong, and what is known to be not seen. [`crate::report`] puts them into words.

use std::path::PathBuf;

use crate::addr::Addr;
use crate::image::ImageProblem;
use crate::process::{CoreWarning, NotStopped};

/// Something that could not be read or was found wrong. A snapshot with one is not complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The program starts threads faster than they can be stopped.
    ThreadsMissing,
    /// A thread was not stopped, so its frames are not known.
    ThreadNotStopped {
        /// The kernel's number for it.
        tid: i32,
        /// Why.
        reason: NotStopped,
    },
    /// More memory was touched than is copied.
    MemoryLimit {
        /// How many bytes were not searched.
        left_out: u64,
        /// How many were.
        searched: u64,
    },
    /// Some of the memory that was to be copied could not be read.
    MemoryUnreadable,
    /// More places look like contexts than are examined.
    TooManyPlaces,
    /// Not all of the list that the program keeps of its own stacks could be read.
    RosterCut,
    /// The file of an image that frames lie in is not what was mapped.
    Image {
        /// Its path, or its name if it has none.
        path: String,
        /// What is wrong with it.
        problem: ImageProblem,
    },
    /// A file shrank while it was read.
    FileShrank(PathBuf),
    /// A core file lacks something.
    Core(CoreWarning),
}

/// Something that is known to be not seen. A snapshot with one is not complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlindSpot {
    /// What is not seen.
    pub kind: BlindSpotKind,
    /// The file name of the module that it concerns.
    pub module: Option<String>,
    /// Where it lies.
    pub address: Option<Addr>,
    /// How much memory it concerns, in bytes.
    pub bytes: Option<u64>,
    /// How many things it concerns.
    pub count: Option<u64>,
}

/// What is not seen. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum BlindSpotKind {
    /// Code that is in use switches stacks in a way that is not understood.
    SwitchNotUnderstood,
    /// Memory shared with other processes is not searched.
    SharedMemory,
    /// There is more memory than is searched.
    MemoryLimit,
    /// Stacks are copied away while they are suspended.
    CopiedStacks,
    /// A context is inside the code of another language's runtime, which hides its frames.
    InsideForeignCode,
}

impl BlindSpot {
    /// Memory beyond the limit of what is copied.
    pub(crate) fn memory_limit(bytes: u64) -> BlindSpot {
        let kind = BlindSpotKind::MemoryLimit;
        BlindSpot { kind, module: None, address: None, bytes: Some(bytes), count: None }
    }
}
