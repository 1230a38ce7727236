//! A backtrace that a nested coroutine takes of itself, on every platform: its frames, then its resumers'.

use stackscope::switch::{Coroutine, Guarded, OwnedStack, State, Yielder, on_stack};

/// The functions below in the order of the calls, innermost first.
const CHAIN: [&str; 5] = ["inner_body", "outer_body", "resume_outer", "on_the_heap", "in_both_orders"];

type Traced = Coroutine<fn() -> String, (), String>;

#[inline(never)]
fn inner_body(take: fn() -> String) -> String {
    take() + " "
}

#[inline(never)]
fn outer_body(inner: &mut Traced, take: fn() -> String) -> String {
    let State::Returned(trace) = inner.resume(take) else { panic!("it does not suspend") };
    trace + " "
}

#[inline(never)]
fn resume_outer(outer: &mut Traced, take: fn() -> String) -> String {
    let State::Returned(trace) = outer.resume(take) else { panic!("it does not suspend") };
    trace + " "
}

#[inline(never)]
fn on_the_heap(outer: &mut Traced, take: fn() -> String) -> String {
    let mut memory = vec![0_u128; 16 << 10];
    // SAFETY: the memory is aligned, large enough, and borrowed until the call returns.
    unsafe { on_stack(memory.as_mut_ptr().cast(), size_of_val(&memory[..]), || resume_outer(outer, take)) }
}

/// Takes a backtrace with each of the two coroutines' stacks above the other.
#[inline(never)]
fn in_both_orders(take: fn() -> String) {
    for outer_is_higher in [false, true] {
        let mut stacks = [(); 2].map(|()| OwnedStack::from_source(&Guarded, 512 << 10).unwrap());
        stacks.sort_by_key(|stack| stack.range().base());
        if outer_is_higher {
            stacks.reverse();
        }
        let [outer, inner] = stacks;
        assert_eq!(outer.range().base() > inner.range().base(), outer_is_higher);
        let mut inner: Traced = Coroutine::on(inner, |_: &Yielder<_, _>, take| inner_body(take)).unwrap();
        let mut outer: Traced = Coroutine::on(outer, move |_, take| outer_body(&mut inner, take)).unwrap();
        let trace = on_the_heap(&mut outer, take);

        let mut rest = trace.lines();
        for wanted in CHAIN {
            let found = rest.any(|line| line.trim_end().rsplit("::").next() == Some(wanted));
            assert!(found, "{wanted} is not where it should be, outer higher: {outer_is_higher}\n{trace}");
        }
    }
}

#[test]
fn std_sees_the_resumers() {
    in_both_orders(|| std::backtrace::Backtrace::force_capture().to_string());
}

/// On Windows this crate stops where the stack changes; std's own does not.
#[cfg(not(windows))]
#[test]
fn the_crate_backtrace_sees_the_resumers() {
    in_both_orders(|| format!("{:?}", backtrace::Backtrace::new()));
}
