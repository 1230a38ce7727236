//! Each shape of switch routine, assembled, and what is made of it.

use std::collections::HashMap;
use std::process::Command;
use std::sync::OnceLock;

use object::{Object, ObjectSection, ObjectSymbol};

use super::*;

/// `routines.s`, assembled: its code, where each routine begins, and which of them have unwind entries of their own.
struct Assembled {
    code: Vec<u8>,
    symbols: HashMap<String, u64>,
}

const DESCRIBED: &[&str] = &[
    "block_maker",
    "planted",
    "yields_inline",
    "swaps_inline",
    "takes_address",
    "hands_address",
    "pushes_label",
    "saves_label",
    "begins",
];

/// Labels inside functions.
const INNER: &[&str] = &["arrives", "goes_on", "swapped", "comes_back", "popped", "landed"];

fn assembled() -> &'static Assembled {
    static ASSEMBLED: OnceLock<Assembled> = OnceLock::new();
    ASSEMBLED.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/find/descriptors/routines.s");
        let object = std::env::temp_dir().join(format!("stackscope-routines-{}.o", std::process::id()));
        let status = Command::new("cc").arg("-c").arg(source).arg("-o").arg(&object).status().unwrap();
        assert!(status.success());
        let bytes = std::fs::read(&object).unwrap();
        std::fs::remove_file(&object).unwrap();
        let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&*bytes).unwrap();
        let code = file.section_by_name(".text").unwrap().data().unwrap().to_vec();
        let symbols = file.symbols().filter(|symbol| symbol.is_global());
        let symbols = symbols.map(|symbol| (symbol.name().unwrap().to_owned(), symbol.address())).collect();
        Assembled { code, symbols }
    })
}

/// What is derived where every routine has a symbol, or where only unwind entries tell the starts of functions.
fn derived(stripped: bool) -> Switches {
    let Assembled { code, symbols } = assembled();
    let has_start = |name: &str| !INNER.contains(&name) && (!stripped || DESCRIBED.contains(&name));
    let starts: Vec<u64> = symbols.iter().filter(|(name, _)| has_start(name)).map(|(_, at)| *at).collect();
    let all: Vec<u64> = symbols.iter().filter(|(name, _)| !INNER.contains(&name.as_str())).map(|(_, at)| *at).collect();
    let function_start = move |svma: u64| {
        // A routine ends where the next begins, whether or not the next has a start that is known here.
        let start = all.iter().filter(|start| **start <= svma).max()?;
        starts.contains(start).then_some(*start)
    };
    let parts = [CodeBytes { svma: 0, bytes: code }];
    derive(&ImageCode { parts: &parts, function_start: &function_start, named_starts: &|_, _| Vec::new() })
}

fn of<'a>(switches: &'a Switches, name: &str) -> Vec<&'a Descriptor> {
    let symbol = assembled().symbols[name];
    let resumes_at = |descriptor: &&Descriptor| match descriptor.resume {
        Resume::AfterCallsOf(entry) => entry == symbol,
        Resume::Label { label, .. } => label == symbol,
    };
    switches.descriptors.iter().filter(resumes_at).collect()
}

const RBX: u8 = 3;
const BP: u8 = 6;

fn layout(word: Place, copy: Option<i64>, slot: Option<i64>, after: i64, registers: &[(u8, Place)]) -> Layout {
    let mut registers: Vec<_> = registers.iter().map(|(number, place)| (Register(*number), *place)).collect();
    registers.sort_by_key(|(register, _)| register.0);
    Layout { resume_word: word, stack_copy: copy, sp_slot: slot, sp_after: after, registers, tags: 0, mangling: None }
}

fn check(name: &str, expected: &Layout) {
    for stripped in [false, true] {
        let switches = derived(stripped);
        let [descriptor] = of(&switches, name)[..] else { panic!("{name}: {:#?}", of(&switches, name)) };
        let mut found = descriptor.layout.clone();
        found.registers.sort_by_key(|(register, _)| register.0);
        assert_eq!(&found, expected, "{name}, stripped: {stripped}");
    }
}

fn stack(registers: &[(u8, i64)]) -> Vec<(u8, Place)> {
    registers.iter().map(|(register, offset)| (*register, Place::Stack(*offset))).collect()
}

fn block(registers: &[(u8, i64)]) -> Vec<(u8, Place)> {
    registers.iter().map(|(register, offset)| (*register, Place::Block(*offset))).collect()
}

#[test]
fn pushed_registers_lie_above_the_saved_stack_pointer() {
    let registers = stack(&[(15, 0), (14, 8), (13, 16), (12, 24), (RBX, 32), (BP, 40)]);
    let expected = |slot| layout(Place::Stack(48), Some(48), slot, 56, &registers);
    check("pushes_all", &expected(Some(0)));
    check("pops_and_jumps", &expected(Some(0)));
    check("slot_below", &expected(Some(-16)));
}

#[test]
fn a_stack_pointer_may_be_handed_on_in_a_register() {
    let registers = stack(&[(12, 8), (13, 16), (14, 24), (15, 32), (RBX, 40), (BP, 48)]);
    check("hands_over", &layout(Place::Stack(56), Some(56), None, 64, &registers));
}

