//! Core files: the kernel's and gcore's, whole, cut anywhere, and with flipped bytes.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stackscope::workshop::addr::{Addr, AddrRange};
use stackscope::workshop::image::{Bytes, Files};
use stackscope::workshop::mapping::{Origin, mapping_at};
use stackscope::workshop::memory::Memory;
use stackscope::workshop::process::{Core, CoreWarning, Live, OpenError, PageState, Source, Target};
use stackscope_harness::{Running, gcore, kernel_core, scratch};

/// What a debugger would look at first, thread by thread.
fn registers(target: &impl Target) -> BTreeMap<i32, (u64, u64, Option<u64>)> {
    let arch = target.arch();
    let row = |registers: &stackscope::workshop::registers::Registers| {
        (registers.get(arch.pc).unwrap(), registers.get(arch.sp).unwrap())
    };
    let threads = target.threads().iter();
    threads
        .map(|thread| {
            let (pc, sp) = row(thread.registers.as_ref().unwrap());
            (thread.tid, (pc, sp, thread.thread_pointer))
        })
        .collect()
}

#[test]
fn a_core_of_gcore_holds_what_the_live_process_showed() {
    let fixture = Running::start("threads", &["5"]);
    let folder = scratch("gcore");
    let core = Core::open(&gcore(fixture.pid(), &folder)).unwrap();
    assert_eq!(core.warnings(), []);
    assert_eq!((core.process().pid, core.process().source), (fixture.pid(), Source::Core));
    assert!(core.process().command[0].ends_with("threads"), "{:?}", core.process().command);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(Duration::from_secs(5)).unwrap();
    assert_eq!(registers(&core), registers(&stopped));
    assert_eq!(core.threads()[0].tid, fixture.pid());
    for (_, sp, _) in registers(&core).values() {
        let (mut kept, mut now) = ([0; 1024], [0; 1024]);
        core.read(Addr(*sp), &mut kept).unwrap();
        stopped.read(Addr(*sp), &mut now).unwrap();
        assert_eq!(kept, now);
    }
    let named = |target: &dyn Target| -> Vec<(AddrRange, PathBuf, u64)> {
        let files = target.mappings().iter().filter_map(|mapping| Some((mapping.range, mapping.file()?)));
        files.map(|(range, file)| (range, file.path.clone(), file.offset)).collect()
    };
    // gdb leaves out what it may not read.
    let readable: Vec<_> = stopped.mappings().iter().filter(|mapping| mapping.access.read).collect();
    for (range, path, offset) in named(&core) {
        let same = readable.iter().find(|mapping| mapping.range.low == range.low).unwrap();
        let file = same.file().unwrap();
        assert_eq!((&file.path, file.offset), (&path, offset));
    }
    assert!(named(&core).len() >= 8);
    assert!(core.mappings().iter().any(|mapping| mapping.origin == Origin::MainStack));
    assert!(core.mappings().iter().any(|mapping| mapping.origin == Origin::Vdso));
}

#[test]
fn a_core_of_the_kernel_names_the_signal_and_takes_code_from_files() {
    let folder = scratch("kernel-core");
    let mut core = Core::open(&kernel_core("threads", &["5"], &folder)).unwrap();
    assert_eq!(core.warnings(), []);
    assert_eq!(core.threads().len(), 6);
    assert_eq!(core.threads()[0].tid, core.process().pid);
    let signals: Vec<_> = core.threads().iter().filter_map(|thread| thread.signal).collect();
    assert_eq!(signals, [6], "SIGABRT");
    assert_eq!(core.fault().unwrap().signal, 6);
    assert!(core.process().command[0].ends_with("threads"));
    let pc = registers(&core).values().next().unwrap().0;
    let mapping = mapping_at(core.mappings(), Addr(pc)).unwrap().clone();
    assert!(mapping.access.execute);
    // The kernel keeps no page of code but the first of a file.
    assert!(core.read_u64(Addr(pc)).is_err());
    let opened = core.open_mapped(&mapping).unwrap();
    assert!(!opened.same_file);
    core.supply(&mapping.file().unwrap().path.clone(), &opened.bytes);
    let start = (pc - mapping.range.low.0 + mapping.file().unwrap().offset) as usize;
    let expected = (*opened.bytes).as_ref()[start..start + 8].try_into().unwrap();
    assert_eq!(core.read_u64(Addr(pc)), Ok(u64::from_le_bytes(expected)));
    // What a file does not hold is not made up.
    let short: Bytes = Arc::new(vec![0; 16]);
    core.supply(&mapping.file().unwrap().path.clone(), &short);
    assert!(core.read_u64(Addr(pc)).is_err());
}

