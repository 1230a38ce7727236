//! The line above a backtrace that says what it is of, and the line that says how much of the stacks is used.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use super::group::{self, Group, GroupBy};
use super::style::{Style, Tone};
use super::units;
use super::words::{apart_words, capital, guard_words, plural, singular, thread_words};
use crate::image::printable;
use crate::snapshot::{Apart, Confidence, Guard, Kind, Level, Snapshot, Stack, State};

/// The most numbers of stacks that the heading of a group lists.
const MOST_LISTED: usize = 8;

/// What a group is.
pub(super) fn heading(snapshot: &Snapshot, group: &Group, key: GroupBy) -> String {
    match group.stacks.as_slice() {
        [id] => of_one(snapshot, *id),
        _ => of_several(snapshot, group, key),
    }
}

/// What its stacks do, if that differs: `suspended 1 200, new (likely) 60`.
pub(super) fn states_line(snapshot: &Snapshot, group: &Group) -> Option<String> {
    let states = states(snapshot, group);
    let parts = states.iter().map(|(word, count)| format!("{word} {}", units::count(*count)));
    (states.len() > 1).then(|| parts.collect::<Vec<_>>().join(", "))
}

/// Which of its stacks did not move between two looks; `None` if there was one look.
pub(super) fn moved_line(snapshot: &Snapshot, group: &Group) -> Option<String> {
    let known = || group.stacks.iter().filter_map(|id| snapshot.moved(*id));
    let still = known().filter(|moved| !moved).count();
    match (known().count(), group.stacks.len()) {
        (0, _) => None,
        (_, 1) => Some(if still == 1 { "did not move" } else { "moved" }.to_owned()),
        (_, all) => Some(format!("{} of {} did not move", units::count(still), units::count(all))),
    }
}

/// `Thread 48213 "chatd"`, `Coroutine 7 (on thread 48216 "worker-2")`, `Coroutine 8 "writer", suspended`.
fn of_one(snapshot: &Snapshot, id: usize) -> String {
    let stack = &snapshot.stacks[id];
    let thread = snapshot.threads.iter().find(|thread| Some(thread.tid) == stack.thread);
    let signal = thread.and_then(|thread| thread.signal);
    let signal = signal.map_or(String::new(), |signal| format!("  ended by signal {signal}"));
    let kind = capital(singular(stack.kind));
    let name = stack.name.as_ref().map_or(String::new(), |name| format!(" \"{}\"", printable(name)));
    match (stack.kind, stack.thread) {
        (Kind::Thread, Some(_)) => format!("{}{signal}", capital(&thread_words(stack.thread, snapshot))),
        (_, Some(_)) => format!("{kind} {id}{name} (on {}){signal}", thread_words(stack.thread, snapshot)),
        (_, None) => format!("{kind} {id}{name}, {}{}", stack.state.word(), doubt(stack.confidence)),
    }
}

/// The mark of what is not certain from memory.
fn doubt(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "",
        Confidence::Likely => " (likely)",
        Confidence::Guess => " (a guess)",
    }
}

/// `19 threads "python3", same stack: 1107 1013 … (--all)`, `1 268 coroutines, suspended, in chatd::read: 17 23 …
/// (--all)`.
fn of_several(snapshot: &Snapshot, group: &Group, key: GroupBy) -> String {
    let members = || group.stacks.iter().map(|id| &snapshot.stacks[*id]);
    let first = &snapshot.stacks[group.stacks[0]];
    let name = first.name.as_ref().filter(|name| members().all(|stack| stack.name.as_ref() == Some(name)));
    let name = name.map_or(String::new(), |name| format!(" \"{}\"", printable(name)));
    let numbers = group.stacks.iter().map(|id| match snapshot.stacks[*id].thread {
        Some(tid) => tid.to_string(),
        None => id.to_string(),
    });
    let listed: Vec<String> = numbers.take(MOST_LISTED).collect();
    let more = if group.stacks.len() > MOST_LISTED { " …" } else { "" };
    let count = units::count(group.stacks.len());
    let kind = plural(first.kind, group.stacks.len());
    let states = states(snapshot, group);
    let state = match states.as_slice() {
        [_] if first.state == State::Running => String::new(),
        [(word, _)] => format!(", {word}"),
        _ => String::new(),
    };
    let known = group::common(snapshot, group, key).map(printable);
    let common = match key {
        GroupBy::Stack => ", same stack".to_owned(),
        GroupBy::Entry => format!(", started for {}", known.as_deref().unwrap_or("what is not known")),
        GroupBy::Top => format!(", in {}", known.as_deref().unwrap_or("what is not known")),
        GroupBy::State if state.is_empty() => format!(", {}", known.as_deref().unwrap_or_default()),
        GroupBy::State => String::new(),
    };
    format!("{count} {kind}{name}{state}{common}: {}{more} (--all)", listed.join(" "))
}

