//! A stack in one line, as a debugger shows it beside its thread.

use super::style::Style;
use super::units;
use super::words::singular;
use crate::image::printable;
use crate::snapshot::{Confidence, Snapshot};

/// `coroutine "writer", suspended, chatd::write, 1.2K of 16K, peak ≈4K`.
pub(crate) fn thread_line(snapshot: &Snapshot, id: usize) -> String {
    let Some(stack) = snapshot.stacks.get(id) else { return String::new() };
    let name = stack.name.as_ref().map_or(String::new(), |name| format!(" \"{}\"", printable(name)));
    let is_certain = stack.confidence == Confidence::Certain;
    let doubt = if is_certain { String::new() } else { format!(" ({})", stack.confidence.word()) };
    let mut parts = vec![format!("{}{name}", singular(stack.kind)), format!("{}{doubt}", stack.state.word())];
    parts.extend(stack.entry.as_ref().map(|entry| printable(entry).into_owned()));
    let of_size = stack.size().map_or(String::new(), |size| format!(" of {}", units::bytes(size)));
    parts.extend(stack.used().map(|used| format!("{}{of_size}", units::bytes(used))));
    let sign = |method| Style::default().method(method);
    parts.extend(stack.peak.map(|peak| format!("peak {}{}", sign(peak.method), units::bytes(peak.bytes))));
    parts.join(", ")
}
