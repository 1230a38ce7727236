//! Every difference between what we show and what a peer shows, and why it stands.

use super::Row;

/// Whom we compare with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    EuStack,
    Gdb,
}

/// What differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Difference {
    /// One frame, named otherwise.
    Names,
    /// So many frames that only they show.
    OnlyTheirs(usize),
    /// They end here.
    TheyEnd,
    /// From here on they are lost.
    Elsewhere,
}

/// Functions of glibc that end in a jump to another. Such a call leaves no frame; gdb makes one up out of the call sites
/// that the debug information of `libc6-dbg` lists (`TAILCALL_FRAME`).
const TAIL_CALLS: [&str; 4] =
    ["futex_abstimed_wait_cancelable64", "do_futex_wait", "new_sem_wait", "pthread_kill_internal"];

/// Why the next frames differ, if that is known.
pub(crate) fn explanation(program: &str, peer: Peer, ours: &[Row], theirs: &[Row]) -> Option<Difference> {
    let our = ours.first().map(|row| row.function.as_str());
    let their = theirs.first().map(|row| row.function.as_str());
    match (peer, program, our, their) {
        // gdb names a frame whose rules are marked as a signal handler's by that, as corosensei marks its trampolines.
        (Peer::Gdb, _, Some(_), Some("signal handler called")) => Some(Difference::Names),
        (Peer::Gdb, _, _, Some(their)) if TAIL_CALLS.contains(&their) => Some(Difference::OnlyTheirs(1)),
        // The last frame's return address, planted by hand, is the first byte of a routine: eu-stack looks up the byte
        // before it; it and gdb go on from there to words that are no frames.
        (Peer::EuStack, "ucontext", Some("start_context"), Some("")) => Some(Difference::Names),
        // The context that waits in swapcontext for the running one is found in memory, where they do not look.
        (_, "ucontext", Some("main"), None | Some("")) => Some(Difference::TheyEnd),
        (_, "ucontext" | "goroutines", Some("start_context") | None, Some("")) => Some(Difference::Elsewhere),
        // eu-stack finds no symbols in a file that has no path, and reads no perf maps.
        (Peer::EuStack, "memfd", Some(_), Some("")) | (Peer::EuStack, "jit", Some("jitted_call"), Some("")) => {
            Some(Difference::Names)
        }
        // gdb takes a chain that goes down for corrupt where the routine that leaves the stack is not marked as a signal
        // handler's, as psm's is not.
        (Peer::Gdb, "stacker_nested", Some("rust_psm_on_stack" | "on_stack"), None) => Some(Difference::TheyEnd),
        // gdb has no rules for code made at run time and guesses otherwise than by the frame pointer, which is right here.
        (Peer::Gdb, "jit", Some("jitted_call" | "main"), Some("")) => Some(Difference::Elsewhere),
        // gdb guesses by the code of musl's routines, and loses its way one frame on.
        (Peer::Gdb, "threads_musl", Some(_), Some("" | "read" | "pause")) => Some(Difference::Elsewhere),
        // musl has no rules for the routine that makes system calls; we go on by a scan and mark that frame.
        (_, "threads_musl", Some(_), None) => Some(Difference::TheyEnd),
        _ => None,
    }
}
