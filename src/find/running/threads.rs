//! What is taken from a target while it stands still: each thread's chain of frames, as addresses.
//!
//! Names, bounds and pages can wait until the target runs on; this can't.

use std::ops::ControlFlow;

use crate::addr::{Addr, AddrRange, Pc};
use crate::arch::Arch;
use crate::mapping::{Mapping, Origin};
use crate::memory::Memory;
use crate::process::{NotStopped, Target, Thread};
use crate::registers::Registers;
use crate::snapshot::Confidence;
use crate::unwind::{Ended, FoundBy, Frame, Rules, walk, walk_from};

/// The most frames that one thread's chain may have.
const MOST_FRAMES: usize = 1 << 21;

/// The most frames that all chains of a target may have together: it bounds the memory that a hostile target can take.
const MOST_FRAMES_IN_ALL: usize = 1 << 22;

/// `ss_flags` of a `stack_t` that stands for no alternate stack (`SS_DISABLE`, sigaltstack(2)).
const SS_DISABLE: u32 = 2;

/// A thread and its chain of frames.
#[derive(Debug)]
pub(crate) struct ThreadChain {
    pub(crate) thread: Thread,
    /// Where the C library's descriptor of the thread lies; `None` until that is looked for, and where there is none.
    pub(crate) descriptor: Option<Addr>,
    /// The stack pointer of the innermost frame.
    pub(crate) sp: Option<Addr>,
    /// Innermost first.
    pub(crate) frames: Vec<Frame>,
    /// Why there are no more; the reason where there are none at all.
    pub(crate) ended: Result<Ended, NotStopped>,
    /// The alternate signal stacks that the kernel noted in the chain's signal frames.
    pub(crate) signal_stacks: Vec<AddrRange>,
    /// The first frame whose rules load the caller's stack pointer from somewhere, as those of `longjmp` and `setcontext`
    /// do: they describe where it will go on, which is not where it was called from.
    pub(crate) jump: Option<usize>,
}

impl ThreadChain {
    /// Whether `at`, in `mapping`, lies on the stack that the thread, of process `pid`, began on: the first thread on the
    /// kernel's `[stack]`, another below its descriptor, which the C libraries put on top of the stack (glibc
    /// `allocate_stack`, musl `__pthread_create`).
    pub(crate) fn began_at(&self, pid: i32, mapping: &Mapping, at: Addr) -> bool {
        let holds = |descriptor: Addr| mapping.range.contains(descriptor) && at < descriptor;
        match self.thread.tid == pid {
            true => mapping.origin == Origin::MainStack,
            false => self.descriptor.is_some_and(holds),
        }
    }
}

/// Walks the chain of every thread of a target that stands still. A thread that has ended, as the first one may long
/// before the others, has no stack any more and is passed over.
pub(crate) fn survey(target: &dyn Target, rules: &mut Rules<'_, '_>) -> Vec<ThreadChain> {
    let mut left = MOST_FRAMES_IN_ALL;
    let living = target.threads().iter().filter(|thread| thread.registers != Err(NotStopped::Ended));
    let chains = living.map(|thread| {
        let chain = chain(target, rules, thread, MOST_FRAMES.min(left));
        left -= chain.frames.len();
        chain
    });
    chains.collect()
}

fn chain(target: &dyn Target, rules: &mut Rules<'_, '_>, thread: &Thread, limit: usize) -> ThreadChain {
    let mut chain = ThreadChain {
        thread: thread.clone(),
        descriptor: None,
        sp: None,
        frames: Vec::new(),
        ended: Ok(Ended::Root),
        signal_stacks: Vec::new(),
        jump: None,
    };
    match &thread.registers {
        Err(reason) => chain.ended = Err(*reason),
        Ok(registers) => {
            chain.sp = registers.addr(target.arch().sp);
            let ended = walk(rules, target, registers.clone(), limit, |frame, registers| {
                note_jump(&mut chain, registers.addr(target.arch().sp));
                if frame.signal {
                    chain.signal_stacks.extend(signal_stack(target, target.arch(), registers));
                }
                chain.frames.push(*frame);
                ControlFlow::Continue(())
            });
            chain.ended = Ok(chain.cut_at_guess(ended));
        }
    }
    chain
}

impl ThreadChain {
    /// Takes away what a guess led to, if that is no root; returns why there are no more frames.
    fn cut_at_guess(&mut self, ended: Ended) -> Ended {
        let guess = self.frames.iter().position(|frame| frame.found_by.is_guess());
        let Some(guess) = guess.filter(|_| !matches!(ended, Ended::Root | Ended::TooDeep)) else { return ended };
        self.frames.truncate(guess);
        self.jump = self.jump.filter(|jump| *jump < guess);
        Ended::NoRule
    }

    /// How sure the frames up to the one before `end` are.
    pub(crate) fn confidence(&self, end: usize) -> Confidence {
        let frames = self.frames.get(..end).unwrap_or_default();
        let has = |found_by| frames.iter().any(|frame| frame.found_by == found_by);
        match () {
            () if has(FoundBy::Scan) => Confidence::Guess,
            () if has(FoundBy::FramePointer) => Confidence::Likely,
            () => Confidence::Certain,
        }
    }

    /// Puts other frames behind the innermost one: those from `pc` on, where the code has `registers`.
    pub(crate) fn walk_on(
        &mut self,
        rules: &mut Rules<'_, '_>,
        memory: &(impl Memory + ?Sized),
        pc: Pc,
        registers: Registers,
    ) {
        let arch = rules.tables().arch();
        self.frames.truncate(1);
        if let Some(here) = self.frames.first_mut() {
            here.cfa = registers.addr(arch.sp);
        }
        let ended = walk_from(rules, memory, pc, registers, MOST_FRAMES, |frame, _| {
            let is_first = self.frames.len() == 1;
            self.frames.push(Frame { found_by: if is_first { FoundBy::Descriptor } else { frame.found_by }, ..*frame });
            ControlFlow::Continue(())
        });
        self.ended = Ok(self.cut_at_guess(ended));
    }
}

/// Notes whether the last frame so far was left by a jump, now that the stack pointer of the next one is known. Its CFA
/// then is not that stack pointer, as it is everywhere else, but some block of saved registers.
fn note_jump(chain: &mut ThreadChain, sp: Option<Addr>) {
    let Some(last) = chain.frames.len().checked_sub(1) else { return };
    let frame = &mut chain.frames[last];
    if !frame.signal && frame.cfa.is_some() && sp.is_some() && frame.cfa != sp {
        frame.cfa = sp;
        chain.jump = chain.jump.or(Some(last));
    }
}

/// The alternate stack that was set when a signal arrived: `uc_stack` of the signal frame above the stack pointer.
fn signal_stack(memory: &(impl Memory + ?Sized), arch: &Arch, registers: &Registers) -> Option<AddrRange> {
    let stack_t = registers.addr(arch.sp)?.offset(arch.sigframe_uc_stack as i64);
    let mut bytes = [0; 24];
    memory.read(stack_t, &mut bytes).ok()?;
    let word = |at: usize| bytes[at..].first_chunk::<8>().map(|word| u64::from_le_bytes(*word));
    let (low, flags, size) = (word(0)?, word(8)? as u32, word(16)?);
    let range = AddrRange::new(Addr(low), Addr(low.checked_add(size)?));
    (flags & SS_DISABLE == 0 && !range.is_empty()).then_some(range)
}
