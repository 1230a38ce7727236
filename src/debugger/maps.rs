//! The memory map as the file of `/proc` that debuggers ask for (proc(5)), of a core file too.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::mapping::{Mapping, Origin};

/// Whether `path` is that of the memory map of process `pid`: `/proc/PID/maps` or `/proc/PID/task/PID/maps`.
pub(super) fn is_of(pid: i32, path: &Path) -> bool {
    [format!("/proc/{pid}/maps"), format!("/proc/{pid}/task/{pid}/maps")].iter().any(|known| Path::new(known) == path)
}

/// The file's text.
pub(super) fn text(mappings: &[Mapping]) -> Vec<u8> {
    let mut text = Vec::new();
    for mapping in mappings {
        // Writing to memory does not fail.
        let _ = line(&mut text, mapping);
        text.push(b'\n');
    }
    text
}

fn line(text: &mut Vec<u8>, mapping: &Mapping) -> std::io::Result<()> {
    let Mapping { range, access, shared, origin } = mapping;
    let may = |allowed: bool, letter: char| if allowed { letter } else { '-' };
    let (read, write, execute) = (may(access.read, 'r'), may(access.write, 'w'), may(access.execute, 'x'));
    let shared = if *shared { 's' } else { 'p' };
    let file = mapping.file();
    let offset = file.map_or(0, |file| file.offset);
    let (device, inode) = file.and_then(|file| file.identity).map_or((0, 0), |file| (file.device, file.inode));
    let (major, minor) = (libc::major(device), libc::minor(device));
    let (low, high) = (range.low.0, range.high.0);
    write!(text, "{low:08x}-{high:08x} {read}{write}{execute}{shared} {offset:08x} {major:02x}:{minor:02x} {inode} ")?;
    match origin {
        Origin::Anonymous => Ok(()),
        Origin::MainStack => text.write_all(b"[stack]"),
        Origin::Vdso => text.write_all(b"[vdso]"),
        Origin::Special(name) => write!(text, "[{name}]"),
        Origin::File(file) => text.write_all(file.path.as_os_str().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, AddrRange};
    use crate::mapping::{Access, FileIdentity, MappedFile};

    #[test]
    fn a_line_is_as_the_kernel_writes_it() {
        let file = MappedFile {
            path: "/bin/cat".into(),
            deleted: false,
            offset: 0x2000,
            identity: Some(FileIdentity { device: libc::makedev(8, 1), inode: 77 }),
        };
        let code = Mapping {
            range: AddrRange::new(Addr(0x55_0000_2000), Addr(0x55_0000_3000)),
            access: Access { read: true, write: false, execute: true },
            shared: false,
            origin: Origin::File(file),
        };
        let stack = Mapping {
            range: AddrRange::new(Addr(0x7f_0000), Addr(0x80_0000)),
            access: Access { read: true, write: true, execute: false },
            shared: true,
            origin: Origin::MainStack,
        };
        let lines = "5500002000-5500003000 r-xp 00002000 08:01 77 /bin/cat\n\
                     007f0000-00800000 rw-s 00000000 00:00 0 [stack]\n";
        assert_eq!(String::from_utf8(text(&[code, stack])).unwrap(), lines);
    }

    #[test]
    fn only_the_map_of_the_process_is_one() {
        assert!(is_of(7, Path::new("/proc/7/task/7/maps")) && is_of(7, Path::new("/proc/7/maps")));
        assert!(!is_of(7, Path::new("/proc/8/maps")) && !is_of(7, Path::new("/proc/7/environ")));
    }
}
