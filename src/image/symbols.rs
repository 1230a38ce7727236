//! Names by an image's symbol tables (System V gABI, "Symbol Table").
//!
//! A batch of svmas is looked up in one pass over a table, without a copy of it: that is faster than any index for the
//! few hundred svmas of a snapshot, and needs no memory of its own for a table of a million symbols.

use std::cmp::Reverse;

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, FileHeader64, Sym64};
use object::pod;
use object::read::elf::{GnuHashTable, HashTable};

use super::demangle::demangle;
use super::elf::Section;
use super::{Image, Pointer};

/// A symbol that covers an svma.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Symbol {
    /// Its name, not demangled.
    pub(crate) name: String,
    /// Where it begins.
    pub(crate) svma: u64,
}

/// A function by its symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FunctionSymbol<'a> {
    /// Its name as the linker has it, without what demanglers add.
    pub name: &'a [u8],
    /// Where it begins.
    pub svma: u64,
    /// How many bytes it takes; 0 where the symbol does not say.
    pub size: u64,
    /// Whether no other image can see it.
    pub is_local: bool,
    /// Whether it is called by the loader to choose the function that goes by its name.
    pub is_chooser: bool,
}

impl FunctionSymbol<'_> {
    /// Its name as in the source.
    pub fn demangled(&self) -> String {
        demangle(&String::from_utf8_lossy(self.name))
    }
}

/// A symbol table, and what is needed to read it.
pub(crate) struct Table<'a> {
    symbols: &'a [Sym64<LE>],
    names: &'a [u8],
    sections: &'a [Section],
    /// Whether every function is in it, so that a symbol without a size reaches up to the next one.
    is_complete: bool,
}

/// Damaged symbols may overlap without end; sound ones need far fewer steps than this.
const MOST_STEPS: u64 = 1 << 28;

