//! What the stacks of a program needed, gathered from all looks and from the starts and ends of threads.
//!
//! Stacks are gathered in groups by what they were started for. A stack that has ended is no more than a number in its
//! group, so that a program may start millions of threads and be watched for days.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::events::Sight;
use super::fleeting::{self, Fleeting};
use crate::addr::{Addr, AddrRange};
use crate::snapshot::{Apart, Guard, Kind, Level, Method, Peak, Snapshot, Stack, State};
use crate::unwind::Ended;

/// How many of the deepest stacks are kept with their frames.
const DEEPEST: usize = 5;

/// How many coroutines are kept one by one.
const MOST_COROUTINES: usize = 10_000;

/// What the stacks of a program needed.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    living: HashMap<Key, Record>,
    groups: BTreeMap<GroupKey, Tally>,
    deepest: Vec<(Key, Deep)>,
    coroutines: Vec<Coroutine>,
    /// How many of the living records are of users that have ended.
    ended: usize,
    /// How many stacks there were in all.
    pub total: usize,
    /// How many there were at once, at most.
    pub most_at_once: usize,
    /// What shows that stacks came and went between looks.
    pub fleeting: Fleeting,
}

/// One of the deepest stacks, when it was deepest of all looks.
#[derive(Clone, Debug)]
pub struct Deep {
    /// The bytes in use then.
    pub used: u64,
    /// The number of the coroutine; `None` for a thread's own stack.
    pub coroutine: Option<usize>,
    /// The stack.
    pub look: Sight,
}

/// A coroutine, or another user of a stack that is no thread's own, as the looks showed it.
///
/// It is known from one look to the next by its stack and by what it was started for; two with the same of both, one
/// after the other between two looks, are taken for one.
#[derive(Clone, PartialEq, Debug)]
pub struct Coroutine {
    /// Its number, in the order in which the looks first showed them.
    pub id: usize,
    /// Where its stack lies, as far as that is known.
    pub low: Option<Addr>,
    /// The first address above it.
    pub high: Addr,
    /// The outermost function of the program's own code.
    pub entry: Option<Arc<str>>,
    /// The most bytes that its stack held.
    pub peak: Option<Peak>,
    /// Whether its stack had another user before: the peak may be that one's.
    pub pooled: bool,
}

/// Stacks that were started for the same.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// What they serve.
    pub kind: Kind,
    /// The outermost function of the program's own code; `None` for stacks that ended before a look.
    pub entry: Option<Arc<str>>,
    /// How many there were.
    pub count: usize,
    /// How many there were at once, at most.
    pub most_at_once: usize,
    /// The usable bytes of the largest.
    pub size: Option<u64>,
    /// Whether they grow by themselves up to that size, as the first thread's does.
    pub grows: bool,
    /// The most bytes that each of them held.
    pub peaks: Option<Peaks>,
    /// What was touched furthest below the peak of one of them, and is not counted.
    pub apart: Option<Apart>,
    /// How many of them ended without a look that shows what they held then: they may have held more.
    pub ends_unseen: usize,
    /// Whether some of them had other users before: their peaks are the most over all of these.
    pub pooled: bool,
    /// Whether an overflow would be stopped: `None` where it is known of no stack, `Some(None)` where it differs.
    pub guarded: Option<Option<bool>>,
}

/// The peaks of a group's stacks, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peaks {
    /// Half of the stacks held at most this.
    pub p50: u64,
    /// All but one in a hundred held at most this.
    pub p99: u64,
    /// None held more.
    pub max: u64,
    /// How they are known: the least sure way of all.
    pub method: Method,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    /// The stack that a thread began on.
    Thread { pid: i32, tid: i32 },
    /// Any other stack, by its high end.
    Place { pid: i32, high: u64 },
}

impl Key {
    fn pid(self) -> i32 {
        match self {
            Key::Thread { pid, .. } | Key::Place { pid, .. } => pid,
        }
    }
}

/// The key of a stack that is no thread's own; `None` where it can't be told from others.
fn place(pid: i32, stack: &Stack) -> Option<Key> {
    let high = stack.bounds.high.filter(|_| stack.kind != Kind::Thread)?;
    Some(Key::Place { pid, high: high.0 })
}

