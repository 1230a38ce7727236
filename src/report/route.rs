//! The route of what was raised, in words: each frame, what was done with it, and each crossing to another stack.

use std::fmt::{self, Write};
use std::sync::Arc;

use super::style::{Style, Tone};
use super::words::{capital, quoted, singular};
use super::{backtrace, units};
use crate::events::{By, Did, Fate, Step};
use crate::image::names::Name;
use crate::image::printable;
use crate::snapshot::{Kind, Snapshot};
use crate::watch::{Event, EventKind, Reason, Sight};

/// Whether an event's route is known.
pub(crate) fn has_route(event: &Event) -> bool {
    !event.route.steps.is_empty()
}

/// What became of it, and why: `caught in main`; `None` if that is not known.
pub(crate) fn outcome(event: &Event) -> Option<String> {
    let stop = stopped_in(event).map(|name| shortened(&printable(&name)));
    let stop = stop.as_deref().unwrap_or("a function without a name");
    Some(match (event.fate?, event.reason) {
        (Fate::Caught, _) => format!("caught in {stop}"),
        (Fate::Abort, Some(Reason::MayNotPass)) => format!("abort: nothing may unwind out of {stop}"),
        (Fate::Abort, Some(Reason::InCleanUp)) => {
            format!("abort: raised while {stop} was cleaned up for what was raised before")
        }
        (Fate::Abort, Some(Reason::CleanUpFailed)) => {
            "abort: what cleaned up for it raised something itself".to_owned()
        }
        (Fate::Abort, Some(Reason::Nobody)) => "abort: nobody catches it".to_owned(),
        (Fate::Abort, Some(Reason::NeverUnwinds)) => {
            "abort: this panic may not unwind, or the program is built so that none does".to_owned()
        }
        (Fate::Abort, None) => "abort".to_owned(),
        (Fate::Exit, _) if event.kind == EventKind::ForcedUnwind => "the thread ended".to_owned(),
        (Fate::Exit, _) => "it left main, and the program ended by its exit code".to_owned(),
        (Fate::Killed, _) => "killed".to_owned(),
    })
}

/// The beginning of a name: those of templates may fill a page.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 100;
    let mut short: String = name.chars().take(LONGEST).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

/// The function in which it stopped.
fn stopped_in(event: &Event) -> Option<Arc<str>> {
    let look = event.look.as_ref()?;
    let (stack, frame) = event.route.stopped_in()?;
    look.snapshot.holder(stack, frame).cloned()
}

/// One line of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Row {
    /// The frames of another stack follow: what it is, and its index in the event's snapshot.
    Stack(String, usize),
    /// The unwinding came from one stack to another: how, and the index of that one.
    Crossing(String, usize),
    /// A frame, and what was done with it; or several that follow each other and are equal.
    Frame(FrameRow),
    /// Frames that are not shown: what they are, and how many.
    Left(&'static str, usize),
}

/// A frame of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FrameRow {
    pub(crate) did: Did,
    pub(crate) function: String,
    pub(crate) place: Option<String>,
    pub(crate) inlined: bool,
    /// What all of them take; 0 if they are inlined.
    pub(crate) bytes: Option<u64>,
    pub(crate) times: usize,
}

/// The rows of an event's route. Of frames in code that is not the program's own, only those are shown in which something
/// was done.
pub(crate) fn rows(event: &Event) -> Vec<Row> {
    let Some(look) = &event.look else { return Vec::new() };
    let mut writer = Writer { look, rows: Vec::new(), on: None, raised: false, left: Vec::new() };
    for step in &event.route.steps {
        match *step {
            Step::Crossing { to, by, .. } => writer.crossing(to, by),
            Step::Frame { stack, frame, did } => writer.frame(stack, frame, did),
        }
    }
    writer.close();
    writer.rows
}

/// Writes rows, and collects what is not worth one each.
struct Writer<'e> {
    look: &'e Sight,
    rows: Vec<Row>,
    on: Option<usize>,
    /// Whether the first function of the program's own code was met: what lies inside it only raises.
    raised: bool,
    /// Frames that are left out, unless there is but one.
    left: Vec<(usize, usize, Did)>,
}

