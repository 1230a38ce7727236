//! `gdb` and `serve`: a debugger that knows of threads alone shows every context, of a program that it leaves unharmed.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use common::contexts::{own_functions, shown_by, shown_by_us, stacks, tid};
use common::{dump, stackscope, stitched};
use stackscope_harness::{
    GDB_SETTINGS, Running, built, gcore, gdb_started_by, kernel_core, scratch, states, wait_until,
};

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
    wait_until("it runs on", || states(fixture.pid()).iter().all(|state| *state == 'S'));
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

/// A debugger that tests drive by hand: what it sends is all at once, and then it closes the connection.
fn served(target: &str, sent: &[u8]) -> Output {
    let mut serve = Command::new(STACKSCOPE);
    let streams = serve.args(["serve", target]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut serve = streams.spawn().unwrap();
    let mut stdin = serve.stdin.take().unwrap();
    let sent = sent.to_vec();
    let writer = std::thread::spawn(move || {
        // It may have left before it read all.
        let _ = stdin.write_all(&sent);
    });
    let output = serve.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// A packet of the protocol.
fn packet(body: &str) -> String {
    format!("${body}#{:02x}", body.bytes().fold(0_u8, u8::wrapping_add))
}

#[test]
fn whatever_a_debugger_sends_the_program_goes_on() {
    let mut fixture = Running::start("locals", &["5"]);
    let pid = fixture.pid().to_string();
    let long = format!("${}", "m".repeat(1 << 20));
    let absurd: String = [
        "qSupported:multiprocess+",
        "?",
        "Hgp0.0",
        "Hg7fffffffffffffff",
        "g",
        "m0,ffffffffffffffff",
        "mffffffffffffffff,ffffffff",
        "pffffffff",
        "qThreadExtraInfo,7fffffff",
        "qXfer:auxv:read::ffffffffffffffff,ffffffffffffffff",
        "qXfer:features:read:target.xml:7fffffffffffffff,7fffffffffffffff",
        "qXfer:exec-file:read:1:0,ffffffff",
        "vFile:open:2f6574632f706173737764,0,0",
        "vFile:pread:ffffffff,ffffffff,ffffffff",
        "vFile:close:7fffffff",
        "qRcmd,737461636b20393939393939393939393939",
        "Z0,0,1",
        "vKill;1",
    ]
    .iter()
    .map(|body| packet(body))
    .collect();
    let go_on = packet("vCont;c");
    let cases: &[(&str, &[u8], i32)] = &[
        ("nothing", b"", 0),
        ("garbage", &[0xa5; 5000], 125),
        ("half a packet", b"$qSupp", 0),
        ("a wrong checksum", b"$?#00", 125),
        ("no digits", b"$?#zz", 125),
        ("a packet without end", long.as_bytes(), 125),
        ("impatience", b"---+$?#3f---", 0),
        ("interrupts", &[3; 100], 0),
        ("absurd numbers", absurd.as_bytes(), 0),
        ("continue, and silence", go_on.as_bytes(), 0),
        ("detach", b"$D#44", 0),
    ];
    for (what, sent, code) in cases {
        let output = served(&pid, sent);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        wait_until(&format!("it runs on after {what}"), || states(fixture.pid()).iter().all(|state| *state == 'S'));
    }
    let answers = String::from_utf8_lossy(&served(&pid, absurd.as_bytes()).stdout).into_owned();
    assert!(answers.contains("$F-1,02#"), "a file that is not mapped is not shown: {answers}");
    assert_eq!(fixture.finish().1, "unharmed\n");
}

/// At each step of a conversation, stackscope is killed.
#[test]
fn a_program_outlives_the_stackscope_that_holds_it() {
    let mut fixture = Running::start("locals", &["5"]);
    let steps = ["qSupported:multiprocess+", "?", "qfThreadInfo", "g", "qXfer:auxv:read::0,1000", "vCont;c"];
    for last in 0..steps.len() {
        let mut serve = Command::new(STACKSCOPE);
        let streams = serve.args(["serve", &fixture.pid().to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut serve = streams.spawn().unwrap();
        let mut stdin = serve.stdin.take().unwrap();
        let mut stdout = serve.stdout.take().unwrap();
        for step in &steps[..=last] {
            stdin.write_all(packet(step).as_bytes()).unwrap();
            // Its acknowledgement.
            stdout.read_exact(&mut [0]).unwrap();
            if *step != "vCont;c" {
                read_packet(&mut stdout);
            }
        }
        let is_held = (1..steps.len() - 1).contains(&last);
        match is_held {
            true => assert!(states(fixture.pid()).contains(&'t'), "after {}", steps[last]),
            false => wait_until("it runs", || states(fixture.pid()).iter().all(|state| *state == 'S')),
        }
        serve.kill().unwrap();
        serve.wait().unwrap();
        wait_until("the program runs on", || states(fixture.pid()).iter().all(|state| *state == 'S'));
    }
    assert_eq!(fixture.finish().1, "unharmed\n");
}

fn read_packet(from: &mut impl Read) -> String {
    let mut packet = Vec::new();
    while packet.iter().rev().nth(2).is_none_or(|byte| *byte != b'#') {
        let mut byte = [0];
        from.read_exact(&mut byte).unwrap();
        packet.extend(byte);
    }
    String::from_utf8_lossy(&packet).into_owned()
}

/// gdb's machine interface as IDEs use it, connected to a port.
struct Machine {
    gdb: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Machine {
    fn start() -> Machine {
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "--interpreter=mi2"]).args(GDB_SETTINGS.iter().flat_map(|setting| ["-iex", setting]));
        gdb.args(["-iex", "set remotetimeout 3600"]);
        let mut gdb = gdb.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (gdb.stdin.take().unwrap(), BufReader::new(gdb.stdout.take().unwrap()));
        Machine { gdb, input, output }
    }

    fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    /// The next line that starts so.
    fn line(&mut self, start: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "no line {start:?}: {seen}");
            if line.starts_with(start) {
                return line;
            }
            seen.push_str(&line);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.gdb.kill();
        let _ = self.gdb.wait();
    }
}

/// The numbers of the contexts that no thread runs, in gdb's list.
fn made_up(list: &str) -> BTreeSet<String> {
    let targets = list.split("target-id=\"Thread ").skip(1).filter_map(|rest| rest.split([' ', '"']).next());
    targets.filter(|target| target.contains(".1000000")).map(str::to_owned).collect()
}

#[test]
fn an_ide_sees_contexts_again_after_an_interrupt() {
    let mut fixture = Running::start("locals", &["5"]);
    let pid = fixture.pid().to_string();
    let mut serve = Command::new(STACKSCOPE);
    let mut serve = serve.args(["serve", "--listen", "127.0.0.1:0", &pid]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(serve.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let place = line.trim().rsplit(' ').next().unwrap().to_owned();
    let mut ide = Machine::start();
    ide.send("-gdb-set mi-async on");
    ide.send("-gdb-set sysroot /");
    ide.send(&format!("-target-select remote {place}"));
    ide.line("^connected");
    ide.send("-thread-info");
    let first = made_up(&ide.line("^done,threads"));
    assert_eq!(first.len(), 5, "{first:?}");
    ide.send("-stack-list-frames --thread 2");
    let frames = ide.line("^done,stack");
    assert!(frames.contains("func=\"keeps\"") && frames.contains("func=\"run_body\""), "{frames}");
    ide.send("-stack-list-variables --thread 2 --frame 1 --all-values");
    let variables = ide.line("^done,variables");
    let is_of = |seed: u32| {
        let number = format!("name=\"number\",value=\"{}\"", 3 * seed);
        variables.contains(&format!("name=\"seed\",arg=\"1\",value=\"{seed}\"")) && variables.contains(&number)
    };
    assert!((1000..1005).any(is_of), "{variables}");
    ide.send("-break-insert keeps");
    ide.line("^done,bkpt");
    ide.send("-exec-continue");
    ide.line("^error");
    ide.send("-break-delete 1");
    ide.line("^done");
    ide.send("-exec-continue");
    ide.line("^running");
    wait_until("it runs", || states(fixture.pid()).iter().all(|state| *state == 'S'));
    ide.send("-exec-interrupt");
    ide.line("*stopped");
    ide.send("-thread-info");
    assert_eq!(made_up(&ide.line("^done,threads")), first);
    // It is served to one debugger.
    assert!(std::net::TcpStream::connect(&place).is_err());
    ide.send("-target-detach");
    ide.line("^done");
    assert!(serve.wait().unwrap().success());
    assert_eq!(fixture.finish().1, "unharmed\n");
}

#[test]
fn a_program_that_ends_while_it_is_served_ends_the_session() {
    let mut fixture = Running::start("locals", &["5"]);
    let mut serve = Command::new(STACKSCOPE);
    let streams = serve.args(["serve", &fixture.pid().to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut serve = streams.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = serve.stdin.take().unwrap();
    let mut stdout = serve.stdout.take().unwrap();
    stdin.write_all(packet("?").as_bytes()).unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    read_packet(&mut stdout);
    stdin.write_all(packet("vCont;c").as_bytes()).unwrap();
    assert_eq!(fixture.finish().1, "unharmed\n");
    let output = serve.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("has ended"), "{output:?}");
    drop(stdin);
}

#[test]
fn a_socket_file_is_for_its_owner_and_goes_with_its_client() {
    let folder = scratch("serve_socket");
    let path = folder.join("socket");
    let mut fixture = Running::start("locals", &["5"]);
    let mut serve = Command::new(STACKSCOPE);
    serve.arg("serve").arg("--listen").arg(&path).arg(fixture.pid().to_string());
    let mut serve = serve.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(serve.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for a debugger at"), "{line}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(packet("?").as_bytes()).unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert!(read_packet(&mut client).starts_with("$T05thread:"));
    assert!(!path.exists());
    drop(client);
    assert!(serve.wait().unwrap().success());
    assert_eq!(fixture.finish().1, "unharmed\n");
    std::fs::remove_dir_all(folder).unwrap();
}

/// lldb takes nothing for granted that gdb does.
#[test]
fn lldb_shows_frames_and_variables_of_suspended_coroutines() {
    let mut fixture = Running::start("locals", &["5"]);
    let pid = fixture.pid().to_string();
    let mut serve = Command::new(STACKSCOPE);
    let mut serve = serve.args(["serve", "--listen", "127.0.0.1:0", &pid]).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(serve.stderr.take().unwrap());
    said.read_line(&mut line).unwrap();
    let place = line.trim().rsplit(' ').next().unwrap();
    let connect = format!("gdb-remote {place}");
    let settings = "settings set plugin.process.gdb-remote.packet-timeout 600";
    let commands = [
        settings,
        &connect,
        "thread list",
        "thread select 3",
        "bt",
        "frame select 1",
        "frame variable",
        "process detach",
    ];
    let mut lldb = Command::new("lldb");
    lldb.args(["-b", "--no-lldbinit"]).arg(built("locals")).args(commands.iter().flat_map(|command| ["-o", command]));
    let output = lldb.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    for number in 10_000_001..=10_000_005 {
        assert!(shown.contains(&format!("tid = {number}")), "{shown}");
    }
    for expected in ["keeps(coroutine=", "run_body(coroutine=", "word = \"word-"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let is_of = |seed: u32| {
        shown.contains(&format!("(long) seed = {seed}")) && shown.contains(&format!("(long) number = {}", 3 * seed))
    };
    assert!((1000..1005).any(is_of), "{shown}");
    serve.wait().unwrap();
    assert_eq!(fixture.finish().1, "unharmed\n");
}
