//! How much of its stacks a process at its end has ever used, of those that earlier looks found.
//!
//! At its end contexts are not searched for: threads that have ended leave what looks like some. The stacks that are
//! known still have their pages, which show how much of them was used since the last look.

use super::Looker;
use crate::addr::{AddrRange, EVERYTHING};
use crate::find::extent::peaks::{self, Traces};
use crate::process::Live;
use crate::snapshot::{Method, Peak};
use crate::unwind::Tables;

/// The peaks of `stacks`, each by the method by which it was known before.
pub(super) fn peaks(looker: &Looker, live: &Live, stacks: &[(AddrRange, Method)]) -> Vec<Option<Peak>> {
    let pages = live.mappings().ok().and_then(|mappings| live.pages(EVERYTHING, &mappings).ok());
    let Some(pages) = pages else { return vec![None; stacks.len()] };
    let (memory, tables) = (live.memory(), Tables::new(live.arch(), &looker.modules));
    let traces = Traces::new(&memory, &looker.modules, &tables);
    stacks.iter().map(|(range, method)| peaks::again(*range, *method, &pages, &traces)).collect()
}