impl Writer<'_> {
    fn crossing(&mut self, to: usize, by: By) {
        self.close();
        let how = match by {
            By::Cfi => "the unwinder goes on there",
            By::Reraise => "it was caught, and is raised again there",
        };
        self.rows.push(Row::Crossing(format!("crossing to {}: {how}", stack_words(self.look, to)), to));
    }

    fn frame(&mut self, stack: usize, frame: usize, did: Did) {
        if self.on != Some(stack) {
            self.close();
            self.rows.push(Row::Stack(capital(&stack_words(self.look, stack)), stack));
            self.on = Some(stack);
        }
        let snapshot = &self.look.snapshot;
        let found = snapshot.stacks.get(stack).and_then(|stack| stack.frames.get(frame));
        let is_own = found.is_some_and(|frame| snapshot.is_own(frame.frame.pc));
        let was_raised = self.raised;
        self.raised |= is_own;
        let is_shown = match did {
            Did::Stopped => true,
            Did::CleanedUp => self.raised,
            Did::Searched => is_own,
            Did::NotReached => false,
        };
        if is_shown {
            self.close_after(was_raised);
            add_frame(&mut self.rows, self.look, stack, frame, did);
            return;
        }
        if self.left.first().is_some_and(|(_, _, former)| (*former == Did::NotReached) != (did == Did::NotReached)) {
            self.close();
        }
        self.left.push((stack, frame, did));
    }

    /// Says how many frames were left out.
    fn close(&mut self) {
        self.close_after(self.raised);
    }

    /// The same, when by then the first function of the program's own code was met or not.
    fn close_after(&mut self, raised: bool) {
        let left = std::mem::take(&mut self.left);
        match left.as_slice() {
            [] => {}
            [(stack, frame, did)] => add_frame(&mut self.rows, self.look, *stack, *frame, *did),
            [(_, _, Did::NotReached), ..] => self.rows.push(Row::Left("not reached", left.len())),
            _ if !raised => self.rows.push(Row::Left("that raise it", left.len())),
            _ => self.rows.push(Row::Left("of libraries, searched", left.len())),
        }
    }
}

fn add_frame(rows: &mut Vec<Row>, look: &Sight, stack: usize, frame: usize, did: Did) {
    let found = look.snapshot.stacks.get(stack).and_then(|stack| stack.frames.get(frame));
    let Some(frame) = found else { return };
    let place = look.snapshot.place(frame.frame.pc);
    let module = || place.module.as_deref().map(|module| printable(module).into_owned());
    let mut add = |function: String, place: Option<String>, inlined: bool| {
        let bytes = if inlined { Some(0) } else { frame.bytes };
        if let Some(Row::Frame(row)) = rows.last_mut()
            && row.did == did
            && row.function == function
        {
            row.bytes = row.bytes.zip(bytes).map(|(sum, bytes)| sum.saturating_add(bytes));
            row.times += 1;
            return;
        }
        rows.push(Row::Frame(FrameRow { did, function, place, inlined, bytes, times: 1 }));
    };
    if place.names.is_empty() {
        add(format!("?? {}", frame.frame.pc.addr()), module(), false);
    }
    // Of what was inlined, only the program's own is of interest.
    let shown = place.names.iter().filter(|name| !name.inlined || look.snapshot.is_own(frame.frame.pc));
    for name in shown {
        let function = name.function.as_deref().map_or("??".into(), printable).into_owned();
        add(function, line(name).or_else(module), name.inlined);
    }
}

fn line(name: &Name) -> Option<String> {
    let file = name.file.as_deref()?;
    let short = if file.starts_with('/') { file.rsplit('/').next().unwrap_or(file) } else { file };
    let line = name.line.map_or(String::new(), |line| format!(":{line}"));
    Some(format!("{}{line}", printable(short)))
}

fn stack_words(look: &Sight, stack: usize) -> String {
    let snapshot: &Snapshot = &look.snapshot;
    let Some(found) = snapshot.stacks.get(stack) else { return "another stack".to_owned() };
    match found.kind {
        Kind::Thread => {
            // Its backtrace begins further inside. Where several are joined, it is the nearest.
            let inside = snapshot.threads.iter().filter(|thread| thread.stack <= stack);
            let thread = inside.max_by_key(|thread| thread.stack);
            thread.map_or("a thread".to_owned(), |thread| format!("thread {}{}", thread.tid, quoted(&thread.name)))
        }
        kind => format!("{} {}{}", singular(kind), snapshot.id(stack), quoted(&found.name)),
    }
}

