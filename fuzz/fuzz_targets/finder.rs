//! Arbitrary code and memory: derives switch descriptors, looks for contexts, unwinds, chooses and measures them.
#![no_main]

mod code;

use arbitrary::Arbitrary;
use code::{CODE, CodeAt};
use libfuzzer_sys::fuzz_target;
use stackscope::workshop::addr::{Addr, AddrRange, Pc};
use stackscope::workshop::arch::X86_64;
use stackscope::workshop::snapshot::Bounds;
use stackscope::workshop::find::suspended::chains;
use stackscope::workshop::find::suspended::choose::{Running, Threads, choose};
use stackscope::workshop::find::suspended::classify::classify;
use stackscope::workshop::find::suspended::contexts::{Scene, hypotheses};
use stackscope::workshop::find::descriptors::{ImageCode, Resume, derive};
use stackscope::workshop::find::suspended::ends::CodeView;
use stackscope::workshop::find::suspended::midway;
use stackscope::workshop::find::sites::{Origin, Site, Sites};
use stackscope::workshop::find::extent::rooms::Rooms;
use stackscope::workshop::find::extent::spans::{Span, refine};
use stackscope::workshop::process::PagesUnknown;
use stackscope::workshop::image::{CodeBytes, references};
use stackscope::workshop::mapping::{Access, Mapping, Origin as MappingOrigin};
use stackscope::workshop::memory::Slices;
use stackscope::workshop::unwind::{Code, FoundBy, Frame, Placed, Tables};

const STACK: u64 = 0x2_0000;

/// A call of a switch routine, and the routine: six registers pushed, stack pointers exchanged, six popped.
const SWITCH: &[u8] = &[
    0xe8, 0x0b, 0, 0, 0, 0x0f, 0x0b, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // call, ud2
    0x55, 0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, // push rbp, rbx, r12–r15
    0x48, 0x89, 0x27, 0x48, 0x8b, 0x26, // mov [rdi], rsp; mov rsp, [rsi]
    0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5b, 0x5d, 0xc3, // pop, ret
];

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Bytes of the routine that are changed.
    changes: Vec<(u8, u8)>,
    /// Code behind it.
    code: &'a [u8],
    /// Pairs: whether to lay down a code address or a place in this memory, and which.
    words: Vec<(bool, u16)>,
    running: u16,
}

fuzz_target!(|input: Input| {
    let mut code = [SWITCH, input.code].concat();
    for (at, byte) in &input.changes {
        code[usize::from(*at) % SWITCH.len()] = *byte;
    }
    let parts = [CodeBytes { svma: CODE, bytes: &code }];
    let switches = derive(&ImageCode { parts: &parts, function_start: &|_| None, named_starts: &|_, _| Vec::new() });
    let mut sites = Sites::default();
    for descriptor in switches.descriptors {
        let layout = sites.layouts.len() as u32;
        sites.switches.push(descriptor.site);
        let words = match descriptor.resume {
            Resume::AfterCallsOf(entry) => references(parts[0], &[entry..=entry]).map(|call| call.next).collect(),
            Resume::Label { label, .. } => vec![label],
        };
        let origin = if descriptor.saves_only { Origin::SavedOnly } else { Origin::Switch };
        let site = |word| Site { word, pc: Pc::After(Addr(word)), origin, layouts: vec![layout], is_vague: false };
        sites.sites.extend(words.into_iter().map(site));
        sites.layouts.push(descriptor.layout);
        let (starts, layout) = match descriptor.fresh {
            Some(fresh) => {
                sites.layouts.push(fresh);
                (&switches.named_by_blocks, layout + 1)
            }
            None => (&switches.starts, layout),
        };
        let site = |word| Site { word, pc: Pc::At(Addr(word)), origin: Origin::Fresh, layouts: vec![layout], is_vague: false };
        sites.sites.extend(starts.iter().map(|start| site(start.0)));
    }
    sites.sites.sort_by_key(|site| site.word);
    sites.sites.dedup_by_key(|site| site.word);
    sites.switches.sort_unstable();

    let word = |(is_code, value): &(bool, u16)| match is_code {
        true if !sites.sites.is_empty() => sites.sites[usize::from(*value) % sites.sites.len()].word,
        _ => STACK + u64::from(*value) % (8 * input.words.len() as u64) / 8 * 8,
    };
    let bytes: Vec<u8> = input.words.iter().flat_map(|pair| word(pair).to_le_bytes()).collect();
    let range = AddrRange::new(Addr(STACK), Addr(STACK + bytes.len() as u64));
    let mappings = [Mapping {
        range,
        access: Access { read: true, write: true, execute: false },
        shared: false,
        origin: MappingOrigin::Anonymous,
    }];
    let memory = Slices::new(vec![(range.low, &bytes)]);
    let scene = Scene { memory: &memory, dead: &[], thread_pointer: Some(STACK) };

    let ranges = [AddrRange::new(Addr(CODE), Addr(CODE + code.len() as u64))];
    let code = CodeAt(&code);
    let placed = Placed { ranges: &ranges, bias: 0, sections: Default::default() };
    let tables = Tables::of(&X86_64, &code, [placed]);
    let sp = Addr(STACK + u64::from(input.running));
    let running = vec![Running { sp, cfas: Vec::new(), is_whole: false }];
    let threads = Threads { running, held: vec![sp.0], in_registers: Vec::new() };
    let view = CodeView {
        read: &|at, into| code.code(at, into),
        function_start: &|_| None,
        memory: &memory,
        unbound: &|_, _| None,
    };
    let chains = chains::unwind(&scene, &sites, &mappings, &tables, view, &hypotheses(&scene, &sites).found);
    for site in &sites.switches {
        let here = Frame { pc: Pc::At(Addr(site + 3)), cfa: None, found_by: FoundBy::Context, signal: false };
        if let Some(context) = midway::context(&chains, &sites, view, (here.pc.addr(), sp), &[]) {
            midway::frames(&chains, view, context, here);
        }
    }
    let rooms = Rooms::new(&mappings, &memory, Err(PagesUnknown));
    let choices = choose(&chains, &sites, &mappings, &threads, view, &rooms);
    let contexts = classify(&chains, &sites, &choices, view);
    let span = |sp, top| Span { sp, top, bounds: Bounds::UNKNOWN };
    let mut spans: Vec<Span> = contexts.iter().map(|context| span(context.sp, context.top)).collect();
    refine(&mut spans, &mappings, &memory);
});
