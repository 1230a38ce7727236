//! What the notes of a core file say: the threads, the process, and which file lies where.
//!
//! The layouts are those of the kernel's `include/uapi/linux/elf.h` and `include/linux/elfcore.h` (`struct
//! elf_prstatus`, `struct elf_prpsinfo`) for 64-bit CPUs; gdb's `gcore` writes the same, in another order and at the
//! file's end.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::addr::{Addr, AddrRange};
use crate::arch::Arch;
use crate::process::fault::Fault;
use crate::process::{Thread, auxv};

pub(super) const NT_PRSTATUS: u32 = 1;
pub(super) const NT_PRPSINFO: u32 = 3;
pub(super) const NT_AUXV: u32 = 6;
pub(super) const NT_SIGINFO: u32 = 0x5349_4749;
pub(super) const NT_FILE: u32 = 0x4649_4c45;
const NT_ARM_TLS: u32 = 0x401;

/// Where `pr_cursig`, `pr_pid` and `pr_reg` stand in `struct elf_prstatus`.
pub(super) const PRSTATUS_SIGNAL: usize = 12;
pub(super) const PRSTATUS_TID: usize = 32;
pub(super) const PRSTATUS_REGISTERS: usize = 112;

/// What was found in the notes.
#[derive(Default)]
pub(super) struct Notes {
    /// The threads in the order of the file: the kernel writes the one that ended the process first.
    pub threads: Vec<Thread>,
    /// Number and command line of the process.
    pub process: Option<(i32, Vec<String>)>,
    /// Files and where they were mapped.
    pub files: Vec<FileRange>,
    /// The details of the signal that ended the process.
    pub fault: Option<Fault>,
    /// The same as `siginfo_t`.
    pub siginfo: Option<Vec<u8>>,
    /// The auxiliary vector.
    pub auxv: Vec<u8>,
    /// Where the kernel's own code was mapped.
    pub vdso: Option<Addr>,
    /// An address at the top of the main stack: that of the program's file name.
    pub main_stack: Option<Addr>,
    /// Whether there was a table of files at all.
    pub has_file_table: bool,
    /// Whether the notes end in the middle of one.
    pub cut: bool,
    /// Whether the notes are those of a dump of a whole machine.
    pub is_of_kernel: bool,
}

/// A file and where it was mapped.
pub(super) struct FileRange {
    pub range: AddrRange,
    /// Where in the file the mapping starts, in bytes.
    pub offset: u64,
    pub path: PathBuf,
}

/// Reads all notes in `data`, the part of a `PT_NOTE` segment that the file has.
///
/// Whatever the notes say, the time and memory that this takes are bounded by the length of `data`.
pub(super) fn parse(data: &[u8], arch: &'static Arch) -> Notes {
    let mut notes = Notes::default();
    let mut rest = data;
    while !rest.is_empty() {
        match take_note(&mut rest) {
            Some(note) => notes.add(&note, arch),
            None => {
                notes.cut = true;
                break;
            }
        }
    }
    notes
}

/// The owner of the note that describes a kernel to those who read its dumps (`VMCOREINFO_NOTE_NAME` in the kernel's
/// `include/linux/crash_core.h`).
const VMCOREINFO: &[u8] = b"VMCOREINFO\0";

struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
    content: &'a [u8],
}

/// Takes a note from the front: the lengths of its name and its content, its kind, then both, each padded to four
/// bytes. `None` if it is not whole, or if only zeros are left.
fn take_note<'a>(data: &mut &'a [u8]) -> Option<Note<'a>> {
    const HEADER: usize = 12;
    let header = data.get(..HEADER)?;
    let word = |at: usize| u32_at(header, at);
    let (name, content, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
    if name == 0 && content == 0 && kind == 0 {
        return None;
    }
    let start = HEADER.checked_add(name.checked_next_multiple_of(4)?)?;
    let end = start.checked_add(content)?;
    let owner = data.get(HEADER..HEADER.checked_add(name)?)?;
    let note = Note { owner, kind, content: data.get(start..end)? };
    // The last one may lack its padding.
    let next = end.checked_next_multiple_of(4)?.min(data.len());
    *data = &data[next..];
    Some(note)
}