/// The key of each stack that a look shows.
fn keys(snapshot: &Snapshot) -> Vec<Option<Key>> {
    let pid = snapshot.process.pid;
    let mut keys: Vec<Option<Key>> = snapshot.stacks.iter().map(|stack| place(pid, stack)).collect();
    for thread in &snapshot.threads {
        for id in snapshot.stitched(thread.stack) {
            if snapshot.stacks.get(id).is_some_and(|stack| stack.kind == Kind::Thread) {
                keys[id] = Some(Key::Thread { pid, tid: thread.tid });
            }
        }
    }
    keys
}

type GroupKey = (Kind, Option<Arc<str>>);

/// A stack that is not known to have ended.
#[derive(Clone, Debug)]
struct Record {
    group: GroupKey,
    /// In the order in which stacks were first seen.
    number: usize,
    low: Option<Addr>,
    /// The deepest peak that looks told, by pages or exactly.
    told: Option<Peak>,
    /// What lies apart from that, by the last look that showed some.
    apart: Option<Apart>,
    sampled: Option<u64>,
    /// How close it ever was to its end.
    level: Option<Level>,
    /// Whether its user was seen at work: not only prepared.
    started: bool,
    /// Whether its user has ended; the stack is kept.
    ended: bool,
    /// Whether it had another user before.
    pooled: bool,
    /// Whether a look showed what it held when its user ended.
    end_seen: bool,
    /// How many looks showed it.
    looks: usize,
}

impl Record {
    /// The most that the stack held: where a look saw the stack pointer deeper than what was told, that wins.
    fn peak(&self) -> Option<Peak> {
        let sampled = self.sampled.map(|bytes| Peak { bytes, method: Method::Sampled, apart: None });
        let most = match (self.told, sampled) {
            (Some(told), Some(sampled)) if sampled.bytes > told.bytes => Some(Peak { bytes: sampled.bytes, ..told }),
            (told, sampled) => told.or(sampled),
        };
        // What once lay apart may have been reached since.
        most.map(|most| Peak { apart: self.apart.filter(|apart| apart.bytes > most.bytes), ..most })
    }

    /// Whether what a look shows on the stack is another user than the one that is known.
    fn is_other(&self, stack: &Stack) -> bool {
        let (State::New | State::Suspended | State::Running | State::Resuming) = stack.state else { return false };
        // Where frames are missing, what a stack was started for is not known well enough.
        let differs = stack.ended == Ended::Root
            && stack.kind == self.group.0
            && self.group.1.is_some()
            && stack.entry.is_some()
            && self.group.1 != stack.entry;
        self.ended || self.started && (differs || stack.state == State::New)
    }
}

/// What a group adds up to.
#[derive(Clone, Debug, Default)]
struct Tally {
    count: usize,
    living: usize,
    most_at_once: usize,
    size: Option<u64>,
    grows: bool,
    guarded: bool,
    unguarded: bool,
    pooled: bool,
    apart: Option<Apart>,
    /// How many ended without a look that shows what they held then.
    ends_unseen: usize,
    /// How many stacks that have ended had which peak.
    peaks: BTreeMap<u64, usize>,
    /// The least sure way in which one of these is known.
    method: Option<Method>,
}

impl Usage {
    /// A thread has started, or a process, whose first thread has its number.
    pub(super) fn thread_started(&mut self, pid: i32, tid: i32) {
        self.open(Key::Thread { pid, tid }, Kind::Thread);
    }

    /// A thread has ended.
    pub(super) fn thread_ended(&mut self, pid: i32, tid: i32) {
        self.close(Key::Thread { pid, tid });
    }

    /// All stacks of a process are gone.
    pub(super) fn process_ended(&mut self, pid: i32) {
        let keys: Vec<Key> = self.living.keys().copied().filter(|key| key.pid() == pid).collect();
        for key in keys {
            self.close(key);
        }
    }

    /// Everything is over.
    pub(super) fn finish(&mut self) {
        let keys: Vec<Key> = self.living.keys().copied().collect();
        for key in keys {
            self.close(key);
        }
    }

    /// Threads that a look does not show have ended: for when their ends are not told.
    pub(super) fn only_living(&mut self, snapshot: &Snapshot) {
        let process = snapshot.process.pid;
        let gone = |key: &Key| match key {
            Key::Thread { pid, tid } => *pid == process && !snapshot.threads.iter().any(|thread| thread.tid == *tid),
            Key::Place { .. } => false,
        };
        let keys: Vec<Key> = self.living.keys().copied().filter(gone).collect();
        for key in keys {
            self.close(key);
        }
    }

