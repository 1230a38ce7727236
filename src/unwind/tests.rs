//! Walks over programs and stacks that are put together by hand.

use gimli::constants::*;

use super::Ended;
use super::testing::{Program, Stack, registers};
use crate::arch::{AARCH64, Arch, X86_64};
use crate::registers::{Register, Registers};

const RBX: Register = Register(3);
const RBP: Register = Register(6);
const R12: Register = Register(12);
const R13: Register = Register(13);
const R14: Register = Register(14);
const X19: Register = Register(19);

/// `CFA = sp + bytes`, the return address just below it.
fn frame_of(bytes: u8) -> [u8; 2] {
    [DW_CFA_def_cfa_offset.0, bytes]
}

/// A program that ends in `main`, whose return address is undefined.
fn program(arch: &'static Arch) -> Program {
    let mut program = Program::new(arch);
    let column = arch.link.unwrap_or(arch.pc);
    program.routine("main", &[DW_CFA_undefined.0, column.0]);
    program
}

fn start(arch: &Arch, pc: u64, sp: u64) -> Registers {
    registers(&[(arch.pc, pc), (arch.sp, sp)])
}

#[test]
fn saved_registers_come_back_and_others_are_unknown() {
    let mut program = program(&X86_64);
    // CFA = rsp + 32, rbx at CFA - 16, r12 at CFA - 24 (one word is a local), r13 undefined.
    let rules =
        [&frame_of(32)[..], &[DW_CFA_offset.0 | 3, 2, DW_CFA_offset.0 | 12, 3, DW_CFA_undefined.0, 13]].concat();
    program.routine("leaf", &rules);
    let stack = Stack::default().label("sp").skip(1).word(12).word(3).word(program.at("main", 16)).label("above");
    let mut start = start(&X86_64, program.at("leaf", 8), stack.at("sp"));
    for register in [Register(0), RBX, R12, R13, R14] {
        start.set(register, 99);
    }
    let (frames, ended) = program.frames(start, &stack, 10);
    assert_eq!((frames.len(), ended), (2, Ended::Root));
    let (main, registers) = &frames[1];
    assert_eq!(frames[0].0.cfa.map(|cfa| cfa.0), Some(stack.at("above")));
    assert_eq!(main.cfa.map(|cfa| cfa.0), Some(stack.at("above") + 8));
    assert_eq!(registers.get(RBX), Some(3));
    assert_eq!(registers.get(R12), Some(12));
    assert_eq!(registers.get(R13), None, "said to be lost");
    assert_eq!(registers.get(R14), Some(99), "kept, as the ABI demands");
    assert_eq!(registers.get(Register(0)), None, "free to be changed");
    assert_eq!(registers.get(X86_64.sp), Some(stack.at("above")));
}

#[test]
fn every_kind_of_rule() {
    let mut program = program(&X86_64);
    // CFA = *(rsp + 8) by expression; rbx = CFA + 16 (val_offset -2 * -8); rbp = *(breg7 16); r12 = breg7 5 itself;
    // r13 = r14's value; r14 is unknown to begin with; the return address is at CFA - 8.
    let rules = [
        &[DW_CFA_def_cfa_expression.0, 3, DW_OP_breg7.0, 8, DW_OP_deref.0][..],
        &[DW_CFA_val_offset_sf.0, RBX.0, 0x7e],
        &[DW_CFA_expression.0, RBP.0, 2, DW_OP_breg7.0, 16],
        &[DW_CFA_val_expression.0, R12.0, 2, DW_OP_breg7.0, 5],
        &[DW_CFA_register.0, R13.0, R14.0],
    ]
    .concat();
    program.routine("odd", &rules);
    let stack =
        Stack::default().label("sp").skip(1).address_of("cfa").word(66).word(program.at("main", 2)).label("cfa");
    let mut start = start(&X86_64, program.at("odd", 0), stack.at("sp"));
    start.set(R14, 14);
    let (frames, ended) = program.frames(start, &stack, 10);
    assert_eq!((frames.len(), ended), (2, Ended::Root));
    let registers = &frames[1].1;
    assert_eq!(frames[0].0.cfa.map(|cfa| cfa.0), Some(stack.at("cfa")));
    assert_eq!(registers.get(RBX), Some(stack.at("cfa") + 16));
    assert_eq!(registers.get(RBP), Some(66));
    assert_eq!(registers.get(R12), Some(stack.at("sp") + 5));
    assert_eq!(registers.get(R13), Some(14));
    assert_eq!(registers.get(R14), Some(14));
}

