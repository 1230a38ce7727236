//! Which files lay where, in a core file whose notes do not say it: kernels before 3.7 and QEMU write such.
//!
//! The auxiliary vector (getauxval(3)) leads to the program, and the program to the loader's list of what it loaded
//! (`struct r_debug` and `struct link_map` in glibc's and musl's `link.h`).

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::notes::FileRange;
use super::{Core, CoreFiles};
use crate::addr::{Addr, AddrRange, PAGE};
use crate::image::{Headers, Image, headers_at};
use crate::mapping::mapping_at;
use crate::memory::Memory;
use crate::process::auxv;

const DT_NULL: u64 = 0;
const DT_DEBUG: u64 = 21;

/// The most files that a list may have.
const MOST_FILES: usize = 1 << 12;
/// The most entries that are read of a program's dynamic section.
const MOST_ENTRIES: u64 = 1 << 10;
/// The longest path, with its terminating zero (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;

/// What is known of a file from its headers.
struct Placed {
    path: PathBuf,
    /// What the loader added to the file's addresses.
    bias: u64,
    headers: Headers,
}

/// Where execution of the program began.
pub(super) fn entry(auxv: &[u8]) -> Option<Addr> {
    auxv::value(auxv, auxv::AT_ENTRY).map(Addr)
}

/// The files of `core`, sorted by address, none overlapping another; and whether the loader's list could be looked for.
pub(super) fn files(core: &Core, elsewhere: &CoreFiles) -> (Vec<FileRange>, bool) {
    let named = auxv::value(core.auxv(), auxv::AT_EXECFN).map(Addr).and_then(|at| path_at(core, at));
    let Some(path) = named.or_else(|| elsewhere.executable.clone()) else { return (Vec::new(), false) };
    let Some(program) = program(core, elsewhere, &path) else {
        return (entry(core.auxv()).and_then(|entry| unread(core, entry, path)).into_iter().collect(), false);
    };
    let mut ranges: Vec<FileRange> = ranges(&program).collect();
    ranges.extend(libraries(core, elsewhere, &program));
    ranges.sort_by_key(|file| file.range.low);
    ranges.dedup_by(|next, file| next.range.low < file.range.high);
    (ranges, true)
}

/// The program, by its headers in memory, or else in its file.
fn program(core: &Core, elsewhere: &CoreFiles, path: &Path) -> Option<Placed> {
    let path = path.to_owned();
    let base = Addr(auxv::value(core.auxv(), auxv::AT_PHDR)?).align_down(PAGE);
    if let Some((bias, headers)) = headers_at(core, base) {
        return Some(Placed { path, bias, headers });
    }
    let image = Image::parse(elsewhere.open_mapped(&path, true).ok()?.bytes).ok()?;
    let bias = entry(core.auxv())?.0.wrapping_sub(image.entry()?);
    Some(Placed { path, bias, headers: image.into_headers() })
}

/// Where the files lie that the loader lists, the program apart.
fn libraries(core: &Core, elsewhere: &CoreFiles, program: &Placed) -> Vec<FileRange> {
    let mut next = first_link(core, program);
    let mut libraries = Vec::new();
    for _ in 0..MOST_FILES {
        let Some(at) = next.filter(|at| at.0 != 0) else { break };
        let word = |index: i64| core.read_u64(at.offset(8 * index));
        let (Ok(bias), Ok(name), Ok(link)) = (word(0), word(1), word(3)) else { break };
        let path = path_at(core, Addr(name)).filter(|path| path.is_absolute());
        libraries.extend(path.into_iter().flat_map(|path| library(core, elsewhere, path, bias)));
        next = Some(Addr(link));
    }
    libraries
}

/// Where the library at `path` lies. If its headers are neither in memory nor in a file, it is what begins at `bias`.
fn library(core: &Core, elsewhere: &CoreFiles, path: PathBuf, bias: u64) -> Vec<FileRange> {
    if let Some((bias, headers)) = headers_at(core, Addr(bias)) {
        return ranges(&Placed { path, bias, headers }).collect();
    }
    let opened = elsewhere.open_mapped(&path, false).ok();
    if let Some(image) = opened.and_then(|opened| Image::parse(opened.bytes).ok()) {
        return ranges(&Placed { path, bias, headers: image.into_headers() }).collect();
    }
    unread(core, Addr(bias), path).into_iter().collect()
}

/// Where the file lies that code at `at` is of, if nothing of it can be read.
fn unread(core: &Core, at: Addr, path: PathBuf) -> Option<FileRange> {
    mapping_at(&core.mappings, at).map(|mapping| FileRange { range: mapping.range, offset: 0, path })
}

/// The head of the loader's list, to which the program's dynamic section leads.
fn first_link(core: &Core, program: &Placed) -> Option<Addr> {
    let dynamic = Addr(program.bias.wrapping_add(program.headers.dynamic?.svma));
    for index in 0..MOST_ENTRIES {
        let at = dynamic.offset(16 * index as i64);
        match core.read_u64(at).ok()? {
            DT_NULL => return None,
            DT_DEBUG => return Some(Addr(core.read_u64(Addr(core.read_u64(at.offset(8)).ok()?).offset(8)).ok()?)),
            _ => {}
        }
    }
    None
}

/// The path at `at`; `None` if there is none.
fn path_at(core: &Core, at: Addr) -> Option<PathBuf> {
    let mut path = Vec::new();
    while path.len() < LONGEST_PATH {
        let mut byte = [0];
        core.read(at.offset(path.len() as i64), &mut byte).ok()?;
        match byte {
            [0] if path.is_empty() => return None,
            [0] => return Some(std::ffi::OsString::from_vec(path).into()),
            [byte] => path.push(byte),
        }
    }
    None
}

/// Where the parts of a file lie that it fills, in whole pages.
fn ranges(placed: &Placed) -> impl Iterator<Item = FileRange> + '_ {
    let address = |svma: u64| Addr(placed.bias.wrapping_add(svma));
    placed.headers.segments.iter().filter_map(move |segment| {
        let low = address(segment.svma).align_down(PAGE);
        let high = Addr(address(segment.svma).0.checked_add(segment.file_size)?.checked_next_multiple_of(PAGE)?);
        let offset = segment.offset - segment.offset % PAGE;
        (low < high).then(|| FileRange { range: AddrRange::new(low, high), offset, path: placed.path.clone() })
    })
}

/// The path of the program among `files`: that of the file in which execution began.
pub(super) fn program_path<'f>(files: &'f [FileRange], auxv: &[u8]) -> Option<&'f Path> {
    let entry = entry(auxv);
    let file = files.iter().find(|file| entry.is_some_and(|entry| file.range.contains(entry)));
    file.or(files.first()).map(|file| &*file.path)
}
