//! Where the command's words go: stdout or a file for what was asked for, stderr for what went wrong.

use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{Color, Common, exit};
use crate::report::style::Style;

/// Writes `content` to `file`, or to stdout if there is none.
///
/// A reader that closes our stdout has read all it wants; that is not an error.
pub(super) fn write(file: Option<&Path>, content: &[u8]) -> Result<(), OutputError> {
    let written = match file {
        Some(path) => File::create(path).and_then(|mut file| file.write_all(content)),
        None => io::stdout().write_all(content).and_then(|()| io::stdout().flush()),
    };
    match written {
        Err(error) if file.is_none() && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            Err(OutputError { place: file.map_or("stdout".into(), |path| path.display().to_string()), error })
        }
        Ok(()) => Ok(()),
    }
}

/// The report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {place}: {error}")]
pub(super) struct OutputError {
    place: String,
    error: io::Error,
}

impl OutputError {
    /// That something could not be written to `place`.
    pub(super) fn new(place: String, error: io::Error) -> OutputError {
        OutputError { place, error }
    }
}

/// Creates a file to write to.
pub(super) fn create(path: &Path) -> Result<File, OutputError> {
    File::create(path).map_err(|error| OutputError::new(path.display().to_string(), error))
}

/// Says what went wrong, with its causes, and returns the exit code for our own failures.
pub(super) fn fail(error: &dyn Error) -> ExitCode {
    fail_with_remedy(error, None)
}

/// The same with what to do about it.
pub(super) fn fail_with_remedy(error: &dyn Error, remedy: Option<String>) -> ExitCode {
    let mut text = format!("stackscope: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    if let Some(remedy) = remedy {
        text.push_str(&format!("\n  fix: {remedy}"));
    }
    // If stderr is closed, there is nowhere to report it.
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(exit::FAILED)
}

/// Says what is wrong with the words of the command line, and returns the exit code for that.
pub(super) fn wrong_usage(what: &str) -> ExitCode {
    // If stderr is closed, there is nowhere to report it.
    let _ = writeln!(io::stderr(), "stackscope: {what}");
    ExitCode::from(exit::USAGE)
}

/// The style of text for `file`, or for stdout if there is none.
pub(super) fn style(common: &Common, file: Option<&Path>) -> Style {
    style_for(common, file.is_none() && io::stdout().is_terminal())
}

/// The same for what goes to stderr if there is no file.
pub(super) fn report_style(common: &Common, file: Option<&Path>) -> Style {
    style_for(common, file.is_none() && io::stderr().is_terminal())
}

/// The columns of the terminal that stderr is; `None` if it is not a terminal, or this build has no screen.
pub(super) fn terminal_width() -> Option<usize> {
    #[cfg(feature = "tui")]
    if io::stderr().is_terminal() && has_terminal() {
        return crate::tui::terminal_width().ok();
    }
    None
}

/// The same for a screen, which is on a terminal.
#[cfg(feature = "tui")]
pub(super) fn screen_style(common: &Common) -> Style {
    style_for(common, true)
}

fn style_for(common: &Common, is_terminal: bool) -> Style {
    let color = match common.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => is_terminal && !set("NO_COLOR") && !dumb_terminal() && has_terminal(),
    };
    Style { color, ascii: common.ascii || !utf8_locale() }
}

fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether there is a terminal that we belong to: without one, as after `setsid`, we write to another session's.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether the locale's character set is UTF-8: the first of LC_ALL, LC_CTYPE and LANG that is set decides (locale(7)).
/// If none is set, text is UTF-8, as nearly everywhere.
fn utf8_locale() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(|variable| set(variable)).and_then(std::env::var_os);
    let Some(locale) = locale else { return true };
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