impl Notes {
    fn add(&mut self, note: &Note<'_>, arch: &'static Arch) {
        match note.kind {
            _ if note.owner == VMCOREINFO => self.is_of_kernel = true,
            NT_PRSTATUS => self.add_thread(note.content, arch),
            NT_PRPSINFO if self.process.is_none() => self.process = process(note.content),
            NT_SIGINFO if self.siginfo.is_none() => {
                self.fault = Fault::read(note.content);
                self.siginfo = Some(note.content.to_vec());
            }
            NT_AUXV => self.add_auxiliary_vector(note.content),
            NT_FILE => {
                self.has_file_table = true;
                self.files = files(note.content).unwrap_or_default();
            }
            // It belongs to the thread whose status came last.
            NT_ARM_TLS if arch.thread_pointer_word.is_none() => {
                if let Some(thread) = self.threads.last_mut() {
                    thread.thread_pointer = u64_at(note.content, 0);
                }
            }
            _ => {}
        }
    }

    fn add_thread(&mut self, content: &[u8], arch: &'static Arch) {
        let block = content.get(PRSTATUS_REGISTERS..).filter(|block| block.len() >= arch.prstatus.len() * 8);
        let (Some(tid), Some(block)) = (u32_at(content, PRSTATUS_TID), block) else {
            self.cut = true;
            return;
        };
        // The kernel writes the signal that ended the process for every thread; it is the first one's only.
        let signal = content.get(PRSTATUS_SIGNAL..).and_then(|bytes| Some(u16::from_le_bytes(*bytes.first_chunk()?)));
        let signal = signal.filter(|signal| *signal != 0 && self.threads.is_empty()).map(i32::from);
        self.threads.push(Thread {
            tid: tid as i32,
            name: None,
            registers: Ok(arch.registers_from_prstatus(block)),
            thread_pointer: arch.thread_pointer_word.and_then(|word| u64_at(block, word * 8)),
            signal,
        });
    }

    fn add_auxiliary_vector(&mut self, content: &[u8]) {
        self.auxv = content.to_vec();
        self.vdso = auxv::value(content, auxv::AT_SYSINFO_EHDR).map(Addr);
        self.main_stack = auxv::value(content, auxv::AT_EXECFN).map(Addr);
    }
}

/// `struct elf_prpsinfo`: the number stands at 24; the name, 16 bytes, at 40; the first 80 bytes of the command line at
/// 56.
fn process(content: &[u8]) -> Option<(i32, Vec<String>)> {
    let pid = u32_at(content, 24)? as i32;
    let text = |range: std::ops::Range<usize>| {
        let bytes = content.get(range).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
    };
    let (name, arguments) = (text(40..56), text(56..136));
    let line = if arguments.is_empty() { name } else { arguments };
    Some((pid, line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()))
}

