//! Strategies of making stacks, and the one the process uses where none is named.
//!
//! They nest: `Pooled<Painted<Guarded>>` keeps painted stacks for reuse, `Painted<Pooled<Guarded>>` paints them afresh
//! for each user.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};

use super::owned::{OwnedStack, StackSource};
use super::stack::{Stack, StackError};

mod guarded;
mod os;
mod painted;
mod pooled;

pub use guarded::Guarded;
pub use painted::Painted;
pub use pooled::Pooled;

/// How many bytes below the base of a guarded stack can't be accessed.
#[cfg(target_os = "linux")]
pub(super) fn guard_size() -> usize {
    os::page_size()
}

/// The size of a stack where none is named, in bytes. Only what is used of it takes memory.
pub const DEFAULT_SIZE: usize = 1 << 20;

/// What [`default_stack_source!`](crate::default_stack_source) named; null where it was not used.
static DEFAULT: AtomicPtr<&'static dyn StackSource> = AtomicPtr::new(std::ptr::null_mut());

/// The source that is used where none is named: that of [`default_stack_source!`](crate::default_stack_source), else
/// [`Guarded`].
pub fn default_source() -> &'static dyn StackSource {
    let named = DEFAULT.load(Ordering::Acquire);
    // SAFETY: it is null or was made from a `&'static` reference by `set_default_source`.
    unsafe { named.as_ref() }.copied().unwrap_or(&Guarded)
}

/// Called by the macro before `main`.
#[doc(hidden)]
pub fn set_default_source(source: &'static &'static dyn StackSource) {
    DEFAULT.store(std::ptr::from_ref(source).cast_mut(), Ordering::Release);
}

/// Names the source of all stacks of this process for which no other is named, as `#[global_allocator]` does for memory.
///
/// It belongs into the program's own crate, once: two of them in one program are an error at link time.
/// Attributes on the static may choose by build, so that debug builds get painted stacks, say.
///
/// ```
/// use stackscope::switch::{Guarded, Painted, Pooled, default_source};
///
/// stackscope::default_stack_source! {
///     #[cfg(debug_assertions)]
///     static STACKS: Painted<Pooled<Guarded>> = Painted::new(Pooled::new(Guarded, 64));
/// }
/// stackscope::default_stack_source! {
///     #[cfg(not(debug_assertions))]
///     static STACKS: Pooled<Guarded> = Pooled::new(Guarded, 64);
/// }
///
/// fn main() {
///     assert_eq!(default_source().name(), if cfg!(debug_assertions) { "painted" } else { "pooled" });
/// }
/// ```
#[macro_export]
macro_rules! default_stack_source {
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $value:expr;) => {
        $(#[$attribute])*
        $visibility static $name: $type = $value;

        $(#[$attribute])*
        const _: () = {
            // Its name makes a second one an error of the linker.
            #[unsafe(no_mangle)]
            static STACKSCOPE_DEFAULT_STACK_SOURCE: &'static dyn $crate::switch::StackSource = &$name;

            extern "C" fn register() {
                $crate::switch::set_default_source(&STACKSCOPE_DEFAULT_STACK_SOURCE);
            }

            // The list of functions that the loader calls before `main`.
            #[used]
            #[cfg_attr(windows, unsafe(link_section = ".CRT$XCU"))]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
            #[cfg_attr(not(any(windows, target_vendor = "apple")), unsafe(link_section = ".init_array"))]
            static REGISTER: extern "C" fn() = register;
        };
    };
}
