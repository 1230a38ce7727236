//! `stackscope doctor`: what works on this machine, what does not, and the remedy.
//!
//! What can be tried is tried, on our own child; the rest is what the kernel says of itself.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use serde::Serialize;

use super::{Common, exit, output};
use crate::image::names::Lines;
use crate::look::{Looker, Wish};
use crate::process::{self, Facts, Live, PageScan};
use crate::report::style::{Style, Tone};

/// Where distributions install separate debug files.
const DEBUG_FILES: &str = "/usr/lib/debug/.build-id";

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Write JSON instead of text
    #[arg(long)]
    json: bool,
}

/// One thing that stackscope does, and whether it can here.
#[derive(Serialize, Debug)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    remedy: Option<String>,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Limited,
    Off,
}

#[derive(Serialize)]
struct Report<'c> {
    schema: &'static str,
    schema_version: u32,
    kernel: &'c str,
    checks: &'c [Check],
}

/// Makes all checks and shows them; the exit code says whether `run` works here.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    let facts = Facts::gather();
    let checks = [launch(), attach(&facts), raises(), peaks(&facts), symbols(), cores(&facts)];
    let text = match args.json {
        true => json(&facts, &checks),
        false => checks.iter().map(|check| line(check, output::style(common, None))).collect(),
    };
    match output::write(None, text.as_bytes()) {
        Err(error) => output::fail(&error),
        Ok(()) if checks[0].status == Status::Ok => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(exit::NO_LAUNCH),
    }
}

fn json(facts: &Facts, checks: &[Check]) -> String {
    let report = Report { schema: "stackscope-doctor", schema_version: 1, kernel: &facts.kernel, checks };
    // Plain strings always have a JSON form.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

fn line(check: &Check, style: Style) -> String {
    let (word, tone) = match check.status {
        Status::Ok => ("ok     ", Tone::Strong),
        Status::Limited => ("limited", Tone::Warning),
        Status::Off => ("off    ", Tone::Danger),
    };
    let remedy = check.remedy.as_ref().map_or(String::new(), |remedy| format!(".  Fix: {remedy}"));
    format!("{}  {}: {}{remedy}\n", style.paint(tone, word), check.name, style.fit(&check.found))
}

/// Starts a child, stops it and looks at it.
fn launch() -> Check {
    let name = "launch";
    let looked = child().and_then(|mut child| {
        let looked = look(&child);
        // It ends when its stdin does; its exit status does not matter.
        drop(child.stdin.take());
        let _ = child.wait();
        looked
    });
    match looked {
        Ok(found) => Check { name, status: Status::Ok, found, remedy: None },
        Err(reason) => Check { name, status: Status::Off, found: reason, remedy: None },
    }
}

fn child() -> Result<Child, String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(super::STAND).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| format!("a program cannot be started: {error}"))
}

fn look(child: &Child) -> Result<String, String> {
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let live = Live::open(pid).map_err(|error| error.to_string())?;
    let snapshot = Looker::new().live(&live, Wish::all(Lines::Cheap)).map_err(|error| error.to_string())?;
    match snapshot.stacks.first().is_some_and(|stack| !stack.frames.is_empty()) {
        true => Ok("programs we start can be stopped and their stacks read".to_owned()),
        false => Err("a program was started and stopped, but its stack could not be read".to_owned()),
    }
}

fn attach(facts: &Facts) -> Check {
    let any = Some(format!("sudo setcap cap_sys_ptrace+ep {}", own_path()));
    let (status, found, remedy) = match facts.ptrace_scope {
        _ if facts.ptrace_filtered => {
            let remedy = "start the container with --security-opt seccomp=unconfined, or run stackscope outside of it";
            (Status::Off, "a seccomp filter forbids ptrace".to_owned(), Some(remedy.to_owned()))
        }
        Some(3) => {
            let remedy =
                "set kernel.yama.ptrace_scope to at most 2 where it is set at boot (/etc/sysctl.d), and reboot";
            (Status::Off, "kernel.yama.ptrace_scope = 3, nobody may trace".to_owned(), Some(remedy.to_owned()))
        }
        _ if facts.ptrace_capability => (Status::Ok, "programs of all users can be looked at".to_owned(), None),
        Some(2) => (Status::Off, "kernel.yama.ptrace_scope = 2, only with CAP_SYS_PTRACE".to_owned(), any),
        Some(1) => (Status::Limited, "kernel.yama.ptrace_scope = 1, only own children".to_owned(), any),
        _ => (Status::Limited, "only programs of the same user".to_owned(), any),
    };
    Check { name: "attach", status, found, remedy }
}

/// Whether panics and exceptions can be seen.
fn raises() -> Check {
    let name = "raises";
    let Err(error) = process::try_breakpoint() else {
        let found = "panics and exceptions of programs we start are seen".to_owned();
        return Check { name, status: Status::Ok, found, remedy: None };
    };
    let remedy = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Some(
            "sudo sysctl kernel.perf_event_paranoid=2; in a container, start it with --security-opt seccomp=unconfined",
        ),
        _ => None,
    };
    let found = format!("panics and exceptions are not seen: the kernel refuses breakpoints ({error})");
    Check { name, status: Status::Limited, found, remedy: remedy.map(str::to_owned) }
}

fn peaks(facts: &Facts) -> Check {
    let kernel = &facts.kernel;
    let (status, found) = match facts.page_scan {
        PageScan::ScanWithGuards => (Status::Ok, format!("touched pages and all guards are seen (kernel {kernel})")),
        PageScan::Scan => (Status::Ok, format!("touched pages are seen (kernel {kernel})")),
        PageScan::Batches => (
            Status::Limited,
            format!("touched pages are read in batches, which is slower (kernel {kernel}, fast from 6.7)"),
        ),
    };
    Check { name: "peaks", status, found, remedy: None }
}

fn symbols() -> Check {
    let (status, found, remedy) = if Path::new(DEBUG_FILES).is_dir() {
        (Status::Ok, format!("separate debug files are installed in {DEBUG_FILES}"), None)
    } else {
        let remedy = "install the debug packages of what you look at (Debian: libc6-dbg, NAME-dbgsym)".to_owned();
        let found = "no separate debug files are installed: stripped system libraries show fewer names".to_owned();
        (Status::Limited, found, Some(remedy))
    };
    Check { name: "symbols", status, found, remedy }
}

fn cores(facts: &Facts) -> Check {
    let (status, found, remedy) = match (&facts.core_pattern, facts.core_limit) {
        (None, _) => (Status::Limited, "kernel.core_pattern cannot be read".to_owned(), None),
        (Some(pattern), _) if pattern.starts_with('|') => {
            let program = pattern.trim_start_matches('|').split_whitespace().next().unwrap_or_default();
            let remedy =
                program.contains("systemd-coredump").then(|| "coredumpctl dump PID -o FILE writes one out".to_owned());
            (Status::Limited, format!("core files are handed to {program}"), remedy)
        }
        (Some(_), Some(0)) => (
            Status::Off,
            "no core files are written, their limit is 0".to_owned(),
            Some("ulimit -c unlimited".to_owned()),
        ),
        (Some(pattern), _) => (Status::Ok, format!("core files are written to {pattern}"), None),
    };
    Check { name: "core files", status, found, remedy }
}

fn own_path() -> String {
    std::env::current_exe().map_or_else(|_| "stackscope".to_owned(), |path| path.display().to_string())
}
