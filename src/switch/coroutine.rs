//! Functions that can be suspended and resumed, on stacks of their own.
//!
//! A coroutine is a function that gets a [`Yielder`] and a first input. [`Coroutine::resume`] runs it until it suspends
//! or returns; values go both ways. At the top of its stack lies a `Control`, which both sides work with:
//! ```text
//!   top of the stack's memory
//!            | padding                      |
//!            | the function; its result     |
//!            | Control                      | <- what `raw::init` takes for the top of the stack
//!            | root and frames, growing down|
//! ```
//! A panic is caught at the coroutine's outermost frame and goes on in its resumer.
//! The panic hook has run by then, at the place of the panic, and its backtrace shows both stacks; [`super::origin`] keeps it.

#![allow(unsafe_code)]

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::arch::{self, Word};
use super::asan;
use super::origin;
use super::owned::{OwnedStack, StackSource};
use super::roster::state;
use super::source::{DEFAULT_SIZE, default_source};
use super::stack::{CANARY, StackError};

/// What a resume ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State<Yield, Return> {
    /// The coroutine suspended and can be resumed again.
    Yielded(Yield),
    /// The coroutine's function returned; it is over.
    Returned(Return),
}

/// A function on a stack of its own that can be suspended and resumed.
///
/// It is not `Send`: the function may keep references to things of this thread across a suspend, which no bound on types
/// can see. [`Coroutine::assume_send`] is for those who know.
///
/// ```compile_fail,E0277
/// use stackscope::switch::{Coroutine, Yielder};
/// let coroutine = Coroutine::new(|_: &Yielder<(), ()>, ()| ()).unwrap();
/// std::thread::spawn(move || drop(coroutine));
/// ```
///
/// # Panics in the coroutine
/// They go to the resumer with the same payload. The coroutine is over then.
///
/// # Dropping
/// A suspended coroutine is resumed one last time, and its [`Yielder::suspend`] panics, without the panic hook, so that
/// everything on its stack is dropped. A function that catches this and suspends again is unwound again at each suspend;
/// after 64 times the stack is leaked. It is also leaked, with all that lives on it, in programs built with
/// `panic = "abort"`, which cannot unwind. Memory is never freed under live frames.
///
/// # Misuse
/// - Resuming it after it returned panics.
/// - Resuming it on two threads, or while it runs, or dropping it while it runs, is ruled out by `&mut self` and by
///   ownership. Unsafe code that gets there all the same meets a panic for the resume and the end of the process for the
///   drop, on whichever thread it is, where it comes there after the coroutine began to run. Two threads that come there
///   at the very same time are a data race, and nothing is promised.
pub struct Coroutine<Input, Yield, Return> {
    /// On the coroutine's own stack. A pointer, so the coroutine is bound to its thread.
    control: NonNull<Control>,
    /// What the control's `sp` holds while the coroutine is suspended. It is here as well, so that the saved frame is
    /// read without waiting for the control: with many coroutines, neither is in the processor's nearest cache.
    sp: *mut usize,
    marker: PhantomData<fn(Input) -> State<Yield, Return>>,
}

/// What the resumer and the coroutine share. Its first two fields are what a switch looks at.
#[repr(C)]
struct Control {
    /// The first word, which the roster points to: the saved context while the coroutine is suspended; null while it runs and when it is over.
    sp: Cell<*mut usize>,
    /// Why a switch has more to do than to hand a value over; a sum of the constants below.
    flags: Cell<u8>,
    /// The stack that all this lies on.
    stack: ManuallyDrop<OwnedStack>,
    /// Drops the function, given this structure's address, while it has not been run.
    drop_function: unsafe fn(NonNull<Control>),
    /// Where the panic began that the function ended with, if that was kept.
    backtrace: OnceCell<Arc<Backtrace>>,
    /// The stack of whoever resumed it last.
    resumer: Cell<asan::Memory>,
}

/// The function has not been run yet.
const UNSTARTED: u8 = 1;
/// The function has returned or panicked.
const FINISHED: u8 = 2;
/// The coroutine is being dropped: suspend unwinds instead of coming back.
const CANCELLED: u8 = 4;
/// The stack has a canary.
const CANARIED: u8 = 8;

