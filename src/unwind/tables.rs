//! What unwinding knows of a program's code: the images, where each lies, and the entries that describe it.
//!
//! Made once for a set of images, before the target is stopped, and shared by all walks in it.

use std::cell::RefCell;

use super::cfi::Entries;
use super::entry::{Cies, Entry};
use crate::addr::{Addr, AddrRange, PAGE, Pc};
use crate::arch::{AARCH64, Arch};
use crate::image::{Module, Modules, UnwindSections};
use crate::memory::Memory;

/// What unwinding needs to see of a program's code.
pub trait Code: Sync {
    /// Whether a program may run the code at `at`.
    fn is_executable(&self, at: Addr) -> bool;

    /// Fills `into` with the code at `at` as its file holds it; `false` if no file does.
    fn code(&self, at: Addr, into: &mut [u8]) -> bool;
}

impl Code for Modules {
    fn is_executable(&self, at: Addr) -> bool {
        Modules::is_executable(self, at)
    }

    fn code(&self, at: Addr, into: &mut [u8]) -> bool {
        Modules::code(self, at, into)
    }
}

/// An image in the target's address space.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'d> {
    /// Where its code lies.
    pub ranges: &'d [AddrRange],
    /// What the loader added to the file's addresses.
    pub bias: u64,
    /// Its unwind sections.
    pub sections: UnwindSections<'d>,
}

/// The rules of a program's images, ready to be searched.
pub struct Tables<'d> {
    arch: &'static Arch,
    code: &'d dyn Code,
    images: Vec<Image<'d>>,
    /// The code of the images, sorted by address, each with the number of its image.
    ranges: Vec<(AddrRange, usize)>,
    /// Where the images say that a program begins.
    entries: Vec<Addr>,
}

struct Image<'d> {
    bias: u64,
    entries: Entries<'d>,
}

