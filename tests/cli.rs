//! The command as its users meet it: exit codes, sentences for bad input, JSON that keeps to its schema.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stackscope_harness::{Running, gcore, scratch, states, wait_until};

use common::{dump, stackscope};

/// What the command wrote to stderr.
fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The command fails with exit code 125 and one sentence that holds `words`.
fn check_refused(arguments: &[&str], words: &str) {
    let output = stackscope(arguments);
    assert_eq!(output.status.code(), Some(125), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    let said = said(&output);
    assert!(said.starts_with("stackscope: ") && said.contains(words), "{arguments:?}: {said}");
    assert!(said.lines().count() == 1 || said.lines().nth(1).unwrap().starts_with("  fix: "), "{arguments:?}: {said}");
}

#[test]
fn what_is_no_process_is_refused() {
    check_refused(&["dump", "999999999"], "there is no process 999999999");
    check_refused(&["dump", &std::process::id().to_string(), "--log", "/nonexistent/log"], "/nonexistent/log");
}

#[test]
fn a_kernel_thread_is_refused() {
    check_refused(&["dump", "2"], "thread of the kernel");
}

#[test]
fn a_zombie_is_refused_with_its_parent() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    wait_until("it has ended", || stat().contains(") Z "));
    check_refused(&["dump", &pid], &format!("process {}", std::process::id()));
    child.wait().unwrap();
}

#[test]
fn a_thread_is_refused_with_its_process() {
    let running = Running::start("threads", &["1", "3"]);
    let process = running.pid().to_string();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let thread = tasks.flatten().map(|task| task.file_name().into_string().unwrap()).find(|tid| *tid != process);
    check_refused(&["dump", &thread.unwrap()], &process);
}

#[test]
fn another_tracer_is_named() {
    let running = Running::start("threads", &["1", "3"]);
    let pid = running.pid().to_string();
    let mut strace = Command::new("strace").args(["-q", "-p", &pid]).stderr(Stdio::piped()).spawn().unwrap();
    let tracer = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let expected = format!("TracerPid:\t{}", strace.id());
    wait_until("strace traces it", || tracer().contains(&expected));
    check_refused(&["dump", &pid], &strace.id().to_string());
    strace.kill().unwrap();
    strace.wait().unwrap();
}

