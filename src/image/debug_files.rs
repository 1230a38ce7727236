//! Debug information that distributions keep in separate files.
//!
//! It is searched for where gdb does ("Debugging Information in Separate Files"): by build-id below
//! `/usr/lib/debug/.build-id`, then by the name in `.gnu_debuglink`; in the target's mount namespace, then in ours. A
//! file counts only if its build-id, or else its checksum, is the expected one. The network is never used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{BuildId, Files, Image};

/// The separate files of an image, once they have been searched for.
#[derive(Default)]
pub(crate) struct DebugFiles {
    separate: OnceLock<Option<(Arc<Image>, PathBuf)>>,
    supplementary: OnceLock<Option<Arc<Image>>>,
    package: OnceLock<Option<Arc<Image>>>,
}

const DEBUG: &str = "/usr/lib/debug";

/// The file with the debug information of `image`, which lies at `path`.
pub(crate) fn separate<'a>(image: &'a Image, path: Option<&Path>, files: &dyn Files) -> Option<&'a Arc<Image>> {
    let found = image.debug_files().separate.get_or_init(|| find(image, path, files));
    found.as_ref().map(|(image, _)| image)
}

/// The file that dwz moved shared debug information of `image` to; `image` lies at `path`, or is a separate file of
/// `owner`.
pub(crate) fn supplementary<'a>(image: &'a Image, path: Option<&Path>, files: &dyn Files) -> Option<&'a Arc<Image>> {
    let find = || {
        let (name, id) = split_name(image.section_data(b".gnu_debugaltlink")?)?;
        let id = BuildId::new(id)?;
        let beside = path.and_then(Path::parent).map(|folder| folder.join(name));
        let candidates = by_build_id(&id).into_iter().chain(beside);
        candidates.into_iter().find_map(|path| open(&path, files).filter(|image| image.build_id() == Some(&id)))
    };
    image.debug_files().supplementary.get_or_init(find).as_ref()
}

/// The package with the split debug information of the image at `path` (`.dwp`).
pub(crate) fn package<'a>(image: &'a Image, path: Option<&Path>, files: &dyn Files) -> Option<&'a Arc<Image>> {
    let find = || {
        let mut name = path?.as_os_str().to_owned();
        name.push(".dwp");
        open(Path::new(&name), files)
    };
    image.debug_files().package.get_or_init(find).as_ref()
}

/// Where the separate file of `image` was found.
pub(crate) fn separate_path(image: &Image) -> Option<&Path> {
    image.debug_files().separate.get()?.as_ref().map(|(_, path)| &**path)
}

fn find(image: &Image, path: Option<&Path>, files: &dyn Files) -> Option<(Arc<Image>, PathBuf)> {
    let by_build_id = image.build_id().and_then(by_build_id).and_then(|candidate| {
        let found = open(&candidate, files).filter(|found| found.build_id() == image.build_id())?;
        Some((found, candidate))
    });
    by_build_id.or_else(|| find_by_link(image, path?, files))
}

fn find_by_link(image: &Image, path: &Path, files: &dyn Files) -> Option<(Arc<Image>, PathBuf)> {
    let (name, rest) = split_name(image.section_data(b".gnu_debuglink")?)?;
    let name = name.file_name()?;
    // The checksum is at the next multiple of four.
    let checksum = u32::from_le_bytes(*rest.last_chunk::<4>()?);
    let folder = path.parent()?;
    let below_debug = Path::new(DEBUG).join(folder.strip_prefix("/").unwrap_or(folder));
    let candidates = [folder.join(name), folder.join(".debug").join(name), below_debug.join(name)];
    candidates.into_iter().filter(|candidate| candidate != path).find_map(|candidate| {
        let found = open(&candidate, files)?;
        let is_right = match (image.build_id(), found.build_id()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => crc32fast::hash(found.bytes()) == checksum,
        };
        is_right.then_some((found, candidate))
    })
}

/// The program or library with a build-id, by the links that distributions keep beside those to debug files. A debug
/// file itself has no code.
pub(super) fn same_image(id: &BuildId, files: &dyn Files) -> Option<Arc<Image>> {
    let digits = id.to_string();
    let (first, rest) = digits.split_at_checked(2)?;
    let folders = ["/usr/lib/.build-id", "/usr/lib/debug/.build-id"];
    let paths = folders.map(|folder| PathBuf::from(format!("{folder}/{first}/{rest}")));
    paths.iter().find_map(|path| open(path, files).filter(|image| image.build_id() == Some(id)))
}

/// `/usr/lib/debug/.build-id/ab/cdef.debug`
fn by_build_id(id: &BuildId) -> Option<PathBuf> {
    let digits = id.to_string();
    let (first, rest) = digits.split_at_checked(2)?;
    Some(format!("{DEBUG}/.build-id/{first}/{rest}.debug").into())
}

/// Splits a link section into the name that it begins with, up to a NUL, and the rest.
fn split_name(link: &[u8]) -> Option<(&Path, &[u8])> {
    let end = link.iter().position(|byte| *byte == 0)?;
    Some((Path::new(std::str::from_utf8(&link[..end]).ok()?), &link[end + 1..]))
}

fn open(path: &Path, files: &dyn Files) -> Option<Arc<Image>> {
    let bytes = files.open(path).or_else(|_| files.open_ours(path)).ok()?;
    Image::parse(bytes).ok().map(Arc::new)
}
