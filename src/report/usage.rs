//! The report at the end of a watched run as text: what its stacks needed, and what happened.
//!
//! The numbers are those of this run; another one may need more. Every peak carries the mark of how it was told.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::style::{Style, Tone};
use super::suggest::{Suggested, Why, saved_bytes, suggested, suggested_size};
use super::warnings::MissedSentence;
use super::{route, switches, text, units, verdict, words};
use crate::image::printable;
use crate::process::Outcome;
use crate::snapshot::{Kind, Level, Method};
use crate::watch::{End, Event, EventKind, Fleeting, Group, Watched, signal_name};

/// The widest name of a group that is not shortened.
const WIDEST_NAME: usize = 40;
/// The width of the bar that shows peak and size.
const BAR: u64 = 18;

/// Writes the report. `margin` is the factor between the most that was held and the size that is suggested.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, watched: &Watched, margin: f64, style: Style) -> fmt::Result {
    write_within(out, watched, margin, style, None)
}

/// The same for a terminal of `width` columns: its table leaves out what has no room.
///
/// # Errors
/// Those of `out`.
pub fn write_within(
    out: &mut impl Write,
    watched: &Watched,
    margin: f64,
    style: Style,
    width: Option<usize>,
) -> fmt::Result {
    head(out, watched, style, width)?;
    let groups = watched.usage.groups();
    writeln!(out)?;
    if !groups.is_empty() {
        table(out, &groups, margin, style, width)?;
        writeln!(out)?;
        legend(out, &groups, margin, style)?;
    }
    happenings(out, watched, style)?;
    fleeting(out, watched, style)?;
    if let Some(switches) = &watched.switches {
        switches::write(out, switches, style)?;
    }
    for missed in &watched.missed {
        let warning = MissedSentence(missed).to_string();
        writeln!(out, "{} {}", style.paint(Tone::Warning, "warning:"), style.fit(&printable(&warning)))?;
    }
    Ok(())
}

fn head(out: &mut impl Write, watched: &Watched, style: Style, width: Option<usize>) -> fmt::Result {
    let program = watched.command.first().map_or(String::new(), |word| printable(word).into_owned());
    let ended = match watched.end {
        End::Vanished => "ended".to_owned(),
        End::Left => "runs on,".to_owned(),
        End::Ended(Outcome::Exited(code)) => format!("exited with {code}"),
        End::Ended(Outcome::Killed { signal, core: false }) => format!("was ended by {}", signal_name(signal)),
        End::Ended(Outcome::Killed { signal, core: true }) => {
            format!("was ended by {} (core file written)", signal_name(signal))
        }
    };
    let when = if watched.end == End::Left { "watched for" } else { "after" };
    let title = style.fit(&format!("{program} {ended} {when} {}", lasted(watched.duration)));
    let counts = format!(
        "{} in all, {} at most at once",
        of(watched.usage.total, "stack"),
        units::count(watched.usage.most_at_once)
    );
    let fits = width.is_none_or(|width| title.chars().count() + 6 + counts.chars().count() <= width);
    let gap = if fits { "      " } else { "\n" };
    writeln!(out, "{}{gap}{counts}", style.paint(Tone::Strong, &title))?;
    let period = watched.period.map_or(String::new(), |period| format!(", one every {}", units::time(period)));
    let stopped = units::time(watched.stopped);
    let line = format!("{}{period}; stopped {stopped} in all", of(watched.looks, "look"));
    writeln!(out, "{}", style.paint(Tone::Dim, &style.fit(&line)))
}

fn of(count: usize, what: &str) -> String {
    format!("{} {what}{}", units::count(count), if count == 1 { "" } else { "s" })
}

/// `6.10 ms`, `2.05 s`, and from a minute on `00:41:07`.
fn lasted(duration: Duration) -> String {
    if duration < Duration::from_secs(60) { units::time(duration) } else { units::clock(duration) }
}

