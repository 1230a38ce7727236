//! A snapshot as text: the stacks in danger first, then the deepest; equal ones together; recursion folded.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::backtrace::{self, FrameRow, Row};
use super::group::{self, Group, GroupBy};
use super::headings::{group_measures, heading, measures, moved_line, states_line};
use super::style::{Style, Tone};
use super::warnings::not_seen;
use super::words::{plural, thread_words};
use super::{units, verdict};
use crate::events::judge;
use crate::filter::Filter;
use crate::image::{ImageProblem, printable};
use crate::process::Source;
use crate::snapshot::{Kind, Snapshot, State, Warning};

/// The most groups of stacks without a thread that are shown; a user who wants more asks for every stack.
const MOST_GROUPS: usize = 40;

/// Which stacks are shown, and how they are grouped.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Which stacks are wanted.
    pub filter: Filter,
    /// What stacks are grouped by, each group shown once with a count; `None` for every stack by itself.
    pub group: Option<GroupBy>,
}

impl Default for Listing {
    /// All stacks, equal ones together.
    fn default() -> Listing {
        Listing { filter: Filter::default(), group: Some(GroupBy::Stack) }
    }
}

/// Writes `snapshot` as text.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, snapshot: &Snapshot, listing: &Listing, style: Style) -> fmt::Result {
    head(out, snapshot, style)?;
    if !listing.filter.is_empty() {
        picked(out, snapshot, listing, style)?;
    }
    match listing.group {
        Some(key) => write_groups(out, snapshot, &group::by(snapshot, &listing.filter, key), key, style)?,
        None => {
            for single in group::singly(snapshot, &listing.filter) {
                writeln!(out)?;
                write_group(out, snapshot, &single, GroupBy::Stack, style)?;
            }
        }
    }
    foot(out, snapshot, style)
}

/// How many stacks the filter picks.
fn picked(out: &mut impl Write, snapshot: &Snapshot, listing: &Listing, style: Style) -> fmt::Result {
    let fitting = (0..snapshot.stacks.len()).filter(|id| listing.filter.matches(snapshot, *id)).count();
    let (fitting, all) = (units::count(fitting), units::count(snapshot.stacks.len()));
    let line = format!("{fitting} of {all} fit the filter {}", printable(&listing.filter.to_string()));
    writeln!(out, "{}", style.fit(&line))
}

/// Writes the groups that threads run on, and of the others as many as fill a page; and how many it leaves out.
fn write_groups(
    out: &mut impl Write,
    snapshot: &Snapshot,
    groups: &[Group],
    key: GroupBy,
    style: Style,
) -> fmt::Result {
    let mut left = MOST_GROUPS;
    let (mut cut, mut cut_stacks) = (0, 0);
    for group in groups {
        let runs = group.stacks.iter().any(|id| snapshot.stacks[*id].thread.is_some());
        if !runs && left == 0 {
            cut += 1;
            cut_stacks += group.stacks.len();
            continue;
        }
        left -= usize::from(!runs);
        writeln!(out)?;
        write_group(out, snapshot, group, key, style)?;
    }
    if cut > 0 {
        let (groups, stacks) = (units::count(cut), units::count(cut_stacks));
        let line = format!("… {groups} more groups with {stacks} stacks: --all shows them, --group and --filter fewer");
        writeln!(out, "\n{}", style.paint(Tone::Strong, &style.fit(&line)))?;
    }
    Ok(())
}

fn head(out: &mut impl Write, snapshot: &Snapshot, style: Style) -> fmt::Result {
    let command = snapshot.process.command.join(" ");
    let title = format!("Process {}: {}", snapshot.process.pid, style.fit(&printable(&command)));
    writeln!(out, "{}", style.paint(Tone::Strong, title.trim_end_matches([':', ' '])))?;
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for stack in &snapshot.stacks {
        *kinds.entry(stack.kind).or_default() += 1;
    }
    let parts = kinds.into_iter().map(|(kind, count)| format!("{} {}", units::count(count), plural(kind, count)));
    let parts: Vec<String> = parts.collect();
    let total = units::count(snapshot.stacks.len());
    let stacks = if snapshot.stacks.len() == 1 { "stack" } else { "stacks" };
    write!(out, "{total} {stacks}: {}", parts.join(", "))?;
    if !snapshot.stopped.is_zero() {
        write!(out, "    stopped {}", style.fit(&units::time(snapshot.stopped)))?;
    }
    writeln!(out)?;
    let Some(verdict) = judge(snapshot) else { return Ok(()) };
    let thread = thread_words(Some(verdict.fault.thread), snapshot);
    let line = format!("Ended in {thread} by {}", verdict::sentence(&verdict, Some(snapshot)));
    writeln!(out, "{}", style.paint(Tone::Danger, &style.fit(&printable(&line))))
}

