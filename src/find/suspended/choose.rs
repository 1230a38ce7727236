//! Decides which chain is the context of each stack, where memory allows several.
//!
//! Frames that ran earlier leave whole chains of their own below the live ones, with resume words and all. What tells
//! them apart is who keeps a pointer to them, and from where.

use std::cmp::{Ordering, Reverse};

use foldhash::{HashMap, HashSet};

use crate::addr::{Addr, AddrRange, PAGE, Pc};
use crate::arch::X86_64;
use crate::find::extent::rooms::Rooms;
use crate::find::sites::{Origin, Sites};
use crate::find::suspended::begun;
use crate::find::suspended::chains::{Chain, Chains, Root};
use crate::find::suspended::ends::CodeView;
use crate::find::suspended::meeting::Calls;
use crate::find::suspended::rivals::{self, Find};
use crate::mapping::{Mapping, mapping_at};
use crate::share;
use crate::unwind::Frame;

/// A root is common if this share of the most common root's chains has it.
const COMMON: usize = 10;

/// A pointer this shortly below the lowest stack pointer of a stack is taken to lie on that stack, in bytes.
const LEFTOVER: i64 = 4096;

/// Functions are taken to be shorter than this, in bytes, when they are looked for in chains.
const LONGEST_FUNCTION: u64 = 1 << 16;

/// A chain, to be sorted by the stack that it lies on and by where it begins there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    top: Addr,
    low: Addr,
    /// An index into [`Chains::chains`].
    chain: usize,
}

/// The chains with one top: those of one stack.
struct Group<'p> {
    top: Addr,
    /// Where the longest of them ends.
    root: (Pc, Root),
    chains: &'p [Placed],
    /// From the lowest saved stack pointer to the top.
    extent: AddrRange,
}

/// The chain that was chosen for a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// An index into [`Chains::chains`].
    pub chain: usize,
    /// How many different stack pointers the stack's chains have that something points to.
    pub candidates: usize,
    /// Where the pointer lies.
    pub holder: Holder,
}

/// Where a pointer to a saved stack pointer lies; the better it fits a suspended context, the further down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holder {
    /// Nowhere.
    None,
    /// In a register of a thread that is not about to switch.
    Register,
    /// On the stack itself.
    SameStack,
    /// On another stack.
    OtherStack,
    /// On no stack: on the heap or in a variable.
    Elsewhere,
}

/// A stack that a thread's chain of frames lies on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    /// The stack pointer there.
    pub sp: Addr,
    /// The CFAs of the frames that begin there, sorted.
    pub cfas: Vec<Addr>,
    /// Whether the rules led from frame to frame up to the stack's root.
    pub is_whole: bool,
}

/// What is known of the threads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Threads {
    /// The stacks that they are on.
    pub running: Vec<Running>,
    /// What those have in registers that are about to switch, sorted: nothing else may hold where they will go on.
    pub held: Vec<u64>,
    /// What all others have in registers, sorted: it may have been taken out of memory, and may be left from before.
    pub in_registers: Vec<u64>,
}

/// A stack, the room that it lies in, and the chain that was chosen for it.
struct Candidate<'p> {
    group: Group<'p>,
    room: Option<AddrRange>,
    choice: Option<Choice>,
}

/// Chooses one chain for each stack that no thread is on, by address.
pub fn choose(
    chains: &Chains,
    sites: &Sites,
    mappings: &[Mapping],
    threads: &Threads,
    code: CodeView<'_>,
    rooms: &Rooms<'_>,
) -> Vec<Choice> {
    let roots = roots(chains, code);
    let placed = placed(chains, &roots);
    let mut groups = groups(chains, &roots, &placed);
    drop_running(&mut groups, mappings, &threads.running);
    drop_leftovers(&mut groups);
    let extents: Vec<AddrRange> = groups.iter().map(|group| group.extent).collect();
    let choosing = |extents, dead| Choosing { chains, sites, calls: Calls::new(code), extents, dead, threads };
    let first: Vec<Option<Choice>> = share::in_parts(&groups, |part| {
        let choosing = choosing(&extents, &[]);
        part.iter().map(|group| choosing.choose_one(group)).collect()
    });
    let candidate = |((group, room), choice)| Candidate { group, room, choice };
    let mut candidates: Vec<Candidate<'_>> =
        groups.into_iter().zip(rooms.around(&extents)).zip(first).map(candidate).collect();
    drop_ruled_out(&mut candidates, chains, sites, &threads.running);
    let extents: Vec<AddrRange> = candidates.iter().map(|candidate| candidate.group.extent).collect();
    let dead = dead(chains, &candidates);
    let again = share::in_parts(&candidates, |part| {
        let choosing = choosing(&extents, &dead);
        let again = |candidate: &Candidate<'_>| match candidate.choice {
            Some(choice) if choosing.is_held_by_the_dead(choice.chain) => choosing.choose_one(&candidate.group),
            choice => choice,
        };
        part.iter().map(again).collect()
    });
    candidates.iter_mut().zip(again).for_each(|(candidate, choice)| candidate.choice = choice);
    drop_ruled_out(&mut candidates, chains, sites, &threads.running);
    let mut choices = candidates.into_iter().filter_map(|candidate| candidate.choice).collect();
    begun::drop_begun(chains, sites, &threads.running, &mut choices);
    choices
}

