//! Valgrind follows every switch: memcheck finds no error and does not guess that a stack was switched, and callgrind, which
//! keeps a call stack for each, finds its way.

use std::process::Command;

use stackscope_harness::built;

#[test]
fn memcheck_and_callgrind_have_nothing_to_say() {
    let tools: [&[&str]; 2] = [
        &["--tool=memcheck", "--leak-check=full", "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"],
        &["--tool=callgrind", "--callgrind-out-file=/dev/null"],
    ];
    let cases = [
        ("green_threads", ""),
        ("coroutine_storm", "300"),
        ("switch_misuse", "drop-suspended"),
        ("switch_misuse", "panic-inside"),
        ("switch_misuse", "less-than-a-page"),
    ];
    for tool in tools {
        for (fixture, case) in cases {
            let mut valgrind = Command::new("valgrind");
            let output = valgrind.args(["-q", "--error-exitcode=9"]).args(tool).arg(built(fixture)).arg(case).output();
            let output = output.unwrap();
            // What the program itself says when it panics, and what Valgrind says, which begins each line with its number.
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> =
                said.lines().filter(|line| line.starts_with("==") || line.starts_with("--")).collect();
            assert!(
                output.status.success() && lines.is_empty(),
                "{tool:?} {fixture} {case}: {}\n{said}",
                output.status
            );
        }
    }
}
