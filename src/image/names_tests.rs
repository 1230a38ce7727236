//! Names and lines of programs built by the system's compiler, compared with what binutils say of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use super::testing::{Folder, Loaded};
use super::{Modules, Progress, names, printable};
use crate::addr::{Addr, AddrRange, Pc};
use crate::mapping::{Access, Mapping, Origin};
use crate::memory::Copied;

/// Inlined calls two deep, a function in two parts, static ones, and one without a line.
const SOURCE: &str = r#"
#include <stdlib.h>
int volatile sink;
static inline __attribute__((always_inline)) int inner(int x) { sink = x; return x * sink; }
static inline __attribute__((always_inline)) int outer(int x) {
    for (int i = 0; i < x; i++) sink += inner(i);
    return inner(x) + 1;
}
__attribute__((noinline)) static int leaf(int x) { if (x == 12345) abort(); return outer(x) - outer(x + 1); }
__attribute__((cold, noinline)) void rarely(void) { sink = 7; }
int exported(int x) { if (__builtin_expect(x > 1000, 0)) { rarely(); sink++; abort(); } return leaf(x) + inner(x); }
__attribute__((weak)) int weak_one(void) { return exported(3); }
extern int alias_of_weak(void) __attribute__((alias("weak_one")));
int main(int argc, char **argv) { return exported(argc) + weak_one(); }
"#;

/// Builds [`SOURCE`] as `program` in a folder of its own.
fn build(name: &str, flags: &[&str]) -> (Folder, Loaded) {
    let folder = Folder::new(name);
    folder.write("source.c", SOURCE);
    folder.run("gcc", &[&["-O2", "-Wl,--build-id", "-o", "program", "source.c"], flags].concat());
    let loaded = Loaded::new(&folder.0, "program");
    (folder, loaded)
}

/// The svmas of every third byte of the functions of [`SOURCE`].
fn code(folder: &Folder, program: &str) -> Vec<u64> {
    let mut svmas = Vec::new();
    for line in folder.run("nm", &["-S", "--defined-only", program]).lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [start, size, "t" | "T" | "W", _] = words[..] {
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            svmas.extend((number(start)..number(start) + number(size)).step_by(3));
        }
    }
    svmas.sort_unstable();
    svmas.dedup();
    assert!(svmas.len() > 50);
    svmas
}

type Answer = (String, String, u32);

/// What `addr2line` says of `svmas`.
fn addr2line(folder: &Folder, program: &str, svmas: &[u64]) -> Vec<Vec<Answer>> {
    let numbers: Vec<String> = svmas.iter().map(|svma| format!("{svma:#x}")).collect();
    let arguments: Vec<&str> =
        ["-a", "-f", "-i", "-e", program].into_iter().chain(numbers.iter().map(|n| &**n)).collect();
    let mut answers: Vec<Vec<Answer>> = Vec::new();
    let output = folder.run("addr2line", &arguments);
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            answers.push(Vec::new());
            continue;
        }
        let (file, number) = lines.next().unwrap().rsplit_once(':').unwrap();
        let number = number.split(' ').next().unwrap().parse().unwrap_or(0);
        answers.last_mut().unwrap().push((line.into(), normal(file), number));
    }
    answers
}

/// A path without `.` parts, as binutils leaves them in.
fn normal(path: &str) -> String {
    Path::new(path).components().collect::<std::path::PathBuf>().to_string_lossy().into_owned()
}

fn check_against_addr2line(name: &str, flags: &[&str]) {
    let (folder, loaded) = build(name, flags);
    let svmas = code(&folder, "program");
    let expected = addr2line(&folder, "program", &svmas);
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut lines = loaded.lines(&svmas);
    for line in lines.iter_mut().flatten() {
        line.1 = normal(&line.1);
    }
    for ((svma, ours), theirs) in svmas.iter().zip(&lines).zip(&expected) {
        assert_eq!(ours, theirs, "{name} at {svma:#x}");
        *seen.entry(if ours.len() > 1 { "inlined" } else { "plain" }).or_default() += 1;
    }
    assert!(seen["inlined"] > 10 && seen["plain"] > 10, "{seen:?}");
}

