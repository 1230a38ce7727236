//! Live processes: what is seen of them in a stop, and what is refused.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use stackscope::workshop::addr::{Addr, AddrRange};
use stackscope::workshop::image::Files;
use stackscope::workshop::mapping::{Mapping, mapping_at};
use stackscope::workshop::memory::Memory;
use stackscope::workshop::process::{Live, NotStopped, OpenError, PageState, Source, Target};
use stackscope_harness::{Running, built, scratch, states, wait_until};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_stop_shows_every_thread_and_lets_it_go_on() {
    let mut fixture = Running::start("threads", &["8"]);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(LIMIT).unwrap();
    assert_eq!(stopped.threads().len(), 9);
    assert_eq!(stopped.threads()[0].tid, fixture.pid());
    assert!(stopped.all_threads_seen());
    assert!(states(fixture.pid()).iter().all(|state| *state == 't'));
    for thread in stopped.threads() {
        let registers = thread.registers.as_ref().unwrap();
        let (pc, sp) = (registers.addr(stopped.arch().pc).unwrap(), registers.addr(stopped.arch().sp).unwrap());
        assert!(mapping_at(stopped.mappings(), pc).unwrap().access.execute);
        assert!(stopped.read_u64(sp).is_ok());
        assert_eq!(thread.name.as_deref(), Some("threads"));
        // The C library keeps a thread's own address at its thread pointer.
        assert_eq!(stopped.read_u64(Addr(thread.thread_pointer.unwrap())).ok(), thread.thread_pointer);
    }
    let sp = stopped.threads()[3].registers.as_ref().unwrap().addr(stopped.arch().sp).unwrap();
    let word = stopped.read_u64(sp).unwrap();
    let released = stopped.release();
    assert!(released.stopped_for > Duration::ZERO && released.stopped_for < LIMIT);
    assert_eq!(released.read_u64(sp), Ok(word));
    assert_eq!(released.process.source, Source::Live);
    assert!(released.process.command[0].ends_with("threads"));
    assert!(fixture.finish().0.success());
}

#[test]
fn a_thousand_threads_are_stopped_together() {
    let fixture = Running::start("threads", &["1000", "4"]);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(LIMIT).unwrap();
    assert!(stopped.all_threads_seen());
    assert_eq!(stopped.threads().iter().filter(|thread| thread.registers.is_ok()).count(), 1001);
    drop(stopped);
    wait_until("they sleep again", || states(fixture.pid()).iter().all(|state| *state == 'S'));
}

#[test]
fn what_is_no_process_of_a_program_is_refused_by_name() {
    assert!(matches!(Live::open(i32::MAX), Err(OpenError::NoProcess { pid: i32::MAX })));
    assert!(matches!(Live::open(0), Err(OpenError::NoProcess { pid: 0 })));
    assert!(matches!(Live::open(-1), Err(OpenError::NoProcess { pid: -1 })));
    let own = std::process::id() as i32;
    assert!(matches!(Live::open(own), Err(OpenError::Ourselves { pid }) if pid == own));
    // The kernel's thread that starts all others of its own; a container does not show it.
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        assert!(matches!(Live::open(2), Err(OpenError::KernelThread { pid: 2, name }) if name == "kthreadd"));
    }
}

#[test]
fn a_thread_is_refused_with_the_number_of_its_process() {
    let fixture = Running::start("threads", &["1"]);
    let live = Live::open(fixture.pid()).unwrap();
    let tid = live.stop(LIMIT).unwrap().threads()[1].tid;
    let refused = Live::open(tid);
    assert!(matches!(refused, Err(OpenError::ThreadNumber { process, .. }) if process == fixture.pid()), "{refused:?}");
}

#[test]
fn a_zombie_is_refused_with_the_number_of_its_parent() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    wait_until("it has ended", || states(pid) == ['Z']);
    let refused = Live::open(pid);
    assert!(
        matches!(refused, Err(OpenError::Zombie { parent, .. }) if parent == std::process::id() as i32),
        "{refused:?}"
    );
    child.wait().unwrap();
}

#[test]
fn a_32_bit_program_is_refused() {
    let fixture = Running::start("narrow", &[]);
    assert!(matches!(Live::open(fixture.pid()), Err(OpenError::Narrow { pid }) if pid == fixture.pid()));
}

