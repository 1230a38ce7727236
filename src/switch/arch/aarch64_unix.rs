//! aarch64 with the AAPCS64 calling convention: Linux, macOS, and bare metal.
//!
//! As `x86_64_unix`, but for these differences:
//! - A call leaves its return address in `x30`, so [`enter`] and [`leave`] reach their routine with the address where
//!   to go on in the same register, and the routines differ only in the link and in the last instruction.
//! - The compiler reserves `x19` and `x29`. The saved frame is:
//! ```text
//!   sp + 24  | 0                       |  alignment
//!   sp + 16  | x19                     |
//!   sp +  8  | pc                      |
//!   sp       | x29                     | <- the link points to the saved frame itself
//! ```
//! - The root is:
//! ```text
//!   top -  8 | 0                       |  alignment
//!   top - 16 | entry                   |
//!   top - 24 | resumed_by + 4          |
//!   top - 32 | link                    | <- x29 in `start`
//!            +-------------------------+
//!   top - 40 | 0, x19                  |  a saved frame: x29 = top - 32, pc = start
//!   top - 64 |                         | <- sp
//! ```
//! - In `resumed_by` the resumer's stack pointer is the link + 32.
//!
//! Return addresses are not signed (no `paciasp`), and no landing pad (`bti`) is needed unless a program is linked as
//! fully protected, which Rust's standard library is not.

#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};
use core::mem::{MaybeUninit, offset_of};

use super::Word;

/// What the stack pointer and both ends of a stack must be a multiple of, in bytes (AAPCS64, 6.4.5.1).
pub(crate) const STACK_ALIGN: usize = 16;

/// What a context keeps on its stack while it does not run; the stack pointer is its address.
#[repr(C)]
struct SavedFrame {
    x29: usize,
    pc: usize,
    x19: usize,
    zero: usize,
}

/// The words at the high end of a stack.
#[repr(C)]
struct Root {
    /// Where the resumer's `x29` and `pc` are, while this stack runs.
    link: usize,
    resumed_by: usize,
    entry: usize,
    zero: usize,
}

const ROOT: usize = size_of::<Root>();
const SAVED: usize = size_of::<SavedFrame>();
const _: () = assert!(ROOT.is_multiple_of(STACK_ALIGN) && SAVED.is_multiple_of(STACK_ALIGN));
const _: () = assert!(offset_of!(SavedFrame, x29) == 0 && offset_of!(SavedFrame, pc) == 8, "`stp x29, x30, [sp]`");

/// The bytes that [`init`] writes below the high end of a stack.
pub(crate) const ROOT_SIZE: usize = ROOT + SAVED;

/// Writes the root of a stack below `top`, so that the first [`enter`] calls `entry`; gives the stack pointer for it.
/// Only Windows needs to know the stack's base.
///
/// # Safety
/// The [`ROOT_SIZE`] bytes below `top` can be written and are not used for anything else; `top` is a multiple of
/// [`STACK_ALIGN`].
pub(crate) unsafe fn init(_base: *mut u8, top: *mut usize, entry: usize) -> *mut usize {
    // SAFETY: the caller's promises are those asked for.
    unsafe { write_root(top, entry, start as *const () as usize) }
}

/// As [`init`], for an `entry` that returns a word: the resumer gets it, with a null for the context to come back to.
///
/// # Safety
/// As for [`init`].
#[cfg(feature = "switch")]
#[inline]
pub(crate) unsafe fn init_returning(_base: *mut u8, top: *mut usize, entry: usize) -> *mut usize {
    // SAFETY: the caller's promises are those asked for.
    unsafe { write_root(top, entry, start_returning as *const () as usize) }
}

/// Writes the root, and the saved frame that the first resume takes up in `start`.
///
/// # Safety
/// As for [`init`].
#[inline]
unsafe fn write_root(top: *mut usize, entry: usize, start: usize) -> *mut usize {
    let root = top.wrapping_byte_sub(ROOT).cast::<Root>();
    let saved = root.wrapping_byte_sub(SAVED).cast::<SavedFrame>();
    // SAFETY: the caller promises that these bytes below `top` are ours to write; both structures are of words only.
    unsafe { root.write(Root { link: 0, resumed_by: resumed_by as *const () as usize + 4, entry, zero: 0 }) };
    // SAFETY: as above.
    unsafe { saved.write(SavedFrame { x29: root.addr(), pc: start, x19: 0, zero: 0 }) };
    saved.cast()
}

