//! The way that what was raised took: which frames were searched, which cleaned up, and where it stopped.
//!
//! At the start of a raise each frame's tables say what the frame will do ([`super::lsda`]); at the first landing the
//! exception object says which frame the unwinder has chosen. From both follows the route. If something is raised again
//! after it was caught, the frames that are still there are those with the same canonical frame address.

use super::lsda::{Handling, handling};
use super::{Language, Raised};
use crate::addr::Addr;
use crate::memory::Memory;
use crate::snapshot::Snapshot;
use crate::unwind::Tables;

/// What became of what was raised. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Somebody caught it.
    Caught,
    /// It ended the process at once.
    Abort,
    /// It ended what it was raised in: the thread, or the program by its own exit.
    Exit,
    /// A signal ended the process.
    Killed,
}

/// How the search for a handler ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Landing {
    /// A frame catches it.
    Caught,
    /// A frame lets nothing pass: in Rust an `extern "C"` function or a drop during unwinding, in C++ `noexcept`.
    MayNotPass,
    /// No frame catches it.
    Nobody,
}

/// What was done with a frame. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Did {
    /// It was asked for a handler, and left as it was.
    Searched,
    /// It was asked for a handler, and cleaned up.
    CleanedUp,
    /// The unwinding ended here.
    Stopped,
    /// The unwinding did not come so far.
    NotReached,
}

/// How the unwinding came from one stack to another. The words are those of the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The rules of the frames lead there.
    Cfi,
    /// It was caught on the one, and raised again on the other.
    Reraise,
}

/// A step of a route, outwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A frame of the event's backtrace.
    Frame {
        /// The stack: an index into those of the event's snapshot.
        stack: usize,
        /// The frame: an index into those of the stack.
        frame: usize,
        /// What was done with it.
        did: Did,
    },
    /// From one stack to another, both indices into those of the event's snapshot.
    Crossing {
        /// Where it came from.
        from: usize,
        /// Where it went.
        to: usize,
        /// How.
        by: By,
    },
}

/// The way that what was raised took, from the innermost frame on. Empty if it is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// Its steps.
    pub steps: Vec<Step>,
}

/// The frames of one raise, and what each does with what passes.
#[derive(Clone, Debug)]
pub(crate) struct Raise {
    /// Innermost first, without the unwinder's own.
    frames: Vec<Passed>,
    language: Language,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    stack: usize,
    frame: usize,
    key: Option<Key>,
    /// Its stack pointer at the call through which the exception comes: the canonical frame address of what it called.
    sp: Option<Addr>,
    handling: Option<Handling>,
}

/// What stays of a frame as long as it is there: its canonical frame address, and where its function begins. The
/// address alone may be that of another stack's frame as well: of a trampoline that leads to it.
pub(crate) type Key = (Addr, Addr);

/// One raise, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    passed: Vec<(Key, Did)>,
    pub(crate) landing: Landing,
}

impl Raise {
    /// The frames of a raise of `raised`, whose stitched backtrace begins at `stack`.
    pub(crate) fn of(
        raised: &Raised,
        snapshot: &Snapshot,
        stack: usize,
        tables: &Tables<'_>,
        memory: &dyn Memory,
    ) -> Raise {
        let mut frames: Vec<Passed> = Vec::new();
        let mut sp = None;
        for id in snapshot.stitched(stack) {
            let of_stack = snapshot.stacks.get(id).map_or(&[][..], |stack| &stack.frames);
            for (number, frame) in of_stack.iter().enumerate() {
                let exceptions = tables.exceptions(frame.frame.pc.lookup());
                let handling = exceptions.map(|exceptions| match exceptions.table {
                    Some(table) => handling(memory, table, exceptions.start, frame.frame.pc.lookup()),
                    None => Some(Handling::default()),
                });
                let start = exceptions.map_or(frame.frame.pc.lookup(), |exceptions| exceptions.start);
                let key = frame.frame.cfa.map(|cfa| (cfa, start));
                frames.push(Passed { stack: id, frame: number, key, sp, handling: handling.flatten() });
                sp = frame.frame.cfa;
            }
        }
        // The unwinder's own.
        if !frames.is_empty() {
            frames.remove(0);
        }
        Raise { frames, language: raised.language }
    }

    /// Where the unwinder has chosen to stop: in the frame whose stack pointer it noted.
    pub(crate) fn landed_at(&self, noted: Addr) -> Option<Leg> {
        let stop = self.frames.iter().position(|passed| passed.sp == Some(noted))?;
        Some(self.stopped_in(stop))
    }

