//! Walks of this process's own stacks and of other programs', compared with unwinders that nobody here wrote.
#![cfg(all(feature = "inspect", target_os = "linux", target_arch = "x86_64"))]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod aarch64;
mod others;
mod own;

use std::ops::ControlFlow;

use stackscope::workshop::addr::Pc;
use stackscope::workshop::arch::X86_64;
use stackscope::workshop::registers::Registers;
use stackscope::workshop::unwind::{Ended, FoundBy, Frame, Rules, Tables, walk};

/// The frames of `start`, and why there are no more.
fn frames(start: Registers, limit: usize) -> (Vec<(Frame, Registers)>, Ended) {
    let modules = own::modules();
    let tables = Tables::new(&X86_64, &modules);
    let mut frames = Vec::new();
    let ended = walk(&mut Rules::new(&tables), &own::OwnMemory::open(), start, limit, |frame, registers| {
        frames.push((*frame, registers.clone()));
        ControlFlow::Continue(())
    });
    (frames, ended)
}

/// The name of the function at `pc`, as the `backtrace` crate finds it in our own process; without hash and address.
fn name(pc: Pc) -> String {
    let mut names = Vec::new();
    backtrace::resolve(pc.lookup().0 as *mut _, |symbol| {
        names.extend(symbol.name().map(|name| format!("{name:#}")));
    });
    // The last one is the function itself, those before it are inlined in it.
    names.pop().unwrap_or_else(|| format!("?{}", pc.addr()))
}

/// Calls itself `depth` times, then `then`: frames of different sizes and with saved registers.
#[inline(never)]
fn recurse<T>(depth: usize, then: &mut dyn FnMut(usize) -> T) -> T {
    let mut local = [depth; 7];
    std::hint::black_box(&mut local);
    let result = if depth == 0 { then(local[3]) } else { recurse(depth - 1, then) };
    std::hint::black_box(&mut local);
    result
}

/// The addresses of our callers as libgcc's unwinder sees them, without the zero that it ends with.
fn callers_by_libgcc() -> Vec<usize> {
    let mut callers = Vec::new();
    backtrace::trace(|frame| {
        callers.push(frame.ip() as usize);
        frame.ip() as usize != 0
    });
    callers.retain(|caller| *caller != 0);
    callers
}

fn walk_and_compare(start: Registers) {
    let theirs = callers_by_libgcc();
    let (frames, ended) = frames(start, 1000);
    assert_eq!(ended, Ended::Root);
    let ours: Vec<usize> = frames.iter().skip(2).map(|(frame, _)| frame.pc.addr().0 as usize).collect();
    let names = || frames.iter().map(|(frame, _)| name(frame.pc)).collect::<Vec<_>>().join("\n");
    // Their list begins inside the unwinder; ours with `with_registers` and the closure that called it.
    let common = theirs.iter().position(|ip| *ip == ours[0]).unwrap_or_else(|| panic!("no common frame:\n{}", names()));
    assert!(ours.len() > 30, "{}", names());
    assert_eq!(&theirs[common..], ours, "{}", names());
    assert!(frames.iter().skip(1).all(|(frame, _)| frame.found_by == FoundBy::Cfi));
    let cfas: Vec<_> = frames.iter().map(|(frame, _)| frame.cfa.expect("a CFA")).collect();
    assert!(cfas.is_sorted_by(|low, high| low < high), "{cfas:?}");
}

#[test]
fn a_thread_is_walked_as_libgcc_walks_it() {
    recurse(30, &mut |_| own::with_registers(walk_and_compare));
}