/// A processor moves memory in pieces of this many bytes, aligned to as many (of 128 on some, which does no harm here).
const CACHE_LINE: usize = 64;

/// Where a control lies in its cache line: what a switch looks at is in the last bytes of the line, together with the
/// link in the root below.
const PLACE_IN_LINE: usize = CACHE_LINE - offset_of!(Control, stack);

/// A [`Control`] and, above it, the coroutine's function, and in its place in the end what came of it.
#[repr(C, align(16))]
struct Header<F, Return> {
    control: Control,
    body: Body<F, Return>,
}

/// Both lie at its address.
#[repr(C)]
union Body<F, Return> {
    function: ManuallyDrop<F>,
    result: ManuallyDrop<Outcome<Return>>,
}

/// What a function ended with: its value, or its panic.
type Outcome<Return> = Result<Return, Panic>;

/// A panic on its way from one stack to the next.
struct Panic {
    payload: Box<dyn Any + Send>,
    backtrace: Option<Arc<Backtrace>>,
}

/// The payload of the panic that empties the stack of a dropped coroutine.
struct Cancelled;

/// How often a coroutine that is being dropped may suspend before its stack is leaked.
const CANCEL_LIMIT: usize = 64;

/// What a stack must have room for besides the header, in bytes: a call or two, and the unwinder.
const LEAST_ROOM: usize = 2048;

impl<Input: 'static, Yield: 'static, Return: 'static> Coroutine<Input, Yield, Return> {
    /// A coroutine on a stack of [`DEFAULT_SIZE`] from the [`default_source`]; the first resume calls `function`.
    ///
    /// # Errors
    /// Where there is no stack to be had.
    pub fn new<F>(function: F) -> Result<Self, StackError>
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'static,
    {
        Coroutine::with_source(default_source(), DEFAULT_SIZE, function)
    }

    /// A coroutine on a stack of at least `size` bytes from `source`.
    ///
    /// # Errors
    /// Where there is no stack to be had, or `size` is too small for the function itself.
    pub fn with_source<F>(source: &'static dyn StackSource, size: usize, function: F) -> Result<Self, StackError>
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'static,
    {
        Coroutine::on(OwnedStack::from_source(source, size)?, function)
    }

    /// A coroutine on `stack`.
    ///
    /// # Errors
    /// [`StackError::TooSmall`] where `stack` has no room for the function itself and a call.
    #[inline]
    pub fn on<F>(stack: OwnedStack, function: F) -> Result<Self, StackError>
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'static,
    {
        let range = stack.range();
        let least = size_of::<Header<F, Return>>() + align_of::<Header<F, Return>>().max(CACHE_LINE) + LEAST_ROOM;
        if range.size() < least {
            return Err(StackError::TooSmall { size: range.size(), least });
        }
        let header = place::<F, Return>(range.top());
        // SAFETY: a header's address is a multiple of 16, and below it the stack has room for the root: see `LEAST_ROOM`.
        let sp = unsafe {
            arch::init_returning(range.base(), header.cast(), run::<F, Input, Yield, Return> as *const () as usize)
        };
        let entry = stack.entry();
        let control = Control {
            sp: Cell::new(sp),
            flags: Cell::new(if stack.has_canary() { UNSTARTED | CANARIED } else { UNSTARTED }),
            stack: ManuallyDrop::new(stack),
            drop_function: drop_function::<F, Return>,
            backtrace: OnceCell::new(),
            resumer: Cell::new(asan::Memory::NONE),
        };
        // SAFETY: `header` is aligned and lies in the stack, which is ours and as large as checked above.
        unsafe { header.write(Header { control, body: Body { function: ManuallyDrop::new(function) } }) };
        // SAFETY: not null, as it points into the stack.
        let control = unsafe { NonNull::new_unchecked(header.cast::<Control>()) };
        entry.occupy(header.cast());
        Ok(Coroutine { control, sp, marker: PhantomData })
    }

    /// Runs the coroutine until it suspends or returns.
    ///
    /// The first `input` is the function's second argument; each later one is what its `suspend` gives back.
    ///
    /// # Panics
    /// Where the coroutine panics, with its payload; and where it has returned already.
    #[inline]
    pub fn resume(&mut self, input: Input) -> State<Yield, Return> {
        if self.control().sp.get().is_null() {
            not_resumable(self.control());
        }
        let input = ManuallyDrop::new(input);
        // SAFETY: there is a context to resume, and the input is not used here again.
        match unsafe { self.switch(encode(&input)) } {
            // SAFETY: `suspend` encoded a `Yield`, and stays suspended with it until the next resume.
            Ok(word) => State::Yielded(unsafe { decode(word) }),
            Err(result) => State::Returned(result),
        }
    }

    /// Lets this coroutine be sent to other threads and resumed there.
    ///
    /// # Safety
    /// Whenever the coroutine is suspended, now and later, nothing lives on its stack or in its function that is not
    /// `Send`, and no reference to a thread-local. The compiler keeps addresses of thread-locals across function calls,
    /// a suspend included, so functions that use one and are inlined around a suspend break this promise too.
    pub unsafe fn assume_send(self) -> SendCoroutine<Input, Yield, Return> {
        SendCoroutine { coroutine: self }
    }
}

