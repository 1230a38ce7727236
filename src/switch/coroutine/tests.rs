//! What a coroutine promises, run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::switch::{Borrowed, Guarded, Pooled, stack_pointer};

static POOL: Pooled<Guarded> = Pooled::new(Guarded, 64);

fn coroutine<I: 'static, Y: 'static, R: 'static>(
    function: impl FnOnce(&Yielder<I, Y>, I) -> R + 'static,
) -> Coroutine<I, Y, R> {
    Coroutine::with_source(&POOL, 64 << 10, function).unwrap()
}

/// Counts the drops of what it is cloned into.
#[derive(Clone, Default)]
struct Drops(Rc<Cell<usize>>);

struct CountsDrop(Drops);

impl Drops {
    fn counter(&self) -> CountsDrop {
        CountsDrop(self.clone())
    }

    fn count(&self) -> usize {
        self.0.get()
    }
}

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() + 1);
    }
}

/// What the code under test panicked with, as text.
fn panic_text(code: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(code)).expect_err("there should have been a panic");
    let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[test]
fn values_go_both_ways_in_every_size() {
    fn check<T: Copy + PartialEq + std::fmt::Debug + 'static>(values: [T; 3]) {
        let mut echo = coroutine(move |yielder, mut value: T| {
            for _ in 0..2 {
                value = yielder.suspend(value);
            }
            value
        });
        assert_eq!(echo.resume(values[0]), State::Yielded(values[0]));
        assert_eq!(echo.resume(values[1]), State::Yielded(values[1]));
        assert_eq!(echo.resume(values[2]), State::Returned(values[2]));
    }
    check([(), (), ()]);
    check([1_u8, 2, 3]);
    check([(1_u8, 70_000_u32), (2, 3), (4, 5)]);
    check([1.5_f64, -0.25, f64::MAX]);
    check([u128::MAX, 2, 3]);
    check([[7_u64; 50], [8; 50], [9; 50]]);
}

#[test]
fn each_coroutine_runs_on_its_own_stack() {
    let mut one = coroutine(|_, ()| stack_pointer().addr());
    let range = one.stack().range();
    let State::<(), _>::Returned(sp) = one.resume(()) else { panic!("it does not suspend") };
    assert!(range.base().addr() < sp && sp < range.top().addr());
}

#[test]
fn many_suspended_coroutines_keep_their_state() {
    let mut all: Vec<_> = (0..100_usize)
        .map(|id| {
            coroutine(move |yielder, ()| {
                for step in 0.. {
                    yielder.suspend(id * 1000 + step);
                }
            })
        })
        .collect();
    for step in 0..10 {
        for (id, coroutine) in all.iter_mut().enumerate() {
            assert_eq!(coroutine.resume(()), State::Yielded(id * 1000 + step));
        }
    }
}

#[test]
fn coroutines_nest() {
    fn tower(height: u32) -> Coroutine<(), u32, u32> {
        coroutine(move |yielder, ()| {
            let Some(next) = height.checked_sub(1) else { return 0 };
            let mut inner = tower(next);
            loop {
                match inner.resume(()) {
                    State::Yielded(level) => yielder.suspend(level),
                    State::Returned(level) => {
                        yielder.suspend(level);
                        return level + 1;
                    }
                }
            }
        })
    }
    let mut outermost = tower(5);
    for level in 0..5 {
        assert_eq!(outermost.resume(()), State::Yielded(level));
    }
    assert_eq!(outermost.resume(()), State::Returned(5));
}

#[test]
fn a_panic_goes_to_the_resumer_and_ends_the_coroutine() {
    let drops = Drops::default();
    let inside = drops.counter();
    let mut throws = coroutine(move |yielder, ()| {
        let _inside = inside;
        yielder.suspend(());
        resume_unwind(Box::new("thrown inside"));
    });
    assert_eq!(throws.resume(()), State::Yielded(()));
    assert_eq!(panic_text(|| _ = throws.resume(())), "thrown inside");
    assert_eq!((throws.is_finished(), drops.count()), (true, 1));
    assert_eq!(panic_text(|| _ = throws.resume(())), "a coroutine was resumed after it had returned");
}

#[test]
fn a_panic_passes_through_nested_coroutines() {
    let mut outer = coroutine(|_: &Yielder<(), ()>, ()| {
        let mut inner = coroutine(|_: &Yielder<(), ()>, ()| -> () { resume_unwind(Box::new("from within")) });
        let _ = inner.resume(());
    });
    assert_eq!(panic_text(|| _ = outer.resume(())), "from within");
}

