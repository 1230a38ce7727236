//! Running a function on another stack.
//!
//! These are `psm`'s four functions, with its contract. Debug builds check what can be checked and name what was broken.
//! A backtrace or a panic inside [`on_stack`]'s callback goes on into the caller; inside [`replace_stack`]'s it ends.

#![allow(unsafe_code)]

use core::mem::{ManuallyDrop, MaybeUninit};

use super::arch;
use super::stack::Stack;

/// Which way stacks grow when functions are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackDirection {
    /// To higher addresses.
    Ascending,
    /// To lower addresses: the first frame lies at the high end.
    Descending,
}

/// Which way stacks grow on this platform: [`StackDirection::Descending`] on all that are supported.
pub const fn stack_direction() -> StackDirection {
    StackDirection::Descending
}

/// The current stack pointer, an address in the calling function's frame or just below it.
#[inline(always)]
pub fn stack_pointer() -> *mut u8 {
    arch::stack_pointer()
}

/// Runs `callback` on the stack memory `base..base + size` and gives back what it returned.
///
/// `base` is the low address whichever way stacks grow.
/// A panic in `callback` unwinds to the caller, as if the two stacks were one.
///
/// # Panics
/// In debug builds, where the contract on `base` and `size` is broken, with a message that says how.
///
/// # Safety
/// - `base` and `base + size` are multiples of 16 and `size` is at most `isize::MAX`.
/// - The memory is valid for reads and writes, nothing else uses it until `on_stack` returns, and it is large enough for
///   all that `callback` calls. A guard page at its low end, or some other means, stops what would overflow it.
#[inline(always)]
#[track_caller]
pub unsafe fn on_stack<R, F: FnOnce() -> R>(base: *mut u8, size: usize, callback: F) -> R {
    /// What crosses over: the callback on the way there, its result on the way back. Both lie at its address.
    #[repr(C)]
    union Parcel<F, R> {
        callback: ManuallyDrop<F>,
        result: ManuallyDrop<R>,
    }

    unsafe extern "C-unwind" fn run<F: FnOnce() -> R, R>(data: *mut u8) {
        // SAFETY: `data` is the parcel below, which still holds the callback; it is taken out once.
        let callback = unsafe { data.cast::<F>().read() };
        let result = crossing::pack(callback);
        // SAFETY: the parcel outlives this call, and the callback is no longer in it.
        unsafe { data.cast::<crossing::Packed<R>>().write(result) };
    }

    if cfg!(debug_assertions) {
        Stack::check(base, size);
    }
    let callback = ManuallyDrop::new(callback);
    let mut parcel = MaybeUninit::new(Parcel::<F, crossing::Packed<R>> { callback });
    // SAFETY: the caller promises a stack of its own at `base`, aligned at its end; `run` gets the parcel it expects.
    unsafe { arch::on_stack(parcel.as_mut_ptr().cast(), run::<F, R>, base.wrapping_add(size), base) };
    // SAFETY: `run` has returned, so the parcel holds the result.
    crossing::unpack(unsafe { parcel.as_ptr().cast::<crossing::Packed<R>>().read() })
}

/// How a result comes back: as it is where a panic unwinds from one stack to the other by itself.
#[cfg(not(all(windows, feature = "switch")))]
mod crossing {
    pub(super) type Packed<R> = R;

    #[inline(always)]
    pub(super) fn pack<R>(callback: impl FnOnce() -> R) -> R {
        callback()
    }

    #[inline(always)]
    pub(super) fn unpack<R>(result: R) -> R {
        result
    }
}

/// Windows does not unwind from one stack to another, so a panic is carried over as a value.
#[cfg(all(windows, feature = "switch"))]
mod crossing {
    pub(super) type Packed<R> = std::thread::Result<R>;

    pub(super) fn pack<R>(callback: impl FnOnce() -> R) -> Packed<R> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback))
    }

    pub(super) fn unpack<R>(result: Packed<R>) -> R {
        result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }
}

