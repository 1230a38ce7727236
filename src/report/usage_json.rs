//! The report at the end of a watched run as JSON: the keys and words of `docs/JSON.md`.
//!
//! As in [`super::json`], the types here are the format. What only probes can tell is `null`, or an empty list.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

use serde::Serialize;

use super::json::{self, Fault, Frame, Hex, frames};
use super::route;
use super::suggest::{Suggested, saved_bytes, suggested, suggested_size};
use super::switches;
use super::verdict;
use super::warnings::MissedSentence;
use crate::events::{By, Did, Fate, Step};
use crate::probe::{BySite, Switches, Unprobed};
use crate::process::Outcome;
use crate::snapshot::{Kind, Level, Snapshot};
use crate::watch::{Coroutine, Deep, End, Event, Fleeting, Group as StackGroup, Watched, signal_name};

/// The version of the format; it changes only where a key is renamed or its meaning changes.
const SCHEMA_VERSION: u32 = 1;

/// The most frames that are listed of one backtrace; `frames_total` says how many there were.
const MOST_FRAMES: usize = 1000;

/// Writes the report as one JSON object and a line end.
///
/// # Errors
/// Those of `out`.
pub fn write(mut out: impl io::Write, watched: &Watched, margin: f64) -> io::Result<()> {
    serde_json::to_writer(&mut out, &Report::of(watched, margin)).map_err(io::Error::from)?;
    writeln!(out)
}

/// The object that `run --json` writes.
#[derive(Serialize)]
struct Report<'w> {
    schema: &'static str,
    schema_version: u32,
    complete: bool,
    warnings: Vec<String>,
    program: Program<'w>,
    coverage: Coverage<'w>,
    switches: Option<Switched<'w>>,
    stacks: Stacks,
    coroutines: Vec<CoroutineRow<'w>>,
    coroutines_total: usize,
    groups: Vec<Group>,
    deepest: Vec<Deepest<'w>>,
    events: Vec<EventRow<'w>>,
    events_total: usize,
    raises_counted: u64,
}

#[derive(Serialize)]
struct Program<'w> {
    command: &'w [String],
    pid: i32,
    exit_code: Option<i32>,
    signal: Option<i32>,
    signal_name: Option<String>,
    duration_ns: u64,
}

#[derive(Serialize)]
struct Coverage<'w> {
    sites_probed: usize,
    sites_unprobed: Vec<NotProbed<'w>>,
    snapshots: usize,
    snapshots_agreeing: Unmeasured,
    period_ns: Option<u64>,
    stopped_ns: u64,
    exact_until_ns: Option<u64>,
}

/// What needs probes to be known: `null`.
#[derive(Serialize)]
struct Unmeasured;

/// A switch site that is not probed.
#[derive(Serialize)]
struct NotProbed<'w> {
    function: Option<&'w str>,
    module: &'w str,
    reason: &'static str,
}

impl<'w> NotProbed<'w> {
    fn of(site: &'w Unprobed) -> NotProbed<'w> {
        let reason = switches::obstacle(site.obstacle);
        NotProbed { function: site.function.as_deref(), module: &site.module, reason }
    }
}

#[derive(Serialize)]
struct Switched<'w> {
    total: u64,
    by_site: Vec<SwitchedAt<'w>>,
}

#[derive(Serialize)]
struct SwitchedAt<'w> {
    function: Option<&'w str>,
    /// `null` for all functions beyond the first few together.
    module: Option<&'w str>,
    count: u64,
    /// Whether these count in the total: they are no jumps within a stack.
    between_stacks: bool,
}

impl<'w> Switched<'w> {
    fn of(noted: &'w Switches) -> Option<Switched<'w>> {
        let at = |site: &'w BySite| SwitchedAt {
            function: site.function.as_deref(),
            module: site.module.as_deref(),
            count: site.count,
            between_stacks: site.switches,
        };
        Some(Switched { total: noted.total?, by_site: noted.by_site.iter().map(at).collect() })
    }
}

