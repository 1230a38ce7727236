//! Reading another process's memory, while it runs or stands still.
//!
//! `process_vm_readv` reads many ranges in one call; if a filter forbids that call, `/proc/PID/mem` is read instead.
//! What the program itself may not read, such as a guard page, is unreadable here too.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::{maps, procfs};
use crate::addr::{Addr, AddrRange};
use crate::mapping::{Mapping, mapping_at};
use crate::memory::{Memory, Unreadable};

/// How many ranges the kernel takes in one call (`UIO_MAXIOV`).
const RANGES_PER_CALL: usize = 1024;

/// The memory of a process, read again at each call.
#[derive(Debug)]
pub struct RemoteMemory {
    /// A living thread of the process: the kernel finds no memory by the number of a first thread that has ended.
    tid: i32,
    fallback: OnceLock<Option<Fallback>>,
}

/// `/proc/PID/mem` also shows pages that the program may not read, so the map is needed with it.
#[derive(Debug)]
struct Fallback {
    file: File,
    mappings: Vec<Mapping>,
}

impl RemoteMemory {
    /// The memory of the process that `tid` is a living thread of.
    pub(in crate::process) fn of_thread(tid: i32) -> RemoteMemory {
        RemoteMemory { tid, fallback: OnceLock::new() }
    }

    /// Fills `into` with the bytes of `ranges`, one range after the other, in as few calls as the kernel allows.
    ///
    /// `into` has room for all of them. Returns, for each, how many of its bytes were read: all, or those before the
    /// first page that can't be. Room whose bytes were not read keeps its content.
    pub fn read_many(&self, ranges: &[AddrRange], into: &mut [u8]) -> Vec<usize> {
        let mut lengths = Vec::with_capacity(ranges.len());
        let mut offset = 0;
        while lengths.len() < ranges.len() {
            let rest = &ranges[lengths.len()..];
            let (count, size) = fitting(rest, into.len() - offset);
            if count == 0 {
                lengths.resize(ranges.len(), 0);
                break;
            }
            let mut read = self.transfer(&rest[..count], &mut into[offset..offset + size]);
            for range in &rest[..count] {
                let length = range.len() as usize;
                let part = read.min(length);
                lengths.push(part);
                read -= part;
                offset += length;
                if part < length {
                    // The kernel stopped here; what follows may well be readable.
                    break;
                }
            }
        }
        lengths
    }

    /// One system call: how many bytes it read before the first one that it could not.
    fn transfer(&self, ranges: &[AddrRange], into: &mut [u8]) -> usize {
        let remote: Vec<RemoteIoVec> =
            ranges.iter().map(|range| RemoteIoVec { base: range.low.0 as usize, len: range.len() as usize }).collect();
        match process_vm_readv(Pid::from_raw(self.tid), &mut [IoSliceMut::new(into)], &remote) {
            Ok(read) => read,
            Err(Errno::EPERM | Errno::ENOSYS) => self.transfer_by_file(ranges, into),
            Err(_) => 0,
        }
    }

    fn transfer_by_file(&self, ranges: &[AddrRange], into: &mut [u8]) -> usize {
        let Some(fallback) = self.fallback.get_or_init(|| Fallback::open(self.tid)) else { return 0 };
        let mut total = 0;
        for range in ranges {
            let length = range.len() as usize;
            let read = fallback.read(range.low, &mut into[total..total + length]);
            total += read;
            if read < length {
                break;
            }
        }
        total
    }
}

impl Memory for RemoteMemory {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        let high = at.0.checked_add(into.len() as u64).ok_or(Unreadable { at })?;
        match self.transfer(&[AddrRange::new(at, Addr(high))], into) == into.len() {
            true => Ok(()),
            false => Err(Unreadable { at }),
        }
    }
}

impl Fallback {
    fn open(tid: i32) -> Option<Fallback> {
        let directory = procfs::directory(tid);
        let file = File::open(directory.join("mem")).ok()?;
        Some(Fallback { file, mappings: maps::read(&directory).ok()? })
    }

    /// Reads up to the first byte that the program itself could not.
    fn read(&self, at: Addr, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let here = at.offset(done as i64);
            let Some(mapping) = mapping_at(&self.mappings, here).filter(|mapping| mapping.access.read) else { break };
            let length = (into.len() - done).min((mapping.range.high.0 - here.0) as usize);
            match self.file.read_at(&mut into[done..done + length], here.0) {
                Ok(0) | Err(_) => break,
                Ok(read) => done += read,
            }
        }
        done
    }
}

/// How many of the first `ranges` fit in one call with `room` bytes, and how many bytes they need.
fn fitting(ranges: &[AddrRange], room: usize) -> (usize, usize) {
    let mut size = 0;
    for (count, range) in ranges.iter().take(RANGES_PER_CALL).enumerate() {
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        if length > room - size {
            return (count, size);
        }
        size += length;
    }
    (ranges.len().min(RANGES_PER_CALL), size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> RemoteMemory {
        RemoteMemory::of_thread(std::process::id() as i32)
    }

    fn range_of(bytes: &[u8]) -> AddrRange {
        let low = Addr(bytes.as_ptr() as u64);
        AddrRange::new(low, low.offset(bytes.len() as i64))
    }

    #[test]
    fn many_ranges_are_read_and_bad_ones_passed_over() {
        let bytes: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
        let nothing = AddrRange::new(Addr(0x10), Addr(0x12));
        let mut ranges: Vec<AddrRange> = bytes.chunks(2).map(range_of).collect();
        ranges.insert(1100, nothing);
        ranges.insert(0, nothing);
        let mut into = vec![0xee; 3004];
        let lengths = own().read_many(&ranges, &mut into);
        assert_eq!(lengths.len(), 1502);
        assert_eq!(lengths.iter().sum::<usize>(), 3000);
        assert_eq!((lengths[0], lengths[1101]), (0, 0));
        assert_eq!(into[..2], [0xee; 2]);
        assert_eq!(into[2..2202], bytes[..2200]);
        assert_eq!(into[2204..], bytes[2200..]);
    }

    #[test]
    fn without_room_nothing_is_read() {
        let bytes = [7; 64];
        assert_eq!(own().read_many(&[range_of(&bytes)], &mut [0; 32]), [0]);
        assert_eq!(own().read_many(&[AddrRange::new(Addr(0), Addr(u64::MAX))], &mut [0; 32]), [0]);
    }

    #[test]
    fn reading_by_file_gives_the_same_and_respects_guards() {
        let bytes: Vec<u8> = (0..9000u32).map(|n| (n * 7) as u8).collect();
        let memory = own();
        let mut into = vec![0; 9000];
        assert_eq!(memory.transfer_by_file(&[range_of(&bytes)], &mut into), 9000);
        assert_eq!(into, bytes);
        let mappings = maps::read(&procfs::directory(std::process::id() as i32)).unwrap();
        let guard = mappings.iter().find(|mapping| !mapping.access.read && mapping.file().is_none());
        if let Some(guard) = guard {
            assert_eq!(
                memory.transfer_by_file(&[AddrRange::new(guard.range.low, guard.range.low.offset(8))], &mut into),
                0
            );
        }
    }

    #[test]
    fn a_read_at_the_end_of_the_address_space_is_an_error() {
        assert_eq!(own().read(Addr(u64::MAX - 3), &mut [0; 8]), Err(Unreadable { at: Addr(u64::MAX - 3) }));
        assert!(own().read_u64(Addr(0)).is_err());
    }
}
