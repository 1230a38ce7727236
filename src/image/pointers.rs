//! Where the words of an image's data lead that the loader fills in: the addresses of code in them.
//!
//! A word is known by its relocation (System V gABI, "Relocation"; AMD64 supplement, section 4.4), or by what the file
//! holds where the image is linked to lie at one place. A word that the program itself may write to says nothing
//! unless the relocation binds a name.

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, Rela64};

use super::symbols::{Table, all};
use super::{CodeBytes, Image};

/// Where a word leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pointer<'a> {
    /// To this svma of the same image.
    Here(u64),
    /// To the function of this name, which any image may define.
    Named(&'a [u8]),
    /// To whatever the function at this svma returns, which the loader calls once (`STT_GNU_IFUNC`).
    Chosen(u64),
}

/// The words that hold addresses of code.
#[derive(Debug)]
pub struct Pointers<'a> {
    /// By the svma of the word.
    words: Vec<(u64, Pointer<'a>)>,
}

impl<'a> Pointers<'a> {
    /// Where the word at `svma` leads once the program runs; `None` where it holds no address of code, or no relocation
    /// says so.
    pub fn at(&self, svma: u64) -> Option<Pointer<'a>> {
        let place = self.words.binary_search_by_key(&svma, |(word, _)| *word).ok()?;
        self.words.get(place).map(|(_, pointer)| *pointer)
    }

    /// All of them, by their places.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Pointer<'a>)> {
        self.words.iter().copied()
    }
}

/// More words than this are not read. The largest library known here, rustc's, has half a million.
const MOST_WORDS: usize = 1 << 23;

impl Image {
    /// The words that the loader fills in with addresses of code.
    pub fn pointers(&self) -> Pointers<'_> {
        let code = self.code();
        let symbols = Table::dynamic(self);
        let mut words: Vec<(u64, Pointer<'_>)> = Vec::new();
        for relocation in self.relocations().into_iter().flatten().take(MOST_WORDS) {
            let addend = relocation.r_addend.get(LE).cast_unsigned();
            let pointer = match relocation.r_type(LE, false) {
                elf::R_X86_64_RELATIVE => Some(Pointer::Here(addend)).filter(|_| holds(&code, addend)),
                elf::R_X86_64_IRELATIVE => Some(Pointer::Chosen(addend)),
                // A plain word with a name's address may be written over, unlike those that calls go through.
                elf::R_X86_64_64 if !self.is_constant(relocation.r_offset.get(LE)) => None,
                elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_64 => {
                    let index = relocation.r_sym(LE, false) as usize;
                    symbols.as_ref().and_then(|symbols| symbols.binds(index))
                }
                _ => None,
            };
            words.extend(pointer.map(|pointer| (relocation.r_offset.get(LE), pointer)));
        }
        for word in self.packed_relocations() {
            let target = self.word(word).filter(|target| holds(&code, *target));
            words.extend(target.map(|target| (word, Pointer::Here(target))));
        }
        words.sort_by_key(|(word, _)| *word);
        words.dedup_by_key(|(word, _)| *word);
        Pointers { words }
    }

    /// Where the word at `svma` leads, if that is the same whenever the program runs: see [`Pointers::at`]; or by the
    /// word itself, where neither the loader nor the program ever writes to it.
    pub fn constant_pointer<'a>(&self, pointers: &Pointers<'a>, svma: u64) -> Option<Pointer<'a>> {
        match pointers.at(svma) {
            Some(pointer @ (Pointer::Named(_) | Pointer::Chosen(_))) => Some(pointer),
            _ if !self.is_constant(svma) => None,
            Some(pointer) => Some(pointer),
            None if self.headers().is_fixed => {
                let target = self.word(svma)?;
                self.headers().segment_at(target).filter(|segment| segment.execute).map(|_| Pointer::Here(target))
            }
            None => None,
        }
    }

    /// Whether what lies at `svma` stays as it is once the program runs.
    pub fn is_constant(&self, svma: u64) -> bool {
        let headers = self.headers();
        let is_sealed = headers.relro.is_some_and(|relro| relro.contains(svma));
        is_sealed || headers.segment_at(svma).is_some_and(|segment| !segment.write)
    }

    /// The addresses at which the file says that its code is entered: where the program begins, and what the loader calls
    /// first and last.
    pub fn entries(&self) -> Vec<u64> {
        let of_loader = [elf::DT_INIT, elf::DT_FINI].into_iter().filter_map(|tag| self.dynamic_value(tag));
        of_loader.chain([self.headers().start]).filter(|entry| *entry != 0).collect()
    }

    /// The eight bytes that the file has at `svma`, as a number.
    fn word(&self, svma: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read(svma, &mut word).then(|| u64::from_le_bytes(word))
    }

    /// The tables of relocations that the loader works off.
    fn relocations(&self) -> Vec<&[Rela64<LE>]> {
        let table = |place: elf::DynamicTag, size: elf::DynamicTag| {
            let bytes = self.loaded_tail(self.dynamic_value(place)?)?;
            let size = usize::try_from(self.dynamic_value(size)?).ok()?;
            Some(all(&bytes[..size.min(bytes.len())]))
        };
        let of_loader = [(elf::DT_RELA, elf::DT_RELASZ), (elf::DT_JMPREL, elf::DT_PLTRELSZ)];
        let tables: Vec<_> = of_loader.into_iter().filter_map(|(place, size)| table(place, size)).collect();
        if !tables.is_empty() {
            return tables;
        }
        // A static program works them off itself.
        let sections = self.headers().sections.iter();
        let tables = sections.filter(|section| section.kind == elf::SHT_RELA && section.is_loaded);
        tables.map(|section| all(section.data(self.bytes()))).collect()
    }

    /// The words that are moved with the image and listed in short form (`DT_RELR`): an address, and bitmaps of those
    /// that follow it.
    fn packed_relocations(&self) -> Vec<u64> {
        let table = || {
            let bytes = self.loaded_tail(self.dynamic_value(elf::DT_RELR)?)?;
            let size = usize::try_from(self.dynamic_value(elf::DT_RELRSZ)?).ok()?;
            Some(&bytes[..size.min(bytes.len())])
        };
        let (entries, _) = table().unwrap_or_default().as_chunks::<8>();
        let (mut words, mut next) = (Vec::new(), 0u64);
        for entry in entries.iter().map(|entry| u64::from_le_bytes(*entry)) {
            if entry & 1 == 0 {
                words.push(entry);
                next = entry.wrapping_add(8);
            } else {
                let is_set = |bit: &u64| entry >> (bit + 1) & 1 == 1;
                words.extend((0..63).filter(is_set).map(|bit| next.wrapping_add(8 * bit)));
                next = next.wrapping_add(63 * 8);
            }
            if words.len() > MOST_WORDS {
                break;
            }
        }
        words
    }

    fn dynamic_value(&self, tag: elf::DynamicTag) -> Option<u64> {
        let entries: &[Dyn64<LE>] = all(self.headers().dynamic?.data(self.bytes()));
        Some(entries.iter().find(|entry| entry.d_tag.get(LE) == tag)?.d_val.get(LE))
    }
}

fn holds(code: &[CodeBytes<'_>], svma: u64) -> bool {
    code.iter().any(|part| part.range().contains(&svma))
}
