//! x86_64 with Windows' calling convention.
//!
//! As `x86_64_unix`, but for these differences:
//! - Windows keeps the bounds of the current stack in the thread information block: where it begins, down to where its
//!   pages are there, and where its reservation ends. Each switch saves and restores them. The saved frame is:
//! ```text
//!   sp + 48  | pc                      |
//!   sp + 40  | rbp                     | <- the link
//!   sp + 32  | rbx                     |
//!   sp + 24  | stack base              |
//!   sp + 16  | stack limit             |
//!   sp +  8  | deallocation stack      |
//!   sp       | exception list          |
//! ```
//! - The exception list is not used by 64-bit Windows, but Wine keeps handlers in it that lie on the thread's own stack.
//!   It takes each that lies below the current frame for a callee's and would end its search there, which was seen as
//!   panics that failed on stacks above the thread's. So a new stack starts with an empty list.
//! - A called function may use 32 bytes above its return address, which `start` leaves free.
//! - More registers are preserved by calls (rsi, rdi, xmm6 to xmm15), so more are clobbered by a switch.
//! - The unwind information is that of Windows (SEH). It describes the frames that others are called from, and is
//!   exact in prologues only as far as its codes reach; there is no mark like that of a signal frame, and none is needed.
//! - Exceptions do not cross stacks: the system checks each frame against the bounds of the current stack. So panics are
//!   caught on the stack where they happen and raised again on the other.
//!
//! A fiber of Windows' own must not be switched to from a stack made here.

#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};
use core::mem::{MaybeUninit, offset_of};

use super::Word;

/// What a stack pointer and both ends of a stack must be a multiple of, in bytes.
pub(crate) const STACK_ALIGN: usize = 16;

/// Offsets in the thread information block, which gs points to (`NT_TIB`, and `TEB` for the last).
const EXCEPTION_LIST: usize = 0x00;
const STACK_BASE: usize = 0x08;
const STACK_LIMIT: usize = 0x10;
const DEALLOCATION_STACK: usize = 0x1478;

/// The end of an exception list: -1, which fits an immediate operand.
const EMPTY: isize = -1;