#[test]
fn rules_change_inside_a_routine_and_come_back() {
    let mut program = program(&X86_64);
    // +1: CFA = rsp + 16; +2: remembered, CFA = rsp + 8 until +3, where the remembered rules hold again; +4: restored.
    let rules = [
        DW_CFA_advance_loc.0 | 1,
        DW_CFA_def_cfa_offset.0,
        16,
        DW_CFA_offset.0 | RBX.0,
        2,
        DW_CFA_advance_loc.0 | 1,
        DW_CFA_remember_state.0,
        DW_CFA_def_cfa_offset.0,
        8,
        DW_CFA_advance_loc.0 | 1,
        DW_CFA_restore_state.0,
        DW_CFA_advance_loc.0 | 1,
        DW_CFA_restore.0 | RBX.0,
    ];
    program.routine("rules", &rules);
    let cases = [(0, 8, None), (1, 16, Some(7)), (2, 8, None), (3, 16, Some(7)), (4, 16, None)];
    for (offset, size, rbx) in cases {
        let stack = Stack::default().label("sp");
        let stack = if size == 16 { stack.word(7) } else { stack }.word(program.at("main", 4)).label("cfa");
        let (frames, ended) = program.frames(start(&X86_64, program.at("rules", offset), stack.at("sp")), &stack, 9);
        assert_eq!((frames.len(), ended), (2, Ended::Root), "at +{offset}");
        assert_eq!(frames[1].1.get(RBX), rbx, "at +{offset}");
    }
}

#[test]
fn a_return_address_behind_the_end_of_a_routine_belongs_to_it() {
    let mut program = program(&X86_64);
    program.routine("never_returns", &frame_of(16));
    program.routine("next", &frame_of(64));
    program.routine("leaf", &frame_of(8));
    let stack = Stack::default().label("sp").word(program.at("next", 0)).skip(1).word(program.at("main", 2));
    let walked = program.walk(start(&X86_64, program.at("leaf", 0), stack.at("sp")), &stack, 9);
    assert_eq!(walked, (vec!["at leaf+0 Context".into(), "next+0 Cfi".into(), "main+2 Cfi".into()], Ended::Root));
}

#[test]
fn an_address_that_was_planted_is_a_root() {
    let leaf = |program: &mut Program| program.routine("leaf", &frame_of(8));
    // What makecontext does: the address of a routine is where a return address is expected; nothing leads on.
    let mut first_byte = program(&X86_64);
    first_byte.bare("padding");
    first_byte.write("padding", 0xf8, &[0x90; 8]);
    first_byte.routine("planted", &frame_of(8));
    leaf(&mut first_byte);
    // What Go does: the second instruction.
    let mut second = program(&X86_64);
    second.routine("planted", &frame_of(8));
    second.write("planted", 0, &[0x90]);
    second.write("main", 0xf8, &[0x90; 8]);
    leaf(&mut second);
    // There is a call before it, and only the routine itself makes sense.
    let mut after_call = program(&X86_64);
    after_call.routine("before", &frame_of(64));
    after_call.routine("planted", &frame_of(8));
    leaf(&mut after_call);
    // Nothing describes it.
    let mut bare = program(&X86_64);
    bare.bare("planted");
    bare.write("planted", 0x20, &[0x90; 16]);
    leaf(&mut bare);

    let cases = [(first_byte, 0), (second, 1), (after_call, 0), (bare, 0x30)];
    for (program, offset) in cases {
        let link = 0x1234;
        let stack = Stack::default().label("sp").word(program.at("planted", offset)).word(link).skip(10);
        let walked = program.walk(start(&X86_64, program.at("leaf", 4), stack.at("sp")), &stack, 9);
        let planted = format!("at planted+{offset} Cfi");
        assert_eq!(walked, (vec!["at leaf+4 Context".into(), planted], Ended::Root));
    }
}

#[test]
fn a_planted_address_that_leads_on_is_followed() {
    let mut program = program(&X86_64);
    program.routine("planted", &frame_of(16));
    program.write("main", 0xf8, &[0x90; 8]);
    program.routine("leaf", &frame_of(8));
    let stack = Stack::default().label("sp").word(program.at("planted", 0)).skip(1).word(program.at("main", 2));
    let (names, ended) = program.walk(start(&X86_64, program.at("leaf", 4), stack.at("sp")), &stack, 9);
    assert_eq!(names, ["at leaf+4 Context", "at planted+0 Cfi", "main+2 Cfi"]);
    assert_eq!(ended, Ended::Root);
}

