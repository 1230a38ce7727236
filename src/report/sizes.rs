//! What functions need of the stack, as text: the table, the path, and what is not known.
//!
//! Numbers are exact: a bound that is rounded is none.

use std::fmt::{self, Write};

use super::style::{Style, Tone};
use super::units;
use crate::image::names::Names;
use crate::image::{Modules, printable};
use crate::sizes::{Answered, Asked, Circle, Costs, FunctionId, Graph, Step, place};

/// Everything that the report is made of.
#[derive(Clone, Copy)]
pub struct Sizes<'s> {
    /// What was asked for, as it was named.
    pub target: &'s str,
    /// The program's functions.
    pub graph: &'s Graph,
    /// Its files.
    pub modules: &'s Modules,
    /// What its functions need, without those that end it.
    pub costs: &'s Costs,
    /// What was asked for.
    pub asked: &'s Asked,
    /// The names of what the answers mention.
    pub names: &'s Names,
    /// The bytes that the kernel puts on a stack when a signal is handled on it, where they are known.
    pub signal_frame: Option<u64>,
    /// What could not be read.
    pub warnings: &'s [String],
}

/// Where more functions fit, they stand in a table.
const MOST_WHOLE: usize = 3;

/// So many lines a table has.
const MOST_LINES: usize = 40;

/// So many unknowns, and so many circles, are told.
const MOST_REASONS: usize = 8;

/// Writes the report.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut dyn Write, sizes: &Sizes<'_>, style: Style) -> fmt::Result {
    for warning in sizes.warnings {
        writeln!(out, "{}", style.paint(Tone::Warning, &style.fit(warning)))?;
    }
    match &sizes.asked.answers[..] {
        [] => largest(out, sizes, style),
        answers if answers.len() <= MOST_WHOLE => answers.iter().enumerate().try_for_each(|(number, answered)| {
            if number > 0 {
                writeln!(out)?;
            }
            whole(out, sizes, answered, style)
        }),
        answers => table(out, sizes, answers, style),
    }
}

impl Sizes<'_> {
    /// The name of a function, and of its file where it is not the first.
    pub fn name(&self, id: FunctionId) -> String {
        let module = self.modules.iter().nth(self.graph.function(id).module);
        let file = module.map_or("?", |module| &module.name);
        match self.function(id) {
            Some(name) => format!("{} ({})", printable(&name), printable(file)),
            None => format!("{}+{:#x}", printable(file), self.graph.function(id).svma),
        }
    }

    /// The name of a function, where it has one.
    pub(super) fn function(&self, id: FunctionId) -> Option<String> {
        let place = place(self.graph, self.modules, id)?;
        self.names.get(place).last()?.function.as_deref().map(str::to_owned)
    }

    /// A need with its sign.
    fn need(&self, id: FunctionId, style: Style) -> String {
        let (bytes, is_bound) = self.costs.need(id);
        format!("{} {}", sign(is_bound, style), bytes)
    }
}

fn sign(is_bound: bool, style: Style) -> &'static str {
    match (is_bound, style.ascii) {
        (true, false) => "≤",
        (true, true) => "<=",
        (false, false) => "≥",
        (false, true) => ">=",
    }
}