    /// Takes in one look. Gives the stacks that have come closer to their end than 85 % of their size since they were last
    /// seen, or past it.
    ///
    /// `told` is whether the starts and ends of threads are told: then a thread of which nothing was told is one whose start,
    /// or the `execve` that it came with, is still to be told. `named` is whether what the look shows the stacks to be for is
    /// to be believed: at the end of a thread, what it was started for has returned.
    pub(super) fn look(&mut self, snapshot: &Snapshot, told: bool, named: bool) -> Vec<usize> {
        let pid = snapshot.process.pid;
        let keys = keys(snapshot);
        self.close_places_but(pid, &keys);
        let mut risen = Vec::new();
        for (id, (stack, key)) in snapshot.stacks.iter().zip(keys).enumerate() {
            let is_to_come = |key: &Key| told && matches!(key, Key::Thread { .. }) && !self.living.contains_key(key);
            let Some(key) = key.filter(|key| !is_to_come(key)) else { continue };
            if named && matches!(key, Key::Place { .. }) {
                self.replace(key, stack);
            }
            self.open(key, stack.kind);
            if named && stack.entry.is_some() {
                self.name(key, stack);
            }
            if self.measure(key, stack) {
                risen.push(id);
            }
            self.deepen(key, snapshot, id);
            if stack.state == State::Finished {
                self.see_end(key);
                self.end(key);
            }
        }
        risen
    }

    /// The stacks of a process that are no threads' own and whose users live, each with the method that told its peak.
    pub(super) fn known_places(&self, pid: i32) -> Vec<(AddrRange, Method)> {
        let living = self.living.iter().filter(|(key, record)| key.pid() == pid && !record.ended);
        let place = |(key, record): (&Key, &Record)| match key {
            Key::Place { high, .. } => Some((AddrRange::new(record.low?, Addr(*high)), record.told?.method)),
            Key::Thread { .. } => None,
        };
        living.filter_map(place).collect()
    }

    /// Takes in what stacks of a process held at its end. Where that is less than before, their memory was given back in
    /// between, and nothing is known of the end of their users.
    pub(super) fn last_peaks(&mut self, pid: i32, peaks: impl Iterator<Item = (AddrRange, Option<Peak>)>) {
        for (range, peak) in peaks {
            let Some(record) = self.living.get_mut(&Key::Place { pid, high: range.high.0 }) else { continue };
            if let Some(peak) = peak.filter(|peak| record.told.is_none_or(|told| told.bytes <= peak.bytes)) {
                record.told = Some(peak);
                record.end_seen = true;
            }
        }
    }

    /// A look that shows a process at its end shows the ends of all users of stacks that it shows.
    pub(super) fn ends(&mut self, snapshot: &Snapshot) {
        for key in keys(snapshot).into_iter().flatten() {
            self.see_end(key);
        }
    }

    fn see_end(&mut self, key: Key) {
        if let Some(record) = self.living.get_mut(&key) {
            record.end_seen = true;
        }
    }

    /// Where a look shows another user on a stack than the one that is known, that one has ended.
    fn replace(&mut self, key: Key, stack: &Stack) {
        if self.living.get(&key).is_some_and(|record| fleeting::gave_back(record.told, stack.peak)) {
            self.fleeting.replaced += 1;
            self.close(key);
        }
        if self.living.get(&key).is_some_and(|record| record.is_other(stack)) {
            self.close(key);
            self.open(key, stack.kind);
            if let Some(record) = self.living.get_mut(&key) {
                record.pooled = true;
            }
        }
    }

    /// Stacks other than threads' own end unseen: those that a look does not show any more have.
    fn close_places_but(&mut self, pid: i32, seen: &[Option<Key>]) {
        let seen: HashSet<Key> = seen.iter().flatten().copied().collect();
        let is_gone = |key: &Key| matches!(key, Key::Place { .. }) && key.pid() == pid && !seen.contains(key);
        let gone: Vec<Key> = self.living.keys().copied().filter(is_gone).collect();
        for key in gone {
            self.close(key);
        }
    }

