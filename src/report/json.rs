//! A snapshot as JSON: the keys and words of `docs/JSON.md`, which other programs depend on.
//!
//! Addresses are strings, sizes are bytes, times are nanoseconds; unknown is `null`, never 0. The types here are the
//! format, so that a change of the snapshot's types can't change it unnoticed.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::group::{self, GroupBy};
use super::warnings::Sentence;
use crate::addr::Addr;
use crate::events::{Cause, Verdict, judge};
use crate::filter::Filter;
use crate::process::Source;
use crate::snapshot::{
    self, Apart, BoundsFrom, Guard as StackGuard, Kind, Level, Peak as StackPeak, Snapshot, Stack as SnapshotStack,
    StackFrame,
};
use crate::unwind::{Ended, FoundBy};
use crate::watch::signal_name;

/// The version of the format; it changes only if a key is renamed or its meaning changes.
const SCHEMA_VERSION: u32 = 1;

/// Writes `snapshot` as one JSON object and a line end.
///
/// # Errors
/// Those of `out`.
pub fn write(out: impl io::Write, snapshot: &Snapshot) -> io::Result<()> {
    write_picked(out, snapshot, &Filter::default(), None)
}

/// The same with only those stacks that fit the filter, and the ids of those that stand together.
///
/// # Errors
/// Those of `out`.
pub fn write_picked(
    mut out: impl io::Write,
    snapshot: &Snapshot,
    filter: &Filter,
    group: Option<GroupBy>,
) -> io::Result<()> {
    serde_json::to_writer(&mut out, &Dump::of(snapshot, filter, group)).map_err(io::Error::from)?;
    writeln!(out)
}

/// The object that `dump --json` prints.
#[derive(Serialize)]
struct Dump<'s> {
    schema: &'static str,
    schema_version: u32,
    complete: bool,
    warnings: Vec<String>,
    blind_spots: Vec<BlindSpot<'s>>,
    process: Process<'s>,
    stopped_ns: u64,
    instant: &'static str,
    /// The signal that ended the process.
    fault: Option<Fault>,
    totals: Totals,
    threads: Vec<Thread<'s>>,
    /// How many there are, whatever the filter picks.
    stacks_total: usize,
    stacks: Vec<Stack<'s>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<Group<'s>>>,
}

/// Stacks that are equal in what they are grouped by.
#[derive(Serialize)]
struct Group<'s> {
    kind: &'static str,
    /// The function or the word; `null` for whole backtraces, and if it is not known.
    common: Option<&'s str>,
    count: usize,
    stacks: Vec<usize>,
}

/// Something that is known to be not seen.
#[derive(Serialize)]
struct BlindSpot<'s> {
    kind: &'static str,
    module: Option<&'s str>,
    address: Option<String>,
    bytes: Option<u64>,
    count: Option<u64>,
}

impl<'s> BlindSpot<'s> {
    fn of(spot: &'s snapshot::BlindSpot) -> BlindSpot<'s> {
        BlindSpot {
            kind: spot.kind.word(),
            module: spot.module.as_deref(),
            address: spot.address.map(|address| address.to_string()),
            bytes: spot.bytes,
            count: spot.count,
        }
    }
}

#[derive(Serialize)]
struct Process<'s> {
    pid: i32,
    command: &'s [String],
    arch: &'static str,
    source: &'static str,
}

#[derive(Serialize)]
struct Totals {
    stacks: usize,
    by_kind: BTreeMap<&'static str, usize>,
    by_state: BTreeMap<&'static str, usize>,
}

#[derive(Serialize)]
struct Thread<'s> {
    tid: i32,
    name: Option<&'s str>,
    stack: usize,
}

#[derive(Serialize)]
struct Stack<'s> {
    id: usize,
    kind: &'static str,
    name: Option<&'s str>,
    source: Option<&'s str>,
    state: &'static str,
    thread: Option<i32>,
    low: Option<Hex>,
    high: Option<Hex>,
    size: Option<u64>,
    bounds_from: &'static str,
    sp: Option<Hex>,
    used: Option<u64>,
    peak: Option<Peak>,
    touched_below: Option<TouchedBelow>,
    guard: Guard,
    level: Option<&'static str>,
    entry: Option<&'s str>,
    top: Option<&'s str>,
    switches: Unmeasured,
    on_cpu_ns: Unmeasured,
    suspended_ns: Unmeasured,
    moved: Option<bool>,
    frames: Vec<Frame<'s>>,
    ended: &'static str,
    resumed_by: Option<ResumedBy>,
    last_resumer: Unmeasured,
    confidence: &'static str,
}

