//! ELF files: where code lies, the rules to unwind it, and its names and lines.
//!
//! A memory map, a memory and a way to open files make [`Modules`].
//! Files are opened by the layer above through [`Files`], as the target sees them; nothing here looks at a process,
//! and the network is never used.

mod build_id;
mod code;
mod compressed;
mod debug_files;
mod demangle;
mod dwarf;
mod elf;
mod file;
mod imports;
mod in_memory;
mod modules;
pub mod names;
mod needed;
mod perf_map;
mod pointers;
mod printable;
mod problem;
mod progress;
mod scan;
mod stack_pointer;
mod symbols;
mod unwind_sections;

#[cfg(test)]
mod damaged_tests;
#[cfg(test)]
mod names_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mapping::Mapping;

pub use build_id::BuildId;
pub use code::{
    CodeBytes, Reference, Referrer, Store, has_number, indirect_calls, nearby_addresses_taken, references, short_jumps,
    stores,
};
pub(crate) use demangle::demangle;
pub(crate) use elf::Headers;
pub use elf::{NotElf, Segment};
pub use file::{Image, ImageSource};
pub(crate) use in_memory::headers_at;
pub use modules::{Module, Modules};
pub use pointers::{Pointer, Pointers};
pub use printable::printable;
pub use problem::ImageProblem;
pub use progress::Progress;
pub use stack_pointer::stack_pointer_writes;
pub use symbols::FunctionSymbol;
pub use unwind_sections::{SectionBytes, UnwindSections};

/// The bytes of a file or of a piece of memory, shared without copying.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Opens files as the target sees them. The layer above, which knows the target, implements this.
pub trait Files: Sync {
    /// The whole file of `mapping`, even if its path no longer leads to it, while the kernel still allows access.
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened>;

    /// The whole file at `path` in the target's mount namespace.
    fn open(&self, path: &Path) -> io::Result<Bytes>;

    /// The whole file at `path` in our own mount namespace, if that is another than the target's.
    ///
    /// # Errors
    /// `NotFound` also if both are the same, so that nothing is searched for twice.
    fn open_ours(&self, _path: &Path) -> io::Result<Bytes> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// The target's number in its own pid namespace, by which it names its files; `None` if it no longer runs.
    fn pid(&self) -> Option<u32> {
        None
    }
}

/// A file that a mapping shows.
#[derive(Clone)]
pub struct Opened {
    /// Its content.
    pub bytes: Bytes,
    /// Whether the operating system says that it is the file that is mapped. If not, compare build-ids.
    pub same_file: bool,
    /// `None` if it is not known, or not reliable because the file was changed only now.
    pub stamp: Option<Stamp>,
}

/// What distinguishes a file from all others, and from its earlier states.
///
/// A build-id does not: it can be put into any file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// When its content was changed, in nanoseconds since 1970.
    pub modified: i64,
    /// When anything of it was changed, in nanoseconds since 1970; unlike the other times it can't be set.
    pub changed: i64,
}
