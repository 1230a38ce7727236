//! `stackscope run`: the program keeps its streams, signals and exit code, and lives on if we do not.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use stackscope_harness::{built, scratch, settle, states, wait_until};

fn stackscope() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    command.stdin(Stdio::null());
    command
}

/// Runs a shell script under `run` with these options.
fn run(options: &[&str], script: &str) -> Output {
    stackscope().arg("run").args(options).args(["--", "sh", "-c", script]).output().unwrap()
}

/// The JSON report of a command, which keeps to its schema.
fn report(command: &[&str]) -> (Value, Output) {
    let file = scratch("run").join("report.json");
    let output = stackscope().args(["run", "--json", "-o"]).arg(&file).arg("--").args(command).output().unwrap();
    (read_report(&file), output)
}

fn read_report(file: &Path) -> Value {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let schema = std::fs::read_to_string("docs/stackscope-report-1.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    report
}

fn events<'r>(report: &'r Value, kind: &str) -> Vec<&'r Value> {
    report["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind).collect()
}

/// A program under `run` that has said its first line, with its stdout and the number of its process.
struct Started {
    tool: Child,
    stdout: BufReader<std::process::ChildStdout>,
    line: String,
}

impl Started {
    fn new(command: &mut Command) -> Started {
        let mut tool = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(tool.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        Started { tool, stdout, line: line.trim().to_owned() }
    }

    /// Starts a shell script that says the number of its process first.
    fn script(script: &str) -> (Started, i32) {
        let started = Started::new(stackscope().args(["run", "--", "sh", "-c", &format!("echo $$; {script}")]));
        let pid = started.line.parse().unwrap();
        (started, pid)
    }

    fn pid(&self) -> i32 {
        self.tool.id() as i32
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.tool.kill();
        let _ = self.tool.wait();
    }
}

fn kill(signal: &str, pid: i32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(sent.success(), "kill -{signal} {pid}");
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn status_field(pid: i32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

#[test]
fn the_exit_code_is_the_programs() {
    let cases = [("exit 7", 7), ("exit 0", 0), ("exit 255", 255), ("kill -SEGV $$", 139), ("kill -TERM $$", 143)];
    for (script, code) in cases {
        let output = run(&[], script);
        assert_eq!(output.status.code(), Some(code), "{script}");
        assert!(output.stdout.is_empty(), "{script}");
    }
}

#[test]
fn our_own_failures_have_codes_of_their_own() {
    let not_executable = scratch("run").join("file");
    std::fs::write(&not_executable, "text").unwrap();
    std::fs::set_permissions(&not_executable, std::fs::Permissions::from_mode(0o644)).unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["/nowhere/at/all"], 127, "stackscope: cannot find /nowhere/at/all\n"),
        (&["no-such-program-in-path"], 127, "stackscope: cannot find no-such-program-in-path\n"),
        (&[not_executable.to_str().unwrap()], 126, "Permission denied"),
        (&["/"], 126, "stackscope: cannot execute /"),
        (&["--no-such-option", "true"], 125, "--no-such-option"),
        (&["-o", "/nowhere/report", "true"], 125, "stackscope: cannot write to /nowhere/report"),
    ];
    for (arguments, code, said) in cases {
        let output = stackscope().arg("run").args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_streams_are_the_programs_byte_for_byte() {
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let script = "cat; printf 'to stderr \\033[1m' >&2";
    let file = scratch("run").join("report");
    let mut command = stackscope();
    command.args(["run", "-o"]).arg(&file).args(["sh", "-c", script]);
    let mut tool = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = tool.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = tool.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == bytes, "{} bytes came out", output.stdout.len());
    assert_eq!(output.stderr, b"to stderr \x1b[1m");
    assert!(std::fs::read_to_string(file).unwrap().contains("sh exited with 0"));
}

#[test]
fn what_the_program_inherits_is_ours() {
    let script = "grep -E '^Sig(Blk|Ign|Cgt)|^Groups|^NoNewPrivs' /proc/self/status; ps -o pgid=,sid=,tty= -p $$ | tr -d ' '; \
                  ls -l /proc/self/fd | wc -l; ulimit -a";
    // The shell's own handling of signals is the same in both cases.
    let direct = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    let watched = run(&[], script);
    assert_eq!(String::from_utf8_lossy(&watched.stdout), String::from_utf8_lossy(&direct.stdout));
}

#[test]
fn no_escape_bytes_reach_a_pipe() {
    for variables in [&[("TERM", "xterm-256color")][..], &[("TERM", "dumb")], &[("CI", "1")]] {
        let mut command = stackscope();
        command.args(["run", "true"]).envs(variables.iter().copied());
        // A session of its own has no terminal.
        command.process_group(0);
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty());
        assert!(!output.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn ascii_is_ascii() {
    let output = stackscope().args(["--ascii", "run", "true"]).output().unwrap();
    assert!(output.stderr.is_ascii(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_short_program_still_reports_its_stack() {
    let (report, output) = report(&["true"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(report["schema"], "stackscope-report");
    assert_eq!(report["program"]["exit_code"], 0);
    assert_eq!(report["program"]["command"], serde_json::json!(["true"]));
    assert_eq!((&report["stacks"]["total"], &report["stacks"]["most_at_once"]), (&1.into(), &1.into()));
    let [group] = report["groups"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!((&group["count"], &group["kind"], &group["guard"]), (&1.into(), &"thread".into(), &"ok".into()));
    assert!(group["peak"]["max"].as_u64().unwrap() >= 4096, "{group:#}");
    assert_eq!((&report["switches"], &report["coverage"]["sites_probed"]), (&Value::Null, &0.into()));
    assert_eq!((&report["complete"], &report["coverage"]["exact_until_ns"]), (&true.into(), &Value::Null));
}

#[test]
fn threads_are_grouped_by_what_they_were_started_for() {
    let threads = built("threads");
    let mut command = stackscope();
    let file = scratch("run").join("report.json");
    command.args(["run", "--json", "--interval", "20", "-o"]).arg(&file).arg(&threads);
    let mut started = Started::new(&mut command);
    assert_eq!(started.line, "ready");
    // The first look comes within the first interval; the report shows that it came.
    wait_until("all threads were looked at", || {
        drop(started.tool.stdin.take());
        started.tool.try_wait().unwrap().is_some()
    });
    let report = read_report(&file);
    assert_eq!((&report["stacks"]["total"], &report["stacks"]["most_at_once"]), (&9.into(), &9.into()));
}

#[test]
fn without_a_program_a_demo_is_run() {
    let file = scratch("run").join("report.json");
    let output = stackscope().args(["run", "--json", "-o"]).arg(&file).args(["--interval", "100"]).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("demo: "));
    let report = read_report(&file);
    assert!(report["program"]["command"][0].as_str().unwrap().ends_with("/stackscope"), "{report:#}");
    assert!(report["program"]["duration_ns"].as_u64() > Some(3_000_000_000), "{report:#}");
    assert!(report["stacks"]["total"].as_u64() > Some(0), "{report:#}");
}

#[test]
fn forks_and_execs_are_followed() {
    let (report, output) = report(&["sh", "-c", "sh -c 'exec sleep 0'; true"]);
    assert!(output.status.success());
    let forked = events(&report, "fork");
    assert_eq!(forked.len(), 1, "{report:#}");
    let became: Vec<&str> = events(&report, "exec").iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(became.iter().any(|message| message.ends_with("/sleep")), "{became:?}");
    assert_eq!(events(&report, "exit").len(), 2);
    assert_eq!(report["events_total"], report["events"].as_array().unwrap().len());
}

#[test]
fn an_exec_from_a_second_thread_is_followed() {
    let (execer, threads) = (built("execer"), built("threads"));
    let (report, output) = report(&[execer.to_str().unwrap(), threads.to_str().unwrap(), "3"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ready\n"[..]));
    let message = events(&report, "exec")[0]["message"].as_str().unwrap();
    assert!(message.ends_with("/threads"), "{message}");
    assert_eq!(report["stacks"]["total"], 2 + 4, "{report:#}");
}

#[test]
fn a_fatal_signal_is_shown_with_its_backtrace() {
    let overflow = built("overflow");
    let (report, output) = report(&[overflow.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(139));
    assert_eq!((&report["program"]["exit_code"], &report["program"]["signal"]), (&Value::Null, &11.into()));
    let fatal = events(&report, "overflow")[0];
    let first = &fatal["frames"][0]["function"];
    assert_eq!((&fatal["result"], first), (&"killed".into(), &"recurse".into()), "{:.2000}", format!("{report:#}"));
    assert!(fatal["frames_total"].as_u64().unwrap() > 10_000);
}

#[test]
fn a_signal_to_us_is_passed_on_once() {
    for signal in ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2"] {
        let (mut started, _) = Started::script(&format!(
            "count=0; trap 'count=$((count+1)); echo $count' {signal}; echo set; while :; do read line && break; done; exit 9"
        ));
        assert_eq!(started.next_line(), "set");
        kill(signal, started.pid());
        assert_eq!(started.next_line(), "1", "{signal}");
        drop(started.tool.stdin.take().map(|mut stdin| stdin.write_all(b"on\n")));
        let mut rest = String::new();
        started.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), started.tool.wait().unwrap().code()), ("", Some(9)), "{signal}");
    }
}

#[test]
fn a_signal_to_the_whole_group_comes_once() {
    let script =
        "echo $$; count=0; trap 'count=$((count+1)); echo $count' TERM; echo set; read line; read line; exit 9";
    let mut started = Started::new(stackscope().args(["run", "--", "sh", "-c", script]).process_group(0));
    assert_eq!(started.next_line(), "set");
    kill("TERM", -started.pid());
    assert_eq!(started.next_line(), "1");
    drop(started.tool.stdin.take());
    let mut rest = String::new();
    started.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), started.tool.wait().unwrap().code()), ("", Some(9)));
}

#[test]
fn the_program_lives_on_if_we_are_killed() {
    let (mut started, pid) = Started::script("read line; echo $line; read line; exit 0");
    settle(pid);
    let mut stdin = started.tool.stdin.take().unwrap();
    started.tool.kill().unwrap();
    started.tool.wait().unwrap();
    wait_until("the kernel has let the program go", || status_field(pid, "TracerPid") == "0");
    settle(pid);
    assert_eq!(states(pid), ['S']);
    stdin.write_all(b"still here\n").unwrap();
    assert_eq!(started.next_line(), "still here");
    drop(stdin);
    wait_until("the program has ended", || !is_alive(pid));
}

#[test]
fn no_signal_is_lost_whenever_we_are_killed() {
    let storm = built("signal_storm");
    for moment in 0..100 {
        let mut command = stackscope();
        command.args(["run", "--interval", "1", "-o", "/dev/null"]).arg(&storm).arg("3000");
        let mut started = Started::new(&mut command);
        for _ in 0..moment * 10 {
            std::thread::yield_now();
        }
        started.tool.kill().unwrap();
        assert_eq!(started.next_line(), "3000 signals, in order", "killed at moment {moment}");
    }
}

#[test]
fn a_program_that_stops_itself_stays_stopped_until_continued() {
    let (mut started, pid) = Started::script("kill -STOP $$; echo on; exit 4");
    wait_until("the program is stopped", || states(pid).iter().all(|state| matches!(state, 't' | 'T')));
    // Several looks come and go, and it stays so.
    let looks = std::time::Instant::now();
    wait_until("a second has passed", || looks.elapsed().as_millis() > 1200);
    assert!(states(pid).iter().all(|state| matches!(state, 't' | 'T')), "{:?}", states(pid));
    kill("CONT", pid);
    assert_eq!(started.next_line(), "on");
    assert_eq!(started.tool.wait().unwrap().code(), Some(4));
}

#[test]
fn a_storm_of_signals_ends_the_following_and_loses_none() {
    let storm = built("signal_storm");
    let (report, output) = report(&[storm.to_str().unwrap(), "20000"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n20000 signals, in order\n");
    assert_eq!(output.status.code(), Some(0));
    assert!(report["coverage"]["exact_until_ns"].as_u64().unwrap() > 0);
    assert_eq!(report["complete"], false);
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("more than 500 signals came in a second: since "), "{warning}");
}

#[test]
fn a_storm_of_threads_ends_the_following() {
    let storm = built("thread_storm");
    let mut command = stackscope();
    let file = scratch("run").join("report.json");
    command.args(["run", "--json", "--interval", "20", "-o"]).arg(&file).arg(&storm);
    let mut started = Started::new(&mut command);
    let program = wait_for_child(started.pid());
    wait_until("the program was let go", || status_field(program, "TracerPid") == "0");
    wait_until("it is looked at", || status_field(program, "TracerPid") != "0");
    drop(started.tool.stdin.take());
    assert!(started.next_line().ends_with(" threads"));
    assert!(started.tool.wait().unwrap().success());
    let report = read_report(&file);
    assert!(report["coverage"]["exact_until_ns"].is_u64(), "{report:#}");
    let warnings: Vec<_> = report["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(warnings.iter().any(|text| text.starts_with("far more than")), "{warnings:?}");
    // It is looked at all the same. On a busy machine its threads may not have come to a stop in time: then that is told.
    let looked = report["coverage"]["snapshots"].as_u64() > Some(0);
    assert!(looked || warnings.iter().any(|text| text.starts_with("at times there was no look")), "{report:#}");
}

/// The number of the process that a tool has started.
fn wait_for_child(pid: i32) -> i32 {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let mut found = None;
    wait_until("the program is started", || {
        found =
            std::fs::read_to_string(&children).unwrap_or_default().split(' ').next().and_then(|pid| pid.parse().ok());
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_death_by_signal_is_told_as_the_shell_does() {
    let (mut started, pid) = Started::script("read line");
    kill("KILL", pid);
    let status = started.tool.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(137), None));
}

#[test]
fn a_shell_with_a_terminal_controls_the_program_as_ever() {
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/job_control.py");
    let output = Command::new("python3").args([driver, env!("CARGO_BIN_EXE_stackscope")]).output().unwrap();
    assert!(output.stdout == b"as without the tool\n", "{}", String::from_utf8_lossy(&output.stderr));
}