impl<'d> Tables<'d> {
    /// The rules of a target's modules.
    ///
    /// Builds the indexes that walks are certain to need: for an image without `.eh_frame_hdr`, and for `.debug_frame`,
    /// that takes some 60 ns for each function. Call it before the target is stopped.
    pub fn new(arch: &'static Arch, modules: &'d Modules) -> Tables<'d> {
        let placed = modules.iter().filter_map(|module| {
            let sections = module.image.as_ref()?.unwind_sections();
            Some(Placed { ranges: &module.ranges, bias: module.bias, sections })
        });
        let entry = |module: &Module| Some(Addr(module.image.as_ref()?.entry()?.wrapping_add(module.bias)));
        Tables { entries: modules.iter().filter_map(entry).collect(), ..Tables::of(arch, modules, placed) }
    }

    /// The rules of images that lie in `code`.
    pub fn of(arch: &'static Arch, code: &'d dyn Code, placed: impl IntoIterator<Item = Placed<'d>>) -> Tables<'d> {
        let is_aarch64 = arch.elf_machine == AARCH64.elf_machine;
        let vendor = if is_aarch64 { gimli::Vendor::AArch64 } else { gimli::Vendor::Default };
        let (mut images, mut ranges) = (Vec::new(), Vec::new());
        for placed in placed {
            ranges.extend(placed.ranges.iter().map(|range| (*range, images.len())));
            let entries = Entries::new(&placed.sections, vendor);
            entries.prepare();
            images.push(Image { bias: placed.bias, entries });
        }
        ranges.sort_unstable();
        Tables { arch, code, images, ranges, entries: Vec::new() }
    }

    /// The CPU whose code it is.
    pub fn arch(&self) -> &'static Arch {
        self.arch
    }

    /// The start of the function whose entry covers `at`.
    pub fn function_start(&self, at: Addr) -> Option<Addr> {
        self.function_starts().of(at)
    }

    /// What the entry that covers `at` says of exceptions; `None` if no entry covers it.
    pub fn exceptions(&self, at: Addr) -> Option<Exceptions> {
        let found = self.find(at, &mut Cies::default())?;
        let placed = |svma: u64| Addr(svma.wrapping_add(found.bias));
        Some(Exceptions { start: found.start(), table: found.entry.lsda.map(placed) })
    }

    /// Looks up the starts of many functions.
    pub fn function_starts(&self) -> FunctionStarts<'_, 'd> {
        FunctionStarts { tables: self, cies: RefCell::default() }
    }

    /// The program counter by which a debugger names a context's function rightly: it looks it up unchanged. If a
    /// call was the last instruction of its function, that is within the call.
    pub(crate) fn shown_pc(&self, pc: Pc) -> Addr {
        let (at, looked_up) = (pc.addr(), pc.lookup());
        if self.function_start(at) == self.function_start(looked_up) { at } else { looked_up }
    }

    pub(super) fn is_executable(&self, at: Addr) -> bool {
        self.image_at(at).is_some() || self.code.is_executable(at)
    }

    /// Whether `at` lies in the routine at which the kernel lets a program begin. The C libraries' are shorter than 64
    /// bytes.
    pub(super) fn begins_program(&self, at: Addr) -> bool {
        self.entries.iter().any(|entry| at.0.checked_sub(entry.0).is_some_and(|distance| distance < 64))
    }

    /// Whether the code at `at` belongs to none of the images, as that of a just-in-time compiler.
    pub(super) fn is_outside_images(&self, at: Addr) -> bool {
        self.is_executable(at) && self.image_at(at).is_none()
    }

    /// Fills `into` with the code at `at`: from the file that holds it, or from memory if no file does.
    pub(super) fn code(&self, memory: &dyn Memory, at: Addr, into: &mut [u8]) -> bool {
        self.code.code(at, into) || memory.read(at, into).is_ok()
    }

    /// The code that ends at `at`, as many bytes as are needed to see a call in it; fewer at the start of a page whose
    /// neighbour can't be read.
    pub(super) fn code_before<'b>(&self, memory: &dyn Memory, at: Addr, into: &'b mut [u8; 16]) -> &'b [u8] {
        let in_page = at.offset(-1).0 % PAGE + 1;
        for length in [self.arch.longest_call, self.arch.longest_call.min(in_page as usize)] {
            if let Some(code) = into.get_mut(..length)
                && self.code(memory, at.offset(-(length as i64)), code)
            {
                return &into[..length];
            }
        }
        &[]
    }

    /// The entry that covers `at`. A CIE that was met before is taken from `cies`.
    pub(super) fn find(&self, at: Addr, cies: &mut Cies<'d>) -> Option<Found<'_, 'd>> {
        let image = self.image_at(at)?;
        let entry = image.entries.find(at.0.wrapping_sub(image.bias), cies)?;
        Some(Found { entry, bias: image.bias })
    }

    fn image_at(&self, at: Addr) -> Option<&Image<'d>> {
        let next = self.ranges.partition_point(|(range, _)| range.low <= at);
        let (_, image) = self.ranges.get(next.checked_sub(1)?).filter(|(range, _)| range.contains(at))?;
        self.images.get(*image)
    }
}

/// What an entry says of exceptions that pass through its function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exceptions {
    /// The function's first address.
    pub start: Addr,
    /// Its language specific data area; `None` if exceptions pass through it unnoticed.
    pub table: Option<Addr>,
}

/// The starts of functions, one after the other.
pub struct FunctionStarts<'t, 'd> {
    tables: &'t Tables<'d>,
    /// The common parts that were met before.
    cies: RefCell<Cies<'d>>,
}

impl FunctionStarts<'_, '_> {
    /// The start of the function whose entry covers `at`.
    pub fn of(&self, at: Addr) -> Option<Addr> {
        self.tables.find(at, &mut self.cies.borrow_mut()).map(|found| found.start())
    }
}

/// An entry, and what the loader added to its addresses.
pub(super) struct Found<'t, 'd> {
    pub(super) entry: Entry<'t, 'd>,
    pub(super) bias: u64,
}

impl Found<'_, '_> {
    /// `at` as the file names it.
    pub(super) fn svma(&self, at: Addr) -> u64 {
        at.0.wrapping_sub(self.bias)
    }

    pub(super) fn covers(&self, at: Addr) -> bool {
        self.entry.covers(self.svma(at))
    }

    /// The first address that it covers.
    pub(super) fn start(&self) -> Addr {
        Addr(self.entry.start().wrapping_add(self.bias))
    }

    pub(super) fn is_signal(&self) -> bool {
        self.entry.is_signal
    }
}
