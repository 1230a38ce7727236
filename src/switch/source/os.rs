//! The two calls that sources make to the operating system: map a stack with a guard below it, and unmap it.

#![allow(unsafe_code)]

#[cfg(unix)]
pub(super) use unix::{map, page_size, unmap};
#[cfg(windows)]
pub(super) use windows::{map, page_size, unmap};

#[cfg(unix)]
mod unix {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The size of a page in bytes.
    pub(in super::super) fn page_size() -> usize {
        static PAGE: AtomicUsize = AtomicUsize::new(0);
        match PAGE.load(Ordering::Relaxed) {
            0 => {
                // SAFETY: asks for a number; it cannot fail for this name.
                let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
                PAGE.store(page, Ordering::Relaxed);
                page
            }
            page => page,
        }
    }

    /// Maps `usable` bytes, zeroed, above `guard` bytes that cannot be accessed; both are multiples of the page size.
    ///
    /// # Errors
    /// The system's error number.
    pub(in super::super) fn map(usable: usize, guard: usize) -> Result<*mut u8, i32> {
        let failed = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | STACK;
        // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
        let low = unsafe { libc::mmap(std::ptr::null_mut(), guard + usable, libc::PROT_NONE, flags, -1, 0) };
        if low == libc::MAP_FAILED {
            return Err(failed());
        }
        let base = low.wrapping_byte_add(guard);
        // SAFETY: the upper part of the mapping just made.
        if unsafe { libc::mprotect(base, usable, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            let error = failed();
            // SAFETY: the mapping just made, which nobody else knows of.
            unsafe { libc::munmap(low, guard + usable) };
            return Err(error);
        }
        Ok(base.cast())
    }

    /// Tells Linux not to back it by huge pages; other systems have no such flag or do not need it.
    #[cfg(target_os = "linux")]
    const STACK: libc::c_int = libc::MAP_STACK;
    #[cfg(not(target_os = "linux"))]
    const STACK: libc::c_int = 0;

    /// Unmaps what [`map`] made.
    ///
    /// # Safety
    /// `base`, `usable` and `guard` are those of one call of [`map`], and nothing of it is used any more.
    pub(in super::super) unsafe fn unmap(base: *mut u8, usable: usize, guard: usize) {
        // SAFETY: the caller gives the whole mapping back. It cannot fail for whole mappings, and a leak is all that
        // would be left to do if it did.
        unsafe { libc::munmap(base.wrapping_sub(guard).cast(), guard + usable) };
    }
}

#[cfg(windows)]
mod windows {
    use core::ffi::c_void;

    const MEM_COMMIT: u32 = 0x1000;
    const MEM_RESERVE: u32 = 0x2000;
    const MEM_RELEASE: u32 = 0x8000;
    const PAGE_READWRITE: u32 = 0x04;

    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn VirtualAlloc(address: *mut c_void, size: usize, kind: u32, protection: u32) -> *mut c_void;
        fn VirtualFree(address: *mut c_void, size: usize, kind: u32) -> i32;
    }

    /// The size of a page in bytes: fixed on x86_64 Windows.
    pub(in super::super) fn page_size() -> usize {
        4096
    }

    /// Reserves `guard + usable` bytes and commits the upper part, zeroed; what is only reserved faults.
    ///
    /// # Errors
    /// The system's error number.
    pub(in super::super) fn map(usable: usize, guard: usize) -> Result<*mut u8, i32> {
        let failed = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: a new reservation at an address of the system's choice touches nothing that exists.
        let low = unsafe { VirtualAlloc(core::ptr::null_mut(), guard + usable, MEM_RESERVE, PAGE_READWRITE) };
        if low.is_null() {
            return Err(failed());
        }
        // SAFETY: the upper part of the reservation just made.
        let base = unsafe { VirtualAlloc(low.wrapping_byte_add(guard), usable, MEM_COMMIT, PAGE_READWRITE) };
        if base.is_null() {
            let error = failed();
            // SAFETY: the reservation just made, which nobody else knows of.
            unsafe { VirtualFree(low, 0, MEM_RELEASE) };
            return Err(error);
        }
        Ok(base.cast())
    }

    /// Gives back what [`map`] made.
    ///
    /// # Safety
    /// `base` and `guard` are those of one call of [`map`], and nothing of it is used any more.
    pub(in super::super) unsafe fn unmap(base: *mut u8, _usable: usize, guard: usize) {
        // SAFETY: the address is that of the whole reservation, as `MEM_RELEASE` asks for.
        unsafe { VirtualFree(base.wrapping_sub(guard).cast(), 0, MEM_RELEASE) };
    }
}