/// Leaves the current context for the one saved at `sp` on the stack that ends at `top`, and links that stack to here.
/// Comes back when somebody switches to the stack pointer that the other side was given, with their word, their stack
/// pointer, and the `top` that they gave to [`leave`].
///
/// # Safety
/// `sp` was given by [`init`] or by a switch and nobody has resumed it since; `top` is what [`init`] was given for it.
#[inline(always)]
pub(crate) unsafe fn enter(word: Word, sp: *mut usize, top: *mut usize) -> (Word, *mut usize, *mut usize) {
    let mut back: Word = MaybeUninit::uninit();
    let (other, their_top): (*mut usize, *mut usize);
    // SAFETY: every register that the other side may have changed is an output or a clobber, but for x19 and x29, which
    // the routine saves and the switch back here restores.
    unsafe {
        asm!(
            "bl {enter}",
            enter = sym enter_routine,
            inlateout("x0") word => back,
            lateout("x1") other,
            inlateout("x2") sp => _,
            inlateout("x3") top => their_top,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _,
            lateout("x24") _, lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            lateout("v8") _, lateout("v9") _, lateout("v10") _, lateout("v11") _,
            lateout("v12") _, lateout("v13") _, lateout("v14") _, lateout("v15") _,
            clobber_abi("C"),
        );
    }
    (back, other, their_top)
}

/// Leaves the current context for the one saved at `sp`, by which it was entered; hands it `top` besides the word.
/// Comes back as [`enter`] does; whoever comes by that function brings the top of this stack.
///
/// # Safety
/// `sp` was given by [`init`] or by a switch, and nobody has resumed it since.
#[inline(always)]
pub(crate) unsafe fn leave(word: Word, sp: *mut usize, top: *mut usize) -> (Word, *mut usize, *mut usize) {
    let mut back: Word = MaybeUninit::uninit();
    let (other, their_top): (*mut usize, *mut usize);
    // Not `bl`, for the sake of the processor's prediction of returns.
    // SAFETY: as in `enter`; label 2 is where the switch back here lands.
    unsafe {
        asm!(
            "adr x30, 2f",
            "b {leave}",
            "2:",
            leave = sym leave_routine,
            inlateout("x0") word => back,
            lateout("x1") other,
            inlateout("x2") sp => _,
            inlateout("x3") top => their_top,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _,
            lateout("x24") _, lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            lateout("v8") _, lateout("v9") _, lateout("v10") _, lateout("v11") _,
            lateout("v12") _, lateout("v13") _, lateout("v14") _, lateout("v15") _,
            clobber_abi("C"),
        );
    }
    (back, other, their_top)
}

/// The saved context of whoever resumed the stack that ends at `top`, found through its link.
///
/// # Safety
/// [`init`] was given this `top`, and [`enter`] has been there.
#[cfg(feature = "switch")]
#[inline(always)]
pub(crate) unsafe fn resumer(top: *mut usize) -> *mut usize {
    let link = top.wrapping_byte_sub(ROOT - offset_of!(Root, link));
    // SAFETY: the root lies below `top`, as the caller says. Volatile: the link is written by assembly.
    let link = unsafe { link.read_volatile() };
    core::ptr::with_exposed_provenance_mut(link)
}

/// On entry: x0 the word to hand over, x2 the saved frame to go to, x3 the top of its stack, x30 where to go on.
/// x0 and x3 arrive as they are.
///
/// Before `mov sp, x2` the rules describe the frame just saved, after it the frame about to be restored: one row.
#[unsafe(naked)]
unsafe extern "C" fn enter_routine() {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-{saved}]!",
        ".cfi_adjust_cfa_offset {saved}",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "str x19, [sp, #{x19}]",
        ".cfi_rel_offset x19, {x19}",
        // The other side gets our stack pointer as its second value.
        "mov x1, sp",
        "stur x1, [x3, #-{link}]",
        "mov sp, x2",
        "ldr x19, [sp, #{x19}]",
        ".cfi_restore x19",
        "ldp x29, x30, [sp], #{saved}",
        ".cfi_adjust_cfa_offset -{saved}",
        ".cfi_restore x29",
        ".cfi_restore x30",
        // Not `ret`: the address that the processor expects to return to is that of our own caller, and the `ret` in
        // `leave_routine` will go there.
        "br x30",
        ".cfi_endproc",
        saved = const SAVED,
        x19 = const offset_of!(SavedFrame, x19),
        link = const ROOT - offset_of!(Root, link),
    )
}

/// On entry: x0 and x3 what to hand over, x2 the saved frame to go to, x30 where to go on when somebody comes back.
/// The comment on [`enter_routine`] holds here too.
#[unsafe(naked)]
unsafe extern "C" fn leave_routine() {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-{saved}]!",
        ".cfi_adjust_cfa_offset {saved}",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "str x19, [sp, #{x19}]",
        ".cfi_rel_offset x19, {x19}",
        "mov x1, sp",
        "mov sp, x2",
        "ldr x19, [sp, #{x19}]",
        ".cfi_restore x19",
        "ldp x29, x30, [sp], #{saved}",
        ".cfi_adjust_cfa_offset -{saved}",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        saved = const SAVED,
        x19 = const offset_of!(SavedFrame, x19),
    )
}

