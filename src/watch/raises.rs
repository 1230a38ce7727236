//! What is raised in a followed program: each raise is looked at as it begins, and again where it lands.
//!
//! As soon as a program's libraries are mapped, its threads are made to stop where its unwinders begin
//! ([`crate::events`] knows where). A raise becomes an event at once; what became of it is added later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::events::{Event, EventKind, Ledger, Reason, Sight};
use super::usage::Usage;
use crate::addr::{Addr, PAGE};
use crate::events::{
    self, Fate, Key, Landing, Language, Leg, Origin, Raise, Raised, Relation, Route, Unwinders, loads_more,
};
use crate::image::names::Lines;
use crate::look::{Looker, Wish};
use crate::memory::Memory;
use crate::process::{CodeWatch, Live, Reached, Signalled};
use crate::registers::Register;
use crate::unwind::Tables;

/// The register of the first argument (System V ABI for x86-64, figure 3.4), by its DWARF number.
const ARGUMENT: Register = Register(5);
/// `private_2` of `_Unwind_Exception`: where the unwinder notes which frame it will stop in.
const NOTED: i64 = 24;
/// How many of those that were caught may be raised again.
const MOST_CAUGHT: usize = 64;
/// What is said of an unwinding that nobody is to catch.
const FORCED: &str = "a stack is unwound to its end";

/// What is known of raises.
#[derive(Default)]
pub(super) struct Raises {
    /// By process, where its unwinders are.
    unwinders: HashMap<i32, Unwinders>,
    /// By thread, what it raises now, the last one last: a clean-up may raise as well.
    open: HashMap<i32, Vec<Open>>,
    /// What was caught, the latest last.
    caught: VecDeque<Open>,
    /// By thread, the payloads of what ends its process.
    ending: HashMap<i32, Vec<Addr>>,
    /// How many more there were, which were only counted.
    pub(super) counted: u64,
}

/// Where something is raised, and where that is written down.
pub(super) struct Scene<'s> {
    pub(super) live: &'s Live,
    pub(super) looker: &'s mut Looker,
    pub(super) usage: &'s mut Usage,
    pub(super) ledger: &'s mut Ledger,
    /// When, from the start of the watch.
    pub(super) time: Duration,
}

/// Something that was raised.
struct Open {
    /// The number of its event; `None` for what is raised again only to be printed.
    event: Option<usize>,
    pid: i32,
    /// The thread that raised it last.
    tid: i32,
    exception: Addr,
    payload: Addr,
    forced: bool,
    /// The event of what is being cleaned up for meanwhile, and the frame.
    within: Option<(usize, Key)>,
    /// The first raise, whose frames are the event's.
    first: Raise,
    /// The present one.
    now: Raise,
    legs: Vec<Leg>,
}

/// What a look at a raise shows.
struct Seen {
    sight: Sight,
    raised: Raised,
    raise: Raise,
}

impl Raises {
    /// A process became another program.
    pub(super) fn forget(&mut self, pid: i32) {
        self.unwinders.remove(&pid);
        self.open.retain(|_, open| open.first().is_none_or(|open| open.pid != pid));
        self.caught.retain(|open| open.pid != pid);
    }

    /// A thread stands at a place where it was to stop. Returns where its process's threads are to stop from now on, if
    /// that changes.
    pub(super) fn reached(&mut self, scene: &mut Scene<'_>, reached: &Reached) -> Option<CodeWatch> {
        let known = self.unwinders.get(&reached.pid).cloned().unwrap_or_default();
        let argument = reached.registers.addr(ARGUMENT);
        match argument {
            Some(exception) if known.raises.contains(&reached.at) => self.raised(scene, reached, exception),
            Some(exception) if known.forces.contains(&reached.at) => self.forced(scene, reached, exception),
            _ if known.landings.contains(&reached.at) => self.landed(scene, reached.tid),
            _ => return Some(self.find_unwinders(scene, reached.pid)),
        }
        None
    }

