//! Why the kernel does not let us look at a process, and what to do about it (ptrace(2), "Ptrace access mode
//! checking").

use std::fmt;
use std::fs;
use std::path::Path;

use super::{facts, procfs};
use crate::process::live::procfs::Status;

/// Why a process may not be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The security module Yama forbids it: the value of `kernel.yama.ptrace_scope`, 1 to 3.
    Yama(u8),
    /// The process belongs to another user.
    OtherUser {
        /// Its effective user number.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// It belongs to us but protects itself: a set-uid program, one with file capabilities, or one that called
    /// `prctl(PR_SET_DUMPABLE, 0)`.
    NotDumpable,
    /// It has capabilities that we do not have.
    MoreCapabilities,
    /// We are root, but without `CAP_SYS_PTRACE`, as in most containers.
    RootWithoutCapability,
    /// A seccomp filter forbids us the `ptrace` system call.
    Seccomp,
    /// It lives in a user namespace over which our capabilities have no power.
    UserNamespace,
    /// `/proc` is mounted with `hidepid` and does not show it to us.
    Hidden,
    /// The kernel refuses, and none of the known reasons holds; the active security modules.
    Unknown(String),
}

impl Refusal {
    /// Works out why the kernel refuses `pid`. You call this once it has refused.
    pub(in crate::process) fn of(pid: i32) -> Refusal {
        let own = Status::read(Path::new("/proc/thread-self")).ok();
        let directory = procfs::directory(pid);
        let Ok(theirs) = Status::read(&directory) else { return Refusal::Hidden };
        let capable = own.as_ref().and_then(|own| own.bits("CapEff")).is_some_and(facts::has_ptrace_capability);
        if facts::ptrace_is_filtered() {
            return Refusal::Seccomp;
        }
        if !capable && let Some(refusal) = own.as_ref().and_then(|own| without_capability(own, &theirs, &directory)) {
            return refusal;
        }
        match facts::ptrace_scope() {
            Some(3) => return Refusal::Yama(3),
            Some(scope @ 1..) if !capable => return Refusal::Yama(scope),
            _ => {}
        }
        if capable && other_user_namespace(&directory) {
            return Refusal::UserNamespace;
        }
        let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
        Refusal::Unknown(modules.trim().to_owned())
    }

    /// What to do about it, for process `pid`: an exact command if there is one.
    pub fn remedy(&self, pid: i32) -> String {
        self.remedy_or(format!("run as root, for example: sudo {} dump {pid}", ourselves()))
    }

    /// The same for a program that we were to launch, and that was not started.
    pub fn remedy_at_launch(&self) -> String {
        self.remedy_or("run stackscope as root".to_owned())
    }

    fn remedy_or(&self, as_root: String) -> String {
        let setcap = format!("sudo setcap cap_sys_ptrace+ep {}", ourselves());
        match self {
            Refusal::Yama(1) => format!("sudo sysctl kernel.yama.ptrace_scope=0, or {setcap}, or {as_root}"),
            Refusal::Yama(3) => {
                "set kernel.yama.ptrace_scope to at most 2 where it is set at boot (/etc/sysctl.d), and reboot".into()
            }
            Refusal::Yama(_) => format!("{setcap}, or {as_root}"),
            Refusal::OtherUser { .. } | Refusal::NotDumpable | Refusal::MoreCapabilities | Refusal::Hidden => as_root,
            Refusal::RootWithoutCapability => {
                "start the container with --cap-add=SYS_PTRACE, or run stackscope outside of it".into()
            }
            Refusal::Seccomp => {
                "start the container with --security-opt seccomp=unconfined (Docker), or run stackscope outside of it"
                    .into()
            }
            Refusal::UserNamespace => {
                "run stackscope in the user namespace of that process, or in a parent of it".into()
            }
            Refusal::Unknown(_) => as_root,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Yama(1) => f.write_str("kernel.yama.ptrace_scope is 1: only own children may be traced"),
            Refusal::Yama(3) => f.write_str("kernel.yama.ptrace_scope is 3: nobody may trace until the next boot"),
            Refusal::Yama(scope) => {
                write!(f, "kernel.yama.ptrace_scope is {scope}: only with CAP_SYS_PTRACE may a process be traced")
            }
            Refusal::OtherUser { theirs, ours } => write!(f, "it belongs to user {theirs}, and we are user {ours}"),
            Refusal::NotDumpable => f.write_str(
                "it protects itself from being looked at (a set-uid program, one with capabilities, or PR_SET_DUMPABLE 0)",
            ),
            Refusal::MoreCapabilities => f.write_str("it has capabilities that we do not have"),
            Refusal::RootWithoutCapability => f.write_str("we are root, but without CAP_SYS_PTRACE, as in a container"),
            Refusal::Seccomp => f.write_str("a seccomp filter forbids us the ptrace system call"),
            Refusal::UserNamespace => {
                f.write_str("it lives in a user namespace over which our capabilities have no power")
            }
            Refusal::Hidden => f.write_str("/proc does not show it to us (mount option hidepid)"),
            Refusal::Unknown(modules) if modules.is_empty() => f.write_str("the kernel gives no reason"),
            Refusal::Unknown(modules) => {
                write!(f, "the kernel gives no reason; active security modules: {modules}")
            }
        }
    }
}

fn ourselves() -> String {
    std::env::current_exe().map_or_else(|_| "stackscope".into(), |path| path.display().to_string())
}

/// The kernel's checks in its own order, for a caller without `CAP_SYS_PTRACE`: user and group, dumpable, capabilities.
fn without_capability(own: &Status, theirs: &Status, directory: &Path) -> Option<Refusal> {
    let (our_users, our_groups) = (own.users()?, own.groups()?);
    let (their_users, their_groups) = (theirs.users()?, theirs.groups()?);
    let same_user = their_users.iter().all(|user| *user == our_users[1]);
    let same_group = their_groups.iter().all(|group| *group == our_groups[1]);
    let is_root = our_users[1] == 0;
    if !same_user || !same_group {
        return Some(match is_root {
            true => Refusal::RootWithoutCapability,
            false => Refusal::OtherUser { theirs: their_users[1], ours: our_users[1] },
        });
    }
    if !is_dumpable(directory, their_users[1]) {
        return Some(if is_root { Refusal::RootWithoutCapability } else { Refusal::NotDumpable });
    }
    let more = theirs.bits("CapPrm")? & !own.bits("CapPrm")?;
    (more != 0).then_some(if is_root { Refusal::RootWithoutCapability } else { Refusal::MoreCapabilities })
}

/// The files in `/proc/PID` of a process that is not dumpable belong to root.
fn is_dumpable(directory: &Path, user: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    user == 0 || fs::metadata(directory.join("status")).is_ok_and(|status| status.uid() == user)
}

/// Whether it lives in a user namespace that is not ours; one that we may not even name counts as such.
fn other_user_namespace(directory: &Path) -> bool {
    fs::read_link(directory.join("ns/user")).ok() != fs::read_link("/proc/self/ns/user").ok()
}

#[cfg(test)]
#[path = "permission_tests.rs"]
mod tests;
