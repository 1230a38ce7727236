//! Which code lies where in a target: its modules.
//!
//! A *module* is one loaded copy of an image. Modules are worked out from the memory map alone: the loader's own list
//! lies in memory that a broken program may have overwritten, and it lacks what was mapped in other ways.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::debug_files;
use super::in_memory::{self, InMemory};
use super::{BuildId, Bytes, Files, Image, ImageProblem, Opened};
use crate::addr::{Addr, AddrRange};
use crate::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use crate::memory::Memory;

/// One loaded copy of an image.
#[derive(Clone)]
pub struct Module {
    /// The name shown in reports: the file's name without its folders, or `[vdso]`.
    pub name: String,
    /// The file's path in the target's mount namespace; `None` for the vdso.
    pub path: Option<PathBuf>,
    /// How far the loader moved it: address in the target minus svma, wrapping.
    pub bias: u64,
    /// The addresses of its code, sorted.
    pub ranges: Vec<AddrRange>,
    /// Its file, or what memory shows of it; `None` if neither is available.
    pub image: Option<Arc<Image>>,
    /// The build-id of what runs, if it is known.
    pub build_id: Option<BuildId>,
    /// What is wrong with its file.
    pub problem: Option<ImageProblem>,
}

impl Module {
    /// The svma of `addr`: where the file says that it lies.
    pub fn svma(&self, addr: Addr) -> u64 {
        addr.0.wrapping_sub(self.bias)
    }

    /// Whether it came with the system: it lies where packages put libraries and the loader, or is the vdso.
    pub fn is_system(&self) -> bool {
        let Some(path) = &self.path else { return true };
        ["/lib", "/lib64", "/usr/lib", "/usr/lib64"].iter().any(|folder| path.starts_with(folder))
    }
}

/// The modules of a target, and everything else that can be executed in it.
#[derive(Clone, Default)]
pub struct Modules {
    modules: Vec<Module>,
    /// Sorted by address.
    code: Vec<Code>,
    /// What was found of each file, for the next look.
    kept: HashMap<KeptKey, Found>,
}

/// A range of executable memory, and the module that it belongs to.
#[derive(Clone, Copy)]
struct Code {
    range: AddrRange,
    /// `None` for memory of no file: code that was made at run time.
    module: Option<usize>,
}

impl Modules {
    /// Works out the modules of a memory map, which is sorted by address.
    ///
    /// Reads headers only. What is wrong with a file is kept in its module; the others are not affected.
    pub fn load(mappings: &[Mapping], memory: &dyn Memory, files: &dyn Files) -> Modules {
        Modules::default().reload(mappings, memory, files)
    }

    /// Does the same once more for the same process, keeping the images, and the names found in them, of files that are
    /// still mapped.
    #[must_use]
    pub fn reload(&self, mappings: &[Mapping], memory: &dyn Memory, files: &dyn Files) -> Modules {
        let mut loading = Loading::new(mappings, memory, files, &self.kept);
        let mut modules = Modules::default();
        for mapping in mappings {
            if !mapping.access.execute && !loading.is_unsaid_code(mapping) {
                continue;
            }
            let module = match &mapping.origin {
                Origin::File(file) => Some(loading.add_file(&mut modules.modules, mapping, file)),
                Origin::Vdso => Some(loading.add_vdso(&mut modules.modules, mapping)),
                _ => None,
            };
            if let Some(module) = module {
                modules.modules[module].ranges.push(mapping.range);
            }
            modules.code.push(Code { range: mapping.range, module });
        }
        modules.kept = loading.kept();
        modules.claim_remapped();
        modules
    }

    /// The module whose code holds `addr`.
    pub fn find(&self, addr: Addr) -> Option<&Module> {
        self.modules.get(self.index_of(addr)?)
    }

    /// The place in [`iter`](Modules::iter) of the module whose code holds `addr`.
    pub fn index_of(&self, addr: Addr) -> Option<usize> {
        self.code_at(addr)?.module
    }

    /// Whether `addr` can be executed, in a module or in memory of no file.
    pub fn is_executable(&self, addr: Addr) -> bool {
        self.code_at(addr).is_some()
    }