/// The answer for one function, with its path and its reasons.
fn whole(out: &mut dyn Write, sizes: &Sizes<'_>, answered: &Answered, style: Style) -> fmt::Result {
    let answer = &answered.answer;
    let need = format!("{} needs {} bytes", sizes.name(answer.function), sizes.need(answer.function, style));
    writeln!(out, "{}", style.paint(Tone::Strong, &style.fit(&need)))?;
    writeln!(out, "{:>9} {:>9}", "bytes", "sum")?;
    let mut sum = 0;
    for Step { function, bytes, at } in &answer.path {
        sum += bytes;
        let place = at.map_or(String::new(), |at| format!("  at +{at:#x}"));
        writeln!(out, "{bytes:>9} {sum:>9}  {}", style.fit(&format!("{}{place}", sizes.name(*function))))?;
    }
    if answer.unknown_total > 0 {
        writeln!(out, "  not known, and left out:")?;
        for unknown in answer.unknown.iter().take(MOST_REASONS) {
            let (what, at) = (sizes.graph.what(unknown.gap), unknown.gap.at);
            writeln!(out, "    {}", style.fit(&format!("{what}, in {} at +{at:#x}", sizes.name(unknown.function))))?;
        }
        more(out, answer.unknown_total)?;
    }
    if answer.circles_total > 0 {
        writeln!(out, "  recursion, counted once:")?;
        for circle in answer.circles.iter().take(MOST_REASONS) {
            writeln!(out, "    {}", style.fit(&turn(sizes, circle, style)))?;
        }
        more(out, answer.circles_total)?;
    }
    if answered.with_endings > answer.bytes {
        let line = format!(
            "  a panic, an exception or an abort on the way: {} {} bytes in all",
            sign(false, style),
            answered.with_endings
        );
        writeln!(out, "{line}")?;
    }
    if let Some(frame) = sizes.signal_frame {
        writeln!(out, "  a signal that is handled on this stack: {frame} bytes more, and what its handler needs")?;
    }
    Ok(())
}

fn more(out: &mut dyn Write, total: usize) -> fmt::Result {
    match total.checked_sub(MOST_REASONS) {
        Some(left @ 1..) => writeln!(out, "    and {} more (--json)", units::count(left)),
        _ => Ok(()),
    }
}

fn turn(sizes: &Sizes<'_>, circle: &Circle, style: Style) -> String {
    let arrow = if style.ascii { " -> " } else { " → " };
    let names: Vec<String> =
        circle.functions.iter().chain(circle.functions.first()).map(|id| sizes.name(*id)).collect();
    format!("{}: {} bytes a turn", names.join(arrow), circle.turn)
}

fn table(out: &mut dyn Write, sizes: &Sizes<'_>, answers: &[Answered], style: Style) -> fmt::Result {
    let head = format!("{} functions fit; the greatest needs:", units::count(sizes.asked.answers_total));
    writeln!(out, "{}", style.paint(Tone::Strong, &head))?;
    lines(out, sizes, answers.iter().map(|answered| answered.answer.function), style)?;
    if sizes.asked.answers_total > MOST_LINES {
        writeln!(out, "  and {} more (--json)", units::count(sizes.asked.answers_total - MOST_LINES))?;
    }
    Ok(())
}

fn largest(out: &mut dyn Write, sizes: &Sizes<'_>, style: Style) -> fmt::Result {
    let Asked { largest, own_total, own_bounded, .. } = sizes.asked;
    let head = format!(
        "{}: {} functions, {} of which have a bound",
        printable(sizes.target),
        units::count(*own_total),
        units::count(*own_bounded)
    );
    writeln!(out, "{}", style.paint(Tone::Strong, &style.fit(&head)))?;
    writeln!(out, "The largest frames:")?;
    lines(out, sizes, largest.iter().copied(), style)
}

fn lines(
    out: &mut dyn Write,
    sizes: &Sizes<'_>,
    functions: impl Iterator<Item = FunctionId>,
    style: Style,
) -> fmt::Result {
    writeln!(out, "{:>9} {:>12}  function", "frame", "need")?;
    for id in functions.take(MOST_LINES) {
        let frame = sizes.graph.function(id).frame;
        writeln!(out, "{frame:>9} {:>12}  {}", sizes.need(id, style), style.fit(&sizes.name(id)))?;
    }
    Ok(())
}

/// Writes the paths as folded stacks, from which flame graphs are made: a line for each frame, with all that called it
/// before it and its own bytes after it.
///
/// # Errors
/// Those of `out`.
pub fn write_folded(out: &mut dyn Write, sizes: &Sizes<'_>) -> fmt::Result {
    for answered in &sizes.asked.answers {
        let mut stack = String::new();
        for step in &answered.answer.path {
            if !stack.is_empty() {
                stack.push(';');
            }
            stack.push_str(&sizes.name(step.function).replace(';', ":"));
            if step.bytes > 0 {
                writeln!(out, "{stack} {}", step.bytes)?;
            }
        }
    }
    Ok(())
}
