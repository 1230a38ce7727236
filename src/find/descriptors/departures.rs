//! Every instruction after which a program may be on another stack, understood or not, for those who watch it happen.

use iced_x86::{FlowControl, Instruction, Mnemonic};

use super::flow::{Reader, is_foreign};
use super::machine::{RSP, Value};
use super::{ImageCode, MOST_CANDIDATES, Switches, stack_pointer_writes};

/// A routine is decoded from its start up to a site in it if that is at most this many bytes.
const LONGEST_WAY: u64 = 64 << 10;

/// The end of a routine is searched for so far beyond a site.
const LONGEST_REST: u64 = 4 << 10;

/// An instruction that gives the stack pointer a value from elsewhere, whereupon control leaves the routine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Its address, as the file names it.
    pub site: u64,
    /// Where its routine begins. From there on, `site` is reached instruction by instruction.
    pub routine: u64,
    /// Where its routine ends, as far as that is known, or where it is no longer searched for.
    pub end: u64,
    /// Whether the stack that is left can be gone back to by what is saved here. If not, it is the end of a coroutine,
    /// or a jump to a place further up the same stack, as `longjmp` and the landing of an exception make.
    pub saves: bool,
}

/// The departures in an image's code, in order; `known` is what [`super::derive`] says of it.
///
/// A candidate that lies inside another instruction is left out, and so is one that is not understood in a routine whose
/// start is not known: the second number counts these.
pub fn departures(code: &ImageCode<'_>, known: &Switches) -> (Vec<Departure>, usize) {
    let writes = code.parts.iter().flat_map(|part| stack_pointer_writes(*part)).take(MOST_CANDIDATES);
    let mut reader = Reader::new(code);
    let sites: Vec<u64> = writes.filter(|site| reader.leads_away(*site)).collect();
    reader.learn_entries(sites.iter());
    let mut unplaced = 0;
    let mut found = Vec::new();
    for site in sites {
        let described = || known.descriptors.iter().filter(|known| known.site == site);
        let is_understood = described().next().is_some();
        // A start that is only a guess is a good one if what is saved could be read from there.
        let guessed = reader.entries(site).into_iter().filter(|_| is_understood);
        match reader.known_entries(site).chain(guessed).find(|entry| is_reached(&reader, *entry, site)) {
            Some(routine) if !is_understood && stays(&reader, routine, site) => {}
            Some(routine) => {
                let saves = described().any(|known| !known.saves_only);
                found.push(Departure { site, routine, end: end_of(&reader, site), saves });
            }
            None => unplaced += usize::from(reader.function_start(site).is_none()),
        }
    }
    (found, unplaced)
}

/// Whether the stack pointer is set to what it was made of in the same routine, on all the ways that lead there: back
/// from room that was made on the stack.
fn stays(reader: &Reader<'_>, routine: u64, site: u64) -> bool {
    let mut ways = reader.reach(routine, site).into_iter().peekable();
    ways.peek().is_some()
        && ways.all(|mut machine| {
            let stepped = reader.step(&mut machine, site).is_some();
            stepped && machine.get(RSP) != Value::Unknown && !is_foreign(&machine, machine.get(RSP))
        })
}

/// Whether decoding from `entry` on, one instruction after the other, meets `site`.
fn is_reached(reader: &Reader<'_>, entry: u64, site: u64) -> bool {
    if site.saturating_sub(entry) > LONGEST_WAY {
        return false;
    }
    let mut at = entry;
    while at < site {
        match reader.instruction(at) {
            Some(instruction) if is_code(&instruction) => at = instruction.next_ip(),
            _ => return false,
        }
    }
    at == site
}

/// Where another routine begins after `site`: at the first place behind an instruction that does not go on to it of which
/// a table, a call or a symbol says so.
fn end_of(reader: &Reader<'_>, site: u64) -> u64 {
    let most = site.saturating_add(LONGEST_REST);
    let mut at = site;
    let mut may_end = false;
    while let Some(instruction) = reader.instruction(at).filter(|_| at < most) {
        if may_end && at != site && reader.known_entries(at).next().is_some_and(|entry| entry == at) {
            break;
        }
        may_end = !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Call)
            || may_end && is_filler(&instruction);
        at = instruction.next_ip();
    }
    at
}

fn is_filler(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

/// Whether an instruction is one that programs have between others, and not data that was decoded.
fn is_code(instruction: &Instruction) -> bool {
    !matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out | Mnemonic::Insb | Mnemonic::Outsb)
}