#[test]
fn what_is_no_return_address_is_never_shown() {
    let mut program = program(&X86_64);
    program.routine("leaf", &frame_of(8));
    program.write("main", 0x20, &[0x90; 32]);
    // No code; the middle of a routine, not after a call; the kernel's half.
    for address in [0x1234, program.at("main", 0x30), 0xffff_8000_0000_1000] {
        let stack = Stack::default().label("sp").word(address).skip(8);
        let (names, ended) = program.walk(start(&X86_64, program.at("leaf", 4), stack.at("sp")), &stack, 9);
        assert_eq!((names.len(), ended), (1, Ended::NoRule), "{address:#x}");
    }
}

#[test]
fn the_end_of_memory_is_named() {
    let mut program = program(&X86_64);
    program.routine("leaf", &frame_of(32));
    let stack = Stack::default().label("sp").skip(3).label("end");
    let (names, ended) = program.walk(start(&X86_64, program.at("leaf", 4), stack.at("sp")), &stack, 9);
    assert_eq!((names.len(), ended), (1, Ended::Unreadable(crate::addr::Addr(stack.at("end")))));
}

#[test]
fn a_return_address_of_zero_is_the_end() {
    let mut program = program(&X86_64);
    program.routine("leaf", &frame_of(8));
    let stack = Stack::default().label("sp").word(0);
    let (names, ended) = program.walk(start(&X86_64, program.at("leaf", 4), stack.at("sp")), &stack, 9);
    assert_eq!((names.len(), ended), (1, Ended::Root));
}

/// `CFA = *rsp`: the way of a trampoline from one stack to another.
const SWITCH: [u8; 5] = [DW_CFA_def_cfa_expression.0, 3, DW_OP_breg7.0, 0, DW_OP_deref.0];

#[test]
fn another_stack_may_lie_above_or_below() {
    let mut program = program(&X86_64);
    program.routine("switch", &SWITCH);
    let code = |offset| program.at("switch", offset);
    // The walk begins in the middle, goes down, and then up. A return address lies just below each CFA.
    let stack = Stack::default().word(code(2)).label("low").address_of("high").skip(4).label("middle");
    let stack = stack.address_of("low").skip(4).word(program.at("main", 2)).label("high");
    let (names, ended) = program.walk(start(&X86_64, code(0), stack.at("middle")), &stack, 9);
    assert_eq!(names, ["at switch+0 Context", "switch+2 Cfi", "main+2 Cfi"]);
    assert_eq!(ended, Ended::Root);
}

#[test]
fn rings_are_left_where_they_close() {
    let mut program = program(&X86_64);
    program.routine("switch", &SWITCH);
    program.routine("plain", &frame_of(16));
    let (switch, plain) = (program.at("switch", 2), program.at("plain", 2));
    // Two contexts, each the other's parent.
    let stack = Stack::default().word(switch).label("first").address_of("second").skip(2);
    let stack = stack.word(switch).label("second").address_of("first");
    let (names, ended) = program.walk(start(&X86_64, program.at("switch", 0), stack.at("first")), &stack, 99);
    assert_eq!((names.len(), ended), (3, Ended::Repeats), "{names:?}");
    // A frame that points to itself.
    let stack = Stack::default().word(switch).label("self").address_of("self");
    let (names, ended) = program.walk(start(&X86_64, program.at("switch", 0), stack.at("self")), &stack, 99);
    assert_eq!((names.len(), ended), (2, Ended::Repeats), "{names:?}");
    // A ring that is entered by steps up: plain frames, then back to the first of them.
    let stack = Stack::default().label("sp").skip(1).word(plain).label("first").skip(1).word(switch);
    let stack = stack.address_of("first");
    let (names, ended) = program.walk(start(&X86_64, program.at("plain", 0), stack.at("sp")), &stack, 99);
    assert_eq!((names.len(), ended), (3, Ended::Repeats), "{names:?}");
}

#[test]
fn a_million_frames_are_walked_and_the_limit_holds() {
    const DEPTH: usize = 1_000_000;
    let mut program = program(&X86_64);
    program.routine("recursive", &frame_of(16));
    let address = program.at("recursive", 2);
    let stack = (0..DEPTH).fold(Stack::default().label("sp"), |stack, _| stack.word(1).word(address));
    let stack = stack.skip(1).word(program.at("main", 2));
    let start = start(&X86_64, address, stack.at("sp"));
    let (names, ended) = program.frames(start.clone(), &stack, 2 * DEPTH);
    assert_eq!((names.len(), ended), (DEPTH + 2, Ended::Root));
    let (names, ended) = program.frames(start, &stack, 1000);
    assert_eq!((names.len(), ended), (1000, Ended::TooDeep));
}

