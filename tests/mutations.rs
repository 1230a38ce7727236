//! Files in which bytes were changed at random: nothing panics, nothing takes long, nothing takes much memory.
//!
//! By default each part of a file is changed so often that the suite stays short; `STACKSCOPE_MUTATIONS` sets another
//! number for each part (with `--release`, a million take some minutes).
//! The changes are the same in each run. What the coverage-guided fuzzer finds, `fuzz/` is for.

#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use object::elf::{FileHeader64, ProgramHeader64};
use object::read::elf::FileHeader;
use object::{Endianness, Object, ObjectSection};
use stackscope::workshop::addr::{Addr, AddrRange, Pc};
use stackscope::workshop::arch::X86_64;
use stackscope::workshop::image::names::{self, Lines};
use stackscope::workshop::image::{Bytes, Files, Modules, Opened};
use stackscope::workshop::look::{Looker, Wish};
use stackscope::workshop::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use stackscope::workshop::memory::{Copied, Memory};
use stackscope::workshop::process::{Core, Target};
use stackscope::workshop::registers::Registers;
use stackscope::workshop::report::json;
use stackscope::workshop::sizes::{Costs, Graph, Ways, answer};
use stackscope::workshop::unwind::{Rules, Tables, walk};
use stackscope_harness::{built, kernel_core, scratch};

/// The most processor time that one changed file may take.
const LONGEST: Duration = Duration::from_secs(1);

/// The most memory that this process may ever have held, in KiB.
const MOST_MEMORY_KIB: u64 = 256 << 10;

const BASE: u64 = 0x1000_0000;

#[test]
fn changed_programs_do_no_harm() {
    let good = fs::read(built("threads")).unwrap();
    for (part, bytes) in parts_of_a_program(&good) {
        let mut changed = good.clone();
        let matters_to_sizes = !part.starts_with(".debug_");
        let slowest = mutations(&part, &bytes, &good, |at, value| {
            let old = std::mem::replace(&mut changed[at], value);
            read_program(&changed, matters_to_sizes);
            changed[at] = old;
        });
        assert!(slowest < LONGEST, "{part}: one took {slowest:?}");
    }
    check_memory();
}

#[test]
fn changed_core_files_do_no_harm() {
    let folder = scratch("flipped");
    let path = kernel_core("threads", &["2"], &folder);
    // The headers and the notes, and a little memory.
    let mut good = vec![0; 64 << 10];
    let length = File::open(&path).unwrap().read_at(&mut good, 0).unwrap();
    good.truncate(length);
    let flipped = folder.join("core.flipped");
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&flipped).unwrap();
    file.write_all_at(&good, 0).unwrap();
    let (mut round, mut opened) = (0, 0);
    let slowest = mutations("core", &(0..good.len()), &good, |at, value| {
        file.write_all_at(&[value], at as u64).unwrap();
        opened += u32::from(read_core(&flipped, round % 256 == 0));
        round += 1;
        file.write_all_at(&good[at..=at], at as u64).unwrap();
    });
    assert!(slowest < LONGEST, "one took {slowest:?}");
    assert!(opened > round / 10 * 9, "{opened} of {round}");
    check_memory();
}

/// The parts of a program whose bytes are changed: its headers, unwind sections, debug information, relocations, code.
fn parts_of_a_program(program: &[u8]) -> Vec<(String, Range<usize>)> {
    let file = object::File::parse(program).unwrap();
    let header = FileHeader64::<Endianness>::parse(program).unwrap();
    let sections = header.e_shoff(Endianness::Little) as usize;
    let segments = size_of::<FileHeader64<Endianness>>()
        + size_of::<ProgramHeader64<Endianness>>() * usize::from(header.e_phnum(Endianness::Little));
    let mut parts = vec![("headers".to_owned(), 0..segments), ("sections".to_owned(), sections..program.len())];
    for section in file.sections() {
        let name = section.name().unwrap();
        if let Some((start, size)) = section.file_range()
            && [".debug_", ".eh_frame", ".rela", ".dynamic", ".text", "sym"].iter().any(|part| name.contains(part))
        {
            parts.push((name.to_owned(), start as usize..(start + size) as usize));
        }
    }
    assert!(parts.len() > 10, "{parts:?}");
    parts
}