    /// The program has begun, or the loader has mapped more files, or is about to.
    fn find_unwinders(&mut self, scene: &mut Scene<'_>, pid: i32) -> CodeWatch {
        let modules = scene.looker.code(scene.live);
        let unwinders = Unwinders::of(modules);
        let starts: Vec<Addr> = unwinders.raises.iter().chain(&unwinders.forces).copied().collect();
        let starts = if unwinders.is_empty() { loads_more(modules).into_iter().collect() } else { starts };
        debug!("{pid}: unwinders are {unwinders:?}, threads stop at {starts:?}");
        let follow_ups = unwinders.landings.clone();
        self.unwinders.insert(pid, unwinders);
        CodeWatch { starts, follow_ups }
    }

    /// A thread begins to search for a handler.
    fn raised(&mut self, scene: &mut Scene<'_>, reached: &Reached, exception: Addr) {
        let Some(Seen { sight, raised, raise }) = scene.see(reached, exception) else { return };
        let mut open = Open::new(reached, exception, &raised, raise);
        if raised.origin == Origin::Again {
            if self.is_ending(reached.tid, raised.payload) {
                self.open.entry(reached.tid).or_default().push(open);
                return;
            }
            if let Some((caught, relation)) = self.take_caught(reached, raised.payload, &open.now) {
                self.raised_again(scene.ledger, open, caught, relation, &sight);
                return;
            }
        }
        let kind = match raised.language {
            _ if open.forced => EventKind::ForcedUnwind,
            Language::Rust => EventKind::Panic,
            Language::Cxx | Language::Other => EventKind::Exception,
        };
        let text = if open.forced { FORCED.to_owned() } else { message(&raised) };
        open.event = Some(scene.note(kind, reached, text, sight));
        open.within = self.around(reached.tid, &open.now);
        self.open.entry(reached.tid).or_default().push(open);
    }

    /// What was caught is raised again.
    fn raised_again(&mut self, ledger: &mut Ledger, open: Open, caught: Open, relation: Relation, sight: &Sight) {
        let mut again = Open { tid: open.tid, exception: open.exception, now: open.now, ..caught };
        if let Some(event) = again.event.filter(|_| relation == Relation::Apart) {
            let mut stacks = 0;
            ledger.change(event, |event| {
                let Some(look) = &mut event.look else { return };
                stacks = look.snapshot.stacks.len();
                look.snapshot = Arc::new(look.snapshot.joined(&sight.snapshot));
            });
            again.first.go_on_with(&again.now, stacks);
        }
        self.open.entry(again.tid).or_default().push(again);
    }

    /// A thread begins to unwind without a search.
    fn forced(&mut self, scene: &mut Scene<'_>, reached: &Reached, exception: Addr) {
        let Some(Seen { sight, raised, raise }) = scene.see(reached, exception) else { return };
        let mut open = Open { forced: true, ..Open::new(reached, exception, &raised, raise) };
        let id = scene.note(EventKind::ForcedUnwind, reached, FORCED.to_owned(), sight);
        open.event = Some(id);
        open.legs.push(open.now.forced());
        scene.ledger.change(id, |event| event.route = Route::of(&open.first, &open.legs));
        self.open.entry(reached.tid).or_default().push(open);
    }

    /// What a thread raised lands for the first time, so the unwinder has chosen where to stop.
    fn landed(&mut self, scene: &mut Scene<'_>, tid: i32) {
        let Some(open) = self.open.get_mut(&tid).and_then(|open| open.last_mut()) else { return };
        let noted = scene.live.memory().read_u64(open.exception.offset(NOTED)).ok().map(Addr);
        let leg = noted.and_then(|noted| open.now.landed_at(noted)).or_else(|| open.now.lands_by_tables());
        if let Some(leg) = leg {
            self.lands(scene.ledger, tid, leg);
        }
    }