/// What to do if files that a core file names are missing.
const MISSING_FILES: &str = "Copy the files from the machine of the core file, and name their folder by --sysroot, or \
                             the program alone by --executable.";

/// Whether a file that code lies in can't be used.
fn is_of_missing_file(warning: &Warning) -> bool {
    let Warning::Image { problem, .. } = warning else { return false };
    matches!(problem, ImageProblem::Gone { .. } | ImageProblem::Replaced { .. } | ImageProblem::Unreadable { .. })
}

fn foot(out: &mut impl Write, snapshot: &Snapshot, style: Style) -> fmt::Result {
    if !snapshot.complete {
        writeln!(out)?;
    }
    for warning in not_seen(snapshot) {
        writeln!(out, "{} {}", style.paint(Tone::Warning, "warning:"), style.fit(&printable(&warning)))?;
    }
    if !snapshot.complete {
        writeln!(out, "Not everything could be read.")?;
    }
    if snapshot.process.source == Source::Core && snapshot.warnings.iter().any(is_of_missing_file) {
        writeln!(out, "{MISSING_FILES}")?;
    }
    Ok(())
}

fn write_group(out: &mut impl Write, snapshot: &Snapshot, group: &Group, key: GroupBy, style: Style) -> fmt::Result {
    let Some(first) = group.stacks.first().copied() else { return Ok(()) };
    writeln!(out, "{}", style.paint(Tone::Strong, &style.fit(&heading(snapshot, group, key))))?;
    let stack = &snapshot.stacks[first];
    if group.stacks.len() > 1 {
        writeln!(out, "  {}", group_measures(snapshot, group, style))?;
        if let Some(states) = states_line(snapshot, group) {
            writeln!(out, "  {states}")?;
        }
        if key != GroupBy::Stack {
            writeln!(out, "  the deepest of them:")?;
        }
    } else if stack.sp.is_none() && stack.state == State::Running {
        return writeln!(out, "  not seen: the thread was not stopped");
    } else {
        writeln!(out, "  {}", measures(stack, style))?;
    }
    if let Some(moved) = moved_line(snapshot, group) {
        writeln!(out, "  {moved}")?;
    }
    write_backtrace(out, snapshot, first, style)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::State;
    use crate::snapshot::testing::Draft;

    /// A hundred thousand coroutines that wait in a thousand ways.
    #[test]
    fn very_many_stacks_make_a_page() {
        let mut draft = Draft::new();
        let functions: Vec<&'static str> = (0..1000).map(|number| &*format!("wait{number}").leak()).collect();
        for number in 0..100_000 {
            let calls = [(functions[number % 1000], (number % 1000) as u32, 64), ("run", 2, 96)];
            draft.stack(Kind::Coroutine, State::Suspended, 1 << 16, 0, &calls);
        }
        let main = draft.stack(Kind::Thread, State::Running, 8 << 20, 0, &[("main", 1, 32)]);
        draft.run(7, "main", main, &[]);
        let snapshot = draft.finish();
        let mut page = String::new();
        write(&mut page, &snapshot, &Listing::default(), Style { color: false, ascii: true }).unwrap();
        assert!(page.lines().count() < 6 * MOST_GROUPS, "{page}");
        assert!(page.contains("100 001 stacks: 1 thread, 100 000 coroutines"), "{page}");
        assert!(page.contains("Thread 7 \"main\""), "{page}");
        assert!(page.contains("\n... 960 more groups with 96 000 stacks: --all shows them"), "{page}");
    }
}
