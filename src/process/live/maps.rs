//! A process's memory map, from `/proc/PID/maps` (proc(5)).
//!
//! The kernel writes the file piece by piece while the process runs on, so lines may overlap if the map changed
//! in between. What is returned is nevertheless sorted and free of overlaps.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::addr::{Addr, AddrRange};
use crate::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};

/// Reads the map of the process or thread whose `/proc` directory is given. A process that has ended has an empty one.
pub(in crate::process) fn read(directory: &Path) -> io::Result<Vec<Mapping>> {
    let mut text = Vec::with_capacity(64 << 10);
    File::open(directory.join("maps"))?.read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Parses the file's text. A line that is no mapping is skipped.
pub(super) fn parse(text: &[u8]) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        let Some(mut mapping) = parse_line(line) else { continue };
        // A mapping that grew or was split between two pieces comes twice; the first reading stays.
        let floor = mappings.last().map_or(Addr(0), |last| last.range.high);
        mapping = match clip(mapping, floor) {
            Some(mapping) => mapping,
            None => continue,
        };
        mappings.push(mapping);
    }
    mappings
}

/// The part of `mapping` from `floor` on.
fn clip(mut mapping: Mapping, floor: Addr) -> Option<Mapping> {
    let low = mapping.range.low.max(floor);
    if low >= mapping.range.high {
        return None;
    }
    if let Origin::File(file) = &mut mapping.origin {
        file.offset = file.offset.saturating_add(low.0 - mapping.range.low.0);
    }
    mapping.range.low = low;
    Some(mapping)
}

/// `LOW-HIGH rwxp OFFSET MAJOR:MINOR INODE      NAME`
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let low = number(&mut rest, 16)?;
    let high = number(skip(&mut rest, b'-')?, 16)?;
    let (&[read, write, execute, shared], tail) = skip(&mut rest, b' ')?.split_first_chunk::<4>()?;
    rest = tail;
    let offset = number(skip(&mut rest, b' ')?, 16)?;
    let major = number(skip(&mut rest, b' ')?, 16)?;
    let minor = number(skip(&mut rest, b':')?, 16)?;
    let inode = number(skip(&mut rest, b' ')?, 10)?;
    let name = rest.trim_ascii_start();
    let identity = FileIdentity { device: device(major, minor)?, inode };
    Some(Mapping {
        range: AddrRange::new(Addr(low), Addr(high)),
        access: Access { read: read == b'r', write: write == b'w', execute: execute == b'x' },
        shared: shared == b's',
        origin: origin(name, offset, identity),
    })
}

fn device(major: u64, minor: u64) -> Option<u64> {
    Some(libc::makedev(major.try_into().ok()?, minor.try_into().ok()?))
}

