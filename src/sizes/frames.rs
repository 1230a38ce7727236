//! The frame of one function: how deep its stack pointer goes, and how deep it is at each call.
//!
//! The code is passed over from front to back, with what is known at each instruction; where jumps meet, what they
//! agree on is kept, and passes are made until nothing changes. Call frame information, where there is any, is laid
//! beside it: it says where code begins that no jump leads to (landing pads), and where the two differ the deeper counts.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::machine::{Flow, Sp, State, To};
use super::rules::{Cfa, Row};
use super::words::Words;

/// A function, or a part of one that lies apart.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) range: Range<u64>,
    /// From the start on, at least as long as the range.
    pub(super) code: &'a [u8],
    /// Where the stack pointer is when the part is entered, if that is known; a function's is 8 bytes below the CFA.
    pub(super) entered: Option<i64>,
    /// Whether call frame information says where it begins and ends.
    pub(super) is_described: bool,
}

/// What was found out about a part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Measured {
    /// The deepest that the stack pointer is, in bytes below the CFA.
    pub(super) frame: i64,
    /// The deepest place that is written to or read: as deep, or up to 128 bytes deeper.
    pub(super) reach: i64,
    /// The first instruction that takes room by a number that is not known.
    pub(super) takes_unknown: Option<u64>,
    /// The first byte that is no instruction, or from where on there was too much to be read.
    pub(super) undecodable: Option<u64>,
    /// Whether the rules say something else than the instructions.
    pub(super) disputed: bool,
    /// One byte past the last instruction that was reached.
    pub(super) end: u64,
    pub(super) calls: Vec<Call>,
}

/// A way out of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    /// The instruction.
    pub(super) at: u64,
    pub(super) to: To,
    /// How deep the stack pointer is before it.
    pub(super) depth: i64,
    /// Whether it is a jump, which leaves no return address.
    pub(super) is_jump: bool,
}

/// So often a part is passed over until what differs is taken for unknown. Compilers' code needs two or three.
const PATIENT: usize = 6;

/// So often it is passed over at all.
const MOST_PASSES: usize = 12;

/// More places than this are not remembered of one part.
const MOST_PLACES: usize = 1 << 16;

/// Measures parts, one after the other, with memory that is used again.
pub(super) struct Measuring<'w, 'a> {
    words: &'w Words<'a>,
    arrivals: HashMap<u64, State, FixedState>,
    changed: bool,
    /// Whether code is passed over to which nothing seems to lead.
    seeding: bool,
    pass: usize,
    /// How many entries of tables may still be read for this part.
    entries_left: usize,
    found: Measured,
}

/// So many entries of tables are read for one part, in all passes.
const MOST_ENTRIES: usize = 1 << 18;

impl<'w, 'a> Measuring<'w, 'a> {
    pub(super) fn new(words: &'w Words<'a>) -> Measuring<'w, 'a> {
        Measuring {
            words,
            arrivals: HashMap::default(),
            changed: false,
            seeding: false,
            pass: 0,
            entries_left: 0,
            found: Measured::default(),
        }
    }

    /// Measures a part, whose rules are `rows`.
    pub(super) fn measure(&mut self, part: &Part<'_>, rows: &[Row]) -> Measured {
        self.arrivals.clear();
        self.seeding = false;
        self.entries_left = MOST_ENTRIES;
        for pass in 0..MOST_PASSES {
            self.pass = pass;
            self.changed = false;
            let deepest = self.found_depth(pass);
            let skipped = self.pass_over(part, rows, deepest);
            if !self.changed {
                if !skipped || self.seeding {
                    break;
                }
                self.seeding = true;
            }
        }
        if self.changed {
            self.found.takes_unknown.get_or_insert(part.range.start);
        }
        std::mem::take(&mut self.found)
    }

    /// The deepest that calls were made, or the frame where there were none, in the pass before.
    fn found_depth(&self, pass: usize) -> i64 {
        let calls = self.found.calls.iter().filter(|call| !call.is_jump).map(|call| call.depth);
        if pass == 0 { 0 } else { calls.max().unwrap_or(self.found.frame) }
    }

