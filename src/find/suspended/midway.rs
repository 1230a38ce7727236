//! Threads in the midst of a switch, where no rules say how the code goes on.
//!
//! Up to the *switch site* the thread is on the stack that it leaves, and the stack pointer of the one to come may stand in
//! its registers alone. From there on it is on that stack, of whose registers some are still in memory: its way out of the
//! routine is that of the context which waited there, and the frames of that are its own.

use crate::addr::{Addr, Pc};
use crate::find::sites::Sites;
use crate::find::suspended::chains::{Chain, Chains};
use crate::find::suspended::ends::CodeView;
use crate::unwind::{FoundBy, Frame};

/// What belongs to a switch lies within so many bytes of its site.
const NEAR: u64 = 96;

/// Whether the instruction at `pc` is one that leads up to a switch.
pub fn is_before(sites: &Sites, code: CodeView<'_>, pc: Addr) -> bool {
    let next = sites.switches.partition_point(|site| *site < pc.0);
    sites.switches.get(next).is_some_and(|site| is_part(code, *site, pc))
}

/// Whether the instruction at `pc` is one that follows a switch in its routine.
fn is_behind(sites: &Sites, code: CodeView<'_>, pc: Addr) -> bool {
    let next = sites.switches.partition_point(|site| *site < pc.0);
    next.checked_sub(1).is_some_and(|last| is_part(code, sites.switches[last], pc))
}

/// Whether the instruction at `pc` belongs to the switch at `site`.
fn is_part(code: CodeView<'_>, site: u64, pc: Addr) -> bool {
    let function = |at: Addr| (code.function_start)(at);
    site.abs_diff(pc.0) <= NEAR && function(Addr(site)) == function(pc)
}

/// The context that a thread goes on with that is to execute the instruction at `pc` with the stack pointer `sp`; `None`
/// where it is behind no switch, or `frames`, its own, lead up the stack without a guess.
pub fn context<'c>(
    chains: &'c Chains,
    sites: &Sites,
    code: CodeView<'_>,
    (pc, sp): (Addr, Addr),
    frames: &[Frame],
) -> Option<&'c Chain> {
    if !is_behind(sites, code, pc) {
        return None;
    }
    let is_sure = |frame: &&Frame| !frame.found_by.is_guess();
    let known: Vec<Addr> = frames.iter().take_while(is_sure).filter_map(|frame| frame.cfa).collect();
    let is_left = |chain: &&Chain| {
        let is_there = (chain.hypothesis.saved_sp..=chain.innermost_sp()).contains(&sp);
        // Where nothing on the stack says where it goes on, rules that look there find something else.
        is_there && (chain.hypothesis.block.is_some() || !known.contains(&chain.top))
    };
    let fit = |chain: &&Chain| (chain.hypothesis.holder.is_some(), std::cmp::Reverse(chain.hypothesis.saved_sp));
    chains.chains.iter().filter(is_left).max_by_key(fit)
}

