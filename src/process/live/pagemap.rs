//! Which pages of a live process are in use: `ioctl(PAGEMAP_SCAN)` from kernel 6.7 on, else `/proc/PID/pagemap` in
//! batches.
//!
//! Both ways are described in the kernel's `Documentation/admin-guide/mm/pagemap.rst`. They have the same result; the
//! second one has to read the pages that may be the shared page of zeros, because no bit says so.
//!
//! A guard made by `MADV_GUARD_INSTALL` (kernel 6.13) is kept as an entry that looks swapped out. From 6.15 on the
//! kernel shows the difference; on the two kernels between, swapped pages count only if the process uses swap space at
//! all.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::addr::{Addr, AddrRange};
use crate::mapping::Mapping;
use crate::memory::Memory;
use crate::process::live::procfs::Status;
use crate::process::pages::{PageState, Pages, Runs};

/// The kernel's `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// The kernel's `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGE_IS_FILE`: of a file, or of memory shared like one.
const FILE: u64 = 1 << 2;
/// `PAGE_IS_PRESENT`
const PRESENT: u64 = 1 << 3;
/// `PAGE_IS_SWAPPED`
const SWAPPED: u64 = 1 << 4;
/// `PAGE_IS_PFNZERO`: the page of zeros that all processes share until they write.
const ZERO: u64 = 1 << 5;
/// `PAGE_IS_GUARD`
const GUARD: u64 = 1 << 8;

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: u64 = 3 << 30 | (size_of::<ScanArgument>() as u64) << 16 | (b'f' as u64) << 8 | 16;

/// How many regions one scan may return.
const REGIONS: usize = 4096;

/// How many entries of eight bytes are read at once: 256 MiB of address space.
const ENTRIES: usize = 1 << 16;

/// Bits of an entry of `/proc/PID/pagemap`.
mod entry {
    pub(super) const PRESENT: u64 = 1 << 63;
    pub(super) const SWAPPED: u64 = 1 << 62;
    pub(super) const FILE: u64 = 1 << 61;
    pub(super) const GUARD: u64 = 1 << 58;
    pub(super) const EXCLUSIVE: u64 = 1 << 56;
}

/// How a live process's touched pages are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageScan {
    /// `ioctl(PAGEMAP_SCAN)` that knows `MADV_GUARD_INSTALL` guards (kernel 6.15).
    ScanWithGuards,
    /// `ioctl(PAGEMAP_SCAN)` (kernel 6.7).
    Scan,
    /// Reading `/proc/PID/pagemap` in batches.
    Batches,
}

/// The page tables of a process, as far as the kernel shows them.
#[derive(Debug)]
pub(in crate::process) struct Pagemap {
    file: File,
    directory: PathBuf,
}

impl Pagemap {
    /// Opens those of the process or thread of this `/proc` directory. They stay those of the program that it runs now.
    pub(in crate::process) fn open(directory: &Path) -> io::Result<Pagemap> {
        Ok(Pagemap { file: File::open(directory.join("pagemap"))?, directory: directory.to_owned() })
    }

    /// The pages of `range` that are in use, by the best way that the kernel offers.
    pub(in crate::process) fn pages(
        &self,
        range: AddrRange,
        mappings: &[Mapping],
        memory: &impl Memory,
    ) -> io::Result<Pages> {
        let range = in_user_space(range, mappings);
        match self.scan(range, mappings) {
            Err(error) if is_unknown_request(&error) => self.batches(range, mappings, memory),
            scanned => scanned,
        }
    }

