//! `stackscope run --probes`: every switch is counted, and the program does what it does without.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use stackscope::workshop::process::Inbox;
use stackscope::{Launched, Options};
use stackscope_harness::{built, scratch, wait_until};

fn stackscope() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    command.stdin(Stdio::null());
    command
}

/// What a program does under `run --probes`, and the report, which keeps to its schema.
fn probed(command: &[&str]) -> (Value, Output) {
    let file = scratch("probes").join("report.json");
    let output =
        stackscope().args(["run", "--probes", "--json", "-o"]).arg(&file).arg("--").args(command).output().unwrap();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let schema = std::fs::read_to_string("docs/stackscope-report-1.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    (report, output)
}

fn total(report: &Value) -> u64 {
    report["switches"]["total"].as_u64().unwrap_or_else(|| panic!("{}", report["warnings"]))
}

fn path(name: &str) -> String {
    built(name).to_str().unwrap().to_owned()
}

/// Every coroutine fixture enters 98 of its 100 coroutines twice, and each time comes back.
const SWITCHES: u64 = 98 * 2 * 2;

#[test]
fn counts_are_those_of_the_program() {
    let fixtures = [
        "co_asm",
        "co_asm_static",
        "co_asm_stripped",
        "co_block",
        "co_corosensei_stripped",
        "co_fcontext",
        "co_fcontext_static",
        "co_fcontext_stripped",
        "co_generator_stripped",
        "co_label",
        "co_ucontext",
        "co_ucontext_static",
        "co_ucontext_stripped",
    ];
    for fixture in fixtures {
        let (report, output) = probed(&[&path(fixture), "100"]);
        assert_eq!(total(&report), SWITCHES, "{fixture}: {}", report["switches"]);
        assert!(report["coverage"]["sites_probed"].as_u64() > Some(0), "{fixture}");
        assert!(output.status.success() && output.stdout.starts_with(b"ready"), "{fixture}: {output:?}");
    }
}

#[test]
fn threads_that_hand_on_their_coroutines_are_counted_and_a_child_is_left_alone() {
    let (report, output) = probed(&[&path("switching"), "4", "1000", "10", "fork"]);
    let own = "parent 160000\nchild 160000\n";
    assert_eq!((String::from_utf8(output.stdout).unwrap().as_str(), output.status.code()), (own, Some(5)));
    assert_eq!(total(&report), 160_000, "{}", report["switches"]);
    let by_site = report["switches"]["by_site"].as_array().unwrap();
    let seen: Vec<_> = by_site.iter().map(|site| (site["function"].as_str(), site["count"].as_u64())).collect();
    assert_eq!(seen, [(Some("own_switch"), Some(160_000))]);
}

#[test]
fn rubys_fibers_are_counted() {
    let (report, _) = probed(&["ruby", &path("ruby_fibers"), "100"]);
    assert_eq!(total(&report), SWITCHES, "{}", report["switches"]);
    let within = report["switches"]["by_site"].as_array().unwrap().iter().find(|site| site["between_stacks"] == false);
    assert!(within.is_some(), "the interpreter jumps up its own stack: {}", report["switches"]);
}

#[test]
fn without_the_option_nothing_is_probed() {
    let file = scratch("probes").join("report.json");
    let arguments: [&[&str]; 2] = [&[], &["--probes", "--no-probes"]];
    for options in arguments {
        let mut command = stackscope();
        command.args(["run", "--json", "-o"]).arg(&file).args(options).arg("--").arg(path("co_asm")).arg("10");
        assert!(command.output().unwrap().status.success());
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!((&report["switches"], &report["coverage"]["sites_probed"]), (&Value::Null, &0.into()));
    }
}

/// Runs a shell's command under `run --probes` with this limit set.
fn limited(limit: &str) -> (Value, Output) {
    probed(&["sh", "-c", &format!("ulimit {limit}; exec {} 100", path("co_asm"))])
}

#[test]
fn a_program_with_limits_runs_as_it_does_without_us() {
    // 2 GiB of address space, and files of 64 KiB.
    for limit in ["-v 2097152", "-f 128"] {
        let (report, output) = limited(limit);
        assert!(output.status.success() && output.stdout.starts_with(b"ready"), "{limit}: {output:?}");
        if limit.starts_with("-v") {
            let warnings = report["warnings"].as_array().unwrap();
            let says = |warning: &Value| warning.as_str().unwrap().starts_with("switches are not counted: ");
            assert!(warnings.iter().any(says), "{warnings:?}");
            assert_eq!(report["complete"], false);
        } else {
            assert_eq!(total(&report), SWITCHES, "the limit is not ours");
        }
    }
}

/// A program under `run --probes` that writes to a pipe of ours, and has said `ready`.
struct Started {
    tool: Child,
    stdout: BufReader<std::process::ChildStdout>,
    pid: i32,
}

impl Started {
    fn new(command: &[&str]) -> Started {
        let mut tool = stackscope();
        tool.args(["run", "--probes", "-o", "/dev/null", "--"]).args(command);
        let mut tool = tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(tool.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        let children = format!("/proc/{0}/task/{0}/children", tool.id());
        let children = std::fs::read_to_string(children).unwrap();
        let pid = children.split_whitespace().next().unwrap().parse().unwrap();
        Started { tool, stdout, pid }
    }
}

/// The code of a program's file, as a process's memory has it and as the file has it.
fn code(pid: i32, file: &Path) -> (Vec<u8>, Vec<u8>) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let name = file.canonicalize().unwrap();
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with(name.to_str().unwrap())).unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (low, high) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
    let offset = number(line.split_whitespace().nth(2).unwrap());
    let mut memory = vec![0; (number(high) - number(low)) as usize];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut memory, number(low)).unwrap();
    let mut content = vec![0; memory.len()];
    let length = File::open(file).unwrap().read_at(&mut content, offset).unwrap();
    assert!(length > 0);
    (memory, content)
}

