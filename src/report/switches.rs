//! What probes have noted, as text.

use std::fmt::{self, Write};

use super::style::{Style, Tone};
use super::units;
use crate::image::printable;
use crate::probe::plan::Obstacle;
use crate::probe::{BySite, NotProbed, Switches};

/// So many functions are listed, and so many sites without a probe.
const LISTED: usize = 6;

/// Writes the switches that were counted, and what was not.
pub(super) fn write(out: &mut impl Write, switches: &Switches, style: Style) -> fmt::Result {
    for refused in &switches.refused {
        let line = refused_sentence(*refused);
        writeln!(out, "{} {}", style.paint(Tone::Warning, "warning:"), style.fit(&line))?;
    }
    let Some(total) = switches.total else { return Ok(()) };
    let probed = switches.probed.len();
    let unprobed = match switches.unprobed.len() {
        0 => String::new(),
        count => format!(", {count} sites not probed"),
    };
    let line = format!("{} switches, counted at {probed} sites{unprobed}", count(total));
    writeln!(out, "\n{}", style.paint(Tone::Strong, &style.fit(&line)))?;
    for site in switches.by_site.iter().take(LISTED) {
        let within = if site.switches { "" } else { "  (within a stack)" };
        writeln!(out, "  {:>15}  {}{within}", count(site.count), style.fit(&place(site)))?;
    }
    // Others are seldom more than the return of a function with room of variable size; the JSON has them all.
    for site in switches.unprobed.iter().filter(|site| site.saves).take(LISTED) {
        let function = site.function.as_deref().map(printable).unwrap_or_default();
        let line = format!("not probed: {function} in {}: {}", printable(&site.module), obstacle(site.obstacle));
        writeln!(out, "  {}", style.paint(Tone::Dim, &style.fit(&line)))?;
    }
    Ok(())
}

fn count(number: u64) -> String {
    usize::try_from(number).map_or_else(|_| number.to_string(), units::count)
}

fn place(site: &BySite) -> String {
    match (&site.function, &site.module) {
        (Some(function), Some(module)) => format!("{} in {}", printable(function), printable(module)),
        (None, Some(module)) => format!("a function in {}", printable(module)),
        (_, None) => "other functions".to_owned(),
    }
}

/// Why a site is not probed, as part of a sentence.
pub(super) fn obstacle(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NoWindow => "no five bytes around it can be displaced",
        Obstacle::Instruction => "the instruction is of no kind that is read",
        Obstacle::Arithmetic => "it calculates with the stack pointer",
        Obstacle::Unplaced => "nothing says where its routine begins",
        Obstacle::OutOfReach => "there is no free memory within reach",
        Obstacle::TooMany => "there are too many sites",
    }
}

/// Why a program is not probed.
pub(super) fn refused_sentence(refused: NotProbed) -> String {
    format!("switches are not counted: {}", refusal(refused))
}

/// Why a program is not probed, as part of a sentence.
fn refusal(refused: NotProbed) -> &'static str {
    match refused {
        NotProbed::Cpu => "this needs an x86-64 processor with BMI2",
        NotProbed::Filtered => "the program has a filter of system calls",
        NotProbed::LocksMemory => {
            "the program may lock all of its memory, of which the table of switches would be part"
        }
        NotProbed::NoMemory => {
            "the program can't map the table of switches; a limit on its memory (RLIMIT_AS) or on files (RLIMIT_FSIZE) does that"
        }
        NotProbed::NotNow => "the program stood nowhere where it could be probed",
        NotProbed::NotWritable => "the kernel does not let us write to the program's code",
    }
}