#[test]
fn touched_pages_of_a_core_are_those_that_are_not_zero() {
    let folder = scratch("core-pages");
    let core = Core::open(&kernel_core("threads", &["1", "300"], &folder)).unwrap();
    let sp = Addr(registers(&core).values().nth(1).unwrap().1);
    let stack = mapping_at(core.mappings(), sp).unwrap().range;
    let pages = core.pages(stack).unwrap();
    assert!(
        pages
            .runs
            .iter()
            .all(|run| run.state == PageState::Touched && stack.intersection(run.range) == Some(run.range))
    );
    assert!(pages.runs.iter().any(|run| run.range.contains(sp)));
    let touched: u64 = pages.runs.iter().map(|run| run.range.len()).sum();
    assert!(touched < stack.len() / 2, "{touched} of {}", stack.len());
    let mut page = [0; 4096];
    let mut low = stack.low;
    while low < stack.high {
        core.read(low, &mut page).unwrap();
        let is_touched = pages.runs.iter().any(|run| run.range.contains(low));
        assert_eq!(is_touched, page.iter().any(|byte| *byte != 0), "{low}");
        low = low.offset(4096);
    }
    let all = core.pages(AddrRange::new(Addr(0), Addr(u64::MAX))).unwrap();
    assert!(all.runs.len() >= pages.runs.len());
}

/// Shortens a copy of `core` to each multiple of 4 KiB, longest first, and calls `check` with the length.
fn cut_everywhere(core: &Path, folder: &Path, mut check: impl FnMut(&Path, u64)) {
    let cut = folder.join("cut");
    fs::copy(core, &cut).unwrap();
    let file = OpenOptions::new().write(true).open(&cut).unwrap();
    let mut length = file.metadata().unwrap().len().next_multiple_of(4096);
    while let Some(shorter) = length.checked_sub(4096) {
        length = shorter;
        file.set_len(length).unwrap();
        check(&cut, length);
    }
}

#[test]
fn a_kernel_core_cut_anywhere_shows_its_threads() {
    let folder = scratch("cut-kernel");
    let path = kernel_core("threads", &["3"], &folder);
    let whole = Core::open(&path).unwrap();
    let expected = registers(&whole);
    let mut with_all = 0;
    cut_everywhere(&path, &folder, |cut, length| {
        if length == 0 {
            assert!(matches!(Core::open(cut), Err(OpenError::Empty { .. })));
            return;
        }
        let core = Core::open(cut).unwrap();
        assert!(
            matches!(core.warnings()[0], CoreWarning::Truncated { has, .. } if has == length),
            "{:?}",
            core.warnings()
        );
        let seen = registers(&core);
        assert!(seen.iter().all(|(tid, registers)| expected[tid] == *registers));
        let lost = core.warnings().iter().any(|warning| {
            matches!(warning, CoreWarning::NotesCut { threads } if *threads == seen.len())
                || *warning == CoreWarning::NotesLost
        });
        // Behind the last thread's registers come notes that nobody here needs; their end is not told from lost threads.
        assert!(lost || seen.len() == 4, "{length}: {:?}", core.warnings());
        with_all += u32::from(seen.len() == 4);
    });
    assert!(with_all > 10, "the kernel writes its notes first");
}

#[test]
fn a_core_of_gcore_cut_anywhere_says_that_its_threads_are_lost() {
    let fixture = Running::start("threads", &["3"]);
    let folder = scratch("cut-gcore");
    let path = gcore(fixture.pid(), &folder);
    let whole = Core::open(&path).unwrap();
    let stack = registers(&whole).values().next().unwrap().1;
    let expected = whole.read_u64(Addr(stack)).unwrap();
    let (mut readable, mut complete) = (0, 0);
    cut_everywhere(&path, &folder, |cut, length| {
        if length == 0 {
            return;
        }
        let core = Core::open(cut).unwrap();
        // At the very end stand tables for linkers, which nothing is lost with.
        complete += u32::from(core.warnings().is_empty() && core.threads().len() == 4);
        let lost = [CoreWarning::NotesLost, CoreWarning::NotesCut { threads: core.threads().len() }];
        assert!(core.warnings().is_empty() || core.warnings().iter().any(|warning| lost.contains(warning)), "{length}");
        readable += u32::from(core.read_u64(Addr(stack)) == Ok(expected));
    });
    assert!(readable > 0 && complete <= 3, "{complete}");
}

#[test]
fn what_is_no_core_file_is_named() {
    let folder = scratch("no-core");
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        path
    };
    let said = |path: &Path| Core::open(path).unwrap_err().to_string();
    assert!(said(&folder).contains("is a directory, not a core file"));
    assert!(said(&folder.join("none")).contains("cannot open"));
    assert!(said(&file("empty", b"")).contains("is empty"));
    assert!(said(&file("text", b"hello")).contains("does not begin as an ELF file"));
    assert!(said(Path::new("/proc/self/exe")).contains("a program or a shared library, not a core file"));
    assert!(said(Path::new("/dev/null")).contains("is a device, not a core file"));
    assert!(said(&file("zstd", &[0x28, 0xb5, 0x2f, 0xfd])).contains("zstd -d "));
    let pipe = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(said(&pipe).contains("is a pipe, not a core file"));
}
