//! What the file of a fixture says of its code: functions, instructions, and the bytes of its call frame information.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use gimli::{BaseAddresses, CieOrFde, EhFrame, NativeEndian, UnwindSection};
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess};
use object::{Object, ObjectSection, ObjectSymbol};

/// A program's file. All addresses are those of the file.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// Sorted by address.
    functions: Vec<Function>,
    text: Section,
    eh_frame: Section,
}

/// A function of a program.
pub(crate) struct Function {
    pub(crate) range: Range<u64>,
    /// Its path, demangled.
    pub(crate) name: String,
}

/// A stretch of call frame information.
pub(crate) struct Fde {
    pub(crate) range: Range<u64>,
    /// Whether its CIE has the mark of a signal frame.
    pub(crate) is_signal: bool,
    /// Its instructions, without the padding behind them.
    pub(crate) bytes: Vec<u8>,
}

struct Section {
    address: u64,
    bytes: Vec<u8>,
}

impl Program {
    pub(crate) fn open(path: &Path) -> Program {
        let bytes = std::fs::read(path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let section = |name| {
            let section = file.section_by_name(name).unwrap();
            Section { address: section.address(), bytes: section.data().unwrap().to_vec() }
        };
        let functions = file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text).map(|symbol| {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name().unwrap()));
            Function { range: symbol.address()..symbol.address() + symbol.size(), name }
        });
        let mut functions: Vec<Function> = functions.collect();
        functions.sort_by_key(|function| function.range.start);
        Program { path: path.to_path_buf(), functions, text: section(".text"), eh_frame: section(".eh_frame") }
    }

    /// The function whose code holds `svma`.
    pub(crate) fn function(&self, svma: u64) -> Option<&Function> {
        let after = self.functions.partition_point(|function| function.range.start <= svma);
        self.functions[..after].iter().rev().take(4).find(|function| function.range.contains(&svma))
    }

    /// All functions, sorted by address.
    pub(crate) fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The naked routine of this name.
    pub(crate) fn routine(&self, name: &str) -> &Function {
        let mut found = self
            .functions
            .iter()
            .filter(|function| function.name.contains("arch::x86_64_unix::") && function.last() == name);
        let routine = found.next().unwrap_or_else(|| panic!("no routine {name}"));
        assert!(found.next().is_none(), "{name}: there should be only one");
        routine
    }

    /// The addresses of the instructions in `range`.
    pub(crate) fn instructions(&self, range: &Range<u64>) -> Vec<u64> {
        self.decoder(range).iter().map(|instruction| instruction.ip()).collect()
    }

    /// The addresses of the instructions in `range` that set the stack pointer to what it was not reckoned from.
    pub(crate) fn stack_switches(&self, range: &Range<u64>) -> Vec<u64> {
        let mut factory = InstructionInfoFactory::new();
        let sets = |instruction: iced_x86::Instruction| {
            let info = factory.info(&instruction);
            let set = info
                .used_registers()
                .iter()
                .any(|used| used.register() == iced_x86::Register::RSP && used.access() == OpAccess::Write);
            set.then(|| instruction.ip())
        };
        self.decoder(range).iter().filter_map(sets).collect()
    }

    fn decoder(&self, range: &Range<u64>) -> Decoder<'_> {
        let code = self.text.slice(range);
        Decoder::with_ip(64, code, range.start, DecoderOptions::NONE)
    }

    /// What objdump prints for each instruction in `range`: no spaces but behind the name, no sizes of operands, and no
    /// target of a call.
    pub(crate) fn listing(&self, range: &Range<u64>) -> BTreeMap<u64, String> {
        let (start, stop) = (format!("--start-address={}", range.start), format!("--stop-address={}", range.end));
        let mut command = Command::new("objdump");
        command.args(["-d", "-M", "intel", "--no-show-raw-insn", &start, &stop]).arg(&self.path);
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines = output.lines().filter_map(|line| line.strip_prefix(' ')?.split_once(":\t"));
        lines.map(|(at, text)| (u64::from_str_radix(at.trim(), 16).unwrap(), plain(text))).collect()
    }

    /// The stretches of call frame information in `range`, sorted by address.
    pub(crate) fn fdes(&self, range: &Range<u64>) -> Vec<Fde> {
        let section = EhFrame::new(&self.eh_frame.bytes, NativeEndian);
        let bases = BaseAddresses::default().set_eh_frame(self.eh_frame.address).set_text(self.text.address);
        let mut entries = section.entries(&bases);
        let mut found = Vec::new();
        while let Some(entry) = entries.next().unwrap() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
            if !range.contains(&fde.initial_address()) {
                continue;
            }
            // Length, CIE, address and size take four bytes each; then come the bytes of augmentation, after their number.
            let body = &self.eh_frame.bytes[fde.offset() + 16..fde.offset() + 4 + fde.entry_len()];
            let instructions = &body[1 + usize::from(body[0])..];
            let length = instructions.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            // A zero may belong to the last instruction; no opcode of these routines ends in one.
            found.push(Fde {
                range: fde.initial_address()..fde.initial_address() + fde.len(),
                is_signal: fde.is_signal_trampoline(),
                bytes: instructions[..length].to_vec(),
            });
        }
        found.sort_by_key(|fde| fde.range.start);
        found
    }
}

impl Function {
    /// The last part of its path.
    pub(crate) fn last(&self) -> &str {
        last(&self.name)
    }
}

impl Section {
    fn slice(&self, range: &Range<u64>) -> &[u8] {
        &self.bytes[(range.start - self.address) as usize..(range.end - self.address) as usize]
    }
}

/// The last part of a function's path.
pub(crate) fn last(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

/// An instruction as documents write it: `mov [rcx - 32], rsp` and objdump's form come to the same.
pub(crate) fn plain(text: &str) -> String {
    let text = text.split(['#', '<']).next().unwrap_or(text).trim();
    let (name, operands) = text.split_once(' ').unwrap_or((text, ""));
    let operands: String = operands.replace("QWORD PTR ", "").replace("+0x0]", "]").split_whitespace().collect();
    // A call's or a load's target moves with each build.
    match operands.split_once("rip+") {
        Some((before, _)) => format!("{name} {before}rip]"),
        None if name == "call" && operands.starts_with(|c: char| c.is_ascii_digit()) => name.to_owned(),
        None => format!("{name} {operands}").trim().to_owned(),
    }
}
