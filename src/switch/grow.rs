//! Going on, on another piece of stack, where the current one comes to its end.
//!
//! Deep recursion asks [`maybe_grow`] at each level; where less than a red zone is left, the next levels run on a new
//! *segment*, a stack from the [`default_source`], which is given back when they return.
//! Backtraces and panics go through the boundary as through any call.
//!
//! A [`Budget`] bounds what one task may take in segments: [`try_grow`] then gives an error that the task can end with.
//! A call site that crosses the boundary again and again, because a loop around it comes back each time (a *hot split*),
//! shows in [`crossings`]: let the caller grow instead.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

use super::on_stack::{on_stack, stack_pointer};
use super::owned::OwnedStack;
use super::roster::{self, state};
use super::source::default_source;
use super::stack::StackError;

/// How many bytes of the current stack are left below this function's frame; `None` where nothing tells.
///
/// Stacks made here are known, coroutines' and segments; of others, the thread's own on Linux and Windows.
#[inline]
pub fn remaining_stack() -> Option<usize> {
    let sp = stack_pointer().addr();
    let (generation, low, high) = CURRENT.get();
    if generation == roster::generation() && (low..high).contains(&sp) {
        return Some(sp - low);
    }
    look_up(sp)
}

thread_local! {
    /// The stack that was found last on this thread (roster generation, low, high): true until the roster changes.
    static CURRENT: Cell<(u64, usize, usize)> = const { Cell::new((0, 0, 0)) };
}

/// Finds the stack that `sp` is on, and remembers it.
#[cold]
fn look_up(sp: usize) -> Option<usize> {
    let generation = roster::generation();
    let (low, high) = roster::bounds(sp).or_else(thread_stack).filter(|&(low, high)| (low..high).contains(&sp))?;
    CURRENT.set((generation, low, high));
    Some(sp - low)
}

/// The bounds of this thread's own stack.
#[cfg(target_os = "linux")]
fn thread_stack() -> Option<(usize, usize)> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: a call that asks about our own thread.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: the thread exists, and the attributes are ours to fill in.
    if unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes were filled in above.
    let known = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size) } == 0;
    // SAFETY: as above, and they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    known.then(|| (low.addr(), low.addr() + size))
}

/// The bounds of this thread's own stack.
#[cfg(windows)]
fn thread_stack() -> Option<(usize, usize)> {
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetCurrentThreadStackLimits(low: *mut usize, high: *mut usize);
    }
    let (mut low, mut high) = (0, 0);
    // SAFETY: writes the two numbers.
    unsafe { GetCurrentThreadStackLimits(&raw mut low, &raw mut high) };
    Some((low, high))
}

/// The bounds of this thread's own stack.
#[cfg(not(any(target_os = "linux", windows)))]
fn thread_stack() -> Option<(usize, usize)> {
    None
}

/// Calls `callback`: here if at least `red_zone` bytes of stack are left, else on a new segment of `size` bytes.
/// Where it is not known how much is left, it takes a new segment.
///
/// ```
/// fn depth(n: u32) -> u32 {
///     stackscope::switch::maybe_grow(32 << 10, 1 << 20, || if n == 0 { 0 } else { depth(n - 1) + 1 })
/// }
/// assert_eq!(depth(100_000), 100_000);
/// ```
///
/// # Panics
/// Where there is no stack to be had for the segment.
#[inline]
#[track_caller]
pub fn maybe_grow<R>(red_zone: usize, size: usize, callback: impl FnOnce() -> R) -> R {
    if remaining_stack().is_some_and(|left| left >= red_zone) { callback() } else { grow(size, callback) }
}

/// Calls `callback` on a new segment of at least `size` bytes, and gives the segment back.
///
/// # Panics
/// Where there is no stack to be had for the segment.
#[track_caller]
pub fn grow<R>(size: usize, callback: impl FnOnce() -> R) -> R {
    match segment(size) {
        Ok(segment) => on_segment(&segment, callback),
        Err(error) => panic!("{error}"),
    }
}

/// As [`maybe_grow`], but what a segment takes is taken from `budget` until it is given back.
///
/// # Errors
/// Where the budget, or the system, does not have that much; `callback` was not called then.
#[track_caller]
pub fn try_grow<R>(
    budget: &Budget,
    red_zone: usize,
    size: usize,
    callback: impl FnOnce() -> R,
) -> Result<R, GrowError> {
    if remaining_stack().is_some_and(|left| left >= red_zone) {
        return Ok(callback());
    }
    let _share = budget.take(size)?;
    let segment = segment(size)?;
    Ok(on_segment(&segment, callback))
}

/// A segment, counted for the calling site.
#[track_caller]
fn segment(size: usize) -> Result<OwnedStack, StackError> {
    let segment = OwnedStack::from_source(default_source(), size)?;
    segment.entry().set_state(state::SEGMENT);
    count(Location::caller());
    Ok(segment)
}

fn on_segment<R>(segment: &OwnedStack, callback: impl FnOnce() -> R) -> R {
    /// Sets the roster's line back however the callback ends.
    struct Vacate<'s>(&'s OwnedStack);
    impl Drop for Vacate<'_> {
        fn drop(&mut self) {
            self.0.entry().vacate();
        }
    }
    let _vacate = Vacate(segment);
    let range = segment.range();
    // SAFETY: the segment is ours, aligned at both ends, and used for nothing else until the call has ended.
    unsafe { on_stack(range.base(), range.size(), callback) }
}