#[test]
fn another_tracer_is_named() {
    let fixture = Running::start("threads", &["1"]);
    let log = scratch("tracer").join("log");
    let mut strace = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&log)
        .args(["-p", &fixture.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("strace traces it", || {
        let status = fs::read_to_string(format!("/proc/{}/status", fixture.pid())).unwrap();
        status.contains(&format!("TracerPid:\t{}", strace.id()))
    });
    let refused = Live::open(fixture.pid()).unwrap_err();
    assert!(matches!(refused, OpenError::OtherTracer { tracer, .. } if tracer == strace.id() as i32), "{refused}");
    assert!(refused.to_string().contains("(strace)"), "{refused}");
    strace.kill().unwrap();
    strace.wait().unwrap();
    wait_until("nobody traces it", || Live::open(fixture.pid()).is_ok());
}

#[test]
fn a_thread_in_uninterruptible_sleep_is_listed_and_let_go() {
    let mut fixture = Running::start_busy("vfork_parent", &[]);
    wait_until("the parent waits", || states(fixture.pid()) == ['D']);
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(Duration::from_millis(20)).unwrap();
    assert_eq!(stopped.threads().len(), 1);
    assert_eq!(stopped.threads()[0].registers, Err(NotStopped::Uninterruptible));
    assert!(stopped.release().stopped_for < Duration::from_secs(1));
    // Were it still traced, it would stand still for good when its sleep ends.
    assert!(fixture.finish().0.success());
}

#[test]
fn a_process_whose_first_thread_has_ended_is_seen() {
    let mut fixture = Running::start_busy("leader_exited", &[]);
    wait_until("the first thread has ended", || states(fixture.pid()).first() == Some(&'Z'));
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(LIMIT).unwrap();
    assert!(stopped.all_threads_seen());
    let rows: Vec<_> = stopped.threads().iter().map(|thread| thread.registers.as_ref().err().copied()).collect();
    assert_eq!(rows, [Some(NotStopped::Ended), None, None]);
    let sp = stopped.threads()[1].registers.as_ref().unwrap().addr(stopped.arch().sp).unwrap();
    assert!(stopped.read_u64(sp).is_ok());
    assert!(mapping_at(stopped.mappings(), sp).is_some());
    assert!(stopped.pages(mapping_at(stopped.mappings(), sp).unwrap().range).is_ok());
    drop(stopped);
    assert!(fixture.finish().0.success());
}

#[test]
fn the_pages_in_use_are_told_from_guards_and_from_pages_only_read() {
    let fixture = Running::start("pages", &[]);
    let (start, guards) = fixture.mark.split_once(' ').unwrap();
    let start = Addr(u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap());
    let live = Live::open(fixture.pid()).unwrap();
    let stopped = live.stop(LIMIT).unwrap();
    let size = 4096;
    let page = |number: u64| Addr(start.0 + number * size);
    let pages = stopped.pages(AddrRange::new(start, page(64))).unwrap();
    let run = |first: u64, count: u64, state| (AddrRange::new(page(first), page(first + count)), state);
    let mut expected =
        vec![run(3, 1, PageState::Touched), run(10, 3, PageState::Touched), run(55, 1, PageState::Touched)];
    if guards == "guards" && pages.sees_guards {
        expected.insert(2, run(40, 3, PageState::Guard));
    }
    let seen: Vec<_> = pages.runs.iter().map(|run| (run.range, run.state)).collect();
    assert_eq!(seen, expected);
}

/// The mapping of the program's own code.
fn program(live: &Live) -> Mapping {
    let mappings = live.mappings().unwrap();
    let is_program = |mapping: &&Mapping| mapping.file().is_some() && mapping.access.execute;
    mappings.iter().find(is_program).unwrap().clone()
}

#[test]
fn a_program_whose_file_is_gone_or_replaced_is_still_read() {
    let path = scratch("deleted").join("program");
    let original = fs::read(built("threads")).unwrap();
    fs::copy(built("threads"), &path).unwrap();
    let fixture = Running::start_command(Command::new(&path).arg("1"));
    let live = Live::open(fixture.pid()).unwrap();
    let opened = live.open_mapped(&program(&live)).unwrap();
    assert!(opened.same_file && (*opened.bytes).as_ref() == original);
    assert!(!program(&live).file().unwrap().deleted);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another").unwrap();
    let mapping = program(&live);
    assert!(mapping.file().unwrap().deleted);
    assert_eq!(mapping.file().unwrap().path, path);
    let opened = live.open_mapped(&mapping).unwrap();
    assert!(opened.same_file && (*opened.bytes).as_ref() == original);
    assert_eq!((*live.open(&path).unwrap()).as_ref(), b"another");
}

#[test]
fn a_program_in_another_mount_namespace_is_read_through_its_own_root() {
    let outside = scratch("mounts");
    let original = fs::read(built("threads_static")).unwrap();
    let script = "mount -t tmpfs none \"$1\" && cp \"$2\" \"$1/program\" && ln -s /nowhere/../program \"$1/link\" && exec \"$1/program\" 1";
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(&outside)
        .arg(built("threads_static"));
    let fixture = Running::start_command(&mut command);
    assert!(!outside.join("program").exists(), "the mount is not ours");
    let live = Live::open(fixture.pid()).unwrap();
    let opened = live.open_mapped(&program(&live)).unwrap();
    assert!(opened.same_file && (*opened.bytes).as_ref() == original);
    assert_eq!((*live.open(&outside.join("program")).unwrap()).as_ref(), original);
    // An absolute link leads to the target's root, where there is no such file, not to ours.
    assert!(live.open(&outside.join("link")).is_err());
    assert!(live.open(Path::new("/proc/self/../../dev/null")).is_err(), "a device is not read");
}

#[test]
fn the_limit_of_the_main_stack_is_known() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -s 4096 && exec \"$0\" 1"]).arg(built("threads"));
    let fixture = Running::start_command(&mut command);
    assert_eq!(Live::open(fixture.pid()).unwrap().stack_limit(), Some(4 << 20));
}

#[test]
fn a_mapping_is_identified_by_device_and_inode() {
    let fixture = Running::start("threads", &["1"]);
    let live = Live::open(fixture.pid()).unwrap();
    let mapping = program(&live);
    let metadata = fs::metadata(built("threads")).unwrap();
    let identity = mapping.file().unwrap().identity.unwrap();
    assert_eq!((identity.device, identity.inode), (metadata.dev(), metadata.ino()));
}