/// What a context keeps on its stack while it does not run; the stack pointer is its address.
#[repr(C)]
struct SavedFrame {
    exception_list: usize,
    deallocation_stack: usize,
    stack_limit: usize,
    stack_base: usize,
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
const _: () = assert!(offset_of!(SavedFrame, rbp) == offset_of!(SavedFrame, rbx) + 8, "as `resumed_by` says");

/// The bytes that [`init`] writes below the high end of a stack.
pub(crate) const ROOT_SIZE: usize = ROOT + SAVED;

/// Writes the root of the stack `base..top`, so that the first [`enter`] calls `entry`; gives the stack pointer for it.
///
/// # Safety
/// The [`ROOT_SIZE`] bytes below `top` can be written and are not used for anything else; `top` is a multiple of
/// [`STACK_ALIGN`].
pub(crate) unsafe fn init(base: *mut u8, top: *mut usize, entry: usize) -> *mut usize {
    // SAFETY: the caller's promises are those asked for.
    unsafe { write_root(base, top, entry, start as *const () as usize) }
}

/// As [`init`], for an `entry` that returns a word: the resumer gets it, with a null for the context to come back to.
///
/// # Safety
/// As for [`init`].
#[cfg(feature = "switch")]
#[inline]
pub(crate) unsafe fn init_returning(base: *mut u8, top: *mut usize, entry: usize) -> *mut usize {
    // SAFETY: the caller's promises are those asked for.
    unsafe { write_root(base, top, entry, start_returning as *const () as usize) }
}

/// Writes the root, and the saved frame that the first resume takes up in `start`.
///
/// # Safety
/// As for [`init`].
#[inline]
unsafe fn write_root(base: *mut u8, top: *mut usize, entry: usize, start: usize) -> *mut usize {
    let root = top.wrapping_byte_sub(ROOT).cast::<Root>();
    let saved = root.wrapping_byte_sub(SAVED).cast::<SavedFrame>();
    // SAFETY: the caller promises that these bytes below `top` are ours to write; both structures are of words only.
    unsafe { root.write(Root { link: 0, resumed_by: resumed_by as *const () as usize + 1, entry, zero: 0 }) };
    let frame = SavedFrame {
        exception_list: EMPTY.cast_unsigned(),
        deallocation_stack: base.addr(),
        stack_limit: base.addr(),
        stack_base: top.addr(),
        rbx: 0,
        rbp: root.addr(),
        pc: start,
    };
    // SAFETY: as above.
    unsafe { saved.write(frame) };
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
    // SAFETY: every register that the other side may have changed is an output or a clobber, but for rbx and rbp, which
    // the routine saves and the switch back here restores.
    unsafe {
        asm!(
            "call {enter}",
            enter = sym enter_routine,
            inlateout("rcx") word => back,
            lateout("rdx") other,
            inlateout("r8") top => their_top,
            inlateout("r9") sp => _,
            lateout("rsi") _, lateout("rdi") _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            lateout("xmm6") _, lateout("xmm7") _, lateout("xmm8") _, lateout("xmm9") _, lateout("xmm10") _,
            lateout("xmm11") _, lateout("xmm12") _, lateout("xmm13") _, lateout("xmm14") _, lateout("xmm15") _,
            clobber_abi("win64"),
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
    // SAFETY: as in `enter`; label 2 is where the switch back here lands.
    unsafe {
        asm!(
            "lea rax, [rip + 2f]",
            "jmp {leave}",
            "2:",
            leave = sym leave_routine,
            inlateout("rcx") word => back,
            lateout("rdx") other,
            inlateout("r8") top => their_top,
            inlateout("r9") sp => _,
            lateout("rsi") _, lateout("rdi") _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            lateout("xmm6") _, lateout("xmm7") _, lateout("xmm8") _, lateout("xmm9") _, lateout("xmm10") _,
            lateout("xmm11") _, lateout("xmm12") _, lateout("xmm13") _, lateout("xmm14") _, lateout("xmm15") _,
            clobber_abi("win64"),
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

/// On entry: rcx the word to hand over, r9 the saved frame to go to, r8 the top of its stack; called.
/// rcx and r8 arrive as they are.
#[unsafe(naked)]
unsafe extern "C" fn enter_routine() {
    naked_asm!(
        ".seh_proc {name}",
        "push rbp",
        ".seh_pushreg rbp",
        "mov [r8 - {link}], rsp",
        "push rbx",
        ".seh_pushreg rbx",
        "push qword ptr gs:[{base}]",
        ".seh_stackalloc 8",
        "push qword ptr gs:[{limit}]",
        ".seh_stackalloc 8",
        "push qword ptr gs:[{deallocation}]",
        ".seh_stackalloc 8",
        "push qword ptr gs:[{list}]",
        ".seh_stackalloc 8",
        ".seh_endprologue",
        "mov rdx, rsp",
        "mov rsp, r9",
        "pop qword ptr gs:[{list}]",
        "pop qword ptr gs:[{deallocation}]",
        "pop qword ptr gs:[{limit}]",
        "pop qword ptr gs:[{base}]",
        "pop rbx",
        "pop rbp",
        "pop r9",
        "jmp r9",
        ".seh_endproc",
        name = sym enter_routine,
        link = const ROOT - offset_of!(Root, link),
        list = const EXCEPTION_LIST,
        base = const STACK_BASE,
        limit = const STACK_LIMIT,
        deallocation = const DEALLOCATION_STACK,
    )
}

/// On entry: rcx and r8 what to hand over, r9 the saved frame to go to, rax where to go on when somebody comes back;
/// jumped to. Its own codes hold once the return address is pushed.
#[unsafe(naked)]
unsafe extern "C" fn leave_routine() {
    naked_asm!(
        ".seh_proc {name}",
        "push rax",
        "push rbp",
        ".seh_pushreg rbp",
        "push rbx",
        ".seh_pushreg rbx",
        "push qword ptr gs:[{base}]",
        ".seh_stackalloc 8",
        "push qword ptr gs:[{limit}]",
        ".seh_stackalloc 8",
        "push qword ptr gs:[{deallocation}]",
        ".seh_stackalloc 8",
        "push qword ptr gs:[{list}]",
        ".seh_stackalloc 8",
        ".seh_endprologue",
        "mov rdx, rsp",
        "mov rsp, r9",
        "pop qword ptr gs:[{list}]",
        "pop qword ptr gs:[{deallocation}]",
        "pop qword ptr gs:[{limit}]",
        "pop qword ptr gs:[{base}]",
        "pop rbx",
        "pop rbp",
        "ret",
        ".seh_endproc",
        name = sym leave_routine,
        list = const EXCEPTION_LIST,
        base = const STACK_BASE,
        limit = const STACK_LIMIT,
        deallocation = const DEALLOCATION_STACK,
    )
}

/// The first frame of a stack (trampoline 2). On entry: rcx and rdx what the resumer handed over, rbp the root, rsp the
/// same; the third argument for `entry` is the top of the stack.
#[unsafe(naked)]
unsafe extern "C" fn start() {
    naked_asm!(
        ".seh_proc {name}",
        ".seh_pushreg rbp",
        ".seh_setframe rbp, 0",
        ".seh_endprologue",
        "sub rsp, 32",
        "lea r8, [rbp + {root}]",
        "call [rbp + {entry}]",
        "call {returned}",
        "ud2",
        ".seh_endproc",
        name = sym start,
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
        ".seh_proc {name}",
        ".seh_pushreg rbp",
        ".seh_setframe rbp, 0",
        ".seh_endprologue",
        "sub rsp, 32",
        "lea r8, [rbp + {root}]",
        "call [rbp + {entry}]",
        "mov rcx, rax",
        "xor edx, edx",
        "lea r8, [rbp + {root}]",
        "mov r9, [rbp]",
        "lea rsp, [r9 - {rbp}]",
        "pop qword ptr gs:[{list}]",
        "pop qword ptr gs:[{deallocation}]",
        "pop qword ptr gs:[{limit}]",
        "pop qword ptr gs:[{base}]",
        "pop rbx",
        "pop rbp",
        "ret",
        ".seh_endproc",
        name = sym start_returning,
        root = const ROOT,
        entry = const offset_of!(Root, entry),
        rbp = const offset_of!(SavedFrame, rbp),
        list = const EXCEPTION_LIST,
        base = const STACK_BASE,
        limit = const STACK_LIMIT,
        deallocation = const DEALLOCATION_STACK,
    )
}

/// The frame between a stack and its resumer (trampoline 1). It never runs: it only has codes.
/// rbp is the link: rbx was saved 8 bytes below it.
#[unsafe(naked)]
unsafe extern "C" fn resumed_by() {
    naked_asm!(
        ".seh_proc {name}",
        ".seh_pushreg rbp",
        ".seh_stackalloc 16",
        ".seh_savereg rbx, 8",
        ".seh_setframe rbp, 16",
        ".seh_endprologue",
        "nop",
        "ud2",
        ".seh_endproc",
        name = sym resumed_by,
    )
}

/// Calls `function(data)` on the stack `base..top`; afterwards the stack is again as it was.
///
/// # Safety
/// The memory is a stack that nobody uses and that is large enough for `function`, which does not unwind; `top` is a
/// multiple of [`STACK_ALIGN`].
#[unsafe(naked)]
pub(crate) unsafe extern "C-unwind" fn on_stack(
    data: *mut u8,
    function: unsafe extern "C-unwind" fn(*mut u8),
    top: *mut u8,
    base: *mut u8,
) {
    naked_asm!(
        ".seh_proc {name}",
        "push rbp",
        ".seh_pushreg rbp",
        "push qword ptr gs:[{base}]",
        "push qword ptr gs:[{limit}]",
        "push qword ptr gs:[{deallocation}]",
        "push qword ptr gs:[{list}]",
        "lea rax, [rip + {called_from}]",
        "inc rax",
        "mov [r8 - 8], rax",
        "lea rax, [rsp + 32]",
        "mov [r8 - 16], rax",
        "lea rbp, [r8 - 16]",
        ".seh_setframe rbp, 0",
        ".seh_endprologue",
        "mov qword ptr gs:[{list}], {empty}",
        "mov gs:[{base}], r8",
        "mov gs:[{limit}], r9",
        "mov gs:[{deallocation}], r9",
        "lea rsp, [rbp - 32]",
        "call rdx",
        "mov rax, [rbp]",
        "lea rsp, [rax - 32]",
        "pop qword ptr gs:[{list}]",
        "pop qword ptr gs:[{deallocation}]",
        "pop qword ptr gs:[{limit}]",
        "pop qword ptr gs:[{base}]",
        "pop rbp",
        "ret",
        ".seh_endproc",
        name = sym on_stack,
        empty = const EMPTY,
        called_from = sym called_from,
        list = const EXCEPTION_LIST,
        base = const STACK_BASE,
        limit = const STACK_LIMIT,
        deallocation = const DEALLOCATION_STACK,
    )
}

/// The frame between [`on_stack`]'s two stacks; like [`resumed_by`], but rbx is where it was.
#[unsafe(naked)]
unsafe extern "C" fn called_from() {
    naked_asm!(
        ".seh_proc {name}",
        ".seh_pushreg rbp",
        ".seh_setframe rbp, 0",
        ".seh_endprologue",
        "nop",
        "ud2",
        ".seh_endproc",
        name = sym called_from,
    )
}

/// Calls `function(data)` on the stack `base..top` and forgets where it came from: backtraces end here.
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
        ".seh_proc {name}",
        "mov qword ptr gs:[{list}], {empty}",
        "mov gs:[{base}], r8",
        "mov gs:[{limit}], r9",
        "mov gs:[{deallocation}], r9",
        "mov rsp, r8",
        "push 0",
        "sub rsp, 40",
        ".seh_stackalloc 40",
        ".seh_endprologue",
        "xor ebp, ebp",
        "call rdx",
        "ud2",
        ".seh_endproc",
        name = sym replace_stack,
        empty = const EMPTY,
        list = const EXCEPTION_LIST,
        base = const STACK_BASE,
        limit = const STACK_LIMIT,
        deallocation = const DEALLOCATION_STACK,
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