/// How much stack one task may take in segments at a time.
#[derive(Debug)]
pub struct Budget {
    left: Cell<usize>,
}

/// What a segment has taken of a budget; put back on drop.
struct Share<'b> {
    budget: &'b Budget,
    size: usize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Budget {
        Budget { left: Cell::new(bytes) }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.left.get()
    }

    fn take(&self, size: usize) -> Result<Share<'_>, GrowError> {
        let left = self.left();
        self.left.set(left.checked_sub(size).ok_or(GrowError::OverBudget { size, left })?);
        Ok(Share { budget: self, size })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left() + self.size);
    }
}

/// Why [`try_grow`] did not call its callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowError {
    /// The task has used up what it may take.
    OverBudget {
        /// The size of the segment that would have been needed, in bytes.
        size: usize,
        /// What is left of the budget, in bytes.
        left: usize,
    },
    /// There is no stack to be had.
    NoStack(StackError),
}

impl From<StackError> for GrowError {
    fn from(error: StackError) -> GrowError {
        GrowError::NoStack(error)
    }
}

impl fmt::Display for GrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrowError::OverBudget { size, left } => {
                write!(f, "growing the stack by {size} bytes: only {left} are left of the task's budget")
            }
            GrowError::NoStack(error) => write!(f, "growing the stack: {error}"),
        }
    }
}

impl std::error::Error for GrowError {}

/// How often one call site has taken a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Where [`grow`], [`maybe_grow`] or [`try_grow`] was called.
    pub site: &'static Location<'static>,
    /// How often it took a segment.
    pub count: u64,
}

/// Few sites grow, so a list does.
static CROSSED: Mutex<Vec<Crossing>> = Mutex::new(Vec::new());

/// All sites that have taken a segment since the program started, the hottest first.
pub fn crossings() -> Vec<Crossing> {
    let mut all = CROSSED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all.sort_by_key(|crossing| std::cmp::Reverse(crossing.count));
    all
}

fn count(site: &'static Location<'static>) {
    let mut all = CROSSED.lock().unwrap_or_else(PoisonError::into_inner);
    match all.iter_mut().find(|crossing| crossing.site == site) {
        Some(crossing) => crossing.count += 1,
        None => all.push(Crossing { site, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{Coroutine, State};

    const RED_ZONE: usize = 32 << 10;
    const SEGMENT: usize = 256 << 10;

    #[inline(never)]
    fn descend(levels: usize) -> usize {
        let frame = std::hint::black_box([1_u8; 1000]);
        maybe_grow(RED_ZONE, SEGMENT, || if levels == 0 { 0 } else { descend(levels - 1) + usize::from(frame[7]) })
    }

    #[test]
    fn recursion_goes_on_over_many_segments() {
        assert_eq!(descend(20_000), 20_000);
    }

    #[test]
    fn what_remains_is_known_on_threads_coroutines_and_segments() {
        let on_thread = std::thread::Builder::new().stack_size(1 << 20).spawn(remaining_stack).unwrap().join().unwrap();
        assert!(on_thread.is_some_and(|left| left > 500 << 10 && left <= 2 << 20), "{on_thread:?}");
        let mut one =
            Coroutine::new(|_, ()| (remaining_stack(), grow(SEGMENT, remaining_stack), remaining_stack())).unwrap();
        let size = one.stack().range().size();
        let State::<(), _>::Returned((before, inside, after)) = one.resume(()) else { panic!("it does not suspend") };
        assert!(before.is_some_and(|left| left < size && left > size - (64 << 10)), "{before:?} of {size}");
        assert!(inside.is_some_and(|left| left < SEGMENT && left > SEGMENT - (64 << 10)), "{inside:?}");
        assert_eq!(before, after);
    }

    #[test]
    fn a_budget_that_is_used_up_is_an_error_that_comes_back_through_all_levels() {
        fn endless(budget: &Budget) -> Result<u64, GrowError> {
            let frame = std::hint::black_box([0_u8; 1000]);
            try_grow(budget, RED_ZONE, SEGMENT, || endless(budget).map(|levels| levels + u64::from(frame[0])))?
        }
        let budget = Budget::new(4 * SEGMENT + 5);
        assert_eq!(endless(&budget), Err(GrowError::OverBudget { size: SEGMENT, left: 5 }));
        assert_eq!(budget.left(), 4 * SEGMENT + 5);
    }

    #[test]
    fn a_panic_on_a_segment_gives_it_back() {
        let budget = Budget::new(SEGMENT);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            try_grow(&budget, usize::MAX, SEGMENT, || std::panic::resume_unwind(Box::new(3_u8)))
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<u8>(), Some(&3));
        assert_eq!(budget.left(), SEGMENT);
    }

    #[test]
    fn a_hot_split_shows_at_its_call_site() {
        for _ in 0..50 {
            grow(SEGMENT, || ());
        }
        let line = line!() - 2;
        let hot =
            crossings().into_iter().find(|crossing| (crossing.site.file(), crossing.site.line()) == (file!(), line));
        assert_eq!(hot.unwrap().count, 50);
    }
}