impl<Input, Yield, Return> Coroutine<Input, Yield, Return> {
    /// Whether the function has returned or panicked, so that there is nothing left to resume.
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.control().has(FINISHED)
    }

    /// Whether the function has begun to run.
    pub fn is_started(&self) -> bool {
        !self.control().has(UNSTARTED)
    }

    /// Where the panic began that has ended this coroutine, through all coroutines that it passed, to whoever had resumed
    /// them: if [`keep_panic_backtraces`](super::keep_panic_backtraces) was called before, and the panic hook was run.
    pub fn panic_backtrace(&self) -> Option<&Backtrace> {
        self.control().backtrace.get().map(|backtrace| &**backtrace)
    }

    /// Gives the coroutine a name, for those who look from outside; the first 79 bytes of it are kept.
    pub fn set_name(&self, name: &str) {
        self.stack().entry().set_name(name);
    }

    /// The stack it runs on.
    pub fn stack(&self) -> &OwnedStack {
        &self.control().stack
    }

    /// The stack of a coroutine that is over, for the next one; the coroutine itself where it is not over.
    #[inline]
    pub fn into_stack(self) -> Result<OwnedStack, Self> {
        if !self.is_finished() {
            return Err(self);
        }
        let coroutine = ManuallyDrop::new(self);
        // SAFETY: nothing lives on the stack any more, and the coroutine is not dropped and not used again.
        Ok(unsafe { take_stack(coroutine.control) })
    }

    /// Goes to the coroutine with `word`; comes back with what it yielded, encoded, or with what it returned.
    ///
    /// # Safety
    /// The coroutine is suspended or new. `word` is an encoded `Input`, or nothing where the coroutine is cancelled; the
    /// value is given away.
    #[inline]
    unsafe fn switch(&mut self, word: Word) -> Result<Word, Return> {
        self.control().sp.set(ptr::null_mut());
        let stack = self.stack().range();
        let left = asan::leave(asan::Memory::new(stack.base(), stack.size()), true);
        // SAFETY: `sp` was set by the last switch from there, and nobody resumed it since, or the control's would be null.
        let (word, sp, top) = unsafe { arch::enter(word, self.sp, self.control.as_ptr().cast()) };
        asan::arrive(left);
        self.sp = sp;
        // SAFETY: who comes back is this coroutine, and the top that it brings is where its control lies.
        let control = unsafe { &*top.cast::<Control>() };
        control.sp.set(sp);
        if control.flags.get() != 0 {
            // SAFETY: a coroutine that has just finished has handed over the address of its outcome.
            return unsafe { look_closer(control, word) };
        }
        Ok(word)
    }

    /// Resumes the suspended coroutine with a panic until it is over; gives its panic if it ended with one of its own.
    fn unwind(&mut self) -> Result<(), Box<dyn Any + Send>> {
        self.control().set(CANCELLED);
        for _ in 0..CANCEL_LIMIT {
            // SAFETY: it is suspended, or we would have returned; it is cancelled, so its `suspend` looks at no input.
            match catch_unwind(AssertUnwindSafe(|| unsafe { self.switch(MaybeUninit::uninit()) })) {
                // SAFETY: `suspend` encoded a `Yield`.
                Ok(Ok(word)) => drop(unsafe { decode::<Yield>(word) }),
                Ok(Err(_returned)) => return Ok(()),
                Err(payload) if payload.is::<Cancelled>() => return Ok(()),
                Err(payload) => return Err(payload),
            }
        }
        Ok(())
    }

    fn control(&self) -> &Control {
        // SAFETY: it was written when the coroutine was made, lies on the stack that we own, and has only cells that
        // change, while the coroutine runs, on this thread.
        unsafe { self.control.as_ref() }
    }
}