/// What this look at the target did not measure: `null`.
#[derive(Serialize)]
struct Unmeasured;

#[derive(Serialize)]
pub(super) struct Peak {
    bytes: u64,
    method: &'static str,
}

/// Pages that were touched below the peak, and are not counted.
#[derive(Serialize)]
pub(super) struct TouchedBelow {
    bytes: u64,
    pages: u64,
}

#[derive(Serialize)]
struct Guard {
    state: &'static str,
    low: Option<Hex>,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct ResumedBy {
    stack: usize,
    found_by: &'static str,
}

/// A frame, or a function inlined into the frame after it.
#[derive(Serialize)]
pub(super) struct Frame<'s> {
    pc: Hex,
    cfa: Option<Hex>,
    function: Option<&'s str>,
    offset: Option<u64>,
    module: Option<&'s str>,
    file: Option<&'s str>,
    line: Option<u32>,
    inlined: bool,
    bytes: Option<u64>,
    found_by: &'static str,
}

/// A verdict in JSON.
#[derive(Serialize)]
pub(super) struct Fault {
    signal: i32,
    signal_name: String,
    code: i32,
    address: Option<Hex>,
    thread: i32,
    cause: &'static str,
    /// The id, in the look, of the stack that was run out of or whose guard was touched.
    stack: Option<usize>,
    way: Option<&'static str>,
    past: Option<u64>,
    /// The id of the stack whose memory it ran in.
    neighbour: Option<usize>,
}

/// A verdict as JSON has it.
pub(super) fn fault(verdict: Verdict) -> Fault {
    let Verdict { fault: taken, cause } = verdict;
    let overflow = verdict.overflow();
    let stack = match cause {
        Cause::Guard { stack, .. } => Some(stack),
        _ => overflow.map(|overflow| overflow.stack),
    };
    Fault {
        signal: taken.raised.signal,
        signal_name: signal_name(taken.raised.signal),
        code: taken.raised.code,
        address: taken.address().map(Hex),
        thread: taken.thread,
        cause: cause.word(),
        stack: stack.map(|on| on.id),
        way: overflow.map(|overflow| overflow.way.word()),
        past: overflow.map(|overflow| overflow.past),
        neighbour: overflow.and_then(|overflow| overflow.neighbour).map(|on| on.id),
    }
}

