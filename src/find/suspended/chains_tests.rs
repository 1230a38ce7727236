//! Chains of frames by rules put together by hand.

use gimli::constants::*;

use super::*;
use crate::arch::X86_64;
use crate::find::sites::Site;
use crate::find::testing::{HEAP, STACK, Words, held_on_stack, writable};
use crate::mapping::{Access, MappedFile, Origin as MappingOrigin};
use crate::memory::Slices;
use crate::unwind::testing::Program;

/// `middle` has a frame of 16 bytes and is called by `outer`, which has nobody to return to; `inner` has no rules.
fn program() -> Program {
    let mut program = Program::new(&X86_64);
    program.routine("middle", &[DW_CFA_def_cfa_offset.0, 16]);
    program.routine("outer", &[DW_CFA_undefined.0, X86_64.pc.0]);
    program.bare("inner");
    program
}

/// Unwinds what stands on a stack with `word` as its resume word and these words above it.
fn unwound(program: &Program, word: u64, above: &[u64], origin: Origin, mapping: Mapping) -> Chains {
    let mut stack = vec![1, 2, word];
    stack.extend_from_slice(above);
    let words = Words::new(&[(STACK, &stack), (HEAP, &[STACK])]);
    let slices: Slices<'_> = words.slices();
    let pc = if origin == Origin::Fresh { Pc::At(Addr(word)) } else { Pc::After(Addr(word)) };
    let site = Site { word, pc, origin, layouts: vec![0], is_vague: false };
    let sites = Sites {
        layouts: vec![held_on_stack()],
        sites: vec![site],
        entries: vec![program.at("inner", 0)],
        switches: Vec::new(),
        begins_by_signals: false,
    };
    let scene = Scene { memory: &slices, dead: &[], thread_pointer: None };
    let code = CodeView { read: &|_, _| false, function_start: &|_| None, memory: &slices, unbound: &|_, _| None };
    let hypotheses = contexts::hypotheses(&scene, &sites);
    assert_eq!((hypotheses.found.len(), hypotheses.cut), (1, false));
    program.with_tables(|tables| unwind(&scene, &sites, &[mapping], tables, code, &hypotheses.found))
}

fn stack() -> Mapping {
    writable(STACK, STACK + 0x1000)
}

#[test]
fn a_chain_leads_up_to_a_root() {
    let program = program();
    let (middle, outer) = (program.at("middle", 0x20), program.at("outer", 0x30));
    let found = unwound(&program, middle, &[7, outer, 8], Origin::Switch, stack());
    let [chain] = &found.chains[..] else { panic!("{found:?}") };
    let pcs: Vec<Pc> = found.frames_of(chain).iter().map(|frame| frame.pc).collect();
    assert_eq!(pcs, [Pc::After(Addr(middle)), Pc::After(Addr(outer))]);
    assert_eq!((chain.root, chain.sp, chain.ended), (Root::Marked, Addr(STACK + 24), Ended::Root));
    assert_eq!((chain.low(), chain.top), (Addr(STACK), Addr(STACK + 48)));
    assert!(!found.cut);
}

#[test]
fn a_chain_that_leads_nowhere_is_dropped() {
    let program = program();
    let middle = program.at("middle", 0x20);
    assert_eq!(unwound(&program, middle, &[7, 0x1234, 8], Origin::Switch, stack()).chains, []);
}

#[test]
fn a_chain_may_end_with_the_memory() {
    let program = program();
    let middle = program.at("middle", 0x20);
    let found = unwound(&program, middle, &[7], Origin::Switch, writable(STACK, STACK + 40));
    assert_eq!(found.chains.iter().map(|chain| chain.root).collect::<Vec<_>>(), [Root::TopOfMemory]);
}

#[test]
fn what_begins_at_a_label_has_one_frame() {
    let program = program();
    let found = unwound(&program, program.at("inner", 0), &[7, 8], Origin::Fresh, stack());
    let [chain] = &found.chains[..] else { panic!("{found:?}") };
    assert_eq!((chain.root, chain.frames.clone(), chain.top), (Root::StartCode, 0..1, Addr(STACK + 24)));
}

/// As libcoro puts the address of `abort` there.
#[test]
fn the_highest_word_may_be_a_planted_address() {
    let program = program();
    let (middle, planted) = (program.at("middle", 0x20), program.at("middle", 0));
    let found = unwound(&program, middle, &[7, planted], Origin::Switch, writable(STACK, STACK + 40));
    let [chain] = &found.chains[..] else { panic!("{found:?}") };
    assert_eq!((chain.root, chain.top), (Root::Marked, Addr(STACK + 40)));
    assert_eq!(found.frames_of(chain).last().map(|frame| frame.pc), Some(Pc::At(Addr(planted))));
}

/// A program's own data may hold stacks, but more often tables of functions.
#[test]
fn fresh_stacks_do_not_lie_in_a_file() {
    let program = program();
    let (middle, outer) = (program.at("middle", 0x20), program.at("outer", 0x30));
    let file = MappedFile { path: "/opt/program".into(), deleted: false, offset: 0, identity: None };
    let data = || Mapping { origin: MappingOrigin::File(file.clone()), ..stack() };
    assert_eq!(unwound(&program, middle, &[7, outer, 8], Origin::Switch, data()).chains.len(), 1);
    assert_eq!(unwound(&program, program.at("inner", 0), &[7, 8], Origin::Fresh, data()).chains, []);
}

#[test]
fn no_stack_lies_where_nothing_is_written() {
    let program = program();
    let (middle, outer) = (program.at("middle", 0x20), program.at("outer", 0x30));
    let read_only = Mapping { access: Access { read: true, write: false, execute: false }, ..stack() };
    assert_eq!(unwound(&program, middle, &[7, outer, 8], Origin::Switch, read_only).chains, []);
    assert_eq!(unwound(&program, middle, &[7, outer, 8], Origin::Switch, writable(HEAP, HEAP + 8)).chains, []);
}
