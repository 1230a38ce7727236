//! What an image imports, and where a jump through a table leads if the loader has not filled in the table yet.
//!
//! A program that binds its imports lazily has, until the first call of each, a slot that leads back into its own stub
//! (System V ABI, AMD64 supplement, section 5.2, "Procedure Linkage Table"). The function that will be called is named
//! by the relocation of the slot.

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, Rela64};

use super::symbols::{Table, all};
use super::{Image, Modules};
use crate::addr::Addr;

impl Modules {
    /// The function that the first call through the table entry at `slot` will bind, if the entry, which holds
    /// `value`, still leads into the code of its own module; `None` for any other.
    pub fn unbound(&self, slot: Addr, value: Addr) -> Option<Addr> {
        let module = self.find(value)?;
        let name = import_at(module.image.as_ref()?, module.svma(slot))?;
        self.iter().find_map(|module| {
            let svma = Table::dynamic(module.image.as_ref()?)?.defines(name)?;
            Some(Addr(svma.wrapping_add(module.bias)))
        })
    }
}

impl Image {
    /// Whether another file is to define a symbol of this name for it.
    pub fn imports(&self, name: &[u8]) -> bool {
        Table::dynamic(self).is_some_and(|table| table.imported().any(|imported| imported == name))
    }
}

/// The name of the function that the loader will put into the slot at `svma` when it is first called.
fn import_at(image: &Image, svma: u64) -> Option<&[u8]> {
    let entries: &[Dyn64<LE>] = all(image.headers().dynamic?.data(image.bytes()));
    let value = |tag| Some(entries.iter().find(|entry| entry.d_tag.get(LE) == tag)?.d_val.get(LE));
    let relocations = image.loaded_tail(value(elf::DT_JMPREL)?)?;
    let size = usize::try_from(value(elf::DT_PLTRELSZ)?).ok()?;
    let relocations: &[Rela64<LE>] = all(relocations.get(..size)?);
    let relocation = relocations.iter().find(|relocation| relocation.r_offset.get(LE) == svma)?;
    Table::dynamic(image)?.imports(relocation.r_sym(LE, false) as usize)
}