#[test]
fn another_users_process_is_refused_with_the_remedy() {
    let running = Running::start("threads", &["1", "3"]);
    let pid = running.pid().to_string();
    // The file is copied to where every user may run it.
    let folder = std::env::temp_dir().join(format!("stackscope-test-{pid}"));
    fs::create_dir_all(&folder).unwrap();
    let copy = folder.join("stackscope");
    fs::copy(env!("CARGO_BIN_EXE_stackscope"), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(&copy).args(["dump", &pid]);
    let output = command.current_dir("/").output().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(said(&output).contains("\n  fix: ") && said(&output).contains("sudo"), "{output:?}");
}

#[test]
fn what_is_no_core_file_is_refused() {
    let scratch = scratch("cli");
    let file = |name: &str, content: &[u8]| {
        let path = scratch.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    check_refused(&["dump", "./no such file"], "No such file");
    check_refused(&["dump", scratch.to_str().unwrap()], "a directory");
    check_refused(&["dump", &file("empty", b"")], "empty");
    check_refused(&["dump", &file("text", b"Hello, world.")], "not a core file");
    check_refused(&["dump", env!("CARGO_BIN_EXE_stackscope")], "not a core file");
    check_refused(&["dump", &file("core.zst", b"\x28\xb5\x2f\xfd rest")], "zstd -d");
    check_refused(&["dump", &file("core.gz", b"\x1f\x8b rest")], "gunzip");
}

#[test]
fn a_cut_core_file_shows_what_is_left() {
    let running = Running::start("threads", &["8", "59"]);
    let core = gcore(running.pid(), &scratch("cli"));
    let whole = dump(core.to_str().unwrap());
    assert_eq!(whole["complete"], true, "{:?}", whole["warnings"]);
    let length = fs::metadata(&core).unwrap().len();
    fs::OpenOptions::new().write(true).open(&core).unwrap().set_len(length - 4096).unwrap();
    let output = stackscope(&["dump", "--json", core.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let cut: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(cut["complete"], false);
    assert!(cut["warnings"].to_string().contains("truncated"), "{}", cut["warnings"]);
    check_schema("a cut core file", &cut);
    check_sums(&cut);
}

#[test]
fn a_thread_in_uninterruptible_sleep_is_listed_and_told() {
    // Not `start`: its parent never leaves state D.
    let running = Running::start_busy("vfork_parent", &[]);
    wait_until("it is in vfork", || states(running.pid()).contains(&'D'));
    let output = stackscope(&["dump", &running.pid().to_string()]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not seen") && text.contains("state D"), "{text}");
    let output = stackscope(&["dump", "--json", &running.pid().to_string()]);
    let partial: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &partial["complete"]), (Some(3), &Value::Bool(false)));
    check_schema("state D", &partial);
    check_sums(&partial);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [&["dump"][..], &["dump", "1", "--no-such-option"], &["no-such-verb"], &[]] {
        let output = stackscope(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(said(&output).contains("Usage"), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let running = Running::start("threads", &["8", "59"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    let mut child = command
        .args(["dump", "--all", "--no-cache", &running.pid().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_full_disk_is_told() {
    let running = Running::start("threads", &["1", "3"]);
    let output = stackscope(&["dump", "-o", "/dev/full", &running.pid().to_string()]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(said(&output).contains("/dev/full"), "{output:?}");
}

#[test]
fn json_keeps_to_its_schema() {
    for fixture in ["threads", "sigaltstack", "ucontext", "jit", "stacker_nested", "corosensei_nested", "goroutines"] {
        let running = Running::start(fixture, &[]);
        let output = stackscope(&["dump", "--json", &running.pid().to_string()]);
        let dump: Value = serde_json::from_slice(&output.stdout).unwrap();
        // The code and the word say the same.
        let code = if dump["complete"] == true { 0 } else { 3 };
        assert_eq!(output.status.code(), Some(code), "{fixture}: {}", said(&output));
        check_schema(fixture, &dump);
        check_sums(&dump);
    }
}

fn check_schema(what: &str, dump: &Value) {
    let schema = fs::read_to_string("docs/stackscope-dump-1.schema.json").unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(dump).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

/// Ids are indexes, and the totals are those of the lists.
fn check_sums(dump: &Value) {
    let stacks = dump["stacks"].as_array().unwrap();
    for (index, stack) in stacks.iter().enumerate() {
        assert_eq!(stack["id"], index);
    }
    assert_eq!(dump["totals"]["stacks"], stacks.len());
    for (total, key) in [("by_kind", "kind"), ("by_state", "state")] {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for stack in stacks {
            *counts.entry(stack[key].as_str().unwrap()).or_default() += 1;
        }
        for (word, count) in dump["totals"][total].as_object().unwrap() {
            assert_eq!(counts.remove(word.as_str()).unwrap_or_default(), count.as_u64().unwrap(), "{word}");
        }
        assert!(counts.is_empty(), "{total} lacks {counts:?}");
    }
}

#[test]
fn names_from_the_target_cannot_drive_the_terminal() {
    let mut command = Command::new("python3");
    let rename = "import ctypes, sys\n\
                  ctypes.CDLL(None).prctl(15, b'\\x1b[31mred\\n', 0, 0, 0)\n\
                  print('ready', flush=True); sys.stdin.read()";
    let running = Running::start_command(command.args(["-c", rename]));
    let output = stackscope(&["dump", "--color", "never", &running.pid().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\\x1b[31mred\\x0a") && !text.contains('\x1b'), "{text}");
}

#[test]
fn text_is_plain_in_a_pipe_and_ascii_if_asked() {
    let running = Running::start("threads", &["8", "59"]);
    let pid = running.pid().to_string();
    let output = stackscope(&["dump", "--ascii", &pid]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
    assert!(text.contains("8 threads") && text.contains("descend") && text.contains("x59"), "{text}");
    let colored = stackscope(&["dump", "--color", "always", &pid]);
    assert!(String::from_utf8(colored.stdout).unwrap().contains("\x1b[1m"));
}

#[test]
fn the_target_does_not_notice() {
    let mut running = Running::start("threads", &["8", "59"]);
    let pid = running.pid().to_string();
    for _ in 0..20 {
        assert_eq!(stackscope(&["dump", "--json", &pid]).status.code(), Some(0));
    }
    let (status, rest) = running.finish();
    assert!(status.success() && status.signal().is_none() && rest.is_empty(), "{status} {rest:?}");
}

#[test]
fn doctor_says_that_launching_works() {
    let output = stackscope(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["checks"][0]["name"], "launch");
    assert_eq!(report["checks"][0]["status"], "ok");
    let text = stackscope(&["doctor"]);
    assert!(String::from_utf8(text.stdout).unwrap().starts_with("ok       launch: "));
}

#[test]
fn completions_and_manual_name_each_verb() {
    for arguments in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let output = stackscope(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(["dump", "doctor", "completions"].iter().all(|verb| text.contains(verb)), "{arguments:?}: {text}");
    }
}
