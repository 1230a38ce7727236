//! x86_64 with the System V calling convention: Linux, the BSDs, macOS, and bare metal.
//!
//! This is the reference: the other files of this folder state only what differs.
//! The stack grows to lower addresses, which are drawn below.
//!
//! # The saved frame
//! A context that does not run is one pointer, `sp`, to what [`enter`] or [`leave`] pushed last:
//! ```text
//!            |  frames of whoever left |
//!            +-------------------------+
//!   sp + 16  | pc: where to go on      |
//!   sp +  8  | rbp                     | <- the link of a stack resumed from here points to this word
//!   sp       | rbx                     |
//!            +-------------------------+
//! ```
//! Only these three are saved by hand: the compiler reserves `rbx` and `rbp` for itself and refuses them as clobbers.
//! All other callee-saved registers are declared clobbered, so the compiler keeps those that it needs, and only those.
//! The words `rbp` and `pc` lie as a function's prologue leaves them, which is what a frame-pointer walker expects.
//! The control words of the x87 unit and of `mxcsr` belong to the thread; a switch does not touch them.
//!
//! # The root of a stack
//! [`init`] writes this at the top; names in brackets are those of the text that the layout comes from:
//! ```text
//!   top      +-------------------------+
//!   top -  8 | 0                       |  alignment
//!   top - 16 | entry                   |  the function to run
//!   top - 24 | resumed_by + 1          |  (trampoline 1)
//!   top - 32 | link                    | <- rbp in `start`; (caller frame) written by `enter` at each resume
//!            +-------------------------+
//!   top - 40 | pc  = start             |  (trampoline 2) ┐
//!   top - 48 | rbp = top - 32          |                 │ a saved frame: the first resume
//!   top - 56 | rbx = 0                 | <- sp           ┘ is like every other
//!            +-------------------------+
//! ```
//!
//! # What an unwinder sees
//! `start` calls `entry` with `rbp` pointing to the link, as if `resumed_by` had called it with a frame pointer:
//! its caller is `resumed_by`, and the caller's `rbp` is the link.
//! In `resumed_by`, which never runs, `rbp` therefore points into the resumer's saved frame, and the same rule,
//! `CFA = rbp + 16`, leads on to the resumer. No expression is needed, and a frame-pointer walker takes the same way.
//!
//! `start` is marked as a signal frame. Debuggers take a frame that lies below its callee for a corrupt stack, unless one
//! of the two is a signal frame; so the step from `start` to `resumed_by`, the only one that may go down, is exempt.
//! The mark also says that the caller's address is exact and not one past a call: the word above the link is that of
//! an instruction in `resumed_by`, and it has an instruction before it, so that a lookup of `pc - 1` finds it as well.
//! `resumed_by` itself has no mark, for the resumer did leave by a call.

#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};
use core::mem::{MaybeUninit, offset_of};

use super::Word;

/// What a stack pointer and both ends of a stack must be a multiple of, in bytes (System V ABI, 3.2.2).
pub(crate) const STACK_ALIGN: usize = 16;

/// What a context keeps on its stack while it does not run; the stack pointer is its address.
#[repr(C)]
struct SavedFrame {
    rbx: usize,
    rbp: usize,
    pc: usize,
}

/// The words at the high end of a stack.
#[repr(C)]
struct Root {
    /// Where the resumer's `rbp` and `pc` are, while this stack runs.
    link: usize,
    resumed_by: usize,
    entry: usize,
    zero: usize,
}

const ROOT: usize = size_of::<Root>();
const SAVED: usize = size_of::<SavedFrame>();
const _: () = assert!(ROOT.is_multiple_of(STACK_ALIGN), "`entry` is called with an aligned stack pointer");
const _: () = assert!(offset_of!(Root, resumed_by) == offset_of!(Root, link) + 8, "a frame-pointer walker's pair");
const _: () = assert!(offset_of!(SavedFrame, pc) == offset_of!(SavedFrame, rbp) + 8, "a frame-pointer walker's pair");

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
    unsafe { root.write(Root { link: 0, resumed_by: resumed_by as *const () as usize + 1, entry, zero: 0 }) };
    // SAFETY: as above.
    unsafe { saved.write(SavedFrame { rbx: 0, rbp: root.addr(), pc: start }) };
    saved.cast()
}

