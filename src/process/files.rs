//! Files as a live process sees them, through its own root directory and by what it has mapped; and those below a folder
//! that stands for the root.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::image::{Bytes, Opened, Stamp};
use crate::mapping::{FileIdentity, MappedFile, Mapping};
use crate::process::mapped::MappedBytes;

/// Opens the file of `mapping` for the process or thread of this `/proc` directory.
///
/// In this order: the mapping itself, which also reaches files that were deleted or lie in another mount namespace, but
/// needs `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE`; the path in the process's root directory, if device and inode are
/// those of the mapping; the process's program, if they are its; and last the path, of which nothing says that it is
/// the same file.
pub(super) fn open_mapped(directory: &Path, mapping: &Mapping) -> io::Result<Opened> {
    let file = mapping.file().ok_or(io::ErrorKind::NotFound)?;
    let range = format!("{:x}-{:x}", mapping.range.low.0, mapping.range.high.0);
    if let Ok(opened) = open_regular(&directory.join("map_files").join(range)) {
        return opened.into_opened(true);
    }
    let by_path = open_in_root(directory, &file.path);
    if let Ok(opened) = &by_path
        && opened.is(file)
    {
        return by_path?.into_opened(true);
    }
    if let Ok(program) = open_regular(&directory.join("exe"))
        && program.is(file)
    {
        return program.into_opened(true);
    }
    if file.deleted {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    by_path?.into_opened(false)
}

/// Opens `path` in the root directory of the process or thread of this `/proc` directory.
pub(super) fn open(directory: &Path, path: &Path) -> io::Result<Bytes> {
    Ok(open_in_root(directory, path)?.into_opened(false)?.bytes)
}

/// Opens `path` in the root directory of the process or thread of this `/proc` directory, if it leads to a file of
/// `mappings`.
pub(super) fn open_if_mapped(directory: &Path, path: &Path, mappings: &[Mapping]) -> io::Result<Bytes> {
    let opened = open_in_root(directory, path)?;
    match mappings.iter().filter_map(Mapping::file).any(|file| opened.is(file)) {
        true => Ok(opened.into_opened(true)?.bytes),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Opens `path` in our own root directory; nothing says that it is the same file.
pub(super) fn open_plain(path: &Path) -> io::Result<Opened> {
    open_regular(path)?.into_opened(false)
}

/// Whether a path leads the process or thread of this `/proc` directory to the same files as it leads us.
pub(super) fn sees_as_we_do(directory: &Path) -> bool {
    let sees = |directory: &Path| {
        let root = std::fs::metadata(directory.join("root")).ok()?;
        Some((std::fs::read_link(directory.join("ns/mnt")).ok()?, root.dev(), root.ino()))
    };
    sees(directory).is_some_and(|theirs| sees(Path::new("/proc/self")) == Some(theirs))
}

/// Opens a regular file of the process's root directory, in which symbolic links and `..` stay.
fn open_in_root(directory: &Path, path: &Path) -> io::Result<Regular> {
    open_below_root(&directory.join("root"), path)
}

/// Opens `path` below the folder `root`; nothing says that it is the same file.
pub(super) fn open_below(root: &Path, path: &Path) -> io::Result<Opened> {
    open_below_root(root, path)?.into_opened(false)
}

/// Opens a regular file below the folder `root`, in which symbolic links and `..` stay.
fn open_below_root(root: &Path, path: &Path) -> io::Result<Regular> {
    let folder = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::from_bits_truncate(OPEN_FLAGS | libc::O_CLOEXEC))
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(&folder, path, how) {
        Ok(file) => Regular::new(File::from(file)),
        // A filter or a kernel that does not know this call: links then lead through our own root directory, which is
        // mostly the same.
        Err(Errno::ENOSYS | Errno::EPERM) => open_regular(&root.join(path.strip_prefix("/").unwrap_or(path))),
        Err(error) => Err(error.into()),
    }
}

/// The seconds without a change after which a file's times show the next one.
const SETTLED: i64 = 2;

/// So that a pipe or a device in a file's place is not waited for.
const OPEN_FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

/// The program that we are.
pub(super) fn own_stamp() -> Option<Stamp> {
    Some(open_regular(Path::new("/proc/self/exe")).ok()?.stamp())
}

fn open_regular(path: &Path) -> io::Result<Regular> {
    Regular::new(OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(path)?)
}

struct Regular {
    file: File,
    metadata: Metadata,
}

impl Regular {
    fn new(file: File) -> io::Result<Regular> {
        let metadata = file.metadata()?;
        match metadata.is_file() {
            true => Ok(Regular { file, metadata }),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// Whether it is the very file that is mapped.
    fn is(&self, mapped: &MappedFile) -> bool {
        mapped.identity == Some(FileIdentity { device: self.metadata.dev(), inode: self.metadata.ino() })
    }

    fn into_opened(self, same_file: bool) -> io::Result<Opened> {
        Ok(Opened { bytes: Arc::new(MappedBytes::map(&self.file)?), same_file, stamp: self.settled_stamp() })
    }

    /// What distinguishes it from later states. A file system's clock ticks slowly, so a file that was changed only now
    /// may change once more without a sign of it.
    fn settled_stamp(&self) -> Option<Stamp> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let is_settled = i64::try_from(now).is_ok_and(|now| self.metadata.ctime() < now.saturating_sub(SETTLED));
        is_settled.then(|| self.stamp())
    }

    fn stamp(&self) -> Stamp {
        let Regular { metadata, .. } = self;
        let time = |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_see_what_we_see() {
        assert!(sees_as_we_do(Path::new("/proc/self")));
        assert!(!sees_as_we_do(Path::new("/proc/0")), "of what can't be read it is not said");
    }
}
