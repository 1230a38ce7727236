//! Registers as the protocol numbers and describes them.
//!
//! Sources: gdb's `features/i386/64bit-core.xml`, `64bit-sse.xml`, `64bit-linux.xml`, `64bit-segments.xml` and
//! `features/aarch64-core.xml`: a debugger knows the registers of a feature by these names.
//! What is not known of a context is served as unavailable, never as zero; so are all vector and float registers.

use std::fmt::Write;
use std::num::NonZeroUsize;

use gdbstub::arch::RegId;

use crate::arch::{Arch, X86_64};
use crate::registers::{Register, Registers};

/// Registers that a debugger knows by the name of their feature.
struct Feature {
    name: &'static str,
    registers: &'static [Described],
}

/// One register.
struct Described {
    name: &'static str,
    bits: u32,
    /// A type that the protocol defines.
    kind: &'static str,
    value: Value,
}

/// Where a register's value comes from.
enum Value {
    /// A general register, by its DWARF number.
    General(u8),
    /// The thread pointer.
    ThreadPointer,
    /// It is not kept.
    Unknown,
}

const fn general(name: &'static str, kind: &'static str, dwarf: u8) -> Described {
    Described { name, bits: 64, kind, value: Value::General(dwarf) }
}

const fn unknown(name: &'static str, bits: u32, kind: &'static str) -> Described {
    Described { name, bits, kind, value: Value::Unknown }
}

const fn base(name: &'static str, value: Value) -> Described {
    Described { name, bits: 64, kind: "int", value }
}

const FEATURES_X86_64: &[Feature] = &[
    Feature {
        name: "org.gnu.gdb.i386.core",
        registers: &[
            general("rax", "int64", 0),
            general("rbx", "int64", 3),
            general("rcx", "int64", 2),
            general("rdx", "int64", 1),
            general("rsi", "int64", 4),
            general("rdi", "int64", 5),
            general("rbp", "data_ptr", 6),
            general("rsp", "data_ptr", 7),
            general("r8", "int64", 8),
            general("r9", "int64", 9),
            general("r10", "int64", 10),
            general("r11", "int64", 11),
            general("r12", "int64", 12),
            general("r13", "int64", 13),
            general("r14", "int64", 14),
            general("r15", "int64", 15),
            general("rip", "code_ptr", 16),
            unknown("eflags", 32, "int32"),
            unknown("cs", 32, "int32"),
            unknown("ss", 32, "int32"),
            unknown("ds", 32, "int32"),
            unknown("es", 32, "int32"),
            unknown("fs", 32, "int32"),
            unknown("gs", 32, "int32"),
            unknown("st0", 80, "i387_ext"),
            unknown("st1", 80, "i387_ext"),
            unknown("st2", 80, "i387_ext"),
            unknown("st3", 80, "i387_ext"),
            unknown("st4", 80, "i387_ext"),
            unknown("st5", 80, "i387_ext"),
            unknown("st6", 80, "i387_ext"),
            unknown("st7", 80, "i387_ext"),
            unknown("fctrl", 32, "int"),
            unknown("fstat", 32, "int"),
            unknown("ftag", 32, "int"),
            unknown("fiseg", 32, "int"),
            unknown("fioff", 32, "int"),
            unknown("foseg", 32, "int"),
            unknown("fooff", 32, "int"),
            unknown("fop", 32, "int"),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.sse",
        registers: &[
            unknown("xmm0", 128, "uint128"),
            unknown("xmm1", 128, "uint128"),
            unknown("xmm2", 128, "uint128"),
            unknown("xmm3", 128, "uint128"),
            unknown("xmm4", 128, "uint128"),
            unknown("xmm5", 128, "uint128"),
            unknown("xmm6", 128, "uint128"),
            unknown("xmm7", 128, "uint128"),
            unknown("xmm8", 128, "uint128"),
            unknown("xmm9", 128, "uint128"),
            unknown("xmm10", 128, "uint128"),
            unknown("xmm11", 128, "uint128"),
            unknown("xmm12", 128, "uint128"),
            unknown("xmm13", 128, "uint128"),
            unknown("xmm14", 128, "uint128"),
            unknown("xmm15", 128, "uint128"),
            unknown("mxcsr", 32, "int32"),
        ],
    },
    Feature { name: "org.gnu.gdb.i386.linux", registers: &[unknown("orig_rax", 64, "int")] },
    Feature {
        name: "org.gnu.gdb.i386.segments",
        registers: &[base("fs_base", Value::ThreadPointer), base("gs_base", Value::Unknown)],
    },
];

const FEATURES_AARCH64: &[Feature] = &[Feature {
    name: "org.gnu.gdb.aarch64.core",
    registers: &[
        general("x0", "int", 0),
        general("x1", "int", 1),
        general("x2", "int", 2),
        general("x3", "int", 3),
        general("x4", "int", 4),
        general("x5", "int", 5),
        general("x6", "int", 6),
        general("x7", "int", 7),
        general("x8", "int", 8),
        general("x9", "int", 9),
        general("x10", "int", 10),
        general("x11", "int", 11),
        general("x12", "int", 12),
        general("x13", "int", 13),
        general("x14", "int", 14),
        general("x15", "int", 15),
        general("x16", "int", 16),
        general("x17", "int", 17),
        general("x18", "int", 18),
        general("x19", "int", 19),
        general("x20", "int", 20),
        general("x21", "int", 21),
        general("x22", "int", 22),
        general("x23", "int", 23),
        general("x24", "int", 24),
        general("x25", "int", 25),
        general("x26", "int", 26),
        general("x27", "int", 27),
        general("x28", "int", 28),
        general("x29", "int", 29),
        general("x30", "int", 30),
        general("sp", "data_ptr", 31),
        general("pc", "code_ptr", 32),
        unknown("cpsr", 32, "int32"),
    ],
}];

/// The registers of a CPU, and the name by which gdb knows it.
fn features(arch: &Arch) -> (&'static str, &'static [Feature]) {
    if arch.elf_machine == X86_64.elf_machine {
        ("i386:x86-64", FEATURES_X86_64)
    } else {
        ("aarch64", FEATURES_AARCH64)
    }
}

/// The target description (gdb's manual, appendix "Target Descriptions").
pub(super) fn description(arch: &Arch) -> String {
    let (name, features) = features(arch);
    let mut xml = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>{name}</architecture><osabi>GNU/Linux</osabi>"
    );
    for Feature { name, registers } in features {
        // Writing to a string does not fail.
        let _ = write!(xml, "<feature name=\"{name}\">");
        for Described { name, bits, kind, .. } in *registers {
            let _ = write!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>");
        }
        xml.push_str("</feature>");
    }
    xml.push_str("</target>");
    xml
}

