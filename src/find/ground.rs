//! What is known of the memory that stacks lie in, whoever runs on them.

use crate::addr::{Addr, AddrRange, Pc};
use crate::mapping::{Mapping, mapping_at};
use crate::process::{Pages, PagesUnknown};

/// What is known of the memory that the chains lie in.
pub(crate) struct Ground<'g> {
    /// The number of the process, which is that of its first thread.
    pub(crate) pid: i32,
    /// Sorted by address.
    pub(crate) mappings: &'g [Mapping],
    /// Where the threads' descriptors lie, sorted.
    pub(crate) descriptors: Vec<Addr>,
    /// The soft `RLIMIT_STACK` in bytes; `None` where it is unlimited or unknown.
    pub(crate) stack_limit: Option<u64>,
    /// Which pages of a range hold something.
    pub(crate) pages: &'g dyn Fn(AddrRange) -> Result<Pages, PagesUnknown>,
    /// Whether the code of the function there explains a frame that is larger than a guard.
    pub(crate) makes_room: &'g dyn Fn(Pc) -> bool,
}

impl Ground<'_> {
    /// The lowest thread descriptor above `addr` in the same mapping.
    pub(crate) fn descriptor_above(&self, addr: Addr) -> Option<Addr> {
        let next = self.descriptors.partition_point(|descriptor| *descriptor <= addr);
        let mapping = mapping_at(self.mappings, addr)?;
        self.descriptors.get(next).copied().filter(|descriptor| mapping.range.contains(*descriptor))
    }
}
