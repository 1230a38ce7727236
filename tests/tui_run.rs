//! `run` with a screen on a real terminal: the program has a terminal of its own there, keeps its pipes, files, signals and
//! exit code, and lives on whatever becomes of the screen.

#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use std::path::Path;

use std::time::Duration;

use common::code_in_memory;
use common::terminal::{Terminal, Written, gate, is_alive, is_traced, kill, run_line};
use stackscope::workshop::filter::Filter;
use stackscope::workshop::process::Inbox;
use stackscope::workshop::tui;
use stackscope::workshop::watch::{Launched, Options};
use stackscope_harness::{scratch, states, wait_until};

/// A script that says its number, waits, says that it is still there, and waits again.
fn waiter(pid: &Written, gate: &Path) -> String {
    let pid = pid.name();
    format!("echo $$ >{pid}; exec 3<>{}; read go <&3; echo still-$((40+2)) here; read go <&3", gate.display())
}

#[test]
fn pipes_and_files_stay_what_they_are_under_the_screen() {
    let (terminal, out) = (Terminal::new("pipe"), Written::new("out"));
    let gate = gate();
    let words = format!("sh -c 'cat; exec 3<>{}; read go <&3; echo to the terminal >&2; read go <&3'", gate.display());
    terminal.run(&format!("seq 5 | {} >{}; echo code-$?", run_line("", &words), out.name()));
    wait_until("the screen", || terminal.fact("alternate_on") == "1");
    terminal.wait_for("LIVE");
    wait_until("the pipe was read", || out.text() == "1\n2\n3\n4\n5\n");
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("to the terminal");
    terminal.keys(&["?"]);
    terminal.wait_for("type to search");
    terminal.keys(&["Escape"]);
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("code-0");
    terminal.is_restored();
    assert_eq!(out.text(), "1\n2\n3\n4\n5\n");
}

#[test]
fn the_exit_code_is_the_programs_with_and_without_a_screen() {
    let terminal = Terminal::new("codes");
    let plain = scratch("tui").join("plain");
    std::fs::write(&plain, "text").unwrap();
    let plain = plain.display().to_string();
    let cases = [("sh -c 'exit 7'", 7), ("sh -c 'kill -SEGV $$'", 139), ("/nowhere/at/all", 127), (&plain, 126)];
    for options in ["", "--no-tui"] {
        for (words, code) in cases {
            terminal.run("clear");
            terminal.run(&format!("{}; echo code-$?", run_line(options, words)));
            terminal.wait_for(&format!("code-{code}"));
        }
    }
    terminal.is_restored();
}

#[test]
fn the_last_lines_and_the_report_follow_the_screen() {
    let terminal = Terminal::new("last");
    terminal.run(&format!("{}; echo code-$?", run_line("", "sh -c 'echo first; echo last words; exit 3'")));
    terminal.wait_for("code-3");
    let screen = terminal.screen();
    let [first, last, report] = ["first\n", "last words\n", "sh exited with 3 after"]
        .map(|text| screen.rfind(text).unwrap_or_else(|| panic!("no {text:?} in:\n{screen}")));
    assert!(first < last && last < report, "{screen}");
    terminal.is_restored();
}

#[test]
fn a_program_is_typed_into_and_editors_work() {
    let (terminal, line) = (Terminal::new("type"), Written::new("line"));
    terminal.run_program("", "sh");
    terminal.keys(&["i"]);
    terminal.wait_for("typing into the program");
    terminal.run(&format!("read answer && echo \"$answer\" >{}; stty size", line.name()));
    terminal.run("a typed line");
    assert_eq!(line.line(), "a typed line");
    // Two lines of head, one of the title and one of the foot are ours.
    terminal.wait_for("32 120");
    terminal.run("vim -u NONE -N -i NONE /etc/hostname");
    terminal.wait_for("~\n~\n");
    terminal.tmux(&["resize-window", "-x", "90", "-y", "30"]);
    // It fills the new size: the rows below the only line of the file, but for its own last row.
    let filled = || terminal.screen().lines().filter(|line| line.starts_with('~')).count();
    wait_until("the editor has the new size", || filled() == 27 - 2);
    terminal.run(":qa!");
    wait_until("the editor is gone", || !terminal.screen().contains("~\n"));
    terminal.run("stty size; echo edited-$((40+2))");
    terminal.wait_for("edited-42");
    assert!(terminal.screen().contains("27 90"), "{}", terminal.screen());
    terminal.run("exit 4");
    terminal.wait_for("sh exited with 4");
    terminal.is_restored();
}