/// An address, written as `"0x…"`.
pub(super) struct Hex(pub(super) Addr);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'s> Dump<'s> {
    fn of(snapshot: &'s Snapshot, filter: &Filter, group: Option<GroupBy>) -> Dump<'s> {
        let threads = snapshot.threads.iter();
        let stacks = snapshot.stacks.iter().enumerate().filter(|(id, _)| filter.matches(snapshot, *id));
        let groups = group.map(|key| {
            group::by(snapshot, filter, key).into_iter().map(|group| Group::of(snapshot, group, key)).collect()
        });
        Dump {
            schema: "stackscope-dump",
            schema_version: SCHEMA_VERSION,
            complete: snapshot.complete,
            warnings: snapshot.warnings.iter().map(|warning| Sentence(warning).to_string()).collect(),
            blind_spots: snapshot.blind_spots.iter().map(BlindSpot::of).collect(),
            process: Process {
                pid: snapshot.process.pid,
                command: &snapshot.process.command,
                arch: snapshot.arch.name,
                source: match snapshot.process.source {
                    Source::Live => "live",
                    Source::Core => "core",
                    Source::This => "self",
                },
            },
            stopped_ns: u64::try_from(snapshot.stopped.as_nanos()).unwrap_or(u64::MAX),
            // Every look stops the program for a copy of all contexts.
            instant: "one",
            fault: judge(snapshot).map(fault),
            totals: Totals {
                stacks: snapshot.stacks.len(),
                by_kind: tally(snapshot.stacks.iter().map(|stack| stack.kind.word())),
                by_state: tally(snapshot.stacks.iter().map(|stack| stack.state.word())),
            },
            threads: threads
                .map(|thread| Thread { tid: thread.tid, name: thread.name.as_deref(), stack: thread.stack })
                .collect(),
            stacks_total: snapshot.stacks.len(),
            stacks: stacks.map(|(id, stack)| Stack::of(snapshot, id, stack)).collect(),
            groups,
        }
    }
}

impl<'s> Group<'s> {
    fn of(snapshot: &'s Snapshot, group: group::Group, key: GroupBy) -> Group<'s> {
        Group {
            kind: group.stacks.first().map_or(Kind::Unknown, |id| snapshot.stacks[*id].kind).word(),
            common: group::common(snapshot, &group, key),
            count: group.stacks.len(),
            stacks: group.stacks,
        }
    }
}

impl<'s> Stack<'s> {
    fn of(snapshot: &'s Snapshot, id: usize, stack: &'s SnapshotStack) -> Stack<'s> {
        Stack {
            id,
            kind: stack.kind.word(),
            name: stack.name.as_deref(),
            source: stack.source.as_deref(),
            state: stack.state.word(),
            thread: stack.thread,
            low: stack.bounds.low.map(Hex),
            high: stack.bounds.high.map(Hex),
            size: stack.size(),
            bounds_from: match stack.bounds.from {
                BoundsFrom::Registered => "registered",
                BoundsFrom::Call => "call",
                BoundsFrom::Guard => "guard",
                BoundsFrom::Mapping => "mapping",
                BoundsFrom::Malloc => "malloc",
                BoundsFrom::Thread => "thread",
                BoundsFrom::Inferred => "inferred",
            },
            sp: stack.sp.map(Hex),
            used: stack.used(),
            peak: stack.peak.map(peak),
            touched_below: stack.peak.and_then(|peak| peak.apart).map(touched_below),
            guard: guard(stack.bounds.guard),
            level: stack.level().map(Level::word),
            entry: stack.entry.as_deref(),
            top: snapshot.top(id).map(AsRef::as_ref),
            switches: Unmeasured,
            on_cpu_ns: Unmeasured,
            suspended_ns: Unmeasured,
            moved: snapshot.moved(id),
            frames: stack.frames.iter().flat_map(|frame| frames(snapshot, frame)).collect(),
            ended: match stack.ended {
                Ended::Root => "root",
                Ended::NoRule => "no_rule",
                Ended::Unreadable(_) => "unreadable",
                Ended::Repeats => "repeats",
                Ended::TooDeep => "too_deep",
            },
            resumed_by: stack.resumed_by.map(|resumer| resumed_by(snapshot, resumer)),
            last_resumer: Unmeasured,
            confidence: stack.confidence.word(),
        }
    }
}

/// The link to the stack that a stitched backtrace goes on with. The rules lead to it, or, if its context was found in
/// memory, what its switch routine saved there.
fn resumed_by(snapshot: &Snapshot, stack: usize) -> ResumedBy {
    let first = snapshot.stacks.get(stack).and_then(|stack| stack.frames.first());
    let is_saved = first.is_some_and(|first| first.frame.found_by == FoundBy::Descriptor);
    ResumedBy { stack, found_by: if is_saved { "switch" } else { "cfi" } }
}

/// The functions inlined at a frame, innermost first, and then the frame itself.
pub(super) fn frames<'s>(snapshot: &'s Snapshot, frame: &StackFrame) -> Vec<Frame<'s>> {
    let place = snapshot.place(frame.frame.pc);
    let bare = || Frame {
        pc: Hex(frame.frame.pc.addr()),
        cfa: frame.frame.cfa.map(Hex),
        function: None,
        offset: None,
        module: place.module.as_deref(),
        file: None,
        line: None,
        inlined: false,
        bytes: frame.bytes,
        found_by: match frame.frame.found_by {
            FoundBy::Context => "context",
            FoundBy::Descriptor => "descriptor",
            FoundBy::Cfi => "cfi",
            FoundBy::FramePointer => "frame_pointer",
            FoundBy::Scan => "scan",
        },
    };
    if place.names.is_empty() {
        return vec![bare()];
    }
    let named = place.names.iter().map(|name| Frame {
        function: name.function.as_deref(),
        offset: name.offset,
        file: name.file.as_deref(),
        line: name.line,
        inlined: name.inlined,
        bytes: frame.bytes.filter(|_| !name.inlined),
        ..bare()
    });
    named.collect()
}

pub(super) fn peak(peak: StackPeak) -> Peak {
    Peak { bytes: peak.bytes, method: peak.method.word() }
}

pub(super) fn touched_below(apart: Apart) -> TouchedBelow {
    TouchedBelow { bytes: apart.bytes, pages: apart.pages }
}

fn guard(guard: StackGuard) -> Guard {
    let range = match guard {
        StackGuard::Ok(range) => Some(range),
        StackGuard::None | StackGuard::Grows | StackGuard::Unknown => None,
    };
    Guard { state: guard.word(), low: range.map(|range| Hex(range.low)), bytes: range.map(|range| range.len()) }
}

fn tally(words: impl Iterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}