fn table(out: &mut impl Write, groups: &[Group], margin: f64, style: Style, width: Option<usize>) -> fmt::Result {
    let names: Vec<String> = groups.iter().map(|group| name(group, style)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let fit = Fit::of(longest, width);
    let [_, peak, free] = style.bar_signs();
    let bar = format!("PEAK{peak} FREE{free}");
    let heading = ["SIZE", "p50", "p99", "MAX", &bar, "HEAD", "SUGGEST", "SAVES"].map(str::to_owned);
    writeln!(out, "{}", style.paint(Tone::Strong, &fit.line("GROUP", "COUNT", &heading)))?;
    for (group, name) in groups.iter().zip(names) {
        // What all closures are called says little.
        let name = if name.chars().count() > fit.name { name.replace("{{closure}}", "{}") } else { name };
        let line = fit.line(&style.tail(&name, fit.name), &units::count(group.count), &row(group, margin, style));
        writeln!(out, "{}", paint_level(&line, group.level(), style))?;
    }
    Ok(())
}

/// What of the table is shown, so that its lines fit: names give way first, then the bar, and the median.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fit {
    /// The cells of a name.
    name: usize,
    bar: bool,
    median: bool,
}

impl Fit {
    /// The cells that the columns take besides the name; of them the bar and the median.
    const OTHERS: usize = 89;
    const BAR: usize = 21;
    const MEDIAN: usize = 8;
    /// So much of a name is worth more than the columns that can be left out.
    const LEAST_NAME: usize = 24;

    /// For names of so many characters, in lines of at most `width`.
    fn of(longest: usize, width: Option<usize>) -> Fit {
        let Some(width) = width else { return Fit { name: longest, bar: true, median: true } };
        let room = |left_out: usize| (width + left_out).saturating_sub(Fit::OTHERS);
        let enough = longest.min(Fit::LEAST_NAME);
        let [bar, median] = [0, Fit::BAR].map(|left_out| room(left_out) >= enough);
        let left_out = match (bar, median) {
            (true, _) => 0,
            (false, true) => Fit::BAR,
            (false, false) => Fit::BAR + Fit::MEDIAN,
        };
        Fit { name: longest.min(room(left_out).max(5)), bar, median: bar || median }
    }

    fn line(self, name: &str, count: &str, cells: &[String; 8]) -> String {
        let width = self.name;
        let [size, p50, p99, max, bar, head, suggest, saves] = cells;
        let p50 = if self.median { format!("  {p50:>6}") } else { String::new() };
        let bar = if self.bar { format!("  {bar:19}") } else { String::new() };
        let line = format!(
            "{name:width$}  {count:>7}  {size:>5}{p50}  {p99:>6}  {max:>7}{bar}  {head:>7}  {suggest:>7}  {saves:>7}"
        );
        line.trim_end().to_owned()
    }
}

fn paint_level(line: &str, level: Option<Level>, style: Style) -> String {
    match level {
        Some(Level::Over | Level::High) => style.paint(Tone::Danger, line),
        Some(Level::Warn) => style.paint(Tone::Warning, line),
        _ => line.to_owned(),
    }
}

/// The cells of a row, from the size on.
fn row(group: &Group, margin: f64, style: Style) -> [String; 8] {
    let none = || "-".to_owned();
    let size = group.size.map_or_else(none, units::bytes);
    let Some(peaks) = group.peaks else {
        return [size, none(), none(), none(), String::new(), String::new(), String::new(), String::new()];
    };
    let max = format!("{} {}", style.method(peaks.method), units::bytes(peaks.max));
    let suggested = suggested_size(group, margin);
    let suggest = match (suggested, group.size) {
        (Some(suggested), Some(size)) => {
            let [up, down] = if style.ascii { ["^", "v"] } else { ["↑", "↓"] };
            format!("{} {:>5}", if suggested > size { up } else { down }, units::bytes(suggested))
        }
        _ => "keep".to_owned(),
    };
    let saves = saved_bytes(group, margin).map_or_else(none, units::bytes);
    [
        size,
        units::bytes(peaks.p50),
        units::bytes(peaks.p99),
        max,
        bar(group, style),
        head_room(group, style),
        suggest,
        saves,
    ]
}

/// The share of the size that was ever held, and the guard at its end.
fn bar(group: &Group, style: Style) -> String {
    let (Some(peaks), Some(size)) = (group.peaks, group.size.filter(|size| *size > 0)) else { return String::new() };
    let filled = (u128::from(peaks.max.min(size)) * u128::from(BAR)).div_ceil(u128::from(size)) as usize;
    let [_, peak, free] = style.bar_signs();
    // Where it differs, one of them would not be stopped.
    let guard = style.guard_sign(group.guarded.map(|guarded| guarded.unwrap_or(false)));
    let bar: String =
        std::iter::repeat_n(peak, filled).chain(std::iter::repeat_n(free, BAR as usize - filled)).collect();
    format!("{bar}{guard}")
}

