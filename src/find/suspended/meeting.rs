//! Decides between two chains that meet: further out they have the same frames, so one of them must be wrong about what
//! was called there.
//!
//! The frames of a chain that is left from an earlier use lead, where the stack was written anew, into frames that live.
//! The call instruction there says which function it called: that of the live chain.

use std::cell::RefCell;
use std::cmp::Ordering;

use foldhash::HashMap;

use crate::addr::{Addr, Pc};
use crate::find::suspended::ends::CodeView;
use crate::unwind::Frame;

/// What calls name, each looked at once.
pub(super) struct Calls<'a> {
    code: CodeView<'a>,
    called: RefCell<HashMap<Addr, Option<Addr>>>,
}

impl<'a> Calls<'a> {
    pub(super) fn new(code: CodeView<'a>) -> Calls<'a> {
        Calls { code, called: RefCell::default() }
    }

    /// Which of two chains, frames innermost first, is right where they meet; greater is better, equal is unknown.
    pub(super) fn judge(&self, left: &[Frame], right: &[Frame]) -> Ordering {
        let is_same = |(left, right): &(&Frame, &Frame)| left.pc == right.pc && left.cfa == right.cfa;
        let same = left.iter().rev().zip(right.iter().rev()).take_while(is_same).count();
        let at = |frames: &[Frame], count: usize| frames.get(frames.len().checked_sub(count)?).copied();
        let called = at(left, same).and_then(|caller| self.called_at(caller.pc));
        let (Some(called), left, right) = (called, at(left, same + 1), at(right, same + 1)) else {
            return Ordering::Equal;
        };
        let fits = |frame: Frame| (self.code.function_start)(frame.pc.lookup()) == Some(called);
        match (left, right) {
            (Some(left), Some(right)) if left.cfa == right.cfa => fits(left).cmp(&fits(right)),
            // Of the shorter one the innermost frame has called a switch routine.
            (Some(left), None) => {
                if fits(left) {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (None, Some(right)) => {
                if fits(right) {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            _ => Ordering::Equal,
        }
    }

    /// The function that the call before a return address names.
    fn called_at(&self, pc: Pc) -> Option<Addr> {
        *self.called.borrow_mut().entry(pc.addr()).or_insert_with(|| self.code.called(pc))
    }
}
