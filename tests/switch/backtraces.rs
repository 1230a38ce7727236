//! A backtrace taken in a nested coroutine goes on to its resumers, whoever takes it and wherever the stacks lie.

use std::process::Command;

use stackscope_harness::{Running, built, eu_stack, gdb};

/// The functions of the fixture in the order of the calls, innermost first.
const CHAIN: [&str; 5] = ["inner_body", "outer_body", "on_the_heap", "resume_outer", "main"];

/// Fails where the functions of the chain are not all there in this order, with anything between them.
#[track_caller]
fn check<'a>(names: impl IntoIterator<Item = &'a str>) {
    let names: Vec<&str> = names.into_iter().collect();
    let mut rest = names.iter();
    for wanted in CHAIN {
        let found = rest.any(|name| name.split("::").any(|part| part == wanted));
        assert!(found, "{wanted} is not where it should be in {names:#?}");
    }
}

#[test]
fn gdb_and_eu_stack_see_all_stacks_in_both_orders() {
    for order in ["outer-higher", "inner-higher"] {
        let fixture = Running::start("switch_nested", &[order]);
        assert_eq!(fixture.mark, order);
        for threads in [gdb(fixture.pid()), eu_stack(fixture.pid())] {
            check(threads[0].functions.iter().map(String::as_str));
        }
    }
}

#[test]
fn std_and_the_crate_backtrace_see_all_stacks() {
    let output = Command::new(built("switch_nested")).arg("print").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (std, backtrace) = text.split_once("---").unwrap();
    for trace in [std, backtrace] {
        check(trace.lines().filter_map(|line| line.trim_start().split_once(": ")).map(|(_, name)| name));
    }
}

#[test]
fn the_own_dump_sees_all_stacks() {
    let fixture = Running::start("switch_nested", &["inner-higher"]);
    let output = Command::new(env!("CARGO_BIN_EXE_stackscope"))
        .args(["dump", "--no-cache", &fixture.pid().to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    check(text.split_whitespace());
}