/// The first frame of a stack (trampoline 2). On entry: x0 and x1 what the resumer handed over, x29 the root, sp the
/// same; the third argument for `entry` is the top of the stack.
#[unsafe(naked)]
unsafe extern "C" fn start() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        ".cfi_def_cfa x29, 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "add x2, x29, #{root}",
        "ldr x9, [x29, #{entry}]",
        "blr x9",
        "bl {returned}",
        "brk #1",
        ".cfi_endproc",
        root = const ROOT,
        entry = const offset_of!(Root, entry),
        returned = sym super::entry_returned,
    )
}

/// As [`start`], for a function that returns: what it returned is handed to the resumer.
#[cfg(feature = "switch")]
#[unsafe(naked)]
unsafe extern "C" fn start_returning() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        ".cfi_def_cfa x29, 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "add x2, x29, #{root}",
        "ldr x9, [x29, #{entry}]",
        "blr x9",
        "mov x1, xzr",
        "add x3, x29, #{root}",
        "ldr x2, [x29]",
        "ldr x19, [x2, #{x19}]",
        "mov sp, x2",
        ".cfi_endproc",
        ".cfi_startproc",
        ".cfi_adjust_cfa_offset {saved}",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "ldp x29, x30, [sp], #{saved}",
        ".cfi_adjust_cfa_offset -{saved}",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        root = const ROOT,
        entry = const offset_of!(Root, entry),
        saved = const SAVED,
        x19 = const offset_of!(SavedFrame, x19),
    )
}

/// The frame between a stack and its resumer (trampoline 1). It never runs: it only has rules.
/// x29 is the link, the address of the resumer's saved frame.
#[unsafe(naked)]
unsafe extern "C" fn resumed_by() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_def_cfa x29, {saved}",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        ".cfi_rel_offset x19, {x19}",
        // The resumer's compiler took these for clobbered, and what they held is gone.
        ".cfi_undefined x20",
        ".cfi_undefined x21",
        ".cfi_undefined x22",
        ".cfi_undefined x23",
        ".cfi_undefined x24",
        ".cfi_undefined x25",
        ".cfi_undefined x26",
        ".cfi_undefined x27",
        ".cfi_undefined x28",
        "nop",
        "brk #1",
        ".cfi_endproc",
        saved = const SAVED,
        x19 = const offset_of!(SavedFrame, x19),
    )
}

/// Calls `function(data)` with the stack pointer at `top`; afterwards the stack is again as it was.
///
/// The top of the new stack gets the pair link and `called_from + 4`, as on x86_64.
///
/// # Safety
/// The memory below `top`, a multiple of [`STACK_ALIGN`], is a stack that nobody uses and that is large enough for
/// `function`.
#[unsafe(naked)]
pub(crate) unsafe extern "C-unwind" fn on_stack(
    data: *mut u8,
    function: unsafe extern "C-unwind" fn(*mut u8),
    top: *mut u8,
    base: *mut u8,
) {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_adjust_cfa_offset 16",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "mov x9, sp",
        #[cfg(not(target_vendor = "apple"))]
        "adrp x10, {called_from}",
        #[cfg(not(target_vendor = "apple"))]
        "add x10, x10, :lo12:{called_from}",
        #[cfg(target_vendor = "apple")]
        "adrp x10, {called_from}@PAGE",
        #[cfg(target_vendor = "apple")]
        "add x10, x10, {called_from}@PAGEOFF",
        "add x10, x10, #4",
        "stp x9, x10, [x2, #-16]!",
        "mov x29, x2",
        "mov sp, x2",
        ".cfi_endproc",
        ".cfi_startproc",
        ".cfi_signal_frame",
        ".cfi_def_cfa x29, 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "blr x1",
        "ldr x9, [x29]",
        "mov sp, x9",
        ".cfi_endproc",
        ".cfi_startproc",
        ".cfi_adjust_cfa_offset 16",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "ldp x29, x30, [sp], #16",
        ".cfi_adjust_cfa_offset -16",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        called_from = sym called_from,
    )
}

/// The frame between [`on_stack`]'s two stacks; like [`resumed_by`], but no register is lost.
#[unsafe(naked)]
unsafe extern "C" fn called_from() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_def_cfa x29, 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "nop",
        "brk #1",
        ".cfi_endproc",
    )
}

/// Calls `function(data)` with the stack pointer at `top` and forgets where it came from: backtraces end here.
///
/// # Safety
/// As for [`on_stack`]; and `function` never returns.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn replace_stack(
    data: *mut u8,
    function: unsafe extern "C" fn(*mut u8) -> !,
    top: *mut u8,
    base: *mut u8,
) -> ! {
    naked_asm!(".cfi_startproc", "mov sp, x2", ".cfi_undefined x30", "mov x29, xzr", "blr x1", "brk #1", ".cfi_endproc",)
}

/// The stack pointer of the calling function.
#[inline(always)]
pub(crate) fn stack_pointer() -> *mut u8 {
    let sp: *mut u8;
    // SAFETY: reads one register.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}
