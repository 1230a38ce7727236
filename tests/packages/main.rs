//! Whether the packages that `test.sh` lists bring every command that scripts, tests, fixtures, benches and documents run,
//! on a machine with nothing but the Rust toolchain and the packages that no Debian system is without.
//!
//! Apt says what it would install there, as it works from an empty list of installed packages; dpkg says which package a
//! command of this machine is from. Not seen: a command whose name is put together while a test runs.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "what cannot be read fails the test")]

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sources::{Mention, mentions, root};

/// Where Debian's packages put commands.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// What may be run without a package of the list.
const ALLOWED: [(&str, &str); 9] = [
    ("cargo", "the Rust toolchain"),
    ("cd", "the shell itself"),
    ("dump", "a subcommand of ours"),
    ("fish", "a shell that completions are written for"),
    ("man", "a subcommand of ours"),
    ("rustc", "the Rust toolchain"),
    ("stackscope", "ours"),
    ("sudo", "only where the user is not root"),
    ("zsh", "a shell that completions are written for"),
];

/// What a command prints that must succeed.
fn said(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {errors}\n(are the package lists missing? `apt-get update` gets them)"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The packages that `test.sh` installs.
fn listed() -> Vec<String> {
    let script = fs::read_to_string(root().join("test.sh")).unwrap();
    let (_, rest) = script.split_once("\npackages=(\n").unwrap();
    let (list, _) = rest.split_once("\n)\n").unwrap();
    let words = list.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    words.map(str::to_owned).collect()
}

/// The packages that apt would install with those listed, on a machine without any, as `test.sh` calls it.
fn installed_with(listed: &[String]) -> BTreeSet<String> {
    let mut apt = Command::new("apt-get");
    // Nothing is installed, and nothing was loaded before: it names the file of each package.
    apt.args(["-qq", "-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache::archives=/nonexistent"]);
    let files = said(apt.args(["--no-install-recommends", "--print-uris", "install"]).args(listed));
    let files = files.lines().filter_map(|line| line.split(' ').nth(1));
    // Commands of another CPU do not count.
    let own = files.filter(|file| file.ends_with("_amd64.deb") || file.ends_with("_all.deb"));
    own.filter_map(|file| Some(file.split_once('_')?.0.to_owned())).collect()
}

/// The packages that every Debian system has.
fn required() -> BTreeSet<String> {
    let all = said(Command::new("dpkg-query").args(["-W", "-f", "${Priority} ${Package}\n"]));
    let packages: BTreeSet<String> =
        all.lines().filter_map(|line| line.strip_prefix("required ")).map(str::to_owned).collect();
    assert!(packages.contains("coreutils"), "{all}");
    packages
}

/// The files that stand for a command: itself and what it is a link to, step by step, each under both names that it has
/// where `/bin` is a link to `/usr/bin`.
fn files(command: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        let mut next = Some(Path::new(folder).join(command)).filter(|path| path.exists());
        while let Some(path) = next.filter(|path| !files.contains(path)) {
            next = fs::read_link(&path).ok().map(|to| path.parent().unwrap().join(to));
            files.push(path.strip_prefix("/usr").map_or_else(
                |_| Path::new("/usr").join(path.strip_prefix("/").unwrap()),
                |rest| Path::new("/").join(rest),
            ));
            files.push(path);
        }
    }
    files
}

/// The packages that each of these files is from.
fn owners(files: &[PathBuf]) -> BTreeMap<PathBuf, Vec<String>> {
    // It fails where one of them is from none, as the links of Debian's alternatives are.
    let output = Command::new("dpkg-query").arg("-S").args(files).env("LC_ALL", "C").output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let owned = lines.lines().filter(|line| !line.starts_with("diversion ")).filter_map(|line| line.rsplit_once(": "));
    // The CPU is named with packages that may be installed for several.
    let names = |packages: &str| packages.split(", ").map(|name| name.trim_end_matches(":amd64").to_owned()).collect();
    owned.map(|(packages, file)| (PathBuf::from(file), names(packages))).collect()
}

/// What is run without a package of these, each with the reason.
fn faults(mentions: &[Mention], packages: &BTreeSet<String>) -> Vec<String> {
    let files: BTreeMap<&str, Vec<PathBuf>> =
        mentions.iter().map(|mention| (mention.command.as_str(), files(&mention.command))).collect();
    let all: Vec<PathBuf> = files.values().flatten().cloned().collect();
    let owners = owners(&all);
    let mut faults = BTreeSet::new();
    for Mention { command, place, is_certain } in mentions {
        let files = &files[command.as_str()];
        let from: BTreeSet<&String> = files.iter().filter_map(|file| owners.get(file)).flatten().collect();
        if ALLOWED.iter().any(|(allowed, _)| allowed == command)
            || from.iter().any(|&package| packages.contains(package))
        {
            continue;
        }
        if *is_certain || !files.is_empty() {
            faults.insert(format!("{command} ({}) is from {from:?}", place.display()));
        }
    }
    faults.into_iter().collect()
}

/// All that is run without a package of this list.
fn faults_of(listed: &[String]) -> Vec<String> {
    let mut packages = installed_with(listed);
    packages.extend(required());
    faults(&mentions(), &packages)
}

#[test]
fn every_command_comes_with_the_listed_packages() {
    let faults = faults_of(&listed());
    assert!(faults.is_empty(), "run, but not brought by the packages of test.sh: {faults:#?}");
}

/// `wine64` has the loader, and only recommends the package with the command.
#[test]
fn a_package_that_is_only_recommended_is_missed() {
    let mut listed = listed();
    listed.retain(|package| package != "wine");
    let faults = faults_of(&listed);
    assert!(matches!(&faults[..], [only] if only.starts_with("wine ")), "{faults:#?}");
}

#[test]
fn what_a_script_says_that_it_needs_is_listed() {
    let listed = listed();
    let scripts = sources::files(&["tests/platforms"]);
    let needs: Vec<String> = scripts
        .iter()
        .flat_map(|script| {
            fs::read_to_string(root().join(script)).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| Some(line.strip_prefix("# Needs: ")?.to_owned()))
        .collect();
    assert!(needs.len() >= 3, "{needs:?}");
    for package in needs.iter().flat_map(|line| line.split(' ')) {
        assert!(listed.iter().any(|other| other == package), "{package} is not in the list of test.sh");
    }
}
