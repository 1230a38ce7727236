//! Finds places in memory that may hold a suspended context: a resume word, and an exact pointer to the saved stack
//! pointer that it implies.
//!
//! Pure: two passes over memory that was copied while the target stood still. A find is a hypothesis; whether it is a
//! context is for unwinding to confirm ([`super::chains`]) and for [`super::choose`] to decide.

use foldhash::HashMap;

use crate::addr::{Addr, AddrRange, Pc};
use crate::arch::X86_64;
use crate::find::descriptors::{Layout, Mangling, Place};
use crate::find::sites::{Origin, Site, Sites};
use crate::find::suspended::choose::is_among;
use crate::memory::{Memory, Nearby, Slices};
use crate::registers::Registers;
use crate::share;

/// More resume words than this in memory are not looked at: it bounds what a hostile target can make us do.
const MOST_HITS: usize = 1 << 22;

/// At most this many places that hold one saved stack pointer are kept.
const MOST_HOLDERS: usize = 8;

/// Fewer bytes than this are not worth a thread of their own.
const WORTH_A_THREAD: usize = 1 << 20;

/// What is searched.
#[derive(Clone, Copy)]
pub struct Scene<'a, M = Slices<'a>> {
    /// The writable memory that holds something.
    pub memory: &'a M,
    /// Parts of it that nobody uses: below the stack pointer of each thread, on its own stack. Sorted.
    pub dead: &'a [AddrRange],
    /// The thread pointer of any thread: the guard by which pointers are hidden is the same for all.
    pub thread_pointer: Option<u64>,
}

impl<'a> Scene<'a> {
    /// The same, for looking at places close together: `nearby` is of its memory.
    pub(super) fn through<'n>(&self, nearby: &'n Nearby<'n, 'a>) -> Scene<'n, Nearby<'n, 'a>>
    where
        'a: 'n,
    {
        Scene { memory: nearby, dead: self.dead, thread_pointer: self.thread_pointer }
    }
}

/// A context that may be suspended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hypothesis {
    /// The resume word: an index into [`Sites::sites`].
    pub site: u32,
    /// What was saved where: an index into [`Sites::layouts`].
    pub layout: u32,
    /// Where the resume word lies.
    pub word_at: Addr,
    /// The saved stack pointer.
    pub saved_sp: Addr,
    /// Where the program keeps it; `None` where no such place was found.
    pub holder: Option<Addr>,
    /// The start of the block that registers are saved in.
    pub block: Option<Addr>,
}

/// A resume word that was found.
#[derive(Clone, Copy)]
struct Hit {
    at: u64,
    site: u32,
}

/// What memory allows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hypotheses {
    /// Those that a block holds whole, and then the others; both by the address of the resume word.
    pub found: Vec<Hypothesis>,
    /// Whether the limit was reached, so that there may be more.
    pub cut: bool,
}

/// All hypotheses that memory allows.
pub fn hypotheses(scene: &Scene<'_>, sites: &Sites) -> Hypotheses {
    hypotheses_of(scene, sites, MOST_HITS)
}

/// The same where not more than `most` words are looked at.
fn hypotheses_of(scene: &Scene<'_>, sites: &Sites, most: usize) -> Hypotheses {
    if sites.sites.is_empty() {
        return Hypotheses::default();
    }
    let hits = Words::new(scene, sites).find(scene, most);
    let (hits, cut) = (hits.found, hits.cut);
    let (mut whole, mut saved_sps) = (Vec::new(), Vec::new());
    for implied in hits.iter().flat_map(|hit| all_implied(scene, sites, *hit)) {
        match implied {
            Implied::Whole(hypothesis) => whole.push(hypothesis),
            Implied::NeedsHolder(hypothesis) => saved_sps.extend(kept_as(sites, &hypothesis)),
        }
    }
    let holders = Holders::find(scene, saved_sps, most);
    // What a word implies is quicker worked out again than kept.
    let mut found = share::in_parts(&hits, |part| {
        let mut found = Vec::new();
        for implied in part.iter().flat_map(|hit| all_implied(scene, sites, *hit)) {
            if let Implied::NeedsHolder(hypothesis) = implied {
                let held = kept_as(sites, &hypothesis).flat_map(|value| holders.of(value));
                with_holders(scene, sites, hypothesis, held, &mut found);
            }
        }
        found
    });
    found.splice(0..0, whole);
    Hypotheses { found, cut: cut || holders.cut }
}

