//! A snapshot as text: the stacks in danger first, then the deepest; equal ones together; recursion folded.

use std::fmt::{self, Write};

use super::backtrace::{self, FrameRow, Row};
use super::group::{self, Group};
use super::style::{Style, Tone};
use super::units;
use super::words::{capital, guard_words, plural, singular, state_word, thread_words};
use crate::image::printable;
use crate::snapshot::{Confidence, Kind, Level, Snapshot, Stack, State};

/// The most numbers of equal stacks that a heading lists.
const MOST_LISTED: usize = 8;

/// Whether equal stacks stand together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Equal stacks are shown once, with how many there are.
    Grouped,
    /// Every stack is shown by itself.
    Singly,
}

/// Writes `snapshot` as text.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, listing: Listing, style: Style) -> fmt::Result {
    head(out, snapshot, style)?;
    let groups = match listing {
        Listing::Grouped => group::by_stack(snapshot),
        Listing::Singly => group::singly(snapshot),
    };
    for group in &groups {
        writeln!(out)?;
        write_group(out, snapshot, group, style)?;
    }
    foot(out, snapshot, style)
}

fn head(out: &mut impl Write, snapshot: &Snapshot, style: Style) -> fmt::Result {
    let command = snapshot.process.command.join(" ");
    let title = format!("Process {}: {}", snapshot.process.pid, style.fit(&printable(&command)));
    writeln!(out, "{}", style.paint(Tone::Strong, title.trim_end_matches([':', ' '])))?;
    let of_kind = |kind| snapshot.stacks.iter().filter(|stack| stack.kind == kind).count();
    let kinds = [Kind::Thread, Kind::Coroutine, Kind::Segment, Kind::Signal, Kind::Unknown];
    let parts = kinds.map(|kind| (of_kind(kind), kind)).into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> =
        parts.map(|(count, kind)| format!("{} {}", units::count(count), plural(kind, count))).collect();
    let total = units::count(snapshot.stacks.len());
    let stacks = if snapshot.stacks.len() == 1 { "stack" } else { "stacks" };
    write!(out, "{total} {stacks}: {}", parts.join(", "))?;
    if !snapshot.stopped.is_zero() {
        write!(out, "    stopped {}", style.fit(&units::time(snapshot.stopped)))?;
    }
    writeln!(out)
}

fn foot(out: &mut impl Write, snapshot: &Snapshot, style: Style) -> fmt::Result {
    if !snapshot.warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in &snapshot.warnings {
        writeln!(out, "{} {}", style.paint(Tone::Warning, "warning:"), style.fit(&printable(warning)))?;
    }
    if !snapshot.complete {
        writeln!(out, "Not everything could be read.")?;
    }
    Ok(())
}

fn write_group(out: &mut impl Write, snapshot: &Snapshot, group: &Group, style: Style) -> fmt::Result {
    let stack = &snapshot.stacks[group.stacks[0]];
    if group.stacks.len() == 1 {
        let heading = heading(snapshot, group.stacks[0]);
        writeln!(out, "{}", style.paint(Tone::Strong, &style.fit(&heading)))?;
        if stack.sp.is_none() {
            return writeln!(out, "  not seen: the thread was not stopped");
        }
        writeln!(out, "  {}", measures(stack, style))?;
    } else {
        writeln!(out, "{}", style.paint(Tone::Strong, &style.fit(&group_heading(snapshot, group))))?;
        writeln!(out, "  {}", group_measures(snapshot, group, style))?;
    }
    write_backtrace(out, snapshot, group.stacks[0], style)
}

/// The frames of a stack, and of those that its stitched backtrace goes on with.
pub(super) fn write_backtrace(out: &mut impl Write, snapshot: &Snapshot, id: usize, style: Style) -> fmt::Result {
    for row in backtrace::rows(snapshot, id) {
        match row {
            Row::Frame(frame) => write_frame(out, &frame, style)?,
            Row::Crossing { words, stack } => {
                let line = style.paint(Tone::Strong, &style.fit(&format!("-- {words} --")));
                writeln!(out, "  {line}  {}", measures(&snapshot.stacks[stack], style))?;
            }
            Row::Ended(reason) => writeln!(out, "  {:>7}  {}", "", style.paint(Tone::Warning, &format!("({reason})")))?,
        }
    }
    Ok(())
}

fn write_frame(out: &mut impl Write, frame: &FrameRow, style: Style) -> fmt::Result {
    let size = match frame.inlined {
        true => String::new(),
        false => frame.bytes.map_or("-".to_owned(), units::bytes),
    };
    let place = frame.place.as_ref().map_or(String::new(), |place| format!(" ({place})"));
    let note = frame.note.map_or(String::new(), |note| format!("  {note}"));
    let times = if frame.times > 1 { format!("  {}{}", style.times(), frame.times) } else { String::new() };
    let text = style.fit(&format!("{}{place}{note}", frame.function));
    writeln!(out, "  {size:>7}  {text}{times}")
}