    /// Where it stops by what the frames' tables say; `None` if that depends on types.
    pub(crate) fn lands_by_tables(&self) -> Option<Leg> {
        let stops = |passed: &Passed| passed.handling.is_some_and(|handling| handling.catches || is_end(handling));
        let stop = self.frames.iter().position(stops)?;
        (self.language == Language::Rust).then(|| self.stopped_in(stop))
    }

    /// Nobody catches it: all frames were searched.
    pub(crate) fn lands_nowhere(&self) -> Leg {
        let passed = self.frames.iter().filter_map(|passed| Some((passed.key?, Did::Searched))).collect();
        Leg { passed, landing: Landing::Nobody }
    }

    /// All frames that have something to clean up did: nothing is searched for in a forced unwinding.
    pub(crate) fn forced(&self) -> Leg {
        let passed = self.frames.iter().filter_map(|passed| Some((passed.key?, passed.did()))).collect();
        Leg { passed, landing: Landing::Nobody }
    }

    /// How this raise can be of what `first` raised and `leg` caught.
    pub(crate) fn relation(&self, first: &Raise, leg: &Leg) -> Relation {
        let place = |key: Option<Key>| first.frames.iter().position(|passed| key.is_some() && passed.key == key);
        let innermost = self.frames.iter().find_map(|passed| place(passed.key));
        match innermost.zip(leg.stop().and_then(|stop| place(Some(stop)))) {
            None => Relation::Apart,
            Some((innermost, stop)) if innermost >= stop => Relation::GoesOn,
            Some(_) => Relation::Within,
        }
    }

    /// Adds the frames of a raise whose stacks come after `stacks` others in the event's snapshot.
    pub(crate) fn go_on_with(&mut self, other: &Raise, stacks: usize) {
        self.frames.extend(other.frames.iter().map(|passed| Passed { stack: passed.stack + stacks, ..*passed }));
    }

    /// The frame in whose clean-up this raise happens, if `leg` cleans up any that is still there.
    pub(crate) fn cleaned_frame(&self, leg: &Leg) -> Option<Key> {
        let keys = self.frames.iter().filter_map(|passed| passed.key);
        keys.into_iter().find(|key| leg.did(Some(*key)) == Some(Did::CleanedUp))
    }

    fn stopped_in(&self, stop: usize) -> Leg {
        let before = self.frames[..stop].iter().filter_map(|passed| Some((passed.key?, passed.did())));
        let last = self.frames.get(stop);
        let at = last.and_then(|passed| Some((passed.key?, Did::Stopped)));
        let is_end = last.and_then(|passed| passed.handling).is_some_and(is_end);
        Leg { passed: before.chain(at).collect(), landing: if is_end { Landing::MayNotPass } else { Landing::Caught } }
    }
}

impl Passed {
    fn did(&self) -> Did {
        if self.handling.is_some_and(|handling| handling.cleans_up) { Did::CleanedUp } else { Did::Searched }
    }
}

/// Whether a frame with this handling ends the program.
fn is_end(handling: Handling) -> bool {
    handling.forbids || handling.filters && !handling.catches
}

/// How a raise relates to one that was caught before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relation {
    /// The frame that caught it raises it again, or one outside.
    GoesOn,
    /// It comes from inside the frame that caught the other: it is something else.
    Within,
    /// They have no frame in common.
    Apart,
}

impl Leg {
    /// The same if it came no further than to this frame.
    pub(crate) fn cut_at(&self, key: Key) -> Leg {
        let place = self.passed.iter().position(|(of, _)| *of == key);
        let passed = place.and_then(|place| self.passed.get(..=place)).unwrap_or(&[]).to_vec();
        Leg { passed, landing: Landing::MayNotPass }
    }

    fn did(&self, key: Option<Key>) -> Option<Did> {
        self.passed.iter().find(|(of, _)| Some(*of) == key).map(|(_, did)| *did)
    }

    fn stop(&self) -> Option<Key> {
        self.passed.iter().find(|(_, did)| *did == Did::Stopped).map(|(key, _)| *key)
    }
}