/// What a resume word at its place implies.
enum Implied {
    /// It lies in a block, which also holds the stack pointer.
    Whole(Hypothesis),
    /// It lies on the stack; somebody must hold the saved stack pointer.
    NeedsHolder(Hypothesis),
}

/// What a resume word implies by each of its layouts.
fn all_implied(scene: &Scene<'_>, sites: &Sites, hit: Hit) -> impl Iterator<Item = Implied> {
    let layouts = &sites.sites[hit.site as usize].layouts;
    layouts.iter().filter_map(move |layout| imply(scene, sites, hit, *layout))
}

fn imply(scene: &Scene<'_>, sites: &Sites, hit: Hit, index: u32) -> Option<Implied> {
    let site = &sites.sites[hit.site as usize];
    let layout = &sites.layouts[index as usize];
    let at = Addr(hit.at);
    let hypothesis =
        |saved_sp| Hypothesis { site: hit.site, layout: index, word_at: at, saved_sp, holder: None, block: None };
    match layout.resume_word {
        Place::Stack(offset) => Some(Implied::NeedsHolder(hypothesis(at.offset(-offset)))),
        // A fresh context has its start label where the first function will return to, unless the block has the label.
        Place::Block(_) if site.origin == Origin::Fresh && layout.stack_copy.is_some() => {
            Some(Implied::NeedsHolder(hypothesis(at)))
        }
        Place::Block(offset) => {
            let block = at.offset(-offset);
            let slot = block.offset(layout.sp_slot?);
            let kept = reveal(scene, layout.mangling, scene.memory.read_u64(slot).ok()?)?;
            let saved_sp = Addr(kept & !u64::from(layout.tags));
            let is_aligned = saved_sp.0.is_multiple_of(8) && scene.memory.knows(saved_sp.offset(-8));
            let copy = layout.stack_copy.map(|offset| scene.memory.read_u64(saved_sp.offset(offset)));
            let is_copied = copy.is_none_or(|copy| copy == Ok(site.word));
            (is_aligned && is_copied)
                .then(|| Implied::Whole(Hypothesis { holder: Some(slot), block: Some(block), ..hypothesis(saved_sp) }))
        }
    }
}

/// What a program may keep for the hypothesis's saved stack pointer: that, with each choice of the bits that it may have besides.
fn kept_as(sites: &Sites, hypothesis: &Hypothesis) -> impl Iterator<Item = u64> + use<> {
    let tags = sites.layouts[hypothesis.layout as usize].tags;
    let saved_sp = hypothesis.saved_sp.0;
    (0..=tags).filter(move |bits| bits & !tags == 0).map(move |bits| saved_sp | u64::from(bits))
}

/// Adds the hypothesis once for each place that holds its saved stack pointer and fits; without one where none does.
fn with_holders(
    scene: &Scene<'_>,
    sites: &Sites,
    hypothesis: Hypothesis,
    holders: impl Iterator<Item = (u64, u64)>,
    found: &mut Vec<Hypothesis>,
) {
    let layout = &sites.layouts[hypothesis.layout as usize];
    let site = &sites.sites[hypothesis.site as usize];
    let held = |(_, holder): &(u64, u64)| {
        let block = layout.sp_slot.map(|slot| Addr(*holder).offset(-slot));
        if let (Place::Block(pc_slot), Some(block)) = (layout.resume_word, block) {
            // A fresh block: the function to begin with stands in it.
            scene.memory.read_u64(block.offset(pc_slot)).ok().filter(|pc| *pc != 0)?;
        }
        Some(Hypothesis { holder: Some(Addr(*holder)), block, ..hypothesis.clone() })
    };
    let before = found.len();
    found.extend(holders.filter_map(|holder| held(&holder)));
    let may_be_unheld = site.origin == Origin::Switch && !site.is_vague && !layout.has_registers_in_block();
    if found.len() == before && may_be_unheld {
        found.push(hypothesis);
    }
}