    /// All modules, in the order of their lowest code.
    pub fn iter(&self) -> std::slice::Iter<'_, Module> {
        self.modules.iter()
    }

    /// The files, by path in the target's mount namespace, that are known to be those that were mapped: by device and
    /// inode, or by their build-id.
    pub fn verified_files(&self) -> impl Iterator<Item = (&Path, &Bytes)> {
        let verified = self.modules.iter().filter(|module| module.problem.is_none());
        verified.filter_map(|module| Some((module.path.as_deref()?, module.image.as_ref()?.content()?)))
    }

    pub(crate) fn as_slice(&self) -> &[Module] {
        &self.modules
    }

    /// Fills `into` with the code at `addr` as its file holds it.
    ///
    /// `false` if no file holds all of it: code made at run time, or a file that is gone.
    /// Then the target's memory may have it, including what the program or a debugger changed.
    pub fn code(&self, addr: Addr, into: &mut [u8]) -> bool {
        let Some(module) = self.find(addr) else { return false };
        module.image.as_ref().is_some_and(|image| image.read(module.svma(addr), into))
    }

    fn code_at(&self, addr: Addr) -> Option<&Code> {
        let next = self.code.partition_point(|code| code.range.low <= addr);
        self.code.get(next.checked_sub(1)?).filter(|code| code.range.contains(addr))
    }

    /// Assigns anonymous code inside a module's executable segment to that module.
    ///
    /// Programs that move their code to huge pages replace the file's mapping by a copy at the same address.
    fn claim_remapped(&mut self) {
        for index in 0..self.code.len() {
            let Code { range, module: None } = self.code[index] else { continue };
            let neighbours = [index.checked_sub(1), Some(index + 1)].into_iter().flatten();
            let candidates = neighbours.filter_map(|neighbour| self.code.get(neighbour)?.module);
            let owner = candidates.into_iter().find(|&owner| covers(&self.modules[owner], range));
            if let Some(owner) = owner {
                self.code[index].module = Some(owner);
                let ranges = &mut self.modules[owner].ranges;
                ranges.push(range);
                ranges.sort_unstable();
            }
        }
    }
}

/// Whether one executable segment of `module` spans `range`.
fn covers(module: &Module, range: AddrRange) -> bool {
    let segments = module.image.as_ref().map_or(&[][..], |image| image.segments());
    segments.iter().filter(|segment| segment.execute).any(|segment| {
        let low = Addr(module.bias.wrapping_add(segment.svma)).align_down(4096);
        let high = Addr(module.bias.wrapping_add(segment.svma).saturating_add(segment.memory_size)).align_up(4096);
        low <= range.low && range.high <= high
    })
}

/// What distinguishes files: two files may have had one path, one after the other.
type FileKey<'a> = (&'a Path, Option<FileIdentity>, bool);

fn key_of(file: &MappedFile) -> FileKey<'_> {
    (&file.path, file.identity, file.deleted)
}

/// A file that device and inode distinguish from all others, and its base address if its memory had to be read.
type KeptKey = (PathBuf, FileIdentity, Option<Addr>);

/// What was found of a file, and what is wrong with it.
#[derive(Clone, Default)]
struct Found {
    image: Option<Arc<Image>>,
    build_id: Option<BuildId>,
    problem: Option<ImageProblem>,
}

