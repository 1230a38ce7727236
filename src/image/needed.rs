//! Which libraries an image names, and where it says that they lie (System V gABI, "Dynamic Section").

use object::LittleEndian as LE;
use object::elf::{self, Dyn64};

use super::Image;
use super::symbols::all;

/// More libraries than this no program names.
const MOST_NEEDED: usize = 1024;

impl Image {
    /// The names of the libraries that are loaded with it, in its order.
    pub fn needed(&self) -> Vec<String> {
        let named = self.dynamic_strings(elf::DT_NEEDED).take(MOST_NEEDED);
        named.filter(|name| !name.is_empty()).collect()
    }

    /// The folders that it says its libraries lie in, the first first; they may hold `$ORIGIN`, its own folder.
    pub fn library_folders(&self) -> Vec<String> {
        let paths = self.dynamic_strings(elf::DT_RUNPATH).chain(self.dynamic_strings(elf::DT_RPATH));
        let folders = paths.flat_map(|path| path.split(':').map(str::to_owned).collect::<Vec<_>>());
        folders.filter(|folder| !folder.is_empty()).take(MOST_NEEDED).collect()
    }

    fn dynamic_strings(&self, tag: elf::DynamicTag) -> impl Iterator<Item = String> {
        let entries: &[Dyn64<LE>] = self.headers().dynamic.map_or(&[], |dynamic| all(dynamic.data(self.bytes())));
        let value = |tag| entries.iter().find(|entry| entry.d_tag.get(LE) == tag).map(|entry| entry.d_val.get(LE));
        let names = value(elf::DT_STRTAB).and_then(|svma| self.loaded_tail(svma)).unwrap_or_default();
        let entries = entries.iter().filter(move |entry| entry.d_tag.get(LE) == tag);
        entries.filter_map(move |entry| {
            /// A path is no longer (`PATH_MAX`).
            const LONGEST: usize = 4096;
            let tail = names.get(usize::try_from(entry.d_val.get(LE)).ok()?..)?;
            let tail = &tail[..tail.len().min(LONGEST)];
            let name = tail.split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(name).into_owned())
        })
    }
}