    /// The groups, the one closest to an overflow first.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.groups.iter().filter(|(_, tally)| tally.count > 0).map(group).collect();
        // Threads that no look showed may have been of any group of threads.
        let unseen = self.groups.get(&(Kind::Thread, None)).map_or(0, |tally| tally.ends_unseen);
        let named = |group: &&mut Group| group.kind == Kind::Thread && group.entry.is_some();
        groups.iter_mut().filter(named).for_each(|group| group.ends_unseen += unseen);
        groups.sort_by(|a, b| {
            let risk = |group: &Group| (group.level(), group.peaks.map(|peaks| peaks.max), group.count);
            risk(b).cmp(&risk(a)).then_with(|| a.entry.cmp(&b.entry))
        });
        groups
    }

    /// Users of stacks that are no threads' own, the first 10,000 that ended.
    pub fn coroutines(&self) -> &[Coroutine] {
        &self.coroutines
    }

    /// The deepest stacks that a look showed, the deepest first.
    pub fn deepest(&self) -> impl Iterator<Item = &Deep> {
        self.deepest.iter().map(|(_, deep)| deep)
    }

    /// The number of the coroutine on a stack that a thread runs on now; `None` if it is none.
    pub(super) fn coroutine_on(&mut self, snapshot: &Snapshot, id: usize) -> Option<usize> {
        let stack = snapshot.stacks.get(id).filter(|stack| stack.kind == Kind::Coroutine)?;
        let key = place(snapshot.process.pid, stack)?;
        self.open(key, stack.kind);
        Some(self.living.get(&key)?.number)
    }

    fn open(&mut self, key: Key, kind: Kind) {
        if self.living.contains_key(&key) {
            return;
        }
        let group = (kind, None);
        self.groups.entry(group.clone()).or_default().add();
        let record = Record {
            group,
            number: self.total,
            low: None,
            told: None,
            apart: None,
            sampled: None,
            level: None,
            started: false,
            ended: false,
            pooled: false,
            end_seen: false,
            looks: 0,
        };
        self.living.insert(key, record);
        self.total += 1;
        self.most_at_once = self.most_at_once.max(self.living.len() - self.ended);
    }

    /// Puts a stack into the group that a look shows it to be of.
    fn name(&mut self, key: Key, stack: &Stack) {
        let Some(record) = self.living.get_mut(&key).filter(|record| !record.ended) else { return };
        let group = (stack.kind, stack.entry.clone());
        if record.group != group {
            if let Some(former) = self.groups.get_mut(&record.group) {
                former.count -= 1;
                former.living -= 1;
            }
            self.groups.entry(group.clone()).or_default().add();
            record.group = group;
        }
    }

    /// Whether its level has risen to one that is dangerous.
    fn measure(&mut self, key: Key, stack: &Stack) -> bool {
        let Some(record) = self.living.get_mut(&key) else { return false };
        record.looks += 1;
        let (former, level) = (record.level, record.level.max(stack.level()));
        let risen = level > former && level >= Some(Level::High);
        record.level = level;
        let deeper = stack.peak.filter(|peak| record.told.is_none_or(|told| peak.bytes > told.bytes));
        record.told = deeper.or(record.told);
        record.apart = stack.peak.and_then(|peak| peak.apart).or(record.apart);
        record.sampled = record.sampled.max(stack.used());
        record.low = stack.bounds.low.or(record.low);
        record.started |= stack.state != State::New;
        let Some(tally) = self.groups.get_mut(&record.group) else { return risen };
        tally.pooled |= record.pooled;
        tally.size = tally.size.max(stack.size());
        match stack.bounds.guard {
            Guard::Ok(_) => tally.guarded = true,
            Guard::None => tally.unguarded = true,
            Guard::Grows => (tally.guarded, tally.grows) = (true, true),
            Guard::Unknown => {}
        }
        risen
    }

    /// Keeps the stack if it is one of the deepest.
    fn deepen(&mut self, key: Key, snapshot: &Snapshot, stack: usize) {
        let Some(used) = snapshot.stacks.get(stack).and_then(Stack::used) else { return };
        let coroutine = self.living.get(&key).filter(|_| matches!(key, Key::Place { .. })).map(|record| record.number);
        if self.deepest.iter().any(|(other, deep)| *other == key && deep.used >= used) {
            return;
        }
        self.deepest.retain(|(other, _)| *other != key);
        let place = self.deepest.partition_point(|(_, deep)| deep.used >= used);
        if place < DEEPEST {
            let look = Sight::at(snapshot, stack);
            self.deepest.insert(place, (key, Deep { used, coroutine, look }));
            self.deepest.truncate(DEEPEST);
        }
    }

    /// The user of a stack has ended, and the stack is kept.
    fn end(&mut self, key: Key) {
        let Some(record) = self.living.get_mut(&key).filter(|record| !record.ended) else { return };
        record.ended = true;
        self.ended += 1;
        if let Some(tally) = self.groups.get_mut(&record.group) {
            tally.living -= 1;
        }
    }

    fn close(&mut self, key: Key) {
        self.end(key);
        let Some(record) = self.living.remove(&key) else { return };
        self.ended -= 1;
        if matches!(key, Key::Place { .. }) && record.looks == 1 && !record.end_seen {
            self.fleeting.met_once += 1;
        }
        let peak = record.peak();
        if let Some(tally) = self.groups.get_mut(&record.group).filter(|_| !record.end_seen) {
            tally.ends_unseen += 1;
        }
        if let (Some(tally), Some(peak)) = (self.groups.get_mut(&record.group), peak) {
            tally.method = tally.method.max(Some(peak.method));
            tally.apart = Apart::deeper(tally.apart, peak.apart);
            *tally.peaks.entry(peak.bytes).or_default() += 1;
        }
        if let Key::Place { high, .. } = key
            && record.group.0 == Kind::Coroutine
            && self.coroutines.len() < MOST_COROUTINES
        {
            let Record { number: id, low, pooled, group: (_, entry), .. } = record;
            self.coroutines.push(Coroutine { id, low, high: Addr(high), entry, peak, pooled });
        }
    }
}