/// The backtrace leads from where the panic began over both coroutines to whoever resumed the outer one.
#[test]
fn the_backtrace_of_a_panic_comes_with_it_through_nested_coroutines() {
    #[inline(never)]
    fn panics_here() {
        panic!("deep {}", "inside");
    }
    #[inline(never)]
    fn resumes_outer(outer: &mut Coroutine<(), (), ()>) -> String {
        panic_text(|| _ = outer.resume(()))
    }
    crate::switch::keep_panic_backtraces();
    let (tell, told) = std::sync::mpsc::channel();
    let mut outer = coroutine(move |_: &Yielder<(), ()>, ()| {
        let mut inner = coroutine(|_: &Yielder<(), ()>, ()| panics_here());
        let caught = catch_unwind(AssertUnwindSafe(|| _ = inner.resume(())));
        tell.send(inner.panic_backtrace().expect("kept").to_string()).unwrap();
        resume_unwind(caught.expect_err("it panics"));
    });
    assert_eq!(resumes_outer(&mut outer), "deep inside");
    let text = outer.panic_backtrace().expect("kept").to_string();
    assert_eq!(text, told.recv().unwrap());
    let mut rest = &text[..];
    for name in ["panics_here", "resumes_outer"] {
        let at = rest.find(name).unwrap_or_else(|| panic!("{name} is not where it should be:\n{text}"));
        rest = &rest[at + name.len()..];
    }

    // What a coroutine caught long ago is not the origin of a panic without a hook.
    let mut other = coroutine(|_: &Yielder<(), ()>, ()| {
        let _ = catch_unwind(panics_here);
        resume_unwind(Box::new("another"));
    });
    assert_eq!(panic_text(|| _ = other.resume(())), "another");
    assert!(other.panic_backtrace().is_none());
}

#[test]
fn resuming_after_the_return_panics() {
    let mut once = coroutine(|_: &Yielder<(), ()>, ()| 5);
    assert_eq!(once.resume(()), State::Returned(5));
    assert!(once.is_finished());
    assert_eq!(panic_text(|| _ = once.resume(())), "a coroutine was resumed after it had returned");
}

#[test]
fn resuming_a_running_coroutine_panics_inside_it() {
    type Shared = Rc<RefCell<Option<*mut Coroutine<(), (), ()>>>>;
    let shared: Shared = Rc::default();
    let own = shared.clone();
    let mut running = coroutine(move |_, ()| {
        let own = own.borrow().unwrap();
        // SAFETY: none in general: this is the misuse that is tested. The coroutine exists, and this is its thread.
        let _ = unsafe { (*own).resume(()) };
    });
    *shared.borrow_mut() = Some(&raw mut running);
    assert_eq!(panic_text(|| _ = running.resume(())), "a coroutine was resumed while it runs");
}

/// Unsafe code that hands one coroutine to two threads: the second finds it running and panics, the first goes on.
#[test]
fn resuming_on_a_second_thread_panics_there() {
    let (entered, is_entered) = std::sync::mpsc::channel();
    let (leave, may_leave) = std::sync::mpsc::channel();
    let waits = coroutine(move |_: &Yielder<(), ()>, ()| {
        entered.send(()).unwrap();
        may_leave.recv().unwrap();
    });
    // SAFETY: ends of channels live on its stack.
    let mut waits = unsafe { waits.assume_send() };
    let shared = (&raw mut waits).expose_provenance();
    let resume = move || {
        // SAFETY: none in general: this is the misuse that is tested. The coroutine exists as long as both threads do.
        let coroutine = unsafe { &mut *ptr::with_exposed_provenance_mut::<SendCoroutine<(), (), ()>>(shared) };
        coroutine.resume(())
    };
    let first = std::thread::spawn(resume);
    is_entered.recv().unwrap();
    let second = std::thread::spawn(move || panic_text(|| _ = resume()));
    assert_eq!(second.join().unwrap(), "a coroutine was resumed while it runs");
    leave.send(()).unwrap();
    assert_eq!(first.join().unwrap(), State::Returned(()));
}

#[test]
fn dropping_a_suspended_coroutine_drops_what_lives_on_its_stack() {
    let drops = Drops::default();
    let (one, two) = (drops.counter(), drops.counter());
    let mut suspended = coroutine(move |yielder, ()| {
        let _one = one;
        let deeper = || {
            let _two = two;
            yielder.suspend(());
        };
        deeper();
    });
    assert_eq!(suspended.resume(()), State::Yielded(()));
    assert_eq!(drops.count(), 0);
    drop(suspended);
    assert_eq!(drops.count(), 2);
}

