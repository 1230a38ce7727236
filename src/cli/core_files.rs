//! Where the files of a core file are: the options of every verb that reads one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::process::{Core, CoreFiles, OpenError};

/// Options for core files of other machines.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Files of a core file")]
pub(super) struct CoreOptions {
    /// Look for the program and its libraries below DIR, as if that were the root directory
    #[arg(
        long,
        value_name = "DIR",
        long_help = "Look for the program and its libraries below DIR, as if that were the root directory of the machine \
                     that the core file is from. Files count only if their build-ids are right."
    )]
    sysroot: Option<PathBuf>,

    /// The program that the core file is of
    #[arg(long, value_name = "FILE")]
    executable: Option<PathBuf>,
}

impl CoreOptions {
    /// Opens the core file at `path`.
    pub(super) fn open(&self, path: &Path) -> Result<Core, OpenError> {
        let files = CoreFiles { sysroot: self.sysroot.clone(), executable: self.executable.clone() };
        Core::open_with(path, files)
    }

    /// The options again, for a command line of our own.
    pub(super) fn words(&self) -> impl Iterator<Item = &OsStr> {
        let sysroot = self.sysroot.iter().flat_map(|path| [OsStr::new("--sysroot"), path.as_os_str()]);
        sysroot.chain(self.executable.iter().flat_map(|path| [OsStr::new("--executable"), path.as_os_str()]))
    }

    /// That they were given for a running program; `None` if they were not.
    pub(super) fn misplaced(&self, target: &str) -> Option<&'static str> {
        (!self.are_default() && target.parse::<i32>().is_ok())
            .then_some("--sysroot and --executable are for core files; a running program shows its files itself")
    }

    /// Whether none of them was given.
    fn are_default(&self) -> bool {
        self.sysroot.is_none() && self.executable.is_none()
    }
}