/// The frames of a thread that goes on with `context`, of which the innermost was `here`.
pub fn frames(chains: &Chains, code: CodeView<'_>, context: &Chain, here: Frame) -> Vec<Frame> {
    let mut left = chains.all_frames_of(context).peekable();
    // Code that was inlined goes on in the same function.
    let is_here = |frame: &Frame| code.function_of(frame.pc) == code.function_of(Pc::At(here.pc.addr()));
    let cfa = left.next_if(is_here).map_or(Some(context.innermost_sp()), |inlined| inlined.cfa);
    let mut frames = vec![Frame { cfa, ..here }];
    frames.extend(left);
    if let Some(caller) = frames.get_mut(1) {
        caller.found_by = FoundBy::Descriptor;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::sites::Origin;
    use crate::find::suspended::chains::{Root, Segment};
    use crate::find::suspended::contexts::Hypothesis;
    use crate::find::testing::{RESUME, STACK, held_on_stack, sites};
    use crate::memory::Slices;
    use crate::unwind::Ended;

    /// The switch site of [`sites`], in a routine that begins shortly before it.
    const SITE: u64 = RESUME - 0x10;
    const ROUTINE: u64 = SITE - 8;
    const CALLER: u64 = 0x20_0000;

    fn frame(pc: u64, cfa: u64, found_by: FoundBy) -> Frame {
        Frame { pc: Pc::After(Addr(pc)), cfa: Some(Addr(cfa)), found_by, signal: false }
    }

    /// A context that waits in the routine, three words below its caller's frame.
    fn waiting() -> Chains {
        let hypothesis = Hypothesis {
            site: 0,
            layout: 0,
            word_at: Addr(STACK + 16),
            saved_sp: Addr(STACK),
            holder: None,
            block: None,
        };
        let (sp, top) = (Addr(STACK + 24), Addr(STACK + 64));
        let (segments, root, ended) = (Vec::new(), Root::Marked, Ended::Root);
        let chain = Chain { hypothesis, sp, list: 0, frames: 0..1, segments, root, top, ended };
        Chains { chains: vec![chain], frames: vec![vec![frame(CALLER, STACK + 64, FoundBy::Cfi)]], cut: false }
    }

    /// The frames of a thread that is to execute `pc` with the stack pointer `sp`, and of which `known` is known.
    fn goes_on(pc: u64, sp: u64, known: &[Frame]) -> Option<Vec<Frame>> {
        let start = |at: Addr| (at.0 < RESUME).then_some(Addr(ROUTINE));
        let code =
            CodeView { read: &|_, _| false, function_start: &start, memory: &Slices::default(), unbound: &|_, _| None };
        let (chains, sites) = (waiting(), sites(Origin::Switch, held_on_stack()));
        let found = context(&chains, &sites, code, (Addr(pc), Addr(sp)), known)?;
        Some(frames(&chains, code, found, Frame { pc: Pc::At(Addr(pc)), ..known[0] }))
    }

    #[test]
    fn behind_the_site_a_thread_has_the_frames_of_whom_it_switched_to() {
        let here = frame(SITE + 3, 0, FoundBy::Context);
        for sp in [STACK, STACK + 8, STACK + 24] {
            let frames = goes_on(SITE + 3, sp, &[here]).unwrap();
            assert_eq!(frames.iter().map(|frame| frame.pc.addr().0).collect::<Vec<_>>(), [SITE + 3, CALLER]);
            assert_eq!(frames[0].cfa, Some(Addr(STACK + 24)));
            assert_eq!(frames[1].found_by, FoundBy::Descriptor);
        }
        assert_eq!(goes_on(SITE + 3, STACK + 32, &[here]), None);
        assert_eq!(goes_on(SITE, STACK, &[here]), None);
        assert_eq!(goes_on(CALLER, STACK, &[here]), None);
    }

    /// The function that was called on a segment ends where the stack goes on from which it was called.
    #[test]
    fn its_frames_lead_from_a_segment_to_the_stack_below() {
        const BELOW: u64 = STACK + 0x10000;
        let mut chains = waiting();
        let on_segment =
            vec![frame(CALLER, STACK + 40, FoundBy::Cfi), Frame { cfa: None, ..frame(CALLER + 8, 0, FoundBy::Cfi) }];
        chains.frames[0].splice(0..0, on_segment);
        let chain = &mut chains.chains[0];
        chain.segments = vec![Segment { sp: chain.sp, frames: 0..2, top: Addr(STACK + 40) }];
        (chain.sp, chain.frames) = (Addr(BELOW), 2..3);
        let cfas: Vec<_> = chains.all_frames_of(&chains.chains[0]).map(|frame| frame.cfa).collect();
        assert_eq!(cfas, [STACK + 40, BELOW, STACK + 64].map(|cfa| Some(Addr(cfa))));
    }

    #[test]
    fn rules_that_lead_up_the_stack_are_believed_and_guesses_are_not() {
        let here = frame(SITE + 3, STACK + 24, FoundBy::Context);
        assert_eq!(goes_on(SITE + 3, STACK, &[here, frame(CALLER, STACK + 64, FoundBy::Cfi)]), None);
        assert!(goes_on(SITE + 3, STACK, &[here, frame(CALLER, STACK + 64, FoundBy::Scan)]).is_some());
    }

    #[test]
    fn up_to_the_site_it_is_before_the_switch() {
        let start = |at: Addr| (at.0 < RESUME).then_some(Addr(ROUTINE));
        let code =
            CodeView { read: &|_, _| false, function_start: &start, memory: &Slices::default(), unbound: &|_, _| None };
        let sites = sites(Origin::Switch, held_on_stack());
        let before = |pc| is_before(&sites, code, Addr(pc));
        assert_eq!([ROUTINE, SITE, SITE + 1, SITE - NEAR - 1].map(before), [true, true, false, false]);
    }
}
