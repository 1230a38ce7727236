//! A folder of our own, in which what was worked out from files is kept from one run to the next.
//!
//! Nothing here is needed: what can't be read or written is left out. Nothing in it is trusted either, unless the
//! folder and the file are ours and closed to others; what it says is checked by whoever put it there.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::image::Stamp;
use crate::process::files::own_stamp;
use log::debug;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, getuid, unlinkat};

/// Files longer than this are neither written nor read.
const LONGEST: usize = 1 << 20;

/// When the folder has this many files, it is emptied.
const MOST_FILES: usize = 2048;

/// Only the owner may read and write.
const PRIVATE: Mode = Mode::from_bits_truncate(0o600);

/// The permissions of others to write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The folder, open.
#[derive(Debug)]
pub struct CacheFolder {
    folder: OwnedFd,
    maker: Option<Stamp>,
}

impl CacheFolder {
    /// The user's own: `stackscope` in `$XDG_CACHE_HOME`, or in `.cache` of their home (XDG Base Directory
    /// Specification).
    ///
    /// `None` if that belongs to somebody else, as the home that `sudo` leaves to root does, if a program runs with
    /// rights that its user has not, or if it can't be made.
    pub fn of_user() -> Option<CacheFolder> {
        let absolute = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let (outer, base) = match absolute("XDG_CACHE_HOME") {
            Some(base) => (base.parent()?.to_owned(), base),
            None => absolute("HOME").map(|home| (home.clone(), home.join(".cache")))?,
        };
        if getuid() != geteuid() {
            return None;
        }
        let made = make(&outer, &base).and_then(|()| CacheFolder::in_folder(&base));
        made.inspect_err(|error| debug!("nothing is kept in {}: {error}", base.display())).ok()
    }

    /// `stackscope` in the folder `base`, which must be our own; made if it is missing.
    ///
    /// # Errors
    /// If it can't be made, or is not ours alone.
    pub fn in_folder(base: &Path) -> io::Result<CacheFolder> {
        let path = base.join("stackscope");
        make(base, &path)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = File::from(nix::fcntl::open(&path, flags, Mode::empty())?);
        if !is_ours(&folder)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(CacheFolder { folder: folder.into(), maker: own_stamp() })
    }

    /// What distinguishes this program from all others, and from earlier builds of itself.
    pub fn maker(&self) -> Option<Stamp> {
        self.maker
    }

    /// What was written as `name`; `None` if there is no such file, or it is not ours alone, or it is too long.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        // So that a pipe in its place is not waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.folder, name, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() || !is_ours(&file).ok()? {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(LONGEST as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() <= LONGEST).then_some(bytes)
    }

    /// Writes `bytes` as `name`, whole or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        if bytes.len() <= LONGEST
            && let Err(error) = self.try_write(name, bytes)
        {
            debug!("{name} is not kept: {error}");
        }
    }

    fn try_write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_room()?;
        // Several of us may write at once, each to a file of its own.
        let partial = format!("{name}.{}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let _ = unlinkat(&self.folder, partial.as_str(), UnlinkatFlags::NoRemoveDir);
        let mut file = File::from(openat(&self.folder, partial.as_str(), flags, PRIVATE)?);
        let written = file.write_all(bytes);
        let renamed = written.and_then(|()| Ok(renameat(&self.folder, partial.as_str(), &self.folder, name)?));
        if renamed.is_err() {
            let _ = unlinkat(&self.folder, partial.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        renamed
    }

    /// Empties the folder when it has become too full: what is still needed comes back.
    fn make_room(&self) -> io::Result<()> {
        let listing = fs::read_dir(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))?;
        let names: Vec<_> = listing.map_while(Result::ok).map(|entry| entry.file_name()).collect();
        if names.len() >= MOST_FILES {
            for name in &names {
                let _ = unlinkat(&self.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
        Ok(())
    }
}

/// Makes the folder `path` in `outer`, which must be our own; that it is there already is no error.
fn make(outer: &Path, path: &Path) -> io::Result<()> {
    if std::fs::metadata(outer)?.uid() != geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Whether an open file belongs to us, and nobody else may write to it.
fn is_ours(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.uid() == geteuid().as_raw() && metadata.mode() & WRITABLE_BY_OTHERS == 0)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A scratch folder that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("stackscope-cache-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join("stackscope").join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_was_written_is_read_and_replaced() {
        let scratch = Scratch::new("written");
        let folder = CacheFolder::in_folder(&scratch.0).unwrap();
        assert_eq!(folder.read("a"), None);
        folder.write("a", b"one");
        folder.write("a", b"two");
        assert_eq!(CacheFolder::in_folder(&scratch.0).unwrap().read("a").unwrap(), b"two");
        assert_eq!(fs::metadata(scratch.file("a")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(scratch.0.join("stackscope")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let scratch = Scratch::new("others");
        let folder = CacheFolder::in_folder(&scratch.0).unwrap();
        folder.write("a", b"one");
        fs::set_permissions(scratch.file("a"), Permissions::from_mode(0o620)).unwrap();
        assert_eq!(folder.read("a"), None);
        fs::write(scratch.file("target"), b"elsewhere").unwrap();
        symlink("target", scratch.file("link")).unwrap();
        assert_eq!(folder.read("link"), None);
        nix::unistd::mkfifo(&scratch.file("pipe"), PRIVATE).unwrap();
        assert_eq!(folder.read("pipe"), None);
        fs::write(scratch.file("long"), vec![0; LONGEST + 1]).unwrap();
        assert_eq!(folder.read("long"), None);
        fs::set_permissions(scratch.0.join("stackscope"), Permissions::from_mode(0o777)).unwrap();
        assert!(CacheFolder::in_folder(&scratch.0).is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_done_without() {
        let scratch = Scratch::new("unwritable");
        let folder = CacheFolder::in_folder(&scratch.0).unwrap();
        fs::remove_dir(scratch.0.join("stackscope")).unwrap();
        folder.write("a", b"one");
        assert_eq!(folder.read("a"), None);
        assert!(CacheFolder::in_folder(Path::new("/proc")).is_err());
        assert!(CacheFolder::in_folder(&scratch.0.join("missing")).is_err());
    }

    #[test]
    fn a_full_folder_is_emptied() {
        let scratch = Scratch::new("full");
        let folder = CacheFolder::in_folder(&scratch.0).unwrap();
        for number in 0..MOST_FILES {
            fs::write(scratch.file(&number.to_string()), b"").unwrap();
        }
        folder.write("a", b"one");
        assert_eq!(fs::read_dir(scratch.0.join("stackscope")).unwrap().count(), 1);
        assert_eq!(folder.read("a").unwrap(), b"one");
    }
}
