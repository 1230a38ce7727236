//! Recognizes switches whose saved stack pointers are kept in a way that is not understood: as a distance, or hidden.
//!
//! Nothing points to what left by such a switch, so the contexts can't be told from what they left behind earlier. The
//! evidence is what many stacks hold: a context that has ended is not pointed to either, but such ones all stand where
//! their functions end, while these wait at different places.

use foldhash::{HashMap, HashSet};

use super::chains::Chains;
use super::choose::{Choice, Holder};
use crate::addr::{Addr, Pc};
use crate::find::sites::{Origin, Sites};
use crate::image::Modules;
use crate::snapshot::{BlindSpot, BlindSpotKind};

/// Fewer stacks than this are no evidence.
const FEWEST: usize = 8;
/// So are stacks that stand at fewer places than this.
const FEWEST_PLACES: usize = 4;
/// By chance something may point to some of them: to one of this many.
const HELD_BY_CHANCE: usize = 4;

/// What left by one kind of switch.
#[derive(Default)]
struct Left<'c> {
    held: usize,
    unheld: usize,
    /// Where execution goes on in those that nothing points to, frame by frame.
    places: HashSet<Vec<Pc>>,
    /// One of its resume words.
    word: Option<&'c u64>,
}

/// The layouts of switches whose contexts nothing points to, and a blind spot for each.
pub(super) fn not_understood(
    chains: &Chains,
    sites: &Sites,
    choices: &[Choice],
    modules: &Modules,
) -> (HashSet<u32>, Vec<BlindSpot>) {
    let mut by_layout: HashMap<u32, Left<'_>> = HashMap::default();
    for choice in choices {
        let chain = &chains.chains[choice.chain];
        let site = &sites.sites[chain.hypothesis.site as usize];
        if site.origin != Origin::Switch || site.is_vague {
            continue;
        }
        let left = by_layout.entry(chain.hypothesis.layout).or_default();
        if choice.holder != Holder::None {
            left.held += 1;
            continue;
        }
        left.unheld += 1;
        left.word = Some(&site.word);
        if left.places.len() < FEWEST_PLACES {
            left.places.insert(chains.frames_of(chain).iter().map(|frame| frame.pc).collect());
        }
    }
    by_layout.retain(|_, left| {
        let is_rarely_held = left.held.saturating_mul(HELD_BY_CHANCE) <= left.unheld;
        left.unheld >= FEWEST && left.places.len() >= FEWEST_PLACES && is_rarely_held
    });
    let mut spots: Vec<BlindSpot> = by_layout.values().map(|left| blind_spot(left, modules)).collect();
    spots.sort_by_key(|spot| spot.address);
    (by_layout.into_keys().collect(), spots)
}

fn blind_spot(left: &Left<'_>, modules: &Modules) -> BlindSpot {
    let address = left.word.map(|word| Addr(*word));
    BlindSpot {
        kind: BlindSpotKind::SwitchNotUnderstood,
        module: address.and_then(|address| modules.find(address)).map(|module| module.name.clone()),
        address,
        bytes: None,
        count: Some(left.unheld as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::suspended::chains::{Chain, Root};
    use crate::find::suspended::contexts::Hypothesis;
    use crate::find::testing::{HEAP, STACK, held_on_stack, sites};
    use crate::unwind::{Ended, FoundBy, Frame};

    /// How many are not understood, where each of these stacks stands at a place and is pointed to or not.
    fn count(stacks: &[(u64, bool)]) -> Option<u64> {
        let (mut chains, mut frames, mut choices) = (Chains::default(), Vec::new(), Vec::new());
        for (index, (place, is_held)) in stacks.iter().enumerate() {
            let sp = Addr(STACK + 0x4000 * index as u64);
            let pc = Pc::After(Addr(0x10_0000 + place));
            frames.push(Frame { pc, cfa: Some(sp.offset(64)), found_by: FoundBy::Cfi, signal: false });
            let holder = is_held.then_some(Addr(HEAP));
            chains.chains.push(Chain {
                hypothesis: Hypothesis { site: 0, layout: 0, word_at: sp, saved_sp: sp, holder, block: None },
                sp,
                frames: index..index + 1,
                list: 0,
                segments: Vec::new(),
                root: Root::Marked,
                top: sp.offset(64),
                ended: Ended::Root,
            });
            let holder = if *is_held { Holder::Elsewhere } else { Holder::None };
            choices.push(Choice { chain: index, candidates: usize::from(*is_held), holder });
        }
        chains.frames.push(frames);
        let sites = sites(Origin::Switch, held_on_stack());
        let (layouts, spots) = not_understood(&chains, &sites, &choices, &Modules::default());
        assert_eq!(layouts.len(), spots.len());
        spots.first().and_then(|spot| spot.count)
    }

    #[test]
    fn many_stacks_that_wait_at_different_places_and_that_nothing_points_to_are_evidence() {
        let unheld: Vec<_> = (0..20).map(|index| (index % 5, false)).collect();
        assert_eq!(count(&unheld), Some(20));
        assert_eq!(count(&[&unheld[..], &[(7, true); 5]].concat()), Some(20), "held by chance");
    }

    #[test]
    fn what_has_ended_is_none() {
        let ended = vec![(1, false); 100];
        assert_eq!(count(&ended), None, "all stand at one place");
        let some: Vec<_> = (0..7).map(|place| (place, false)).collect();
        assert_eq!(count(&some), None, "few");
        let live: Vec<_> = (0..20).map(|index| (index % 5, false)).chain((0..6).map(|place| (place, true))).collect();
        assert_eq!(count(&live), None, "others of the kind are held");
    }
}
