//! Chains put together by hand, of which one is to be chosen.

use super::*;
use crate::find::suspended::contexts::Hypothesis;
use crate::find::testing::{HEAP, STACK, held_on_stack, sites, writable};
use crate::memory::Slices;
use crate::process::PagesUnknown;
use crate::unwind::{Ended, FoundBy};

const SIZE: u64 = 0x4000;
const ROOT: u64 = 0x10_0800;
const MIDDLE: u64 = 0x10_0400;

/// A chain of a stack that ends at `top`, with the stack pointer so many bytes below, held at `holder`.
#[derive(Clone, Copy)]
struct Made {
    top: u64,
    depth: u64,
    holder: Option<u64>,
    pcs: &'static [u64],
}

impl Made {
    fn new(top: u64, depth: u64, holder: Option<u64>) -> Made {
        Made { top, depth, holder, pcs: &[MIDDLE, ROOT] }
    }

    fn saved_sp(&self) -> u64 {
        self.top - self.depth
    }
}

fn chains(made: &[Made]) -> Chains {
    let (mut chains, mut frames) = (Chains::default(), Vec::new());
    for made in made {
        let start = frames.len();
        frames.extend(made.pcs.iter().enumerate().map(|(index, pc)| Frame {
            pc: Pc::After(Addr(*pc)),
            cfa: Some(Addr(made.top - 16 * (made.pcs.len() - 1 - index) as u64)),
            found_by: FoundBy::Cfi,
            signal: false,
        }));
        let (saved_sp, word_at) = (Addr(made.saved_sp()), Addr(made.saved_sp() + 16));
        let holder = made.holder.map(Addr);
        chains.chains.push(Chain {
            hypothesis: Hypothesis { site: 0, layout: 0, word_at, saved_sp, holder, block: None },
            sp: saved_sp,
            frames: start..frames.len(),
            list: 0,
            segments: Vec::new(),
            root: Root::Marked,
            top: Addr(made.top),
            ended: Ended::Root,
        });
    }
    chains.frames.push(frames);
    chains
}

/// Which of the chains are chosen where these stacks run.
fn chosen_of(made: &[Made], origin: Origin, running: &[Running]) -> Vec<Choice> {
    chosen_beside(made, origin, &Threads { running: running.to_vec(), ..Threads::default() })
}

fn chosen_beside(made: &[Made], origin: Origin, threads: &Threads) -> Vec<Choice> {
    let code =
        CodeView { read: &|_, _| false, function_start: &|_| None, memory: &Slices::default(), unbound: &|_, _| None };
    let mappings = [writable(HEAP, HEAP + 0x10000), writable(STACK, STACK + 0x100_0000)];
    let memory = Slices::default();
    let rooms = Rooms::new(&mappings, &memory, Err(PagesUnknown));
    choose(&chains(made), &sites(origin, held_on_stack()), &mappings, threads, code, &rooms)
}

fn chosen(made: &[Made]) -> Vec<usize> {
    chosen_of(made, Origin::Switch, &[]).iter().map(|choice| choice.chain).collect()
}

fn top(index: u64) -> u64 {
    STACK + SIZE * (index + 1)
}

#[test]
fn what_is_pointed_to_is_chosen_from_what_calls_left_behind() {
    let left = Made::new(top(0), 512, None);
    let live = Made::new(top(0), 256, Some(HEAP));
    assert_eq!(chosen(&[left, live]), [1]);
    assert_eq!(chosen(&[live, left]), [0]);
    // One is chosen for each stack.
    assert_eq!(chosen(&[live, left, Made::new(top(1), 128, None)]), [0, 2]);
}

#[test]
fn the_low_end_of_a_stack_may_keep_its_stack_pointer() {
    let held = |distance: fn(u64) -> u64| {
        let stacks: Vec<Made> = (0..20).map(|i| Made::new(top(i), 256, Some(top(i) - distance(i)))).collect();
        let choices = chosen_of(&stacks, Origin::Switch, &[]);
        choices.iter().filter(|choice| choice.holder != Holder::None).count()
    };
    assert_eq!(held(|_| 0x2f00), 20);
    // What lies here and there is left from earlier calls, but below the lowest stack of all it may be anything.
    assert_eq!(held(|i| 0x2000 + 16 * i), 1);
}