/// Runs `callback` on the stack memory `base..base + size`, never to come back.
///
/// The old stack stays as it is; it must not be freed while `callback` uses anything on it.
/// Backtraces end at the new stack's first frame.
/// A `callback` that returns or unwinds all the same ends the process with a message.
///
/// # Panics
/// In debug builds, where the contract on `base` and `size` is broken, with a message that says how.
///
/// # Safety
/// As for [`on_stack`]; the memory is never to be used for anything else again, and `callback` neither returns nor
/// unwinds.
#[track_caller]
pub unsafe fn replace_stack<F: FnOnce()>(base: *mut u8, size: usize, callback: F) -> ! {
    unsafe extern "C" fn run<F: FnOnce()>(data: *mut u8) -> ! {
        // SAFETY: `data` is the callback below, on the old stack, which nobody will drop.
        let callback = unsafe { data.cast::<F>().read() };
        // Without the standard library a panic that comes out of here ends the program too, with the runtime's message.
        #[cfg(feature = "switch")]
        let callback = || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback)).is_err() {
                super::fatal("the callback of `replace_stack` unwound: there is nothing to unwind to");
            }
        };
        callback();
        super::fatal("the callback of `replace_stack` returned: there is nothing to return to")
    }

    if cfg!(debug_assertions) {
        Stack::check(base, size);
    }
    let mut callback = ManuallyDrop::new(callback);
    // SAFETY: as in `on_stack`; `run` does not return.
    unsafe { arch::replace_stack((&raw mut callback).cast(), run::<F>, base.wrapping_add(size), base) }
}

#[cfg(all(test, feature = "switch"))]
mod tests {
    use super::*;

    /// A stack for one test, aligned.
    fn memory() -> Vec<u128> {
        vec![0; 4096]
    }

    fn on<R>(memory: &mut [u128], callback: impl FnOnce() -> R) -> R {
        // SAFETY: the memory is aligned to 16, of a length that is a multiple of it, and borrowed for the call.
        unsafe { on_stack(memory.as_mut_ptr().cast(), size_of_val(memory), callback) }
    }

    #[test]
    fn the_callback_runs_on_the_given_memory_and_its_result_comes_back() {
        let mut memory = memory();
        let range = memory.as_ptr_range();
        let moved = String::from("moved in");
        let (sp, text) = on(&mut memory, move || (stack_pointer(), moved + " and out"));
        assert!(range.contains(&sp.cast_const().cast()));
        assert_eq!(text, "moved in and out");
        assert!(!range.contains(&stack_pointer().cast_const().cast()));
    }

    #[test]
    fn large_results_and_nested_calls() {
        let (mut outer, mut inner) = (memory(), memory());
        let result = on(&mut outer, || on(&mut inner, || [7_u64; 100]));
        assert_eq!(result, [7; 100]);
    }

    #[test]
    fn a_panic_unwinds_to_the_caller_and_drops_what_it_passes() {
        let dropped = std::cell::Cell::new(0);
        struct Counts<'a>(&'a std::cell::Cell<u32>);
        impl Drop for Counts<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut memory = memory();
            let _outside = Counts(&dropped);
            on(&mut memory, || {
                let _inside = Counts(&dropped);
                std::panic::resume_unwind(Box::new("thrown"));
            })
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"thrown"));
        assert_eq!(dropped.get(), 2);
    }

    /// Calls `on_stack` with a broken contract; it must not get as far as using the memory.
    fn broken(base: usize, size: usize) {
        // SAFETY: none: the debug check is what is tested, and it panics before the memory is touched.
        unsafe { on_stack(core::ptr::without_provenance_mut(base), size, || ()) }
    }

    #[test]
    #[should_panic(expected = "the stack's base is null")]
    fn a_null_base_is_named() {
        broken(0, 4096);
    }

    #[test]
    #[should_panic(expected = "base 0x1008 is not a multiple of 16")]
    fn an_unaligned_base_is_named() {
        broken(0x1008, 4096);
    }

    #[test]
    #[should_panic(expected = "size 4095 is not a multiple of 16")]
    fn an_unaligned_size_is_named() {
        broken(0x1000, 4095);
    }

    #[test]
    #[should_panic(expected = "is more than isize::MAX")]
    fn a_size_beyond_isize_is_named() {
        broken(0x1000, isize::MAX as usize + 1);
    }

    #[test]
    #[should_panic(expected = "wraps around")]
    fn a_range_beyond_the_address_space_is_named() {
        broken(usize::MAX - 0xfff, 8192);
    }

    #[test]
    fn stacks_grow_down() {
        #[inline(never)]
        fn deeper(outer: *mut u8) -> StackDirection {
            let here = 0_u8;
            let below = (&raw const here).addr() < outer.addr();
            if below { StackDirection::Descending } else { StackDirection::Ascending }
        }
        let mut here = 0_u8;
        assert_eq!(deeper(&raw mut here), stack_direction());
    }
}