#[test]
fn agrees_with_addr2line_on_each_version_of_dwarf() {
    check_against_addr2line("dwarf2", &["-gdwarf-2"]);
    check_against_addr2line("dwarf3", &["-gdwarf-3"]);
    check_against_addr2line("dwarf4", &["-gdwarf-4"]);
    check_against_addr2line("dwarf5", &["-gdwarf-5"]);
}

#[test]
fn agrees_with_addr2line_on_compressed_sections() {
    check_against_addr2line("zlib", &["-gdwarf-5", "-gz=zlib", "-Wl,--compress-debug-sections=zlib"]);
    check_against_addr2line("zlib-gnu", &["-gdwarf-4", "-gz=zlib-gnu", "-Wl,--compress-debug-sections=zlib-gnu"]);
}

#[test]
fn units_are_found_without_aranges() {
    let (folder, mut loaded) = build("removed-aranges", &["-g"]);
    let svmas = code(&folder, "program");
    let expected = loaded.lines(&svmas);
    folder.run("objcopy", &["--remove-section=.debug_aranges", "program", "smaller"]);
    loaded = Loaded::new(&folder.0, "smaller");
    assert_eq!(loaded.lines(&svmas), expected);
}

/// What is expected of split debug information is what the same program has without the split.
#[test]
fn split_debug_information_is_found_beside_the_program() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let folder = Folder::new(&format!("split{version}"));
        folder.write("source.c", SOURCE);
        folder.run("gcc", &["-O2", version, "-o", "whole", "source.c"]);
        folder.run("gcc", &["-O2", version, "-gsplit-dwarf", "-o", "program", "source.c"]);
        let svmas = code(&folder, "program");
        let whole = Loaded::new(&folder.0, "whole").lines(&code(&folder, "whole"));
        let split = Loaded::new(&folder.0, "program");
        assert_eq!(split.lines(&svmas), whole, "{version}");

        fs::create_dir(folder.0.join("bin")).unwrap();
        // binutils' packer knows only DWARF 4, and LLVM's (version 14) hangs.
        if version == "-gdwarf-4" {
            folder.run("dwp", &["-e", "program", "-o", "bin/program.dwp"]);
            remove_split_objects(&folder);
            assert_eq!(split.lines(&svmas), whole, "packed");
            fs::remove_file(folder.0.join("bin/program.dwp")).unwrap();
        }
        remove_split_objects(&folder);
        for (without, with) in split.lines(&svmas).iter().zip(&whole) {
            assert_eq!(without.last().unwrap().1, with.last().unwrap().1, "the program itself keeps the lines");
        }
    }
}

fn remove_split_objects(folder: &Folder) {
    for entry in fs::read_dir(&folder.0).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "dwo") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn functions_are_those_of_nm() {
    let (folder, loaded) = build("nm", &[]);
    let mut by_start: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let listing = folder.run("nm", &["-S", "--defined-only", "program"]);
    for line in listing.lines() {
        if let [start, size, "t" | "T" | "W", name] = line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            by_start.entry(number(start)).or_default().push(name.into());
            let last = number(start) + number(size) - 1;
            let names = loaded.names(&[last]);
            let [found] = names.get(Pc::At(Addr(last))) else { panic!("{name}") };
            assert_eq!(found.offset, Some(last - number(start)));
            assert!(
                by_start[&number(start)].iter().any(|name| found.function.as_deref() == Some(name))
                    || name == "weak_one"
            );
        }
    }
    assert!(by_start.len() > 4);
}

