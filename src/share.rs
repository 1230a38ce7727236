//! Shares work among threads of our own.

use std::num::NonZero;
use std::thread::ScopedJoinHandle;

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
    joined(among(parts, work))
}

/// One list of several, in their order.
pub(crate) fn joined<T>(lists: Vec<Vec<T>>) -> Vec<T> {
    let mut lists = lists.into_iter();
    let mut all = lists.next().unwrap_or_default();
    lists.for_each(|list| all.extend(list));
    all
}

/// Does two things at once.
pub(crate) fn both<L: Send, R>(left: impl FnOnce() -> L + Send, right: impl FnOnce() -> R) -> (L, R) {
    std::thread::scope(|scope| {
        let left = scope.spawn(left);
        let right = right();
        (came_of(left), right)
    })
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
        done.extend(others.into_iter().map(came_of));
        done
    })
}

/// What a thread of ours made. A panic there would be a mistake of ours, and goes on here.
fn came_of<R>(thread: ScopedJoinHandle<'_, R>) -> R {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