/// The share of the size that was never held, with the mark of its level.
fn head_room(group: &Group, style: Style) -> String {
    let (Some(peaks), Some(size), Some(level)) = (group.peaks, group.size.filter(|size| *size > 0), group.level())
    else {
        return String::new();
    };
    let percent = u128::from(size.saturating_sub(peaks.max)) * 100 / u128::from(size);
    let mark = style.level_mark(level);
    format!("{mark} {percent:>2} %")
}

/// What a group is called: what its stacks were started for, and what they serve where that is not a thread.
fn name(group: &Group, style: Style) -> String {
    let entry = group.entry.as_ref().map(|entry| style.tail(&style.fit(&printable(entry)), WIDEST_NAME));
    let kind = match group.kind {
        Kind::Thread => None,
        Kind::Coroutine => Some("coroutine"),
        Kind::Segment => Some("segment"),
        Kind::Signal => Some("signal stack"),
        Kind::Unknown => Some("unknown"),
    };
    match (entry, kind) {
        (Some(entry), None) => entry,
        (Some(entry), Some(kind)) => format!("{entry} ({kind})"),
        (None, Some(kind)) => format!("({kind})"),
        (None, None) if group.peaks.is_none() => "(ended before a look)".to_owned(),
        (None, None) => "(thread)".to_owned(),
    }
}

fn legend(out: &mut impl Write, groups: &[Group], margin: f64, style: Style) -> fmt::Result {
    let [exact, pages, sampled] = [Method::Exact, Method::Pages, Method::Sampled].map(|method| style.method(method));
    let times = style.times();
    let line = format!(
        "{exact} exact  {pages} touched pages  {sampled} most seen by a look.  Suggest: next page above {margin} {times} MAX; \
         smaller than today only from {exact} or {pages}."
    );
    writeln!(out, "{}", style.paint(Tone::Dim, &line))?;
    for group in groups.iter().filter(|group| group.pooled) {
        let line =
            format!("{}: stacks used again and again; its peaks are the most of all their users", name(group, style));
        writeln!(out, "{}", style.paint(Tone::Dim, &line))?;
    }
    for group in groups.iter().filter(|group| suggested(group, margin) == Suggested::Keep(Why::EndUnseen)) {
        let ends = of(group.ends_unseen, "stack");
        let line = format!(
            "{}: no smaller size is suggested: {ends} ended without a look, and may have held more then",
            name(group, style)
        );
        writeln!(out, "{}", style.paint(Tone::Dim, &line))?;
    }
    for group in groups {
        let Some(apart) = group.apart else { continue };
        writeln!(out, "{}", style.paint(Tone::Dim, &format!("{}: {}", name(group, style), words::apart_words(apart))))?;
    }
    for group in groups.iter().filter(|group| matches!(group.guarded, Some(Some(false) | None))) {
        let which = if group.guarded == Some(None) { "some of its stacks have" } else { "it runs with" };
        let line = format!("{}: {which} no guard page; an overflow there would be silent", name(group, style));
        writeln!(out, "{} {line}", style.paint(Tone::Warning, "warning:"))?;
    }
    Ok(())
}

/// What shows that stacks live shorter than the time between looks, and what that means.
fn fleeting(out: &mut impl Write, watched: &Watched, style: Style) -> fmt::Result {
    let Fleeting { met_once, replaced } = watched.usage.fleeting;
    let shown = match (met_once, replaced) {
        (0, 0) => return Ok(()),
        (once, 0) => format!("{} stood in one look alone", of(once, "stack")),
        (0, replaced) => format!("{} had another in their place in the next look", of(replaced, "stack")),
        (once, replaced) => {
            format!(
                "{} stood in one look alone, {} had another in their place in the next",
                of(once, "stack"),
                replaced
            )
        }
    };
    let between = units::time(watched.longest_unseen());
    let line = format!(
        "{shown}: stacks live shorter than the {between} between looks; how many more did, and their peaks, are not known"
    );
    writeln!(out, "{} {}", style.paint(Tone::Warning, "not seen:"), style.fit(&line))
}

/// How many routes the report shows; JSON has all.
const MOST_ROUTES: usize = 3;