    /// One pass; whether code was left out that nothing leads to.
    fn pass_over(&mut self, part: &Part<'_>, rows: &[Row], deepest: i64) -> bool {
        self.found = Measured { end: part.range.start, ..Measured::default() };
        let mut state = part.entered.map(|depth| State::new(Sp::At(depth)));
        let mut rows = Along { rows, next: 0, current: None };
        let mut skipped = false;
        let mut compare = Instruction::default();
        let mut instruction = Instruction::default();
        let mut decoder = Decoder::with_ip(64, part.code, part.range.start, DecoderOptions::NONE);
        while decoder.ip() < part.range.end && decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let at = instruction.ip();
            rows.go_to(at);
            if !self.arrivals.is_empty()
                && let Some(arrived) = self.arrivals.get_mut(&at)
            {
                match &mut state {
                    Some(state) => {
                        if arrived.join(state) {
                            self.changed = true;
                        }
                        state.clone_from(arrived);
                    }
                    None => state = Some(arrived.clone()),
                }
            }
            // What pads code is never run, and has the rules of what stands before it.
            let is_code = state.is_some() || !is_padding(&instruction);
            if state.is_none() && is_code && (self.seeding || rows.by_sp().is_some()) && part.is_described {
                state = Some(State::new(Sp::Guess(deepest)));
            }
            let Some(known) = &mut state else {
                skipped |= is_code;
                continue;
            };
            if instruction.is_invalid() {
                self.found.undecodable.get_or_insert(at);
                state = None;
                continue;
            }
            self.apply(&rows, known);
            self.found.reach = self.found.reach.max(known.touched(&instruction).unwrap_or(0));
            let before = known.sp;
            let flow = known.step(&instruction);
            if matches!(known.sp, Sp::AtLeast(_)) {
                self.found.takes_unknown.get_or_insert(at);
            }
            self.found.frame = self.found.frame.max(known.sp.depth().unwrap_or(0));
            self.found.end = instruction.next_ip();
            match flow {
                Flow::Next | Flow::ProbedUp => {}
                Flow::Call(to) => self.leave(Call { at, to, depth: before.depth().unwrap_or(-1), is_jump: false }),
                Flow::Branch(target) => self.jump(part, at, target, known),
                Flow::ProbedOut(target) if is_probe_loop(part, instruction.next_ip()..target) => {
                    let after = known.after_probes(&compare);
                    self.jump(part, at, target, &after);
                    // The loop is not run: how deep it ends is known, or can't be.
                    let place = (target - part.range.start) as usize;
                    if decoder.set_position(place).is_ok() {
                        decoder.set_ip(target);
                        state = None;
                    }
                }
                Flow::ProbedOut(target) => self.jump(part, at, target, known),
                Flow::Jump(to) => {
                    self.jump_to(part, rows.rows, at, to, known);
                    state = None;
                }
                Flow::End => state = None,
            }
            compare = instruction;
        }
        self.found.reach = self.found.reach.max(self.found.frame);
        skipped
    }

    /// Lays the rules that hold at an instruction beside what is known.
    fn apply(&mut self, rows: &Along<'_>, known: &mut State) {
        match rows.current {
            Some(Cfa::Register(DWARF_RSP, depth)) => {
                known.sp = match known.sp {
                    Sp::At(by_code) => {
                        self.found.disputed |= by_code != depth;
                        Sp::At(by_code.max(depth))
                    }
                    _ => Sp::At(depth),
                };
            }
            Some(Cfa::Register(register, depth)) => known.learn(register, depth),
            _ => {}
        }
        self.found.frame = self.found.frame.max(known.sp.depth().unwrap_or(0));
    }

    /// Notes a way out, unless it is taken on another stack.
    fn leave(&mut self, call: Call) {
        if call.depth < 0 {
            return;
        }
        match self.found.calls.len() < MOST_PLACES {
            true => self.found.calls.push(call),
            false => self.found.undecodable = Some(call.at),
        }
    }

    fn jump(&mut self, part: &Part<'_>, at: u64, target: u64, state: &State) {
        if !part.range.contains(&target) {
            let depth = state.sp.depth().unwrap_or(-1);
            return self.leave(Call { at, to: To::At(target), depth, is_jump: true });
        }
        let has_room = self.arrivals.len() < MOST_PLACES;
        match self.arrivals.get_mut(&target) {
            Some(arrived) => {
                let before = arrived.sp;
                if !arrived.join(state) {
                    return;
                }
                if self.pass >= PATIENT && arrived.sp != before {
                    arrived.sp = Sp::AtLeast(before.depth().unwrap_or(0));
                }
                // Where the way goes on, it will be seen in this pass.
                self.changed |= target <= at;
            }
            None if has_room => {
                self.arrivals.insert(target, state.clone());
                self.changed |= target <= at;
            }
            None => self.found.undecodable = Some(at),
        }
    }

    fn jump_to(&mut self, part: &Part<'_>, rows: &[Row], at: u64, to: To, state: &State) {
        match to {
            To::At(target) => self.jump(part, at, target, state),
            To::Told(table) => {
                let targets = self.words.told(table, state.checked(), &part.range, &mut self.entries_left);
                self.jump_among(part, rows, (at, To::Unknown), &targets, state);
            }
            To::Table(table) => {
                let targets = self.words.places(table, state.checked(), &part.range, &mut self.entries_left);
                self.jump_among(part, rows, (at, to), &targets, state);
            }
            To::Slot(_) | To::Unknown => self.leave_by_jump(part, at, to, state),
        }
    }

    /// A jump to one of `targets`, or to somewhere else where there are none. What follows a table may look as if it
    /// belonged to it; the rules tell places apart that the stack pointer can't be at.
    fn jump_among(&mut self, part: &Part<'_>, rows: &[Row], (at, to): (u64, To), targets: &[u64], state: &State) {
        if targets.is_empty() {
            return self.leave_by_jump(part, at, to, state);
        }
        for target in targets {
            let next = rows.partition_point(|row| row.start <= *target);
            let row = next.checked_sub(1).and_then(|row| rows.get(row)).map(|row| row.cfa);
            match (row, state.sp) {
                (Some(Cfa::Register(DWARF_RSP, depth)), Sp::At(known)) if depth != known => {}
                _ => self.jump(part, at, *target, state),
            }
        }
    }

    /// A jump that is not known to stay in the function. One while the function's own frame is there does: who calls
    /// another function by a jump has taken it down.
    fn leave_by_jump(&mut self, part: &Part<'_>, at: u64, to: To, state: &State) {
        let depth = state.sp.depth().unwrap_or(-1);
        if to == To::Unknown && part.entered.is_some_and(|entered| depth > entered) {
            return;
        }
        self.leave(Call { at, to, depth, is_jump: true });
    }
}