    /// By `PAGEMAP_SCAN`.
    fn scan(&self, range: AddrRange, mappings: &[Mapping]) -> io::Result<Pages> {
        let none_of = FILE | ZERO;
        let mut pages = match self.scan_for(range, PRESENT | SWAPPED | GUARD, none_of) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.scan_for(range, self.countable_categories(), none_of)
            }
            scanned => scanned,
        }?;
        for shared in shared_memory(mappings).filter_map(|shared| shared.intersection(range)) {
            pages.runs.extend(self.scan_for(shared, PRESENT | SWAPPED, ZERO)?.runs);
        }
        pages.runs.sort_by_key(|run| run.range.low);
        Ok(pages)
    }

    /// The categories of touched pages, on a kernel for which guards look like swapped pages in this request.
    fn countable_categories(&self) -> u64 {
        if self.swapped_is_touched() { PRESENT | SWAPPED } else { PRESENT }
    }

    /// The pages that are in one of `categories` and in none of the others.
    fn scan_for(&self, range: AddrRange, categories: u64, none_of: u64) -> io::Result<Pages> {
        let mut runs = Runs::default();
        let mut regions = vec![Region::default(); REGIONS];
        let page = page_size();
        let mut start = range.low.align_down(page).0;
        let end = range.high.align_up(page).0;
        while start < end {
            let count = self.scan_once(start, end, (categories, none_of), &mut regions)?;
            for region in &regions[..count] {
                let state = if region.categories & GUARD != 0 { PageState::Guard } else { PageState::Touched };
                runs.add(AddrRange::new(Addr(region.start), Addr(region.end)), state);
            }
            // `walk_end` may point into the middle of what was scanned whole, so it is not what decides.
            match regions[..count].last() {
                Some(last) if count == REGIONS && last.end > start => start = last.end,
                _ => break,
            }
        }
        Ok(runs.finish(categories & GUARD != 0 || guards().are_seen()))
    }

    fn scan_once(
        &self,
        start: u64,
        end: u64,
        (categories, none_of): (u64, u64),
        regions: &mut [Region],
    ) -> io::Result<usize> {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_inverted: none_of,
            category_mask: none_of,
            category_anyof_mask: categories,
            return_mask: GUARD & categories,
            ..ScanArgument::default()
        };
        // If only guards are asked for, neighbours that differ in nothing else come as one region.
        if argument.return_mask == 0 {
            argument.return_mask = PRESENT;
        }
        // SAFETY: `argument` is the structure that this request takes, and its `vec` has room for `vec_len` regions.
        let count = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN as libc::Ioctl, &raw mut argument) };
        usize::try_from(count).map(|count| count.min(regions.len())).map_err(|_| io::Error::last_os_error())
    }

    /// By reading the entries of all mapped pages of `range`.
    fn batches(&self, range: AddrRange, mappings: &[Mapping], memory: &impl Memory) -> io::Result<Pages> {
        let mut runs = Runs::default();
        let mut entries = vec![0; ENTRIES * 8];
        let swapped_is_touched = self.swapped_is_touched();
        for mapping in mappings {
            let Some(part) = mapping.range.intersection(range) else { continue };
            let not_counted = if is_shared_memory(mapping) { 0 } else { entry::FILE };
            let mut low = part.low.align_down(page_size());
            while low < part.high {
                let wanted = (part.high.0 - low.0).div_ceil(page_size()).min(ENTRIES as u64) as usize;
                let read = self.file.read_at(&mut entries[..wanted * 8], low.0 / page_size() * 8)? / 8;
                for (at, entry) in (0..).zip(entries[..read * 8].as_chunks::<8>().0) {
                    let page =
                        AddrRange::new(low.offset(at * page_size() as i64), low.offset((at + 1) * page_size() as i64));
                    let entry = u64::from_le_bytes(*entry);
                    let state = state_of(entry, swapped_is_touched, page, memory);
                    if let Some(state) = state.filter(|_| entry & not_counted == 0) {
                        runs.add(page, state);
                    }
                }
                if read == 0 {
                    break;
                }
                low = low.offset((read as u64 * page_size()) as i64);
            }
        }
        Ok(runs.finish(guards().are_seen()))
    }

    fn swapped_is_touched(&self) -> bool {
        guards().are_seen() || Status::read(&self.directory).ok().and_then(|status| status.number("VmSwap")) != Some(0)
    }
}