#[test]
fn dropping_a_new_coroutine_drops_its_function() {
    let drops = Drops::default();
    let inside = drops.counter();
    drop(coroutine(move |_: &Yielder<(), ()>, ()| drop(inside)));
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_function_that_returns_instead_of_unwinding_is_dropped_too() {
    let mut catches = coroutine(|yielder, ()| {
        let caught = catch_unwind(AssertUnwindSafe(|| yielder.suspend(())));
        assert!(caught.is_err());
    });
    assert_eq!(catches.resume(()), State::Yielded(()));
    drop(catches);
}

#[test]
fn a_function_that_never_gives_up_is_leaked() {
    let drops = Drops::default();
    let inside = drops.counter();
    let times = Rc::new(Cell::new(0));
    let counted = times.clone();
    let mut stubborn = coroutine(move |yielder, ()| {
        let _inside = inside;
        loop {
            let _ = catch_unwind(AssertUnwindSafe(|| yielder.suspend(())));
            counted.set(counted.get() + 1);
        }
    });
    let _ = stubborn.resume(());
    drop(stubborn);
    assert_eq!((times.get(), drops.count()), (CANCEL_LIMIT, 0));
}

#[test]
fn a_panic_of_its_own_while_it_is_dropped_comes_out_of_the_drop() {
    let mut throws = coroutine(|yielder, ()| {
        let _ = catch_unwind(AssertUnwindSafe(|| yielder.suspend(())));
        resume_unwind(Box::new("another"));
    });
    assert_eq!(throws.resume(()), State::Yielded(()));
    assert_eq!(panic_text(|| drop(throws)), "another");
}

#[test]
fn a_coroutine_dropped_by_a_panic_is_unwound() {
    let drops = Drops::default();
    let inside = drops.counter();
    let text = panic_text(|| {
        let mut suspended = coroutine(move |yielder, ()| {
            let _inside = inside;
            yielder.suspend(());
        });
        let _ = suspended.resume(());
        resume_unwind(Box::new("outside"));
    });
    assert_eq!((text.as_str(), drops.count()), ("outside", 1));
}

#[test]
fn the_stack_can_be_used_again() {
    let mut first = coroutine(|_: &Yielder<(), ()>, ()| 1);
    first = first.into_stack().expect_err("it is not over");
    assert_eq!(first.resume(()), State::Returned(1));
    let stack = first.into_stack().unwrap();
    let base = stack.range().base();
    let mut second: Coroutine<(), (), _> = Coroutine::on(stack, |_, ()| 2).unwrap();
    assert_eq!(second.resume(()), State::Returned(2));
    assert_eq!(second.stack().range().base(), base);
}

#[test]
fn a_stack_too_small_for_the_function_is_an_error() {
    let large = [1_u8; 100_000];
    let error = Coroutine::with_source(&POOL, 4096, move |_: &Yielder<(), ()>, ()| large).unwrap_err();
    assert!(matches!(error, StackError::TooSmall { size, least } if size < 4096 && least > 100_000), "{error}");
}

#[test]
fn over_aligned_functions_and_values_keep_their_alignment() {
    #[repr(align(256))]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Aligned(u8);
    let captured = Aligned(1);
    let mut aligned = coroutine(move |yielder, input: Aligned| {
        assert!((&raw const captured).addr().is_multiple_of(256));
        yielder.suspend(input)
    });
    assert_eq!(aligned.resume(Aligned(2)), State::Yielded(Aligned(2)));
    assert_eq!(aligned.resume(Aligned(3)), State::Returned(Aligned(3)));
}

#[test]
fn a_coroutine_runs_on_borrowed_memory() {
    let memory = Box::leak(Box::new([MaybeUninit::uninit(); 32 << 10]));
    let stack = OwnedStack::try_from(Borrowed::new(memory).unwrap()).unwrap();
    let mut borrowed = Coroutine::on(stack, |yielder, n: u32| yielder.suspend(n) + 1).unwrap();
    assert_eq!(borrowed.resume(3), State::Yielded(3));
    assert_eq!(borrowed.resume(4), State::Returned(5));
}

#[test]
fn an_assumed_send_coroutine_migrates() {
    let sum = coroutine(|yielder, mut n: u64| {
        let mut sum = 0;
        while n != 0 {
            sum += n;
            n = yielder.suspend(sum);
        }
        sum
    });
    // SAFETY: only numbers live on its stack.
    let mut sum = unsafe { sum.assume_send() };
    for n in 1..=5 {
        sum = std::thread::spawn(move || {
            assert_eq!(sum.resume(n), State::Yielded(n * (n + 1) / 2));
            sum
        })
        .join()
        .unwrap();
    }
    assert_eq!(sum.resume(0), State::Returned(15));
}

#[test]
fn the_debug_form_tells_the_state() {
    let mut any = coroutine(|yielder, ()| yielder.suspend(()));
    assert!(format!("{any:?}").contains("\"new\""));
    let _ = any.resume(());
    assert!(format!("{any:?}").contains("\"suspended\""));
    let _ = any.resume(());
    assert!(format!("{any:?}").contains("\"finished\", stack: pooled stack 0x"));
}
