//! One line of a target's memory map.

use std::path::PathBuf;

use crate::addr::{Addr, AddrRange};

/// A range of a target's address space whose pages have one origin and one protection.
///
/// Live: a line of `/proc/PID/maps` (proc(5)). Core file: a `PT_LOAD` segment, with the file that `NT_FILE` names for
/// it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where it lies.
    pub range: AddrRange,
    /// What the program may do with it.
    pub access: Access,
    /// Whether changes are shared with other processes (`MAP_SHARED`).
    pub shared: bool,
    /// What its pages come from.
    pub origin: Origin,
}

/// What a program may do with a mapping's pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// `PROT_READ`
    pub read: bool,
    /// `PROT_WRITE`
    pub write: bool,
    /// `PROT_EXEC`
    pub execute: bool,
}

/// What a mapping's pages come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Memory of no file, and none of the special ones below.
    Anonymous,
    /// The first thread's stack, which the kernel lets grow: `[stack]`.
    MainStack,
    /// Code that the kernel maps into every process: `[vdso]`.
    Vdso,
    /// Any other bracketed name of the kernel's, without the brackets: `heap`, `vvar`, `vsyscall`, `anon:NAME`.
    Special(String),
    /// A file.
    File(MappedFile),
}

/// The file of a mapping, as the kernel names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappedFile {
    /// Its path in the target's mount namespace, without the kernel's mark of a deleted file.
    pub path: PathBuf,
    /// Whether the path no longer leads to it: the file was deleted, or another took its place.
    pub deleted: bool,
    /// Where in the file the mapping starts, in bytes.
    pub offset: u64,
    /// Device and inode numbers; `None` in a core file, which does not keep them.
    pub identity: Option<FileIdentity>,
}

/// The device and inode numbers of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileIdentity {
    /// `st_dev`. On overlay file systems it may differ from that of the path (`stat`).
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

impl Mapping {
    /// The file it shows, if it shows one.
    pub fn file(&self) -> Option<&MappedFile> {
        match &self.origin {
            Origin::File(file) => Some(file),
            _ => None,
        }
    }

    /// Whether its pages are only memory: of no file, or of one that only names memory that processes may share
    /// (`MAP_SHARED | MAP_ANONYMOUS`, `memfd_create`, `shmat`, `shm_open`).
    pub fn is_memory(&self) -> bool {
        self.file().is_none_or(MappedFile::is_memory)
    }
}

/// The name of the memory file in which the switches of a program that is probed are noted (memfd_create(2)).
pub const SWITCH_TABLE: &str = "stackscope-switches";

impl Mapping {
    /// Whether it is ours, put into the program to note its switches, and holds nothing of the program's.
    pub fn is_switch_table(&self) -> bool {
        let name = |file: &MappedFile| Some(file.path.to_str()?.strip_prefix("/memfd:")? == SWITCH_TABLE);
        self.shared && self.file().and_then(name) == Some(true)
    }
}

impl MappedFile {
    fn is_memory(&self) -> bool {
        let path = self.path.as_os_str().as_encoded_bytes();
        // A plain file may have any of these names, but only memory has one and no file.
        let unlinked: [&[u8]; 3] = [b"/dev/zero", b"/memfd:", b"/SYSV"];
        self.deleted && unlinked.iter().any(|start| path.starts_with(start)) || path.starts_with(b"/dev/shm/")
    }
}

/// The mapping that holds `addr`, out of mappings sorted by address.
pub fn mapping_at(mappings: &[Mapping], addr: Addr) -> Option<&Mapping> {
    index_at(mappings, addr).map(|index| &mappings[index])
}

/// The index of the mapping that holds `addr`, out of mappings sorted by address.
pub fn index_at(mappings: &[Mapping], addr: Addr) -> Option<usize> {
    let index = mappings.partition_point(|mapping| mapping.range.low <= addr).checked_sub(1)?;
    mappings[index].range.contains(addr).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_no_file() {
        let mapping = |path: &str, deleted| Mapping {
            range: AddrRange::default(),
            access: Access::default(),
            shared: true,
            origin: Origin::File(MappedFile { path: path.into(), deleted, offset: 0, identity: None }),
        };
        for path in ["/dev/zero", "/memfd:stacks", "/SYSV00000000"] {
            assert!(mapping(path, true).is_memory(), "{path}");
            assert!(!mapping(path, false).is_memory(), "{path}");
        }
        assert!(mapping("/dev/shm/stacks", false).is_memory());
        assert!(!mapping("/opt/program", true).is_memory());
        assert!(Mapping { origin: Origin::Anonymous, ..mapping("", false) }.is_memory());
    }
}
