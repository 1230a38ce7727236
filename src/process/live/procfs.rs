//! What `/proc` says of a process in small text files (proc(5)).
//!
//! Nothing here judges; a line that is missing or malformed is `None`. The memory map has its own file,
//! [`super::maps`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::process) struct Stat {
    /// The state as one letter: `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`.
    pub state: u8,
    /// The process that would collect its exit status.
    pub parent: i32,
    /// The kernel's `PF_` flags of the task.
    flags: u64,
}

/// `PF_KTHREAD` in the kernel's `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

impl Stat {
    /// Whether it is a thread of the kernel, which has no memory of its own.
    pub(super) fn is_kernel_thread(self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Whether it has ended: a zombie, or about to vanish.
    pub(in crate::process) fn has_ended(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// `/proc/ID/stat` of a process or a thread.
pub(in crate::process) fn stat(directory: &Path) -> Option<Stat> {
    parse_stat(&fs::read(directory.join("stat")).ok()?)
}

/// The name in brackets may hold any byte, brackets too; the fields after its last bracket are numbers.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    Some(Stat { state, parent, flags })
}

/// How many bytes this machine has for programs without swapping (`MemAvailable` in `/proc/meminfo`, Linux 3.14).
pub(super) fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// `/proc/ID/status` of a process or a thread.
pub(in crate::process) struct Status(String);

impl Status {
    /// Reads it. It exists for every process and may be read by everybody.
    pub(in crate::process) fn read(directory: &Path) -> io::Result<Status> {
        let text = fs::read(directory.join("status"))?;
        Ok(Status(String::from_utf8_lossy(&text).into_owned()))
    }

    /// The text after `NAME:`.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ str| -> Option<usize> { line.strip_prefix(name)?.strip_prefix(':').map(str::len) };
        self.0.lines().find_map(|line| value(line).map(|length| line[line.len() - length..].trim()))
    }

    /// The field as a decimal number; of several, the first.
    pub(in crate::process) fn number(&self, name: &str) -> Option<i64> {
        self.field(name)?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// The process's number in its own pid namespace: the last of `NStgid` (Linux 4.1).
    pub(super) fn own_pid(&self) -> Option<u32> {
        self.field("NStgid")?.split_ascii_whitespace().next_back()?.parse().ok()
    }

    /// The field as a set of bits written in hexadecimal, as capabilities are.
    pub(in crate::process) fn bits(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.field(name)?, 16).ok()
    }

    /// Real, effective and saved user numbers.
    pub(super) fn users(&self) -> Option<[u32; 3]> {
        self.three("Uid")
    }

    /// Real, effective and saved group numbers.
    pub(super) fn groups(&self) -> Option<[u32; 3]> {
        self.three("Gid")
    }

    fn three(&self, name: &str) -> Option<[u32; 3]> {
        let mut words = self.field(name)?.split_ascii_whitespace().map(|word| word.parse().ok());
        Some([words.next()??, words.next()??, words.next()??])
    }
}

/// `/proc/ID`.
pub(in crate::process) fn directory(id: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

/// `/proc/PID/task/TID`.
pub(in crate::process) fn thread_directory(pid: i32, tid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}"))
}

/// The numbers of a process's threads that the kernel lists in one pass; ascending, so the leader is usually first.
///
/// A thread that ends while the kernel walks the list may cut the walk short: compare with [`thread_count`].
pub(in crate::process) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// How many threads a process has: the link count of its task directory is two more
/// (`proc_task_getattr` in the kernel's `fs/proc/base.c`).
pub(in crate::process) fn thread_count(pid: i32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}/task")).ok()?.nlink().checked_sub(2)
}

/// The file of the program that a process runs; `None` if it has ended or may not be looked at.
pub fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(directory(pid).join("exe")).ok()
}

/// A thread's name.
pub(in crate::process) fn thread_name(pid: i32, tid: i32) -> Option<String> {
    let name = fs::read(thread_directory(pid, tid).join("comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}

/// The words of the command line; empty if it can't be read or the program wiped it.
pub(in crate::process) fn command(directory: &Path) -> Vec<String> {
    let text = fs::read(directory.join("cmdline")).unwrap_or_default();
    words(&text)
}

/// Words that each end with a zero byte; zero bytes that only fill up the end are left out.
pub(super) fn words(text: &[u8]) -> Vec<String> {
    let end = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    text[..end].split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The soft limit of the main stack's size in bytes; `None` if there is none or it can't be read.
pub(in crate::process) fn stack_limit(directory: &Path) -> Option<u64> {
    let text = fs::read_to_string(directory.join("limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max stack size"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let text = b"77 (a) R 9 (b) S 12 77 77 0 -1 4194560 1 2 3";
        assert_eq!(parse_stat(text), Some(Stat { state: b'S', parent: 12, flags: 4_194_560 }));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"77 (cut) S 1"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = Status("Name:\tx\nTgid:\t7\nNStgid:\t7\t9\nUid:\t1\t2\t3\t4\nCapEff:\t0000000000080000\n".into());
        assert_eq!(status.number("Tgid"), Some(7));
        assert_eq!(status.own_pid(), Some(9));
        assert_eq!(status.users(), Some([1, 2, 3]));
        assert_eq!(status.bits("CapEff"), Some(1 << 19));
        assert_eq!(status.field("Pid"), None);
    }

    #[test]
    fn our_own_process_is_described() {
        let own = directory(std::process::id() as i32);
        assert!(!stat(&own).unwrap().is_kernel_thread());
        assert_eq!(Status::read(&own).unwrap().number("Tgid"), Some(i64::from(std::process::id())));
        assert!(threads(std::process::id() as i32).unwrap().contains(&(std::process::id() as i32)));
        assert!(thread_count(std::process::id() as i32).unwrap() >= 1);
        assert!(!command(&own).is_empty());
    }

    #[test]
    fn kernel_threads_are_told() {
        let stat = Stat { state: b'S', parent: 0, flags: 0x0020_8040 };
        assert!(stat.is_kernel_thread() && !stat.has_ended());
    }

    #[test]
    fn filling_at_the_end_is_no_word() {
        assert_eq!(words(b"a\0\0b\0\0\0"), ["a", "", "b"]);
        assert!(words(b"\0\0").is_empty());
    }
}