impl Tally {
    fn add(&mut self) {
        self.count += 1;
        self.living += 1;
        self.most_at_once = self.most_at_once.max(self.living);
    }

    fn peaks(&self) -> Option<Peaks> {
        let stacks: usize = self.peaks.values().sum();
        let max = *self.peaks.last_key_value()?.0;
        // The smallest peak that at least `percent` of all stacks stayed at or below (nearest rank).
        let percentile = |percent: usize| {
            let mut left = (stacks * percent).div_ceil(100);
            let reached = self.peaks.iter().find(|(_, count)| {
                left = left.saturating_sub(**count);
                left == 0
            });
            reached.map_or(max, |(peak, _)| *peak)
        };
        Some(Peaks { p50: percentile(50), p99: percentile(99), max, method: self.method? })
    }
}

impl Group {
    /// How close the one that held most was to its end; `None` where that or the size is unknown.
    pub fn level(&self) -> Option<Level> {
        Some(Level::of(self.peaks?.max, self.size?))
    }
}

fn group((key, tally): (&GroupKey, &Tally)) -> Group {
    Group {
        kind: key.0,
        entry: key.1.clone(),
        count: tally.count,
        most_at_once: tally.most_at_once,
        size: tally.size,
        grows: tally.grows,
        peaks: tally.peaks(),
        apart: tally.apart,
        ends_unseen: tally.ends_unseen,
        pooled: tally.pooled,
        guarded: match (tally.guarded, tally.unguarded) {
            (false, false) => None,
            (true, true) => Some(None),
            (guarded, _) => Some(Some(guarded)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_nobody_saw_are_counted() {
        let mut usage = Usage::default();
        for tid in 10..13 {
            usage.thread_started(10, tid);
        }
        usage.thread_ended(10, 12);
        usage.thread_started(10, 13);
        usage.process_ended(10);
        assert_eq!((usage.total, usage.most_at_once), (4, 3));
        let groups = usage.groups();
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((group.count, group.most_at_once, group.peaks, group.entry.as_deref()), (4, 3, None, None));
    }

    #[test]
    fn of_the_deepest_only_their_backtraces_are_kept() {
        use crate::snapshot::testing::Draft;
        let mut usage = Usage::default();
        for look in 1..=3 {
            let mut draft = Draft::new();
            for number in 0..100 {
                draft.stack(Kind::Coroutine, State::Suspended, 65536, 0, &[("body", 1, 100 * look + number)]);
            }
            let snapshot = Arc::new(draft.finish());
            let kept = Arc::downgrade(&snapshot);
            usage.look(&snapshot, false, true);
            drop(snapshot);
            assert!(kept.upgrade().is_none(), "the whole look {look} is kept");
        }
        let deepest: Vec<u64> = usage.deepest().map(|deep| deep.used).collect();
        assert_eq!(deepest, [399, 398, 397, 396, 395]);
        assert!(usage.deepest().all(|deep| deep.look.snapshot.stacks.len() == 1));
    }

    #[test]
    fn percentiles_are_peaks_that_occurred() {
        let tally = Tally {
            peaks: BTreeMap::from([(4096, 98), (8192, 1), (65536, 1)]),
            method: Some(Method::Pages),
            ..Tally::default()
        };
        let peaks = tally.peaks().unwrap();
        assert_eq!((peaks.p50, peaks.p99, peaks.max, peaks.method), (4096, 8192, 65536, Method::Pages));
        assert_eq!(Tally::default().peaks(), None);
    }
}
