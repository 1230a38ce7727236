//! A program or library that does not run: its file, and the libraries that it names, laid out as a loader might.
//!
//! Libraries are looked for where the files say, and in the system's folders (ld.so(8)), without the loader's cache and
//! whatever the environment would change.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::files;
use crate::addr::{Addr, AddrRange};
use crate::image::{Bytes, Files, Image, Modules, NotElf, Opened};
use crate::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use crate::memory::Copied;

/// A program's files.
pub struct AtRest {
    modules: Modules,
    missing: Vec<String>,
}

/// Why a file is not one of a program.
#[derive(Debug, thiserror::Error)]
pub enum AtRestError {
    /// It can't be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is something else.
    #[error("{} is no program or library", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: NotElf,
    },
}

/// More libraries than this are not opened.
const MOST_LIBRARIES: usize = 1024;

/// A file that is part of the program.
struct Part {
    path: PathBuf,
    opened: Opened,
    image: Image,
}

impl AtRest {
    /// The program or library at `path`, and the libraries that it needs.
    ///
    /// # Errors
    /// Where `path` is not one. Libraries that are missing are listed instead.
    pub fn open(path: &Path) -> Result<AtRest, AtRestError> {
        let opened = files::open_plain(path).map_err(|error| AtRestError::Open { path: path.to_owned(), error })?;
        let image = Image::open(&opened).map_err(|error| AtRestError::Elf { path: path.to_owned(), error })?;
        let mut parts = vec![Part { path: path.to_owned(), opened, image }];
        let missing = add_libraries(&mut parts);
        let mut next = Addr(0);
        let mappings: Vec<Mapping> =
            parts.iter().enumerate().flat_map(|(number, part)| mappings(part, number, &mut next)).collect();
        let modules = Modules::load(&mappings, &Copied::default(), &Opener(&parts));
        Ok(AtRest { modules, missing })
    }

    /// Its modules, the file that was asked for first.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// The libraries that were not found.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
}

/// Separate debug files are looked for where they are for us.
impl Files for AtRest {
    fn open_mapped(&self, _mapping: &Mapping) -> io::Result<Opened> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        Ok(files::open_plain(path)?.bytes)
    }
}

struct Opener<'p>(&'p [Part]);

impl Files for Opener<'_> {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        let file = mapping.file().ok_or(io::ErrorKind::NotFound)?;
        let number = file.identity.and_then(|identity| usize::try_from(identity.inode).ok());
        let part = number.and_then(|number| self.0.get(number)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Opened { same_file: true, ..part.opened.clone() })
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        Ok(files::open_plain(path)?.bytes)
    }
}

/// Adds the libraries that the files name, breadth first as the loader does; those that were not found.
fn add_libraries(parts: &mut Vec<Part>) -> Vec<String> {
    let (mut known, mut missing) = (HashSet::new(), Vec::new());
    let system = system_folders();
    let mut next = 0;
    while let Some(part) = parts.get(next) {
        next += 1;
        let machine = part.image.arch().elf_machine;
        let origin = part.path.parent().unwrap_or(Path::new("/")).to_owned();
        let own = part.image.library_folders().into_iter().map(|folder| in_origin(&folder, &origin));
        let folders: Vec<PathBuf> = own.chain(system.iter().cloned()).collect();
        for name in part.image.needed() {
            if !known.insert(name.clone()) || parts.len() >= MOST_LIBRARIES {
                continue;
            }
            match find(&name, &folders, machine) {
                Some(library) => parts.push(library),
                None => missing.push(name),
            }
        }
    }
    missing
}

/// The library called `name` in the first of `folders` that has one for this CPU.
fn find(name: &str, folders: &[PathBuf], machine: u16) -> Option<Part> {
    let open = |path: PathBuf| {
        let opened = files::open_plain(&path).ok()?;
        let image = Image::open(&opened).ok().filter(|image| image.arch().elf_machine == machine)?;
        Some(Part { path, opened, image })
    };
    if name.contains('/') {
        return open(PathBuf::from(name));
    }
    folders.iter().find_map(|folder| open(folder.join(name)))
}

fn in_origin(folder: &str, origin: &Path) -> PathBuf {
    let origin = origin.to_string_lossy();
    PathBuf::from(folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
}

/// The folders that the loader is configured to look in, then those that it always does.
fn system_folders() -> Vec<PathBuf> {
    let listed = std::fs::read_dir("/etc/ld.so.conf.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
    files.sort();
    files.push("/etc/ld.so.conf".into());
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let lines = texts.flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>());
    let folders = lines.filter(|line| line.starts_with('/')).map(PathBuf::from);
    folders.chain(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from)).collect()
}

/// Its code, from `next` on.
fn mappings(part: &Part, number: usize, next: &mut Addr) -> Vec<Mapping> {
    const PAGE: u64 = 4096;
    let down = |svma: u64| svma & !(PAGE - 1);
    let segments = part.image.segments().iter();
    let (low, high) = segments.fold((u64::MAX, 0), |(low, high), segment| {
        (low.min(down(segment.svma)), high.max(segment.svma.saturating_add(segment.memory_size)))
    });
    let size = high.saturating_sub(low).min(1 << 40);
    let base = *next;
    *next = Addr(next.0.saturating_add(down(size.saturating_add(2 * PAGE))));
    let code = part.image.segments().iter().filter(|segment| segment.execute);
    let mapping = |segment: &crate::image::Segment| {
        let start = base.0.saturating_add(down(segment.svma).saturating_sub(low));
        let length = segment.memory_size.saturating_add(segment.svma - down(segment.svma)).min(1 << 40);
        let file = MappedFile {
            path: part.path.clone(),
            deleted: false,
            offset: down(segment.offset),
            identity: Some(FileIdentity { device: 0, inode: number as u64 }),
        };
        Mapping {
            range: AddrRange::new(Addr(start), Addr(start.saturating_add(length))),
            access: Access { read: true, write: false, execute: true },
            shared: false,
            origin: Origin::File(file),
        }
    };
    let mut mappings: Vec<Mapping> = code.map(mapping).collect();
    mappings.sort_by_key(|mapping| mapping.range.low);
    mappings
}
