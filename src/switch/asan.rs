//! Tells AddressSanitizer of each switch from one stack to another, with the feature `asan`; else nothing is left of this.
//!
//! Instrumented code marks the surroundings of its local variables in a *shadow* of the memory, and takes the marks back when
//! it returns. What unwinds does not return; so whoever throws has the runtime clear the shadow of the whole stack
//! (`__asan_handle_no_return`), which can be done only if it knows on which stack it is. Otherwise the marks of frames that
//! are gone stay, and the next use of their memory is reported.

#![allow(unsafe_code)]

pub(super) use fiber::{Left, Memory, arrive, leave};

#[cfg(feature = "asan")]
mod fiber {
    use core::ffi::c_void;
    use core::ptr;

    // `sanitizer/common_interface_defs.h`. Linked from the runtime, which the compiler adds with `-Zsanitizer=address`.
    unsafe extern "C" {
        fn __sanitizer_start_switch_fiber(saved: *mut *mut c_void, bottom: *const c_void, size: usize);
        fn __sanitizer_finish_switch_fiber(saved: *mut c_void, bottom: *mut *const c_void, size: *mut usize);
    }

    /// The low end and the size of a stack, as the runtime knows it.
    #[derive(Clone, Copy)]
    pub(crate) struct Memory(*const c_void, usize);

    impl Memory {
        pub(crate) const NONE: Memory = Memory(ptr::null(), 0);

        pub(crate) fn new(low: *mut u8, size: usize) -> Memory {
            Memory(low.cast(), size)
        }
    }

    /// What the runtime keeps for a stack that was left.
    pub(crate) struct Left(*mut c_void);

    impl Left {
        /// For a stack that is new.
        pub(crate) const NEW: Left = Left(ptr::null_mut());
    }

    /// The stack that runs is left for the one in `to`; for good if `returns` is false.
    pub(crate) fn leave(to: Memory, returns: bool) -> Left {
        let mut left = Left::NEW;
        let saved = if returns { &raw mut left.0 } else { ptr::null_mut() };
        // SAFETY: `saved` is null, for a stack that ends, or has room for a pointer.
        unsafe { __sanitizer_start_switch_fiber(saved, to.0, to.1) };
        left
    }

    /// A stack that was `left` goes on; returns the one from which it was switched to.
    pub(crate) fn arrive(left: Left) -> Memory {
        let mut from = Memory::NONE;
        // SAFETY: `left` is what the runtime gave for this stack, or null, for a new one; the rest has room for the answers.
        unsafe { __sanitizer_finish_switch_fiber(left.0, &raw mut from.0, &raw mut from.1) };
        from
    }
}

#[cfg(not(feature = "asan"))]
mod fiber {
    #[derive(Clone, Copy)]
    pub(crate) struct Memory;

    impl Memory {
        pub(crate) const NONE: Memory = Memory;

        #[inline(always)]
        pub(crate) fn new(_low: *mut u8, _size: usize) -> Memory {
            Memory
        }
    }

    pub(crate) struct Left;

    impl Left {
        pub(crate) const NEW: Left = Left;
    }

    #[inline(always)]
    pub(crate) fn leave(_to: Memory, _returns: bool) -> Left {
        Left
    }

    #[inline(always)]
    pub(crate) fn arrive(_left: Left) -> Memory {
        Memory
    }
}