/// What the stacks of a group do, each with a count: the most frequent first.
fn states(snapshot: &Snapshot, group: &Group) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(State, Confidence), usize> = BTreeMap::new();
    for id in &group.stacks {
        let stack = &snapshot.stacks[*id];
        *counts.entry((stack.state, stack.confidence)).or_default() += 1;
    }
    let words = counts.into_iter().map(|((state, sure), count)| (format!("{}{}", state.word(), doubt(sure)), count));
    let mut words: Vec<(String, usize)> = words.collect();
    words.sort_by_key(|(_, count)| Reverse(*count));
    words
}

/// Where a stack lies and how much of it is used.
pub(super) fn measures(stack: &Stack, style: Style) -> String {
    let mut parts = Vec::new();
    let range = stack.bounds.range().map_or("stack".to_owned(), |range| format!("stack {range}"));
    parts.push(stack.sp.map_or(range.clone(), |sp| format!("{range} sp={:x}", sp.0)));
    parts.extend(stack.used().map(|used| format!("now {}", units::bytes(used))));
    let of_size = stack.size().map_or(String::new(), |size| format!(" of {}", units::bytes(size)));
    match stack.peak {
        Some(peak) => {
            let percent =
                stack.size().map_or(String::new(), |size| format!(" ({} %)", units::percent(peak.bytes, size)));
            parts.push(format!("peak {}{}{of_size}{percent}", style.method(peak.method), units::bytes(peak.bytes)));
        }
        None if !of_size.is_empty() => parts.push(of_size.trim_start().to_owned()),
        None => {}
    }
    parts.extend(level_word(stack.level()).map(|(word, tone)| style.paint(tone, word)));
    parts.push(guard_words(stack.bounds.guard));
    parts.extend(stack.peak.and_then(|peak| peak.apart).map(apart_words));
    parts.join("  ")
}

/// The same for stacks with equal frames, as ranges from the least to the most.
pub(super) fn group_measures(snapshot: &Snapshot, group: &Group, style: Style) -> String {
    let (mut used, mut size, mut peak) = (Spread::default(), Spread::default(), Spread::default());
    let (mut least_sure, mut level, mut same_guard) = (None, None, true);
    let mut apart: Option<Apart> = None;
    let guard = snapshot.stacks[group.stacks[0]].bounds.guard;
    // One pass over all of them: a hundred thousand do not fit in a processor's cache.
    for stack in group.stacks.iter().map(|id| &snapshot.stacks[*id]) {
        used.add(stack.used());
        size.add(stack.size());
        peak.add(stack.peak.map(|peak| peak.bytes));
        least_sure = least_sure.max(stack.peak.map(|peak| peak.method));
        level = level.max(stack.level());
        apart = Apart::deeper(apart, stack.peak.and_then(|peak| peak.apart));
        same_guard &= same_kind(stack.bounds.guard, guard);
    }
    let mut parts = Vec::new();
    parts.extend(used.words().map(|used| format!("now {used}")));
    let sign = least_sure.map_or("", |method| style.method(method));
    parts.extend(peak.words().map(|peak| format!("peak {sign}{peak}")));
    if let (Some(last), Some(size)) = (parts.last_mut(), size.words()) {
        let _ = write!(last, " of {size}");
    }
    parts.extend(level_word(level).map(|(word, tone)| style.paint(tone, word)));
    parts.push(if same_guard { guard_words(guard) } else { "guards differ".to_owned() });
    parts.extend(apart.map(apart_words));
    parts.join("  ")
}

/// Whether two guards have the same word.
fn same_kind(left: Guard, right: Guard) -> bool {
    match (left, right) {
        (Guard::Ok(left), Guard::Ok(right)) => left.len() == right.len(),
        _ => left == right,
    }
}

/// The least and the most of some numbers of bytes.
#[derive(Clone, Copy, Default)]
struct Spread(Option<(u64, u64)>);

impl Spread {
    fn add(&mut self, value: Option<u64>) {
        let Some(value) = value else { return };
        let (least, most) = self.0.unwrap_or((value, value));
        self.0 = Some((least.min(value), most.max(value)));
    }

    fn words(self) -> Option<String> {
        let (least, most) = self.0?;
        Some(match least == most {
            true => units::bytes(most),
            false => format!("{}..{}", units::bytes(least), units::bytes(most)),
        })
    }
}

fn level_word(level: Option<Level>) -> Option<(&'static str, Tone)> {
    match level? {
        Level::Ok => None,
        Level::Warn => Some(("WARN", Tone::Warning)),
        Level::High => Some(("HIGH", Tone::Danger)),
        Level::Over => Some(("OVER", Tone::Danger)),
    }
}
