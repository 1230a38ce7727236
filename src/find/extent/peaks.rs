//! How much of each stack was ever used: the one place where peaks are told.
//!
//! You give a stack's bounds, its stack pointer, and which pages were touched; you get a [`Peak`]. A touched page alone
//! is no depth: runtimes touch a stack's far end to have all of it, or write marks and patterns there. What was used
//! reaches down
//! - as far as touched pages join what is in use now, but for a fill from the stack's low end on: one word repeated over
//!   whole pages, as paint and memory that was mapped in at once are;
//! - over a hole that is no longer than a frame's buffer may be ([`LONGEST_BUFFER`]), unless what lies below it goes down
//!   to the stack's end;
//! - over any hole, to where calls left return addresses: words that point just after a call instruction of some module.
//!
//! Everything else that was touched is named in [`Peak::apart`], and not counted. Of stacks that the program says it
//! painted, the lowest word that differs from the paint is the peak, to the word.
//!
//! True to a page and at most too high: a pool's earlier tenants and huge pages count as well. The page that a stack
//! begins within says nothing, since it is its neighbour's too.

use std::cell::Cell;

use super::bounds;
use crate::addr::{Addr, AddrRange, PAGE};
use crate::find::ground::Ground;
use crate::image::Modules;
use crate::mapping::mapping_at;
use crate::memory::Memory;
use crate::process::{PageState, Pages};
use crate::snapshot::{Apart, Bounds, BoundsFrom, Guard, Method, Peak, Stack};
use crate::unwind::Tables;

/// A function may keep a buffer of this many bytes, write to its lowest ones alone, and call nothing. What lies below a
/// longer hole has to prove itself.
const LONGEST_BUFFER: u64 = 64 << 10;

/// The source, as a roster names it, of stacks that are filled with one byte before they are used.
const PAINTED: &str = "painted";

/// Return addresses are searched for in this much of a run of touched pages, from its high end on: a call over a hole
/// leaves one right below it.
const MOST_SEARCHED: u64 = 256 << 10;

/// No more than this is read in one look to tell fills and what calls left, in bytes.
const MOST_READ: u64 = 64 << 20;

/// Memory is read in parts of this many bytes.
const PART: usize = 4096;

const WORD: u64 = 8;

/// What a stack's memory says beside which of its pages were touched.
pub(crate) struct Traces<'t> {
    memory: &'t dyn Memory,
    modules: &'t Modules,
    tables: &'t Tables<'t>,
    /// How many bytes may still be read.
    left: Cell<u64>,
}

/// Tells the peaks of all stacks, whose bounds are known by now.
pub(crate) fn measure(stacks: &mut [Stack], ground: &Ground<'_>, traces: &Traces<'_>) {
    for stack in stacks {
        let painted = stack.bounds.from == BoundsFrom::Registered && stack.source.as_deref() == Some(PAINTED);
        let exact = if painted { stack.bounds.range().and_then(|range| unpainted(range, traces.memory)) } else { None };
        stack.peak = exact.or_else(|| {
            // Other processes may have touched the pages of memory that they share.
            if stack.sp.and_then(|sp| mapping_at(ground.mappings, sp)).is_some_and(|mapping| mapping.shared) {
                return None;
            }
            let around = || Some(bounds::page_window(bounds::home(stack.sp?, ground.mappings), ground.mappings));
            let pages = (ground.pages)(stack.bounds.range().or_else(around)?).ok()?;
            by_pages(&stack.bounds, stack.sp, &pages, traces)
        });
    }
}

/// The peak of a stack that an earlier look found in `range`, told by the same method as then; `None` where that tells
/// nothing any more.
pub(crate) fn again(range: AddrRange, method: Method, pages: &Pages, traces: &Traces<'_>) -> Option<Peak> {
    match method {
        Method::Exact => unpainted(range, traces.memory),
        Method::Pages => {
            let bounds = Bounds::of(range, BoundsFrom::Inferred, Guard::Unknown);
            by_pages(&bounds, None, &pages.within(range), traces)
        }
        Method::Sampled => None,
    }
}

/// The peak of one stack by its touched pages; `None` where none was seen. A stack whose low end is unknown is looked at
/// as far down as `pages` go.
fn by_pages(bounds: &Bounds, sp: Option<Addr>, pages: &Pages, content: &impl Content) -> Option<Peak> {
    let whole = AddrRange::new(bounds.low.unwrap_or_default().align_up(PAGE), bounds.high?);
    let touched = pages.runs.iter().filter(|run| run.state == PageState::Touched);
    let touched: Vec<AddrRange> = touched.filter_map(|run| run.range.intersection(whole)).collect();
    let sp = sp.filter(|sp| whole.contains(*sp)).unwrap_or(whole.high);
    let mut lowest = sp;
    let mut apart: Option<Apart> = None;
    for run in touched.iter().rev().filter(|run| run.low < sp) {
        let is_far_end = run.low == whole.low;
        let Some(run) = (if is_far_end { content.without_fill(*run) } else { Some(*run) }) else { continue };
        let hole = lowest.align_down(PAGE).0.saturating_sub(run.high.0);
        let joins = hole == 0 || hole <= LONGEST_BUFFER && !is_far_end;
        if joins || content.left_by_calls(run) {
            (lowest, apart) = (run.low, None);
        } else {
            let pages = apart.map_or(0, |apart| apart.pages) + run.len().div_ceil(PAGE);
            apart = Some(Apart { bytes: whole.high.0 - run.low.0, pages });
        }
    }
    (!touched.is_empty()).then(|| Peak { apart, ..Peak::by_pages(whole.high.0 - lowest.0) })
}

