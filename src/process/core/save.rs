//! Writes a core file (core(5)): what debuggers read, from whatever contexts and memory the caller has.
//!
//! From threads with their registers, the memory map, and the memory that is to be in it, it makes a file
//! of the layout that the kernel writes (`fs/binfmt_elf.c`), with one `PT_LOAD` for each mapping. What no piece of the
//! memory covers is a hole in the file: it takes no room on the disk, and reads as zeros.
//! Nothing here decides which contexts there are.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;

use crate::addr::{Addr, AddrRange, PAGE};
use crate::arch::Arch;
use crate::mapping::Mapping;
use crate::memory::Slices;
use crate::process::Process;
use crate::process::core::notes::{
    NT_AUXV, NT_FILE, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO, PRSTATUS_REGISTERS, PRSTATUS_SIGNAL, PRSTATUS_TID,
};
use crate::registers::Registers;

/// The number of the first thread that is made up for a context without one. The kernel's own stay below
/// `PID_MAX_LIMIT`, 4,194,304.
pub const FIRST_MADE_UP_TID: i32 = 10_000_000;

/// Sizes of the structures of the ELF specification, for 64-bit files.
const FILE_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;

/// More program headers than this are counted in the first section header (`PN_XNUM`, elf(5)).
const MOST_HEADERS: usize = 0xffff;

/// Memory is written in parts of at most this many bytes; the progress is reported after each.
const PART: usize = 8 << 20;

/// What a core file is to hold.
#[derive(Debug)]
pub struct CoreContent<'c> {
    /// The CPU.
    pub arch: &'static Arch,
    /// Which process it was.
    pub process: &'c Process,
    /// Its threads; debuggers show the first one first.
    pub threads: Vec<CoreThread>,
    /// Its memory map, sorted by address.
    pub mappings: &'c [Mapping],
    /// The auxiliary vector as the kernel passed it to the program.
    pub auxv: &'c [u8],
    /// The signal that ended it, as `siginfo_t`.
    pub siginfo: Option<&'c [u8]>,
    /// The memory to be kept.
    pub memory: Slices<'c>,
}

/// A thread of a core file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreThread {
    /// Its number.
    pub tid: i32,
    /// Its registers; those that are not known are written as 0.
    pub registers: Registers,
    /// Its thread pointer, if it has one.
    pub thread_pointer: Option<u64>,
    /// The signal that ended the process in it.
    pub signal: Option<i32>,
}

/// A mapping's place in the file.
struct Load<'m> {
    mapping: &'m Mapping,
    offset: u64,
    /// How many bytes from the mapping's start are in the file.
    held: u64,
}

/// Writes the core file; `progress` gets the bytes of memory written so far, and the bytes in all.
///
/// # Errors
/// Those of the file.
pub fn write_core(file: &File, content: &CoreContent<'_>, progress: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
    let notes = notes(content);
    let count = content.mappings.len() + 1;
    let extended = count >= MOST_HEADERS;
    let notes_at = FILE_HEADER + PROGRAM_HEADER * count as u64 + if extended { SECTION_HEADER } else { 0 };
    let loads = loads(content, (notes_at + notes.len() as u64).next_multiple_of(PAGE));

    let mut out = BufWriter::new(file);
    out.write_all(&file_header(content.arch, count, extended))?;
    out.write_all(&program_header(4, 0, notes_at, AddrRange::default(), notes.len() as u64))?;
    for load in &loads {
        let access = load.mapping.access;
        let flags = u32::from(access.execute) | u32::from(access.write) << 1 | u32::from(access.read) << 2;
        out.write_all(&program_header(1, flags, load.offset, load.mapping.range, load.held))?;
    }
    if extended {
        out.write_all(&section_header(count as u32))?;
    }
    out.write_all(&notes)?;
    write_memory(&mut out, content, &loads, progress)?;
    out.flush()?;
    // The last hole has nothing after it.
    let end = loads.iter().map(|load| load.offset + load.held).max().unwrap_or_default();
    file.set_len(end.max(notes_at + notes.len() as u64))
}