/// `Thread 48213 "chatd"`, `Coroutine 7 (on thread 48216 "worker-2")`.
fn heading(snapshot: &Snapshot, id: usize) -> String {
    let stack = &snapshot.stacks[id];
    let thread = snapshot.threads.iter().find(|thread| Some(thread.tid) == stack.thread);
    let signal = thread.and_then(|thread| thread.signal);
    let signal = signal.map_or(String::new(), |signal| format!("  ended by signal {signal}"));
    let kind = capital(singular(stack.kind));
    match (stack.kind, stack.thread) {
        (Kind::Thread, Some(_)) => format!("{}{signal}", capital(&thread_words(stack.thread, snapshot))),
        (_, Some(_)) => format!("{kind} {id} (on {}){signal}", thread_words(stack.thread, snapshot)),
        (_, None) => format!("{kind} {id}, {}{}", state_word(stack.state), doubt(stack.confidence)),
    }
}

/// The mark of what memory does not tell for certain.
fn doubt(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "",
        Confidence::Likely => " (likely)",
        Confidence::Guess => " (a guess)",
    }
}

/// `19 threads "python3", same stack: 1107 1013 … (--all)`.
fn group_heading(snapshot: &Snapshot, group: &Group) -> String {
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
    let state = match first.state {
        State::Running => String::new(),
        state => format!(", {}{}", state_word(state), doubt(first.confidence)),
    };
    format!("{count} {kind}{name}{state}, same stack: {}{more} (--all)", listed.join(" "))
}

/// Where a stack lies and how much of it is used.
fn measures(stack: &Stack, style: Style) -> String {
    let mut parts = Vec::new();
    let range = stack.bounds.range().map_or("stack".to_owned(), |range| format!("stack {range}"));
    parts.push(stack.sp.map_or(range.clone(), |sp| format!("{range} sp={:x}", sp.0)));
    parts.extend(stack.used().map(|used| format!("now {}", units::bytes(used))));
    let of_size = stack.size().map_or(String::new(), |size| format!(" of {}", units::bytes(size)));
    match stack.peak {
        Some(peak) => {
            let percent = stack.size().map_or(String::new(), |size| format!(" ({} %)", percent(peak.bytes, size)));
            parts.push(format!("peak {}{}{of_size}{percent}", style.about(), units::bytes(peak.bytes)));
        }
        None if !of_size.is_empty() => parts.push(of_size.trim_start().to_owned()),
        None => {}
    }
    parts.extend(level_word(stack.level()).map(|(word, tone)| style.paint(tone, word)));
    parts.push(guard_words(stack.bounds.guard));
    parts.join("  ")
}

/// The same for stacks with equal frames, as ranges from the least to the most.
fn group_measures(snapshot: &Snapshot, group: &Group, style: Style) -> String {
    let members = || group.stacks.iter().map(|id| &snapshot.stacks[*id]);
    let mut parts = Vec::new();
    parts.extend(spread(members().filter_map(Stack::used)).map(|spread| format!("now {spread}")));
    let size = spread(members().filter_map(Stack::size));
    let peak = spread(members().filter_map(|stack| stack.peak.map(|peak| peak.bytes)));
    parts.extend(peak.map(|peak| format!("peak {}{peak}", style.about())));
    if let (Some(last), Some(size)) = (parts.last_mut(), size) {
        let _ = write!(last, " of {size}");
    }
    let level = members().filter_map(Stack::level).max();
    parts.extend(level_word(level).map(|(word, tone)| style.paint(tone, word)));
    let guard = guard_words(snapshot.stacks[group.stacks[0]].bounds.guard);
    let same = members().all(|stack| guard_words(stack.bounds.guard) == guard);
    parts.push(if same { guard } else { "guards differ".to_owned() });
    parts.join("  ")
}

fn spread(values: impl Iterator<Item = u64> + Clone) -> Option<String> {
    let (least, most) = (values.clone().min()?, values.max()?);
    Some(if least == most { units::bytes(most) } else { format!("{}..{}", units::bytes(least), units::bytes(most)) })
}

pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (u128::from(part) * 100 / u128::from(whole)) as u64 }
}

fn level_word(level: Option<Level>) -> Option<(&'static str, Tone)> {
    match level? {
        Level::Ok => None,
        Level::Warn => Some(("WARN", Tone::Warning)),
        Level::High => Some(("HIGH", Tone::Danger)),
        Level::Over => Some(("OVER", Tone::Danger)),
    }
}