#[test]
fn a_signal_trampoline_is_known_by_its_code() {
    let mut program = program(&X86_64);
    program.routine("handler", &frame_of(8));
    program.bare("restorer");
    program.write("restorer", 0, X86_64.sigreturn);
    program.routine("interrupted", &frame_of(16));
    check_signal(&program, program.at("restorer", 0), "at restorer+0 Cfi signal");
}

#[test]
fn a_signal_trampoline_is_known_by_its_rules() {
    let mut program = program(&X86_64);
    program.routine("handler", &frame_of(8));
    // Code other than the kernel's: each register by its place in the signal frame.
    let rules = X86_64.sigframe.iter().flat_map(|(register, offset)| {
        let [low, high] = [(*offset as u8 & 0x7f) | 0x80, (*offset >> 7) as u8];
        [DW_CFA_expression.0, register.0, 3, DW_OP_breg7.0, low, high]
    });
    let cfa = [DW_CFA_def_cfa_expression.0, 4, DW_OP_breg7.0, 0xa0, 0x01, DW_OP_deref.0];
    program.trampoline("restorer", &cfa.into_iter().chain(rules).collect::<Vec<_>>());
    program.write("handler", 0xf8, &[0x90; 8]);
    program.routine("interrupted", &frame_of(16));
    check_signal(&program, program.at("restorer", 0), "at restorer+0 Cfi signal");
}

/// A handler was called by the kernel at the first instruction of `interrupted`, which is not looked up one byte
/// before.
fn check_signal(program: &Program, restorer: u64, trampoline: &str) {
    let interrupted = program.at("interrupted", 0);
    let mut stack = Stack::default().label("handler").word(restorer).label("frame");
    for word in 0..32 {
        let saved = X86_64.sigframe.iter().find(|(_, offset)| *offset == 8 * word);
        stack = match saved.map(|(register, _)| *register) {
            Some(register) if register == X86_64.pc => stack.word(interrupted),
            Some(register) if register == X86_64.sp => stack.address_of("stack"),
            Some(register) => stack.word(1000 + u64::from(register.0)),
            None => stack.skip(1),
        };
    }
    let stack = stack.label("stack").skip(1).word(program.at("main", 2));
    let (frames, ended) = program.frames(start(&X86_64, program.at("handler", 4), stack.at("handler")), &stack, 9);
    let (names, _) = program.walk(start(&X86_64, program.at("handler", 4), stack.at("handler")), &stack, 9);
    assert_eq!(names[..2], ["at handler+4 Context", trampoline]);
    assert!(names[2].starts_with("at interrupted+0 "), "{names:?}");
    assert_eq!((names.len(), ended), (4, Ended::Root));
    for (register, _) in X86_64.sigframe.iter().filter(|(register, _)| ![X86_64.pc, X86_64.sp].contains(register)) {
        assert_eq!(frames[2].1.get(*register), Some(1000 + u64::from(register.0)), "{register:?}");
    }
}

#[test]
fn a_call_of_nothing_is_left_by_its_return_address() {
    let mut program = program(&X86_64);
    program.routine("caller", &frame_of(16));
    let stack = Stack::default().label("sp").word(program.at("caller", 2)).skip(1).word(program.at("main", 2));
    let (names, ended) = program.walk(start(&X86_64, 0, stack.at("sp")), &stack, 9);
    assert_eq!(names, ["at 0x0 Context", "caller+2 Scan", "main+2 Cfi"]);
    assert_eq!(ended, Ended::Root);
}

/// A program with code that nothing describes, called by `caller`.
fn undescribed() -> Program {
    let mut program = program(&X86_64);
    program.bare("bare");
    program.routine("caller", &frame_of(16));
    program
}

#[test]
fn a_leaf_without_rules_is_left_by_the_call_that_leads_to_it() {
    let mut program = undescribed();
    let call = program.at("caller", 0x20);
    let distance = program.at("bare", 0).wrapping_sub(call + 5) as u32;
    program.write("caller", 0x20, &[&[0xe8][..], &distance.to_le_bytes()].concat());
    let stack = Stack::default().label("sp").word(call + 5).skip(1).word(program.at("main", 2));
    let (names, ended) = program.walk(start(&X86_64, program.at("bare", 7), stack.at("sp")), &stack, 9);
    assert_eq!(names, ["at bare+7 Context", "caller+37 Scan", "main+2 Cfi"]);
    assert_eq!(ended, Ended::Root);
}

