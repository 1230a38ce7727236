//! Coroutines under random use, beside a model that has no stacks.

use proptest::prelude::*;
use stackscope::switch::{Coroutine, Guarded, Pooled, StackSource, State, Yielder};
use stackscope_switch_fixtures::model::{Order, Population, Step};

static POOL: Pooled<Guarded> = Pooled::new(Guarded, 8);

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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn coroutines_do_what_the_model_does(steps in prop::collection::vec(step(), 1..100)) {
        let mut population = Population::default();
        for step in steps {
            population.step(step);
        }
        population.end();
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
    // Tests beside this one use memory too; 64 bytes left by each would be as much.
    assert!(after <= before + (64 << 20), "{before} bytes before, {after} after");
}

/// How much memory of this process is resident, in bytes; 0 where the system has no such file.
fn memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
