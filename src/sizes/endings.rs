//! Functions that end the program or begin an unwinding, by their names.
//!
//! What they need counts apart: it is used once, when something has gone wrong, and would otherwise hide what all else
//! needs, as nearly every function of a Rust program may panic. Code alone does not tell them from a loop that a program
//! runs for ever, so only what is listed here counts as one.

/// Whole names.
const NAMES: [&[u8]; 21] = [
    b"abort",
    b"__stack_chk_fail",
    b"__fortify_fail",
    b"__chk_fail",
    b"__assert_fail",
    b"__assert_perror_fail",
    b"__assert",
    b"__libc_fatal",
    b"__libc_message",
    b"__malloc_assert",
    b"malloc_printerr",
    b"__cxa_throw",
    b"__cxa_rethrow",
    b"__cxa_pure_virtual",
    b"__cxa_bad_cast",
    b"__cxa_throw_bad_array_new_length",
    b"__clang_call_terminate",
    b"_Unwind_Resume",
    b"_Unwind_RaiseException",
    b"_Unwind_Resume_or_Rethrow",
    b"rust_begin_unwind",
];

/// Parts of the linker's names of functions in Rust's and C++'s standard libraries, in both of Rust's schemes.
const PARTS: [&[u8]; 19] = [
    b"4core9panicking",
    b"9panicking11begin_panic",
    b"9panicking19begin_panic_handler",
    b"9panicking20rust_panic_with_hook",
    b"9panicking10rust_panic",
    b"9panicking18rust_panic_without",
    b"17rust_begin_unwind",
    b"4core6option13expect_failed",
    b"4core6option13unwrap_failed",
    b"4core6result13unwrap_failed",
    b"4core4cell22panic_already_borrowed",
    b"4core4cell30panic_already_mutably_borrowed",
    b"16slice_index_fail",
    b"16slice_error_fail",
    b"18handle_alloc_error",
    b"17capacity_overflow",
    b"7raw_vec12handle_error",
    b"7process5abort",
    b"_ZSt9terminatev",
];

/// Whether the function that the linker calls `name` ends the program or begins an unwinding.
pub(super) fn is_one(name: &[u8]) -> bool {
    let name = name.split(|byte| *byte == b'@').next().unwrap_or(name);
    let is_part = |part: &&[u8]| memchr::memmem::find(name, part).is_some();
    NAMES.contains(&name)
        || name.starts_with(b"_ZSt") && is_part(&&b"__throw_"[..])
        || is_mangled(name) && PARTS.iter().any(is_part)
}

fn is_mangled(name: &[u8]) -> bool {
    name.starts_with(b"_ZN") || name.starts_with(b"_R") || name.starts_with(b"_ZSt")
}
