//! The truth that the coroutine fixtures write about themselves, and how what is shown differs from it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Deserializer};

/// What a fixture wrote about itself.
#[derive(Deserialize)]
pub(crate) struct Truth {
    /// By name, the addresses of each function that may stand in a chain.
    functions: HashMap<String, (Address, Address)>,
    /// Sorted by the low ends of their stacks.
    #[serde(default)]
    coroutines: Vec<Coroutine>,
    /// Those whose stacks grew by segments.
    #[serde(default)]
    pub(crate) threads: Vec<Grown>,
}

/// A thread whose frames lie on several segments.
#[derive(Deserialize)]
pub(crate) struct Grown {
    /// A range of each segment that its frames are in, or up to, innermost first; without the thread's own stack.
    pub(crate) segments: Vec<(Address, Address)>,
    pub(crate) chain: Vec<String>,
}

#[derive(Deserialize)]
struct Coroutine {
    low: Address,
    high: Address,
    state: String,
    chain: Vec<String>,
    /// Whether it is further memory that a coroutine's functions run on.
    #[serde(default)]
    is_segment: bool,
    /// The low end of the stack that waits for it, where it runs.
    resumed_by: Option<Address>,
}

/// A number that is written `"0x..."`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(u64);

impl Address {
    pub(crate) fn at(address: u64) -> Address {
        Address(address)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Address, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("0x").unwrap_or_else(|| panic!("{text} is no address"));
        Ok(Address(u64::from_str_radix(digits, 16).unwrap()))
    }
}

impl Truth {
    pub(crate) fn read(path: &Path) -> Truth {
        let mut truth: Truth = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        truth.coroutines.sort_by_key(|coroutine| coroutine.low);
        truth
    }

    /// The name of the function that a return address leads into.
    pub(crate) fn name(&self, pc: Address) -> Option<&str> {
        let found = self.functions.iter().find(|(_, (low, high))| *low < pc && pc <= *high);
        found.map(|(name, _)| name.as_str())
    }

    /// The place of the coroutine whose stack holds `sp`.
    fn at(&self, sp: Address) -> Option<usize> {
        let place = self.coroutines.partition_point(|coroutine| coroutine.low <= sp).checked_sub(1)?;
        (sp <= self.coroutines[place].high).then_some(place)
    }
}

/// What is compared of `dump --json`.
#[derive(Deserialize)]
pub(crate) struct Dump {
    pub(crate) stacks: Vec<Stack>,
}

impl Dump {
    /// Drops the stacks that are none of the truth's and of which it is not said that they are certain; how many.
    pub(crate) fn drop_unsure(&mut self, truth: &Truth) -> usize {
        let before = self.stacks.len();
        let is_known = |stack: &Stack| stack.kind == "thread" || stack.sp.is_some_and(|sp| truth.at(sp).is_some());
        self.stacks.retain(|stack| is_known(stack) || stack.confidence == "certain");
        before - self.stacks.len()
    }
}

#[derive(Deserialize)]
pub(crate) struct Stack {
    pub(crate) kind: String,
    state: String,
    low: Option<Address>,
    high: Option<Address>,
    bounds_from: String,
    sp: Option<Address>,
    frames: Vec<Frame>,
    resumed_by: Option<ResumedBy>,
    pub(crate) confidence: String,
}

#[derive(Deserialize)]
struct ResumedBy {
    stack: usize,
}

#[derive(Deserialize)]
struct Frame {
    pc: Address,
    inlined: bool,
}

/// The functions in the frames of a stack of which the truth knows, innermost first.
fn chain<'t>(truth: &'t Truth, stack: &Stack) -> Vec<&'t str> {
    let mut pcs: Vec<Address> = stack.frames.iter().filter(|frame| !frame.inlined).map(|frame| frame.pc).collect();
    // A thread may stand at the first instruction of a function; all else are return addresses.
    if let (Some(pc), "running") = (pcs.first_mut(), stack.state.as_str()) {
        pc.0 += 1;
    }
    pcs.into_iter().filter_map(|pc| truth.name(pc)).collect()
}

/// What is wrong, and how often.
type Wrong = BTreeMap<String, usize>;

fn note(wrong: &mut Wrong, what: String) {
    *wrong.entry(what).or_default() += 1;
}