/// What is known of one context.
pub(super) struct Known<'s> {
    pub(super) registers: Option<&'s Registers>,
    pub(super) thread_pointer: Option<u64>,
}

impl Known<'_> {
    /// All registers.
    pub(super) fn all(&self, arch: &Arch) -> Served {
        let mut bytes = Vec::new();
        for described in described(arch) {
            match self.value(described) {
                Some(value) => bytes.extend(value.to_le_bytes().map(Some)),
                None => bytes.extend(std::iter::repeat_n(None, (described.bits / 8) as usize)),
            }
        }
        Served(bytes)
    }

    /// One register, by its place among all; `None` if it is unavailable.
    pub(super) fn one(&self, arch: &Arch, number: Number) -> Option<u64> {
        self.value(described(arch).nth(number.0)?)
    }

    fn value(&self, described: &Described) -> Option<u64> {
        match described.value {
            Value::General(number) => self.registers?.get(Register(number)),
            Value::ThreadPointer => self.thread_pointer,
            Value::Unknown => None,
        }
    }
}

/// All registers of a CPU, in the order of the protocol.
fn described(arch: &Arch) -> impl Iterator<Item = &'static Described> {
    features(arch).1.iter().flat_map(|feature| feature.registers)
}

/// A register's place among all of its CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(usize);

impl RegId for Number {
    /// How long it is depends on the CPU, which is not known here.
    fn from_raw_id(id: usize) -> Option<(Number, Option<NonZeroUsize>)> {
        Some((Number(id), None))
    }
}

/// A context's registers as bytes, `None` for each that is unavailable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Served(Vec<Option<u8>>);

impl gdbstub::arch::Registers for Served {
    type ProgramCounter = u64;

    /// Nothing asks for it.
    fn pc(&self) -> u64 {
        0
    }

    fn gdb_serialize(&self, write: impl FnMut(Option<u8>)) {
        self.0.iter().copied().for_each(write);
    }

    /// Registers are not written, whatever they are to be.
    fn gdb_deserialize(&mut self, _: &[u8]) -> Result<(), ()> {
        Ok(())
    }
}

/// What gdbstub has to know of a CPU in advance: here, what all 64-bit ones share.
pub(super) enum Wide {}

impl gdbstub::arch::Arch for Wide {
    type Usize = u64;
    type Registers = Served;
    type BreakpointKind = usize;
    type RegId = Number;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::AARCH64;

    #[test]
    fn the_unknown_is_unavailable_and_the_rest_in_its_place() {
        for arch in [&X86_64, &AARCH64] {
            let mut registers = Registers::unknown();
            registers.set(arch.sp, 0x1122_3344_5566_7788);
            registers.set(arch.pc, 0);
            let known = Known { registers: Some(&registers), thread_pointer: None };
            let Served(bytes) = known.all(arch);
            let size: u32 = described(arch).map(|one| one.bits / 8).sum();
            assert_eq!(bytes.len(), size as usize);
            assert_eq!(bytes.iter().filter(|byte| byte.is_some()).count(), 16, "{}", arch.name);
            let place = |dwarf: Register| {
                let described = described(arch);
                let before =
                    described.take_while(|one| !matches!(one.value, Value::General(number) if number == dwarf.0));
                before.map(|one| one.bits as usize / 8).sum::<usize>()
            };
            let word = |at: usize| -> Option<Vec<u8>> { bytes[at..at + 8].iter().copied().collect() };
            assert_eq!(word(place(arch.sp)), Some(0x1122_3344_5566_7788_u64.to_le_bytes().to_vec()));
            assert_eq!(word(place(arch.pc)), Some(vec![0; 8]));
            assert_eq!(word(place(arch.fp)), None);
            let singly: Vec<u64> = (0..1000).filter_map(|number| known.one(arch, Number(number))).collect();
            assert_eq!(singly, [0x1122_3344_5566_7788, 0], "the stack pointer stands before the program counter");
        }
    }

    #[test]
    fn a_description_names_each_register_once() {
        for arch in [&X86_64, &AARCH64] {
            let xml = description(arch);
            let count = features(arch).1.iter().map(|feature| feature.registers.len()).sum::<usize>();
            assert_eq!(xml.matches("<reg ").count(), count);
            assert!(xml.starts_with("<?xml") && xml.ends_with("</target>"), "{xml}");
        }
    }
}
