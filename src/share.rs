//! Shares work among our own threads.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// More threads than this are not faster: each compiles the rules that it meets for itself, and memory has its limits.
const MOST_THREADS: usize = 4;

/// How many threads are worth starting for so much work, if each should have at least `worth_one`.
pub(crate) fn threads(work: usize, worth_one: usize) -> usize {
    match work.div_ceil(worth_one).min(MOST_THREADS) {
        // To ask for the number of processors takes some system calls.
        0 | 1 => 1,
        worth => worth.min(thread::available_parallelism().map_or(1, NonZero::get)),
    }
}

/// Does `work` on parts of `all`, on as many threads as are worth it, and returns what came of them in their order.
pub(crate) fn in_parts<T: Sync, R: Send>(all: &[T], work: impl Fn(&[T]) -> Vec<R> + Sync) -> Vec<R> {
    /// A thread is not worth starting for fewer than this.
    const FEWEST_EACH: usize = 4096;
    let threads = threads(all.len(), FEWEST_EACH);
    let parts = all.chunks(all.len().div_ceil(threads).max(1)).collect();
    joined(among(parts, work))
}

/// One list of several, in their order.
pub(crate) fn joined<T>(lists: Vec<Vec<T>>) -> Vec<T> {
    let mut lists = lists.into_iter();
    let mut all = lists.next().unwrap_or_default();
    lists.for_each(|list| all.extend(list));
    all
}

/// Does two things at once, or one after the other if no thread can be started.
pub(crate) fn both<L: Send, R>(left: impl Fn() -> L + Sync, right: impl FnOnce() -> R) -> (L, R) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, &left);
        let right = right();
        (thread.map_or_else(|_| left(), came_of), right)
    })
}

/// Frees what is large on a thread of its own: the kernel takes a while to take hundreds of megabytes back.
pub(crate) fn free<T: Send + 'static>(large: T) {
    // If there is no thread for it, it is freed here.
    let _ = thread::Builder::new().name("stackscope-free".into()).spawn(move || drop(large));
}

/// Does `work` on each part, each on a thread of its own, and returns what came of them in the order of the parts.
pub(crate) fn among<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = parts.len();
    worked_off(parts, threads, work)
}

/// Does `work` on the parts on at most `threads` threads, including this one, first come first served, and returns the
/// results in the order of the parts. If a thread can't be started, because there may be no more, the others do its
/// share.
pub(crate) fn worked_off<T: Send, R: Send>(parts: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let waiting = Mutex::new(parts.into_iter().enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_off = || {
        let mut done = Vec::new();
        while let Some((index, part)) = next() {
            done.push((index, work(part)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, work_off).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut done = work_off();
        others.into_iter().for_each(|other| done.extend(came_of(other)));
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, done)| done).collect()
}

/// What one of our threads made. A panic there is our own mistake, and continues here.
fn came_of<R>(thread: ScopedJoinHandle<'_, R>) -> R {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_parts_stands_in_their_order() {
        let squares: Vec<usize> = (0..100).map(|number| number * number).collect();
        for threads in [0, 1, 3, 200] {
            assert_eq!(worked_off((0..100).collect(), threads, |number: usize| number * number), squares);
        }
        assert_eq!(among(vec![3, 1, 2], |number| number * 2), [6, 2, 4]);
        assert_eq!(worked_off(Vec::<u8>::new(), 4, |part| part), Vec::<u8>::new());
        assert_eq!(both(|| 1, || 2), (1, 2));
        let numbers: Vec<usize> = (0..100_000).collect();
        assert_eq!(in_parts(&numbers, <[usize]>::to_vec), numbers);
    }
}