/// How many events there were of each kind, the first routes, and those that ended a process in full.
fn happenings(out: &mut impl Write, watched: &Watched, style: Style) -> fmt::Result {
    let mut counts: BTreeMap<EventKind, usize> = BTreeMap::new();
    for event in &watched.events.kept {
        *counts.entry(event.kind).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(kind, count)| of(*count, kind.word())).collect();
    let cut = match watched.events.total - watched.events.kept.len() {
        0 => String::new(),
        more => format!(", and {} more", units::count(more)),
    };
    let list = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    writeln!(out, "Events: {list}{cut}.")?;
    if watched.raises_counted > 0 {
        let count = units::count(usize::try_from(watched.raises_counted).unwrap_or(usize::MAX));
        let line =
            format!("{count} more raises were counted only: the program raises too often to be stopped each time");
        writeln!(out, "{} {}", style.paint(Tone::Warning, "not shown:"), style.fit(&line))?;
    }
    let routes = watched.events.kept.iter().filter(|event| route::has_route(event));
    for event in routes.take(MOST_ROUTES) {
        route::write(out, event, style)?;
    }
    let is_told = |event: &&Event| event.killed || event.kind == EventKind::Overflow;
    for event in watched.events.kept.iter().filter(is_told) {
        fatal(out, event, style)?;
    }
    Ok(())
}

fn fatal(out: &mut impl Write, event: &Event, style: Style) -> fmt::Result {
    let Some(look) = &event.look else { return Ok(()) };
    let thread = event.thread.map_or(String::new(), |tid| format!(" to thread {tid}"));
    let line = format!("{}{thread} of process {}, {} in:", event.message, event.pid, units::time(event.time));
    let verdict = event.verdict.as_deref().map(|verdict| verdict::sentence(verdict, Some(&look.snapshot)));
    writeln!(out, "\n{}", style.paint(Tone::Strong, &style.fit(&printable(&line))))?;
    if let Some(verdict) = verdict {
        writeln!(out, "{}", style.paint(Tone::Danger, &style.fit(&printable(&verdict))))?;
    }
    text::write_backtrace(out, &look.snapshot, look.stack, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Peaks;

    fn group(size: u64, max: u64, by_pages: bool) -> Group {
        let method = if by_pages { Method::Pages } else { Method::Sampled };
        Group {
            kind: Kind::Thread,
            entry: Some("worker".into()),
            count: 8,
            most_at_once: 4,
            size: Some(size),
            grows: false,
            peaks: Some(Peaks { p50: max, p99: max, max, method }),
            apart: None,
            ends_unseen: 0,
            pooled: false,
            guarded: Some(Some(true)),
        }
    }

    #[test]
    fn rows_show_peak_guard_and_room() {
        let plain = Style { color: false, ascii: true };
        let mut text = String::new();
        table(&mut text, &[group(65536, 57000, true), group(8 << 20, 2_500_000, false)], 1.5, plain, None).unwrap();
        assert_eq!(
            text,
            "\
GROUP     COUNT   SIZE     p50     p99      MAX  PEAK# FREE.             HEAD  SUGGEST    SAVES
worker        8    64K   55.7K   55.7K  ~ 55.7K  ################..|   * 13 %  ^   84K        -
worker        8     8M   2.38M   2.38M  > 2.38M  ######............|   . 70 %     keep        -
"
        );
    }

    #[test]
    fn a_narrow_terminal_leaves_out_what_counts_least() {
        let groups = [group(65536, 57000, true)];
        for (width, heading) in [
            (95, "GROUP     COUNT   SIZE     p50     p99      MAX  PEAK# FREE.             HEAD  SUGGEST    SAVES"),
            (80, "GROUP     COUNT   SIZE     p50     p99      MAX     HEAD  SUGGEST    SAVES"),
            (70, "GROUP     COUNT   SIZE     p99      MAX     HEAD  SUGGEST    SAVES"),
        ] {
            let mut text = String::new();
            table(&mut text, &groups, 1.5, Style { color: false, ascii: true }, Some(width)).unwrap();
            assert_eq!(text.lines().next(), Some(heading));
            assert!(text.lines().all(|line| line.len() <= width), "{text}");
        }
        // Names give way down to a length at which they can still be told apart.
        assert_eq!(Fit::of(60, Some(120)), Fit { name: 31, bar: true, median: true });
        assert_eq!(Fit::of(60, Some(100)), Fit { name: 32, bar: false, median: true });
        assert_eq!(Fit::of(60, Some(80)), Fit { name: 20, bar: false, median: false });
        assert_eq!(Fit::of(60, Some(1)), Fit { name: 5, bar: false, median: false });
    }

    #[test]
    fn long_times_are_clocks() {
        assert_eq!(lasted(Duration::from_secs(2467)), "00:41:07");
        assert_eq!(lasted(Duration::from_millis(6)), "6.00 ms");
    }
}
