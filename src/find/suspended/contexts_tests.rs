//! Contexts that are found in memory put together by hand.

use super::*;
use crate::find::testing::{BLOCK, HEAP, RBP, RBX, RESUME, STACK, Words, held_in_block, held_on_stack, sites};

/// What is found in these words where `sites` are known.
fn found(words: &[(u64, &[u64])], sites: &Sites, dead: &[AddrRange]) -> Vec<Hypothesis> {
    let words = Words::new(words);
    let slices = words.slices();
    hypotheses(&Scene { memory: &slices, dead, thread_pointer: Some(HEAP) }, sites).found
}

fn on_stack(saved_sp: u64, holder: Option<u64>) -> Hypothesis {
    let (saved_sp, word_at) = (Addr(saved_sp), Addr(saved_sp + 16));
    Hypothesis { site: 0, layout: 0, word_at, saved_sp, holder: holder.map(Addr), block: None }
}

#[test]
fn a_resume_word_and_who_points_to_what_was_saved() {
    let stack: &[u64] = &[1, 2, RESUME];
    let sites = sites(Origin::Switch, held_on_stack());
    let held = found(&[(STACK, stack), (HEAP, &[0, STACK, 7])], &sites, &[]);
    assert_eq!(held, [on_stack(STACK, Some(HEAP + 8))]);
    let twice = found(&[(STACK, stack), (HEAP, &[STACK, STACK + 8, STACK])], &sites, &[]);
    assert_eq!(twice, [on_stack(STACK, Some(HEAP)), on_stack(STACK, Some(HEAP + 16))]);
    // A pointer to somewhere near is none.
    assert_eq!(found(&[(STACK, stack), (HEAP, &[STACK + 8])], &sites, &[]), [on_stack(STACK, None)]);
}

#[test]
fn it_is_told_where_not_all_words_were_looked_at() {
    let sites = sites(Origin::Switch, held_on_stack());
    let words = Words::new(&[(STACK, &[1, 2, RESUME, 3, 4, RESUME]), (HEAP, &[STACK, STACK + 24, STACK])]);
    let slices = words.slices();
    let found = |most| hypotheses_of(&Scene { memory: &slices, dead: &[], thread_pointer: None }, &sites, most);
    let (first, second) = (on_stack(STACK, Some(HEAP)), on_stack(STACK + 24, Some(HEAP + 8)));
    let again = on_stack(STACK, Some(HEAP + 16));
    assert_eq!(found(3), Hypotheses { found: vec![first.clone(), again, second.clone()], cut: false });
    assert_eq!(found(2), Hypotheses { found: vec![first.clone(), second], cut: true });
    assert_eq!(found(1), Hypotheses { found: vec![first], cut: true });
}

#[test]
fn what_was_prepared_and_is_not_held_is_nothing() {
    let sites = sites(Origin::Fresh, held_on_stack());
    assert_eq!(found(&[(STACK, &[0, 0, RESUME])], &sites, &[]), []);
    assert_eq!(found(&[(STACK, &[0, 0, RESUME]), (HEAP, &[STACK])], &sites, &[]), [on_stack(STACK, Some(HEAP))]);
}

#[test]
fn dead_memory_holds_neither_words_nor_pointers() {
    let sites = sites(Origin::Switch, held_on_stack());
    let words: [(u64, &[u64]); 2] = [(STACK, &[1, 2, RESUME]), (HEAP, &[STACK])];
    let dead = |low: u64, high: u64| [AddrRange::new(Addr(low), Addr(high))];
    assert_eq!(found(&words, &sites, &dead(STACK, STACK + 24)), []);
    assert_eq!(found(&words, &sites, &dead(HEAP, HEAP + 8)), [on_stack(STACK, None)]);
}

#[test]
fn a_block_holds_word_and_stack_pointer() {
    let sites = sites(Origin::Switch, held_in_block(None));
    let stack: (u64, &[u64]) = (STACK, &[5, 6, RESUME]);
    let in_block = |saved_sp: u64| Hypothesis {
        site: 0,
        layout: 0,
        word_at: Addr(BLOCK + 8),
        saved_sp: Addr(saved_sp),
        holder: Some(Addr(BLOCK)),
        block: Some(Addr(BLOCK)),
    };
    // The copy of the resume word lies on the stack as long as the context is suspended.
    assert_eq!(found(&[stack, (BLOCK, &[STACK + 8, RESUME, 3])], &sites, &[]), [in_block(STACK + 8)]);
    assert_eq!(found(&[stack, (BLOCK, &[STACK, RESUME, 3])], &sites, &[]), []);
    assert_eq!(found(&[stack, (BLOCK, &[STACK + 4, RESUME, 3])], &sites, &[]), []);
    assert_eq!(found(&[stack, (BLOCK, &[0x7777_0000, RESUME, 3])], &sites, &[]), []);
}

#[test]
fn hidden_words_are_looked_for_as_they_are_stored() {
    let mangling = Mangling { guard: 16, rotation: 17 };
    let guard = 0x1234_5678_9abc_def0;
    let hidden = |value| mangling.hide(value, guard);
    let sites = sites(Origin::SavedOnly, held_in_block(Some(mangling)));
    let words: [(u64, &[u64]); 3] =
        [(STACK, &[5, 6, RESUME]), (HEAP, &[0, 0, guard]), (BLOCK, &[hidden(STACK + 8), hidden(RESUME), 3])];
    let hypotheses = found(&words, &sites, &[]);
    assert_eq!(hypotheses.iter().map(|found| found.saved_sp).collect::<Vec<_>>(), [Addr(STACK + 8)]);
    // Words that are not hidden are others.
    assert_eq!(found(&[words[0], words[1], (BLOCK, &[STACK + 8, RESUME, 3])], &sites, &[]), []);
}

#[test]
fn registers_come_from_stack_and_block() {
    let words = Words::new(&[(STACK, &[1, 2, RESUME]), (BLOCK, &[STACK + 8, RESUME, 3])]);
    let slices = words.slices();
    let scene = Scene { memory: &slices, dead: &[], thread_pointer: None };
    let check = |layout: Layout, expected: [Option<u64>; 3]| {
        let sites = sites(Origin::Switch, layout);
        let hypothesis = hypotheses(&scene, &sites).found.pop().unwrap();
        let registers = registers(&scene, &sites, &hypothesis);
        assert_eq!([RBX, RBP, X86_64.sp].map(|register| registers.get(register)), expected);
        assert_eq!(resumes_at(&scene, &sites, &hypothesis), Some(Pc::After(Addr(RESUME))));
    };
    check(held_on_stack(), [Some(1), Some(2), Some(STACK + 24)]);
    check(held_in_block(None), [Some(3), None, Some(STACK + 8)]);
}

#[test]
fn hits_come_in_the_order_of_addresses_from_all_threads() {
    let stack = vec![RESUME; 1 << 19];
    let sites = sites(Origin::Switch, held_on_stack());
    let hypotheses = found(&[(STACK, &stack)], &sites, &[]);
    assert_eq!(hypotheses.len(), 1 << 19);
    assert!(hypotheses.is_sorted_by_key(|found| found.word_at));
}
