//! Follows control flow through an image's code with the symbolic machine.

use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic};

use super::ImageCode;
use crate::find::descriptors::machine::{Base, Flow, Machine, RBP, RSP, Sum, Value};
use crate::image::{CodeBytes, Reference, references};

/// A routine is looked for at most this many bytes before its switch site, where no table says where it begins.
const LONGEST_ROUTINE: u64 = 256;

/// At most this many instructions are followed to reach a site.
const MOST_STEPS: usize = 512;

/// A site that can be reached with more different stack pointers than this is not looked at with all of them.
const MOST_WAYS: usize = 4;

/// At most this many branches are followed both ways.
const MOST_FORKS: usize = 32;

/// From a switch on, a routine is left within this many instructions.
pub(super) const LONGEST_END: usize = 64;

/// Decodes an image's code and knows where its routines begin.
pub(super) struct Reader<'a> {
    code: ImageCode<'a>,
    /// Targets of direct calls, and symbols, shortly before a site that no unwind table covers; sorted.
    called: Vec<u64>,
}

impl<'a> Reader<'a> {
    /// Reads `code`, and knows of entries only what tables say.
    pub(super) fn new(code: &ImageCode<'a>) -> Reader<'a> {
        Reader { code: *code, called: Vec::new() }
    }

    /// Learns where routines may begin around those of `sites` that no table covers.
    pub(super) fn learn_entries<'s>(&mut self, sites: impl Iterator<Item = &'s u64>) {
        let mut uncovered: Vec<u64> = sites.copied().filter(|site| self.function_start(*site).is_none()).collect();
        uncovered.sort_unstable();
        if uncovered.is_empty() {
            return;
        }
        let near: Vec<_> = uncovered.iter().map(|site| site.saturating_sub(LONGEST_ROUTINE - 1)..=*site).collect();
        let referrers = self.parts().iter().flat_map(|part| references(*part, &near));
        let calls = referrers.filter(|referrer| referrer.reference == Reference::Call);
        let mut called: Vec<u64> = calls.map(|call| call.target).collect();
        called.extend((self.code.named_starts)(&uncovered, LONGEST_ROUTINE));
        self.called.append(&mut called);
        self.called.sort_unstable();
        self.called.dedup();
    }