#[derive(Serialize)]
struct Stacks {
    total: usize,
    most_at_once: usize,
    /// What shows that stacks live shorter than the time between looks; `null` where nothing does.
    unseen: Option<Unseen>,
}

#[derive(Serialize)]
struct Unseen {
    shorter_than_ns: u64,
    met_once: usize,
    replaced: usize,
}

#[derive(Serialize)]
struct Group {
    kind: &'static str,
    entry: Option<String>,
    count: usize,
    most_at_once: usize,
    size: Option<u64>,
    peak: Option<Peak>,
    touched_below: Option<json::TouchedBelow>,
    guard: Option<&'static str>,
    level: Option<&'static str>,
    suggested_size: Option<u64>,
    /// Why that is `null`.
    no_suggestion: Option<&'static str>,
    ends_unseen: usize,
    saves_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Peak {
    p50: u64,
    p99: u64,
    max: u64,
    method: &'static str,
    /// Whether these are the most over several users of the same stacks.
    pooled: bool,
}

/// When it began and ended is not known from looks alone.
#[derive(Serialize)]
struct CoroutineRow<'w> {
    id: usize,
    stack: Range,
    entry: Option<&'w str>,
    born_ns: Unmeasured,
    ended_ns: Unmeasured,
    switches: Unmeasured,
    on_cpu_ns: Unmeasured,
    peak: Option<json::Peak>,
    touched_below: Option<json::TouchedBelow>,
    /// Whether the peak may be that of an earlier user of the stack.
    pooled: bool,
    last_resumer: Unmeasured,
}

#[derive(Serialize)]
struct Range {
    low: Option<Hex>,
    high: Hex,
}

impl<'w> CoroutineRow<'w> {
    fn of(coroutine: &'w Coroutine) -> CoroutineRow<'w> {
        CoroutineRow {
            id: coroutine.id,
            stack: Range { low: coroutine.low.map(Hex), high: Hex(coroutine.high) },
            entry: coroutine.entry.as_deref(),
            born_ns: Unmeasured,
            ended_ns: Unmeasured,
            switches: Unmeasured,
            on_cpu_ns: Unmeasured,
            peak: coroutine.peak.map(json::peak),
            touched_below: coroutine.peak.and_then(|peak| peak.apart).map(json::touched_below),
            pooled: coroutine.pooled,
            last_resumer: Unmeasured,
        }
    }
}

#[derive(Serialize)]
struct Deepest<'w> {
    coroutine: Option<usize>,
    pid: i32,
    thread: Option<i32>,
    used: u64,
    frames: Vec<Frame<'w>>,
    frames_total: usize,
}

#[derive(Serialize)]
struct EventRow<'w> {
    id: usize,
    kind: &'static str,
    time_ns: u64,
    pid: i32,
    thread: Option<i32>,
    coroutine: Option<usize>,
    message: Cow<'w, str>,
    fault: Option<Fault>,
    frames: Vec<EventFrame<'w>>,
    frames_total: usize,
    route: Vec<RouteStep>,
    result: Option<&'static str>,
    reason: Option<String>,
}

/// A step of a route.
#[derive(Serialize)]
#[serde(untagged)]
enum RouteStep {
    Frame {
        /// Its place in the event's `frames`.
        frame: usize,
        did: &'static str,
    },
    Crossing {
        crossing: CrossingStep,
    },
}

#[derive(Serialize)]
struct CrossingStep {
    from: usize,
    to: usize,
    by: &'static str,
}

/// A frame of a stitched backtrace.
#[derive(Serialize)]
struct EventFrame<'w> {
    /// The id of its stack in the snapshot of that moment: equal for frames of one stack.
    stack: usize,
    #[serde(flatten)]
    frame: Frame<'w>,
}