/// Drops what another one in the same room, or a thread there, rules out.
fn drop_ruled_out(candidates: &mut Vec<Candidate<'_>>, chains: &Chains, sites: &Sites, running: &[Running]) {
    let find = |candidate: &Candidate<'_>| {
        let Choice { chain, holder, .. } = candidate.choice?;
        let chain = &chains.chains[chain];
        let origin = sites.sites[chain.hypothesis.site as usize].origin;
        let is_in_room = |at: Addr| candidate.room.is_some_and(|room| room.contains(at));
        Some(Find {
            extent: AddrRange::new(chain.low(), chain.top),
            room: candidate.room,
            is_held: holder != Holder::None,
            is_held_from_outside: holder >= Holder::OtherStack && !chain.hypothesis.holder.is_some_and(is_in_room),
            rank: origin_rank(origin, holder),
        })
    };
    let mut sps: Vec<Addr> = running.iter().map(|stack| stack.sp).collect();
    sps.sort_unstable();
    candidates.retain(|candidate| candidate.choice.is_some());
    let finds: Vec<Find> = candidates.iter().filter_map(find).collect();
    let mut remaining = rivals::remaining(&finds, &sps).into_iter();
    candidates.retain(|_| remaining.next().unwrap_or(true));
}

/// What lies below the chosen contexts on their stacks, sorted: words there are left from earlier calls, and keep nothing.
fn dead(chains: &Chains, candidates: &[Candidate<'_>]) -> Vec<AddrRange> {
    let tops: Vec<Addr> = candidates.iter().map(|candidate| candidate.group.top).collect();
    // At the low end of a stack, and above the frames of the next one down, there may be a structure of its library, of
    // less than a page.
    let stride = stride(&tops).unwrap_or(0);
    let shortest = stride.saturating_sub(PAGE);
    let kept_at = kept_at(chains, candidates);
    let mut in_room: HashMap<AddrRange, usize> = HashMap::default();
    candidates.iter().filter_map(|candidate| candidate.room).for_each(|room| *in_room.entry(room).or_default() += 1);
    let mut former_top = Addr(0);
    let below = |candidate: &Candidate<'_>| {
        let group = &candidate.group;
        let below = std::mem::replace(&mut former_top, group.top);
        // Further down it may be no stack any more.
        let end = match candidate.room.filter(|room| in_room[room] == 1) {
            Some(room) => room.low.offset(PAGE as i64),
            None => {
                let kept_at = kept_at.map_or(Addr(0), |distance| Addr(group.top.0.saturating_sub(distance)).offset(8));
                let whole = Addr(group.top.0.saturating_sub(shortest));
                // Below the lowest of several stacks lies something else, and its top may not be where its memory ends.
                let is_lowest = group.top.0 - below.0 > stride;
                let whole = if is_lowest { whole.max(group.extent.low.offset(-LEFTOVER)) } else { whole };
                whole.max(kept_at)
            }
        };
        let low = group.extent.low.min(end).max(below);
        let high = chains.chains[candidate.choice?.chain].low().offset(-(X86_64.red_zone as i64));
        (low < high).then(|| AddrRange::new(low, high))
    };
    candidates.iter().filter_map(below).collect()
}