    /// The present raise of a thread ends so.
    fn lands(&mut self, ledger: &mut Ledger, tid: i32, leg: Leg) {
        let Some(mut open) = self.open.get_mut(&tid).and_then(Vec::pop) else { return };
        let Some(id) = open.event else { return };
        let landing = leg.landing;
        open.legs.push(leg);
        let within = open.within.filter(|_| landing == Landing::MayNotPass);
        if let Some((event, frame)) = within {
            self.clean_up_fails(ledger, event, frame);
        }
        ledger.change(id, |event| {
            event.route = Route::of(&open.first, &open.legs);
            (event.fate, event.reason) = match landing {
                Landing::Caught if is_at_exit(event) => (Some(Fate::Exit), None),
                Landing::Caught => (Some(Fate::Caught), None),
                Landing::MayNotPass if within.is_some() => (Some(Fate::Abort), Some(Reason::InCleanUp)),
                Landing::MayNotPass => (Some(Fate::Abort), Some(Reason::MayNotPass)),
                Landing::Nobody => (Some(Fate::Abort), Some(Reason::Nobody)),
            };
        });
        if landing == Landing::Caught {
            if self.caught.len() >= MOST_CAUGHT {
                self.caught.pop_front();
            }
            self.caught.push_back(open);
        } else {
            self.ending.entry(tid).or_default().push(open.payload);
        }
    }

    /// What was raised came no further than to the clean-up of a frame, which raised something itself.
    fn clean_up_fails(&mut self, ledger: &mut Ledger, event: usize, frame: Key) {
        let Some(place) = self.caught.iter().position(|open| open.event == Some(event)) else { return };
        let Some(mut open) = self.caught.remove(place) else { return };
        let last = open.legs.pop().map(|leg| leg.cut_at(frame));
        open.legs.extend(last);
        ledger.change(event, |event| {
            event.route = Route::of(&open.first, &open.legs);
            (event.fate, event.reason) = (Some(Fate::Abort), Some(Reason::CleanUpFailed));
        });
    }

    /// What was caught with this payload, and can be what is raised now.
    fn take_caught(&mut self, reached: &Reached, payload: Addr, raise: &Raise) -> Option<(Open, Relation)> {
        // A payload without bytes has no place of its own: it must be what the thread has just caught.
        let has_place = payload.0 >= PAGE;
        let mut latest = self.caught.iter().enumerate().rev();
        let (place, open) = latest.find(|(_, open)| match has_place {
            true => open.pid == reached.pid && open.payload == payload,
            false => open.tid == reached.tid,
        })?;
        let relation = raise.relation(&open.first, open.legs.last()?);
        let is_it = relation == Relation::GoesOn || relation == Relation::Apart && has_place;
        (is_it && open.payload == payload).then_some(())?;
        Some((self.caught.remove(place)?, relation))
    }

    /// Whether a thread raises what ends its process, or what it raises already: the last handler of C++ throws it again
    /// to print it (libstdc++'s `__verbose_terminate_handler`).
    fn is_ending(&self, tid: i32, payload: Addr) -> bool {
        let mut open = self.open.get(&tid).into_iter().flatten();
        open.any(|open| open.payload == payload)
            || self.ending.get(&tid).is_some_and(|payloads| payloads.contains(&payload))
    }

    /// What a thread cleans up for while it raises something else, and in which frame.
    fn around(&self, tid: i32, raise: &Raise) -> Option<(usize, Key)> {
        let mut of_thread = self.caught.iter().rev().filter(|open| open.tid == tid);
        of_thread.find_map(|open| Some((open.event?, raise.cleaned_frame(open.legs.last()?)?)))
    }