    /// The bytes from `svma` to the end of the code around it.
    pub(super) fn tail(&self, svma: u64) -> Option<&'a [u8]> {
        self.code.parts.iter().find_map(|part| part.tail(svma))
    }

    pub(super) fn parts(&self) -> &'a [CodeBytes<'a>] {
        self.code.parts
    }

    /// The start of the function that covers `svma`, where a table says it.
    pub(super) fn function_start(&self, svma: u64) -> Option<u64> {
        (self.code.function_start)(svma)
    }

    /// The starts of functions that have a symbol, at most so many bytes before `svma`.
    pub(super) fn named_starts(&self, svma: u64, within: u64) -> Vec<u64> {
        (self.code.named_starts)(&[svma], within)
    }

    /// The instruction at `svma`.
    pub(super) fn instruction(&self, svma: u64) -> Option<Instruction> {
        let tail = self.tail(svma)?;
        let longest = tail.len().min(15);
        let instruction = Decoder::with_ip(64, &tail[..longest], svma, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Where the routine around `site` may begin, nearest first: what is called directly or has a symbol, then what follows
    /// on a function that a table covers, then what is aligned like a function.
    pub(super) fn entries(&self, site: u64) -> Vec<u64> {
        if let Some(start) = self.function_start(site) {
            return vec![start];
        }
        let low = site.saturating_sub(LONGEST_ROUTINE);
        let called = self.called.iter().rev().copied().filter(|target| (low..=site).contains(target));
        let aligned = (0..LONGEST_ROUTINE / 16).filter_map(|back| (site & !15).checked_sub(16 * back));
        called.chain(self.behind_covered(site)).chain(aligned).collect()
    }

    /// Where the routine around `site` may begin, nearest first, as tables, calls or symbols say: none is a guess.
    pub(super) fn known_entries(&self, site: u64) -> impl Iterator<Item = u64> {
        let start = self.function_start(site);
        let low = site.saturating_sub(LONGEST_ROUTINE);
        let called = self.called.iter().rev().copied().filter(move |target| (low..=site).contains(target));
        start.into_iter().chain(called.filter(move |_| start.is_none()))
    }

    /// The first instruction before `site` that no table covers, but what comes before it: assemblers need not align.
    fn behind_covered(&self, site: u64) -> Option<u64> {
        let is_covered = |svma: u64| self.function_start(svma).is_some();
        let mut at = (site.saturating_sub(LONGEST_ROUTINE)..=site).rev().find(|at| is_covered(at.wrapping_sub(1)))?;
        let is_padding = |instruction: &Instruction| matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
        while let Some(padding) = self.instruction(at).filter(is_padding).filter(|padding| padding.next_ip() <= site) {
            at = padding.next_ip();
        }
        Some(at)
    }

    /// Runs from `entry` until the instruction at `site` is next; branches are tried both ways.
    ///
    /// You get the states there that differ in how much was pushed.
    pub(super) fn reach(&self, entry: u64, site: u64) -> Vec<Machine> {
        let mut reached: Vec<Machine> = Vec::new();
        let mut information = InstructionInfoFactory::new();
        let mut waiting = vec![(entry, Machine::new())];
        let mut visited = Vec::new();
        let mut forks = 0;
        while let Some((mut at, mut machine)) = waiting.pop() {
            while at != site && visited.len() < MOST_STEPS && !visited.contains(&(at, machine.get(RSP))) {
                visited.push((at, machine.get(RSP)));
                let Some(instruction) = self.instruction(at) else { break };
                match machine.step(&instruction, &mut information) {
                    Flow::Next | Flow::Call(_) => at = instruction.next_ip(),
                    Flow::Jump(target) => at = target,
                    Flow::Branch(target) => {
                        forks += 1;
                        if forks < MOST_FORKS {
                            waiting.push((target, machine.clone()));
                        }
                        at = instruction.next_ip();
                    }
                    Flow::Leave(_) | Flow::Stop => break,
                }
            }
            if at == site && reached.iter().all(|known| known.get(RSP) != machine.get(RSP)) {
                reached.push(machine);
            }
            if reached.len() == MOST_WAYS {
                break;
            }
        }
        reached
    }

    /// Runs straight on from `start`, along jumps, until the instruction at `site` is next.
    pub(super) fn reach_straight(&self, start: u64, site: u64) -> Option<Machine> {
        let mut information = InstructionInfoFactory::new();
        let mut machine = Machine::new();
        let mut at = start;
        for _ in 0..LONGEST_END {
            if at == site {
                return Some(machine);
            }
            let instruction = self.instruction(at)?;
            at = match machine.step(&instruction, &mut information) {
                Flow::Next => instruction.next_ip(),
                Flow::Jump(target) => target,
                _ => return None,
            };
        }
        None
    }

    /// Runs straight on from `at` until control leaves through a register or memory; branches are not taken.
    ///
    /// `None` where a call or anything else comes first within `limit` instructions.
    pub(super) fn leave(&self, machine: &mut Machine, at: u64, limit: usize) -> Option<Value> {
        match self.run_straight(machine, at, limit)?.0 {
            Flow::Leave(target) => Some(target),
            _ => None,
        }
    }

    /// The same, past calls: those return to the stack that they were made on.
    pub(super) fn leave_past_calls(&self, machine: &mut Machine, mut at: u64, limit: usize) -> Option<Value> {
        for _ in 0..limit {
            match self.run_straight(machine, at, limit)? {
                (Flow::Leave(target), _) => return Some(target),
                (Flow::Call(_), next) => at = next,
                _ => return None,
            }
        }
        None
    }

    /// Whether control goes elsewhere through a register or memory soon after `site`, to stay there or by a call.
    pub(super) fn leads_away(&self, site: u64) -> bool {
        let mut machine = Machine::new();
        let Some(next) = self.step(&mut machine, site) else { return false };
        let end = self.run_straight(&mut machine, next, LONGEST_END);
        match end {
            Some((Flow::Leave(_) | Flow::Call(None), _)) => true,
            Some((Flow::Call(Some(_)), next)) => self.leave_past_calls(&mut machine, next, LONGEST_END).is_some(),
            _ => false,
        }
    }

    /// Runs straight on from `at`, over branches and along jumps, to whatever else comes within `limit` instructions; you
    /// get that, and the address after it.
    fn run_straight(&self, machine: &mut Machine, mut at: u64, limit: usize) -> Option<(Flow, u64)> {
        let mut information = InstructionInfoFactory::new();
        for _ in 0..limit {
            let instruction = self.instruction(at)?;
            match machine.step(&instruction, &mut information) {
                Flow::Next | Flow::Branch(_) => at = instruction.next_ip(),
                Flow::Jump(target) => at = target,
                end => return Some((end, instruction.next_ip())),
            }
        }
        None
    }

    /// Carries out the single instruction at `at`; the address of the next one.
    pub(super) fn step(&self, machine: &mut Machine, at: u64) -> Option<u64> {
        let instruction = self.instruction(at)?;
        let flow = machine.step(&instruction, &mut InstructionInfoFactory::new());
        (flow == Flow::Next).then(|| instruction.next_ip())
    }
}

/// Whether a new stack pointer may belong to another stack: a register that was given, or a word loaded from
/// anywhere but the running stack.
pub(super) fn is_foreign(machine: &Machine, sp: Value) -> bool {
    let own = |base: Base| matches!(base, Base::Start(RSP | RBP) | Base::Zero | Base::Thread);
    match sp {
        Value::Known(Sum { base: Base::Loaded(index), .. }, _) => {
            machine.loads.get(usize::from(index)).is_some_and(|place| !matches!(place.base, Base::Start(RSP | RBP)))
        }
        Value::Known(Sum { base, .. }, _) => !own(base),
        Value::Unknown => false,
    }
}