/// How far below its top each stack keeps its own saved stack pointer, if most do so at one distance, far below all frames:
/// their library has put a structure at the low end.
fn kept_at(chains: &Chains, candidates: &[Candidate<'_>]) -> Option<u64> {
    let mut counts: HashMap<u64, usize> = HashMap::default();
    for candidate in candidates {
        let holder = candidate.choice.and_then(|choice| chains.chains[choice.chain].hypothesis.holder);
        if let Some(at) = holder.filter(|at| *at < candidate.group.extent.low.offset(-LEFTOVER)) {
            *counts.entry(candidate.group.top.0.saturating_sub(at.0)).or_default() += 1;
        }
    }
    let (distance, count) = counts.into_iter().max_by_key(|(distance, count)| (*count, Reverse(*distance)))?;
    let chosen = candidates.iter().filter(|candidate| candidate.choice.is_some()).count();
    (count > 1 && 2 * count > chosen).then_some(distance)
}

/// For each chain its root, if that is one: code that stands in the middle of chains more often is none, and an ordinary
/// function only where others have begun.
fn roots(chains: &Chains, code: CodeView<'_>) -> Vec<Option<Pc>> {
    let outermost = |chain: &Chain| Some(chains.frames_of(chain).last()?.pc);
    let roots: Vec<Option<Pc>> = share::in_parts(&chains.chains, |part| part.iter().map(outermost).collect());
    let mut seen: HashMap<Pc, (usize, usize)> = HashMap::default();
    for pc in roots.iter().flatten() {
        seen.entry(*pc).or_default().0 += 1;
    }
    let planted = Planted::new(chains.chains.iter().filter_map(|chain| planted_at(chains, chain)));
    let inside = share::in_parts(&chains.chains, |part| {
        let (mut inside, mut functions) = (HashMap::default(), HashMap::default());
        for frames in part.iter().map(|chain| chains.frames_of(chain)) {
            let inner = frames.iter().take(frames.len().saturating_sub(1));
            for pc in inner.map(|frame| frame.pc) {
                if seen.contains_key(&pc) {
                    *inside.entry((pc, false)).or_insert(0) += 1;
                }
                if let Some(start) = planted.below(pc)
                    && *functions.entry(pc).or_insert_with(|| code.function_of(pc)) == start
                {
                    *inside.entry((Pc::At(start), true)).or_insert(0) += 1;
                }
            }
        }
        inside.into_iter().collect()
    });
    let mut called: HashMap<Pc, usize> = HashMap::default();
    for ((pc, is_function), count) in inside {
        match is_function {
            true => *called.entry(pc).or_default() += count,
            false => seen.entry(pc).or_default().1 += count,
        }
    }
    let begun = begun_in(chains, code);
    let is_root = |chain: &Chain, pc: Pc| {
        let (outermost, inside) = seen[&pc];
        let is_called = || planted.count(pc) <= called.get(&pc).copied().unwrap_or(0);
        outermost > inside
            && (chain.root != Root::Function || begun.contains(&code.function_of(pc)))
            && (planted_at(chains, chain).is_none() || !is_called())
    };
    chains.chains.iter().zip(roots).map(|(chain, pc)| pc.filter(|pc| is_root(chain, *pc))).collect()
}

/// The start of a function that a chain ends at, though nothing was called there.
fn planted_at(chains: &Chains, chain: &Chain) -> Option<Addr> {
    match chains.frames_of(chain) {
        [.., _, Frame { pc: Pc::At(start), .. }] => Some(*start),
        _ => None,
    }
}

/// The starts of functions that chains end at though nothing was called there, sorted. A library puts one on a stack as the
/// place to return to at last. A function that others call is none: its address was in a register that a call saved.
struct Planted(Vec<Addr>);

impl Planted {
    fn new(starts: impl Iterator<Item = Addr>) -> Planted {
        let mut starts: Vec<Addr> = starts.collect();
        starts.sort_unstable();
        Planted(starts)
    }

    /// How many chains end there.
    fn count(&self, pc: Pc) -> usize {
        let at = pc.addr();
        self.0.partition_point(|start| *start <= at) - self.0.partition_point(|start| *start < at)
    }

    /// The one that a place may belong to the function of.
    fn below(&self, pc: Pc) -> Option<Addr> {
        let Pc::After(at) = pc else { return None };
        let start = self.0[self.0.partition_point(|start| *start < at).checked_sub(1)?];
        (at.0 - start.0 < LONGEST_FUNCTION).then_some(start)
    }
}

/// The functions that contexts have begun in: the outermost, or where that only is returned to, the one that returns there.
fn begun_in(chains: &Chains, code: CodeView<'_>) -> HashSet<Addr> {
    let is_doubtful = |chain: &&Chain| chain.root == Root::Function;
    if !chains.chains.iter().any(|chain| is_doubtful(&chain)) {
        return HashSet::default();
    }
    let certain = chains.chains.iter().filter(|chain| !is_doubtful(chain));
    let outer = certain.flat_map(|chain| chains.frames_of(chain).iter().rev().take(2));
    let places: HashSet<Pc> = outer.map(|frame| frame.pc).collect();
    places.into_iter().map(|pc| code.function_of(pc)).collect()
}

/// The chains that end at a root, sorted.
fn placed(chains: &Chains, roots: &[Option<Pc>]) -> Vec<Placed> {
    let with_root = chains.chains.iter().zip(roots).enumerate().filter(|(_, (_, root))| root.is_some());
    let place = |(index, (chain, _)): (usize, (&Chain, _))| Placed { top: chain.top, low: chain.low(), chain: index };
    let mut placed: Vec<Placed> = with_root.map(place).collect();
    placed.sort_unstable();
    placed
}

fn groups<'p>(chains: &Chains, roots: &[Option<Pc>], placed: &'p [Placed]) -> Vec<Group<'p>> {
    let group = |members: &'p [Placed]| {
        let Placed { top, low, chain } = *members.first()?;
        let root = (roots[chain]?, chains.chains[chain].root);
        Some(Group { top, root, chains: members, extent: AddrRange::new(low, top) })
    };
    placed.chunk_by(|left, right| left.top == right.top).filter_map(group).collect()
}

