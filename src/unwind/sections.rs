//! The sections of one image that hold its call frame information.

use gimli::{BaseAddresses, EndianSlice, LittleEndian};

use crate::image::{SectionBytes, UnwindSections};

/// The bytes of an unwind section.
pub(crate) type Slice<'d> = EndianSlice<'d, LittleEndian>;
/// What entries have in common.
pub(super) type Cie<'d> = gimli::CommonInformationEntry<Slice<'d>>;

/// The section that an entry stands in, which its expressions are read from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    EhFrame,
    DebugFrame,
}

/// Both sections, and the addresses that their entries count from.
#[derive(Debug)]
pub(super) struct Sections<'d> {
    pub(super) bases: BaseAddresses,
    pub(super) eh_frame: gimli::EhFrame<Slice<'d>>,
    pub(super) debug_frame: gimli::DebugFrame<Slice<'d>>,
}

impl<'d> Sections<'d> {
    pub(super) fn new(sections: &UnwindSections<'d>, vendor: gimli::Vendor) -> Sections<'d> {
        let bytes = |section: Option<SectionBytes<'d>>| section.map_or(&[][..], |section| section.bytes);
        let mut eh_frame = gimli::EhFrame::new(bytes(sections.eh_frame), LittleEndian);
        eh_frame.set_vendor(vendor);
        let mut debug_frame = gimli::DebugFrame::new(bytes(sections.debug_frame), LittleEndian);
        debug_frame.set_vendor(vendor);
        Sections { bases: sections.bases(), eh_frame, debug_frame }
    }
}
