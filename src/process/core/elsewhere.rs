//! Where the files of a core file are, if they are not where it says.

use std::io;
use std::path::{Path, PathBuf};

use crate::image::{Bytes, Opened};
use crate::process::files;

/// Where to find the program and the libraries that a core file names.
///
/// Whatever is found counts only if its build-id is the one in the core file, or if the core file has none.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CoreFiles {
    /// The folder that all paths of the core file lead into, symbolic links included; `None` for our own root.
    pub sysroot: Option<PathBuf>,
    /// The program itself; `None` if it is where the core file says.
    pub executable: Option<PathBuf>,
}

impl CoreFiles {
    /// Opens the file that was mapped as `path`.
    pub(super) fn open_mapped(&self, path: &Path, is_program: bool) -> io::Result<Opened> {
        match (&self.executable, &self.sysroot) {
            (Some(executable), _) if is_program => files::open_plain(executable),
            (_, Some(sysroot)) => files::open_below(sysroot, path),
            _ => files::open_plain(path),
        }
    }

    /// Opens a file that belongs to a mapped one.
    pub(super) fn open(&self, path: &Path) -> io::Result<Bytes> {
        let below = self.sysroot.as_ref().map(|sysroot| files::open_below(sysroot, path));
        Ok(match below {
            Some(Ok(opened)) => opened,
            _ => files::open_plain(path)?,
        }
        .bytes)
    }
}
