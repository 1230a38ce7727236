//! What functions need of the stack, as JSON: the keys and words of `docs/JSON.md`.
//!
//! As in [`super::json`], the types here are the format.

use std::io;

use serde::Serialize;

use super::json::Hex;
use super::sizes::Sizes;
use crate::sizes::{Answered, Circle, FunctionId, GapKind, Step, Unknown};

/// The version of the format; it changes only where a key is renamed or its meaning changes.
const SCHEMA_VERSION: u32 = 1;

/// Writes the answers as one JSON object and a line end.
///
/// # Errors
/// Those of `out`.
pub fn write(mut out: impl io::Write, sizes: &Sizes<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut out, &Report::of(sizes)).map_err(io::Error::from)?;
    writeln!(out)
}

#[derive(Serialize)]
struct Report<'s> {
    schema: &'static str,
    schema_version: u32,
    complete: bool,
    warnings: &'s [String],
    target: &'s str,
    files: Vec<File<'s>>,
    signal_frame: Option<u64>,
    functions_total: usize,
    functions_bounded: usize,
    functions: Vec<Answer>,
    functions_matching: usize,
    largest: Vec<Function>,
}

#[derive(Serialize)]
struct File<'s> {
    name: &'s str,
    path: Option<String>,
    build_id: Option<String>,
    /// Whether its code could be read.
    read: bool,
}

#[derive(Serialize)]
struct Function {
    name: Option<String>,
    file: usize,
    svma: Hex,
    frame: u64,
    reach: u64,
    need: u64,
    bound: bool,
    /// Whether its rules and its instructions disagree somewhere.
    disputed: bool,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    function: Function,
    need_with_endings: u64,
    path: Vec<Frame>,
    unknown: Vec<Reason>,
    unknown_total: usize,
    recursion: Vec<Turn>,
    recursion_total: usize,
}

#[derive(Serialize)]
struct Frame {
    name: Option<String>,
    file: usize,
    svma: Hex,
    bytes: u64,
    at: Option<i32>,
}

#[derive(Serialize)]
struct Reason {
    kind: &'static str,
    import: Option<String>,
    name: Option<String>,
    file: usize,
    svma: Hex,
    at: i32,
}

#[derive(Serialize)]
struct Turn {
    functions: Vec<Place>,
    bytes: u64,
}

#[derive(Serialize)]
struct Place {
    name: Option<String>,
    file: usize,
    svma: Hex,
}

impl<'s> Report<'s> {
    fn of(sizes: &'s Sizes<'s>) -> Report<'s> {
        let files = sizes.modules.iter().map(|module| File {
            name: &module.name,
            path: module.path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            build_id: module.build_id.as_ref().map(ToString::to_string),
            read: module.image.is_some(),
        });
        Report {
            schema: "stackscope-sizes",
            schema_version: SCHEMA_VERSION,
            complete: sizes.warnings.is_empty(),
            warnings: sizes.warnings,
            target: sizes.target,
            files: files.collect(),
            signal_frame: sizes.signal_frame,
            functions_total: sizes.asked.own_total,
            functions_bounded: sizes.asked.own_bounded,
            functions: sizes.asked.answers.iter().map(|answered| answer(sizes, answered)).collect(),
            functions_matching: sizes.asked.answers_total,
            largest: sizes.asked.largest.iter().map(|id| function(sizes, *id)).collect(),
        }
    }
}

fn function(sizes: &Sizes<'_>, id: FunctionId) -> Function {
    let function = sizes.graph.function(id);
    let Place { name, file, svma } = place(sizes, id);
    let (need, bound) = sizes.costs.need(id);
    Function {
        name,
        file,
        svma,
        frame: function.frame,
        reach: function.reach,
        need,
        bound,
        disputed: function.disputed,
    }
}

fn place(sizes: &Sizes<'_>, id: FunctionId) -> Place {
    let function = sizes.graph.function(id);
    Place { name: sizes.function(id), file: function.module, svma: Hex(crate::addr::Addr(function.svma)) }
}

fn answer(sizes: &Sizes<'_>, answered: &Answered) -> Answer {
    let answer = &answered.answer;
    Answer {
        function: function(sizes, answer.function),
        need_with_endings: answered.with_endings,
        path: answer.path.iter().map(|step| frame(sizes, step)).collect(),
        unknown: answer.unknown.iter().map(|unknown| reason(sizes, unknown)).collect(),
        unknown_total: answer.unknown_total,
        recursion: answer.circles.iter().map(|circle| turn(sizes, circle)).collect(),
        recursion_total: answer.circles_total,
    }
}

fn frame(sizes: &Sizes<'_>, step: &Step) -> Frame {
    let Place { name, file, svma } = place(sizes, step.function);
    Frame { name, file, svma, bytes: step.bytes, at: step.at }
}

fn reason(sizes: &Sizes<'_>, unknown: &Unknown) -> Reason {
    let Place { name, file, svma } = place(sizes, unknown.function);
    let (kind, import) = match unknown.gap.kind {
        GapKind::IndirectCall => ("indirect_call", None),
        GapKind::IndirectJump => ("indirect_jump", None),
        GapKind::Import(number) => ("import", Some(sizes.graph.name(number).to_owned())),
        GapKind::Room => ("room", None),
        GapKind::NoCode => ("no_code", None),
        GapKind::Unread => ("unread", None),
    };
    Reason { kind, import, name, file, svma, at: unknown.gap.at }
}

fn turn(sizes: &Sizes<'_>, circle: &Circle) -> Turn {
    Turn { functions: circle.functions.iter().map(|id| place(sizes, *id)).collect(), bytes: circle.turn }
}
