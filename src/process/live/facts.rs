//! What this machine and our own rights allow: plain values, for `doctor` and for error messages.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use super::pagemap::{self, PageScan};
use crate::process::auxv;
use crate::process::live::procfs::Status;

/// `CAP_SYS_PTRACE` in the kernel's `include/uapi/linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;

/// What can be looked at on this machine, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// `kernel.yama.ptrace_scope`; `None` if the kernel has no Yama.
    pub ptrace_scope: Option<u8>,
    /// Whether we have `CAP_SYS_PTRACE`.
    pub ptrace_capability: bool,
    /// Whether a seccomp filter forbids us the `ptrace` system call.
    pub ptrace_filtered: bool,
    /// Our effective user number.
    pub user: u32,
    /// Whether we live in a user namespace that is not the machine's first.
    pub inner_user_namespace: bool,
    /// How touched pages are found.
    pub page_scan: PageScan,
    /// `kernel.core_pattern`: where core files go. A leading `|` hands them to a program.
    pub core_pattern: Option<String>,
    /// Our soft limit for core files in bytes; `None` is no limit.
    pub core_limit: Option<u64>,
}

/// What the kernel puts on a stack for a signal, at most, on this machine: `AT_MINSIGSTKSZ` of the auxiliary vector
/// (sigaltstack(2)), in bytes; `None` where it does not say so.
pub fn signal_frame() -> Option<u64> {
    auxv::value(&auxv::read(Path::new("/proc/self")), auxv::AT_MINSIGSTKSZ)
}

impl Facts {
    /// Asks the kernel.
    pub fn gather() -> Facts {
        let own = Status::read(Path::new("/proc/thread-self")).ok();
        Facts {
            kernel: read_trimmed("/proc/sys/kernel/osrelease").unwrap_or_default(),
            ptrace_scope: ptrace_scope(),
            ptrace_capability: own.as_ref().and_then(|own| own.bits("CapEff")).is_some_and(has_ptrace_capability),
            ptrace_filtered: ptrace_is_filtered(),
            user: nix::unistd::geteuid().as_raw(),
            inner_user_namespace: inner_user_namespace(),
            page_scan: pagemap::own_page_scan(),
            core_pattern: read_trimmed("/proc/sys/kernel/core_pattern"),
            core_limit: core_limit(),
        }
    }
}

/// `kernel.yama.ptrace_scope`; `None` if the kernel has no Yama.
pub(super) fn ptrace_scope() -> Option<u8> {
    read_trimmed("/proc/sys/kernel/yama/ptrace_scope")?.parse().ok()
}

/// Whether a set of capabilities has `CAP_SYS_PTRACE`.
pub(super) fn has_ptrace_capability(set: u64) -> bool {
    set >> CAP_SYS_PTRACE & 1 == 1
}

/// Whether something other than the kernel's own rules forbids the `ptrace` system call.
///
/// Asked for a process that cannot exist, the call itself answers "no such process".
pub(super) fn ptrace_is_filtered() -> bool {
    // SAFETY: PTRACE_SEIZE of process 0, which no process has, touches no memory of ours.
    let outcome = unsafe { libc::ptrace(libc::PTRACE_SEIZE, 0, 0usize, 0usize) };
    outcome == -1 && io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// The machine's first user namespace maps all numbers to themselves.
fn inner_user_namespace() -> bool {
    let Some(map) = read_trimmed("/proc/self/uid_map") else { return false };
    map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}

fn core_limit() -> Option<u64> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).ok()?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}

fn read_trimmed(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let facts = Facts::gather();
        assert!(facts.kernel.contains('.'), "{facts:?}");
        assert!(!facts.ptrace_filtered);
        assert!(facts.core_pattern.is_some());
        assert_eq!(facts.user, nix::unistd::geteuid().as_raw());
    }
}
