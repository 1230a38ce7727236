//! What is kept on disk of files' code, and that it never changes an answer.

#![cfg(feature = "inspect")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use stackscope::workshop::find::sites::{Derived, Sites, sites};
use stackscope::workshop::image::Modules;
use stackscope::workshop::process::{CacheFolder, Live};
use stackscope::workshop::unwind::Tables;
use stackscope_harness::{Running, scratch};

/// The resume words of a running program, worked out with what is kept in `base`.
fn sites_of(pid: i32, base: Option<&Path>) -> Sites {
    let live = Live::open(pid).unwrap();
    let modules = Modules::load(&live.mappings().unwrap(), &live.memory(), &live);
    let tables = Tables::new(live.arch(), &modules);
    let folder = base.map(|base| CacheFolder::in_folder(base).unwrap());
    sites(&modules, &tables, &live.memory(), &mut Derived::in_folder(folder))
}

/// The files that are kept in `base`.
fn kept(base: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(base.join("stackscope")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_is_kept_is_what_would_be_worked_out() {
    let scratch = scratch("cache-same");
    for fixture in ["co_ucontext", "co_asm"] {
        let running = Running::start(fixture, &["10", "malloc", scratch.join("truth").to_str().unwrap()]);
        let worked_out = sites_of(running.pid(), None);
        assert!(!worked_out.sites.is_empty());
        for turn in ["first", "second"] {
            assert_eq!(sites_of(running.pid(), Some(&scratch)), worked_out, "{fixture}, {turn} time");
        }
        let before: Vec<Vec<u8>> = kept(&scratch).iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(!before.is_empty(), "the C library's is kept");
        sites_of(running.pid(), Some(&scratch));
        let after: Vec<Vec<u8>> = kept(&scratch).iter().map(|file| fs::read(file).unwrap()).collect();
        assert_eq!(before, after, "and nothing is written anew");
    }
}

/// What may have become of a file's bytes, in one of [`WAYS`] ways.
fn damaged(way: usize, bytes: &[u8]) -> Vec<u8> {
    let nested = format!("{{\"maker\":{}", "[".repeat(500_000));
    match way {
        0 => Vec::new(),
        1 => bytes[..bytes.len() / 2].to_vec(),
        2 => bytes.iter().map(|byte| byte ^ 1).collect(),
        3 => [&bytes[..40], b"9", &bytes[41..]].concat(),
        4 => vec![b'['; 1 << 20],
        _ => [&crc32(nested.as_bytes()).to_le_bytes()[..], nested.as_bytes()].concat(),
    }
}

const WAYS: usize = 6;

#[test]
fn a_damaged_file_is_worked_out_anew() {
    let scratch = scratch("cache-damaged");
    let running = Running::start("ucontext", &[]);
    let worked_out = sites_of(running.pid(), Some(&scratch));
    let files = kept(&scratch);
    let sound: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for way in 0..WAYS {
        for (file, sound) in files.iter().zip(&sound) {
            fs::write(file, damaged(way, sound)).unwrap();
        }
        assert_eq!(sites_of(running.pid(), Some(&scratch)), worked_out);
        let mended: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(mended == sound, "it is written anew");
    }
}

/// The checksum as the files have it (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn dump(base: &Path, pid: i32, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stackscope"));
    command.args(["dump", "--json"]).args(options).arg(pid.to_string()).env("XDG_CACHE_HOME", base).output().unwrap()
}

#[test]
fn the_command_keeps_where_it_may_and_is_silent_where_not() {
    let running = Running::start("ucontext", &[]);
    let scratch = scratch("cache-command");
    let stacks = |output: &Output| {
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["stacks"].clone()
    };
    let without = stacks(&dump(&scratch, running.pid(), &["--no-cache"]));
    assert!(!scratch.join("stackscope").exists());
    for base in [&scratch, &scratch, Path::new("/proc"), &scratch.join("no/such/folder"), Path::new("relative")] {
        assert_eq!(stacks(&dump(base, running.pid(), &[])), without, "{}", base.display());
    }
    assert!(!kept(&scratch).is_empty());
}