/// Drops the stacks that threads are on: those whose top a thread's frames reach, and where a thread stands in a switch
/// routine that nothing unwinds, or whose rules already lead to the next stack, the one around its stack pointer.
fn drop_running(groups: &mut Vec<Group<'_>>, mappings: &[Mapping], running: &[Running]) {
    let tops: Vec<Addr> = groups.iter().map(|group| group.top).collect();
    // What is left of an earlier use may have tops in the midst of a stack.
    let common = common_tops(groups);
    let stride = stride(&common);
    let around = |stack: &Running| {
        let top = *common.get(common.partition_point(|top| *top <= stack.sp))?;
        let same_mapping = mapping_at(mappings, stack.sp)?.range.contains(top.offset(-1));
        let is_near = stride.is_none_or(|stride| top.0 - stack.sp.0 <= stride);
        (same_mapping && is_near).then_some(top)
    };
    let mut dropped: HashSet<Addr> = HashSet::default();
    for stack in running {
        let reached: Vec<Addr> = stack.cfas.iter().copied().filter(|cfa| tops.binary_search(cfa).is_ok()).collect();
        if !stack.is_whole && reached.iter().all(|top| *top <= stack.sp) {
            dropped.extend(around(stack));
        }
        dropped.extend(reached);
    }
    groups.retain(|group| !dropped.contains(&group.top));
}

/// Drops stacks with a rare root that lie less than one stack below one with a common root: what is left of an earlier use.
fn drop_leftovers(groups: &mut Vec<Group<'_>>) {
    let tops = common_tops(groups);
    let Some(stride) = stride(&tops) else { return };
    groups.retain(|group| {
        let next = tops.partition_point(|top| *top < group.top);
        tops.get(next).is_none_or(|top| *top == group.top || top.0 - group.top.0 >= stride)
    });
}

/// The tops of the stacks whose root is a common one, sorted.
fn common_tops(groups: &[Group<'_>]) -> Vec<Addr> {
    let mut counts: HashMap<(Pc, Root), usize> = HashMap::default();
    for group in groups {
        *counts.entry(group.root).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0);
    groups.iter().filter(|group| counts[&group.root] * COMMON >= most).map(|group| group.top).collect()
}

/// How far apart stacks are: the first percentile of the distances of their tops. `None` where there are too few to tell.
fn stride(tops: &[Addr]) -> Option<u64> {
    const FEWEST: usize = 16;
    if tops.len() < FEWEST {
        return None;
    }
    let mut distances: Vec<u64> = tops.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 100).copied()
}

