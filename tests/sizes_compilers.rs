//! The frames that `stackscope sizes` reads from code, beside those that the compilers state which made it.

#![cfg(all(target_os = "linux", target_arch = "x86_64", feature = "cli"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use iced_x86::{Decoder, DecoderOptions, Mnemonic, Register};
use object::{Object, ObjectSection, ObjectSymbol};
use serde_json::Value;
use stackscope::workshop::process::AtRest;
use stackscope::workshop::sizes::{Function, GapKind, Graph};
use stackscope_harness::folder;

/// How Lua is compiled, and how many functions there must be.
const LEVELS: [(&str, &[&str], usize); 5] = [
    ("plain", &["-O0"], 1000),
    ("size", &["-Os"], 700),
    ("fast", &["-O2"], 600),
    ("pointers", &["-O2", "-fno-omit-frame-pointer", "-fstack-clash-protection"], 600),
    ("arguments", &["-O3", "-maccumulate-outgoing-args"], 550),
];

#[test]
fn frames_are_those_of_gcc() {
    for (level, flags, fewest) in LEVELS {
        let (library, stated) = compiled(level, flags);
        let ours = frames_by_name(&library);
        let mut equal = 0;
        let mut differ = Vec::new();
        for (name, stated) in &stated {
            // Several functions of one name, in several files, are compared as a set.
            let Some(ours) = ours.get(name.as_str()) else { continue };
            let ours: Vec<u64> = ours.iter().filter(|(_, room)| !room).map(|(frame, _)| *frame).collect();
            match *stated == ours {
                true => equal += ours.len(),
                false => differ.push(format!("{name}: gcc {stated:?}, ours {ours:?}")),
            }
        }
        assert!(differ.is_empty(), "{level}: {differ:#?}");
        assert!(equal >= fewest, "{level}: {equal} of {}", stated.len());
    }
}