    /// A signal is about to end a process, in a thread whose stack is `look`: what the thread raises and what did not
    /// land is caught by nobody.
    pub(super) fn abort(&mut self, scene: &mut Scene<'_>, signalled: Signalled, look: Option<&Sight>) {
        let Signalled { pid, tid, signal, .. } = signalled;
        // Without a C library, Rust ends a process by an instruction that is undefined.
        if !matches!(signal, libc::SIGABRT | libc::SIGILL) {
            return;
        }
        while let Some(open) = self.open.get(&tid).and_then(|open| open.last()) {
            let nowhere = open.now.lands_nowhere();
            self.lands(scene.ledger, tid, nowhere);
        }
        if self.ending.contains_key(&tid) {
            return;
        }
        let Some(look) = look else { return };
        let memory = scene.live.memory();
        let Some(location) = events::panic_at(&memory, &look.snapshot, look.stack) else { return };
        let message = location.map_or("a panic".into(), |location| format!("a panic ({location})"));
        let coroutine = scene.usage.coroutine_on(&look.snapshot, look.stack);
        scene.ledger.add(Event {
            thread: Some(tid),
            coroutine,
            look: Some(look.clone()),
            fate: Some(Fate::Abort),
            reason: Some(Reason::NeverUnwinds),
            ..Event::new(EventKind::Panic, scene.time, pid, message)
        });
    }

    /// A thread has ended: forced unwindings have come to their end.
    pub(super) fn end(&mut self, tid: i32, ledger: &mut Ledger) {
        self.ending.remove(&tid);
        let forced = self.open.remove(&tid).into_iter().flatten().filter(|open| open.forced);
        for id in forced.filter_map(|open| open.event) {
            ledger.change(id, |event| event.fate = Some(Fate::Exit));
        }
    }
}

impl Open {
    /// What a thread raises now, which has no event yet.
    fn new(reached: &Reached, exception: Addr, raised: &Raised, raise: Raise) -> Open {
        Open {
            event: None,
            pid: reached.pid,
            tid: reached.tid,
            exception,
            payload: raised.payload,
            forced: raised.only_unwinds(),
            within: None,
            first: raise.clone(),
            now: raise,
            legs: Vec::new(),
        }
    }
}

impl Scene<'_> {
    /// What is raised, and where.
    fn see(&mut self, reached: &Reached, exception: Addr) -> Option<Seen> {
        let looked = self.looker.live(self.live, Wish::threads_named(Lines::Cheap));
        let snapshot = looked.inspect_err(|error| debug!("no look at what {} raises: {error}", reached.pid)).ok()?;
        let thread = snapshot.threads.iter().find(|thread| thread.tid == reached.tid)?;
        let sight = Sight::at(&snapshot, thread.stack);
        let memory = self.live.memory();
        let raised = Raised::read(&memory, exception, &sight.snapshot, sight.stack);
        let tables = Tables::new(self.live.arch(), self.looker.modules());
        let raise = Raise::of(&raised, &sight.snapshot, sight.stack, &tables, &memory);
        Some(Seen { sight, raised, raise })
    }

    /// Writes an event down; returns its number.
    fn note(&mut self, kind: EventKind, reached: &Reached, message: String, sight: Sight) -> usize {
        let coroutine = self.usage.coroutine_on(&sight.snapshot, sight.stack);
        let event = Event::new(kind, self.time, reached.pid, message);
        self.ledger.add(Event { thread: Some(reached.tid), coroutine, look: Some(sight), ..event })
    }
}

/// Whether it stopped where Rust's runtime catches what leaves `main`, to end the program by an exit code.
fn is_at_exit(event: &Event) -> bool {
    let Some((look, (stack, frame))) = event.look.as_ref().zip(event.route.stopped_in()) else { return false };
    let frame = look.snapshot.stacks.get(stack).and_then(|stack| stack.frames.get(frame));
    let names = frame.map_or(&[][..], |frame| &look.snapshot.place(frame.frame.pc).names);
    let mut functions = names.iter().filter_map(|name| name.function.as_deref());
    functions.any(|function| function.contains("std::rt::lang_start"))
}

/// What is raised, in words of its own.
fn message(raised: &Raised) -> String {
    let text = match (&raised.type_name, &raised.message) {
        (Some(name), Some(message)) => format!("{name}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.clone(),
        (None, None) => match raised.language {
            Language::Rust => "a payload that is no text".into(),
            Language::Cxx => "an object of a type that can't be read".into(),
            Language::Other => "an exception of another language".into(),
        },
    };
    raised.location.as_ref().map_or(text.clone(), |location| format!("{text} ({location})"))
}
