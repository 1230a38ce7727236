//! The modules of our own process, with its files present, gone and replaced.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::testing::{NoMemory, OwnFiles, OwnMemory, own_mappings};
use super::*;
use crate::addr::Addr;
use crate::memory::Memory;

static OWN_FILES: OwnFiles = OwnFiles { same_file: true };

/// Files whose every path leads nowhere.
struct NoFiles;

impl Files for NoFiles {
    fn open_mapped(&self, _: &Mapping) -> io::Result<Opened> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn open(&self, _: &Path) -> io::Result<Bytes> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Files of which each path leads to this program.
struct OtherFiles;

impl Files for OtherFiles {
    fn open_mapped(&self, _: &Mapping) -> io::Result<Opened> {
        Ok(Opened { bytes: self.open(Path::new(""))?, same_file: false, stamp: None })
    }

    fn open(&self, _: &Path) -> io::Result<Bytes> {
        Ok(Arc::new(std::fs::read("/proc/self/exe")?))
    }
}

fn here() -> Addr {
    Addr(here as *const () as u64)
}

fn libc_function() -> Addr {
    Addr(libc::getpid as *const () as u64)
}

#[test]
fn finds_the_module_of_an_address() {
    let modules = Modules::load(&own_mappings(), &OwnMemory::open(), &OWN_FILES);
    let own = modules.find(here()).unwrap();
    assert!(own.name.starts_with("stackscope-"), "{}", own.name);
    assert_eq!(modules.find(libc_function()).unwrap().name, "libc.so.6");
    assert!(modules.is_executable(here()));
    let data = Addr(&raw const OWN_FILES as u64);
    assert!(!modules.is_executable(data) && modules.find(data).is_none());
    assert!(modules.iter().all(|module| module.problem.is_none()));

    let (mut from_file, mut from_memory) = ([0; 32], [0; 32]);
    assert!(modules.code(here(), &mut from_file));
    OwnMemory::open().read(here(), &mut from_memory).unwrap();
    assert_eq!(from_file, from_memory);
}

#[test]
fn the_vdso_is_read_from_memory() {
    let modules = Modules::load(&own_mappings(), &OwnMemory::open(), &NoFiles);
    let vdso = modules.iter().find(|module| module.name == "[vdso]").unwrap();
    assert!(vdso.build_id.is_some() && vdso.problem.is_none());
    assert!(vdso.image.as_ref().unwrap().unwind_sections().eh_frame.is_some());
}

#[test]
fn code_of_a_file_that_is_gone_keeps_its_unwind_rules() {
    let memory = OwnMemory::open();
    let files = Modules::load(&own_mappings(), &memory, &OWN_FILES);
    let gone = Modules::load(&own_mappings(), &memory, &NoFiles);
    for addr in [here(), libc_function()] {
        let (file, gone) = (files.find(addr).unwrap(), gone.find(addr).unwrap());
        assert_eq!((file.bias, &file.ranges), (gone.bias, &gone.ranges));
        assert_eq!(gone.problem, Some(ImageProblem::Gone { mapped: file.build_id.clone() }));
        let (file, gone) = (file.image.as_ref().unwrap(), gone.image.as_ref().unwrap());
        assert!(matches!(gone.source(), ImageSource::Memory { .. }));
        let (file, gone) = (file.unwind_sections(), gone.unwind_sections());
        assert_eq!(file.eh_frame_hdr.unwrap().bytes, gone.eh_frame_hdr.unwrap().bytes);
        let (file, gone) = (file.eh_frame.unwrap(), gone.eh_frame.unwrap());
        assert_eq!(file.svma, gone.svma);
        assert!(gone.bytes.starts_with(file.bytes));
    }
}

#[test]
fn a_file_of_another_build_is_not_used() {
    let modules = Modules::load(&own_mappings(), &OwnMemory::open(), &OtherFiles);
    assert_eq!(modules.find(here()).unwrap().problem, None, "the file is ours, and its build-id says so");
    let libc = modules.find(libc_function()).unwrap();
    let Some(ImageProblem::Replaced { mapped, found }) = &libc.problem else { panic!("{:?}", libc.problem) };
    assert_eq!(mapped, &libc.build_id);
    assert_ne!(mapped, found);
    assert!(matches!(libc.image.as_ref().unwrap().source(), ImageSource::Memory { .. }));
}

#[test]
fn a_file_that_nothing_vouches_for_is_used_and_marked() {
    let modules = Modules::load(&own_mappings(), &NoMemory, &OwnFiles { same_file: false });
    let libc = modules.find(libc_function()).unwrap();
    assert_eq!(libc.problem, Some(ImageProblem::Unverified { found: libc.build_id.clone() }));
    assert!(libc.image.is_some());
}

#[test]
fn code_moved_to_other_pages_stays_with_its_module() {
    let mut mappings = own_mappings();
    let index = mappings.iter().position(|mapping| mapping.range.contains(libc_function())).unwrap();
    let mut moved = mappings[index].clone();
    let middle = moved.range.low.offset(0x10000);
    mappings[index].range.high = middle;
    moved.range.low = middle;
    moved.origin = crate::mapping::Origin::Anonymous;
    mappings.insert(index + 1, moved);
    let modules = Modules::load(&mappings, &OwnMemory::open(), &OWN_FILES);
    assert_eq!(modules.find(middle).unwrap().name, "libc.so.6");
}

#[test]
fn images_are_kept_from_one_look_to_the_next() {
    let (mappings, memory) = (own_mappings(), OwnMemory::open());
    let first = Modules::load(&mappings, &memory, &OWN_FILES);
    let second = first.reload(&mappings, &memory, &NoFiles);
    let image = |modules: &Modules, addr| modules.find(addr).unwrap().image.clone().unwrap();
    for addr in [here(), libc_function()] {
        assert!(Arc::ptr_eq(&image(&first, addr), &image(&second, addr)));
    }
    assert!(!Arc::ptr_eq(&image(&first, here()), &image(&Modules::load(&mappings, &memory, &OWN_FILES), here())));
}

#[test]
fn code_in_a_file_that_is_no_image_is_no_problem() {
    let mut page = own_mappings().remove(0);
    page.range = crate::addr::AddrRange::new(Addr(0x1000), Addr(0x2000));
    page.access.execute = true;
    let mut memory = crate::memory::Copied::default();
    memory.insert(Addr(0x1000), Box::new([0xc3; 0x1000]));
    let modules = Modules::load(std::slice::from_ref(&page), &memory, &NoFiles);
    assert_eq!(modules.find(Addr(0x1000)).unwrap().problem, None);
    let modules = Modules::load(&[page], &NoMemory, &NoFiles);
    assert_eq!(modules.find(Addr(0x1000)).unwrap().problem, Some(ImageProblem::Gone { mapped: None }));
}

#[test]
fn headers_cut_anywhere_are_errors_or_images() {
    let file = std::fs::read("/proc/self/exe").unwrap();
    for length in 0..4096 {
        if let Ok(image) = Image::parse(Arc::new(file[..length].to_vec())) {
            assert!(image.is_truncated());
            image.unwind_sections();
        }
    }
}
