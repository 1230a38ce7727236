//! Arbitrary registers, stack, code and rules: walks to the end, twice.
#![no_main]

mod code;

use std::ops::ControlFlow;

use arbitrary::Arbitrary;
use code::{CODE, CodeAt};
use libfuzzer_sys::fuzz_target;
use stackscope::workshop::addr::{Addr, AddrRange, Pc};
use stackscope::workshop::arch::{AARCH64, X86_64};
use stackscope::workshop::image::{SectionBytes, UnwindSections};
use stackscope::workshop::memory::Copied;
use stackscope::workshop::registers::{Register, Registers};
use stackscope::workshop::unwind::{Code, Placed, Rules, Tables, walk};

const STACK: u64 = 0x2_0000;
const LIMIT: usize = 4096;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    is_aarch64: bool,
    known: u64,
    registers: [u16; Registers::LIMIT],
    stack: &'a [u8],
    code: &'a [u8],
    /// The instructions of the one CIE, and of the one entry that covers all code.
    cie: &'a [u8],
    fde: &'a [u8],
}

/// A CIE with its FDE: version 1, factors 1 and -8, addresses in eight bytes.
fn eh_frame(column: Register, input: &Input<'_>) -> Vec<u8> {
    let mut section = Vec::new();
    let mut append = |body: &[&[u8]]| {
        section.extend(u32::try_from(body.concat().len()).unwrap().to_le_bytes());
        section.extend(body.concat());
        section.len()
    };
    let cie = append(&[&[0, 0, 0, 0, 1, 0, 1, 0x78, column.0], input.cie]);
    let back = u32::try_from(cie + 4).unwrap().to_le_bytes();
    append(&[&back, &CODE.to_le_bytes(), &(input.code.len() as u64).to_le_bytes(), input.fde]);
    section
}

fuzz_target!(|input: Input| {
    let arch = if input.is_aarch64 { &AARCH64 } else { &X86_64 };
    let code = CodeAt(input.code);
    let range = [AddrRange::new(Addr(CODE), Addr(CODE + input.code.len() as u64))];
    let bytes = eh_frame(arch.link.unwrap_or(arch.pc), &input);
    let eh_frame = Some(SectionBytes { svma: 0x1000, bytes: &bytes });
    let sections = UnwindSections { eh_frame, ..UnwindSections::default() };
    let tables = Tables::of(arch, &code, [Placed { ranges: &range, bias: 0, sections }]);

    let mut memory = Copied::default();
    memory.insert(Addr(STACK), input.stack.into());
    let mut start = Registers::unknown();
    for (number, value) in input.registers.into_iter().enumerate().filter(|(number, _)| input.known >> number & 1 == 1)
    {
        start.set(Register(number as u8), CODE + 2 * u64::from(value));
    }
    let mut rules = Rules::new(&tables);
    let mut counts = [0; 2];
    for count in &mut counts {
        let ended = walk(&mut rules, &memory, start.clone(), LIMIT, |frame, _| {
            assert!(*count == 0 || code.is_executable(frame.pc.lookup()) || matches!(frame.pc, Pc::At(_)));
            *count += 1;
            ControlFlow::Continue(())
        });
        assert!(*count <= LIMIT, "{ended:?}");
    }
    assert_eq!(counts[0], counts[1], "a second walk with the rules known gives another chain");
});
