//! Signals at which a process stands until we have seen why: those that end it, and faults that it handles.

use std::time::Instant;

use super::events::{self, Event, EventKind, Sight};
use super::run::Watch;
use crate::events::{Cause, Verdict, judge};
use crate::process::Signalled;
use crate::snapshot::Snapshot;

impl Watch {
    /// A thread is about to handle a fault. It is looked at without names, which takes little time, and with them only if
    /// a stack was run out of.
    pub(super) fn handled(&mut self, signalled: Signalled, at: Instant) {
        let mut event = self.signal(signalled, at);
        let first = self.judged.is_empty();
        if first || self.pace.allows_extra(self.start.elapsed()) {
            let began = Instant::now();
            let mut seen = self.look(signalled.pid, false, Some(signalled));
            let mut verdict = seen.as_deref().and_then(judge);
            if verdict.is_some_and(|verdict| verdict.overflow().is_some()) {
                seen = self.look(signalled.pid, true, Some(signalled));
                verdict = seen.as_deref().and_then(judge);
                event.look = seen.as_deref().and_then(|snapshot| sight(snapshot, signalled.tid));
            }
            self.pace.extra(began.elapsed());
            self.judged.extend(verdict.map(|verdict| (signalled.pid, verdict.fault)));
            event.verdict = verdict.map(Box::new);
            event.kind = kind(verdict);
        }
        self.let_handle(signalled.pid);
        self.add(event);
    }

    /// A process is about to be ended by a signal: the stacks are as they were when that was decided.
    pub(super) fn fatal(&mut self, signalled: Signalled, at: Instant) {
        let seen = self.look_before_end(signalled.pid, true, Some(signalled));
        let mut event = Event { killed: true, ..self.signal(signalled, at) };
        if let Some(snapshot) = seen.as_deref().filter(|_| !events::is_wanted_end(signalled)) {
            event.look = sight(snapshot, signalled.tid);
            let verdict = judge(snapshot);
            // A handler that returns has the same instruction fault again: that is told already.
            let is_told = verdict.is_some_and(|verdict| self.judged.get(&signalled.pid) == Some(&verdict.fault));
            event.kind = if is_told { EventKind::Signal } else { kind(verdict) };
            event.verdict = verdict.map(Box::new);
        }
        self.raises_end(signalled, at, event.look.as_ref());
        self.release(signalled.pid);
        self.add(event);
    }

    fn let_handle(&self, pid: i32) {
        if let Some(tracees) = &self.tracees {
            tracees.let_handle(pid);
        }
    }
}

/// The stitched backtrace of a thread.
fn sight(snapshot: &Snapshot, tid: i32) -> Option<Sight> {
    let thread = snapshot.threads.iter().find(|thread| thread.tid == tid)?;
    Some(Sight::at(snapshot, thread.stack))
}

fn kind(verdict: Option<Verdict>) -> EventKind {
    match verdict.map(|verdict| verdict.cause) {
        Some(Cause::Overflow(_)) => EventKind::Overflow,
        Some(Cause::Abort) => EventKind::Abort,
        _ => EventKind::Signal,
    }
}