/// Where each mapping lies in the file: one after the other, each up to its last byte that is known.
fn loads<'m>(content: &CoreContent<'m>, start: u64) -> Vec<Load<'m>> {
    let mut known = content.memory.known().iter().peekable();
    let mut offset = start;
    let load = |mapping: &'m Mapping| {
        let mut held = 0;
        while let Some(range) = known.peek().copied().filter(|range| range.low < mapping.range.high) {
            if range.high > mapping.range.low {
                held = range.high.min(mapping.range.high).0 - mapping.range.low.0;
            }
            if range.high > mapping.range.high {
                // The rest belongs to the next mapping.
                break;
            }
            known.next();
        }
        let load = Load { mapping, offset, held };
        offset = offset.saturating_add(held).next_multiple_of(PAGE);
        load
    };
    content.mappings.iter().map(load).collect()
}

fn write_memory(
    out: &mut BufWriter<&File>,
    content: &CoreContent<'_>,
    loads: &[Load<'_>],
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<()> {
    let total = content.memory.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let mut done = 0;
    for (at, bytes) in content.memory.iter() {
        let end = at.0.saturating_add(bytes.len() as u64);
        let first = loads.partition_point(|load| load.mapping.range.high <= at);
        for load in loads[first..].iter().take_while(|load| load.mapping.range.low.0 < end) {
            let range = load.mapping.range;
            let Some(part) = AddrRange::new(at, Addr(end)).intersection(range) else { continue };
            let inside = &bytes[(part.low.0 - at.0) as usize..(part.high.0 - at.0) as usize];
            let offset = load.offset + (part.low.0 - range.low.0);
            for (index, chunk) in inside.chunks(PART).enumerate() {
                write_sparse(out, offset + (index * PART) as u64, chunk)?;
                done += chunk.len() as u64;
                progress(done, total);
            }
        }
    }
    Ok(())
}

/// Writes bytes at an offset, and leaves holes where pages are all zero.
fn write_sparse(out: &mut BufWriter<&File>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let pages: Vec<&[u8]> = bytes.chunks(PAGE as usize).collect();
    let mut at = offset;
    for run in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let length: usize = run.iter().map(|page| page.len()).sum();
        if run.first().is_some_and(|page| !is_zero(page)) {
            out.seek(SeekFrom::Start(at))?;
            for page in run {
                out.write_all(page)?;
            }
        }
        at += length as u64;
    }
    Ok(())
}

fn file_header(arch: &Arch, count: usize, extended: bool) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let section_at = if extended { FILE_HEADER + PROGRAM_HEADER * count as u64 } else { 0 };
    // ET_CORE, the machine, EV_CURRENT, no entry, where the tables lie, no flags.
    half(&mut header, &[4, arch.elf_machine]);
    word(&mut header, &[1]);
    long(&mut header, &[0, FILE_HEADER, section_at]);
    word(&mut header, &[0]);
    let sections = u16::from(extended);
    half(&mut header, &[FILE_HEADER as u16, PROGRAM_HEADER as u16, count.min(MOST_HEADERS) as u16]);
    half(&mut header, &[if extended { SECTION_HEADER as u16 } else { 0 }, sections, 0]);
    header
}

fn program_header(kind: u32, flags: u32, offset: u64, range: AddrRange, held: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(PROGRAM_HEADER as usize);
    word(&mut header, &[kind, flags]);
    long(&mut header, &[offset, range.low.0, 0, held, range.len(), if kind == 1 { PAGE } else { 4 }]);
    header
}

/// The first section header, whose `sh_info` counts the program headers.
fn section_header(count: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(SECTION_HEADER as usize);
    word(&mut header, &[0, 0]);
    long(&mut header, &[0, 0, 0, 0]);
    word(&mut header, &[0, count]);
    long(&mut header, &[0, 0]);
    header
}

