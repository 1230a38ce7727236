//! Debug information that was left outside the program: `.dwo` files, and packages of them (`.dwp`).
//!
//! DWARF 5, section 7.3, and its forerunner by GNU (`-gsplit-dwarf` with DWARF 4). The program keeps a skeleton of
//! each unit: its addresses, its line program, and the number of the split part. That number must agree.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use gimli::{DwarfPackage, DwoId, SectionId};

use super::functions::{self, Scope};
use super::{Context, Dwarf, Reader, Unit, UnitIndex, Work, load, read_unit, section};
use crate::image::{Files, Image};

/// The scopes around each of `svmas`, as [`functions::chains`] returns them, by the split part `id` of `skeleton`.
pub(super) fn chains(
    context: &Context<'_>,
    skeleton: &Unit<'_>,
    id: DwoId,
    svmas: &[u64],
    files: &dyn Files,
) -> Option<Vec<Vec<Scope>>> {
    if let Some(dwarf) = context.package.and_then(|package| in_package(package, id, &context.dwarf)) {
        return read(dwarf, skeleton, svmas, &context.work);
    }
    let object = open_object(context, skeleton, files)?;
    let mut dwarf = load(&object, SectionId::dwo_name);
    dwarf.make_dwo(&context.dwarf);
    read(dwarf, skeleton, svmas, &context.work)
}

fn in_package<'p>(package: &'p Image, id: DwoId, parent: &Dwarf<'p>) -> Option<Dwarf<'p>> {
    let load = |id: SectionId| Ok::<_, gimli::Error>(section(package, id.dwo_name()));
    DwarfPackage::load(load, Reader::default()).ok()?.find_cu(id, parent).ok()?
}

fn open_object(context: &Context<'_>, skeleton: &Unit<'_>, files: &dyn Files) -> Option<Image> {
    let name = context.dwarf.attr_string(skeleton, skeleton.dwo_name().ok()??).ok()?;
    let folder = skeleton.comp_dir.map_or_else(PathBuf::new, |folder| Path::new(&*folder.to_string_lossy()).into());
    let path = folder.join(&*name.to_string_lossy());
    let bytes = files.open(&path).or_else(|_| files.open_ours(&path)).ok()?;
    Image::parse(bytes).ok()
}

fn read<'s>(dwarf: Dwarf<'s>, skeleton: &Unit<'s>, svmas: &[u64], work: &Rc<Work>) -> Option<Vec<Vec<Scope>>> {
    let header = dwarf.units().next().ok()??;
    let mut unit = read_unit(&dwarf, header, work)?;
    if unit.dwo_id != skeleton.dwo_id {
        return None;
    }
    unit.copy_relocated_attributes(skeleton);
    let index = UnitIndex::default();
    let split = Context {
        dwarf,
        index: &index,
        supplementary: None,
        package: None,
        units: Default::default(),
        work: Rc::clone(work),
    };
    Some(functions::chains(&split, &unit, svmas))
}