/// Whether what lies in `range` does nothing but move the stack pointer down page by page and touch each page.
fn is_probe_loop(part: &Part<'_>, range: Range<u64>) -> bool {
    const LONGEST: u64 = 64;
    if range.start >= range.end || range.end - range.start > LONGEST || !part.range.contains(&range.end) {
        return false;
    }
    let [low, high] = [range.start, range.end].map(|end| (end - part.range.start) as usize);
    let Some(code) = part.code.get(low..high) else { return false };
    let allowed = |instruction: Instruction| match instruction.mnemonic() {
        Mnemonic::Sub => instruction.op0_register() == Register::RSP,
        Mnemonic::Or | Mnemonic::Xor | Mnemonic::Mov => instruction.op0_kind() == OpKind::Memory,
        Mnemonic::Test | Mnemonic::Cmp | Mnemonic::Jne | Mnemonic::Jmp => true,
        _ => false,
    };
    let mut code = Decoder::with_ip(64, code, range.start, DecoderOptions::NONE).into_iter();
    code.all(allowed)
}

/// The DWARF number of the stack pointer (System V ABI, AMD64 supplement, figure 3.36).
const DWARF_RSP: u16 = 7;

/// The rules as a pass goes along them.
struct Along<'r> {
    rows: &'r [Row],
    next: usize,
    current: Option<Cfa>,
}

impl Along<'_> {
    fn go_to(&mut self, at: u64) {
        while let Some(row) = self.rows.get(self.next).filter(|row| row.start <= at) {
            self.current = Some(row.cfa);
            self.next += 1;
        }
    }

    /// The depth of the stack pointer, where the rules count from it.
    fn by_sp(&self) -> Option<i64> {
        match self.current {
            Some(Cfa::Register(DWARF_RSP, depth)) => Some(depth),
            _ => None,
        }
    }
}

fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}