#[test]
fn registers_may_be_kept_in_a_block() {
    let registers = block(&[(RBX, 0), (BP, 16), (12, 32), (13, 40), (14, 48), (15, 56)]);
    check("block_on_entry", &layout(Place::Stack(0), Some(0), Some(8), 8, &registers));
    let registers = block(&[(BP, 8), (RBX, 16), (12, 24)]);
    check("block_filled_late", &layout(Place::Stack(0), Some(0), Some(0), 8, &registers));
    let registers = block(&[(RBX, 0x80), (BP, 0x78), (12, 0x48), (13, 0x50), (14, 0x58), (15, 0x60)]);
    check("block_with_pc", &layout(Place::Block(0xa8), Some(-8), Some(0xa0), 0, &registers));
}

#[test]
fn the_stack_pointer_may_be_moved_in_any_way() {
    let registers = stack(&[(15, 0), (14, 8), (13, 16), (12, 24), (RBX, 32), (BP, 40)]);
    let expected = |slot| layout(Place::Stack(48), Some(48), slot, 56, &registers);
    check("thread_local", &expected(Some(-16)));
    check("pops_stack_pointer", &expected(Some(0)));
    check("adds_distance", &expected(Some(0)));
    let registers = stack(&[(BP, 0), (15, 8), (14, 16), (13, 24), (12, 32), (RBX, 40)]);
    check("by_frame_pointer", &layout(Place::Stack(48), Some(48), Some(0), 56, &registers));
    check("leaves_frame", &layout(Place::Stack(8), Some(8), Some(0), 16, &stack(&[(BP, 0)])));
}

#[test]
fn what_is_resumed_as_it_was_left_needs_few_registers() {
    check("saves_frame_pointer", &layout(Place::Stack(8), Some(8), Some(0), 16, &stack(&[(BP, 0)])));
}

#[test]
fn bits_that_a_stack_pointer_leaves_free_may_be_used() {
    let registers = stack(&[(15, 0), (14, 8), (13, 16), (12, 24), (RBX, 32), (BP, 40)]);
    let plain = layout(Place::Stack(48), Some(48), Some(0), 56, &registers);
    check("keeps_tag", &Layout { tags: 1, ..plain });
}

#[test]
fn functions_may_be_called_in_the_midst_of_a_switch() {
    let registers = stack(&[(15, 0), (14, 8), (13, 16), (12, 24), (RBX, 32), (BP, 40)]);
    let expected = |slot| layout(Place::Stack(48), Some(48), slot, 56, &registers);
    check("asks_scheduler", &expected(None));
    check("calls_on_new", &expected(Some(0)));
}

#[test]
fn two_ways_through_a_routine_may_leave_two_layouts() {
    for stripped in [false, true] {
        let switches = derived(stripped);
        let mut words: Vec<_> = of(&switches, "two_layouts").iter().map(|it| it.layout.resume_word).collect();
        words.sort_unstable_by_key(|word| format!("{word:?}"));
        assert_eq!(words, [Place::Stack(48), Place::Stack(56)], "stripped: {stripped}");
    }
}

#[test]
fn a_block_may_hold_a_label() {
    let switches = derived(false);
    let [descriptor] = of(&switches, "landed")[..] else { panic!("{switches:#?}") };
    assert!(descriptor.saves_only);
    let expected = layout(Place::Block(-8), None, Some(0), 0, &block(&[(BP, -16)]));
    assert_eq!(descriptor.layout, expected);
    let calls = assembled().symbols["landed"] - 4;
    assert!(matches!(descriptor.resume, Resume::Label { goes_on, .. } if goes_on == calls), "{descriptor:?}");
}

#[test]
fn a_routine_may_call_the_scheduler_on_its_stack() {
    let registers = block(&[(BP, 0x18)]);
    check("calls_scheduler", &layout(Place::Block(0x10), Some(-8), Some(8), 0, &registers));
}

#[test]
fn the_saving_half_is_found_by_what_the_loading_half_loads() {
    let registers = block(&[(RBX, 0), (BP, 8), (12, 16), (13, 24), (14, 32), (15, 40)]);
    let open = layout(Place::Block(56), None, Some(48), 0, &registers);
    check("saves_open", &open);
    check("saves_hidden", &Layout { mangling: Some(Mangling { guard: 0x30, rotation: 17 }), ..open });
}

#[test]
fn inlined_code_resumes_at_its_label() {
    check("arrives", &layout(Place::Stack(0), Some(0), None, 24, &stack(&[(RBX, 8), (BP, 16)])));
    let switches = derived(false);
    let goes_on = assembled().symbols["goes_on"];
    assert!(matches!(of(&switches, "arrives")[0].resume, Resume::Label { goes_on: at, .. } if at == goes_on));
    check("swapped", &layout(Place::Stack(16), Some(16), None, 24, &stack(&[(RBX, 0), (BP, 8)])));
    check("popped", &layout(Place::Stack(0), Some(0), None, 152, &stack(&[(RBX, 8), (BP, 16)])));
}