/// A count, the unit of offsets in bytes, that many triples of start, end and offset, then that many names that end
/// with a zero.
fn files(content: &[u8]) -> Option<Vec<FileRange>> {
    const HEADER: usize = 16;
    const TRIPLE: usize = 24;
    let (count, unit) = (usize::try_from(u64_at(content, 0)?).ok()?, u64_at(content, 8)?);
    let names_start = count.checked_mul(TRIPLE)?.checked_add(HEADER)?;
    let mut names = content.get(names_start..)?.split(|byte| *byte == 0);
    let triples = content[HEADER..names_start].as_chunks::<TRIPLE>().0;
    let file = |triple: &[u8; TRIPLE]| {
        let (low, high) = (Addr(u64_at(triple, 0)?), Addr(u64_at(triple, 8)?));
        let offset = u64_at(triple, 16)?.saturating_mul(unit);
        let path = PathBuf::from(OsStr::from_bytes(names.next()?));
        Some(FileRange { range: AddrRange::new(low, high), offset, path })
    };
    let mut files: Vec<FileRange> = triples.iter().map_while(file).collect();
    files.sort_by_key(|file| file.range.low);
    // Ranges that overlap are made up, and would be visited again for each segment.
    let mut end = Addr(0);
    files.retain(|file| {
        file.range.low >= end && {
            end = file.range.high;
            !file.range.is_empty()
        }
    });
    Some(files)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::X86_64;

    fn note(kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = [5u32.to_le_bytes(), (content.len() as u32).to_le_bytes(), kind.to_le_bytes()].concat();
        bytes.extend_from_slice(b"CORE\0\0\0\0");
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn status(tid: u32) -> Vec<u8> {
        let mut content = vec![0; 336];
        content[PRSTATUS_SIGNAL] = 11;
        content[PRSTATUS_TID..][..4].copy_from_slice(&tid.to_le_bytes());
        content[PRSTATUS_REGISTERS + 16 * 8..][..8].copy_from_slice(&0x1234u64.to_le_bytes());
        content[PRSTATUS_REGISTERS + 21 * 8..][..8].copy_from_slice(&0x77u64.to_le_bytes());
        content
    }

    #[test]
    fn threads_have_registers_and_the_first_one_the_signal() {
        let data = [note(NT_PRSTATUS, &status(7)), note(99, b"odd"), note(NT_PRSTATUS, &status(8))].concat();
        let notes = parse(&data, &X86_64);
        assert!(!notes.cut);
        let seen: Vec<_> =
            notes.threads.iter().map(|thread| (thread.tid, thread.signal, thread.thread_pointer)).collect();
        assert_eq!(seen, [(7, Some(11), Some(0x77)), (8, None, Some(0x77))]);
        assert_eq!(notes.threads[1].registers.as_ref().unwrap().get(X86_64.pc), Some(0x1234));
    }

    #[test]
    fn notes_cut_anywhere_keep_what_came_before() {
        let data = [note(NT_PRSTATUS, &status(7)), note(NT_PRSTATUS, &status(8))].concat();
        let first = data.len() / 2;
        for length in 0..data.len() {
            let notes = parse(&data[..length], &X86_64);
            assert_eq!(notes.threads.len(), usize::from(length >= first), "{length}");
            assert_eq!(notes.cut, length != 0 && length != first, "{length}");
        }
    }

    #[test]
    fn lengths_that_lie_are_no_harm() {
        let huge = [u32::MAX.to_le_bytes(), u32::MAX.to_le_bytes(), NT_FILE.to_le_bytes()].concat();
        assert!(parse(&huge, &X86_64).cut);
        assert!(parse(&[0; 4096], &X86_64).cut);
        let mut table = u64::MAX.to_le_bytes().to_vec();
        table.extend_from_slice(&[0xff; 100]);
        assert!(parse(&note(NT_FILE, &table), &X86_64).files.is_empty());
    }

    #[test]
    fn files_are_named_with_their_offsets_in_bytes() {
        let words = [2u64, 4096, 0x5000, 0x6000, 1, 0x1000, 0x3000, 0];
        let mut table: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        table.extend_from_slice(b"/bin/b\0/bin/a\0");
        let files = parse(&note(NT_FILE, &table), &X86_64).files;
        let seen: Vec<_> =
            files.iter().map(|file| (file.range.low.0, file.offset, file.path.to_str().unwrap())).collect();
        assert_eq!(seen, [(0x1000, 0, "/bin/a"), (0x5000, 4096, "/bin/b")]);
    }

    #[test]
    fn a_fault_has_its_address_only_from_the_kernel() {
        let siginfo = |signal: u32, code: i32| {
            let words = [signal.to_le_bytes(), [0; 4], code.to_le_bytes(), [0; 4]].concat();
            parse(&note(NT_SIGINFO, &[words, 0x10u64.to_le_bytes().to_vec()].concat()), &X86_64).fault.unwrap()
        };
        assert_eq!(siginfo(11, 1), Fault { signal: 11, code: 1, address: Some(Addr(0x10)) });
        assert_eq!(siginfo(11, 0).address, None);
        assert_eq!(siginfo(6, -6).address, None);
    }
}
