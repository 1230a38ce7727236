//! What a switch, a call on another stack, and a new coroutine cost, beside other libraries.
//!
//! `cargo bench --bench switch`. The peers take turns in one process: so many short rounds that the smallest of each is
//! undisturbed on a busy machine too. The smallest is what the code costs, the median shows the load, and the ratio is
//! the peer's smallest to ours, in the same line: below 1, the peer is faster.
//! `cargo bench --bench switch -- OPERATION PEER COUNT` does one thing COUNT times and prints nothing, for callgrind.
//!
//! Boost.Context is called as C calls it, through its two functions, where its library is installed.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use stackscope::switch::{Coroutine, Guarded, OwnedStack, State, on_stack};

/// Stacks are as large as this, in bytes.
const SIZE: usize = 64 << 10;

/// How many coroutines are resumed in turn, where there are many.
const MANY: usize = 100;

/// How often each peer has its turn, and what it does in one: some ten microseconds.
const ROUNDS: usize = 2001;
const A_ROUND: usize = 2000;

/// Does an operation as often as it is told.
type Run = Box<dyn FnMut(usize)>;

/// One operation, and all who can do it: us first.
struct Operation {
    name: &'static str,
    peers: Vec<(&'static str, Run)>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let boost = boost::functions();
    if boost.is_none() {
        println!("Boost.Context is left out: there is no libboost_context.so (Debian: libboost-context-dev)");
    }
    let mut operations = [pair(boost), many(boost), call(), create(boost)];
    if let [operation, peer, count] = &words[..] {
        let operation = operations.iter_mut().find(|known| known.name == operation).unwrap();
        let (_, run) = operation.peers.iter_mut().find(|(name, _)| name == peer).unwrap();
        return run(count.parse().unwrap());
    }
    for Operation { name, peers } in &mut operations {
        println!("{name}");
        let mut times = vec![Vec::new(); peers.len()];
        for _ in 0..ROUNDS {
            for ((_, run), times) in peers.iter_mut().zip(&mut times) {
                let start = Instant::now();
                run(A_ROUND);
                times.push(start.elapsed().as_secs_f64() * 1e9 / A_ROUND as f64);
            }
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        for ((name, _), theirs) in peers.iter().zip(&times) {
            let [least, median] = [theirs[0], theirs[ROUNDS / 2]];
            println!("  {name:12} smallest {least:6.2} ns  median {median:6.2} ns  ratio {:.2}", least / times[0][0]);
        }
    }
}

/// One resume and the suspend that answers it.
fn pair(boost: Option<boost::Functions>) -> Operation {
    let mut ours = our_echo();
    let mut theirs = their_echo();
    let mut peers: Vec<(_, Run)> = vec![
        ("stackscope", repeat(move || matches!(ours.resume(black_box(1)), State::Yielded(1)))),
        ("corosensei", repeat(move || matches!(theirs.resume(black_box(1)), corosensei::CoroutineResult::Yield(1)))),
    ];
    let mut generator = generator::Gn::<usize>::new_scoped(|mut scope| {
        let mut n = 1;
        while let Some(next) = scope.yield_(n) {
            n = next;
        }
        generator::done!()
    });
    generator.resume();
    peers.push(("generator", repeat(move || generator.send(black_box(1)) == 1)));
    if let Some(functions) = boost {
        let mut context = functions.echo(memory());
        peers.push(("boost", repeat(move || functions.resume(&mut context, black_box(1)) == 1)));
    }
    Operation { name: "pair", peers }
}

/// The same with many coroutines in turn, in an order that is not that of their addresses.
fn many(boost: Option<boost::Functions>) -> Operation {
    let mut ours = shuffled(our_echo);
    let mut theirs = shuffled(their_echo);
    let mut next = turns();
    let mut peers: Vec<(_, Run)> =
        vec![("stackscope", repeat(move || matches!(ours[next()].resume(black_box(1)), State::Yielded(1))))];
    let mut next = turns();
    let resume = move || matches!(theirs[next()].resume(black_box(1)), corosensei::CoroutineResult::Yield(1));
    peers.push(("corosensei", repeat(resume)));
    if let Some(functions) = boost {
        let mut contexts = shuffled(|| functions.echo(memory()));
        let mut next = turns();
        peers.push(("boost", repeat(move || functions.resume(&mut contexts[next()], black_box(1)) == 1)));
    }
    Operation { name: "many", peers }
}

/// One call of a trivial function on another stack.
fn call() -> Operation {
    let base = memory().as_mut_ptr().cast::<u8>();
    // SAFETY: the memory is aligned, large enough, and used by nobody else meanwhile.
    let ours = move || unsafe { on_stack(base, SIZE, || black_box(1_usize)) } == 1;
    // SAFETY: as above.
    let theirs = move || unsafe { psm::on_stack(base, SIZE, || black_box(1_usize)) } == 1;
    Operation { name: "call", peers: vec![("stackscope", repeat(ours)), ("psm", repeat(theirs))] }
}

/// A coroutine made on a stack that is at hand, run to its end, and the stack taken back.
fn create(boost: Option<boost::Functions>) -> Operation {
    let mut stack = Some(OwnedStack::from_source(&Guarded, SIZE).unwrap());
    let ours = move || {
        let mut ours = Coroutine::<usize, (), usize>::on(stack.take().unwrap(), |_, n| n).unwrap();
        let state = ours.resume(black_box(1));
        stack = ours.into_stack().ok();
        matches!(state, State::Returned(1))
    };
    let mut stack = Some(corosensei::stack::DefaultStack::new(SIZE).unwrap());
    let theirs = move || {
        let mut theirs = corosensei::Coroutine::<usize, (), usize, _>::with_stack(stack.take().unwrap(), |_, n| n);
        let state = theirs.resume(black_box(1));
        stack = Some(theirs.into_stack());
        matches!(state, corosensei::CoroutineResult::Return(1))
    };
    let mut peers = vec![("stackscope", repeat(ours)), ("corosensei", repeat(theirs))];
    if let Some(functions) = boost {
        let memory = memory();
        peers.push(("boost", repeat(move || functions.resume(&mut functions.echo(memory), black_box(1)) == 1)));
    }
    Operation { name: "create", peers }
}

/// The loop around an operation, compiled for each of them.
fn repeat(mut operation: impl FnMut() -> bool + 'static) -> Run {
    Box::new(move |count| {
        for _ in 0..count {
            black_box(operation());
        }
    })
}

fn our_echo() -> Coroutine<usize, usize, ()> {
    let echo = Coroutine::with_source(&Guarded, SIZE, |yielder: &stackscope::switch::Yielder<usize, usize>, mut n| {
        loop {
            n = yielder.suspend(n);
        }
    });
    echo.unwrap()
}

fn their_echo() -> corosensei::Coroutine<usize, usize, ()> {
    let stack = corosensei::stack::DefaultStack::new(SIZE).unwrap();
    corosensei::Coroutine::with_stack(stack, |yielder, mut n| {
        loop {
            n = yielder.suspend(n);
        }
    })
}

/// Aligned memory of [`SIZE`] bytes that lives as long as the process.
fn memory() -> &'static mut [u128] {
    vec![0; SIZE / 16].leak()
}

/// [`MANY`] things, not in the order in which they were made.
fn shuffled<T>(make: impl FnMut() -> T) -> Vec<T> {
    let mut things: Vec<T> = std::iter::repeat_with(make).take(MANY).collect();
    let mut random = 1_u64;
    for last in (1..things.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        things.swap(last, (random >> 33) as usize % (last + 1));
    }
    things
}

/// Whose turn is next.
fn turns() -> impl FnMut() -> usize {
    let mut last = 0;
    move || {
        last = if last + 1 == MANY { 0 } else { last + 1 };
        last
    }
}

/// Boost.Context's functions in C, found at run time: the bench does without them where they are not installed.
mod boost {
    use super::SIZE;

