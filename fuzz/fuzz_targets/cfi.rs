//! Arbitrary unwind sections: finds the entry for each of some addresses and compiles its row.
#![no_main]

use std::ops::ControlFlow;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stackscope::workshop::addr::{Addr, AddrRange};
use stackscope::workshop::arch::{AARCH64, X86_64};
use stackscope::workshop::image::{SectionBytes, UnwindSections};
use stackscope::workshop::memory::Copied;
use stackscope::workshop::registers::{Register, Registers};
use stackscope::workshop::unwind::{Code, Placed, Rules, Tables, walk};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    is_aarch64: bool,
    eh_frame_hdr: Option<&'a [u8]>,
    eh_frame: &'a [u8],
    debug_frame: &'a [u8],
    addresses: [u16; 8],
}

/// `call rax` and `blr x1`, again and again.
const CALLS: [[u8; 32]; 2] = [pattern([0xff, 0xd0, 0xff, 0xd0]), pattern([0x20, 0x00, 0x3f, 0xd6])];

const fn pattern(bytes: [u8; 4]) -> [u8; 32] {
    let mut all = [0; 32];
    let mut at = 0;
    while at < all.len() {
        all[at] = bytes[at % 4];
        at += 1;
    }
    all
}

/// All of it is code, and every address stands behind a call.
struct AllCode(&'static [u8]);

impl Code for AllCode {
    fn is_executable(&self, _: Addr) -> bool {
        true
    }

    fn code(&self, _: Addr, into: &mut [u8]) -> bool {
        into.copy_from_slice(&self.0[self.0.len() - into.len()..]);
        true
    }
}

fuzz_target!(|input: Input| {
    let section = |svma, bytes| SectionBytes { svma, bytes };
    let sections = UnwindSections {
        eh_frame_hdr: input.eh_frame_hdr.map(|bytes| section(0x1000, bytes)),
        eh_frame: Some(section(0x2000, input.eh_frame)),
        debug_frame: Some(section(0, input.debug_frame)),
        text: Some(0x4000),
        got: Some(0x5000),
    };
    let range = [AddrRange::new(Addr(0x1000), Addr(u64::MAX))];
    let arch = if input.is_aarch64 { &AARCH64 } else { &X86_64 };
    let code = AllCode(&CALLS[usize::from(input.is_aarch64)]);
    let tables = Tables::of(arch, &code, [Placed { ranges: &range, bias: 0, sections }]);
    let mut rules = Rules::new(&tables);
    for address in input.addresses {
        let mut start = Registers::unknown();
        for number in 0..Registers::LIMIT as u8 {
            start.set(Register(number), 0x1_0000);
        }
        start.set(arch.pc, u64::from(address));
        walk(&mut rules, &Copied::default(), start, 16, |_, _| ControlFlow::Continue(()));
    }
});
