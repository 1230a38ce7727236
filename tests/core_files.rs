//! Core files of other machines: their files lie in another folder, or are known by their build-ids alone.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use common::{frames, function, stackscope};
use stackscope::workshop::process::{Core, Target};
use stackscope_harness::{built, folder, kernel_core_of, scratch};

/// What `dump --json` with these options says, and whether it was complete.
fn dump(core: &Path, options: &[&str]) -> Value {
    let output = stackscope(&[&["dump", "--json", core.to_str().unwrap()], options].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The functions of each thread.
fn functions(dump: &Value) -> Vec<Vec<String>> {
    let names = |thread: &Value| frames(dump, thread).iter().map(|frame| function(frame).to_owned()).collect();
    dump["threads"].as_array().unwrap().iter().map(names).collect()
}

fn warnings(dump: &Value) -> String {
    dump["warnings"].to_string()
}

/// A core file, with a program that stands at the place that it names only until [`Away::leave`].
struct Away {
    core: PathBuf,
    program: PathBuf,
    sysroot: PathBuf,
}

impl Away {
    fn start() -> Away {
        let home = scratch("away");
        let (program, sysroot) = (home.join("program"), home.join("sysroot"));
        fs::copy(built("threads"), &program).unwrap();
        let core = kernel_core_of(&program, &["3"], &home);
        Away { core, program, sysroot }
    }

    /// Where a file of the machine lies below the folder that stands for its root.
    fn below(&self, path: &Path) -> PathBuf {
        self.sysroot.join(path.strip_prefix("/").unwrap())
    }

    /// Copies the libraries below the sysroot.
    fn copy_libraries(&self) {
        let core = Core::open(&self.core).unwrap();
        let files: BTreeSet<PathBuf> = core.mappings().iter().filter_map(|it| Some(it.file()?.path.clone())).collect();
        for file in files.iter().filter(|file| **file != self.program) {
            fs::create_dir_all(self.below(file).parent().unwrap()).unwrap();
            fs::copy(file, self.below(file)).unwrap();
        }
    }

    /// Moves the program to `place`.
    fn leave(&self, place: &Path) {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::rename(&self.program, place).unwrap();
    }
}

#[test]
fn files_are_found_below_a_folder_that_stands_for_the_root() {
    let away = Away::start();
    let before = dump(&away.core, &[]);
    assert_eq!(before["complete"], true);
    away.copy_libraries();
    away.leave(&away.below(&away.program));
    let gone = dump(&away.core, &[]);
    assert!(warnings(&gone).contains("program: the file is gone"), "{}", warnings(&gone));
    let found = dump(&away.core, &["--sysroot", away.sysroot.to_str().unwrap()]);
    assert_eq!(found["complete"], true, "{}", warnings(&found));
    assert_eq!(functions(&found), functions(&before));
    // Nothing is taken from our own root then.
    let nothing = dump(&away.core, &["--sysroot", scratch("nothing").to_str().unwrap()]);
    assert!(warnings(&nothing).contains("libc.so.6: the file is gone"), "{}", warnings(&nothing));
}

#[test]
fn the_program_alone_can_be_named_and_a_wrong_one_is_said() {
    let away = Away::start();
    let before = dump(&away.core, &[]);
    let elsewhere = away.program.with_file_name("elsewhere");
    away.leave(&elsewhere);
    let found = dump(&away.core, &["--executable", elsewhere.to_str().unwrap()]);
    assert_eq!(found["complete"], true, "{}", warnings(&found));
    assert_eq!(functions(&found), functions(&before));
    let wrong = dump(&away.core, &["--executable", built("jit").to_str().unwrap()]);
    assert!(warnings(&wrong).contains("program: another file has taken its place: build-id"), "{}", warnings(&wrong));
    assert!(!functions(&wrong).concat().contains(&"descend".to_owned()), "no names of another program");
    // The page says what to do.
    let page = String::from_utf8(stackscope(&["dump", away.core.to_str().unwrap()]).stdout).unwrap();
    assert!(page.contains("by --sysroot, or the program alone by --executable"), "{page}");
}

#[test]
fn files_are_found_by_their_build_id() {
    let away = Away::start();
    let before = dump(&away.core, &[]);
    let id = stackscope::workshop::image::Image::parse(std::sync::Arc::new(fs::read(&away.program).unwrap())).unwrap();
    let id = id.build_id().unwrap().to_string();
    away.copy_libraries();
    away.leave(&away.sysroot.join("usr/lib/debug/.build-id").join(&id[..2]).join(&id[2..]));
    let found = dump(&away.core, &["--sysroot", away.sysroot.to_str().unwrap()]);
    assert_eq!(found["complete"], true, "{}", warnings(&found));
    assert_eq!(functions(&found), functions(&before));
}

#[test]
fn a_running_program_needs_no_files() {
    let own = std::process::id().to_string();
    let output = stackscope(&["dump", &own, "--sysroot", "/"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--sysroot and --executable are for core files"));
}

/// QEMU's core files do not say which files were mapped, and hold no code: the loader's list does, and the files.
#[test]
fn a_core_file_of_aarch64_without_a_table_of_files_is_read_by_its_loaders_list() {
    let home = scratch("aarch64-core");
    let sysroot = home.join("sysroot");
    // Wherever the loader looks for the C library, it is this one.
    for folder in ["lib", "lib64", "lib/aarch64-linux-gnu"] {
        fs::create_dir_all(sysroot.join(folder)).unwrap();
        for name in ["ld-linux-aarch64.so.1", "libc.so.6"] {
            fs::copy(Path::new("/usr/aarch64-linux-gnu/lib").join(name), sysroot.join(folder).join(name)).unwrap();
        }
    }
    let program = folder().join("aborts-aarch64");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/c/aborts.c");
    let compiled = Command::new("aarch64-linux-gnu-gcc").args(["-O1", "-g", "-o"]).arg(&program).arg(source).status();
    assert!(compiled.unwrap().success());
    let line = format!("ulimit -c unlimited; exec qemu-aarch64-static -L {} {}", sysroot.display(), program.display());
    // The emulator ends by the same signal, after it wrote the core file.
    Command::new("sh").current_dir(&home).args(["-c", &line]).output().unwrap();
    let files = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().path());
    let core = files.into_iter().find(|path| path.to_str().unwrap().contains("qemu_")).expect("a core file of QEMU");
    let options = ["--sysroot", sysroot.to_str().unwrap(), "--executable", program.to_str().unwrap()];
    let found = dump(&core, &options);
    let names = functions(&found).concat();
    let start = names.iter().position(|name| name == "abort").unwrap_or_else(|| panic!("{names:?}"));
    let main = start + 5;
    assert_eq!(names[start..=main], ["abort", "look_for_me", "descend", "descend", "descend", "main"]);
    assert_eq!(names.last().unwrap(), "_start");
    assert_eq!(found["stacks"][0]["ended"], "root");
    let without = dump(&core, &["--sysroot", home.to_str().unwrap()]);
    assert!(warnings(&without).contains("does not say which files were mapped"), "{}", warnings(&without));
}
