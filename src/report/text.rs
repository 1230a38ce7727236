//! A snapshot as text: the stacks in danger first, then the deepest; equal ones together; recursion folded.

use std::fmt::{self, Write};

use super::fold::fold;
use super::group::{self, Code, Group};
use super::style::{Style, Tone};
use super::units;
use crate::discover::bounds::Guard;
use crate::image::names::Name;
use crate::image::printable;
use crate::snapshot::{Confidence, Kind, Level, Snapshot, Stack, StackFrame, State};
use crate::unwind::{Ended, FoundBy};

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
    write_frames(out, snapshot, &snapshot.stacks[id], style)?;
    let ids: Vec<usize> = snapshot.stitched(id).collect();
    for pair in ids.windows(2) {
        let (inner, outer) = (&snapshot.stacks[pair[0]], &snapshot.stacks[pair[1]]);
        let from = match outer.kind {
            Kind::Thread => thread_words(snapshot.stacks[id].thread, snapshot),
            _ => format!("{} {}", singular(outer.kind), pair[1]),
        };
        let line = format!("-- {} {from} --", crossing_words(inner.kind));
        writeln!(out, "  {}  {}", style.paint(Tone::Strong, &style.fit(&line)), measures(outer, style))?;
        write_frames(out, snapshot, outer, style)?;
    }
    Ok(())
}

/// How the chain comes from a stack of this kind to the next.
fn crossing_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Signal => "interrupted",
        Kind::Segment => "grown from",
        _ => "resumed by",
    }
}

/// `thread 48213 "chatd"`.
fn thread_words(tid: Option<i32>, snapshot: &Snapshot) -> String {
    let thread = snapshot.threads.iter().find(|thread| Some(thread.tid) == tid);
    thread.map_or("a thread".to_owned(), |thread| format!("thread {}{}", thread.tid, quoted(&thread.name)))
}

fn quoted(name: &Option<String>) -> String {
    name.as_ref().map_or(String::new(), |name| format!(" \"{}\"", printable(name)))
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

fn state_word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Resuming => "resuming",
        State::Suspended => "suspended",
        State::New => "new",
        State::Finished => "finished",
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

fn percent(part: u64, whole: u64) -> u64 {
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

fn guard_words(guard: Guard) -> String {
    match guard {
        Guard::Ok(range) => format!("guard {} ok", units::bytes(range.len())),
        Guard::None => "no guard".to_owned(),
        Guard::Grows => "grows".to_owned(),
        Guard::Unknown => "guard unknown".to_owned(),
    }
}

/// One line of a backtrace: a function, inlined or not, with the bytes that its frame takes.
struct Row<'s> {
    bytes: Option<u64>,
    inlined: bool,
    text: String,
    /// By what two rows are the same for folding.
    key: (Code<'s>, bool, FoundBy),
}

fn write_frames(out: &mut impl Write, snapshot: &Snapshot, stack: &Stack, style: Style) -> fmt::Result {
    let rows: Vec<Row> = stack.frames.iter().flat_map(|frame| frame_rows(snapshot, frame)).collect();
    let keys: Vec<_> = rows.iter().map(|row| row.key).collect();
    for fold in fold(&keys) {
        for at in fold.first..fold.first + fold.length {
            let repeats = (0..fold.times).map(|round| &rows[at + round * fold.length]);
            let bytes = repeats.map(|row| row.bytes).try_fold(0u64, |sum, bytes| sum.checked_add(bytes?));
            let row = &rows[at];
            let size = if row.inlined { String::new() } else { bytes.map_or("-".to_owned(), units::bytes) };
            let times = if fold.times > 1 { format!("  {}{}", style.times(), fold.times) } else { String::new() };
            writeln!(out, "  {size:>7}  {}{times}", style.fit(&row.text))?;
        }
    }
    if let Some(reason) = ended_words(stack.ended) {
        writeln!(out, "  {:>7}  {}", "", style.paint(Tone::Warning, &format!("({reason})")))?;
    }
    Ok(())
}

fn frame_rows<'s>(snapshot: &'s Snapshot, frame: &StackFrame) -> Vec<Row<'s>> {
    let place = snapshot.place(frame.frame.pc);
    let mark = match frame.frame.found_by {
        FoundBy::Context | FoundBy::Descriptor | FoundBy::Cfi => "",
        FoundBy::FramePointer => "  (by frame pointer)",
        FoundBy::Scan => "  (by scan: a guess)",
    };
    if place.names.is_empty() {
        let pc = frame.frame.pc.addr();
        let module = place.module.as_deref().map_or(String::new(), |module| format!(" ({})", printable(module)));
        let text = format!("?? {pc}{module}{mark}");
        return vec![Row {
            bytes: frame.bytes,
            inlined: false,
            text,
            key: (Code::Address(frame.frame.pc), false, frame.frame.found_by),
        }];
    }
    let rows = place.names.iter().map(|name| {
        let function = name.function.as_deref().map_or("??".into(), printable);
        let at = location(name, place.module.as_deref());
        let note = if name.inlined { "  inlined" } else { mark };
        Row {
            bytes: if name.inlined { Some(0) } else { frame.bytes },
            inlined: name.inlined,
            text: format!("{function}{at}{note}"),
            key: (
                name.function.as_deref().map_or(Code::Address(frame.frame.pc), Code::Function),
                name.inlined,
                frame.frame.found_by,
            ),
        }
    });
    rows.collect()
}

/// ` (src/proto.rs:88)`; the module's name where there are no lines.
fn location(name: &Name, module: Option<&str>) -> String {
    let Some(file) = &name.file else {
        return module.map_or(String::new(), |module| format!(" ({})", printable(module)));
    };
    // An absolute path is mostly the build machine's; its last part is what people know the file by.
    let short = if file.starts_with('/') { file.rsplit('/').next().unwrap_or(file) } else { file };
    match name.line {
        Some(line) => format!(" ({}:{line})", printable(short)),
        None => format!(" ({})", printable(short)),
    }
}

fn ended_words(ended: Ended) -> Option<String> {
    match ended {
        Ended::Root => None,
        Ended::NoRule => Some("ends here: nothing tells how to unwind this code".to_owned()),
        Ended::Unreadable(at) => Some(format!("ends here: the stack at {at} cannot be read")),
        Ended::Repeats => Some("ends here: the same frame comes again".to_owned()),
        Ended::TooDeep => Some("cut here: too many frames".to_owned()),
    }
}

fn singular(kind: Kind) -> &'static str {
    match kind {
        Kind::Thread => "thread",
        Kind::Coroutine => "coroutine",
        Kind::Segment => "segment",
        Kind::Signal => "signal stack",
        Kind::Unknown => "stack of unknown kind",
    }
}

fn plural(kind: Kind, count: usize) -> String {
    match (kind, count) {
        (_, 1) => singular(kind).to_owned(),
        (Kind::Unknown, _) => "stacks of unknown kind".to_owned(),
        _ => format!("{}s", singular(kind)),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
