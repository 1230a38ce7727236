//! An arbitrary file in the place of an ELF image: loads it, finds its rules, and names addresses in it.
#![no_main]

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use stackscope::workshop::addr::{Addr, AddrRange, Pc};
use stackscope::workshop::arch::X86_64;
use stackscope::workshop::image::names::{self, Lines};
use stackscope::workshop::image::{Bytes, Files, Modules, Opened};
use stackscope::workshop::mapping::{Access, FileIdentity, MappedFile, Mapping, Origin};
use stackscope::workshop::memory::Copied;
use stackscope::workshop::registers::Registers;
use stackscope::workshop::unwind::{Rules, Tables, walk};

const BASE: u64 = 0x1000_0000;
const LENGTH: u64 = 0x10_0000;

/// Every file is this one.
struct Only(Bytes);

impl Files for Only {
    fn open_mapped(&self, _: &Mapping) -> io::Result<Opened> {
        Ok(Opened { bytes: self.0.clone(), same_file: true, stamp: None })
    }

    fn open(&self, _: &Path) -> io::Result<Bytes> {
        Ok(self.0.clone())
    }
}

fuzz_target!(|content: &[u8]| {
    let files = Only(Arc::new(content.to_vec()));
    let identity = Some(FileIdentity { device: 1, inode: 1 });
    let file = MappedFile { path: "/program".into(), deleted: false, offset: 0, identity };
    let mapping = Mapping {
        range: AddrRange::new(Addr(BASE), Addr(BASE + LENGTH)),
        access: Access { read: true, write: false, execute: true },
        shared: false,
        origin: Origin::File(file),
    };
    let modules = Modules::load(&[mapping], &Copied::default(), &files);
    let pcs: Vec<Pc> = (0..64).map(|step| Pc::At(Addr(BASE + step * 0x41))).collect();
    names::resolve(&modules, &pcs, &files, Lines::Everywhere);
    let tables = Tables::new(&X86_64, &modules);
    let mut rules = Rules::new(&tables);
    for pc in pcs {
        let mut start = Registers::unknown();
        start.set(X86_64.pc, pc.addr().0);
        start.set(X86_64.sp, BASE);
        walk(&mut rules, &Copied::default(), start, 4, |_, _| ControlFlow::Continue(()));
    }
});