/// Leaves the current context for the one saved at `sp` on the stack that ends at `top`, and links that stack to here.
/// Comes back when somebody switches to the stack pointer that the other side was given, with their word, their stack
/// pointer, and the `top` that they gave to [`leave`]. A stack that was entered here and left with its own top brings
/// `top` back in a register, so that what lies there can be used before anything is read from this stack.
///
/// # Safety
/// `sp` was given by [`init`] or by a switch and nobody has resumed it since; `top` is what [`init`] was given for it.
#[inline(always)]
pub(crate) unsafe fn enter(word: Word, sp: *mut usize, top: *mut usize) -> (Word, *mut usize, *mut usize) {
    let mut back: Word = MaybeUninit::uninit();
    let (other, their_top): (*mut usize, *mut usize);
    // SAFETY: every register that the other side may have changed is an output or a clobber, but for rbx and rbp, which
    // the routine saves and the switch back here restores. The call keeps the rules of this function's own frame true.
    unsafe {
        asm!(
            "call {enter}",
            enter = sym enter_routine,
            inlateout("rdi") word => back,
            inlateout("rdx") sp => _,
            inlateout("rcx") top => their_top,
            lateout("rsi") other,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
    // A call would push an address that no `ret` takes again, and would spoil the processor's prediction of all returns
    // further out; so the routine is jumped to, with the address in a register.
    // SAFETY: as in `enter`. The jump changes nothing of this frame, and label 2 is where the switch back here lands.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "jmp {leave}",
            "2:",
            leave = sym leave_routine,
            inlateout("rdi") word => back,
            inlateout("rdx") sp => _,
            inlateout("rcx") top => their_top,
            lateout("rsi") other,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
    core::ptr::with_exposed_provenance_mut(link - offset_of!(SavedFrame, rbp))
}

/// On entry: rdi the word to hand over, rdx the saved frame to go to, rcx the top of its stack; called.
/// rdi and rcx arrive as they are.
///
/// Before `mov rsp, rdx` the rules describe the frame just saved, after it the frame about to be restored.
/// Both have one layout, so the same row is true on both sides of the switch.
#[unsafe(naked)]
unsafe extern "C" fn enter_routine() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        // The link points at the pair rbp, pc.
        "mov [rcx - {link}], rsp",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbx, 0",
        // The other side gets our stack pointer as its second value.
        "mov rsi, rsp",
        "mov rsp, rdx",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbx",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbp",
        // Not `ret`: the address that the processor expects to return to is that of our own caller, and the `ret` in
        // `leave_routine` will go there.
        "pop rdx",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_register rip, rdx",
        "jmp rdx",
        ".cfi_endproc",
        link = const ROOT - offset_of!(Root, link),
    )
}

/// On entry: rdi and rcx what to hand over, rdx the saved frame to go to, rax where to go on when somebody comes back;
/// jumped to. The comment on [`enter_routine`] holds here too.
#[unsafe(naked)]
unsafe extern "C" fn leave_routine() {
    naked_asm!(
        ".cfi_startproc simple",
        ".cfi_def_cfa rsp, 0",
        ".cfi_register rip, rax",
        "push rax",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rip, 0",
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbx, 0",
        "mov rsi, rsp",
        "mov rsp, rdx",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbx",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
    )
}

/// The first frame of a stack (trampoline 2). On entry: rdi and rsi what the resumer handed over, rbp the root,
/// rsp the same; the third argument for `entry` is the top of the stack.
#[unsafe(naked)]
unsafe extern "C" fn start() {
    naked_asm!(
        ".cfi_startproc simple",
        ".cfi_signal_frame",
        ".cfi_def_cfa rbp, 16",
        ".cfi_offset rbp, -16",
        ".cfi_offset rip, -8",
        "lea rdx, [rbp + {root}]",
        "call [rbp + {entry}]",
        "call {returned}",
        "ud2",
        ".cfi_endproc",
        root = const ROOT,
        entry = const offset_of!(Root, entry),
        returned = sym super::entry_returned,
    )
}