    /// `fcontext_t`.
    type Context = *mut libc::c_void;

    /// `transfer_t`: who came, and with what.
    #[repr(C)]
    pub(super) struct Transfer {
        from: Context,
        data: usize,
    }

    type Jump = unsafe extern "C" fn(Context, usize) -> Transfer;
    type Make = unsafe extern "C" fn(*mut libc::c_void, usize, unsafe extern "C" fn(Transfer)) -> Context;

    /// `jump_fcontext` and `make_fcontext`.
    #[derive(Clone, Copy)]
    pub(super) struct Functions {
        jump: Jump,
        make: Make,
    }

    static JUMP: std::sync::OnceLock<Jump> = std::sync::OnceLock::new();

    pub(super) fn functions() -> Option<Functions> {
        // SAFETY: the name is a C string; the library has no initialisers that do anything.
        let library = unsafe { libc::dlopen(c"libboost_context.so".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        // SAFETY: the library is open and the name a C string.
        let jump = unsafe { libc::dlsym(library, c"jump_fcontext".as_ptr()) };
        // SAFETY: as above.
        let make = unsafe { libc::dlsym(library, c"make_fcontext".as_ptr()) };
        if jump.is_null() || make.is_null() {
            return None;
        }
        // SAFETY: this is its type in Boost's `detail/fcontext.hpp`.
        let jump = unsafe { std::mem::transmute::<*mut libc::c_void, Jump>(jump) };
        // SAFETY: as above.
        let make = unsafe { std::mem::transmute::<*mut libc::c_void, Make>(make) };
        Some(Functions { jump: *JUMP.get_or_init(|| jump), make })
    }

    impl Functions {
        /// A context on `memory` that sends back whatever it is sent.
        pub(super) fn echo(self, memory: *mut [u128]) -> Context {
            let top = memory.cast::<u8>().wrapping_add(SIZE).cast();
            // SAFETY: the memory is aligned, of this size, and used for nothing else as long as the context is used.
            unsafe { (self.make)(top, SIZE, echo) }
        }

        /// Sends `data` to a context, and returns what it sends back.
        pub(super) fn resume(self, context: &mut Context, data: usize) -> usize {
            // SAFETY: `context` is replaced by each jump, so none is used twice.
            let transfer = unsafe { (self.jump)(*context, data) };
            *context = transfer.from;
            transfer.data
        }
    }

    unsafe extern "C" fn echo(first: Transfer) {
        let Some(&jump) = JUMP.get() else { std::process::abort() };
        let mut last = first;
        loop {
            // SAFETY: the context of whoever came last, who waits.
            last = unsafe { jump(last.from, last.data) };
        }
    }
}
