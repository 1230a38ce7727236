//! What `monitor` in a debugger can ask for: the text of a dump, whole or in part.

use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

use super::target::Served;
use super::threads::Threads;
use crate::filter::Filter;
use crate::process::{FIRST_MADE_UP_TID, StopError};
use crate::report::GroupBy;
use crate::report::style::Style;
use crate::report::text::{self, Listing};
use crate::snapshot::Snapshot;

/// The bytes of text in one packet.
const AT_ONCE: usize = 2048;

const HELP: &str = "\
monitor stacks         every stack, equal ones together
monitor filter EXPR    those that fit, for example: kind:coro peak>80% fn:decode
monitor stack N        one stack, by its number or that of its thread
";

impl MonitorCmd for Served<'_, '_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), StopError> {
        let command = String::from_utf8_lossy(command);
        let answer = match self.program.snapshot() {
            Some(snapshot) => answer(command.trim(), snapshot, &self.threads),
            None => "the program runs; interrupt it first\n".to_owned(),
        };
        for part in answer.as_bytes().chunks(AT_ONCE) {
            out.write_raw(part);
            out.flush();
        }
        Ok(())
    }
}

fn answer(command: &str, snapshot: &Snapshot, threads: &Threads) -> String {
    let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let listing = match (verb, rest.trim()) {
        ("stacks", "") => Ok(Listing::default()),
        ("filter", expression) => {
            let filter = Filter::parse(expression).map_err(|error| format!("{error}\n"));
            filter.map(|filter| Listing { filter, group: Some(GroupBy::Stack) })
        }
        ("stack", number) => stack(number, snapshot, threads),
        _ => Err(HELP.to_owned()),
    };
    let mut text = String::new();
    match listing {
        // Writing to a string does not fail.
        Ok(listing) => drop(text::write(&mut text, snapshot, &listing, Style::default())),
        Err(said) => text = said,
    }
    text
}

/// One stack alone, by its number or that of a thread.
fn stack(number: &str, snapshot: &Snapshot, threads: &Threads) -> Result<Listing, String> {
    let known = number.parse::<i32>().ok().and_then(|number| {
        let id = usize::try_from(number).ok().filter(|id| *id < snapshot.stacks.len());
        threads.stack(number).or(id.filter(|_| number < FIRST_MADE_UP_TID))
    });
    let id = known.ok_or_else(|| format!("there is no stack {number:?}\n"))?;
    let filter = Filter::parse(&format!("id={id}")).map_err(|error| format!("{error}\n"))?;
    Ok(Listing { filter, group: None })
}