#[test]
fn jobs_of_a_shell_in_the_screen_are_controlled_by_keys() {
    let (terminal, line) = (Terminal::new("jobs"), Written::new("line"));
    terminal.run_program("", "sh");
    terminal.keys(&["i"]);
    terminal.run(&format!("cat >{}", line.name()));
    terminal.run("before the stop");
    assert_eq!(line.line(), "before the stop");
    terminal.keys(&["C-z"]);
    terminal.wait_for("Stopped");
    terminal.run("fg");
    terminal.run("after the stop");
    wait_until("it goes on", || line.text() == "before the stop\nafter the stop\n");
    // Else the screen may still end with the prompt at which `fg` was typed.
    terminal.wait_for("after the stop");
    terminal.keys(&["C-c"]);
    // What is typed before the shell asks again is thrown away with the interrupt.
    wait_until("the shell asks again", || terminal.screen().lines().any(|line| line.trim_end() == "$"));
    terminal.run("exit");
    terminal.wait_for("sh exited with");
    terminal.is_restored();
}

/// A program that counts interrupts in a file and ends by none of them.
fn counter(file: &Written, count: &Written) -> String {
    let script = format!(
        "trap \"echo interrupted >>{}\" INT; echo $$ >{}; while :; do read line && echo \"got $line\"; done",
        count.name(),
        file.name()
    );
    format!("sh -c '{script}'")
}

#[test]
fn an_interrupt_reaches_the_program_once_and_a_second_one_asks() {
    let (terminal, pid, count) = (Terminal::new("interrupt"), Written::new("pid"), Written::new("count"));
    terminal.run_program("", &counter(&pid, &count));
    let pid: i32 = pid.line().parse().unwrap();
    terminal.keys(&["C-c"]);
    wait_until("it is interrupted", || count.text() == "interrupted\n");
    terminal.keys(&["C-z"]);
    terminal.is_restored();
    assert!(is_alive(pid));
    assert_eq!(count.text(), "interrupted\n");
    terminal.run("fg");
    terminal.wait_for("LIVE");
    terminal.keys(&["C-c", "C-c"]);
    terminal.wait_for("The program is still running");
    terminal.keys(&["e"]);
    terminal.wait_for("was ended by SIGTERM");
    terminal.is_restored();
}

#[test]
fn a_program_that_is_left_runs_on_and_writes_to_the_terminal() {
    let (terminal, pid) = (Terminal::new("left"), Written::new("pid"));
    let gate = gate();
    let script = waiter(&pid, &gate);
    terminal.run_program("", &format!("sh -c '{script}'; echo code-$?"));
    let pid: i32 = pid.line().parse().unwrap();
    // What is chosen without looking harms nothing.
    terminal.keys(&["q"]);
    terminal.wait_for("The program is still running");
    terminal.keys(&["Enter"]);
    terminal.wait_for("code-0");
    terminal.is_restored();
    assert!(is_alive(pid) && !is_traced(pid));
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("still-42 here");
    assert!(is_alive(pid));
    std::fs::write(&gate, "\n").unwrap();
    wait_until("it ends by itself", || !is_alive(pid));
}

#[test]
fn a_program_runs_on_and_writes_if_its_screen_is_killed() {
    let (terminal, pid) = (Terminal::new("killed"), Written::new("pid"));
    let gate = gate();
    let script = waiter(&pid, &gate);
    terminal.run_program("--interval 1", &format!("sh -c '{script}'"));
    let pid: i32 = pid.line().parse().unwrap();
    let before = code_in_memory(pid);
    let written = terminal.record();
    kill("KILL", terminal.job().unwrap());
    wait_until("nobody traces it", || !is_traced(pid));
    assert!(states(pid).iter().all(|state| matches!(state, 'R' | 'S')), "{:?}", states(pid));
    assert!(code_in_memory(pid) == before, "its code was changed");
    std::fs::write(&gate, "\n").unwrap();
    // Where on the screen it stands depends on where the last drawing was cut off.
    wait_until("it writes to the terminal", || written().contains("still-42 here"));
    std::fs::write(&gate, "\n").unwrap();
    wait_until("it ends by itself", || !is_alive(pid));
}

