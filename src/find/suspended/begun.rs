//! Tells which of the contexts that were prepared have begun since: a library need not forget how it began one.

use foldhash::HashSet;

use crate::addr::{Addr, AddrRange, Pc};
use crate::find::sites::{Origin, Sites};
use crate::find::suspended::chains::{Chain, Chains};
use crate::find::suspended::choose::{Choice, Holder, Running};
use crate::find::suspended::ends::CodeView;
use crate::memory::{Memory as _, Slices};

/// The first call on a stack leaves its return address at most so many bytes below where the stack begins.
const FIRST_FRAME: i64 = 1024;

/// Drops fresh contexts on stacks where another context, or a thread's stack pointer, shows that they have begun.
pub(super) fn drop_begun(chains: &Chains, sites: &Sites, running: &[Running], choices: &mut Vec<Choice>) {
    let is_fresh =
        |choice: &Choice| sites.sites[chains.chains[choice.chain].hypothesis.site as usize].origin == Origin::Fresh;
    let held = choices.iter().filter(|choice| !is_fresh(choice) && choice.holder != Holder::None);
    let mut begun: Vec<AddrRange> =
        held.map(|choice| &chains.chains[choice.chain]).map(|chain| AddrRange::new(chain.sp, chain.top)).collect();
    begun.sort_unstable_by_key(|range| range.high);
    let mut sps: Vec<Addr> = running.iter().map(|stack| stack.sp).collect();
    sps.sort_unstable();
    let has_begun = |chain: &Chain| {
        let runs = sps.get(sps.partition_point(|sp| *sp < chain.low())).is_some_and(|sp| *sp <= chain.top);
        let at = chain.hypothesis.word_at;
        let next = begun.partition_point(|range| range.high <= at);
        runs || begun.get(next).is_some_and(|range| range.contains(at))
    };
    choices.retain(|choice| !(is_fresh(choice) && has_begun(&chains.chains[choice.chain])));
}

/// Drops fresh contexts whose start routine has called something on their stacks, where no context is known that began there
/// and left: the program switches in a way that is not understood.
///
/// Where such contexts are known, the stack may have been taken for another one after they ended.
pub(super) fn drop_begun_unseen(
    chains: &Chains,
    sites: &Sites,
    choices: &mut Vec<Choice>,
    code: CodeView<'_>,
    memory: &Slices<'_>,
) {
    let is_fresh = |chain: &Chain| sites.sites[chain.hypothesis.site as usize].origin == Origin::Fresh;
    let start = |chain: &Chain| chains.frames_of(chain).first().map(|frame| code.function_of(frame.pc));
    let mut known: Option<HashSet<Addr>> = None;
    let outer = || {
        let left = chains.chains.iter().filter(|chain| !is_fresh(chain));
        let places: HashSet<Pc> =
            left.flat_map(|chain| chains.frames_of(chain).iter().rev().take(OUTER)).map(|frame| frame.pc).collect();
        places.into_iter().map(|pc| code.function_of(pc)).collect::<HashSet<Addr>>()
    };
    choices.retain(|choice| {
        let chain = &chains.chains[choice.chain];
        let Some(start) = start(chain).filter(|_| is_fresh(chain)) else { return true };
        !has_called(chain.sp, start, code, memory) || known.get_or_insert_with(outer).contains(&start)
    });
}

/// A start routine is one of the so many outermost frames of what has begun.
const OUTER: usize = 3;

/// Whether the function at `start` has called something on the stack that begins at `sp`.
fn has_called(sp: Addr, start: Addr, code: CodeView<'_>, memory: &Slices<'_>) -> bool {
    let mut places = (1..=FIRST_FRAME / 8).map(|words| sp.offset(-8 * words));
    places.any(|at| {
        let address = memory.read_u64(at).map(Addr).unwrap_or_default();
        start < address && code.function_of(Pc::After(address)) == start
    })
}
