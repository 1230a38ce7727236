//! Each reason why the kernel refuses, caused for one of our threads: rights and filters are kept by thread.
//! That takes root; an ordinary user's run of these tests shows only that such a user can look at their own process.

#![allow(unsafe_code)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::*;
use crate::process::{Live, OpenError, StopError};

/// The user that owns nothing.
const NOBODY: u32 = 65534;

/// A program that waits, and is ended when this is dropped.
struct Waiting(Child);

impl Waiting {
    fn start(command: &mut Command) -> Waiting {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // Only after its `execve` it is that program, which then waits for its stdin.
        let program = |pid: u32| fs::read(format!("/proc/{pid}/comm")).unwrap();
        while program(child.id()) == fs::read("/proc/thread-self/comm").unwrap() || !is_asleep(child.id()) {
            thread::yield_now();
        }
        Waiting(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

fn is_asleep(pid: u32) -> bool {
    procfs::stat(&procfs::directory(pid as i32)).is_some_and(|stat| stat.state == b'S')
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs `look` on a thread of its own, after `give_up` took rights away from that thread.
fn on_thread_after<R: Send>(give_up: impl FnOnce() + Send, look: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let looking = thread::Builder::new().name("looking".into()).spawn_scoped(scope, move || {
            give_up();
            look()
        });
        looking.unwrap().join().unwrap()
    })
}

fn syscall(number: libc::c_long, arguments: [usize; 3]) {
    // SAFETY: the callers pass what the call takes, and pointers to values that live through it.
    let outcome = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], 0usize, 0usize) };
    assert_eq!(outcome, 0, "system call {number}: {}", std::io::Error::last_os_error());
}

/// Makes this thread, and no other, one of user nobody.
fn become_nobody() {
    let nobody = [NOBODY as usize; 3];
    syscall(libc::SYS_setgroups, [0; 3]);
    syscall(libc::SYS_setresgid, nobody);
    syscall(libc::SYS_setresuid, nobody);
}

/// Takes `CAP_SYS_PTRACE` from this thread (capget(2), version 3).
fn drop_ptrace_capability() {
    let header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    let arguments = |sets: &mut [u32; 6]| [header.as_ptr() as usize, sets.as_mut_ptr() as usize, 0];
    syscall(libc::SYS_capget, arguments(&mut sets));
    sets[0] &= !(1 << 19);
    sets[1] &= !(1 << 19);
    syscall(libc::SYS_capset, arguments(&mut sets));
}

/// Makes `ptrace` answer `EPERM` in this thread and those that it starts, as container engines do (seccomp(2)).
fn filter_ptrace() {
    const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let is_ptrace = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_ptrace as u32 };
    let answer = |k: u32| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut filter =
        [LOAD_NUMBER, is_ptrace, answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32), answer(libc::SECCOMP_RET_ALLOW)];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    syscall(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0]);
    syscall(libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER as usize, 0, &raw const program as usize]);
}

fn refusal(pid: i32) -> Refusal {
    match Live::open(pid) {
        Err(OpenError::NoPermission { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_ordinary_user_can_look_at_their_own_process_only() {
    let roots = Waiting::start(&mut Command::new("cat"));
    let stop = |pid: i32| Live::open(pid).map(|live| live.stop(Duration::from_secs(5)).unwrap().all_threads_seen());
    if !is_root() {
        assert!(stop(roots.pid()).unwrap());
        return;
    }
    let own = Waiting::start(Command::new("cat").uid(NOBODY).gid(NOBODY));
    let (own_seen, why) = on_thread_after(become_nobody, || (stop(own.pid()), refusal(roots.pid())));
    assert!(own_seen.unwrap());
    assert_eq!(why, Refusal::OtherUser { theirs: 0, ours: NOBODY });
    assert!(why.remedy(roots.pid()).contains("sudo "));
}

#[test]
fn a_program_that_protects_itself_is_told() {
    if !is_root() {
        return;
    }
    // A program whose file its user may not read is not shown to that user either.
    let path = std::env::temp_dir().join(format!("stackscope-unreadable-{}", std::process::id()));
    fs::copy("/bin/cat", &path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o111)).unwrap();
    let protected = Waiting::start(Command::new(&path).uid(NOBODY).gid(NOBODY));
    fs::remove_file(&path).unwrap();
    assert_eq!(on_thread_after(become_nobody, || refusal(protected.pid())), Refusal::NotDumpable);
}

#[test]
fn root_without_the_capability_is_told() {
    if !is_root() {
        return;
    }
    let roots = Waiting::start(&mut Command::new("cat"));
    let why = on_thread_after(drop_ptrace_capability, || refusal(roots.pid()));
    assert_eq!(why, Refusal::RootWithoutCapability);
    assert!(why.remedy(roots.pid()).contains("--cap-add=SYS_PTRACE"));
}

#[test]
fn a_filter_is_told() {
    let own = Waiting::start(&mut Command::new("cat"));
    let live = Live::open(own.pid()).unwrap();
    let (why, outcome) = on_thread_after(filter_ptrace, || {
        assert!(facts::ptrace_is_filtered());
        (refusal(own.pid()), live.stop(Duration::from_secs(5)).map(drop))
    });
    // It is reported before anything is read, and also if the filter came later.
    assert_eq!(why, Refusal::Seccomp);
    assert!(matches!(outcome, Err(StopError::NoPermission { why: Refusal::Seccomp, .. })), "{outcome:?}");
}

#[test]
fn each_reason_has_one_sentence_and_a_remedy() {
    let reasons = [
        Refusal::Yama(1),
        Refusal::Yama(2),
        Refusal::Yama(3),
        Refusal::OtherUser { theirs: 1, ours: 2 },
        Refusal::NotDumpable,
        Refusal::MoreCapabilities,
        Refusal::RootWithoutCapability,
        Refusal::Seccomp,
        Refusal::UserNamespace,
        Refusal::Hidden,
        Refusal::Unknown("lockdown,selinux".into()),
    ];
    for reason in reasons {
        assert!(!reason.to_string().is_empty() && !reason.to_string().contains('\n'));
        assert!(!reason.remedy(7).is_empty());
    }
    assert!(Refusal::Yama(1).remedy(7).contains("sudo sysctl kernel.yama.ptrace_scope=0"));
    assert!(Refusal::Yama(2).remedy(7).contains("sudo setcap cap_sys_ptrace+ep /"));
}