impl<'a> Table<'a> {
    /// The full table (`.symtab`), which `strip` removes.
    pub(crate) fn full(image: &'a Image) -> Option<Table<'a>> {
        Table::in_section(image, elf::SHT_SYMTAB, true)
    }

    /// The table of what the image exports and imports (`.dynsym`), which can't be removed.
    pub(crate) fn dynamic(image: &'a Image) -> Option<Table<'a>> {
        Table::in_section(image, elf::SHT_DYNSYM, false).or_else(|| Table::by_dynamic_section(image))
    }

    fn in_section(image: &'a Image, kind: elf::SectionType, is_complete: bool) -> Option<Table<'a>> {
        let sections = &image.headers().sections[..];
        let section = sections.iter().find(|section| section.kind == kind)?;
        let symbols = all(section.data(image.bytes()));
        let names = sections.get(section.link as usize)?.data(image.bytes());
        (!symbols.is_empty()).then_some(Table { symbols, names, sections, is_complete })
    }

    /// The same table as a running program finds it; its hash table says how long it is.
    fn by_dynamic_section(image: &'a Image) -> Option<Table<'a>> {
        let entries: &[Dyn64<LE>] = all(image.headers().dynamic?.data(image.bytes()));
        // The loader of glibc replaces these svmas by addresses, in memory.
        let loaded = |tag: elf::DynamicTag| {
            let value = entries.iter().find(|entry| entry.d_tag.get(LE) == tag)?.d_val.get(LE);
            image.loaded_tail(value).or_else(|| image.loaded_tail(value.wrapping_sub(image.bias_in_memory()?)))
        };
        let by_gnu_hash = || {
            let table = GnuHashTable::<FileHeader64<LE>>::parse(LE, loaded(elf::DT_GNU_HASH)?).ok()?;
            table.symbol_table_length(LE)
        };
        let by_hash = || {
            let table = HashTable::<FileHeader64<LE>>::parse(LE, loaded(elf::DT_HASH)?).ok()?;
            Some(table.symbol_table_length())
        };
        let length = by_gnu_hash().or_else(by_hash)? as usize;
        let symbols = all(loaded(elf::DT_SYMTAB)?);
        let symbols = &symbols[..length.min(symbols.len())];
        Some(Table { symbols, names: loaded(elf::DT_STRTAB)?, sections: &image.headers().sections, is_complete: false })
    }

    /// The svmas of code symbols, each at most `within` bytes before one of `svmas`, which are sorted.
    pub(crate) fn starts_before(&self, svmas: &[u64], within: u64) -> Vec<u64> {
        let is_near = |start: &u64| {
            let next = svmas.partition_point(|svma| svma < start);
            svmas.get(next).is_some_and(|svma| svma - start <= within)
        };
        let code = self.symbols.iter().filter(|symbol| is_code(symbol));
        code.map(|symbol| symbol.st_value.get(LE)).filter(is_near).collect()
    }

    /// The symbols that cover `svmas`, which are sorted.
    ///
    /// If several do, the choice is that of elfutils (`dwfl_module_addrinfo`): one that other files can see rather
    /// than a local one, then the one that begins nearest, then the shorter, then the stronger binding, then the first.
    /// A symbol without a size counts only if no other covers an svma, and up to the end of its section.
    pub(crate) fn find(&self, svmas: &[u64]) -> Vec<Option<Symbol>> {
        let mut sized: Vec<Option<(Rank, &Sym64<LE>)>> = vec![None; svmas.len()];
        // The nearest symbol without a size at or below each svma, and the highest end of the others.
        let mut labels: Vec<Option<(Rank, &Sym64<LE>)>> = vec![None; svmas.len()];
        let mut ends = vec![0; svmas.len()];
        let mut steps = MOST_STEPS;
        for symbol in self.symbols.iter().filter(|symbol| is_code(symbol)) {
            let (start, size) = (symbol.st_value.get(LE), symbol.st_size.get(LE));
            let from = svmas.partition_point(|svma| *svma < start);
            let (Some(_), Some(rank)) = (svmas.get(from), Rank::of(symbol, self.names)) else { continue };
            if size == 0 {
                improve(&mut labels[from], (rank, symbol));
                continue;
            }
            let end = start.saturating_add(size);
            let mut place = from;
            while place < svmas.len() && svmas[place] < end && steps > 0 {
                improve(&mut sized[place], (rank, symbol));
                place += 1;
                steps -= 1;
            }
            if let Some(highest) = ends.get_mut(place) {
                *highest = end.max(*highest);
            }
        }
        for place in 1..svmas.len() {
            ends[place] = ends[place].max(ends[place - 1]);
            if let Some(below) = labels[place - 1] {
                improve_nearer(&mut labels[place], below);
            }
        }
        let choose = |place: usize| {
            let label = labels[place].filter(|(_, label)| self.reaches(label, svmas[place], ends[place]));
            sized[place].or(label).and_then(|(_, symbol)| self.named(symbol))
        };
        (0..svmas.len()).map(choose).collect()
    }

    /// Whether a symbol without a size reaches `svma`: no function ends in between, and it is the same section.
    fn reaches(&self, label: &Sym64<LE>, svma: u64, highest_end: u64) -> bool {
        let start = label.st_value.get(LE);
        let section = self.sections.iter().find(|section| section.contains(start) && section.is_loaded);
        start == svma
            || self.is_complete && highest_end <= start && section.is_none_or(|section| section.contains(svma))
    }

    /// The name of the symbol at `index`, if another file is to define it.
    pub(crate) fn imports(&self, index: usize) -> Option<&'a [u8]> {
        let symbol = self.symbols.get(index)?;
        if symbol.st_shndx.get(LE) != elf::SHN_UNDEF {
            return None;
        }
        name(symbol, self.names).filter(|name| !name.is_empty())
    }

    /// The names of all symbols that other files are to define.
    pub(crate) fn imported(&self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.symbols.len()).filter_map(|index| self.imports(index))
    }

    /// What the loader puts in the place of the symbol at `index`.
    pub(crate) fn binds(&self, index: usize) -> Option<Pointer<'a>> {
        let symbol = self.symbols.get(index)?;
        let is_other = symbol.st_shndx.get(LE) == elf::SHN_UNDEF;
        if !is_other && !matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC) {
            return None;
        }
        // What others can see may be theirs instead, but hardly ever is; a hidden one has no name that they see.
        match name(symbol, self.names)? {
            [] if is_other => None,
            [] => Some(Pointer::Here(symbol.st_value.get(LE))),
            name => Some(Pointer::Named(name)),
        }
    }

