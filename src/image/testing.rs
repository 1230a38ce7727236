//! What the tests of this layer use: our own process seen as a target, and programs built in a folder.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::names::{self, Names};
use super::{Bytes, Files, Image, Modules, Opened};
use crate::addr::{Addr, AddrRange, Pc};
use crate::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use crate::memory::{Copied, Memory, Unreadable};

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
    /// What to say of mapped files.
    pub(crate) same_file: bool,
}

impl Files for OwnFiles {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        let bytes = self.open(&mapping.file().ok_or(io::ErrorKind::NotFound)?.path)?;
        Ok(Opened { bytes, same_file: self.same_file, stamp: None })
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
/// A folder of our own, removed when it is dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("stackscope-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Runs a program in the folder; it must succeed within a minute.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new("timeout").args(["60", program]).args(arguments).current_dir(&self.0).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).unwrap();
    }
}

/// A program that seems to be loaded at its own svmas, in a folder that is its root directory.
pub(crate) struct Loaded {
    pub(crate) root: PathBuf,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// Where the program seems to lie in the root directory.
const PROGRAM: &str = "/bin/program";

impl Loaded {
    pub(crate) fn new(root: &Path, program: &str) -> Loaded {
        Loaded { root: root.into(), bytes: Arc::new(fs::read(root.join(program)).unwrap()) }
    }

    pub(crate) fn modules(&self) -> Modules {
        let segments = Image::parse(self.bytes.clone()).map_or(Vec::new(), |image| image.segments().to_vec());
        let map = |segment: super::Segment| Mapping {
            range: AddrRange::new(Addr(segment.svma), Addr(segment.svma.saturating_add(segment.memory_size))),
            access: Access { read: true, write: false, execute: true },
            shared: false,
            origin: Origin::File(MappedFile {
                path: PROGRAM.into(),
                deleted: false,
                offset: segment.offset,
                identity: None,
            }),
        };
        let code = segments.into_iter().filter(|segment| segment.execute && segment.memory_size > 0);
        let mut mappings: Vec<Mapping> = code.map(map).collect();
        mappings.sort_by_key(|mapping| mapping.range);
        Modules::load(&mappings, &Copied::default(), self)
    }

    pub(crate) fn names(&self, svmas: &[u64]) -> Names {
        let pcs: Vec<Pc> = svmas.iter().map(|svma| Pc::At(Addr(*svma))).collect();
        names::resolve(&self.modules(), &pcs, self, names::Lines::Everywhere)
    }

    /// For each svma and each function there: name, file and line, `??` and 0 for what is not known.
    pub(crate) fn lines(&self, svmas: &[u64]) -> Vec<Vec<(String, String, u32)>> {
        let names = self.names(svmas);
        let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("??").to_owned();
        let line = |name: &names::Name| (text(&name.function), text(&name.file), name.line.unwrap_or(0));
        svmas.iter().map(|svma| names.get(Pc::At(Addr(*svma))).iter().map(line).collect()).collect()
    }
}

impl Files for Loaded {
    fn open_mapped(&self, _: &Mapping) -> io::Result<Opened> {
        Ok(Opened { bytes: self.bytes.clone(), same_file: true, stamp: None })
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        let inside = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
        Ok(Arc::new(fs::read(self.root.join(inside))?))
    }

    fn pid(&self) -> Option<u32> {
        Some(77)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about a folder that can't be removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}