/// What is known when one chain of each group is chosen.
struct Choosing<'c> {
    chains: &'c Chains,
    sites: &'c Sites,
    calls: Calls<'c>,
    /// Of each group, sorted by their ends.
    extents: &'c [AddrRange],
    /// What lies below the contexts on their stacks, sorted.
    dead: &'c [AddrRange],
    threads: &'c Threads,
}

impl Choosing<'_> {
    fn choose_one(&self, group: &Group<'_>) -> Option<Choice> {
        let chains = &self.chains.chains;
        let held: Vec<(usize, Holder)> =
            group.chains.iter().map(|placed| (placed.chain, self.holder(group, placed.chain))).collect();
        let (best, holder) = held.iter().copied().reduce(|best, next| match self.compare(best, next) {
            Ordering::Greater => best,
            _ => next,
        })?;
        if self.origin(best) != Origin::Switch && holder <= Holder::SameStack {
            return None;
        }
        let held = held.iter().filter(|(_, holder)| *holder != Holder::None);
        let mut pointers: Vec<Addr> = held.map(|(index, _)| chains[*index].hypothesis.saved_sp).collect();
        pointers.sort_unstable();
        pointers.dedup();
        Some(Choice { chain: best, candidates: pointers.len(), holder })
    }

    /// Which of two chains of one stack rather is its context.
    fn compare(&self, (left, held_left): (usize, Holder), (right, held_right): (usize, Holder)) -> Ordering {
        let holders = (held_left, held_right);
        let by_origin = origin_rank(self.origin(left), holders.0).cmp(&origin_rank(self.origin(right), holders.1));
        let frames = |index: usize| self.chains.frames_of(&self.chains.chains[index]);
        let by_calls = || self.calls.judge(frames(left), frames(right));
        let lowest = |index: usize| Reverse(self.chains.chains[index].low());
        by_origin.then_with(by_calls).then((holders.0, lowest(left)).cmp(&(holders.1, lowest(right))))
    }

    fn origin(&self, index: usize) -> Origin {
        self.sites.sites[self.chains.chains[index].hypothesis.site as usize].origin
    }

    fn is_held_by_the_dead(&self, index: usize) -> bool {
        self.chains.chains[index].hypothesis.holder.is_some_and(|at| is_among(self.dead, at))
    }

    fn holder(&self, group: &Group<'_>, index: usize) -> Holder {
        let hypothesis = &self.chains.chains[index].hypothesis;
        let Some(at) = hypothesis.holder.filter(|at| !is_among(self.dead, *at)) else {
            let is_in = |registers: &[u64]| registers.binary_search(&hypothesis.saved_sp.0).is_ok();
            return match is_in(&self.threads.held) {
                true => Holder::Elsewhere,
                false if is_in(&self.threads.in_registers) => Holder::Register,
                false => Holder::None,
            };
        };
        // The functions of a stack's earlier use kept pointers shortly below its top.
        let low = group.extent.low.offset(-LEFTOVER);
        if AddrRange::new(low, group.extent.high).contains(at) {
            return Holder::SameStack;
        }
        // The stacks are sorted by their tops and rarely overlap.
        let next = self.extents.partition_point(|extent| extent.high <= at);
        match self.extents.get(next).is_some_and(|extent| extent.contains(at)) {
            true => Holder::OtherStack,
            false => Holder::Elsewhere,
        }
    }
}

/// Whether one of `ranges`, which are sorted, holds `at`.
pub(super) fn is_among(ranges: &[AddrRange], at: Addr) -> bool {
    let next = ranges.partition_point(|range| range.low <= at);
    next.checked_sub(1).is_some_and(|index| ranges[index].contains(at))
}

/// A switch that something points to is the best sign of a context, then a saved one, then a prepared one, then a
/// switch that nothing points to any more.
fn origin_rank(origin: Origin, holder: Holder) -> u8 {
    match (holder, origin) {
        (Holder::None, _) => 0,
        // It may be left from before.
        (Holder::Register, Origin::Switch) => 1,
        // A fresh stack holds nothing yet, so what points into it from there is left from an earlier use; and a block
        // that a function saved on its own stack is there for a jump on that stack, to handle an error.
        (Holder::Register | Holder::SameStack, Origin::Fresh | Origin::SavedOnly) => 0,
        (_, Origin::Fresh) => 1,
        (_, Origin::SavedOnly) => 2,
        (_, Origin::Switch) => 3,
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
