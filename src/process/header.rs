//! Whether a file is a core file that can be read, and if not, what it is.

use std::path::Path;

use object::elf::{self, FileHeader64, FileType, Machine};
use object::{BigEndian, LittleEndian, pod};

use crate::arch::Arch;
use crate::process::error::OpenError;

/// The first bytes of compressed files: of which kind, and what unpacks them.
const COMPRESSED: [(&[u8], &str, &str); 5] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -d"),
    (&[0x1f, 0x8b], "gzip", "gunzip -k"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "unxz -k"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4", "lz4 -d"),
    (b"BZh", "bzip2", "bunzip2 -k"),
];

/// A dump of another kind than a process's core file.
pub(super) struct Foreign {
    /// What it is, with its article.
    pub what: &'static str,
    /// What to do with it.
    pub remedy: &'static str,
}

/// What to read a kernel's dump with.
const KERNEL_REMEDY: &str = "crash and drgn read it, for the kernel's own stacks";

/// An ELF file that holds the memory of a whole machine, as /proc/vmcore does.
pub(super) const KERNEL_DUMP: Foreign = Foreign { what: "a dump of a whole machine", remedy: KERNEL_REMEDY };

/// The first bytes of dumps that are no ELF files: Breakpad's and Windows's minidumps (`MINIDUMP_HEADER`), makedumpfile's
/// two formats (`diskdump_mod.h`), and Windows's kernel dumps.
const FOREIGN: [(&[u8], Foreign); 5] = [
    (
        b"MDMP",
        Foreign {
            what: "a minidump",
            remedy: "minidump-stackwalk reads it; Breakpad's minidump-2-core makes a core file of it",
        },
    ),
    (b"KDUMP   ", Foreign { what: "a compressed dump of a whole machine", remedy: KERNEL_REMEDY }),
    (b"makedumpfile", Foreign { what: "a flattened dump of a whole machine", remedy: KERNEL_REMEDY }),
    (b"PAGEDU64", Foreign { what: "a dump of a whole Windows machine", remedy: "WinDbg reads it" }),
    (b"PAGEDUMP", Foreign { what: "a dump of a whole Windows machine", remedy: "WinDbg reads it" }),
];

/// Checks the header of a core file with the content `data`; returns its CPU.
pub(super) fn check(path: &Path, data: &[u8]) -> Result<&'static Arch, OpenError> {
    let path = || path.to_owned();
    if data.is_empty() {
        return Err(OpenError::Empty { path: path() });
    }
    if let Some((_, format, tool)) = COMPRESSED.iter().find(|(magic, ..)| data.starts_with(magic)) {
        return Err(OpenError::Compressed { path: path(), format, command: format!("{tool} {}", quoted(&path())) });
    }
    if let Some((_, Foreign { what, remedy })) = FOREIGN.iter().find(|(magic, _)| data.starts_with(magic)) {
        return Err(OpenError::Foreign { path: path(), what, remedy });
    }
    let is_elf = data.iter().zip(elf::ELFMAG).all(|(byte, magic)| *byte == magic);
    if !is_elf {
        return Err(OpenError::NotElf { path: path() });
    }
    let Ok((header, _)) = pod::from_bytes::<FileHeader64<LittleEndian>>(data) else {
        return Err(OpenError::HeaderCut { path: path(), length: data.len() as u64 });
    };
    let is_big_endian = header.e_ident.data == elf::ELFDATA2MSB;
    let (kind, machine) = match is_big_endian {
        true => swapped(header),
        false => (header.e_type.get(LittleEndian), header.e_machine.get(LittleEndian)),
    };
    if kind != elf::ET_CORE {
        return Err(OpenError::OtherElf { path: path(), what: kind_name(kind) });
    }
    if header.e_ident.class != elf::ELFCLASS64 {
        return Err(OpenError::NarrowCore { path: path() });
    }
    match Arch::of_elf_machine(machine.0) {
        Some(arch) if !is_big_endian => Ok(arch),
        _ => Err(OpenError::CoreOfOtherCpu { path: path(), machine: machine.0 }),
    }
}

fn swapped(header: &FileHeader64<LittleEndian>) -> (FileType, Machine) {
    let bytes = pod::bytes_of(header);
    let swapped = pod::from_bytes::<FileHeader64<BigEndian>>(bytes);
    swapped.map_or((FileType(0), Machine(0)), |(header, _)| {
        (header.e_type.get(BigEndian), header.e_machine.get(BigEndian))
    })
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        elf::ET_EXEC => "a program",
        elf::ET_DYN => "a program or a shared library",
        elf::ET_REL => "an object file",
        _ => "an ELF file of an unknown kind",
    }
}

/// The path, quoted for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(data: &[u8]) -> String {
        check(Path::new("/tmp/it's"), data).unwrap_err().to_string()
    }

    fn header(class: u8, order: u8, kind: u8, machine: u8) -> Vec<u8> {
        let mut data = vec![0; 64];
        data[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order]);
        let (kind_at, machine_at) = if order == 1 { (16, 18) } else { (17, 19) };
        data[kind_at] = kind;
        data[machine_at] = machine;
        data
    }

    #[test]
    fn each_kind_of_file_is_named() {
        assert_eq!(check(Path::new("core"), &header(2, 1, 4, 62)).unwrap().name, "x86_64");
        assert_eq!(check(Path::new("core"), &header(2, 1, 4, 183)).unwrap().name, "aarch64");
        for (data, says) in [
            (vec![], "is empty"),
            (vec![0x28, 0xb5, 0x2f, 0xfd, 0], r"compressed with zstd; unpack it first: zstd -d '/tmp/it'\''s'"),
            (vec![0x1f, 0x8b], "gzip"),
            (b"BZh9".to_vec(), "bunzip2 -k"),
            (b"MDMP\x93\xa7".to_vec(), "is a minidump, not a core file of a process: minidump-stackwalk reads it"),
            (b"KDUMP   \x06".to_vec(), "is a compressed dump of a whole machine"),
            (b"#!/bin/sh".to_vec(), "does not begin as an ELF file"),
            (b"\x7fELF".to_vec(), "ends after 4 bytes, within the ELF header"),
            (header(2, 1, 2, 62), "is a program, not a core file"),
            (header(2, 1, 3, 62), "is a program or a shared library, not a core file"),
            (header(2, 1, 1, 62), "is an object file"),
            (header(1, 1, 4, 3), "32-bit program"),
            (header(2, 1, 4, 243), "is a core file of RISC-V"),
            (header(2, 2, 4, 22), "is a core file of s390"),
        ] {
            assert!(refused(&data).contains(says), "{}", refused(&data));
        }
    }
}
