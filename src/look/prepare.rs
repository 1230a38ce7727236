//! All that can be done before a program is stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use super::Wish;
use crate::addr::EVERYTHING;
use crate::find::sites::{Derived, Sites, sites as sites_of};
use crate::find::suspended::search::worth_a_look;
use crate::image::Modules;
use crate::process::{KnownMap, Live, TouchedCopy};
use crate::share;
use crate::unwind::Tables;

/// Room of at most this many bytes is made ready for a copy only once a copy is certain: most programs have no more,
/// and no coroutines.
const LITTLE_ROOM: u64 = 8 << 20;

/// What was made ready for a stop.
pub(super) struct Prepared {
    pub(super) sites: Sites,
    /// `None` if nothing is to be copied.
    pub(super) copy: Option<TouchedCopy>,
    pub(super) map: KnownMap,
}

/// Reads the code for what a suspended context looks like, makes room for a copy of the memory to search, and
/// brings the map that is known up to date.
///
/// The room takes about as long as the rest, so it has a thread of its own, unless it is small; if the code switches
/// no stacks, the only copy is one that is to be kept.
pub(super) fn prepare(
    live: &Live,
    known: &KnownMap,
    modules: &Modules,
    tables: &Tables<'_>,
    derived: &mut Derived,
    wish: Wish,
) -> Prepared {
    if !wish.contexts.are_searched() {
        return Prepared { sites: Sites::default(), copy: None, map: live.known_map_after(known) };
    }
    let given_up = &AtomicBool::new(false);
    let (say, said) = mpsc::channel();
    let said = Mutex::new(said);
    let room = || {
        let pages = live.pages(EVERYTHING, known.mappings()).ok()?;
        let is_wanted = TouchedCopy::bytes_for(&pages) > LITTLE_ROOM || said.lock().ok()?.recv().unwrap_or(false);
        is_wanted.then(|| TouchedCopy::with_room_for(&pages, &live.memory(), given_up))
    };
    let others = move || {
        let sites = sites_of(modules, tables, &live.memory(), derived);
        let is_worth_it = wish.keeps_all || worth_a_look(&sites);
        given_up.store(!is_worth_it, Ordering::Relaxed);
        // Nobody listens if there is more to copy.
        let _ = say.send(is_worth_it);
        (sites, is_worth_it, live.known_map_after(known))
    };
    let (copy, (sites, is_worth_it, map)) = share::both(room, others);
    Prepared { sites, copy: copy.filter(|_| is_worth_it), map }
}
