//! Files of the program for a debugger that has none of its own: those that the program has mapped, and no others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gdbstub::target::ext::host_io::{
    FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat, HostIoFstatOps, HostIoOpen,
    HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPread, HostIoPreadOps, HostIoResult, HostIoSetfs,
    HostIoSetfsOps, HostIoStat,
};

use super::open_files::part;
use super::target::Served;
use crate::process::StopError;

/// The answer for a number that no open file has.
const NOT_OPEN: HostIoError<StopError> = HostIoError::Errno(HostIoErrno::EBADF);

impl HostIo for Served<'_, '_> {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

impl HostIoOpen for Served<'_, '_> {
    fn open(&mut self, path: &[u8], flags: HostIoOpenFlags, _: HostIoOpenMode) -> HostIoResult<u32, Self> {
        let writes = HostIoOpenFlags::O_WRONLY | HostIoOpenFlags::O_RDWR | HostIoOpenFlags::O_CREAT;
        if flags.intersects(writes) {
            return Err(HostIoError::Errno(HostIoErrno::EROFS));
        }
        let content = self.program.mapped_file(Path::new(OsStr::from_bytes(path)))?;
        self.files.add(content).ok_or(HostIoError::Errno(HostIoErrno::EMFILE))
    }
}

impl HostIoClose for Served<'_, '_> {
    fn close(&mut self, number: u32) -> HostIoResult<(), Self> {
        self.files.remove(number).ok_or(NOT_OPEN)
    }
}

impl HostIoPread for Served<'_, '_> {
    fn pread(&mut self, number: u32, count: usize, offset: u64, into: &mut [u8]) -> HostIoResult<usize, Self> {
        let content = self.files.content(number).ok_or(NOT_OPEN)?;
        let most = into.len();
        Ok(part(content, offset, count.min(most), into))
    }
}

impl HostIoFstat for Served<'_, '_> {
    fn fstat(&mut self, number: u32) -> HostIoResult<HostIoStat, Self> {
        let size = self.files.content(number).ok_or(NOT_OPEN)?.len() as u64;
        Ok(HostIoStat {
            st_dev: 0,
            st_ino: 0,
            st_mode: HostIoOpenMode::S_IFREG | HostIoOpenMode::S_IRUSR,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size: size,
            st_blksize: 4096,
            st_blocks: size.div_ceil(512),
            st_atime: 0,
            st_mtime: 0,
            st_ctime: 0,
        })
    }
}

impl HostIoSetfs for Served<'_, '_> {
    /// Files are always those that the program sees.
    fn setfs(&mut self, _: FsKind) -> HostIoResult<(), Self> {
        Ok(())
    }
}
