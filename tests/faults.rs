//! What may go wrong while we look at a program, or launch an odd one: the program runs on unharmed, and is told about.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::status_field;
use stackscope_harness::{Running, built, states, wait_until};

/// How often we are killed.
const KILLS: u32 = 100;

#[test]
fn a_program_lives_on_though_whoever_dumps_it_is_killed_at_any_moment() {
    let mut fixture = Running::start("co_asm", &["50"]);
    let pid = fixture.pid();
    let before = code_bytes(pid);
    let mut random = 1u32;
    for _ in 0..KILLS {
        let mut dump = Command::new(env!("CARGO_BIN_EXE_stackscope"))
            .args(["dump", "--json", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for _ in 0..random >> 22 {
            std::thread::yield_now();
        }
        dump.kill().unwrap();
        dump.wait().unwrap();
        wait_until("nobody traces it", || status_field(pid, "TracerPid") == "0");
        wait_until("it goes on", || !states(pid).iter().any(|state| matches!(state, 't' | 'T')));
    }
    assert!(before == code_bytes(pid), "its code has changed");
    let (status, _) = fixture.finish();
    assert!(status.success(), "{status}");
}

/// What the process has in its executable mappings of files.
fn code_bytes(pid: i32) -> Vec<u8> {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
        if access == "r-xp" && line.contains('/') {
            let (low, high) = range.split_once('-').unwrap();
            let [low, high] = [low, high].map(|text| u64::from_str_radix(text, 16).unwrap());
            let mut bytes = vec![0; (high - low) as usize];
            memory.read_exact_at(&mut bytes, low).unwrap();
            all.extend(bytes);
        }
    }
    all
}

#[test]
fn a_32_bit_program_runs_and_is_told_about() {
    let output = run(&mut stackscope(), &built("narrow"), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"ready\n");
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("runs a 32-bit program; only 64-bit ones can be looked at"), "{report}");
}

#[test]
fn a_static_program_at_any_address_is_seen() {
    let output = run(&mut stackscope(), &built("threads_static_pie"), &["3"]);
    assert_eq!(output.status.code(), Some(0));
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("4 stacks in all"), "{report}");
}

/// As a user without rights. Whoever runs the tests must be root for it, as it is where they are run for every change.
#[test]
fn a_set_uid_program_keeps_its_rights_and_is_told_about() {
    // Where every user may run it.
    let folder = std::env::temp_dir().join(format!("stackscope-set-uid-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, from) in [("id", Path::new("/usr/bin/id")), ("stackscope", env!("CARGO_BIN_EXE_stackscope").as_ref())] {
        fs::copy(from, folder.join(name)).unwrap();
    }
    fs::set_permissions(folder.join("id"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut as_nobody = Command::new("setpriv");
    as_nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(folder.join("stackscope"));
    let output = run(as_nobody.current_dir("/"), &folder.join("id"), &["-u"]);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("the program is set-uid or set-gid and would lose its rights"), "{report}");
}

fn stackscope() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stackscope"))
}

fn run(tool: &mut Command, program: &Path, arguments: &[&str]) -> Output {
    tool.arg("run").arg(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}
