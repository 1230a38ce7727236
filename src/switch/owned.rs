//! Stacks that know where they came from, and the contract with those who make them.
//!
//! All that is to be known of such a stack lies in a descriptor at its own high end, so an [`OwnedStack`] is one pointer,
//! and a pooled stack keeps its place in the [roster] from one user to the next:
//! ```text
//!   high end of the memory | descriptor |
//!   range().top()          | free for   |
//!                          | use        |
//!   range().base()         |            |
//! ```

#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::borrowed::Borrowed;
use super::roster::{self, Entry};
use super::stack::{Stack, StackError};
use super::valgrind;

/// A strategy of making stacks.
///
/// Sources wrap each other: one that changes what another made passes it on with [`OwnedStack::with_source`].
///
/// # Safety
/// Unless `has_canary` says otherwise for a stack made here, an access just below its base ends in a fault and changes no
/// memory.
pub unsafe trait StackSource: Sync {
    /// One word for reports: how these stacks are made. At most 15 bytes of it are shown.
    fn name(&self) -> &'static str;

    /// A stack of at least `size` bytes of memory, of which the stack's descriptor takes a few.
    ///
    /// # Errors
    /// Where there is none to be had.
    fn allocate(&'static self, size: usize) -> Result<OwnedStack, StackError>;

    /// Takes back a stack whose source this is: called when it is dropped, so it must not drop it as it is.
    fn release(&self, stack: OwnedStack);

    /// The deepest use of the stack's memory ever, in bytes from the top, where this source can tell it exactly.
    fn peak(&self, stack: &OwnedStack) -> Option<usize> {
        let _ = stack;
        None
    }
}

/// A stack that goes back to its source when it is dropped.
pub struct OwnedStack {
    descriptor: NonNull<Descriptor>,
}

/// What an [`OwnedStack`] points to.
#[repr(C, align(16))]
struct Descriptor {
    low: *mut u8,
    source: &'static dyn StackSource,
    entry: &'static Entry,
    valgrind: usize,
    has_canary: bool,
}

/// What a descriptor takes of a stack's memory, in bytes.
pub(super) const DESCRIPTOR: usize = size_of::<Descriptor>();
const _: () = assert!(DESCRIPTOR.is_multiple_of(Stack::ALIGN));

// SAFETY: the memory and its descriptor belong to it alone; sources are `Sync`, and entries are made of atomics.
unsafe impl Send for OwnedStack {}

impl OwnedStack {
    /// A stack of at least `size` bytes from `source`; a few of them are not free for use, see [`OwnedStack::range`].
    ///
    /// # Errors
    /// Where the source has none to give.
    pub fn from_source(source: &'static dyn StackSource, size: usize) -> Result<OwnedStack, StackError> {
        source.allocate(size)
    }

    /// Makes a stack of `memory`, for a source that has just got that from somewhere, and lists it in the roster.
    ///
    /// # Errors
    /// [`StackError::TooSmall`] where the memory has no room for the descriptor.
    ///
    /// # Safety
    /// The memory stays valid and unused by anybody else until [`OwnedStack::into_memory`] gives it back, and may be
    /// used on any thread.
    pub unsafe fn new(memory: Stack, source: &'static dyn StackSource) -> Result<OwnedStack, StackError> {
        // SAFETY: the caller's promise.
        unsafe { OwnedStack::make(memory, source, false) }
    }

    /// As [`OwnedStack::new`].
    unsafe fn make(
        memory: Stack,
        source: &'static dyn StackSource,
        has_canary: bool,
    ) -> Result<OwnedStack, StackError> {
        if memory.size() < DESCRIPTOR {
            return Err(StackError::TooSmall { size: memory.size(), least: DESCRIPTOR });
        }
        let top = memory.top().wrapping_sub(DESCRIPTOR);
        let descriptor = Descriptor {
            low: memory.base(),
            source,
            entry: roster::list(memory.base().addr(), top.addr(), source.name()),
            valgrind: valgrind::register(memory.base(), memory.top()),
            has_canary,
        };
        // SAFETY: aligned, as the memory's end and the descriptor's size are, inside the memory, and ours.
        unsafe { top.cast::<Descriptor>().write(descriptor) };
        // SAFETY: a place inside valid memory is not null.
        Ok(OwnedStack { descriptor: unsafe { NonNull::new_unchecked(top.cast()) } })
    }

