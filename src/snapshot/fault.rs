//! The signal that a thread of a snapshot is about to take, and what lies where it was raised.

use crate::addr::{Addr, AddrRange};
use crate::mapping::{Access, Mapping, Origin, mapping_at};
use crate::process::{Fault as Raised, PageState, Pages, PagesUnknown};

/// A signal that the kernel raised for what a thread did, or that ends the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The signal.
    pub raised: Raised,
    /// The thread that takes it.
    pub thread: i32,
    /// What lies at the address that it was raised for.
    pub at: Land,
}

/// What lies at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Land {
    /// Nothing is mapped there, or there is no address.
    Nothing,
    /// Pages that nobody may touch.
    Forbidden(AddrRange),
    /// Memory that may be written to.
    Writable(AddrRange),
    /// Memory that may only be read.
    Kept(AddrRange),
    /// Code.
    Code(AddrRange),
    /// A file's pages beyond its end, or others that the kernel can't fill.
    File(AddrRange),
}

impl Fault {
    /// A signal that thread `thread` takes, in a process with these mappings, sorted by address.
    pub(crate) fn new(
        raised: Raised,
        thread: i32,
        mappings: &[Mapping],
        pages: impl Fn(AddrRange) -> Result<Pages, PagesUnknown>,
    ) -> Fault {
        let at = raised.address.map_or(Land::Nothing, |address| land(address, &raised, mappings, pages));
        Fault { raised, thread, at }
    }

    /// The address that it was raised for.
    pub fn address(&self) -> Option<Addr> {
        self.raised.address
    }
}

/// `si_code` of a fault on an address for which the kernel found no mapping (`SEGV_MAPERR`); one with a mapping that
/// forbids the access has another.
const UNMAPPED: i32 = 1;

fn land(
    address: Addr,
    raised: &Raised,
    mappings: &[Mapping],
    pages: impl Fn(AddrRange) -> Result<Pages, PagesUnknown>,
) -> Land {
    let Some(mapping) = mapping_at(mappings, address) else { return Land::Nothing };
    let range = mapping.range;
    if mapping.access == Access::default() {
        return Land::Forbidden(range);
    }
    let guard = pages(range).ok().and_then(|pages| {
        let run = pages.runs.into_iter().find(|run| run.range.contains(address))?;
        (run.state == PageState::Guard).then_some(run.range)
    });
    if let Some(guard) = guard {
        return Land::Forbidden(guard);
    }
    match &mapping.origin {
        // Memory that allows the access, and where the kernel found none: a guard of `MADV_GUARD_INSTALL`, which a core
        // file does not show.
        _ if raised.signal == libc::SIGSEGV && raised.code == UNMAPPED && mapping.access.write => {
            Land::Forbidden(AddrRange::new(address, address))
        }
        Origin::File(_) if raised.signal == libc::SIGBUS => Land::File(range),
        _ if mapping.access.execute => Land::Code(range),
        _ if mapping.access.write => Land::Writable(range),
        _ => Land::Kept(range),
    }
}