impl Route {
    /// The frame in which it stopped at last: indices of the stack and of the frame on it.
    pub fn stopped_in(&self) -> Option<(usize, usize)> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Frame { stack, frame, did: Did::Stopped } => Some((*stack, *frame)),
            _ => None,
        })
    }

    /// The route of what was raised first as `first`, and took these legs one after the other.
    pub(crate) fn of(first: &Raise, legs: &[Leg]) -> Route {
        let done = |passed: &Passed| legs.iter().enumerate().find_map(|(leg, way)| Some((leg, way.did(passed.key)?)));
        let mut steps = Vec::new();
        // The stack and the leg of the last frame that was reached.
        let mut before: Option<(usize, usize)> = None;
        let of_stacks = first.frames.chunk_by(|a, b| a.stack == b.stack);
        for frames in of_stacks {
            let reached = frames.iter().find_map(|passed| Some((passed.stack, done(passed)?.0)));
            if let Some(((from, former), (to, leg))) = before.zip(reached) {
                let by = if leg == former { By::Cfi } else { By::Reraise };
                steps.push(Step::Crossing { from, to, by });
            }
            for passed in frames {
                let (leg, did) = done(passed).map_or((None, Did::NotReached), |(leg, did)| (Some(leg), did));
                before = leg.map(|leg| (passed.stack, leg)).or(before);
                steps.push(Step::Frame { stack: passed.stack, frame: passed.frame, did });
            }
        }
        Route { steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A raise through frames on these stacks, each of which does this with what passes.
    fn raise(frames: &[(usize, Handling)]) -> Raise {
        let passed = |(number, (stack, handling)): (usize, &(usize, Handling))| {
            let cfa = Addr(0x1000 + 0x100 * number as u64);
            Passed {
                stack: *stack,
                frame: number,
                key: Some((cfa, Addr(0x40_0000))),
                sp: Some(cfa.offset(-0x100)),
                handling: Some(*handling),
            }
        };
        Raise { frames: frames.iter().enumerate().map(passed).collect(), language: Language::Rust }
    }

    const NONE: Handling = Handling { cleans_up: false, catches: false, filters: false, forbids: false };
    const DROPS: Handling = Handling { cleans_up: true, ..NONE };
    const CATCHES: Handling = Handling { catches: true, ..NONE };
    const ENDS: Handling = Handling { filters: true, ..NONE };

    fn steps(route: &Route) -> String {
        let step = |step: &Step| match step {
            Step::Frame { did: Did::Searched, .. } => "s".to_owned(),
            Step::Frame { did: Did::CleanedUp, .. } => "c".to_owned(),
            Step::Frame { did: Did::Stopped, .. } => "S".to_owned(),
            Step::Frame { did: Did::NotReached, .. } => "-".to_owned(),
            Step::Crossing { from, to, by: By::Cfi } => format!(" {from}={to} "),
            Step::Crossing { from, to, by: By::Reraise } => format!(" {from}>{to} "),
        };
        route.steps.iter().map(step).collect()
    }

    #[test]
    fn the_noted_frame_is_where_it_stops() {
        let raise = raise(&[(0, NONE), (0, DROPS), (0, CATCHES), (0, CATCHES), (0, DROPS)]);
        let noted = raise.landed_at(Addr(0x1200)).unwrap();
        assert_eq!(
            (steps(&Route::of(&raise, std::slice::from_ref(&noted))).as_str(), noted.landing),
            ("scsS-", Landing::Caught)
        );
        let by_tables = raise.lands_by_tables().unwrap();
        assert_eq!(steps(&Route::of(&raise, &[by_tables])), "scS--");
        assert!(raise.landed_at(Addr(0x1210)).is_none(), "no frame has this stack pointer");
        assert_eq!(steps(&Route::of(&raise, &[raise.lands_nowhere()])), "sssss");
        assert_eq!(steps(&Route::of(&raise, &[])), "-----");
    }

    #[test]
    fn a_frame_that_lets_nothing_pass_ends_it() {
        let raise = raise(&[(0, DROPS), (0, ENDS)]);
        assert_eq!(raise.lands_by_tables().unwrap().landing, Landing::MayNotPass);
    }

    #[test]
    fn crossings_say_how_they_came_about() {
        let first = raise(&[(0, DROPS), (0, CATCHES), (0, NONE), (1, NONE), (1, DROPS), (2, DROPS), (2, CATCHES)]);
        let leg = first.lands_by_tables().unwrap();
        let mut again = first.clone();
        again.frames.drain(..4);
        assert_eq!(again.relation(&first, &leg), Relation::GoesOn);
        let legs = [leg, again.lands_by_tables().unwrap()];
        assert_eq!(steps(&Route::of(&first, &legs)), "cS- 0>1 -c 1=2 cS");
    }

    #[test]
    fn what_comes_from_within_is_something_else() {
        let first = raise(&[(0, DROPS), (0, DROPS), (0, CATCHES)]);
        let leg = first.lands_by_tables().unwrap();
        let mut within = first.clone();
        within.frames.remove(0);
        assert_eq!(within.relation(&first, &leg), Relation::Within);
        let frame = within.cleaned_frame(&leg).unwrap();
        assert_eq!(steps(&Route::of(&first, &[leg.cut_at(frame)])), "cc-");
        let mut apart = raise(&[(0, DROPS)]);
        apart.frames[0].key = Some((Addr(0x1000), Addr(0x50_0000)));
        assert_eq!(apart.relation(&first, &leg), Relation::Apart, "another function's frame has the same address");
        assert_eq!(apart.cleaned_frame(&leg), None);
    }
}