/// As [`start`], for a function that returns: what it returned is handed to the resumer.
///
/// The `ret` at the end answers the call in `enter`, as each return inside `entry` answered its own call: the
/// processor predicts them all. After `mov rsp, rdx` the frame is the resumer's saved one, without its `rbx`.
#[cfg(feature = "switch")]
#[unsafe(naked)]
unsafe extern "C" fn start_returning() {
    naked_asm!(
        ".cfi_startproc simple",
        ".cfi_signal_frame",
        ".cfi_def_cfa rbp, 16",
        ".cfi_offset rbp, -16",
        ".cfi_offset rip, -8",
        "lea rdx, [rbp + {root}]",
        "call [rbp + {entry}]",
        "mov rdi, rax",
        "xor esi, esi",
        "lea rcx, [rbp + {root}]",
        "mov rdx, [rbp]",
        "mov rbx, [rdx - 8]",
        "mov rsp, rdx",
        ".cfi_endproc",
        ".cfi_startproc",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
        root = const ROOT,
        entry = const offset_of!(Root, entry),
    )
}

/// The frame between a stack and its resumer (trampoline 1). It never runs: it only has rules.
/// rbp is the link, so the resumer's saved frame lies at rbp - 8, and its stack pointer will be rbp + 16.
#[unsafe(naked)]
unsafe extern "C" fn resumed_by() {
    naked_asm!(
        ".cfi_startproc simple",
        ".cfi_def_cfa rbp, 16",
        ".cfi_offset rip, -8",
        ".cfi_offset rbp, -16",
        ".cfi_offset rbx, -24",
        // The resumer's compiler took these for clobbered, and what they held is gone.
        ".cfi_undefined r12",
        ".cfi_undefined r13",
        ".cfi_undefined r14",
        ".cfi_undefined r15",
        "nop",
        "ud2",
        ".cfi_endproc",
    )
}

/// Calls `function(data)` with the stack pointer at `top`; afterwards the stack is again as it was.
///
/// The top of the new stack gets the same pair as the root of a coroutine's, so panics unwind through it:
/// ```text
///   top -  8 | called_from + 1 |
///   top - 16 | link            | <- rbp; points to the caller's rbp and return address on the old stack
/// ```
/// The two instructions between which the stack is another one have their own unwind entry, marked as a signal frame.
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
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        "lea rax, [rip + {called_from} + 1]",
        "mov [rdx - 8], rax",
        "mov [rdx - 16], rsp",
        "lea rbp, [rdx - 16]",
        "mov rsp, rbp",
        ".cfi_endproc",
        ".cfi_startproc simple",
        ".cfi_signal_frame",
        ".cfi_def_cfa rbp, 16",
        ".cfi_offset rbp, -16",
        ".cfi_offset rip, -8",
        "call rsi",
        "mov rsp, [rbp]",
        ".cfi_endproc",
        ".cfi_startproc",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
        called_from = sym called_from,
    )
}

/// The frame between [`on_stack`]'s two stacks; like [`resumed_by`], but no register is lost.
#[unsafe(naked)]
unsafe extern "C" fn called_from() {
    naked_asm!(
        ".cfi_startproc simple",
        ".cfi_def_cfa rbp, 16",
        ".cfi_offset rip, -8",
        ".cfi_offset rbp, -16",
        "nop",
        "ud2",
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
    naked_asm!(
        ".cfi_startproc",
        "mov rsp, rdx",
        ".cfi_undefined rip",
        "xor ebp, ebp",
        "call rsi",
        "ud2",
        ".cfi_endproc",
    )
}

/// The stack pointer of the calling function.
#[inline(always)]
pub(crate) fn stack_pointer() -> *mut u8 {
    let sp: *mut u8;
    // SAFETY: reads one register.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}