impl<Input, Yield, Return> Drop for Coroutine<Input, Yield, Return> {
    fn drop(&mut self) {
        let control = self.control();
        let mut own_panic = None;
        if control.has(UNSTARTED) {
            // SAFETY: the function is still in the header, and goes with the coroutine.
            unsafe { (control.drop_function)(self.control) };
        } else if !control.has(FINISHED) {
            if control.sp.get().is_null() {
                super::fatal("a coroutine was dropped while it runs");
            }
            if cfg!(panic = "unwind") {
                own_panic = self.unwind().err();
            }
            if !self.is_finished() {
                return;
            }
        }
        // SAFETY: nothing lives on the stack any more, and the coroutine is gone after this.
        drop(unsafe { take_stack(self.control) });
        if let Some(payload) = own_panic
            && !std::thread::panicking()
        {
            resume_unwind(payload);
        }
    }
}

impl<Input, Yield, Return> fmt::Debug for Coroutine<Input, Yield, Return> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.is_started(), self.is_finished(), self.control().sp.get().is_null()) {
            (false, ..) => "new",
            (_, true, _) => "finished",
            (.., true) => "running",
            (.., false) => "suspended",
        };
        f.debug_struct("Coroutine").field("state", &state).field("stack", self.stack()).finish()
    }
}

/// A [`Coroutine`] that may be sent to other threads; made by [`Coroutine::assume_send`]. One thread at a time has it:
///
/// ```compile_fail,E0277
/// use stackscope::switch::{Coroutine, Yielder};
/// let coroutine = Coroutine::new(|_: &Yielder<(), ()>, ()| ()).unwrap();
/// let coroutine = unsafe { coroutine.assume_send() };
/// std::thread::scope(|scope| {
///     let shared = &coroutine;
///     scope.spawn(move || shared.get().is_finished());
/// });
/// ```
#[derive(Debug)]
pub struct SendCoroutine<Input, Yield, Return> {
    coroutine: Coroutine<Input, Yield, Return>,
}

// SAFETY: whoever made it promised that nothing on its stack is bound to a thread. The values that go in and out are on
// the stack or in the function only as long as the promise speaks of them.
unsafe impl<Input: Send, Yield: Send, Return: Send> Send for SendCoroutine<Input, Yield, Return> {}

impl<Input: 'static, Yield: 'static, Return: 'static> SendCoroutine<Input, Yield, Return> {
    /// Runs the coroutine on this thread until it suspends or returns; see [`Coroutine::resume`].
    ///
    /// # Panics
    /// As [`Coroutine::resume`].
    #[inline]
    pub fn resume(&mut self, input: Input) -> State<Yield, Return> {
        self.coroutine.resume(input)
    }
}

impl<Input, Yield, Return> SendCoroutine<Input, Yield, Return> {
    /// The coroutine, which stays on this thread from now on.
    pub fn into_inner(self) -> Coroutine<Input, Yield, Return> {
        self.coroutine
    }

    /// The coroutine, to look at.
    pub fn get(&self) -> &Coroutine<Input, Yield, Return> {
        &self.coroutine
    }
}

/// What a coroutine's function suspends itself with.
#[repr(transparent)]
pub struct Yielder<Input, Yield> {
    control: Control,
    marker: PhantomData<fn(Yield) -> Input>,
}

