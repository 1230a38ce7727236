//! Made-up snapshots, for tests of what shows them: fixed addresses, names and sizes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Bounds, BoundsFrom, Guard, Kind, Peak, Place, Places, Snapshot, Stack, StackFrame, State, ThreadEntry};
use crate::addr::{Addr, AddrRange, PAGE, Pc};
use crate::arch::X86_64;
use crate::image::names::Name;
use crate::process::{Process, Source};
use crate::unwind::{Ended, FoundBy, Frame};

/// A snapshot that is being made up.
pub(crate) struct Draft {
    threads: Vec<ThreadEntry>,
    stacks: Vec<Stack>,
    places: HashMap<Pc, Place>,
}

/// A function, its line, and the bytes of its frame. A name in square brackets is a system function's.
pub(crate) type Call = (&'static str, u32, u64);

impl Draft {
    /// A snapshot of nothing.
    pub(crate) fn new() -> Draft {
        Draft { threads: Vec::new(), stacks: Vec::new(), places: HashMap::new() }
    }

    /// Adds a stack of `size` bytes that once held `peak` more bytes than its frames take; returns its id.
    pub(crate) fn stack(&mut self, kind: Kind, state: State, size: u64, peak: u64, calls: &[Call]) -> usize {
        let id = self.stacks.len();
        let high = 0x7f00_0000_0000 + (id as u64 + 1) * (1 << 24);
        let used: u64 = calls.iter().map(|(_, _, bytes)| bytes).sum();
        let frames = calls.iter().enumerate().map(|(depth, call)| self.frame(depth, *call)).collect();
        let (low, high) = (Addr(high - size), Addr(high));
        let guard = match kind {
            Kind::Coroutine if id.is_multiple_of(2) => Guard::None,
            _ => Guard::Ok(AddrRange::new(low.offset(-(PAGE as i64)), low)),
        };
        let entry = calls.iter().rev().find(|(function, ..)| !function.starts_with('['));
        self.stacks.push(Stack {
            bounds: Bounds { low: Some(low), high: Some(high), from: BoundsFrom::Guard, guard },
            sp: Some(high.offset(-(used as i64))),
            peak: (peak > 0).then_some(Peak::by_pages(used + peak)),
            entry: entry.map(|(function, ..)| Arc::from(*function)),
            frames,
            ended: Ended::Root,
            ..Stack::new(kind, state)
        });
        id
    }

    fn frame(&mut self, depth: usize, (function, line, bytes): Call) -> StackFrame {
        let at = Addr(function.bytes().fold(u64::from(line) << 32, |sum, byte| sum + u64::from(byte)));
        let pc = if depth == 0 { Pc::At(at) } else { Pc::After(at) };
        let plain = function.trim_matches(['[', ']']);
        let system = plain != function;
        let name = Name {
            function: Some(plain.into()),
            offset: Some(4),
            file: (!system).then(|| "src/made_up.rs".into()),
            line: (!system).then_some(line),
            inlined: false,
        };
        let module = if system { "libc.so.6" } else { "server" };
        self.places.insert(pc, Place { module: Some(module.into()), system, names: vec![name] });
        let found_by = if depth == 0 { FoundBy::Context } else { FoundBy::Cfi };
        StackFrame { frame: Frame { pc, cfa: None, found_by, signal: false }, bytes: Some(bytes) }
    }

    /// Has a thread run on a stack, and on through those that `resumers` names, one after the other.
    pub(crate) fn run(&mut self, tid: i32, name: &str, stack: usize, resumers: &[usize]) {
        self.threads.push(ThreadEntry { tid, name: Some(name.to_owned()), stack, signal: None });
        self.stacks[stack].thread = Some(tid);
        let mut inner = stack;
        for outer in resumers {
            self.stacks[inner].resumed_by = Some(*outer);
            inner = *outer;
        }
        self.stacks[inner].name = Some(name.to_owned());
    }

    /// The snapshot, of a look that took a millisecond.
    pub(crate) fn finish(self) -> Snapshot {
        let command = ["./target/debug/server", "--port", "9000"].map(str::to_owned).to_vec();
        Snapshot {
            process: Process { pid: 48213, command, source: Source::Live },
            arch: &X86_64,
            stopped: Duration::from_millis(1),
            threads: self.threads,
            stacks: self.stacks,
            places: Places::of(self.places),
            moved: Vec::new(),
            ids: Vec::new(),
            fault: None,
            abort_message: None,
            warnings: Vec::new(),
            blind_spots: Vec::new(),
            complete: true,
        }
    }
}
