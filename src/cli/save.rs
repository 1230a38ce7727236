//! `--save-core`: writes a core file, and reports progress if that takes long.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::look::{SaveError, Whole};
use crate::report::units;

/// The time before progress is first reported, and between two reports of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes the core file and says on stderr what is in it.
pub(super) fn save_core(whole: &Whole<'_>, path: &Path) -> Result<(), SaveError> {
    let mut told = Instant::now();
    let is_terminal = io::stderr().is_terminal();
    let mut progress = |done: u64, all: u64| {
        if told.elapsed() >= PATIENCE {
            told = Instant::now();
            let (percent, all) = (units::percent(done, all), units::bytes(all));
            tell(is_terminal, &format!("{}: {percent} % of {all}", path.display()));
        }
    };
    let contexts = whole.write_core(path, &mut progress)?;
    tell(false, &format!("{}: a core file with {} contexts as threads", path.display(), units::count(contexts)));
    Ok(())
}

/// Writes a line to stderr; the next one overwrites it if `passing`.
fn tell(passing: bool, line: &str) {
    // If stderr is closed, there is nowhere to report it.
    let _ = if passing { write!(io::stderr(), "\r{line}\x1b[K") } else { writeln!(io::stderr(), "{line}") };
}