/// Takes a number from the front of `text`; `None` if there is no digit, or it does not fit.
fn number(text: &mut &[u8], radix: u32) -> Option<u64> {
    let mut value: u64 = 0;
    let mut digits = 0;
    for &byte in text.iter() {
        let Some(digit) = char::from(byte).to_digit(radix) else { break };
        value = value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    *text = &text[digits..];
    (digits > 0).then_some(value)
}

fn skip<'a, 'b>(text: &'a mut &'b [u8], byte: u8) -> Option<&'a mut &'b [u8]> {
    *text = text.strip_prefix(&[byte])?;
    Some(text)
}

/// What a mapping's name says of its origin. Paths of files begin with a slash; all other names are the kernel's.
fn origin(name: &[u8], offset: u64, identity: FileIdentity) -> Origin {
    match name {
        b"" => Origin::Anonymous,
        b"[stack]" => Origin::MainStack,
        b"[vdso]" => Origin::Vdso,
        [b'[', inner @ .., b']'] => Origin::Special(String::from_utf8_lossy(inner).into_owned()),
        [b'/', ..] => {
            let (path, deleted) = match name.strip_suffix(b" (deleted)") {
                Some(path) => (path, true),
                None => (name, false),
            };
            Origin::File(MappedFile { path: unescape(path), deleted, offset, identity: Some(identity) })
        }
        _ => Origin::Special(String::from_utf8_lossy(name).into_owned()),
    }
}

/// A line break is the one byte that the kernel escapes here (`seq_path` with `"\n"` in its `fs/proc/task_mmu.c`).
/// A path that really holds the four characters `\012` looks the same; opening it by device and inode finds the right
/// file.
fn unescape(path: &[u8]) -> PathBuf {
    const LINE_BREAK: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(LINE_BREAK) {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
55d0c0000000-55d0c0001000 r-xp 00002000 fd:01 1234                       /usr/bin/odd name\\012here (deleted)
55d0c0001000-55d0c0002000 rw-s 00000000 00:01 77                         /dev/zero (deleted)
7f0000000000-7f0000001000 ---p 00000000 00:00 0 
7f0000001000-7f0000002000 rw-p 00000000 00:00 0                          [anon:pool [1]]
7f0000002000-7f0000003000 rw-p 00000000 00:0f 3                          anon_inode:[perf_event]
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc000fe000-7ffc00100000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn each_kind_of_name_is_understood() {
        let mappings = parse(TEXT.as_bytes());
        assert_eq!(mappings.len(), 8);
        let file = mappings[0].file().unwrap();
        assert_eq!(file.path, Path::new("/usr/bin/odd name\nhere"));
        assert!(file.deleted && mappings[0].access.execute && !mappings[0].shared);
        assert_eq!(file.offset, 0x2000);
        assert_eq!(file.identity, Some(FileIdentity { device: libc::makedev(0xfd, 1), inode: 1234 }));
        assert!(mappings[1].shared && mappings[1].access.write);
        assert_eq!(mappings[2].origin, Origin::Anonymous);
        assert_eq!(mappings[2].access, Access::default());
        assert_eq!(mappings[3].origin, Origin::Special("anon:pool [1]".into()));
        assert_eq!(mappings[4].origin, Origin::Special("anon_inode:[perf_event]".into()));
        assert_eq!(mappings[5].origin, Origin::MainStack);
        assert_eq!(mappings[6].origin, Origin::Vdso);
        assert_eq!(mappings[7].range.high, Addr(0xffff_ffff_ff60_1000));
    }

    #[test]
    fn lines_that_are_no_mappings_are_passed_over() {
        for bad in ["", "x", "10-", "10-20", "10-20 rw", "10-20 rwxp 0 0:0", "g-h rwxp 0 0:0 0", "20-10 rwxp 0 0:0 0 "]
        {
            assert_eq!(parse(bad.as_bytes()), [], "{bad}");
        }
        assert_eq!(parse(b"11111111111111111-20 rwxp 0 0:0 0"), []);
        assert_eq!(parse(b"10-20 rwxp 0 ffffffffff:0 0"), []);
    }

    #[test]
    fn what_overlaps_is_clipped_to_the_first_reading() {
        let text = "1000-3000 r--p 0 0:1 5 /a\n2000-4000 r--p 1000 0:1 5 /a\n1000-2000 r--p 0 0:1 5 /a\n";
        let mappings = parse(text.as_bytes());
        assert_eq!(mappings.len(), 2);
        assert_eq!(mappings[1].range, AddrRange::new(Addr(0x3000), Addr(0x4000)));
        assert_eq!(mappings[1].file().unwrap().offset, 0x2000);
    }

    #[test]
    fn our_own_map_holds_our_own_code() {
        let mappings = read(Path::new("/proc/self")).unwrap();
        let code = Addr(parse as fn(&[u8]) -> Vec<Mapping> as usize as u64);
        let mapping = crate::mapping::mapping_at(&mappings, code).unwrap();
        assert!(mapping.access.execute && mapping.file().is_some());
    }
}