fn reveal<M: Memory>(scene: &Scene<'_, M>, mangling: Option<Mangling>, word: u64) -> Option<u64> {
    match mangling {
        None => Some(word),
        Some(mangling) => Some(mangling.reveal(word, guard(scene, mangling)?)),
    }
}

fn guard<M: Memory>(scene: &Scene<'_, M>, mangling: Mangling) -> Option<u64> {
    scene.memory.read_u64(Addr(scene.thread_pointer?).offset(i64::from(mangling.guard))).ok()
}

/// The registers with which a context goes on.
pub fn registers<M: Memory>(scene: &Scene<'_, M>, sites: &Sites, hypothesis: &Hypothesis) -> Registers {
    let layout = &sites.layouts[hypothesis.layout as usize];
    let site = &sites.sites[hypothesis.site as usize];
    let mut registers = Registers::unknown();
    for (register, place) in &layout.registers {
        // `setjmp` hides the frame pointer like the stack pointer.
        let hidden = layout.mangling.filter(|_| *register == X86_64.fp);
        let value = place_of(hypothesis, *place).and_then(|at| reveal(scene, hidden, scene.memory.read_u64(at).ok()?));
        if let Some(value) = value {
            registers.set(*register, value);
        }
    }
    let after = if is_fresh_block(layout, site) { 0 } else { layout.sp_after };
    registers.set(X86_64.sp, hypothesis.saved_sp.offset(after).0);
    registers
}

/// Where execution goes on: at the site, or for a fresh block at the function that stands in it.
pub fn resumes_at<M: Memory>(scene: &Scene<'_, M>, sites: &Sites, hypothesis: &Hypothesis) -> Option<Pc> {
    let layout = &sites.layouts[hypothesis.layout as usize];
    let site = &sites.sites[hypothesis.site as usize];
    if !is_fresh_block(layout, site) {
        return Some(site.pc);
    }
    let pc = scene.memory.read_u64(place_of(hypothesis, layout.resume_word)?).ok()?;
    Some(Pc::At(Addr(pc)))
}

/// Whether a fresh context begins at its label, rather than at a function that a block names.
pub fn begins_at_label(sites: &Sites, hypothesis: &Hypothesis) -> bool {
    matches!(sites.layouts[hypothesis.layout as usize].resume_word, Place::Stack(_))
}

fn is_fresh_block(layout: &Layout, site: &Site) -> bool {
    site.origin == Origin::Fresh && matches!(layout.resume_word, Place::Block(_))
}

fn place_of(hypothesis: &Hypothesis, place: Place) -> Option<Addr> {
    match place {
        Place::Stack(offset) => Some(hypothesis.saved_sp.offset(offset)),
        Place::Block(offset) => Some(hypothesis.block?.offset(offset)),
    }
}

/// A set of words, asked for each word of memory: a bit for each of a million hashes first, then a table.
struct Words {
    filter: Filter,
    sites: HashMap<u64, Vec<u32>>,
}

impl Words {
    fn new(scene: &Scene<'_>, sites: &Sites) -> Words {
        let mut words: HashMap<u64, Vec<u32>> = HashMap::default();
        for (index, site) in sites.sites.iter().enumerate() {
            for layout in &site.layouts {
                let mangling = sites.layouts[*layout as usize].mangling;
                let word = match mangling {
                    None => Some(site.word),
                    Some(mangling) => guard(scene, mangling).map(|guard| mangling.hide(site.word, guard)),
                };
                let Some(word) = word else { continue };
                let known = words.entry(word).or_default();
                if !known.contains(&(index as u32)) {
                    known.push(index as u32);
                }
            }
        }
        Words { filter: Filter::of(20, words.keys().copied()), sites: words }
    }