/// The same as the rows of a backtrace, with its signs, for a screen.
pub(crate) fn as_backtrace(event: &Event, ascii: bool) -> Vec<backtrace::Row> {
    let mut all = Vec::new();
    let mut is_named = true;
    for row in rows(event) {
        let names = matches!(row, Row::Crossing(..));
        match row {
            // A crossing has said it, and the title of the page says it of the first.
            Row::Stack(..) if is_named => {}
            Row::Stack(words, stack) | Row::Crossing(words, stack) => {
                all.push(backtrace::Row::Crossing { words, stack });
            }
            Row::Left(what, count) => all.push(backtrace::Row::Ended(format!("{count} frames {what}"))),
            Row::Frame(row) => {
                let note = match row.did {
                    Did::Stopped => Some("stopped here"),
                    Did::CleanedUp => Some("cleaned up"),
                    Did::Searched | Did::NotReached => None,
                };
                let function = format!("{} {}", sign(row.did, ascii), row.function);
                let FrameRow { bytes, inlined, place, times, .. } = row;
                all.push(backtrace::Row::Frame(backtrace::FrameRow { bytes, inlined, function, place, note, times }));
            }
        }
        is_named = names;
    }
    all
}

/// The signs of a route: searched, cleaned up, stopped, not reached.
pub(crate) fn sign(did: Did, ascii: bool) -> &'static str {
    match (did, ascii) {
        (Did::Searched, false) => "▹ ",
        (Did::CleanedUp, false) => "▹▸",
        (Did::Stopped, false) => "▹■",
        (Did::NotReached, _) => "  ",
        (Did::Searched, true) => "> ",
        (Did::CleanedUp, true) => ">+",
        (Did::Stopped, true) => ">#",
    }
}

/// What the signs mean.
pub(crate) fn legend(ascii: bool) -> String {
    let sign = |did| sign(did, ascii).trim();
    format!("{} searched  {} cleaned up  {} stopped", sign(Did::Searched), sign(Did::CleanedUp), sign(Did::Stopped))
}

/// Writes an event with its route.
pub(super) fn write(out: &mut impl Write, event: &Event, style: Style) -> fmt::Result {
    let thread = event.thread.map_or(String::new(), |tid| format!(" in thread {tid}"));
    let kind = event.kind.word().replace('_', " ");
    let line = format!("{} {}{thread}, {}: {}", capital(&kind), event.id, units::time(event.time), event.message);
    writeln!(out, "\n{}", style.paint(Tone::Strong, &style.fit(&printable(&line))))?;
    let result = outcome(event).unwrap_or_else(|| "what became of it was not seen".to_owned());
    writeln!(out, "  {}    {}", style.fit(&result), style.paint(Tone::Dim, &legend(style.ascii)))?;
    for row in rows(event) {
        match row {
            Row::Stack(words, _) => writeln!(out, "  {}", style.paint(Tone::Strong, &style.fit(&words)))?,
            Row::Crossing(words, _) => {
                let arrow = if style.ascii { "v" } else { "▼" };
                writeln!(out, "    {}", style.paint(Tone::Strong, &style.fit(&format!("{arrow} {words}"))))?;
            }
            Row::Left(what, count) => {
                let line = style.fit(&format!("… {count} frames {what}"));
                writeln!(out, "       {}", style.paint(Tone::Dim, &line))?;
            }
            Row::Frame(row) => {
                let place = row.place.map_or(String::new(), |place| format!(" ({place})"));
                let remark = if row.inlined { "  inlined" } else { "" };
                let times = if row.times > 1 { format!("  {}{}", style.times(), row.times) } else { String::new() };
                let text = style.fit(&format!("{}{place}{remark}", row.function));
                writeln!(out, "    {} {text}{times}", sign(row.did, style.ascii))?;
            }
        }
    }
    Ok(())
}