#[test]
fn a_pointer_from_outside_counts_more() {
    let from_itself = Made::new(top(0), 512, Some(top(0) - 32));
    let from_another = Made::new(top(0), 384, Some(top(1) - 32));
    let from_heap = Made::new(top(0), 256, Some(HEAP));
    let other = Made::new(top(1), 128, Some(HEAP + 8));
    assert_eq!(chosen(&[from_itself, from_another, from_heap, other]), [2, 3]);
    assert_eq!(chosen(&[from_itself, from_another, other]), [1, 2]);
    let choices = chosen_of(&[from_itself, from_another, from_heap, other], Origin::Switch, &[]);
    assert_eq!((choices[0].candidates, choices[0].holder), (3, Holder::Elsewhere));
}

#[test]
fn of_equals_the_innermost_is_chosen() {
    let inner = Made::new(top(0), 512, Some(HEAP));
    let outer = Made::new(top(0), 256, Some(HEAP + 8));
    assert_eq!(chosen(&[outer, inner]), [1]);
}

#[test]
fn code_that_stands_inside_of_chains_is_no_root() {
    let short = Made { pcs: &[MIDDLE], ..Made::new(top(0), 64, Some(HEAP)) };
    assert_eq!(chosen(&[short, Made::new(top(1), 128, None), Made::new(top(2), 128, None)]), [1, 2]);
}

#[test]
fn stacks_that_threads_are_on_are_left_out() {
    let stacks = [Made::new(top(0), 128, Some(HEAP)), Made::new(top(1), 128, Some(HEAP + 8))];
    let by_frames = Running { sp: Addr(top(0) - 256), cfas: vec![Addr(top(0))], is_whole: true };
    let of = |running| chosen_of(&stacks, Origin::Switch, &[running]).iter().map(|it| it.chain).collect::<Vec<_>>();
    assert_eq!(of(by_frames), [1]);
    // In the middle of a switch routine no frame leads up to the top.
    assert_eq!(of(Running { sp: Addr(top(1) - 256), cfas: Vec::new(), is_whole: false }), [0]);
}

#[test]
fn what_an_earlier_use_left_below_the_top_is_no_stack() {
    let mut stacks: Vec<Made> = (0..20).map(|index| Made::new(top(index), 128, Some(HEAP + 8 * index))).collect();
    stacks.push(Made { pcs: &[MIDDLE, 0x10_0900], ..Made::new(top(7) - 1024, 128, Some(HEAP + 0x1000)) });
    assert_eq!(chosen(&stacks), (0..20).collect::<Vec<_>>());
}

#[test]
fn what_was_only_prepared_needs_a_pointer_from_outside() {
    let from_itself = Made::new(top(0), 128, Some(top(0) - 32));
    let from_heap = Made::new(top(1), 128, Some(HEAP));
    let choices = chosen_of(&[from_itself, from_heap], Origin::Fresh, &[]);
    assert_eq!(choices.iter().map(|choice| choice.chain).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_was_prepared_has_begun_where_a_thread_stands_on_it() {
    let stacks = [Made::new(top(0), 128, Some(HEAP)), Made::new(top(1), 128, Some(HEAP + 8))];
    let chosen = |sp| {
        let running = Running { sp: Addr(sp), cfas: Vec::new(), is_whole: true };
        chosen_of(&stacks, Origin::Fresh, &[running]).iter().map(|choice| choice.chain).collect::<Vec<_>>()
    };
    assert_eq!(chosen(top(1) - 64), [0]);
    assert_eq!(chosen(top(1)), [0]);
    assert_eq!(chosen(top(1) - 256), [0, 1]);
}

/// A routine has taken the stack pointer from where it was kept, and has not given it to the processor yet.
#[test]
fn a_register_may_be_all_that_holds_a_stack_pointer() {
    let taken = Made::new(top(0), 128, None);
    let held = |values: Vec<u64>| {
        let threads = Threads { held: values, ..Threads::default() };
        chosen_beside(&[taken], Origin::Switch, &threads)[0].holder
    };
    assert_eq!(held(vec![1, taken.saved_sp(), u64::MAX]), Holder::Elsewhere);
    assert_eq!(held(vec![1, taken.saved_sp() + 8]), Holder::None);
}

/// A scheduler has taken the stack pointer from where it was kept, and has not called the routine yet.
#[test]
fn a_register_of_any_thread_may_hold_a_stack_pointer() {
    let (taken, left) = (Made::new(top(0), 128, None), Made::new(top(0), 512, None));
    let threads = Threads { in_registers: vec![1, taken.saved_sp()], ..Threads::default() };
    let choices = chosen_beside(&[taken, left], Origin::Switch, &threads);
    assert_eq!((choices[0].chain, choices[0].holder), (0, Holder::Register));
    // What memory holds counts more.
    let held = Made::new(top(0), 256, Some(HEAP));
    assert_eq!(chosen_beside(&[taken, held], Origin::Switch, &threads)[0].chain, 1);
}
