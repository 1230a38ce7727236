//! A stitched backtrace as rows: frames with recursion folded, the crossings from stack to stack, and why frames end.
//!
//! All text in the rows is harmless to a terminal.

use super::fold::fold;
use super::group::Code;
use super::words::{crossing_words, ended_words, singular, thread_words};
use crate::image::names::Name;
use crate::image::printable;
use crate::snapshot::{Kind, Place, Snapshot, Stack, StackFrame};
use crate::unwind::FoundBy;

/// One row of a backtrace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Row {
    /// A function.
    Frame(FrameRow),
    /// The backtrace goes on on another stack.
    Crossing {
        /// How it gets there, and where that is.
        words: String,
        /// The other stack, by its index in the snapshot.
        stack: usize,
    },
    /// Frames are missing after this, for this reason.
    Ended(String),
}

/// A function of a backtrace, or several rounds of a recursion through it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FrameRow {
    /// The bytes that its frames take; 0 if it is inlined.
    pub(crate) bytes: Option<u64>,
    /// Whether it was inlined into the one that follows.
    pub(crate) inlined: bool,
    /// Its name, or its code address.
    pub(crate) function: String,
    /// Its source line, or else its module.
    pub(crate) place: Option<String>,
    /// A remark on it.
    pub(crate) note: Option<&'static str>,
    /// How many rounds of the recursion this row stands for.
    pub(crate) times: usize,
}

/// The rows of the stitched backtrace that begins at stack `id`.
pub(crate) fn rows(snapshot: &Snapshot, id: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let ids: Vec<usize> = snapshot.stitched(id).collect();
    for (index, at) in ids.iter().enumerate() {
        let Some(stack) = snapshot.stacks.get(*at) else { break };
        if let Some(inner) = index.checked_sub(1).and_then(|inner| snapshot.stacks.get(ids[inner])) {
            let from = match stack.kind {
                Kind::Thread => thread_words(snapshot.stacks[id].thread, snapshot),
                kind => format!("{} {}", singular(kind), snapshot.id(*at)),
            };
            rows.push(Row::Crossing { words: format!("{} {from}", crossing_words(inner.kind)), stack: *at });
        }
        add_frames(&mut rows, snapshot, stack);
    }
    rows
}

/// A function in a frame.
#[derive(Clone, Copy)]
struct Part<'s> {
    frame: &'s StackFrame,
    place: &'s Place,
    /// `None` if nothing is known of the frame's code.
    name: Option<&'s Name>,
}

impl<'s> Part<'s> {
    /// What must be equal for two parts to fold.
    fn key(self) -> (Code<'s>, bool, FoundBy) {
        let function = self.name.and_then(|name| name.function.as_deref());
        let code = function.map_or(Code::Address(self.frame.frame.pc), Code::Function);
        (code, self.inlined(), self.frame.frame.found_by)
    }

    fn inlined(self) -> bool {
        self.name.is_some_and(|name| name.inlined)
    }

    fn bytes(self) -> Option<u64> {
        if self.inlined() { Some(0) } else { self.frame.bytes }
    }

    fn row(self, bytes: Option<u64>, times: usize) -> FrameRow {
        let mark = match self.frame.frame.found_by {
            FoundBy::Context | FoundBy::Descriptor | FoundBy::Cfi => None,
            FoundBy::FramePointer => Some("(by frame pointer)"),
            FoundBy::Scan => Some("(by scan: a guess)"),
        };
        let (function, note) = match self.name {
            None => (format!("?? {}", self.frame.frame.pc.addr()), mark),
            Some(name) => (
                name.function.as_deref().map_or("??".into(), printable).into_owned(),
                if name.inlined { Some("inlined") } else { mark },
            ),
        };
        FrameRow { bytes, inlined: self.inlined(), function, place: self.location(), note, times }
    }

    /// `src/proto.rs:88`; the module's name if there are no lines.
    fn location(self) -> Option<String> {
        let Some(file) = self.name.and_then(|name| name.file.as_ref()) else {
            return self.place.module.as_deref().map(|module| printable(module).into_owned());
        };
        // An absolute path is mostly the build machine's; people know the file by its last part.
        let short = if file.starts_with('/') { file.rsplit('/').next().unwrap_or(file) } else { file };
        Some(match self.name.and_then(|name| name.line) {
            Some(line) => format!("{}:{line}", printable(short)),
            None => printable(short).into_owned(),
        })
    }
}

fn add_frames(rows: &mut Vec<Row>, snapshot: &Snapshot, stack: &Stack) {
    let parts: Vec<Part> = stack.frames.iter().flat_map(|frame| parts(snapshot, frame)).collect();
    let keys: Vec<_> = parts.iter().map(|part| part.key()).collect();
    for fold in fold(&keys) {
        for at in fold.first..fold.first + fold.length {
            let repeats = (0..fold.times).map(|round| parts[at + round * fold.length]);
            let bytes = repeats.map(Part::bytes).try_fold(0u64, |sum, bytes| sum.checked_add(bytes?));
            rows.push(Row::Frame(parts[at].row(bytes, fold.times)));
        }
    }
    rows.extend(ended_words(stack.ended).map(Row::Ended));
}

fn parts<'s>(snapshot: &'s Snapshot, frame: &'s StackFrame) -> impl Iterator<Item = Part<'s>> {
    let place = snapshot.place(frame.frame.pc);
    let named = place.names.iter().map(move |name| Part { frame, place, name: Some(name) });
    let unnamed = place.names.is_empty().then_some(Part { frame, place, name: None });
    named.chain(unnamed)
}