/// How many bytes differ.
fn differences((memory, file): (Vec<u8>, Vec<u8>)) -> usize {
    memory.iter().zip(&file).filter(|(memory, file)| memory != file).count()
}

#[test]
fn a_program_that_is_left_has_its_code_back() {
    let (program, folder) = (built("co_asm"), scratch("probes"));
    let (input, output) = (folder.join("input"), folder.join("output"));
    assert!(Command::new("mkfifo").arg(&input).status().unwrap().success());
    let script = format!("exec {} 50 <{} >{}", program.display(), input.display(), output.display());
    let options = Options {
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        interval: Duration::from_secs(1),
        probes: true,
    };
    let mut launched = Launched::prepare(&options, &Inbox::open().unwrap()).unwrap();
    let pid = launched.unseen().snapshot.process.pid;
    let control = launched.control();
    launched.go().unwrap();
    let watched = std::thread::spawn(move || launched.watch(&mut |_| {}));
    let end_of_input = File::options().write(true).open(&input).unwrap();
    wait_until("it is ready", || std::fs::read(&output).is_ok_and(|text| text.starts_with(b"ready")));
    let changed = differences(code(pid, &program));
    assert!((1..64).contains(&changed), "{changed}");
    control.leave();
    let watched = watched.join().unwrap();
    assert_eq!(differences(code(pid, &program)), 0);
    assert_eq!(watched.switches.unwrap().total, Some(49 * 2 * 2));
    drop(end_of_input);
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 0), "it ends as it would");
}

#[test]
fn a_tool_that_is_killed_leaves_a_program_that_looks_and_works_as_before() {
    let program = built("co_asm");
    let mut started = Started::new(&[program.to_str().unwrap(), "50"]);
    let dump = |pid: i32| {
        let output = stackscope().args(["dump", "--json", &pid.to_string()]).output().unwrap();
        let snapshot: Value = serde_json::from_slice(&output.stdout).unwrap();
        (snapshot["totals"].clone(), snapshot["blind_spots"].clone(), snapshot["warnings"].clone())
    };
    // To wait for the tool would end the program's input.
    let end_of_input = started.tool.stdin.take();
    started.tool.kill().unwrap();
    started.tool.wait().unwrap();
    assert!(differences(code(started.pid, &program)) > 0, "it is left probed");
    let plain = stackscope_harness::Running::start("co_asm", &["50"]);
    assert_eq!(dump(started.pid), dump(plain.pid()));
    let mut rest = String::new();
    drop(end_of_input);
    started.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let gone: PathBuf = format!("/proc/{}/exe", started.pid).into();
    wait_until("the program has ended", || gone.read_link().is_err());
}
