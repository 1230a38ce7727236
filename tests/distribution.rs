//! Programs of the distribution, which nobody built for us: those with fibers are found right by count and depth, and in
//! those without none is invented.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use stackscope_harness::{Running, gcore, scratch, settle, wait_until};

use common::{dump, function};

const COUNT: usize = 1000;

/// How many fibers wait at each depth: of each hundred, 10 have ended and 2 never started.
fn wanted() -> BTreeMap<usize, usize> {
    let mut wanted = BTreeMap::new();
    for number in (0..COUNT).filter(|number| number % 10 != 7 && number % 50 != 49) {
        *wanted.entry(number % 9).or_default() += 1;
    }
    wanted
}

/// How many suspended stacks of a dump have each depth: so many frames of the function `level`, `fixed` of them always.
fn depths(dump: &Value, level: &str, fixed: usize) -> BTreeMap<usize, usize> {
    let mut depths = BTreeMap::new();
    for stack in dump["stacks"].as_array().unwrap().iter().filter(|stack| stack["state"] == "suspended") {
        let frames = stack["frames"].as_array().unwrap();
        let levels = frames.iter().filter(|frame| function(frame) == level).count();
        assert_eq!(stack["kind"], "coroutine");
        assert_eq!(stack["ended"], "root");
        assert_eq!(stack["guard"]["state"], "ok");
        *depths.entry(levels - fixed).or_default() += 1;
    }
    depths
}

fn check_fibers(fixture: &str, level: &str, fixed: usize) {
    let running = Running::start(fixture, &[&COUNT.to_string()]);
    let live = dump(&running.pid().to_string());
    assert_eq!(depths(&live, level, fixed), wanted(), "{fixture}");
    assert!(live["blind_spots"].as_array().unwrap().is_empty(), "{fixture}: {:#?}", live["blind_spots"]);
    let folder = scratch(fixture);
    let core = dump(gcore(running.pid(), &folder).to_str().unwrap());
    assert_eq!(depths(&core, level, fixed), wanted(), "{fixture}, core file");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn fibers_of_ruby() {
    check_fibers("ruby_fibers", "rb_ary_each", 0);
}

/// One call begins each fiber.
#[test]
fn fibers_of_php() {
    check_fibers("php_fibers", "zend_call_function", 1);
}

/// Starts a program that says the mark, or becomes the one that does not, and looks at it when it waits.
fn check_none(program: &str, arguments: &[&str]) {
    let running = Running::start_command(Command::new(program).args(arguments));
    let executable = || std::fs::read_link(format!("/proc/{}/exe", running.pid())).unwrap();
    wait_until("it is no shell any more", || program != "sh" || !executable().ends_with("dash"));
    settle(running.pid());
    let dump = dump(&running.pid().to_string());
    let others: Vec<&Value> =
        dump["stacks"].as_array().unwrap().iter().filter(|stack| stack["kind"] != "thread").collect();
    assert!(others.is_empty(), "{program} {arguments:?}: {others:#?}");
    assert!(dump["blind_spots"].as_array().unwrap().is_empty(), "{program} {arguments:?}: {:#?}", dump["blind_spots"]);
    assert_eq!(dump["stacks"].as_array().unwrap().len(), dump["threads"].as_array().unwrap().len());
}

#[test]
fn none_is_invented_in_a_shell_and_its_tools() {
    check_none("bash", &["-c", "echo ready; read line"]);
    check_none("sh", &["-c", "echo ready; exec sleep 1000"]);
    check_none("sh", &["-c", "echo ready; exec tail -f /dev/null"]);
    check_none("sh", &["-c", "echo ready; exec sort"]);
}

/// Their interpreters keep jump buffers on the stack and in the heap; ruby and php could have fibers.
#[test]
fn none_is_invented_in_interpreters() {
    check_none("/usr/bin/python3", &["-c", "print('ready', flush=True); input()"]);
    check_none("perl", &["-e", "$| = 1; eval { print \"ready\\n\"; <STDIN> }"]);
    check_none("ruby", &["-e", "$stdout.sync = true; catch(:it) { puts 'ready'; $stdin.read }"]);
    check_none("php", &["-r", "echo \"ready\\n\"; stream_get_contents(STDIN);"]);
}

#[test]
fn none_is_invented_in_big_programs() {
    check_none("gdb", &["-nx", "-q", "-ex", "set startup-quietly on", "-ex", "echo ready\\n"]);
    check_none("sh", &["-c", "echo ready; exec vim -u NONE -es"]);
}
