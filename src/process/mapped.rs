//! Files mapped into our memory for reading, which is safe even while somebody shortens them.
//!
//! Touching a mapped page that the file no longer reaches raises `SIGBUS`, which would end us. So the first mapping
//! installs a handler that maps a page of zeros over such a page and notes that the file shrank:
//! [`MappedBytes::shrank`], [`shrunken_files`]. A `SIGBUS` for any other address goes to the handler that was there
//! before.
//!
//! The handler may run at any moment in any thread: what it reads is a list that only ever grows, of atomic words.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::process::live::pagemap::page_size;

/// The bytes of a file, as many as it had when it was mapped.
#[derive(Debug)]
pub struct MappedBytes {
    /// Null for an empty file.
    start: *const u8,
    length: usize,
    slot: Option<&'static Slot>,
}

/// The files that were found to have become shorter while they were mapped, since this process started, each once.
/// What was read after their end was zero.
pub fn shrunken_files() -> Vec<PathBuf> {
    let mut paths = paths();
    let shrank: Vec<PathBuf> =
        paths.mapped.iter().filter(|(slot, _)| slot.has_shrunk()).map(|(_, path)| path.clone()).collect();
    paths.shrunken.extend(shrank);
    paths.shrunken.iter().cloned().collect()
}

/// The names of files, which the handler does not use.
struct Paths {
    /// Those that are mapped now.
    mapped: Vec<(&'static Slot, PathBuf)>,
    /// Those that shrank.
    shrunken: BTreeSet<PathBuf>,
}

fn paths() -> MutexGuard<'static, Paths> {
    static PATHS: Mutex<Paths> = Mutex::new(Paths { mapped: Vec::new(), shrunken: BTreeSet::new() });
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

// SAFETY: the bytes are only read, and the mapping stays until the value is dropped; the slot is made of atomics.
unsafe impl Send for MappedBytes {}
// SAFETY: as above: shared use only reads.
unsafe impl Sync for MappedBytes {}

impl MappedBytes {
    /// Maps the whole of `file`.
    pub fn map(file: &File) -> io::Result<MappedBytes> {
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if length == 0 {
            return Ok(MappedBytes { start: ptr::null(), length: 0, slot: None });
        }
        install_handler()?;
        let slot = Slot::claim();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            slot.free();
            return Err(error);
        }
        slot.occupy(start as usize, length);
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        paths().mapped.push((slot, path));
        Ok(MappedBytes { start: start.cast(), length, slot: Some(slot) })
    }

    /// Whether bytes were asked for that the file no longer had; zeros stand in their place.
    pub fn shrank(&self) -> bool {
        self.slot.is_some_and(Slot::has_shrunk)
    }
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: `length` bytes from `start` are mapped readable until this value is dropped. Where the file shrinks,
        // the handler maps zeros instead; where somebody writes to the file, bytes change, and no reader of them
        // assumes more of a byte than that it is one.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for MappedBytes {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut paths = paths();
        if let Some(index) = paths.mapped.iter().position(|(mapped, _)| ptr::eq(*mapped, slot)) {
            let (_, path) = paths.mapped.swap_remove(index);
            if slot.has_shrunk() {
                paths.shrunken.insert(path);
            }
        }
        drop(paths);
        slot.free();
        // SAFETY: the range was mapped by `map`, nobody holds a reference to it any more, and its slot is free.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.length) };
    }
}

/// One mapping that the handler knows. Slots are never returned to the allocator, only used again.
#[derive(Debug)]
struct Slot {
    /// Whether a mapping, or one in the making, owns it.
    taken: AtomicBool,
    start: AtomicUsize,
    /// 0 while no mapping is there.
    length: AtomicUsize,
    shrank: AtomicBool,
    /// Set once, before the slot is in the list.
    next: AtomicPtr<Slot>,
}

/// The list's first slot.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

impl Slot {
    /// A slot for a new mapping: a free one, or one more.
    fn claim() -> &'static Slot {
        let is_mine = |slot: &&Slot| !slot.taken.swap(true, Ordering::AcqRel);
        slots().find(is_mine).unwrap_or_else(Slot::add)
    }

    fn add() -> &'static Slot {
        let slot: &'static Slot = Box::leak(Box::new(Slot {
            taken: AtomicBool::new(true),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            shrank: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
        }));
        let mut first = SLOTS.load(Ordering::Acquire);
        loop {
            slot.next.store(first, Ordering::Release);
            match SLOTS.compare_exchange_weak(
                first,
                ptr::from_ref(slot).cast_mut(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return slot,
                Err(now) => first = now,
            }
        }
    }

    fn occupy(&self, start: usize, length: usize) {
        self.shrank.store(false, Ordering::Release);
        self.start.store(start, Ordering::Release);
        self.length.store(length, Ordering::Release);
    }

    fn free(&self) {
        self.length.store(0, Ordering::Release);
        self.taken.store(false, Ordering::Release);
    }

    fn has_shrunk(&self) -> bool {
        self.shrank.load(Ordering::Acquire)
    }

    fn holds(&self, address: usize) -> bool {
        let length = self.length.load(Ordering::Acquire);
        // The last page is mapped whole.
        let end = length.next_multiple_of(page_size() as usize);
        address.checked_sub(self.start.load(Ordering::Acquire)).is_some_and(|offset| length > 0 && offset < end)
    }
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let at = |slot: *mut Slot| {
        // SAFETY: a pointer in the list is null or leads to a leaked box.
        unsafe { slot.as_ref() }
    };
    std::iter::successors(at(SLOTS.load(Ordering::Acquire)), move |slot| at(slot.next.load(Ordering::Acquire)))
}

