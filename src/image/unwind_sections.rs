//! Where an image keeps its call frame information.
//!
//! `.eh_frame` is loaded and found by `.eh_frame_hdr`, which a program header names (Linux Standard Base, section
//! 10.6), so that a file without section headers has it too. `.debug_frame` (DWARF 5, section 6.4) is not loaded.

use gimli::{BaseAddresses, EhFrameHdr, EndianSlice, LittleEndian, Pointer};

use super::Image;

/// The bytes of a section or segment, and where they lie before relocation.
#[derive(Clone, Copy, Debug)]
pub struct SectionBytes<'a> {
    /// The svma of the first byte; 0 for a section that is not loaded.
    pub svma: u64,
    /// Its content, unpacked.
    pub bytes: &'a [u8],
}

/// An image's call frame information, and the addresses that its pointers may be relative to.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnwindSections<'a> {
    /// The search table of `eh_frame`.
    pub eh_frame_hdr: Option<SectionBytes<'a>>,
    /// Without section headers: from where `eh_frame_hdr` points to, to the end of that segment; a terminator ends it
    /// earlier.
    pub eh_frame: Option<SectionBytes<'a>>,
    /// The same rules in DWARF's own form.
    pub debug_frame: Option<SectionBytes<'a>>,
    /// The svma of `.text`, for `DW_EH_PE_textrel`.
    pub text: Option<u64>,
    /// The svma of `.got`, for `DW_EH_PE_datarel` in `eh_frame`.
    pub got: Option<u64>,
}

impl UnwindSections<'_> {
    /// The same addresses in gimli's form.
    pub fn bases(&self) -> BaseAddresses {
        let mut bases = BaseAddresses::default();
        if let Some(section) = self.eh_frame_hdr {
            bases = bases.set_eh_frame_hdr(section.svma);
        }
        if let Some(section) = self.eh_frame {
            bases = bases.set_eh_frame(section.svma);
        }
        if let Some(text) = self.text {
            bases = bases.set_text(text);
        }
        if let Some(got) = self.got {
            bases = bases.set_got(got);
        }
        bases
    }
}

pub(super) fn of(image: &Image) -> UnwindSections<'_> {
    let eh_frame_hdr = eh_frame_hdr(image);
    UnwindSections {
        eh_frame_hdr,
        eh_frame: named(image, b".eh_frame").or_else(|| eh_frame_by_header(image, eh_frame_hdr?)),
        debug_frame: named(image, b".debug_frame"),
        text: image.section(b".text").map(|section| section.svma),
        got: image.section(b".got").map(|section| section.svma),
    }
}

fn named<'a>(image: &'a Image, name: &[u8]) -> Option<SectionBytes<'a>> {
    Some(SectionBytes { svma: image.section(name).map_or(0, |section| section.svma), bytes: image.section_data(name)? })
}

fn eh_frame_hdr(image: &Image) -> Option<SectionBytes<'_>> {
    let by_segment = || {
        let segment = image.headers().eh_frame_hdr?;
        let tail = image.loaded_tail(segment.svma)?;
        let bytes = tail.get(..usize::try_from(segment.memory_size).ok()?).unwrap_or(tail);
        Some(SectionBytes { svma: segment.svma, bytes })
    };
    by_segment().or_else(|| named(image, b".eh_frame_hdr"))
}

/// `.eh_frame` where `header` says it begins.
fn eh_frame_by_header<'a>(image: &'a Image, header: SectionBytes<'a>) -> Option<SectionBytes<'a>> {
    const ADDRESS_SIZE: u8 = 8;
    let bases = BaseAddresses::default().set_eh_frame_hdr(header.svma);
    let parsed = EhFrameHdr::from(EndianSlice::new(header.bytes, LittleEndian)).parse(&bases, ADDRESS_SIZE).ok()?;
    let Pointer::Direct(svma) = parsed.eh_frame_ptr() else { return None };
    Some(SectionBytes { svma, bytes: image.loaded_tail(svma)? })
}