/// What the memory of touched pages holds.
trait Content {
    /// A run of touched pages at a stack's far end without the pages, from the low end on, that hold one word repeated:
    /// what is left; `None` where nothing is.
    fn without_fill(&self, run: AddrRange) -> Option<AddrRange>;

    /// Whether calls were made on these pages, and left their return addresses there.
    fn left_by_calls(&self, run: AddrRange) -> bool;
}

impl<'t> Traces<'t> {
    /// What `memory` says; return addresses lead to the code of `modules`, which `tables` describe.
    pub(crate) fn new(memory: &'t dyn Memory, modules: &'t Modules, tables: &'t Tables<'t>) -> Traces<'t> {
        Traces { memory, modules, tables, left: Cell::new(MOST_READ) }
    }

    /// Whether `length` more bytes may be read.
    fn may_read(&self, length: u64) -> bool {
        let left = self.left.get().checked_sub(length);
        self.left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Whether `word` is what a call pushes: it points just after a call, and not to where a function begins.
    fn is_return_address(&self, word: u64) -> bool {
        let arch = self.tables.arch();
        let at = arch.strip(Addr(word));
        let mut code = [0; 16];
        let Some(before) = code.get_mut(..arch.longest_call) else { return false };
        self.modules.find(at.offset(-1)).is_some()
            && self.modules.code(at.offset(-(before.len() as i64)), before)
            && (arch.ends_with_call)(before)
            && self.tables.function_start(at) != Some(at)
    }
}

impl Content for Traces<'_> {
    fn without_fill(&self, run: AddrRange) -> Option<AddrRange> {
        let read = |at: Addr, into: &mut [u8]| self.may_read(into.len() as u64) && self.memory.read(at, into).is_ok();
        let Some((_, unlike)) = lowest_unlike(run, read) else { return Some(run) };
        // Less than a page is not filled, but written to.
        unlike.map(|unlike| AddrRange::new(unlike.align_down(PAGE).max(run.low), run.high))
    }

    fn left_by_calls(&self, run: AddrRange) -> bool {
        let lowest = run.low.max(run.high.offset(-(MOST_SEARCHED as i64)));
        let mut high = run.high;
        let mut part = [0; PART];
        while high > lowest {
            let low = lowest.max(high.offset(-1).align_down(PAGE));
            let Some(part) = part.get_mut(..(high.0 - low.0) as usize) else { return false };
            if !self.may_read(part.len() as u64) || self.memory.read(low, part).is_err() {
                return false;
            }
            if words(part).any(|word| word != 0 && self.is_return_address(word)) {
                return true;
            }
            high = low;
        }
        false
    }
}

/// How many bytes of a painted stack were ever written: from the lowest word that differs from its paint, which is one
/// byte repeated.
fn unpainted(range: AddrRange, memory: &dyn Memory) -> Option<Peak> {
    let (paint, unlike) = lowest_unlike(range, |at, into| memory.read(at, into).is_ok())?;
    let byte = paint.to_le_bytes()[0];
    let is_paint = byte != 0 && paint == u64::from_le_bytes([byte; 8]);
    let bytes = unlike.map_or(0, |unlike| range.high.0 - unlike.0);
    is_paint.then_some(Peak { bytes, method: Method::Exact, apart: None })
}

/// The second word of `range`, and the lowest after it that differs from it; in the first word there may be a canary.
/// `None` where some of it can't be read.
fn lowest_unlike(range: AddrRange, read: impl Fn(Addr, &mut [u8]) -> bool) -> Option<(u64, Option<Addr>)> {
    let mut at = range.low.align_up(WORD).offset(WORD as i64);
    let mut fill = None;
    let mut part = [0; PART];
    while at < range.high {
        let end = range.high.min(at.offset(1).align_up(PART as u64));
        let part = part.get_mut(..((end.0 - at.0) / WORD * WORD) as usize)?;
        if part.is_empty() {
            break;
        }
        if !read(at, part) {
            return None;
        }
        let fill = *fill.get_or_insert(words(part).next()?);
        if let Some(index) = words(part).position(|word| word != fill) {
            return Some((fill, Some(at.offset(index as i64 * WORD as i64))));
        }
        at = end;
    }
    Some((fill?, None))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(WORD as usize).filter_map(|word| word.first_chunk().copied()).map(u64::from_le_bytes)
}

#[cfg(test)]
#[path = "peaks_tests.rs"]
mod tests;