#[test]
fn separate_files_are_found_by_build_id_and_by_link() {
    let (folder, loaded) = build("separate", &["-g"]);
    let svmas = code(&folder, "program");
    let expected = loaded.lines(&svmas);
    let id = Loaded::new(&folder.0, "program").modules().iter().next().unwrap().build_id.clone().unwrap().to_string();
    folder.run("objcopy", &["--only-keep-debug", "program", "program.debug"]);
    folder.run("objcopy", &["--strip-all", "--add-gnu-debuglink=program.debug", "program", "linked"]);
    folder.run("objcopy", &["--strip-all", "program", "stripped"]);
    folder.run("objcopy", &["--remove-section=.note.gnu.build-id", "linked", "linked-only"]);
    let debug = fs::read(folder.0.join("program.debug")).unwrap();
    let lines_of = |program: &str| Loaded::new(&folder.0, program).lines(&svmas);

    assert!(lines_of("stripped").iter().all(Vec::is_empty), "nothing is left without the separate file");
    let by_id = folder.0.join(format!("usr/lib/debug/.build-id/{}", &id[..2]));
    fs::create_dir_all(&by_id).unwrap();
    fs::write(by_id.join(format!("{}.debug", &id[2..])), &debug).unwrap();
    assert_eq!(lines_of("stripped"), expected);
    fs::remove_dir_all(folder.0.join("usr")).unwrap();

    for place in ["bin", "bin/.debug", "usr/lib/debug/bin"] {
        fs::create_dir_all(folder.0.join(place)).unwrap();
        fs::write(folder.0.join(place).join("program.debug"), &debug).unwrap();
        assert_eq!(lines_of("linked"), expected, "{place}");
        assert_eq!(lines_of("linked-only"), expected, "{place}, by checksum");
        fs::remove_file(folder.0.join(place).join("program.debug")).unwrap();
    }

    let mut other = debug.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(folder.0.join("bin/program.debug"), &other).unwrap();
    assert!(lines_of("linked-only").iter().all(Vec::is_empty), "a file with another checksum is not used");
}

#[test]
fn mini_debug_info_names_what_was_stripped() {
    let (folder, loaded) = build("mini", &[]);
    let svmas = code(&folder, "program");
    let expected = loaded.lines(&svmas);
    folder.run("objcopy", &["--only-keep-debug", "program", "mini"]);
    folder.run("xz", &["--keep", "mini"]);
    folder.run("objcopy", &["--strip-all", "--add-section=.gnu_debugdata=mini.xz", "program", "stripped"]);
    assert_eq!(Loaded::new(&folder.0, "stripped").lines(&svmas), expected);
}

#[test]
fn code_made_at_run_time_is_named_by_the_perf_map() {
    let folder = Folder::new("perf-map");
    fs::create_dir(folder.0.join("tmp")).unwrap();
    folder.write("tmp/perf-77.map", "7f0000001000 40 _ZN3jit4codeEv\n7f0000001040 10 evil\x1b[2J name\n");
    fs::write(folder.0.join("none"), []).unwrap();
    let files = Loaded::new(&folder.0, "none");
    let made = Mapping {
        range: AddrRange::new(Addr(0x7f00_0000_1000), Addr(0x7f00_0000_2000)),
        access: Access { read: true, write: true, execute: true },
        shared: false,
        origin: Origin::Anonymous,
    };
    let modules = Modules::load(&[made], &Copied::default(), &files);
    let pcs = [0x1000, 0x1040, 0x1041, 0x1060].map(|offset| Pc::After(Addr(0x7f00_0000_0000 + offset)));
    let progress = Progress::default();
    assert_eq!(progress.now(), (0, 0));
    let names = names::resolve_telling(&modules, &pcs, &files, names::Lines::Everywhere, &progress);
    let (done, all) = progress.now();
    assert!(done == all && all > 0, "{done} of {all}");
    let name =
        |pc: Pc| names.get(pc).iter().map(|name| (name.function.as_deref().unwrap().to_owned(), name.offset)).next();
    assert_eq!(
        pcs.map(name),
        [None, Some(("jit::code()".into(), Some(63))), Some(("evil\x1b[2J name".into(), Some(0))), None]
    );
    assert_eq!(printable("evil\x1b[2J name"), "evil\\x1b[2J name");
}