struct Loading<'a> {
    memory: &'a dyn Memory,
    files: &'a dyn Files,
    /// What the look before found.
    before: &'a HashMap<KeptKey, Found>,
    /// Where the first byte of each file is mapped, sorted.
    bases: HashMap<FileKey<'a>, Vec<Addr>>,
    /// How many bytes may still be copied from memory.
    budget: u64,
    /// By file and, for one whose memory had to be read, where it begins.
    images: HashMap<(FileKey<'a>, Option<Addr>), Found>,
    /// The modules so far, by file and bias.
    known: HashMap<(FileKey<'a>, u64), usize>,
}

impl<'a> Loading<'a> {
    fn new(
        mappings: &'a [Mapping],
        memory: &'a dyn Memory,
        files: &'a dyn Files,
        before: &'a HashMap<KeptKey, Found>,
    ) -> Loading<'a> {
        let mut bases: HashMap<_, Vec<_>> = HashMap::new();
        for mapping in mappings {
            if let Some(file) = mapping.file().filter(|file| file.offset == 0) {
                bases.entry(key_of(file)).or_default().push(mapping.range.low);
            }
        }
        Loading {
            memory,
            files,
            before,
            bases,
            budget: in_memory::MOST_COPIED,
            images: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// Whether a core file names the file of `mapping` without saying what the program may do there, as gcore does for
    /// code, and the file itself says that it is code.
    fn is_unsaid_code(&mut self, mapping: &'a Mapping) -> bool {
        let unsaid = |file: &&MappedFile| file.identity.is_none() && mapping.access == Access::default();
        let Some(file) = mapping.file().filter(unsaid) else { return false };
        let key = key_of(file);
        let base = self.base_of(mapping.range.low, key);
        let image = self.found(mapping, key, base).image;
        image.is_some_and(|image| image.headers().segment_mapping(file.offset, true).is_some())
    }

    /// The module that `mapping`, executable and of `file`, belongs to.
    fn add_file(&mut self, modules: &mut Vec<Module>, mapping: &Mapping, file: &'a MappedFile) -> usize {
        let key = key_of(file);
        let base = self.base_of(mapping.range.low, key);
        let found = self.found(mapping, key, base);
        let segment = found.image.as_ref().and_then(|image| image.headers().segment_mapping(file.offset, true));
        let svma =
            segment.map_or(file.offset, |segment| file.offset.wrapping_sub(segment.offset).wrapping_add(segment.svma));
        let bias = mapping.range.low.0.wrapping_sub(svma);
        *self.known.entry((key, bias)).or_insert_with(|| {
            let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy().into_owned();
            let Found { image, build_id, problem } = found;
            modules.push(Module {
                name,
                path: Some(file.path.clone()),
                bias,
                ranges: Vec::new(),
                image,
                build_id,
                problem,
            });
            modules.len() - 1
        })
    }

    fn add_vdso(&mut self, modules: &mut Vec<Module>, mapping: &Mapping) -> usize {
        let (image, problem) = match in_memory::whole(self.memory, mapping.range) {
            Ok(image) => (Some(Arc::new(image)), None),
            Err(error) => (None, Some(ImageProblem::NotElf(error))),
        };
        let lowest = image.as_ref().map_or(0, |image| image.headers().span().start);
        modules.push(Module {
            name: "[vdso]".into(),
            path: None,
            bias: mapping.range.low.0.wrapping_sub(lowest),
            ranges: Vec::new(),
            build_id: image.as_ref().and_then(|image| image.build_id().cloned()),
            image,
            problem,
        });
        modules.len() - 1
    }

    /// Where the file's first byte is mapped for code at `addr`: the nearest such place below.
    fn base_of(&self, addr: Addr, key: FileKey<'a>) -> Option<Addr> {
        let bases = self.bases.get(&key)?;
        bases.get(bases.partition_point(|base| *base <= addr).checked_sub(1)?).copied()
    }

    fn found(&mut self, mapping: &Mapping, key: FileKey<'a>, base: Option<Addr>) -> Found {
        if let Some(found) = self.images.get(&(key, None)).or_else(|| self.images.get(&(key, base))) {
            return found.clone();
        }
        let kept = |base| Some((base, self.before.get(&(key.0.to_owned(), key.1?, base))?));
        if let Some((base, found)) = kept(None).or_else(|| kept(base)) {
            self.images.insert((key, base), found.clone());
            return found.clone();
        }
        let opened = self.files.open_mapped(mapping);
        let is_certain = matches!(&opened, Ok(opened) if opened.same_file);
        let found = match opened {
            Ok(opened) => self.check(opened, base),
            Err(error) => {
                let mapped = base.and_then(|base| InMemory::read(self.memory, base)?.build_id(self.memory));
                let problem = match error.kind() {
                    _ if key.2 => ImageProblem::Gone { mapped },
                    std::io::ErrorKind::NotFound => ImageProblem::Gone { mapped },
                    error => ImageProblem::Unreadable { error, mapped },
                };
                self.fall_back(base, problem)
            }
        };
        self.images.insert((key, base.filter(|_| !is_certain)), found.clone());
        found
    }

    /// What is worth keeping: files without device and inode can't be recognized in the next look.
    fn kept(self) -> HashMap<KeptKey, Found> {
        let kept = |(((path, identity, _), base), found): ((FileKey<'a>, Option<Addr>), Found)| {
            Some(((path.to_owned(), identity?, base), found))
        };
        self.images.into_iter().filter_map(kept).collect()
    }

    /// The image in an opened file, if it is what runs at `base`; else what memory shows.
    fn check(&mut self, opened: Opened, base: Option<Addr>) -> Found {
        let image = match Image::open(&opened) {
            Ok(image) => image,
            Err(error) => return self.fall_back(base, error.into()),
        };
        let problem = if opened.same_file { None } else { self.difference(&image, base) };
        if let Some(problem @ ImageProblem::Replaced { .. }) = problem {
            return self.fall_back(base, problem);
        }
        let problem = problem.or_else(|| image.is_truncated().then_some(ImageProblem::Truncated));
        Found { build_id: image.build_id().cloned(), image: Some(Arc::new(image)), problem }
    }

    /// Why `image` may not be what runs at `base`.
    fn difference(&self, image: &Image, base: Option<Addr>) -> Option<ImageProblem> {
        let found = image.build_id().cloned();
        let Some(running) = base.and_then(|base| InMemory::read(self.memory, base)) else {
            return Some(ImageProblem::Unverified { found });
        };
        let mapped = running.build_id(self.memory);
        let same = mapped == found && (mapped.is_some() || running.begins_like(image.headers()));
        (!same).then_some(ImageProblem::Replaced { mapped, found })
    }

    /// The file of the same build-id that is kept elsewhere, or what memory shows of the one that begins at `base`. `problem`
    /// says why the file itself is not used.
    ///
    /// A file whose first bytes are in memory and are not those of an ELF file never was one: a just-in-time compiler
    /// writes code to a file to map it twice.
    fn fall_back(&mut self, base: Option<Addr>, problem: ImageProblem) -> Found {
        if let Some(image) = problem.mapped_build_id().and_then(|id| debug_files::same_image(id, self.files)) {
            return Found { build_id: image.build_id().cloned(), image: Some(image), problem: None };
        }
        let mut first = [0; object::elf::ELFMAG.len()];
        if base.is_some_and(|base| self.memory.read(base, &mut first).is_ok()) && first != object::elf::ELFMAG {
            return Found::default();
        }
        let image =
            base.and_then(|base| InMemory::read(self.memory, base)?.copy(self.memory, &mut self.budget)).map(Arc::new);
        let build_id = image.as_ref().and_then(|image| image.build_id().cloned());
        let build_id = build_id.or_else(|| problem.mapped_build_id().cloned());
        Found { image, build_id, problem: Some(problem) }
    }
}
