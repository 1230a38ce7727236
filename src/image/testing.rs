//! Our own process, seen as a target: what the tests of this layer stand on.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::{Bytes, Files, Opened};
use crate::addr::{Addr, AddrRange};
use crate::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use crate::memory::{Memory, Unreadable};

/// Our own memory, read through the kernel.
pub(crate) struct OwnMemory(fs::File);

impl OwnMemory {
    pub(crate) fn open() -> OwnMemory {
        OwnMemory(fs::File::open("/proc/self/mem").unwrap())
    }
}

impl Memory for OwnMemory {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read_exact_at(into, at.0).map_err(|_| Unreadable { at })
    }
}

/// Memory of which nothing can be read.
pub(crate) struct NoMemory;

impl Memory for NoMemory {
    fn read(&self, at: Addr, _: &mut [u8]) -> Result<(), Unreadable> {
        Err(Unreadable { at })
    }
}

/// Files as our own process sees them.
pub(crate) struct OwnFiles {
    /// Whether to vouch for mapped files.
    pub(crate) same_file: bool,
}

impl Files for OwnFiles {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        let bytes = self.open(&mapping.file().ok_or(io::ErrorKind::NotFound)?.path)?;
        Ok(Opened { bytes, same_file: self.same_file })
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        Ok(Arc::new(fs::read(path)?))
    }
}

/// The memory map of our own process, without what is not needed here.
pub(crate) fn own_mappings() -> Vec<Mapping> {
    fs::read_to_string("/proc/self/maps").unwrap().lines().map(mapping).collect()
}

fn mapping(line: &str) -> Mapping {
    let mut words = line.split_ascii_whitespace();
    let (low, high) = words.next().unwrap().split_once('-').unwrap();
    let access = words.next().unwrap().as_bytes();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let offset = number(words.next().unwrap());
    let (_device, inode) = (words.next(), words.next().unwrap().parse().unwrap());
    let origin = match words.next() {
        None => Origin::Anonymous,
        Some("[vdso]") => Origin::Vdso,
        Some(name) if name.starts_with('[') => Origin::Special(name.into()),
        Some(path) => Origin::File(MappedFile {
            path: path.into(),
            deleted: line.ends_with(" (deleted)"),
            offset,
            identity: Some(FileIdentity { device: 0, inode }),
        }),
    };
    Mapping {
        range: AddrRange::new(Addr(number(low)), Addr(number(high))),
        access: Access { read: access[0] == b'r', write: access[1] == b'w', execute: access[2] == b'x' },
        shared: access[3] == b's',
        origin,
    }
}
