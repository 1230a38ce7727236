//! What a switch, a call on another stack, and a new coroutine cost, beside other libraries in one run.
//!
//! `cargo bench --bench switch`. Stacks are allocated outside the measured loops.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use stackscope::switch::{Coroutine, Guarded, OwnedStack, State, on_stack};

const SIZE: usize = 64 << 10;

/// One resume and the suspend that answers it.
fn pair(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resume and suspend");
    group.bench_function("stackscope", |bencher| {
        let mut ours = Coroutine::<usize, usize, ()>::new(|yielder, mut n| {
            loop {
                n = yielder.suspend(n);
            }
        })
        .unwrap();
        bencher.iter(|| matches!(ours.resume(black_box(1)), State::Yielded(1)));
    });
    group.bench_function("corosensei", |bencher| {
        let mut theirs = corosensei::Coroutine::<usize, usize, ()>::new(|yielder, mut n| {
            loop {
                n = yielder.suspend(n);
            }
        });
        bencher.iter(|| matches!(theirs.resume(black_box(1)), corosensei::CoroutineResult::Yield(1)));
    });
    group.bench_function("generator", |bencher| {
        let mut theirs = generator::Gn::<usize>::new_scoped(|mut scope| {
            let mut n = 1;
            while let Some(next) = scope.yield_(n) {
                n = next;
            }
            generator::done!()
        });
        theirs.resume();
        bencher.iter(|| theirs.send(black_box(1)) == 1);
    });
    group.finish();
}

/// One call of a trivial function on another stack.
fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("on_stack");
    let mut memory = vec![0_u128; SIZE / 16];
    let base = memory.as_mut_ptr().cast::<u8>();
    group.bench_function("stackscope", |bencher| {
        // SAFETY: the memory is aligned, large enough, and used by nobody else meanwhile.
        bencher.iter(|| unsafe { on_stack(base, SIZE, || black_box(1_usize)) });
    });
    group.bench_function("psm", |bencher| {
        // SAFETY: as above.
        bencher.iter(|| unsafe { psm::on_stack(base, SIZE, || black_box(1_usize)) });
    });
    group.finish();
}

/// A coroutine made on a stack that is at hand, run to its end, and the stack taken back.
fn create(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("create, run, take the stack back");
    group.bench_function("stackscope", |bencher| {
        let mut stack = Some(OwnedStack::from_source(&Guarded, SIZE).unwrap());
        bencher.iter(|| {
            let mut ours = Coroutine::<usize, (), usize>::on(stack.take().unwrap(), |_, n| n).unwrap();
            let state = ours.resume(black_box(1));
            stack = ours.into_stack().ok();
            matches!(state, State::Returned(1))
        });
    });
    group.bench_function("corosensei", |bencher| {
        let mut stack = Some(corosensei::stack::DefaultStack::new(SIZE).unwrap());
        bencher.iter(|| {
            let mut theirs = corosensei::Coroutine::<usize, (), usize, _>::with_stack(stack.take().unwrap(), |_, n| n);
            let state = theirs.resume(black_box(1));
            stack = Some(theirs.into_stack());
            matches!(state, corosensei::CoroutineResult::Return(1))
        });
    });
    group.finish();
}

criterion_group!(benches, pair, call, create);
criterion_main!(benches);
