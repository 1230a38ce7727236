//! This process as something to unwind: its registers, its memory, its modules.
#![allow(unsafe_code)]

use std::arch::asm;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use stackscope::addr::{Addr, AddrRange};
use stackscope::image::{Bytes, Files, Modules, Opened};
use stackscope::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use stackscope::memory::{Memory, Unreadable};
use stackscope::registers::{Register, Registers};

/// Our own memory, read through the kernel, which refuses what is not mapped.
pub(crate) struct OwnMemory(fs::File);

impl OwnMemory {
    pub(crate) fn open() -> OwnMemory {
        OwnMemory(fs::File::open("/proc/self/mem").expect("our own memory"))
    }
}

impl Memory for OwnMemory {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read_exact_at(into, at.0).map_err(|_| Unreadable { at })
    }
}

struct OwnFiles;

impl Files for OwnFiles {
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<Opened> {
        let bytes = self.open(&mapping.file().ok_or(io::ErrorKind::NotFound)?.path)?;
        Ok(Opened { bytes, same_file: true, stamp: None })
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        Ok(Arc::new(fs::read(path)?))
    }
}

fn mapping(line: &str) -> Mapping {
    let mut words = line.split_ascii_whitespace();
    let (low, high) = words.next().unwrap().split_once('-').unwrap();
    let access = words.next().unwrap().as_bytes();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let offset = number(words.next().unwrap());
    let inode = words.nth(1).unwrap().parse().unwrap();
    let origin = match words.next() {
        None => Origin::Anonymous,
        Some("[vdso]") => Origin::Vdso,
        Some(name) if name.starts_with('[') => Origin::Special(name.into()),
        Some(path) => Origin::File(MappedFile {
            path: path.into(),
            deleted: false,
            offset,
            identity: Some(FileIdentity { device: 0, inode }),
        }),
    };
    Mapping {
        range: AddrRange::new(Addr(number(low)), Addr(number(high))),
        access: Access { read: access[0] == b'r', write: access[1] == b'w', execute: access[2] == b'x' },
        shared: access[3] == b's',
        origin,
    }
}

pub(crate) fn modules() -> Modules {
    let mappings: Vec<_> = fs::read_to_string("/proc/self/maps").unwrap().lines().map(mapping).collect();
    Modules::load(&mappings, &OwnMemory::open(), &OwnFiles)
}

/// Calls `then` with the registers of this function as they were just before.
#[inline(never)]
pub(crate) fn with_registers<T>(then: impl FnOnce(Registers) -> T) -> T {
    // In the order of DWARF numbers: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, rip.
    let mut words = [0u64; 17];
    // SAFETY: writes 17 words to `words`, which is that long, and changes no register but rcx.
    unsafe {
        asm!(
            "mov [rax + 8*3], rbx", "mov [rax + 8*6], rbp", "mov [rax + 8*7], rsp",
            "mov [rax + 8*12], r12", "mov [rax + 8*13], r13", "mov [rax + 8*14], r14", "mov [rax + 8*15], r15",
            "lea rcx, [rip]", "mov [rax + 8*16], rcx",
            in("rax") words.as_mut_ptr(), out("rcx") _, options(nostack),
        );
    }
    let mut registers = Registers::unknown();
    for number in [3, 6, 7, 12, 13, 14, 15, 16] {
        registers.set(Register(number), words[usize::from(number)]);
    }
    let result = then(registers);
    // Keeps `words`, and with it this frame, alive over the call.
    std::hint::black_box(&mut words);
    result
}
