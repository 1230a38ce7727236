//! Coroutines under random use, beside a model that has no stacks.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use proptest::prelude::*;
use stackscope::switch::{Coroutine, Guarded, Painted, Pooled, SendCoroutine, StackSource, State, Yielder};

static POOL: Pooled<Guarded> = Pooled::new(Guarded, 8);
static PAINTED: Painted<Guarded> = Painted::new(Guarded);

/// What a coroutine under test is told at a resume.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Add to the sum and yield it.
    Add(u64),
    /// Have the nested coroutine do the same, made where there is none, and yield its sum.
    Nested(u64),
    /// Drop the nested coroutine and yield 0.
    DropNested,
    /// Panic.
    Panic,
    /// Have the nested coroutine panic, made where there is none, and let it pass.
    PanicNested,
    /// Return the sum.
    Finish,
}

/// One step of a test; the number says which of the living coroutines is meant.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create(u8),
    Resume(usize, Order),
    Migrate(usize, Order),
    Drop(usize),
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        8 => any::<u64>().prop_map(Order::Add),
        4 => any::<u64>().prop_map(Order::Nested),
        1 => Just(Order::DropNested),
        1 => Just(Order::Panic),
        1 => Just(Order::PanicNested),
        1 => Just(Order::Finish),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<u8>().prop_map(Step::Create),
        8 => (any::<usize>(), order()).prop_map(|(which, order)| Step::Resume(which, order)),
        2 => (any::<usize>(), order()).prop_map(|(which, order)| Step::Migrate(which, order)),
        1 => any::<usize>().prop_map(Step::Drop),
    ]
}

type Tested = SendCoroutine<Order, u64, u64>;

/// A coroutine that obeys orders; `alive` is held as long as its function or its stack is.
fn tested(source: u8, alive: Arc<()>) -> Tested {
    let source: &'static dyn StackSource = match source % 3 {
        0 => &POOL,
        1 => &PAINTED,
        _ => &Guarded,
    };
    let coroutine = Coroutine::with_source(source, 64 << 10, move |yielder: &Yielder<_, _>, first| {
        let _alive = alive.clone();
        let (mut sum, mut order) = (0_u64, first);
        let mut nested: Option<Tested> = None;
        loop {
            let answer = match order {
                Order::Add(number) => {
                    sum = sum.wrapping_add(number);
                    sum
                }
                Order::Nested(number) => {
                    let nested = nested.get_or_insert_with(|| tested(0, alive.clone()));
                    let State::Yielded(sum) = nested.resume(Order::Add(number)) else { return 0 };
                    sum
                }
                Order::DropNested => {
                    nested = None;
                    0
                }
                Order::Panic => resume_unwind(Box::new(sum)),
                Order::PanicNested => {
                    let nested = nested.get_or_insert_with(|| tested(0, alive.clone()));
                    nested.resume(Order::Panic);
                    0
                }
                Order::Finish => return sum,
            };
            order = yielder.suspend(answer);
        }
    });
    // SAFETY: numbers, an `Arc`, and a coroutine of which the same is true live on its stack.
    unsafe { coroutine.unwrap().assume_send() }
}

/// What the model knows of a coroutine.
#[derive(Default)]
struct Model {
    sum: u64,
    nested: Option<u64>,
}

/// What a resume comes to; a panic carries a sum.
#[derive(Debug, PartialEq)]
enum Outcome {
    Yielded(u64),
    Returned(u64),
    Panicked(u64),
}

impl Model {
    fn obey(&mut self, order: Order) -> Outcome {
        match order {
            Order::Add(number) => {
                self.sum = self.sum.wrapping_add(number);
                Outcome::Yielded(self.sum)
            }
            Order::Nested(number) => {
                let nested = self.nested.get_or_insert(0);
                *nested = nested.wrapping_add(number);
                Outcome::Yielded(*nested)
            }
            Order::DropNested => {
                self.nested = None;
                Outcome::Yielded(0)
            }
            Order::Panic => Outcome::Panicked(self.sum),
            Order::PanicNested => Outcome::Panicked(self.nested.unwrap_or(0)),
            Order::Finish => Outcome::Returned(self.sum),
        }
    }
}

fn resume(coroutine: &mut Tested, order: Order) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| coroutine.resume(order))) {
        Ok(State::Yielded(sum)) => Outcome::Yielded(sum),
        Ok(State::Returned(sum)) => Outcome::Returned(sum),
        Err(payload) => Outcome::Panicked(*payload.downcast::<u64>().unwrap()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn coroutines_do_what_the_model_does(steps in prop::collection::vec(step(), 1..100)) {
        let alive = Arc::new(());
        let mut all: Vec<(Tested, Model)> = Vec::new();
        for step in steps {
            let (which, order, migrate) = match step {
                Step::Create(source) => {
                    all.push((tested(source, alive.clone()), Model::default()));
                    continue;
                }
                _ if all.is_empty() => continue,
                Step::Drop(which) => {
                    let _ = all.swap_remove(which % all.len());
                    continue;
                }
                Step::Resume(which, order) => (which % all.len(), order, false),
                Step::Migrate(which, order) => (which % all.len(), order, true),
            };
            let (mut coroutine, mut model) = all.swap_remove(which);
            let (coroutine, outcome) = if migrate {
                std::thread::spawn(move || { let outcome = resume(&mut coroutine, order); (coroutine, outcome) })
                    .join()
                    .unwrap()
            } else {
                let outcome = resume(&mut coroutine, order);
                (coroutine, outcome)
            };
            let expected = model.obey(order);
            prop_assert_eq!(coroutine.get().is_finished(), !matches!(expected, Outcome::Yielded(_)));
            prop_assert_eq!(&outcome, &expected);
            if matches!(expected, Outcome::Yielded(_)) {
                all.push((coroutine, model));
            }
        }
        drop(all);
        // Whatever became of them, nothing that lived on their stacks is left.
        prop_assert_eq!(Arc::strong_count(&alive), 1);
    }
}

/// A million coroutines, one after another, some left suspended; the memory in use must not grow with their number.
#[test]
fn a_million_coroutines_leave_no_memory_behind() {
    fn batch(count: u32) {
        for number in 0..count {
            let source: &'static dyn StackSource = if number % 64 == 0 { &Guarded } else { &POOL };
            let mut one = Coroutine::with_source(source, 16 << 10, |yielder: &Yielder<u32, u32>, n| {
                let text = "x".repeat(100);
                yielder.suspend(n + text.len() as u32)
            })
            .unwrap();
            assert_eq!(one.resume(number), State::Yielded(number + 100));
            if number % 16 != 0 {
                assert_eq!(one.resume(7), State::Returned(7));
            }
        }
    }
    batch(10_000);
    let before = memory();
    // An emulated CPU would take minutes for as many.
    batch(if cfg!(all(target_os = "linux", target_arch = "x86_64")) { 1_000_000 } else { 20_000 });
    let after = memory();
    assert!(after <= before + (8 << 20), "{before} bytes before, {after} after");
}

/// How much memory of this process is resident, in bytes; 0 where the system has no such file.
fn memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
