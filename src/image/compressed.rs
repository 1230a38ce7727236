//! Unpacks compressed parts of ELF files, within bounds.
//!
//! Three forms are in use: `SHF_COMPRESSED` sections (ELF gABI, "Section Compression": zlib and Zstandard), their
//! forerunner `.zdebug_*` (binutils before 2.26, Go before 1.19), and `.gnu_debugdata` (MiniDebugInfo: an xz file).
//! All state how long the result is; a file that states an unlikely length is rejected before anything is unpacked.

use std::io::{self, Write};

use object::elf::{self, CompressionHeader64};
use object::read::elf::CompressionHeader;
use object::{CompressedData, CompressionFormat, LittleEndian as LE, pod};

/// The longest result in bytes; the debug sections of the largest programs known are shorter.
const LONGEST: u64 = 1 << 30;

/// The highest ratio of deflate (zlib's technical notes: 1032:1). Debug information has about 3:1.
const MOST_GAIN: u64 = 1032;

/// The content of a section with `SHF_COMPRESSED`.
pub(crate) fn section(data: &[u8]) -> Option<Vec<u8>> {
    let (header, packed) = pod::from_bytes::<CompressionHeader64<LE>>(data).ok()?;
    let format = match header.ch_type(LE) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => return None,
    };
    unpack(format, packed, header.ch_size(LE))
}

/// The content of a `.zdebug_*` section: `ZLIB`, the length as a big-endian word of eight bytes, zlib data.
pub(crate) fn zdebug_section(data: &[u8]) -> Option<Vec<u8>> {
    let (length, packed) = data.strip_prefix(b"ZLIB")?.split_first_chunk::<8>()?;
    unpack(CompressionFormat::Zlib, packed, u64::from_be_bytes(*length))
}

fn unpack(format: CompressionFormat, packed: &[u8], length: u64) -> Option<Vec<u8>> {
    if length > LONGEST || length / MOST_GAIN > packed.len() as u64 {
        return None;
    }
    let data = CompressedData { format, data: packed, uncompressed_size: length };
    Some(data.decompress().ok()?.into_owned())
}

/// The content of an xz file.
pub(crate) fn xz(packed: &[u8]) -> Option<Vec<u8>> {
    let length = xz_length(packed)?;
    if length > LONGEST {
        return None;
    }
    let mut unpacked = Bounded { bytes: Vec::new(), longest: usize::try_from(length).ok()? };
    lzma_rs::xz_decompress(&mut &*packed, &mut unpacked).ok()?;
    Some(unpacked.bytes)
}

/// How long the first block of an xz file becomes, by the sizes that its LZMA2 chunks state.
///
/// The decoder keeps to these sizes but has no limit of its own, so they are added up before it starts.
/// (The .xz File Format 1.1.0, sections 2.1.1 and 3.1; the chunks are described in the XZ Embedded sources.)
fn xz_length(packed: &[u8]) -> Option<u64> {
    const STREAM_HEADER: usize = 12;
    let block = packed.get(STREAM_HEADER..)?;
    let header_size = (usize::from(*block.first()?) + 1) * 4;
    let mut chunks = block.get(header_size..)?;
    let mut length = 0;
    loop {
        let size = |at: usize| Some(u64::from(u16::from_be_bytes([*chunks.get(at)?, *chunks.get(at + 1)?])) + 1);
        let (unpacked, whole_chunk) = match *chunks.first()? {
            0 => return Some(length),
            1 | 2 => (size(1)?, 3 + size(1)?),
            control @ 0x80.. => {
                let properties = u64::from(control >= 0xc0);
                ((u64::from(control & 0x1f) << 16) + size(1)?, 5 + properties + size(3)?)
            }
            _ => return None,
        };
        length += unpacked;
        chunks = chunks.get(usize::try_from(whole_chunk).ok()?..)?;
    }
}

/// Collects what is written, up to a length.
struct Bounded {
    bytes: Vec<u8>,
    longest: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.longest - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_length_that_cannot_be() {
        let mut section_bytes = Vec::new();
        section_bytes.extend_from_slice(&1u32.to_le_bytes());
        section_bytes.extend_from_slice(&0u32.to_le_bytes());
        section_bytes.extend_from_slice(&(1u64 << 29).to_le_bytes());
        section_bytes.extend_from_slice(&1u64.to_le_bytes());
        section_bytes.extend_from_slice(&[0x78, 0x9c, 3, 0, 0, 0, 0, 1]);
        assert_eq!(section(&section_bytes), None);
        section_bytes[8..16].fill(0);
        assert_eq!(section(&section_bytes), Some(Vec::new()));
    }

    #[test]
    fn unpacks_xz_and_knows_its_length_before() {
        let mut packed = Vec::new();
        let content = b"stack ".repeat(50_000);
        lzma_rs::xz_compress(&mut &content[..], &mut packed).unwrap();
        assert_eq!(xz_length(&packed), Some(content.len() as u64));
        assert_eq!(xz(&packed), Some(content));
        packed.truncate(100);
        assert_eq!(xz(&packed), None);
    }
}