/// What handled `SIGBUS` before us.
static EARLIER: OnceLock<libc::sigaction> = OnceLock::new();

fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let outcome = INSTALLED.get_or_init(|| {
        // The handler asks for it, and must not be the first to.
        page_size();
        exchange_handlers().map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    outcome.map_err(io::Error::from_raw_os_error)
}

fn exchange_handlers() -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction: the default action, no flags, no signals blocked.
    let mut ours: libc::sigaction = unsafe { mem::zeroed() };
    ours.sa_sigaction = on_sigbus as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    let mut earlier = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asking for the present action only writes it to `earlier`.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), earlier.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled it, and zeros would be valid too.
    let earlier = unsafe { earlier.assume_init() };
    // Kept before our handler can run.
    let _ = EARLIER.set(earlier);
    // SAFETY: `ours` names a handler with the three arguments of SA_SIGINFO that does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs on `SIGBUS`. Calls only `mmap`, `sigaction` and an earlier handler; allocates nothing, takes no lock.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid siginfo.
    let address = unsafe { fault_address(info) };
    // SAFETY: errno's place is valid in every thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { errno.read() };
    let ours = address.and_then(|address| Some((address, slots().find(|slot| slot.holds(address))?)));
    if !ours.is_some_and(|(address, slot)| fill_hole(address, slot)) {
        hand_on(signal, info, context);
    }
    // SAFETY: as above; a handler leaves errno as it found it.
    unsafe { errno.write(kept) };
}

/// The address whose access failed; `None` if somebody sent the signal.
///
/// # Safety
/// `info` is what the kernel gave a handler.
unsafe fn fault_address(info: *const libc::siginfo_t) -> Option<usize> {
    // SAFETY: valid, says the caller.
    let info = unsafe { info.as_ref() }?;
    if info.si_code != libc::BUS_ADRERR {
        return None;
    }
    // SAFETY: BUS_ADRERR comes with an address.
    Some(unsafe { info.si_addr() } as usize)
}

/// Maps a page of zeros over the page that cannot be read.
fn fill_hole(address: usize, slot: &Slot) -> bool {
    let page = address & !(page_size() as usize - 1);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page belongs to a file mapping of ours, which its slot says is in place; its readers may see any
    // bytes.
    let placed = unsafe { libc::mmap(page as *mut libc::c_void, page_size() as usize, libc::PROT_READ, flags, -1, 0) };
    slot.shrank.store(true, Ordering::Release);
    placed != libc::MAP_FAILED
}

/// Does what would have happened without us.
fn hand_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(earlier) = EARLIER.get() else { return };
    match earlier.sa_sigaction {
        // The access is tried again when we return, and then ends the process as it would have.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: it is an action that was in place before.
            unsafe { libc::sigaction(signal, earlier, ptr::null_mut()) };
        }
        handler if earlier.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: SA_SIGINFO says that this is the address of a handler with three arguments.
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO it is the address of a handler with one argument.
            let handler: extern "C" fn(i32) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str, bytes: &[u8]) -> (PathBuf, File) {
        let path = std::env::temp_dir().join(format!("stackscope-{}-{name}", std::process::id()));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        (path, file)
    }

    #[test]
    fn a_file_that_shrinks_reads_as_zeros_from_there() {
        let (path, file) = scratch("shrinks", &[7; 40_000]);
        let mapped = MappedBytes::map(&file).unwrap();
        assert_eq!(mapped.as_ref()[39_999], 7);
        assert!(!mapped.shrank());
        file.set_len(100).unwrap();
        assert_eq!(mapped.as_ref()[99], 7);
        assert_eq!(mapped.as_ref()[39_999], 0);
        assert_eq!(mapped.as_ref().iter().map(|byte| usize::from(*byte)).sum::<usize>(), 700);
        assert!(mapped.shrank());
        assert!(shrunken_files().contains(&path));
        drop(mapped);
        assert!(shrunken_files().contains(&path));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn slots_are_used_again() {
        let (path, file) = scratch("slots", b"abc");
        for _ in 0..100 {
            let mapped = MappedBytes::map(&file).unwrap();
            assert_eq!(mapped.as_ref(), b"abc");
        }
        assert!(slots().count() < 50);
        assert!(!shrunken_files().contains(&path));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_empty_file_is_empty() {
        let (path, file) = scratch("empty", b"");
        assert_eq!(MappedBytes::map(&file).unwrap().as_ref(), b"");
        std::fs::remove_file(path).unwrap();
    }

    /// Makes a second run of this program touch a hole of its own.
    const FOREIGN: &str = "STACKSCOPE_TEST_FOREIGN_HOLE";

    #[test]
    fn a_fault_elsewhere_ends_the_process_as_ever() {
        let (path, file) = scratch("foreign", &[7; 8192]);
        let mapped = MappedBytes::map(&file).unwrap();
        if std::env::var_os(FOREIGN).is_some() {
            // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
            let foreign =
                unsafe { libc::mmap(ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
            file.set_len(0).unwrap();
            assert_eq!(mapped.as_ref()[5000], 0);
            std::fs::remove_file(path).unwrap();
            // SAFETY: the page is mapped; that its file is gone is what is tested.
            unsafe { foreign.cast::<u8>().read_volatile() };
            return;
        }
        std::fs::remove_file(path).unwrap();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "process::mapped::tests::a_fault_elsewhere_ends_the_process_as_ever"]);
        let status = again.env(FOREIGN, "1").stdout(std::process::Stdio::null()).status().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGBUS));
    }
}