/// Calls `change` with places of `part` and values for them; the most processor time that one call took.
fn mutations(name: &str, part: &Range<usize>, good: &[u8], mut change: impl FnMut(usize, u8)) -> Duration {
    // Processor time is that of the whole process, and the other test is in it too.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let count = std::env::var("STACKSCOPE_MUTATIONS").map_or(1_000, |count| count.parse::<u64>().unwrap());
    let mut random = name.bytes().fold(0x9e37_79b9_7f4a_7c15u64, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
    let mut slowest = Duration::ZERO;
    for round in 0..count {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Every byte of its beginning, then any.
        let nth = if round < 256 { round } else { random >> 33 } % part.len() as u64;
        let at = part.start + nth as usize;
        let value = if round % 3 == 0 { 0xff } else { good[at] ^ 1 << (random >> 20 & 7) };
        let began = processor_time();
        change(at, value);
        slowest = slowest.max(processor_time().saturating_sub(began));
    }
    slowest
}

/// The processor time of this process: other work on the machine does not count, our own threads do.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

fn check_memory() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let held: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(held < MOST_MEMORY_KIB, "{held} KiB");
}

/// Every file is this one.
struct Only(Bytes);

impl Files for Only {
    fn open_mapped(&self, _: &Mapping) -> io::Result<Opened> {
        Ok(Opened { bytes: self.0.clone(), same_file: true, stamp: None })
    }

    fn open(&self, _: &Path) -> io::Result<Bytes> {
        Ok(self.0.clone())
    }
}

/// Loads a program, names addresses in it, works out what its functions need if that is wanted, and takes a step from
/// each address by its rules.
fn read_program(content: &[u8], with_sizes: bool) {
    let files = Only(Arc::new(content.to_vec()));
    let identity = Some(FileIdentity { device: 1, inode: 1 });
    let file = MappedFile { path: "/program".into(), deleted: false, offset: 0, identity };
    let mapping = Mapping {
        range: AddrRange::new(Addr(BASE), Addr(BASE + 0x10_0000)),
        access: Access { read: true, write: false, execute: true },
        shared: false,
        origin: Origin::File(file),
    };
    let modules = Modules::load(&[mapping], &Copied::default(), &files);
    let pcs: Vec<Pc> = (0..64).map(|step| Pc::At(Addr(BASE + 0x1000 + step * 0x11))).collect();
    names::resolve(&modules, &pcs, &files, Lines::Everywhere);
    if with_sizes {
        let graph = Graph::of(&modules);
        let costs = Costs::of(&graph, Ways::All);
        graph.functions().for_each(|(id, _)| drop(answer(&graph, &costs, id)));
    }
    let tables = Tables::new(&X86_64, &modules);
    let mut rules = Rules::new(&tables);
    for pc in pcs {
        let mut start = Registers::unknown();
        start.set(X86_64.pc, pc.addr().0);
        start.set(X86_64.sp, BASE);
        walk(&mut rules, &Copied::default(), start, 4, |_, _| ControlFlow::Continue(()));
    }
}

/// Opens a core file and reads at its threads; makes the whole report of it if asked to. Whether it could be opened.
fn read_core(path: &Path, whole: bool) -> bool {
    let Ok(mut core) = Core::open(path) else { return false };
    for thread in core.threads() {
        let registers = thread.registers.as_ref().unwrap();
        let _ = registers.addr(core.arch().sp).map(|sp| core.read_u64(sp));
    }
    let _ = core.read_u64(Addr(u64::MAX - 4));
    if whole {
        let _ = core.pages(AddrRange::new(Addr(0), Addr(u64::MAX)));
        let snapshot = Looker::new().core(&mut core, Wish::all(Lines::Cheap));
        json::write(&mut Vec::new(), &snapshot).unwrap();
    }
    true
}