/// In the child of the next test: runs a program that waits at a gate, until a thread panics.
fn show_until_a_panic(script: &str, word: std::path::PathBuf) {
    let inbox = Inbox::open().unwrap();
    let interval = Duration::from_millis(10);
    let options =
        Options { program: "sh".into(), arguments: vec!["-c".into(), script.into()], interval, probes: false };
    let (mut launched, pty) = Launched::prepare_on_terminal(&options, &inbox, tui::program_size().unwrap()).unwrap();
    launched.go().unwrap();
    std::thread::spawn(move || {
        wait_until("the word to panic", || word.exists());
        panic!("a made-up panic");
    });
    let look = tui::Look { theme: tui::Theme::Ansi, ascii: false };
    let options = tui::Options { interval, look, stay: false, mouse: true, margin: 1.5, filter: Filter::default() };
    assert!(tui::run(launched, pty, &inbox, &options).is_err());
}

#[test]
fn a_panic_gives_the_terminal_back_and_the_program_runs_on() {
    let name = "STACKSCOPE_TEST_PANIC";
    if let Ok(given) = std::env::var(name) {
        let (word, script) = given.split_once(':').unwrap();
        return show_until_a_panic(script, word.into());
    }
    let (terminal, pid, gate) = (Terminal::new("panic"), Written::new("pid"), gate());
    let word = scratch("tui").join("word");
    let ourselves = std::env::current_exe().unwrap();
    let run = "--exact a_panic_gives_the_terminal_back_and_the_program_runs_on --nocapture";
    let script = waiter(&pid, &gate).replace('$', "\\$");
    terminal.run(&format!("{name}=\"{}:{script}\" {} {run}", word.display(), ourselves.display()));
    terminal.wait_for("LIVE");
    let program: i32 = pid.line().parse().unwrap();
    std::fs::write(&word, "").unwrap();
    terminal.wait_for("a made-up panic");
    terminal.wait_for("1 passed");
    terminal.is_restored();
    wait_until("nobody traces it", || !is_traced(program));
    assert!(is_alive(program));
    std::fs::write(&gate, "\n").unwrap();
    terminal.wait_for("still-42 here");
    std::fs::write(&gate, "\n").unwrap();
    wait_until("it ends by itself", || !is_alive(program));
}

#[test]
fn signals_reach_the_program_and_give_the_terminal_back() {
    let terminal = Terminal::new("passed");
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        let pid = Written::new(signal);
        terminal.run("clear");
        terminal.run_program("", &format!("sh -c 'echo $$ >{}; read line'", pid.name()));
        let program: i32 = pid.line().parse().unwrap();
        kill(signal, terminal.job().unwrap());
        terminal.wait_for(&format!("was ended by SIG{signal}"));
        terminal.is_restored();
        assert!(!is_alive(program));
    }
    // One that ignores the signal is waited for, without the screen.
    let pid = Written::new("ignored");
    terminal.run_program("", &format!("sh -c 'trap \"\" TERM; echo $$ >{}; read line'", pid.name()));
    let program: i32 = pid.line().parse().unwrap();
    kill("TERM", terminal.job().unwrap());
    wait_until("the screen is given back", || terminal.fact("alternate_on") == "0");
    assert!(is_alive(program));
    kill("KILL", program);
    terminal.wait_for("was ended by SIGKILL");
    terminal.is_restored();
}

/// The processor time that a process has used, in hundredths of a second.
fn processor_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit_once(") ").unwrap().1.split(' ').filter_map(|field| field.parse().ok()).collect();
    // Behind the state, which is no number: user and system time are fields 14 and 15 of proc_pid_stat(5).
    fields[10] + fields[11]
}

#[test]
fn freezing_leaves_the_program_alone_and_stopping_does_not() {
    let (terminal, pid) = (Terminal::new("stop"), Written::new("pid"));
    let busy = format!("sh -c 'echo $$ >{}; while :; do :; done'", pid.name());
    terminal.run_program("", &busy);
    let pid: i32 = pid.line().parse().unwrap();
    terminal.keys(&["Space"]);
    terminal.wait_for("FROZEN");
    let before = processor_time(pid);
    wait_until("it works on", || processor_time(pid) > before);
    terminal.keys(&["Space", "P"]);
    terminal.wait_for("STOPPED");
    assert_eq!(states(pid), ['t']);
    terminal.keys(&["P"]);
    terminal.wait_for("LIVE");
    let before = processor_time(pid);
    wait_until("it works again", || processor_time(pid) > before);
    // What is killed while it keeps the program leaves it running.
    terminal.keys(&["P"]);
    terminal.wait_for("STOPPED");
    kill("KILL", terminal.job().unwrap());
    let before = processor_time(pid);
    wait_until("it works on by itself", || processor_time(pid) > before);
    kill("KILL", pid);
}