    /// The functions that have a symbol in this table, in its order.
    pub(crate) fn functions(&self) -> impl Iterator<Item = FunctionSymbol<'a>> {
        let names = self.names;
        let functions = self.symbols.iter().filter(|symbol| is_code(symbol) && symbol.st_type() != elf::STT_NOTYPE);
        functions.filter_map(move |symbol| {
            Some(FunctionSymbol {
                name: name(symbol, names).filter(|name| !name.is_empty())?,
                svma: symbol.st_value.get(LE),
                size: symbol.st_size.get(LE),
                is_local: symbol.st_bind() == elf::STB_LOCAL,
                is_chooser: symbol.st_type() == elf::STT_GNU_IFUNC,
            })
        })
    }

    /// Where the function called `wanted` begins that this table defines; `None` where that is chosen when it is bound.
    pub(crate) fn defines(&self, wanted: &[u8]) -> Option<u64> {
        let has_name = |symbol: &&Sym64<LE>| name(symbol, self.names) == Some(wanted);
        let symbol = self.symbols.iter().filter(|symbol| is_code(symbol)).find(has_name)?;
        (symbol.st_type() == elf::STT_FUNC).then(|| symbol.st_value.get(LE))
    }

    /// The svma of the variable called `wanted` that this table defines.
    pub(crate) fn variable(&self, wanted: &[u8]) -> Option<u64> {
        let is_defined =
            |symbol: &&Sym64<LE>| symbol.st_type() == elf::STT_OBJECT && symbol.st_shndx.get(LE) != elf::SHN_UNDEF;
        let symbol = self.symbols.iter().filter(is_defined).find(|symbol| name(symbol, self.names) == Some(wanted))?;
        Some(symbol.st_value.get(LE))
    }

    fn named(&self, symbol: &Sym64<LE>) -> Option<Symbol> {
        let name = name(symbol, self.names)?;
        Some(Symbol { name: String::from_utf8_lossy(name).into_owned(), svma: symbol.st_value.get(LE) })
    }
}

/// How good a choice a symbol is among those that cover one svma; the greater the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_visible: bool,
    start: u64,
    size: Reverse<u64>,
    is_strong: bool,
}

impl Rank {
    /// `None` for what is not a name of code: no name at all, or a mark that says where code and data begin
    /// (`$x`, `$d`, with or without a suffix: ELF for the Arm 64-bit Architecture, section 5.5.4).
    fn of(symbol: &Sym64<LE>, names: &[u8]) -> Option<Rank> {
        let name = names.get(symbol.st_name.get(LE) as usize..)?;
        if matches!(name, [] | [0, ..] | [b'$', b'x' | b'd', 0 | b'.', ..]) {
            return None;
        }
        let bind = symbol.st_bind();
        Some(Rank {
            is_visible: bind != elf::STB_LOCAL,
            start: symbol.st_value.get(LE),
            size: Reverse(symbol.st_size.get(LE)),
            is_strong: bind == elf::STB_GLOBAL,
        })
    }
}

type Candidate<'a> = (Rank, &'a Sym64<LE>);

fn improve<'a>(best: &mut Option<Candidate<'a>>, candidate: Candidate<'a>) {
    if best.is_none_or(|(rank, _)| rank < candidate.0) {
        *best = Some(candidate);
    }
}

/// For symbols without a size the nearer is better, whoever can see it.
fn improve_nearer<'a>(best: &mut Option<Candidate<'a>>, candidate: Candidate<'a>) {
    if best.is_none_or(|(rank, _)| rank.start < candidate.0.start) {
        *best = Some(candidate);
    }
}

fn is_code(symbol: &Sym64<LE>) -> bool {
    let is_defined = !matches!(symbol.st_shndx.get(LE), elf::SHN_UNDEF | elf::SHN_ABS);
    is_defined && matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE)
}

/// A longer name than this, in bytes, comes from a damaged table.
pub(super) const LONGEST_NAME: usize = 1 << 16;

fn name<'a>(symbol: &Sym64<LE>, names: &'a [u8]) -> Option<&'a [u8]> {
    let tail = names.get(symbol.st_name.get(LE) as usize..)?;
    let tail = &tail[..tail.len().min(LONGEST_NAME)];
    Some(&tail[..tail.iter().position(|byte| *byte == 0)?])
}

/// The whole entries of a table.
pub(super) fn all<T: pod::Pod>(bytes: &[u8]) -> &[T] {
    pod::slice_from_bytes(bytes, bytes.len() / size_of::<T>()).map_or(&[], |(entries, _)| entries)
}