    /// Takes the stack out of the roster and gives its memory back as it was given to [`OwnedStack::new`].
    pub fn into_memory(self) -> Stack {
        let stack = ManuallyDrop::new(self);
        let descriptor = stack.descriptor();
        roster::unlist(descriptor.entry);
        valgrind::deregister(descriptor.valgrind);
        let range = stack.range();
        // SAFETY: the same memory that the stack was made of.
        unsafe { Stack::new(range.base(), range.size() + DESCRIPTOR) }
    }

    /// The same stack, to be released to `source` from now on.
    #[must_use]
    pub fn with_source(self, source: &'static dyn StackSource) -> OwnedStack {
        let at = self.descriptor.as_ptr();
        // SAFETY: we own the stack and with it its descriptor, and no reference to it is left.
        let descriptor = unsafe { &mut *at };
        descriptor.source = source;
        descriptor.entry.set_source(source.name());
        self
    }

    /// The range of memory that is free for use.
    #[inline]
    pub fn range(&self) -> Stack {
        let (low, top) = (self.descriptor().low, self.descriptor.as_ptr().cast::<u8>());
        // SAFETY: the memory promised to `new`, without the descriptor; both ends are aligned.
        unsafe { Stack::new(low, top.addr() - low.addr()) }
    }

    /// Where it goes back to.
    pub fn source(&self) -> &'static dyn StackSource {
        self.descriptor().source
    }

    /// The deepest use of this stack's memory ever, in bytes from the top, where its source can tell it exactly.
    /// It includes all earlier users of the same memory.
    pub fn peak(&self) -> Option<usize> {
        self.source().peak(self)
    }

    /// Whether the word at the base is a canary, to be checked because nothing else guards the stack.
    #[inline]
    pub fn has_canary(&self) -> bool {
        self.descriptor().has_canary
    }

    /// The stack's line in the roster.
    #[inline]
    pub(super) fn entry(&self) -> &'static Entry {
        self.descriptor().entry
    }

    #[inline]
    fn descriptor(&self) -> &Descriptor {
        // SAFETY: written by `new`; it is ours, and nothing else may write there.
        unsafe { self.descriptor.as_ref() }
    }
}

impl Drop for OwnedStack {
    fn drop(&mut self) {
        self.source().release(OwnedStack { descriptor: self.descriptor });
    }
}

impl fmt::Debug for OwnedStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.range();
        write!(f, "{} stack {:p}..{:p}", self.source().name(), range.base(), range.top())
    }
}

/// The source of stacks in memory that is borrowed forever: it has none to give, and lets go of those that come back.
struct Forever;

// SAFETY: the stacks made for it, below, have a canary.
unsafe impl StackSource for Forever {
    fn name(&self) -> &'static str {
        "borrowed"
    }

    fn allocate(&'static self, size: usize) -> Result<OwnedStack, StackError> {
        Err(StackError::TooLarge { size })
    }

    fn release(&self, stack: OwnedStack) {
        stack.into_memory();
    }
}

impl TryFrom<Borrowed<'static>> for OwnedStack {
    type Error = StackError;

    /// The stack is checked by its canary at each switch. Its memory is not given back: it was borrowed forever.
    fn try_from(borrowed: Borrowed<'static>) -> Result<OwnedStack, StackError> {
        // SAFETY: the memory is borrowed forever and exclusively, and bytes may be used on any thread.
        unsafe { OwnedStack::make(borrowed.range(), &Forever, true) }
    }
}
