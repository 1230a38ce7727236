//! `gdb` and `serve`: a debugger that knows of threads alone shows every context, of a program that it leaves unharmed.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::contexts::{own_functions, shown_by, shown_by_us, stacks, tid};
use common::{dump, stackscope, stitched};
use stackscope_harness::{GDB_SETTINGS, Running, gcore, gdb_started_by, kernel_core, scratch, states};

const STACKSCOPE: &str = env!("CARGO_BIN_EXE_stackscope");

/// `stackscope gdb TARGET` shows the contexts that `dump` shows, with the same of the program's own functions.
fn check_contexts(target: &str, at_least: usize) {
    let dump = dump(target);
    let own = own_functions(&dump);
    let expected = shown_by_us(&dump, &own);
    assert!(expected.len() > at_least, "{target}: {} contexts", expected.len());
    let shown = shown_by(&gdb_started_by(Path::new(STACKSCOPE), &["gdb", target]), &own);
    assert_eq!(shown.len(), expected.len(), "{target}");
    for (tid, names) in &expected {
        assert_eq!(shown.get(tid), Some(names), "{target}, thread {tid}");
    }
}

/// Of a program that runs, and of the core file that gcore writes of it.
fn check_program(program: &str, arguments: &[&str], at_least: usize) {
    let folder = scratch(program);
    let mut fixture = Running::start(program, arguments);
    check_contexts(&fixture.pid().to_string(), at_least);
    check_contexts(gcore(fixture.pid(), &folder).to_str().unwrap(), at_least);
    assert!(states(fixture.pid()).iter().all(|state| *state == 'S'), "{program}");
    assert!(fixture.finish().0.success(), "{program}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn gdb_shows_contexts_of_an_own_switch() {
    check_program("co_asm", &["100", "guard"], 90);
}

#[test]
fn gdb_shows_contexts_of_the_c_library() {
    check_program("co_ucontext", &["100", "guard"], 90);
}

#[test]
fn gdb_shows_coroutines_of_corosensei() {
    check_program("co_corosensei", &["100", "guard"], 90);
}

#[test]
fn gdb_shows_contexts_of_a_static_program() {
    check_program("co_asm_static", &["100", "guard"], 90);
}

#[test]
fn gdb_shows_contexts_of_a_stripped_program() {
    check_program("co_asm_stripped", &["100", "guard"], 90);
}

/// A thread that runs a coroutine is two threads: the coroutine's context has its number. gdb goes on from it to the
/// other one's frames, as the stitched backtrace does.
#[test]
fn gdb_shows_a_resumer_as_a_thread_of_its_own() {
    let mut fixture = Running::start("corosensei_nested", &[]);
    let target = fixture.pid().to_string();
    let dump = dump(&target);
    let own = own_functions(&dump);
    let single = shown_by_us(&dump, &own);
    let shown = shown_by(&gdb_started_by(Path::new(STACKSCOPE), &["gdb", &target]), &own);
    assert!(single.len() > 2 && shown.keys().eq(single.keys()), "{shown:?}");
    for (id, stack) in stacks(&dump).iter().enumerate() {
        let stitched = stitched(&dump, id as u64).into_iter().map(|id| tid(&stacks(&dump)[id as usize]));
        let names: Vec<String> = stitched.flat_map(|tid| single[&tid].clone()).collect();
        assert_eq!(shown[&tid(stack)], names, "{stack}");
    }
    assert!(fixture.finish().0.success());
}

#[test]
fn gdb_shows_contexts_in_the_kernels_core_file() {
    let folder = scratch("serve_kernel_core");
    let core = kernel_core("co_asm", &["100", "guard"], &folder);
    check_contexts(core.to_str().unwrap(), 90);
    std::fs::remove_dir_all(folder).unwrap();
}

/// gdb's output for these commands, after it has connected.
fn gdb(target: &str, commands: &[&str]) -> String {
    let mut command = Command::new(STACKSCOPE);
    command.args(["gdb", target, "-batch", "-nx"]).args(GDB_SETTINGS.iter().flat_map(|setting| ["-iex", setting]));
    command.args(commands.iter().flat_map(|command| ["-ex", command]));
    let Output { stdout, stderr, .. } = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

fn check_locals(target: &str) {
    let said = gdb(target, &["thread apply all -s frame apply all -q -s info locals", "info threads"]);
    for (number, letter) in (0..5).zip('a'..) {
        let seed = 1000 + number;
        let of_one = [format!("number = {}", 3 * seed), format!("word = \"word-{letter}"), format!("seed = {seed}")];
        let places: Vec<usize> =
            of_one.iter().map(|local| said.find(local).unwrap_or_else(|| panic!("no {local}: {said}"))).collect();
        assert!(places.is_sorted(), "{of_one:?} {places:?}: {said}");
        assert_eq!(said[places[0]..places[2]].matches("Thread ").count(), 0, "{said}");
    }
}

#[test]
fn locals_of_suspended_coroutines_have_the_programs_values() {
    let folder = scratch("serve_locals");
    let mut fixture = Running::start("locals", &["5"]);
    check_locals(&fixture.pid().to_string());
    check_locals(gcore(fixture.pid(), &folder).to_str().unwrap());
    assert_eq!(fixture.finish().1, "unharmed\n");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_would_change_the_program_is_refused() {
    let mut fixture = Running::start("locals", &["5"]);
    let pid = fixture.pid().to_string();
    let memory = std::fs::read(format!("/proc/{pid}/maps")).unwrap();
    for (command, refused) in [
        ("set var $rax = 1", "registers are not written"),
        ("print *(int *)$sp = 4", "memory is not written"),
        ("stepi", "no single instruction is run"),
        ("kill", "the program is not killed"),
    ] {
        let said = gdb(&pid, &[command]);
        assert!(said.contains(&format!("stackscope: {refused}")), "{command}: {said}");
    }
    let said = gdb(&pid, &["break keeps", "stepi"]);
    assert!(said.contains("stackscope: no breakpoint is set"), "{said}");
    assert!(said.contains("Cannot insert breakpoint 1."), "{said}");
    assert_eq!(std::fs::read(format!("/proc/{pid}/maps")).unwrap(), memory);
    let (status, output) = fixture.finish();
    assert!(status.success());
    assert_eq!(output, "unharmed\n");
}

#[test]
fn monitor_shows_what_dump_shows() {
    let fixture = Running::start("locals", &["5"]);
    let pid = fixture.pid().to_string();
    let said =
        gdb(&pid, &["monitor stacks", "monitor filter id=2", "monitor stack 10000003", "monitor filter nonsense"]);
    assert!(said.contains("6 stacks: 1 thread, 5 coroutines"), "{said}");
    assert!(said.contains("1 of 6 fit the filter id=2") && said.contains("1 of 6 fit the filter id=3"), "{said}");
    assert!(said.contains("Coroutine 2, suspended") && said.contains("keeps (locals.c:"), "{said}");
    assert!(said.contains("nonsense"), "{said}");
}

#[test]
fn unknown_registers_are_unavailable() {
    let fixture = Running::start("locals", &["5"]);
    let said = gdb(&fixture.pid().to_string(), &["thread 2", "print $rax", "print $rip != 0", "print $xmm0"]);
    assert!(
        said.contains("$1 = <unavailable>") && said.contains("$2 = 1") && said.contains("$3 = <unavailable>"),
        "{said}"
    );
}

/// gdb's exit code, its own arguments, and what is said where it can't be started.
#[test]
fn gdb_is_passed_arguments_and_passes_its_exit_code_on() {
    let fixture = Running::start("threads", &["2"]);
    let pid = fixture.pid().to_string();
    let output = stackscope(&["gdb", &pid, "-batch", "-nx", "-ex", "quit 42"]);
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let output = stackscope(&["gdb", "1073741824"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let output = Command::new(STACKSCOPE).args(["gdb", &pid]).env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("gdb is not installed") && said.contains("install the package gdb"), "{said}");
}

#[test]
fn serve_says_what_is_wrong_with_its_target_or_address() {
    for (arguments, code, said) in [
        (&["serve", "1073741824"][..], 125, "no process"),
        (&["serve", "/nonexistent/core"], 125, "No such file"),
        (&["serve", "--listen", "192.0.2.1:80", "1"], 2, "not a loopback address"),
        (&["serve", "--listen", "nowhere", "1"], 2, "neither ADDRESS:PORT nor a path"),
        (&["serve"], 2, "PID|CORE"),
    ] {
        let output = stackscope(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