impl<Input, Yield> Yielder<Input, Yield> {
    /// Gives `value` to the resumer; comes back with the input of the next resume.
    ///
    /// # Panics
    /// Where the coroutine is dropped, with a private payload and without the panic hook, to unwind this stack.
    /// In a destructor that runs because of that, a suspend ends the process, as every panic in cleanup does.
    #[inline]
    pub fn suspend(&self, value: Yield) -> Input {
        let value = ManuallyDrop::new(value);
        let top = ptr::from_ref(&self.control).cast_mut().cast();
        // SAFETY: this stack was entered by `enter` with this top, so its link leads to the resumer, who waits.
        let resumer = unsafe { arch::resumer(top) };
        let left = asan::leave(self.control.resumer.get(), true);
        // SAFETY: the value is given away here. The resumer's context is used once: the next resume makes another.
        let (word, _, top) = unsafe { arch::leave(encode(&value), resumer, top) };
        let resumed_from = asan::arrive(left);
        // SAFETY: whoever resumes this stack brings its top, where the control lies.
        let control = unsafe { &*top.cast::<Control>() };
        control.resumer.set(resumed_from);
        if control.has(CANCELLED) {
            resume_unwind(Box::new(Cancelled));
        }
        // SAFETY: the resumer encoded an `Input`, as the coroutine is not cancelled, and waits meanwhile.
        unsafe { decode(word) }
    }
}

impl Control {
    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    fn set(&self, flag: u8) {
        self.flags.set(self.flags.get() | flag);
    }

    /// Ends the process where the canary of the stack, which has one, was overwritten: so was what lies below it.
    #[cold]
    fn check_canary(&self) {
        // SAFETY: a stack that says it has a canary has one at its base, and we own the stack.
        if unsafe { self.stack.range().base().cast::<usize>().read_volatile() } != CANARY {
            super::fatal("a coroutine overflowed its stack: the canary at its low end was overwritten");
        }
    }
}

/// What a switch from a coroutine ended with, where its flags say that it was more than a suspend. Not inlined, so that
/// the common way is short.
///
/// # Safety
/// Where the coroutine has finished, `word` is the address of an [`Outcome`] that nobody has taken.
#[inline(never)]
unsafe fn look_closer<Return>(control: &Control, word: Word) -> Result<Word, Return> {
    if control.has(CANARIED) {
        control.check_canary();
    }
    if !control.has(FINISHED) {
        return Ok(word);
    }
    control.stack.entry().set_state(state::FINISHED);
    // SAFETY: the caller says that it is an address.
    let outcome = unsafe { word.assume_init() };
    // SAFETY: the outcome lies on the coroutine's stack; it is read once.
    match unsafe { ptr::with_exposed_provenance::<Outcome<Return>>(outcome).read() } {
        Ok(result) => Err(result),
        Err(panic) => go_on(control, panic),
    }
}

/// Goes on with a panic of the coroutine's.
#[cold]
fn go_on(control: &Control, Panic { payload, backtrace }: Panic) -> ! {
    if let Some(backtrace) = backtrace {
        origin::goes_on(backtrace.clone(), &*payload);
        // A coroutine ends once, so the place is free.
        let _ = control.backtrace.set(backtrace);
    }
    resume_unwind(payload)
}

/// The outermost function of each coroutine, called by `start_returning` with the top of its stack as a third argument.
/// Gives the address of its outcome, which stays in the header until the resumer takes it.
unsafe extern "C" fn run<F, Input, Yield, Return>(input: Word, _resumer: *mut usize, top: *mut usize) -> usize
where
    F: FnOnce(&Yielder<Input, Yield>, Input) -> Return,
{
    let resumer = asan::arrive(asan::Left::NEW);
    let header = top.cast::<Header<F, Return>>();
    let body = body_of(header);
    // SAFETY: `Coroutine::on` put the header there, and it stays until the coroutine is over.
    let control = unsafe { &*header.cast::<Control>() };
    // SAFETY: the header holds the function; the flag, cleared next, says that it does so no longer.
    let function = unsafe { body.cast::<F>().read() };
    control.resumer.set(resumer);
    control.flags.set(control.flags.get() & !UNSTARTED);
    control.stack.entry().set_state(state::STARTED);
    // SAFETY: `Yielder` is a `Control` in memory.
    let yielder = unsafe { &*header.cast::<Yielder<Input, Yield>>() };
    // SAFETY: the first resume encoded an `Input`, and waits.
    let input = unsafe { decode(input) };
    let outcome: Outcome<Return> = catch_unwind(AssertUnwindSafe(|| function(yielder, input)))
        .map_err(|payload| Panic { backtrace: origin::of(&*payload), payload });
    // SAFETY: the function has been taken out, and its place is large enough for both.
    unsafe { body.cast::<Outcome<Return>>().write(outcome) };
    control.set(FINISHED);
    asan::leave(control.resumer.get(), false);
    body.expose_provenance()
}

