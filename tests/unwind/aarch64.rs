//! aarch64: memory and registers that a program captured in a signal handler, under qemu, walked here.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use stackscope::workshop::addr::{Addr, AddrRange};
use stackscope::workshop::arch::AARCH64;
use stackscope::workshop::image::{Bytes, Files, Modules, Opened};
use stackscope::workshop::mapping::{Access, MappedFile, Mapping, Origin};
use stackscope::workshop::memory::Copied;
use stackscope::workshop::registers::{Register, Registers};
use stackscope::workshop::unwind::{Ended, Rules, Tables, walk};

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";

/// What `fixtures/c/capture.c` wrote.
struct Capture {
    registers: Registers,
    memory: Copied,
    trampoline: Addr,
}

impl Capture {
    fn parse(bytes: &[u8]) -> Capture {
        let word = |index: usize| u64::from_le_bytes(bytes[8 * index..][..8].try_into().unwrap());
        let mut registers = Registers::unknown();
        // Those below x18 were changed on the way to where they are written.
        for number in 18..33 {
            registers.set(Register(number), word(usize::from(number)));
        }
        let (stack_low, stack_bytes, trampoline) = (word(33), word(34) as usize, word(35));
        let mut memory = Copied::default();
        memory.insert(Addr(trampoline), bytes[288..304].into());
        memory.insert(Addr(stack_low), bytes[304..][..stack_bytes].into());
        Capture { registers, memory, trampoline: Addr(trampoline) }
    }
}

/// One file, whatever is asked for.
struct OneFile(PathBuf);

impl Files for OneFile {
    fn open_mapped(&self, _: &Mapping) -> io::Result<Opened> {
        Ok(Opened { bytes: self.open(&self.0)?, same_file: true, stamp: None })
    }

    fn open(&self, _: &Path) -> io::Result<Bytes> {
        Ok(Arc::new(fs::read(&self.0)?))
    }
}

fn code(range: AddrRange, origin: Origin) -> Mapping {
    Mapping { range, access: Access { read: true, write: false, execute: true }, shared: false, origin }
}

/// The program's code, which lies where the file says, and the page of the trampoline.
fn mappings(program: &Path, elf: &object::File<'_>, trampoline: Addr) -> Vec<Mapping> {
    let text = elf.segments().next().expect("the first segment is the code");
    let file = MappedFile { path: program.into(), deleted: false, offset: 0, identity: None };
    let low = Addr(text.address());
    let range = AddrRange::new(low, Addr(low.0 + text.size()).align_up(4096));
    let page = trampoline.align_down(4096);
    vec![code(range, Origin::File(file)), code(AddrRange::new(page, page.offset(4096)), Origin::Anonymous)]
}

fn function(elf: &object::File<'_>, at: Addr) -> String {
    let holds = |symbol: &object::Symbol<'_, '_>| (symbol.address()..symbol.address() + symbol.size()).contains(&at.0);
    let symbol = elf.symbols().find(holds);
    // glibc has two names for it.
    symbol.map_or(format!("?{at}"), |symbol| symbol.name().unwrap().trim_end_matches("_impl").into())
}

/// Builds, captures, and walks; gives the names of the functions.
fn walk_captured(flags: &[&str]) -> (Vec<String>, Ended) {
    let program = stackscope_harness::scratch("capture").join("capture");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/c/capture.c");
    let built = Command::new(COMPILER).args(["-static", "-g"]).args(flags).arg("-o").arg(&program).arg(source).status();
    assert!(built.unwrap().success());
    let output = Command::new(EMULATOR).arg(&program).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let capture = Capture::parse(&output.stdout);

    let bytes = fs::read(&program).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let modules =
        Modules::load(&mappings(&program, &elf, capture.trampoline), &capture.memory, &OneFile(program.clone()));
    let tables = Tables::new(&AARCH64, &modules);
    let mut names = Vec::new();
    let ended = walk(&mut Rules::new(&tables), &capture.memory, capture.registers, 100, |frame, registers| {
        assert!(registers.get(AARCH64.fp).is_some(), "the frame pointer is known everywhere");
        let name = function(&elf, frame.pc.lookup());
        names.push(if frame.signal { "signal".into() } else { name });
        ControlFlow::Continue(())
    });
    (names, ended)
}

fn is_missing(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err()
}

#[test]
fn a_captured_program_of_aarch64_is_walked_to_its_start() {
    if let Some(tool) = [COMPILER, EMULATOR].into_iter().find(|tool| is_missing(tool)) {
        eprintln!("skipped: {tool} is missing (Debian: gcc-aarch64-linux-gnu, qemu-user-static)");
        return;
    }
    let expected = [
        "look_for_me",
        "handler",
        "signal",
        "descend",
        "descend",
        "descend",
        "descend",
        "descend",
        "descend",
        "main",
        "__libc_start_call_main",
        "__libc_start_main",
        "_start",
    ];
    let cases: [&[&str]; 5] = [
        &["-O0"],
        &["-O1"],
        &["-O1", "-fomit-frame-pointer"],
        &["-O1", "-mbranch-protection=standard"],
        &["-O2", "-mbranch-protection=standard", "-fno-inline", "-fno-optimize-sibling-calls"],
    ];
    for flags in cases {
        assert_eq!(walk_captured(flags), (expected.map(String::from).to_vec(), Ended::Root), "{flags:?}");
    }
}
