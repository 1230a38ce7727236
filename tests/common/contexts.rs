//! What debuggers show of each context as a thread, and what `dump` shows, in the same words.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use stackscope_harness::ThreadFrames;

use super::function;

pub(crate) fn stacks(dump: &Value) -> &[Value] {
    dump["stacks"].as_array().unwrap()
}

/// The number that a stack's context has as a thread.
pub(crate) fn tid(stack: &Value) -> i32 {
    let own = stack["thread"].as_i64();
    own.unwrap_or_else(|| 10_000_000 + stack["id"].as_i64().unwrap()) as i32
}

/// A name without its path, its type arguments, its version, its hash and its arguments.
pub(crate) fn short(name: &str) -> String {
    let (mut depth, mut plain) = (0, String::new());
    for letter in name.split('@').next().unwrap().replace("->", "").chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth -= 1,
            '(' if depth == 0 => break,
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let is_hash =
        |part: &&str| part.len() == 17 && part.starts_with('h') && part[1..].bytes().all(|b| b.is_ascii_hexdigit());
    plain.rsplit("::").find(|part| !is_hash(part)).unwrap_or_default().to_owned()
}

/// The functions in the fixture's own sources that are not inlined anywhere: what debuggers say of the others differs.
pub(crate) fn own_functions(dump: &Value) -> BTreeSet<String> {
    let frames = || stacks(dump).iter().flat_map(|stack| stack["frames"].as_array().unwrap());
    let is_own = |frame: &&Value| frame["file"].as_str().is_some_and(|file| file.contains("fixtures/"));
    let of = |inlined: bool| -> BTreeSet<String> {
        let wanted = frames().filter(is_own).filter(|frame| frame["inlined"] == inlined);
        wanted.map(|frame| short(function(frame))).filter(|name| !name.contains('{')).collect()
    };
    &of(false) - &of(true)
}

/// By thread, the names of the program's own functions.
pub(crate) fn shown_by_us(dump: &Value, own: &BTreeSet<String>) -> BTreeMap<i32, Vec<String>> {
    let names = |stack: &Value| {
        let frames = stack["frames"].as_array().unwrap().iter().filter(|frame| frame["inlined"] == false);
        frames.map(|frame| short(function(frame))).filter(|name| own.contains(name)).collect()
    };
    stacks(dump).iter().map(|stack| (tid(stack), names(stack))).collect()
}

pub(crate) fn shown_by(debugger: &[ThreadFrames], own: &BTreeSet<String>) -> BTreeMap<i32, Vec<String>> {
    let names = |thread: &ThreadFrames| {
        thread.functions.iter().map(|name| short(name)).filter(|name| own.contains(name)).collect()
    };
    debugger.iter().map(|thread| (thread.tid, names(thread))).collect()
}
