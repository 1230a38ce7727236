//! Both ways of finding touched pages, on memory of our own in known states, and against each other.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;

use super::*;
use crate::process::live::maps;
use crate::process::live::remote::RemoteMemory;

/// Memory of our own, unmapped when this is dropped.
struct Region {
    start: u64,
    pages: u64,
}

impl Region {
    fn map(pages: u64, flags: i32, file: i32) -> Region {
        let length = (pages * page_size()) as usize;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the mapping is the one made above. Where huge pages are off anyway, the answer does not matter.
        unsafe { libc::madvise(start, length, libc::MADV_NOHUGEPAGE) };
        Region { start: start as u64, pages }
    }

    fn page(&self, number: u64) -> *mut u8 {
        assert!(number < self.pages);
        (self.start + number * page_size()) as *mut u8
    }

    fn write(&self, number: u64, byte: u8) {
        // SAFETY: the page is mapped writable, by `map`, and nobody else uses it.
        unsafe { self.page(number).write_volatile(byte) };
    }

    fn read(&self, number: u64) {
        // SAFETY: the page is mapped readable, by `map`.
        unsafe { self.page(number).read_volatile() };
    }

    fn advise(&self, number: u64, count: u64, advice: i32) -> bool {
        // SAFETY: the pages are mapped by `map`, and nobody else uses them.
        unsafe { libc::madvise(self.page(number).cast(), (count * page_size()) as usize, advice) == 0 }
    }

    fn range(&self) -> AddrRange {
        AddrRange::new(Addr(self.start), Addr(self.start + self.pages * page_size()))
    }

    /// What both ways say of it, as (first page, count, state).
    fn seen(&self) -> [Vec<(u64, u64, PageState)>; 2] {
        let own = Path::new("/proc/thread-self");
        let pagemap = Pagemap::open(own).unwrap();
        let mappings = maps::read(own).unwrap();
        let memory = RemoteMemory::of_thread(std::process::id() as i32);
        let named = |pages: Pages| {
            let row = |run: &crate::process::PageRun| {
                ((run.range.low.0 - self.start) / page_size(), run.range.len() / page_size(), run.state)
            };
            pages.runs.iter().map(row).collect::<Vec<_>>()
        };
        let batches = named(pagemap.batches(self.range(), &mappings, &memory).unwrap());
        let scan = match own_page_scan() {
            // An old kernel has only one way, with which nothing can be compared.
            PageScan::Batches => batches.clone(),
            _ => named(pagemap.scan(self.range(), &mappings).unwrap()),
        };
        [scan, batches]
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and nobody else uses it.
        unsafe { libc::munmap(self.page(0).cast(), (self.pages * page_size()) as usize) };
    }
}

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

#[test]
fn pages_written_to_are_told_from_pages_only_read() {
    let region = Region::map(64, PRIVATE, -1);
    for number in [0, 5, 6, 7, 63] {
        region.write(number, 1);
    }
    region.read(20);
    region.write(30, 0);
    region.write(40, 1);
    region.advise(40, 1, libc::MADV_DONTNEED);
    let touched = |first, count| (first, count, PageState::Touched);
    let expected = [touched(0, 1), touched(5, 3), touched(30, 1), touched(63, 1)];
    for seen in region.seen() {
        assert_eq!(seen, expected);
    }
}

#[test]
fn guards_are_seen_where_the_kernel_has_them() {
    let region = Region::map(16, PRIVATE, -1);
    region.write(3, 1);
    let installed = region.advise(0, 3, 102);
    let mut expected = vec![(3, 1, PageState::Touched)];
    if installed && guards() == Guards::Shown {
        expected.insert(0, (0, 3, PageState::Guard));
    }
    for seen in region.seen() {
        assert_eq!(seen, expected);
    }
}

#[test]
fn pages_of_shared_memory_count_when_they_are_written() {
    let shared = Region::map(4, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    shared.write(1, 1);
    let expected = vec![(1, 1, PageState::Touched)];
    assert_eq!(shared.seen(), [expected.clone(), expected]);
}

#[test]
fn pages_of_files_do_not_count_until_they_are_copied() {
    let path = std::env::temp_dir().join(format!("stackscope-pages-{}", std::process::id()));
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    file.write_all(&vec![1; 4 * page_size() as usize]).unwrap();
    let private = Region::map(4, libc::MAP_PRIVATE, file.as_raw_fd());
    std::fs::remove_file(&path).unwrap();
    private.read(0);
    private.write(2, 7);
    let expected = vec![(2, 1, PageState::Touched)];
    assert_eq!(private.seen(), [expected.clone(), expected]);
}

#[test]
fn many_short_runs_are_all_seen() {
    // More runs than one scan returns, and than the kernel's own buffer holds.
    let region = Region::map(3 * REGIONS as u64, PRIVATE, -1);
    for number in (0..region.pages).step_by(2) {
        region.write(number, 1);
    }
    let expected: Vec<_> = (0..region.pages).step_by(2).map(|number| (number, 1, PageState::Touched)).collect();
    for seen in region.seen() {
        assert!(seen == expected, "{} runs of {}", seen.len(), expected.len());
    }
}

#[test]
fn the_whole_address_space_is_no_error() {
    let own = Path::new("/proc/thread-self");
    let mappings = maps::read(own).unwrap();
    let memory = RemoteMemory::of_thread(std::process::id() as i32);
    let everything = AddrRange::new(Addr(0), Addr(u64::MAX));
    let pages = Pagemap::open(own).unwrap().pages(everything, &mappings, &memory).unwrap();
    assert!(pages.runs.len() > 3 && pages.runs.is_sorted_by_key(|run| run.range.low));
    let nothing = Pagemap::open(own).unwrap().pages(AddrRange::default(), &mappings, &memory).unwrap();
    assert_eq!(nothing.runs, []);
}