    /// In the order of the addresses.
    fn find(&self, scene: &Scene<'_>, most: usize) -> Matches<Hit> {
        matches(scene, &self.filter, most, |at, word, hits| {
            let sites = self.sites.get(&word).map_or(&[][..], Vec::as_slice);
            hits.extend(sites.iter().map(|site| Hit { at, site: *site }));
        })
    }
}

/// Where each of a set of values is held.
struct Holders {
    /// Values and places, sorted.
    held: Vec<(u64, u64)>,
    /// Whether there may be more.
    cut: bool,
}

impl Holders {
    fn find(scene: &Scene<'_>, mut values: Vec<u64>, most: usize) -> Holders {
        values.sort_unstable();
        values.dedup();
        let filter = Filter::of(22, values.iter().copied());
        let Matches { found: mut held, cut } = matches(scene, &filter, most, |at, word, held| {
            if values.binary_search(&word).is_ok() {
                held.push((word, at));
            }
        });
        held.sort_unstable();
        Holders { held, cut }
    }

    /// The first of those that hold `value`.
    fn of(&self, value: u64) -> impl Iterator<Item = (u64, u64)> + use<'_> {
        let first = self.held.partition_point(|(held, _)| *held < value);
        let count = self.held[first..].iter().take(MOST_HOLDERS).take_while(|(held, _)| *held == value).count();
        self.held[first..first + count].iter().copied()
    }
}

/// A quick look whether a word may belong to a set.
struct Filter {
    bits: Vec<u64>,
    shift: u32,
    range: std::ops::RangeInclusive<u64>,
}

impl Filter {
    /// With 2 to the power of `size` bits. Zero is never let through: most of memory is.
    fn of(size: u32, words: impl Iterator<Item = u64> + Clone) -> Filter {
        let range = words.clone().min().unwrap_or(1).max(1)..=words.clone().max().unwrap_or(0);
        let mut filter = Filter { bits: vec![0; 1 << (size - 6)], shift: 64 - size, range };
        words.for_each(|word| filter.add(word));
        filter
    }

    fn place(&self, word: u64) -> usize {
        // The golden ratio's fraction: it spreads neighbouring addresses over all bits.
        (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    fn add(&mut self, word: u64) {
        let place = self.place(word);
        self.bits[place >> 6] |= 1 << (place & 63);
    }

    #[inline]
    fn may_have(&self, word: u64) -> bool {
        self.range.contains(&word) && {
            let place = self.place(word);
            self.bits[place >> 6] >> (place & 63) & 1 == 1
        }
    }
}

/// What was made of words.
struct Matches<T> {
    found: Vec<T>,
    /// Whether there may be more.
    cut: bool,
}

/// What `visit` makes of each aligned word that `filter` lets through, and that lies in no dead part, in the order of the
/// addresses, until that is about `most`. The work is shared by as many threads as help.
fn matches<T: Send>(
    scene: &Scene<'_>,
    filter: &Filter,
    most: usize,
    visit: impl Fn(u64, u64, &mut Vec<T>) + Sync,
) -> Matches<T> {
    let bytes: usize = scene.memory.iter().map(|(_, bytes)| bytes.len()).sum();
    let shares = scene.memory.shared_out(share::threads(bytes, WORTH_A_THREAD));
    let dead = scene.dead;
    let most = most / shares.len();
    let found = share::among(shares, |pieces| {
        let (mut found, mut cut) = (Vec::new(), false);
        for (start, bytes) in pieces {
            // Pieces are whole words.
            for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let word = u64::from_le_bytes(*word);
                let at = start.0 + 8 * index as u64;
                if !filter.may_have(word) || is_among(dead, Addr(at)) {
                    continue;
                }
                if found.len() >= most {
                    cut = true;
                    break;
                }
                visit(at, word, &mut found);
            }
        }
        (found, cut)
    });
    let (found, cut): (Vec<Vec<T>>, Vec<bool>) = found.into_iter().unzip();
    Matches { found: share::joined(found), cut: cut.contains(&true) }
}

#[cfg(test)]
#[path = "contexts_tests.rs"]
mod tests;
