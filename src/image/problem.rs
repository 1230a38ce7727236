//! What can be wrong with the file of a piece of code.

use std::io;

use super::{BuildId, NotElf};

/// Why a module's file could not be used, or is in doubt.
///
/// Names and unwind rules may still come from the target's memory: see [`Module::image`](super::Module::image).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImageProblem {
    /// The file was deleted and the kernel allows no access to it any more.
    #[error("the file is gone{}", with_build_id(.mapped))]
    Gone {
        /// The build-id of what runs, as its memory shows it.
        mapped: Option<BuildId>,
    },
    /// The path leads to another file than the one that runs.
    #[error("another file has taken its place: {} runs, the file has {}", or_none(.mapped), or_none(.found))]
    Replaced {
        /// The build-id of what runs, as its memory shows it.
        mapped: Option<BuildId>,
        /// The build-id of the file that is there now.
        found: Option<BuildId>,
    },
    /// Whether the file is the one that runs is not known: its first page is not in memory. It is used as it is.
    #[error("the memory does not show whether this is the file that ran{}", with_build_id(.found))]
    Unverified {
        /// The build-id of the file.
        found: Option<BuildId>,
    },
    /// The file could not be opened or read.
    #[error("the file cannot be read: {error}{}", with_build_id(.mapped))]
    Unreadable {
        /// What the operating system said.
        error: io::ErrorKind,
        /// The build-id of what runs, as its memory shows it.
        mapped: Option<BuildId>,
    },
    /// The file is not an ELF file that can be used.
    #[error("the file cannot be used: {0}")]
    NotElf(#[from] NotElf),
    /// The file ends before its loaded segments do. What it holds is used.
    #[error("the file is cut short")]
    Truncated,
}

impl ImageProblem {
    /// The build-id of what runs, if memory showed it.
    pub fn mapped_build_id(&self) -> Option<&BuildId> {
        match self {
            ImageProblem::Gone { mapped }
            | ImageProblem::Replaced { mapped, .. }
            | ImageProblem::Unreadable { mapped, .. } => mapped.as_ref(),
            ImageProblem::Unverified { .. } | ImageProblem::NotElf(_) | ImageProblem::Truncated => None,
        }
    }
}

fn with_build_id(id: &Option<BuildId>) -> String {
    id.as_ref().map(|id| format!(" (build-id {id})")).unwrap_or_default()
}

fn or_none(id: &Option<BuildId>) -> String {
    id.as_ref().map_or_else(|| "no build-id".into(), |id| format!("build-id {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_build_ids() {
        let id = BuildId::new(&[0xab, 0xcd]);
        assert_eq!(ImageProblem::Gone { mapped: id.clone() }.to_string(), "the file is gone (build-id abcd)");
        assert_eq!(
            ImageProblem::Replaced { mapped: id, found: None }.to_string(),
            "another file has taken its place: build-id abcd runs, the file has no build-id"
        );
    }
}