#[test]
fn a_pager_is_used_in_the_screen() {
    let (terminal, text) = (Terminal::new("pager"), scratch("tui").join("text"));
    let lines: Vec<String> = (1..=200).map(|number| format!("line {number} of the text\n")).collect();
    std::fs::write(&text, lines.concat()).unwrap();
    terminal.run_program("", &format!("less {}", text.display()));
    terminal.keys(&["i"]);
    terminal.wait_for("line 30 of the text");
    terminal.keys(&["G"]);
    terminal.wait_for("line 200 of the text");
    terminal.keys(&["g"]);
    terminal.wait_for("line 30 of the text");
    terminal.run("/line 77 ");
    terminal.wait_for("line 78 of the text");
    // Its stacks are seen as well.
    terminal.keys(&["C-]", "1"]);
    terminal.wait_for("1 stack: 1 thread");
    terminal.keys(&["i", "q"]);
    terminal.wait_for("less exited with 0");
    terminal.is_restored();
}

#[test]
fn the_fibers_of_an_interpreter_are_watched_end_to_end() {
    let (terminal, script) = (Terminal::new("ruby"), scratch("tui").join("fibers.rb"));
    let text = "def deep(n) = n.zero? ? Fiber.yield : deep(n - 1)\n\
                fibers = (1..12).map { |n| Fiber.new { deep(10 * n) } }\n\
                fibers.each(&:resume)\nputs \"#{fibers.size} fibers wait\"\ngets\nputs \"the end\"\n";
    std::fs::write(&script, text).unwrap();
    terminal.run_program("", &format!("ruby {}", script.display()));
    terminal.wait_for("12 fibers wait");
    terminal.wait_for("12 coroutines");
    terminal.keys(&["\\", "k", "i", "n", "d", ":", "c", "o", "r", "o", "Enter"]);
    terminal.wait_for("1–12 of 12");
    terminal.keys(&["i", "Enter"]);
    terminal.wait_for("ruby exited with 0");
    assert!(terminal.screen().contains("the end"), "{}", terminal.screen());
    terminal.is_restored();
}

#[test]
fn what_is_shown_is_written_to_a_file() {
    let (terminal, folder) = (Terminal::new("dump"), scratch("tui"));
    terminal.run(&format!("cd {}", folder.display()));
    terminal.run_program("", "sh -c 'read line'");
    terminal.wait_for("1 stack: 1 thread");
    terminal.keys(&["d"]);
    terminal.wait_for("written to stackscope-");
    terminal.run(":dump mine.txt");
    terminal.wait_for("written to mine.txt");
    let mine = std::fs::read_to_string(folder.join("mine.txt")).unwrap();
    assert!(mine.contains("read"), "{mine}");
    // Nothing is overwritten.
    terminal.run(":dump mine.txt");
    terminal.wait_for("nothing was written");
    terminal.keys(&["q", "e"]);
    terminal.wait_for("was ended by SIGTERM");
    terminal.is_restored();
}

#[test]
fn the_configuration_is_heeded_and_told_where_it_is_wrong() {
    let (terminal, folder) = (Terminal::new("config"), scratch("tui"));
    std::fs::create_dir(folder.join("stackscope")).unwrap();
    let file = folder.join("stackscope/config.toml");
    terminal.run(&format!("export XDG_CONFIG_HOME={}", folder.display()));
    std::fs::write(&file, "stay = true\nascii = true\n").unwrap();
    terminal.run_program("", "sh -c 'exit 5'");
    terminal.wait_for("# ENDED");
    terminal.keys(&["q"]);
    terminal.wait_for("sh exited with 5");
    std::fs::write(&file, "theme = \"pink\"\n").unwrap();
    terminal.run(&format!("{}; echo code-$?", run_line("", "true")));
    terminal.wait_for("no theme is called 'pink'");
    terminal.wait_for("code-125");
    terminal.is_restored();
}
