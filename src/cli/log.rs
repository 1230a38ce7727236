//! The tool's own log: what it does and how long that took, on stderr (`-v`) or in a file (`--log FILE`).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

use super::Common;

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the log to {path}: {error}")]
pub(super) struct LogError {
    path: PathBuf,
    error: io::Error,
}

/// Where log lines go, and since when their times count.
struct Logger {
    out: Mutex<Box<dyn Write + Send>>,
    start: Instant,
}

/// Starts the log if one was asked for.
pub(super) fn start(common: &Common) -> Result<(), LogError> {
    let out: Box<dyn Write + Send> = match &common.log {
        Some(path) => Box::new(File::create(path).map_err(|error| LogError { path: path.clone(), error })?),
        None if common.verbose => Box::new(io::stderr()),
        None => return Ok(()),
    };
    let logger = Logger { out: Mutex::new(out), start: Instant::now() };
    // A program that uses us as a library may have its own logger, which stays in place.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("stackscope")
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata())
            && let Ok(mut out) = self.out.lock()
        {
            let milliseconds = self.start.elapsed().as_secs_f64() * 1e3;
            // A log that can't be written is no reason to stop.
            let _ = writeln!(out, "{milliseconds:9.3} ms  {}: {}", record.target(), record.args());
        }
    }

    fn flush(&self) {
        if let Ok(mut out) = self.out.lock() {
            let _ = out.flush();
        }
    }
}