/// The notes, those of the first thread, then those of the process, then the other threads', as the kernel orders them.
fn notes(content: &CoreContent<'_>) -> Vec<u8> {
    let mut notes = Vec::new();
    let (first, others) = content.threads.split_at(content.threads.len().min(1));
    for thread in first {
        add_thread(&mut notes, content, thread);
    }
    add_note(&mut notes, NT_PRPSINFO, &process(content.process));
    if let Some(siginfo) = content.siginfo {
        add_note(&mut notes, NT_SIGINFO, siginfo);
    }
    add_note(&mut notes, NT_AUXV, content.auxv);
    add_note(&mut notes, NT_FILE, &files(content.mappings));
    for thread in others {
        add_thread(&mut notes, content, thread);
    }
    notes
}

fn add_note(notes: &mut Vec<u8>, kind: u32, content: &[u8]) {
    word(notes, &[5, content.len() as u32, kind]);
    notes.extend_from_slice(b"CORE\0\0\0\0");
    notes.extend_from_slice(content);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// `struct elf_prstatus`.
fn add_thread(notes: &mut Vec<u8>, content: &CoreContent<'_>, thread: &CoreThread) {
    let arch = content.arch;
    let mut status = vec![0; PRSTATUS_REGISTERS];
    let signal = thread.signal.and_then(|signal| u16::try_from(signal).ok()).unwrap_or_default();
    status[PRSTATUS_SIGNAL..][..2].copy_from_slice(&signal.to_le_bytes());
    // The process and its group, session and parent are of no use to a debugger beyond their number.
    status[PRSTATUS_TID..][..4].copy_from_slice(&thread.tid.to_le_bytes());
    let value = |index: usize| match arch.prstatus.get(index).copied().flatten() {
        Some(register) => thread.registers.get(register),
        None if arch.thread_pointer_word == Some(index) => thread.thread_pointer,
        None => None,
    };
    let words: Vec<u64> = (0..arch.prstatus_words).map(|index| value(index).unwrap_or_default()).collect();
    long(&mut status, &words);
    // Floating-point registers are not kept.
    word(&mut status, &[0, 0]);
    add_note(notes, NT_PRSTATUS, &status);
}

/// `struct elf_prpsinfo`.
fn process(process: &Process) -> Vec<u8> {
    let mut info = vec![0; 136];
    let name = process.command.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
    let line = process.command.join(" ");
    info[24..28].copy_from_slice(&process.pid.to_le_bytes());
    for (at, room, text) in [(40, 16, name), (56, 80, line.as_str())] {
        // Each ends with a zero.
        let length = text.len().min(room - 1);
        info[at..at + length].copy_from_slice(&text.as_bytes()[..length]);
    }
    info
}

/// `NT_FILE`: count, unit, triples of start, end and offset in units, names.
fn files(mappings: &[Mapping]) -> Vec<u8> {
    let named: Vec<_> = mappings.iter().filter_map(|mapping| Some((mapping.range, mapping.file()?))).collect();
    let mut table = Vec::new();
    long(&mut table, &[named.len() as u64, PAGE]);
    for (range, file) in &named {
        long(&mut table, &[range.low.0, range.high.0, file.offset / PAGE]);
    }
    for (_, file) in &named {
        table.extend_from_slice(file.path.as_os_str().as_bytes());
        table.extend_from_slice(if file.deleted { b" (deleted)\0" } else { b"\0" });
    }
    table
}

fn half(into: &mut Vec<u8>, values: &[u16]) {
    into.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn word(into: &mut Vec<u8>, values: &[u32]) {
    into.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn long(into: &mut Vec<u8>, values: &[u64]) {
    into.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::X86_64;
    use crate::mapping::{Access, MappedFile, Origin};
    use crate::memory::Memory;
    use crate::process::{Core, Source, Target};

    /// Writes `content` to a file, reads that, and deletes it.
    fn written(name: &str, content: &CoreContent<'_>) -> Core {
        let path = std::env::temp_dir().join(format!("stackscope-{name}-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let mut told = Vec::new();
        write_core(&file, content, &mut |done, all| told.push((done, all))).unwrap();
        let core = Core::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let all: u64 = content.memory.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        assert!(all == 0 || told.last() == Some(&(all, all)));
        core
    }

    fn mapping(low: u64, high: u64, origin: Origin) -> Mapping {
        let access = Access { read: true, write: true, execute: false };
        Mapping { range: AddrRange::new(Addr(low), Addr(high)), access, shared: false, origin }
    }

    fn content<'c>(process: &'c Process, mappings: &'c [Mapping], memory: Slices<'c>) -> CoreContent<'c> {
        let mut registers = Registers::unknown();
        registers.set(X86_64.sp, 0x2f00);
        let thread =
            |tid, thread_pointer, signal| CoreThread { tid, registers: registers.clone(), thread_pointer, signal };
        let threads =
            vec![thread(7, Some(0x77), Some(11)), thread(8, None, None), thread(FIRST_MADE_UP_TID, None, None)];
        CoreContent { arch: &X86_64, process, threads, mappings, auxv: &[0; 16], siginfo: None, memory }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let process = Process { pid: 7, command: vec!["/bin/chat".into(), "-v".into()], source: Source::Live };
        let file = MappedFile { path: "/bin/chat".into(), deleted: true, offset: 4096, identity: None };
        let mappings = [
            mapping(0x1000, 0x3000, Origin::File(file)),
            mapping(0x3000, 0x9000, Origin::Anonymous),
            mapping(0x9000, 0xa000, Origin::Anonymous),
        ];
        // One piece reaches over two mappings, and one lies after a hole.
        let (first, second) = ([1; 0x2000], [2; 0x1000]);
        let memory = Slices::new(vec![(Addr(0x2000), &first), (Addr(0x8000), &second)]);
        let core = written("core", &content(&process, &mappings, memory));
        assert!(core.warnings().is_empty(), "{:?}", core.warnings());
        assert_eq!(core.process().command, ["/bin/chat", "-v"]);
        let threads: Vec<_> =
            core.threads().iter().map(|thread| (thread.tid, thread.thread_pointer, thread.signal)).collect();
        // What stands for a context without a thread is not a thread.
        assert_eq!(threads, [(7, Some(0x77), Some(11)), (8, Some(0), None)]);
        assert_eq!(core.threads()[0].registers.as_ref().unwrap().get(X86_64.sp), Some(0x2f00));
        let ranges: Vec<_> = core.mappings().iter().map(|mapping| mapping.range).collect();
        assert_eq!(ranges, mappings.each_ref().map(|mapping| mapping.range));
        assert_eq!(core.mappings()[0].file(), mappings[0].file());
        assert_eq!(core.read_u64(Addr(0x2ff8)), Ok(0x0101_0101_0101_0101));
        assert_eq!(core.read_u64(Addr(0x3ff8)), Ok(0x0101_0101_0101_0101));
        assert_eq!(core.read_u64(Addr(0x5000)), Ok(0));
        assert_eq!(core.read_u64(Addr(0x8000)), Ok(0x0202_0202_0202_0202));
        assert!(core.read_u64(Addr(0x9000)).is_err());
    }

    #[test]
    fn more_mappings_than_a_header_counts() {
        let process = Process { pid: 7, command: Vec::new(), source: Source::Live };
        let at = |index: u64| 0x10000 + index * 0x2000;
        let mappings: Vec<Mapping> =
            (0..70_000).map(|index| mapping(at(index), at(index) + 0x1000, Origin::Anonymous)).collect();
        let last = [3; 16];
        let core = written("cores", &content(&process, &mappings, Slices::new(vec![(Addr(at(69_999)), &last)])));
        assert!(core.warnings().is_empty(), "{:?}", core.warnings());
        assert_eq!(core.mappings().len(), 70_000);
        assert_eq!(core.read_u64(Addr(at(69_999))), Ok(0x0303_0303_0303_0303));
    }
}