/// Drops the function of a coroutine that was never resumed.
unsafe fn drop_function<F, Return>(control: NonNull<Control>) {
    // SAFETY: the caller says that the control is that of a header with an `F` that has not been taken out.
    unsafe { body_of::<F, Return>(control.as_ptr().cast()).cast::<F>().drop_in_place() };
}

/// Takes the stack out of itself.
///
/// # Safety
/// The control is not used again, and nothing else lives on the stack.
unsafe fn take_stack(control: NonNull<Control>) -> OwnedStack {
    let stack = control.as_ptr().wrapping_byte_add(offset_of!(Control, stack)).cast::<OwnedStack>();
    // SAFETY: the caller gives the stack up; the control is on it and still there.
    let stack = unsafe { stack.read() };
    stack.entry().vacate();
    let backtrace =
        control.as_ptr().wrapping_byte_add(offset_of!(Control, backtrace)).cast::<OnceCell<Arc<Backtrace>>>();
    // SAFETY: as above; nobody looks at it again.
    unsafe { backtrace.drop_in_place() };
    stack
}

/// Where the header lies on a stack: as high as its alignment allows, and where this leaves a choice, so that the words
/// that each switch works with share a cache line.
fn place<F, Return>(top: *mut u8) -> *mut Header<F, Return> {
    let highest = top.wrapping_sub(size_of::<Header<F, Return>>());
    let align = align_of::<Header<F, Return>>();
    let (align, offset) = if align < CACHE_LINE { (CACHE_LINE, PLACE_IN_LINE / align * align) } else { (align, 0) };
    highest.wrapping_sub(highest.addr().wrapping_sub(offset) % align).cast()
}

/// Where a header keeps its function or its outcome.
fn body_of<F, Return>(header: *mut Header<F, Return>) -> *mut Body<F, Return> {
    header.wrapping_byte_add(offset_of!(Header<F, Return>, body)).cast()
}

/// Says why a coroutine without a saved context cannot be resumed.
#[cold]
#[track_caller]
fn not_resumable(control: &Control) -> ! {
    if control.has(FINISHED) {
        panic!("a coroutine was resumed after it had returned");
    }
    panic!("a coroutine was resumed while it runs");
}

/// One word for a value on its way to the other stack: the value itself where it fits, else its address.
#[inline]
fn encode<T>(value: &ManuallyDrop<T>) -> Word {
    if size_of::<T>() > size_of::<Word>() {
        return MaybeUninit::new(ptr::from_ref(value).expose_provenance());
    }
    let mut word = Word::uninit();
    // SAFETY: both sides are valid for as many bytes, and a value may be copied bytewise into what is never read as a
    // number.
    unsafe { ptr::from_ref(value).cast::<u8>().copy_to_nonoverlapping(word.as_mut_ptr().cast(), size_of::<T>()) };
    word
}

/// The value behind a word.
///
/// # Safety
/// [`encode`] made the word from a `T` that is still there; the value is taken over.
#[inline]
unsafe fn decode<T>(word: Word) -> T {
    if size_of::<T>() > size_of::<Word>() {
        // SAFETY: a large value is an address.
        let address = unsafe { word.assume_init() };
        // SAFETY: the caller says that the value is still there, and ours.
        return unsafe { ptr::with_exposed_provenance::<T>(address).read() };
    }
    // SAFETY: a small value is in the word's first bytes; the word may be aligned less than the value.
    unsafe { word.as_ptr().cast::<T>().read_unaligned() }
}

#[cfg(test)]
mod tests;