impl<'w> Report<'w> {
    fn of(watched: &'w Watched, margin: f64) -> Report<'w> {
        let groups = watched.usage.groups();
        let coroutines_total =
            groups.iter().filter(|group| group.kind == Kind::Coroutine).map(|group| group.count).sum();
        let noted = watched.switches.as_ref();
        let missed = watched.missed.iter().map(|missed| MissedSentence(missed).to_string());
        let refused = noted.map_or(&[][..], |noted| &noted.refused).iter().map(|why| switches::refused_sentence(*why));
        Report {
            schema: "stackscope-report",
            schema_version: SCHEMA_VERSION,
            complete: watched.missed.is_empty() && noted.is_none_or(|noted| noted.refused.is_empty() && !noted.is_cut),
            warnings: missed.chain(refused).collect(),
            program: Program::of(watched),
            coverage: Coverage {
                sites_probed: noted.map_or(0, |noted| noted.probed.len()),
                sites_unprobed: noted.map_or_else(Vec::new, |noted| noted.unprobed.iter().map(NotProbed::of).collect()),
                snapshots: watched.looks,
                snapshots_agreeing: Unmeasured,
                period_ns: watched.period.map(nanoseconds),
                stopped_ns: nanoseconds(watched.stopped),
                exact_until_ns: watched.exact_until.map(nanoseconds),
            },
            switches: noted.and_then(Switched::of),
            stacks: Stacks {
                total: watched.usage.total,
                most_at_once: watched.usage.most_at_once,
                unseen: Unseen::of(watched),
            },
            coroutines: watched.usage.coroutines().iter().map(CoroutineRow::of).collect(),
            coroutines_total,
            groups: groups.iter().map(|group| Group::of(group, margin)).collect(),
            deepest: watched.usage.deepest().map(Deepest::of).collect(),
            events: watched.events.kept.iter().map(EventRow::of).collect(),
            events_total: watched.events.total,
            raises_counted: watched.raises_counted,
        }
    }
}

impl Unseen {
    fn of(watched: &Watched) -> Option<Unseen> {
        let Fleeting { met_once, replaced } = watched.usage.fleeting;
        let shorter_than_ns = nanoseconds(watched.longest_unseen());
        (met_once + replaced > 0).then_some(Unseen { shorter_than_ns, met_once, replaced })
    }
}

impl<'w> Program<'w> {
    fn of(watched: &'w Watched) -> Program<'w> {
        let (exit_code, signal) = match watched.end {
            End::Ended(Outcome::Exited(code)) => (Some(code), None),
            End::Ended(Outcome::Killed { signal, .. }) => (None, Some(signal)),
            End::Vanished | End::Left => (None, None),
        };
        Program {
            command: &watched.command,
            pid: watched.pid,
            exit_code,
            signal,
            signal_name: signal.map(signal_name),
            duration_ns: nanoseconds(watched.duration),
        }
    }
}

impl Group {
    fn of(group: &StackGroup, margin: f64) -> Group {
        let peak = group.peaks.map(|peaks| Peak {
            p50: peaks.p50,
            p99: peaks.p99,
            max: peaks.max,
            method: peaks.method.word(),
            pooled: group.pooled,
        });
        Group {
            kind: group.kind.word(),
            entry: group.entry.as_deref().map(str::to_owned),
            count: group.count,
            most_at_once: group.most_at_once,
            size: group.size,
            peak,
            touched_below: group.apart.map(json::touched_below),
            guard: group.guarded.map(|guarded| match guarded {
                Some(true) => "ok",
                Some(false) => "none",
                None => "mixed",
            }),
            level: group.level().map(Level::word),
            suggested_size: suggested_size(group, margin),
            no_suggestion: match suggested(group, margin) {
                Suggested::Size(_) => None,
                Suggested::Keep(why) => Some(why.word()),
            },
            ends_unseen: group.ends_unseen,
            saves_bytes: saved_bytes(group, margin),
        }
    }
}

impl<'w> Deepest<'w> {
    fn of(deep: &'w Deep) -> Deepest<'w> {
        let snapshot = &deep.look.snapshot;
        let stack = snapshot.stacks.get(deep.look.stack);
        let all = stack.map_or(0, |stack| stack.frames.len());
        Deepest {
            coroutine: deep.coroutine,
            pid: snapshot.process.pid,
            thread: stack.and_then(|stack| stack.thread),
            used: deep.used,
            frames: frames_of(snapshot, deep.look.stack).take(MOST_FRAMES).collect(),
            frames_total: all,
        }
    }
}

impl<'w> EventRow<'w> {
    fn of(event: &'w Event) -> EventRow<'w> {
        let stitched = event.look.iter().flat_map(|look| {
            let of_stack = |stack| {
                let id = look.snapshot.id(stack);
                frames_of(&look.snapshot, stack).map(move |frame| EventFrame { stack: id, frame })
            };
            look.snapshot.stitched(look.stack).flat_map(of_stack)
        });
        let frames_in =
            |stack: usize, snapshot: &Snapshot| snapshot.stacks.get(stack).map_or(0, |stack| stack.frames.len());
        let total = event
            .look
            .iter()
            .flat_map(|look| look.snapshot.stitched(look.stack).map(|stack| frames_in(stack, &look.snapshot)));
        EventRow {
            id: event.id,
            kind: event.kind.word(),
            time_ns: nanoseconds(event.time),
            pid: event.pid,
            thread: event.thread,
            coroutine: event.coroutine,
            message: verdict::message(event),
            fault: event.verdict.as_deref().copied().map(json::fault),
            frames: stitched.take(MOST_FRAMES).collect(),
            frames_total: total.sum(),
            route: route_of(event),
            result: event.fate.or(event.killed.then_some(Fate::Killed)).map(fate_word),
            reason: route::outcome(event),
        }
    }
}

fn fate_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Caught => "caught",
        Fate::Abort => "abort",
        Fate::Exit => "exit",
        Fate::Killed => "killed",
    }
}

/// A route by the places that its frames have in the event's list: there, what was inlined has rows of its own, which
/// share their function's part.
fn route_of(event: &Event) -> Vec<RouteStep> {
    let Some(look) = &event.look else { return Vec::new() };
    let mut places = HashMap::new();
    let mut next = 0;
    for stack in look.snapshot.stitched(look.stack) {
        let of_stack = look.snapshot.stacks.get(stack).map_or(&[][..], |stack| &stack.frames);
        for (number, frame) in of_stack.iter().enumerate() {
            let rows = frames(&look.snapshot, frame).len();
            places.insert((stack, number), next..next + rows);
            next += rows;
        }
    }
    let mut steps = Vec::new();
    for step in &event.route.steps {
        match *step {
            Step::Frame { stack, frame, did } => {
                let rows = places.get(&(stack, frame)).cloned().unwrap_or_default();
                let listed = rows.filter(|row| *row < MOST_FRAMES);
                steps.extend(listed.map(|frame| RouteStep::Frame { frame, did: did_word(did) }));
            }
            Step::Crossing { from, to, by } => {
                let (from, to) = (look.snapshot.id(from), look.snapshot.id(to));
                let by = match by {
                    By::Cfi => "cfi",
                    By::Reraise => "reraise",
                };
                steps.push(RouteStep::Crossing { crossing: CrossingStep { from, to, by } });
            }
        }
    }
    steps
}

fn did_word(did: Did) -> &'static str {
    match did {
        Did::Searched => "searched",
        Did::CleanedUp => "cleaned_up",
        Did::Stopped => "stopped",
        Did::NotReached => "not_reached",
    }
}

fn frames_of(snapshot: &Snapshot, stack: usize) -> impl Iterator<Item = Frame<'_>> {
    snapshot.stacks.get(stack).into_iter().flat_map(|stack| &stack.frames).flat_map(|frame| frames(snapshot, frame))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