#[test]
fn frame_pointers_are_followed_where_there_are_no_rules() {
    let program = undescribed();
    let stack = Stack::default().label("sp").word(program.at("main", 6)).skip(2);
    let stack = stack.label("fp").word(0).word(program.at("caller", 2)).skip(1).word(program.at("main", 2));
    let mut start = start(&X86_64, program.at("bare", 7), stack.at("sp"));
    start.set(RBP, stack.at("fp"));
    let (names, ended) = program.walk(start, &stack, 9);
    assert_eq!(names, ["at bare+7 Context", "caller+2 FramePointer", "main+2 Cfi"]);
    assert_eq!(ended, Ended::Root);
}

/// A routine that switches stacks, which has loaded the stack pointer and not yet the frame pointer.
#[test]
fn a_frame_pointer_of_another_stack_is_not_followed() {
    let mut program = undescribed();
    let call = program.at("caller", 0x20);
    let distance = program.at("bare", 0).wrapping_sub(call + 5) as u32;
    program.write("caller", 0x20, &[&[0xe8][..], &distance.to_le_bytes()].concat());
    let names = |skipped| {
        let stack = Stack::default().label("sp").skip(6).word(call + 5).skip(1).word(program.at("main", 2));
        let stack = stack.skip(skipped).label("fp").word(0).word(program.at("caller", 8)).skip(1);
        let stack = stack.word(program.at("main", 8));
        let mut start = start(&X86_64, program.at("bare", 7), stack.at("sp"));
        start.set(RBP, stack.at("fp"));
        program.walk(start, &stack, 9).0
    };
    assert_eq!(names(600), ["at bare+7 Context", "caller+37 Scan", "main+2 Cfi"]);
    assert_eq!(names(60), ["at bare+7 Context", "caller+8 FramePointer", "main+8 Cfi"]);
}

#[test]
fn a_search_takes_only_what_leads_on() {
    let program = undescribed();
    let believable = Stack::default().label("sp").skip(3).word(program.at("caller", 2)).skip(1);
    let stack = believable.word(program.at("main", 2));
    let (names, ended) = program.walk(start(&X86_64, program.at("bare", 7), stack.at("sp")), &stack, 9);
    assert_eq!(names, ["at bare+7 Context", "caller+2 Scan", "main+2 Cfi"]);
    assert_eq!(ended, Ended::Root);
    // A stale return address: its rules lead to nothing.
    let stack = Stack::default().label("sp").skip(3).word(program.at("caller", 2)).skip(8);
    let (names, ended) = program.walk(start(&X86_64, program.at("bare", 7), stack.at("sp")), &stack, 9);
    assert_eq!((names.len(), ended), (1, Ended::NoRule));
}

#[test]
fn a_leaf_of_aarch64_returns_by_the_link_register() {
    let mut program = program(&AARCH64);
    // x29 and x30 at the bottom of a frame of 32 bytes; x19 above them.
    let rules =
        [DW_CFA_def_cfa_offset.0, 32, DW_CFA_offset.0 | 29, 4, DW_CFA_offset.0 | 30, 3, DW_CFA_offset.0 | 19, 2];
    program.routine("caller", &rules);
    // paciasp before: the saved return address is signed.
    program.routine("signed", &[&[DW_CFA_AARCH64_negate_ra_state.0][..], &rules].concat());
    program.routine("leaf", &[]);
    let signature = 0x00ba_0000_0000_0000;
    let stack = Stack::default().label("sp").word(0).word(program.at("signed", 8) | signature).word(19).skip(1);
    let stack = stack.label("above").word(0).word(program.at("main", 4) | signature).word(20).skip(1).label("top");
    let mut start = start(&AARCH64, program.at("leaf", 4), stack.at("sp"));
    start.set(Register(30), program.at("caller", 8));
    let (frames, ended) = program.frames(start.clone(), &stack, 9);
    let (names, _) = program.walk(start, &stack, 9);
    assert_eq!(names, ["at leaf+4 Context", "caller+8 Cfi", "signed+8 Cfi", "main+4 Cfi"]);
    assert_eq!(ended, Ended::Root);
    assert_eq!(frames[0].0.cfa.map(|cfa| cfa.0), Some(stack.at("sp")));
    assert_eq!(frames[1].0.cfa.map(|cfa| cfa.0), Some(stack.at("above")));
    assert_eq!(frames[2].1.get(X19), Some(19));
    assert_eq!(frames[3].1.get(X19), Some(20));
    assert_eq!(frames[2].1.get(Register(30)), None, "the call changed it");
}
