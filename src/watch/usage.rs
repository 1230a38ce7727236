//! What the stacks of a program needed, gathered from all looks and from the starts and ends of threads.
//!
//! Stacks are gathered in groups by what they were started for. A stack that has ended is no more than a number in its
//! group, so that a program may start millions of threads and be watched for days.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::events::Look;
use crate::discover::bounds::Guard;
use crate::snapshot::{Kind, Level, Snapshot, Stack};

/// How many of the deepest stacks are kept with their frames.
const DEEPEST: usize = 5;

/// What the stacks of a program needed.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    living: HashMap<Key, Record>,
    groups: BTreeMap<GroupKey, Tally>,
    deepest: Vec<(Key, Deep)>,
    /// How many stacks there were in all.
    pub total: usize,
    /// How many there were at once, at most.
    pub most_at_once: usize,
}

/// One of the deepest stacks, when it was deepest of all looks.
#[derive(Clone, Debug)]
pub struct Deep {
    /// The bytes in use then.
    pub used: u64,
    /// The stack.
    pub look: Look,
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
    /// Whether all of them were told by touched pages. If not, some are only the most that a look happened to see.
    pub by_pages: bool,
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

type GroupKey = (Kind, Option<Arc<str>>);

/// A stack that is not known to have ended.
#[derive(Clone, Debug)]
struct Record {
    group: GroupKey,
    pages: Option<u64>,
    sampled: Option<u64>,
    /// The highest that was seen.
    level: Option<Level>,
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
    /// How many stacks that have ended had which peak.
    peaks: BTreeMap<u64, usize>,
    sampled: bool,
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

    /// Takes in one look. `named` is whether what it shows the stacks to be for is to be believed: at the end of a
    /// thread, what it was started for has returned. Gives the stacks that have come closer to their end than 85 % of
    /// their size since they were last seen, or past it.
    pub(super) fn look(&mut self, snapshot: &Arc<Snapshot>, named: bool) -> Vec<usize> {
        let pid = snapshot.process.pid;
        let mut keys: Vec<Option<Key>> = snapshot.stacks.iter().map(|stack| place(pid, stack)).collect();
        for thread in &snapshot.threads {
            for id in snapshot.stitched(thread.stack) {
                if snapshot.stacks.get(id).is_some_and(|stack| stack.kind == Kind::Thread) {
                    keys[id] = Some(Key::Thread { pid, tid: thread.tid });
                }
            }
        }
        self.close_places_but(pid, &keys);
        let mut risen = Vec::new();
        for (id, (stack, key)) in snapshot.stacks.iter().zip(keys).enumerate() {
            let Some(key) = key else { continue };
            self.open(key, stack.kind);
            if named && stack.entry.is_some() {
                self.name(key, stack);
            }
            if self.measure(key, stack) {
                risen.push(id);
            }
            self.deepen(key, snapshot, id);
        }
        risen
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
        groups.sort_by(|a, b| {
            let risk = |group: &Group| (group.level(), group.peaks.map(|peaks| peaks.max), group.count);
            risk(b).cmp(&risk(a)).then_with(|| a.entry.cmp(&b.entry))
        });
        groups
    }

    /// The deepest stacks that a look showed, the deepest first.
    pub fn deepest(&self) -> impl Iterator<Item = &Deep> {
        self.deepest.iter().map(|(_, deep)| deep)
    }

    fn open(&mut self, key: Key, kind: Kind) {
        if self.living.contains_key(&key) {
            return;
        }
        let group = (kind, None);
        self.groups.entry(group.clone()).or_default().add();
        self.living.insert(key, Record { group, pages: None, sampled: None, level: None });
        self.total += 1;
        self.most_at_once = self.most_at_once.max(self.living.len());
    }

    /// Puts a stack into the group that a look shows it to be of.
    fn name(&mut self, key: Key, stack: &Stack) {
        let Some(record) = self.living.get_mut(&key) else { return };
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
        let (former, level) = (record.level, record.level.max(stack.level()));
        let risen = level > former && level >= Some(Level::High);
        record.level = level;
        record.pages = record.pages.max(stack.peak.map(|peak| peak.bytes));
        record.sampled = record.sampled.max(stack.used());
        let Some(tally) = self.groups.get_mut(&record.group) else { return risen };
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
    fn deepen(&mut self, key: Key, snapshot: &Arc<Snapshot>, stack: usize) {
        let Some(used) = snapshot.stacks.get(stack).and_then(Stack::used) else { return };
        if self.deepest.iter().any(|(other, deep)| *other == key && deep.used >= used) {
            return;
        }
        self.deepest.retain(|(other, _)| *other != key);
        let place = self.deepest.partition_point(|(_, deep)| deep.used >= used);
        if place < DEEPEST {
            let look = Look { snapshot: Arc::clone(snapshot), stack };
            self.deepest.insert(place, (key, Deep { used, look }));
            self.deepest.truncate(DEEPEST);
        }
    }

    fn close(&mut self, key: Key) {
        let Some(record) = self.living.remove(&key) else { return };
        let Some(tally) = self.groups.get_mut(&record.group) else { return };
        tally.living -= 1;
        tally.sampled |= record.pages.is_none() && record.sampled.is_some();
        if let Some(peak) = record.pages.max(record.sampled) {
            *tally.peaks.entry(peak).or_default() += 1;
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
        Some(Peaks { p50: percentile(50), p99: percentile(99), max, by_pages: !self.sampled })
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
    fn percentiles_are_peaks_that_occurred() {
        let tally = Tally { peaks: BTreeMap::from([(4096, 98), (8192, 1), (65536, 1)]), ..Tally::default() };
        let peaks = tally.peaks().unwrap();
        assert_eq!((peaks.p50, peaks.p99, peaks.max, peaks.by_pages), (4096, 8192, 65536, true));
        assert_eq!(Tally::default().peaks(), None);
    }
}