/// Lua as a library, and what `-fstack-usage` says of each function that takes no room by an unknown number.
fn compiled(level: &str, flags: &[&str]) -> (PathBuf, BTreeMap<String, Vec<u64>>) {
    let sources = package("lua-src").join("lua-5.4.9");
    let folder = folder().join(format!("lua-{level}"));
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let library = folder.join("lua.so");
    if !library.exists() {
        let files = fs::read_dir(&sources).unwrap().map(|entry| entry.unwrap().path());
        let is_of_library = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(".c") && !["luac.c", "onelua.c", "ltests.c"].contains(&name)
        };
        let files: Vec<PathBuf> = files.filter(is_of_library).collect();
        let mut gcc = Command::new("gcc");
        gcc.current_dir(&folder).args(flags).args(["-fPIC", "-shared", "-fstack-usage", "-DLUA_USE_POSIX"]);
        let output = gcc.args(files).args(["-o", "partial.so", "-lm"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::rename(folder.join("partial.so"), &library).unwrap();
    }
    let mut stated: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let usages = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    for usage in usages.filter(|path| path.extension().is_some_and(|extension| extension == "su")) {
        for line in fs::read_to_string(usage).unwrap().lines() {
            let [place, bytes, kind] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            if kind != "dynamic" {
                let name = place.rsplit(':').next().unwrap().to_owned();
                stated.entry(name).or_default().push(bytes.parse().unwrap());
            }
        }
    }
    stated.values_mut().for_each(|frames| frames.sort_unstable());
    (library, stated)
}

/// Where the sources of a package lie that this one is built with.
fn package(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == name);
    Path::new(package.unwrap()["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// All functions of a file itself, by svma.
fn functions(file: &Path) -> HashMap<u64, (Function, bool)> {
    let at_rest = AtRest::open(file).unwrap();
    let graph = Graph::of(at_rest.modules());
    let own = graph.functions().filter(|(_, function)| function.module == 0);
    own.map(|(id, function)| {
        let takes_room = graph.gaps(id).iter().any(|gap| gap.kind == GapKind::Room);
        (function.svma, (function.clone(), takes_room))
    })
    .collect()
}

/// By name, the frames of all functions that go by it, and whether each takes room by an unknown number.
fn frames_by_name(file: &Path) -> HashMap<String, Vec<(u64, bool)>> {
    let functions = functions(file);
    let content = fs::read(file).unwrap();
    let object = object::File::parse(&*content).unwrap();
    let mut frames: HashMap<String, Vec<(u64, bool)>> = HashMap::new();
    for symbol in object.symbols() {
        if let Some((function, takes_room)) = functions.get(&symbol.address()) {
            frames.entry(symbol.name().unwrap().to_owned()).or_default().push((function.frame, *takes_room));
        }
    }
    frames.values_mut().for_each(|frames| frames.sort_unstable());
    frames
}

/// A program of crates that this package is built with, some of which are optimised.
const MANIFEST: &str = r#"
[package]
name = "stated"
version = "0.0.0"
edition = "2024"

[dependencies]
jsonschema = { version = "*", default-features = false }
serde_json = "*"

[workspace]

[profile.dev]
debug = 0
incremental = false
package.regex-syntax.opt-level = 3
package.regex-automata.opt-level = 2
package.aho-corasick.opt-level = "s"
"#;

const PROGRAM: &str = "fn main() {
    let schema = serde_json::from_reader(std::io::stdin()).unwrap();
    println!(\"{}\", jsonschema::validator_for(&schema).unwrap().is_valid(&schema));
}
";

#[test]
fn frames_are_those_of_rustc() {
    let program = built_with_sizes();
    let stated = stack_sizes(&program);
    let ours = functions(&program);
    let code = code(&program);
    let (mut equal, mut explained, mut differ) = (0, 0, Vec::new());
    for (svma, stated) in &stated {
        let Some((function, takes_room)) = ours.get(svma) else {
            differ.push(format!("{svma:#x}: stated {stated}, not found"));
            continue;
        };
        // LLVM leaves the return address out.
        let stated = stated + 8;
        match function.frame {
            frame if frame == stated || *takes_room => equal += 1,
            frame if frame > stated && frame - stated <= left_out_by_llvm(function, &code) => explained += 1,
            frame => differ.push(format!("{svma:#x}: stated {stated}, ours {frame}")),
        }
    }
    assert!(differ.is_empty(), "{} differ: {:#?}", differ.len(), &differ[..differ.len().min(20)]);
    assert!(equal >= 15_000 && explained < equal / 50, "{equal} equal, {explained} explained");
}

/// The program, built so that each object file says how large its frames are.
fn built_with_sizes() -> PathBuf {
    let project = folder().join("stated");
    fs::create_dir_all(project.join("src")).unwrap();
    let lock = File::create(project.join("lock")).unwrap();
    lock.lock().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = project.join(path);
        if fs::read(&path).ok().as_deref() != Some(content) {
            fs::write(path, content).unwrap();
        }
    };
    write("Cargo.toml", MANIFEST.as_bytes());
    write("src/main.rs", PROGRAM.as_bytes());
    if !project.join("Cargo.lock").exists() {
        fs::copy("Cargo.lock", project.join("Cargo.lock")).unwrap();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&project).args(["build", "-q", "--offline", "--target-dir", "target"]);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Z emit-stack-sizes");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    project.join("target/debug/stated")
}

/// By svma, the sizes in `.stack_sizes` (LLVM, "Emitting function stack size information"): each an address of eight
/// bytes and a ULEB128 number.
fn stack_sizes(program: &Path) -> BTreeMap<u64, u64> {
    let content = fs::read(program).unwrap();
    let object = object::File::parse(&*content).unwrap();
    let mut rest = object.section_by_name(".stack_sizes").unwrap().data().unwrap();
    let mut sizes = BTreeMap::new();
    while let Some((svma, after)) = rest.split_first_chunk() {
        let length = after.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let (number, after) = after.split_at(length);
        let size = number.iter().rev().fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
        sizes.insert(u64::from_le_bytes(*svma), size);
        rest = after;
    }
    sizes.remove(&0);
    sizes
}

/// The program's code, and where it begins.
fn code(program: &Path) -> (u64, Vec<u8>) {
    let content = fs::read(program).unwrap();
    let object = object::File::parse(&*content).unwrap();
    let text = object.section_by_name(".text").unwrap();
    (text.address(), text.data().unwrap().to_vec())
}

/// The most that LLVM may have left out of a frame that it states: arguments that are pushed for a call, so anything
/// that is pushed after the prologue, with what aligns them; and where the stack pointer is aligned, what is lost by that
/// and the registers that were saved before.
fn left_out_by_llvm(function: &Function, (start, code): &(u64, Vec<u8>)) -> u64 {
    let from = (function.svma - start) as usize;
    let code = &code[from..from + function.code_size as usize];
    let (mut saved, mut arguments, mut alignment, mut in_prologue) = (0, 0, 0, true);
    for instruction in Decoder::with_ip(64, code, function.svma, DecoderOptions::NONE) {
        match instruction.mnemonic() {
            Mnemonic::Push if in_prologue => saved += 8,
            Mnemonic::Push => arguments += 8,
            Mnemonic::And if instruction.op0_register() == Register::RSP => {
                alignment = instruction.immediate(1).wrapping_neg();
            }
            Mnemonic::Mov if instruction.op1_register() == Register::RSP => {}
            _ => in_prologue = false,
        }
    }
    let pushed = if arguments > 0 { arguments + 8 } else { 0 };
    pushed + if alignment > 0 { alignment + saved } else { 0 }
}