/// What a page is, by its entry. A page that is mapped by itself alone was written to; one that several share was
/// copied by `fork`, or is the page of zeros, which its content shows.
fn state_of(entry: u64, swapped_is_touched: bool, page: AddrRange, memory: &impl Memory) -> Option<PageState> {
    if entry & entry::GUARD != 0 {
        return Some(PageState::Guard);
    }
    let touched = match entry {
        _ if entry & entry::PRESENT != 0 => entry & entry::EXCLUSIVE != 0 || !is_zero(page, memory),
        _ if entry & entry::SWAPPED != 0 => swapped_is_touched,
        _ => false,
    };
    touched.then_some(PageState::Touched)
}

fn is_zero(page: AddrRange, memory: &impl Memory) -> bool {
    let mut bytes = vec![0; page.len() as usize];
    memory.read(page.low, &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
}

/// Whether stacks may lie in a mapping whose pages look like a file's.
fn is_shared_memory(mapping: &Mapping) -> bool {
    mapping.shared && mapping.access.write && mapping.is_memory() && !mapping.is_switch_table()
}

/// Where shared memory lies that can be written to, neighbours as one.
fn shared_memory(mappings: &[Mapping]) -> impl Iterator<Item = AddrRange> {
    let groups = mappings.chunk_by(|below, above| is_shared_memory(below) == is_shared_memory(above));
    groups.filter(|group| is_shared_memory(&group[0])).filter_map(|group| {
        let (first, last) = (group.first()?, group.last()?);
        Some(AddrRange::new(first.range.low, last.range.high))
    })
}

/// The part of `range` below the end of the last mapping in user space: the kernel refuses to scan its own half.
fn in_user_space(range: AddrRange, mappings: &[Mapping]) -> AddrRange {
    let is_user = |mapping: &&Mapping| mapping.range.high.0 >> 63 == 0;
    let end = mappings.iter().rev().find(is_user).map_or(Addr(0), |mapping| mapping.range.high);
    AddrRange::new(range.low.min(end), range.high.min(end))
}

fn is_unknown_request(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY | libc::ENOSYS | libc::EPERM))
}

/// How this kernel shows guards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guards {
    /// It has no guards.
    None,
    /// It shows them as guards.
    Shown,
    /// It shows them as swapped pages.
    Disguised,
}

impl Guards {
    fn are_seen(self) -> bool {
        self != Guards::Disguised
    }
}

/// Asks the kernel with a page of our own.
fn guards() -> Guards {
    static GUARDS: OnceLock<Guards> = OnceLock::new();
    *GUARDS.get_or_init(|| try_guard().unwrap_or(Guards::None))
}

fn try_guard() -> Option<Guards> {
    const MADV_GUARD_INSTALL: i32 = 102;
    let length = page_size() as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page is the one mapped above, which nothing else uses.
    let installed = unsafe { libc::madvise(page, length, MADV_GUARD_INSTALL) } == 0;
    let mut bits = [0; 8];
    let read =
        File::open("/proc/self/pagemap").and_then(|file| file.read_exact_at(&mut bits, page as u64 / page_size() * 8));
    // SAFETY: the page is the one mapped above, which nothing else uses.
    unsafe { libc::munmap(page, length) };
    let shown = u64::from_le_bytes(bits) & entry::GUARD != 0;
    Some(match installed {
        false => Guards::None,
        true if read.is_ok() && shown => Guards::Shown,
        true => Guards::Disguised,
    })
}

/// The best way that this kernel offers, tried on our own process.
pub(super) fn own_page_scan() -> PageScan {
    let Ok(own) = Pagemap::open(Path::new("/proc/self")) else { return PageScan::Batches };
    let page = AddrRange::new(Addr(page_size()), Addr(2 * page_size()));
    match own.scan_for(page, PRESENT | GUARD, FILE) {
        Ok(_) => PageScan::ScanWithGuards,
        Err(_) if own.scan_for(page, PRESENT, FILE).is_ok() => PageScan::Scan,
        Err(_) => PageScan::Batches,
    }
}

/// The size of this machine's pages in bytes.
pub(in crate::process) fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: sysconf reads no memory of ours.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
    })
}

#[cfg(test)]
#[path = "pagemap_tests.rs"]
mod tests;