/// What is shown of each coroutine, in their order. Notes what is shown of none, and of one more than once.
fn by_coroutine<'d>(truth: &Truth, dump: &'d Dump, wrong: &mut Wrong) -> Vec<Vec<&'d Stack>> {
    let mut shown = vec![Vec::new(); truth.coroutines.len()];
    for stack in dump.stacks.iter().filter(|stack| stack.kind != "thread") {
        match stack.sp.and_then(|sp| truth.at(sp)) {
            Some(place) => shown[place].push(stack),
            None => note(wrong, "invented".to_owned()),
        }
    }
    let twice = shown.iter().filter(|stacks| stacks.len() > 1);
    twice.for_each(|_| note(wrong, "shown twice".to_owned()));
    shown
}

/// The chains that the coroutines of the fixture `migrants` can have while they are suspended: the deep one, with which each
/// begins, and that at which it settles. Both depend on its number, by which the kinds of functions take turns.
pub(crate) fn possible_chains() -> Vec<Vec<&'static str>> {
    const DEEPEST: usize = 9;
    let kinds = |number: usize, depth: usize| {
        (1..=depth).map(move |left| ["plain", "buffer", "block"][(number + left) % 3]).collect::<Vec<_>>()
    };
    let chain =
        |number: usize, depth: usize, outer: &[&'static str]| [&["rest"], &kinds(number, depth)[..], outer].concat();
    let settled = (0..DEEPEST).map(|number| chain(number, number, &["body"]));
    settled.chain((0..3).map(|number| chain(number, DEEPEST, &["first", "body"]))).collect()
}

/// What is wrong with a look at a program whose coroutines have one of `possible` chains each, nobody knows which, and
/// run on at any moment: a stack that is none, or shown twice, or a chain that no coroutine can have.
pub(crate) fn impossible(truth: &Truth, dump: &Dump, possible: &[Vec<&str>]) -> Wrong {
    let mut wrong = Wrong::new();
    for stack in by_coroutine(truth, dump, &mut wrong).into_iter().flatten() {
        let chain = chain(truth, stack);
        let is_possible = match stack.state.as_str() {
            // Anywhere between two switches.
            "running" => chain.is_empty() || possible.iter().any(|whole| whole.ends_with(&chain)),
            "suspended" => possible.contains(&chain),
            state => state == "new" || state == "finished",
        };
        if !is_possible && stack.confidence != "guess" {
            note(&mut wrong, format!("{} in {}", stack.state, chain.join(" ")));
        }
    }
    wrong
}

/// How the truth and what was shown differ, by what is wrong: empty where nothing is.
pub(crate) fn differences(truth: &Truth, dump: &Dump) -> Wrong {
    let mut wrong = Wrong::new();
    for (coroutine, stacks) in truth.coroutines.iter().zip(by_coroutine(truth, dump, &mut wrong)) {
        // What has ended may have left nothing behind.
        if stacks.is_empty() && coroutine.state != "finished" {
            note(&mut wrong, format!("missed {}", coroutine.state));
        }
        for stack in stacks {
            compare(truth, dump, coroutine, stack, &mut wrong);
        }
    }
    wrong
}

/// Notes how `stack` differs from `coroutine`, of which it is said to be.
fn compare(truth: &Truth, dump: &Dump, coroutine: &Coroutine, stack: &Stack, wrong: &mut Wrong) {
    // A fixture that goes on switching is running one of them.
    let switches = coroutine.state == "suspended" && stack.state == "running";
    if stack.state != coroutine.state && !switches {
        note(wrong, format!("{} shown as {}", coroutine.state, stack.state));
    }
    if (stack.kind == "segment") != coroutine.is_segment {
        note(wrong, format!("{} shown as a {}", coroutine.state, stack.kind));
    }
    if !["new", "finished"].contains(&stack.state.as_str()) && !switches && chain(truth, stack) != coroutine.chain {
        note(wrong, format!("wrong chain, {}", stack.state));
    }
    let resumer = stack.resumed_by.as_ref().and_then(|resumer| truth.at(dump.stacks[resumer.stack].sp?));
    if resumer.map(|place| truth.coroutines[place].low) != coroutine.resumed_by {
        note(wrong, format!("wrong resumer, {}", stack.state));
    }
    if stack.state == "running" && stack.low.is_none() {
        return;
    }
    // A block of the heap is up to a header longer than was asked for.
    let is_high = |high: Address| (coroutine.high.0..coroutine.high.0 + 32).contains(&high.0);
    if stack.low != Some(coroutine.low) || !stack.high.is_some_and(is_high) {
        note(wrong, format!("wrong bounds from {}", stack.bounds_from));
    }
}
