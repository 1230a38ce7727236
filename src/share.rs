//! Shares work among threads of our own.

use std::num::NonZero;

/// More threads than this find nothing faster: each compiles the rules that it meets anew, and memory has its limits.
const MOST_THREADS: usize = 4;

/// How many threads are worth starting for so much work, if each should have at least `worth_one`.
pub(crate) fn threads(work: usize, worth_one: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    processors.min(MOST_THREADS).min(work.div_ceil(worth_one)).max(1)
}

/// Does `work` on parts of `all`, on as many threads as are worth it, and gives what came of them in their order.
pub(crate) fn in_parts<T: Sync, R: Send>(all: &[T], work: impl Fn(&[T]) -> Vec<R> + Sync) -> Vec<R> {
    /// A thread is not worth starting for fewer than this.
    const FEWEST_EACH: usize = 4096;
    let threads = threads(all.len(), FEWEST_EACH);
    let parts = all.chunks(all.len().div_ceil(threads).max(1)).collect();
    let mut done = among(parts, work).into_iter();
    let mut first = done.next().unwrap_or_default();
    first.extend(done.flatten());
    first
}

/// Frees what is large on a thread of its own: the kernel takes a while to take hundreds of megabytes back.
pub(crate) fn free<T: Send + 'static>(large: T) {
    // Where there is no thread for it, it is freed here.
    let _ = std::thread::Builder::new().name("stackscope-free".into()).spawn(move || drop(large));
}

/// Does `work` on each part, each on a thread of its own, and gives what came of them in the order of the parts.
pub(crate) fn among<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let mut parts = parts.into_iter();
        let first = parts.next();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let mut done: Vec<R> = first.map(work).into_iter().collect();
        for other in others {
            // A panic there would be a mistake of ours, and goes on here.
            done.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })
}