#[test]
fn the_address_to_go_on_at_may_be_handed_to_the_routine() {
    check("comes_back", &layout(Place::Stack(16), Some(16), None, 24, &stack(&[(RBX, 0), (BP, 8)])));
}

#[test]
fn nothing_else_is_taken_for_a_switch() {
    let real = [
        "pushes_all",
        "pops_and_jumps",
        "calls_scheduler",
        "hands_over",
        "block_on_entry",
        "block_filled_late",
        "slot_below",
        "block_with_pc",
        "saves_hidden",
        "saves_open",
        "arrives",
        "swapped",
        "comes_back",
        "saves_frame_pointer",
        "by_frame_pointer",
        "leaves_frame",
        "thread_local",
        "pops_stack_pointer",
        "adds_distance",
        "keeps_tag",
        "asks_scheduler",
        "calls_on_new",
        "two_layouts",
        "popped",
        "landed",
    ];
    for stripped in [false, true] {
        let switches = derived(stripped);
        let found: usize = real.iter().map(|name| of(&switches, name).len()).sum();
        assert_eq!(switches.descriptors.len(), found, "stripped: {stripped}, {:#x?}", switches.descriptors);
        let saving: Vec<_> = switches.descriptors.iter().filter(|descriptor| descriptor.saves_only).collect();
        assert_eq!(saving.len(), 3);
    }
}

#[test]
fn fresh_contexts_begin_at_planted_functions_and_trampolines() {
    for stripped in [false, true] {
        let starts = derived(stripped).starts;
        for name in ["planted", "begins"] {
            assert!(starts.contains(&StartLabel(assembled().symbols[name])), "{name}, stripped: {stripped}");
        }
    }
}

#[test]
fn any_bytes_are_survived() {
    let code = &assembled().code;
    for length in 0..code.len() {
        let parts = [CodeBytes { svma: u64::MAX - 64, bytes: &code[length..] }];
        if length % 7 == 0 {
            derive(&ImageCode { parts: &parts, function_start: &|_| None, named_starts: &|_, _| Vec::new() });
        }
    }
}

/// As where one piece of assembly defines two routines, and has an unwind entry for the first.
#[test]
fn a_routine_may_follow_unaligned_on_one_that_a_table_covers() {
    let Assembled { code, symbols } = assembled();
    let routine = &code[symbols["pushes_all"] as usize..symbols["pops_and_jumps"] as usize];
    for (padding, begins_at) in [(&[][..], 0x1025), (&[0xcc; 6], 0x102b), (&[0x66, 0x90, 0x90], 0x1028)] {
        let shifted = [&[0x50; 0x25], padding, routine].concat();
        let parts = [CodeBytes { svma: 0x1000, bytes: &shifted }];
        let function_start = |svma: u64| (0x1000..0x1025).contains(&svma).then_some(0x1000);
        let switches =
            derive(&ImageCode { parts: &parts, function_start: &function_start, named_starts: &|_, _| Vec::new() });
        let [Descriptor { resume, .. }] = &switches.descriptors[..] else { panic!("{switches:#?}") };
        assert_eq!(*resume, Resume::AfterCallsOf(begins_at));
    }
}

#[test]
fn a_symbol_tells_where_a_routine_begins_that_is_not_aligned() {
    let Assembled { code, symbols } = assembled();
    let routine = &code[symbols["pushes_all"] as usize..symbols["pops_and_jumps"] as usize];
    let shifted = [&[0x90; 17], routine].concat();
    let parts = [CodeBytes { svma: 0x1000, bytes: &shifted }];
    let switches = derive(&ImageCode { parts: &parts, function_start: &|_| None, named_starts: &|_, _| vec![0x1011] });
    let [Descriptor { resume, layout, .. }] = &switches.descriptors[..] else { panic!("{switches:#?}") };
    assert_eq!(*resume, Resume::AfterCallsOf(0x1011));
    assert_eq!(layout.registers.len(), 6);
}

#[test]
fn the_saving_half_may_begin_anywhere_too() {
    let Assembled { code, symbols } = assembled();
    let piece = |from: &str, to: &str| &code[symbols[from] as usize..symbols[to] as usize];
    let (saves, loads) = (piece("saves_open", "loads_open"), piece("loads_open", "yields_inline"));
    // Far apart, so that what is known around one of them says nothing of the other.
    let far = [0x90; 512];
    let bytes = [&[0x90; 17], saves, &far, loads].concat();
    let starts = [0x1011, 0x1011 + (saves.len() + far.len()) as u64];
    let named_starts = |svmas: &[u64], within: u64| {
        let is_near = |start: &u64| svmas.iter().any(|svma| svma.checked_sub(*start).is_some_and(|far| far <= within));
        starts.into_iter().filter(is_near).collect()
    };
    let parts = [CodeBytes { svma: 0x1000, bytes: &bytes }];
    let switches = derive(&ImageCode { parts: &parts, function_start: &|_| None, named_starts: &named_starts });
    let saving: Vec<_> = switches.descriptors.iter().filter(|descriptor| descriptor.saves_only).collect();
    let [Descriptor { resume: Resume::AfterCallsOf(0x1011), .. }] = saving[..] else { panic!("{switches:#?}") };
}
