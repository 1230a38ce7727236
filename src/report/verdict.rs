//! What a signal comes from, in sentences.

use std::borrow::Cow;

use super::fold::fold;
use super::units;
use super::words::singular;
use crate::addr::Addr;
use crate::events::{Cause, On, Overflow, Verdict, Way};
use crate::snapshot::{Kind, Snapshot, Stack};
use crate::watch::{Event, signal_name};

/// A function that lies on a stack as often as this is named with its count.
const RECURSES: usize = 4;

/// What the verdict says, with the functions of `snapshot`, if that is kept: `stack overflow: parse × 6 552 ran into the guard of
/// coroutine 0 …`. It is not made harmless for a terminal.
pub(crate) fn sentence(verdict: &Verdict, snapshot: Option<&Snapshot>) -> String {
    let name = signal_name(verdict.fault.raised.signal);
    let address = verdict.fault.address();
    let at = address.map_or(String::new(), |address| format!(" at {address}"));
    let what = match &verdict.cause {
        Cause::Overflow(found) => return overflow_sentence(found, address, snapshot),
        Cause::Null { offset: 0 } => "a null pointer was followed".to_owned(),
        Cause::Null { offset } => format!("a null pointer was followed, with an offset of {offset}"),
        Cause::Jump { to: Addr(0) } => "a null pointer was called".to_owned(),
        Cause::Jump { to } => format!("a jump to {to}, where no code is"),
        Cause::Guard { stack, own: false } => {
            format!("the guard of {} was touched{at}, from elsewhere", stack_words(*stack))
        }
        Cause::Guard { stack, own: true } => {
            format!("the guard of {} was touched{at}, far from where that stack is used", stack_words(*stack))
        }
        Cause::Forbidden => format!("memory was touched{at} that nobody may touch"),
        Cause::Kept => format!("memory was used{at} in a way that it does not allow"),
        Cause::Unmapped => format!("nothing is mapped{at}"),
        Cause::General => {
            "an address was used that no pointer can have, or an instruction that is the kernel's".to_owned()
        }
        Cause::File => format!("the file mapped{at} could not be read: it may end before"),
        Cause::Bus => format!("the memory{at} could not be accessed"),
        Cause::Illegal => {
            format!("the processor has no such instruction{at}, or it is one by which compilers end a program")
        }
        Cause::Arithmetic => format!("a division by zero{at}, or one whose result has no room"),
        Cause::Abort => match snapshot.and_then(|snapshot| snapshot.abort_message.as_ref()) {
            Some(message) => format!("the program aborted: {message}"),
            None => "the program aborted".to_owned(),
        },
        Cause::Sent => return format!("{name} was sent"),
    };
    format!("{name}: {what}")
}

fn overflow_sentence(found: &Overflow, address: Option<Addr>, snapshot: Option<&Snapshot>) -> String {
    let Overflow { stack: on, past, way, left, frame, neighbour } = *found;
    let stack = snapshot.and_then(|snapshot| {
        let id = (0..snapshot.stacks.len()).find(|id| snapshot.id(*id) == on.id)?;
        Some((snapshot, &snapshot.stacks[id]))
    });
    let who = stack.map_or("a function".to_owned(), |(snapshot, stack)| culprit(snapshot, stack, frame));
    let size =
        stack.and_then(|(_, stack)| stack.size()).map_or(String::new(), |size| format!(" ({})", units::bytes(size)));
    let place = format!("{}{size}", stack_words(on));
    let past = units::bytes(past);
    let at = address.map_or(String::new(), |address| format!(" at {address}"));
    let into = neighbour.map_or(String::new(), |other| format!(", into {}", stack_words(other)));
    let left = match frame {
        None => format!(", where {left} bytes were left"),
        Some(_) => String::new(),
    };
    let what = match way {
        Way::IntoGuard => format!("ran into the guard of {place}{at}, {past} past its end{left}"),
        Way::OverGuard => format!("passed the guard of {place} and ran {past} past its end{into}"),
        Way::Unguarded => format!("ran {past} past the end of {place}, which has no guard{into}"),
        Way::ToLimit => format!("used up what {place} may grow to{at}{left}"),
    };
    format!("stack overflow: {who} {what}")
}

/// The function that overflowed a stack: one that recurses, with its count, or else the one that lies over the limit.
fn culprit(snapshot: &Snapshot, stack: &Stack, frame: Option<usize>) -> String {
    let functions: Vec<Option<&str>> = stack.frames.iter().map(|frame| function(snapshot, frame.frame.pc)).collect();
    let longest = fold(&functions).into_iter().max_by_key(|fold| fold.length * fold.times);
    if let Some(fold) = longest.filter(|fold| fold.times >= RECURSES) {
        let names: Vec<&str> =
            functions[fold.first..fold.first + fold.length].iter().map(|name| name.unwrap_or("??")).collect();
        return format!("{} \u{d7}{}", names.join(", "), units::count(fold.times));
    }
    let over = frame.unwrap_or(0);
    let name = functions.get(over).copied().flatten().unwrap_or("a function without a name").to_owned();
    match frame.and_then(|frame| stack.frames.get(frame)?.bytes) {
        Some(bytes) => format!("{name}, with a frame of {},", units::bytes(bytes)),
        None => name,
    }
}

fn function(snapshot: &Snapshot, pc: crate::addr::Pc) -> Option<&str> {
    snapshot.place(pc).names.last()?.function.as_deref()
}

/// `coroutine 7`, `the thread's stack`.
fn stack_words(on: On) -> String {
    match on.kind {
        Kind::Thread => "the thread's own stack".to_owned(),
        kind => format!("{} {}", singular(kind), on.id),
    }
}

/// What happened: the verdict, if there is one, else the message. It is not made harmless for a terminal.
pub(crate) fn message(event: &Event) -> Cow<'_, str> {
    match (&event.verdict, &event.look) {
        (Some(verdict), look) if !matches!(verdict.cause, Cause::Sent) => {
            sentence(verdict, look.as_ref().map(|look| &*look.snapshot)).into()
        }
        _ => event.message.as_str().into(),
    }
}
