//! What can be said of one function: a bound, the path to it, and what is not known on the way.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use super::costs::Costs;
use super::graph::{Edge, FunctionId, Gap, GapKind, Graph};

/// What one function needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The function that was asked for.
    pub function: FunctionId,
    /// Bytes below its CFA: its return address, its frame, and those of all that it calls on the deepest known path.
    pub bytes: u64,
    /// Whether it can never need more: nothing is unknown, and nothing calls itself.
    pub is_bound: bool,
    /// The deepest known path, the function itself first.
    pub path: Vec<Step>,
    /// What is not known, nearest first; of very many only the first.
    pub unknown: Vec<Unknown>,
    /// How many of them there are.
    pub unknown_total: usize,
    /// The circles of calls that can be come to, nearest first; of very many only the first.
    pub circles: Vec<Circle>,
    /// How many sets of functions that call each other can be come to.
    pub circles_total: usize,
}

/// A frame of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Whose frame it is.
    pub function: FunctionId,
    /// What it takes while it calls the next; of the last, all that it uses. 0 for one that a tail call has replaced.
    pub bytes: u64,
    /// The call of the next, as far behind the function's first byte; `None` for the last.
    pub at: Option<i32>,
}

/// Something that is not known, and whose code has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown {
    /// The function.
    pub function: FunctionId,
    /// What and where.
    pub gap: Gap,
}

/// Functions of which each calls the next, and the last the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Circle {
    /// In the order of the calls.
    pub functions: Vec<FunctionId>,
    /// What one turn takes, in bytes.
    pub turn: u64,
}

/// So many unknowns, and so many circles, are told of one function.
const MOST_TOLD: usize = 100;

/// Longer paths than this are not told whole.
const LONGEST_PATH: usize = 10_000;

/// Answers for one function.
pub fn answer(graph: &Graph, costs: &Costs, function: FunctionId) -> Answer {
    let (bytes, is_bound) = costs.need(function);
    let mut answer = Answer {
        function,
        bytes,
        is_bound,
        path: path(graph, costs, function),
        unknown: Vec::new(),
        unknown_total: 0,
        circles: Vec::new(),
        circles_total: 0,
    };
    if !is_bound {
        add_reasons(graph, costs, &mut answer);
    }
    answer
}

fn path(graph: &Graph, costs: &Costs, function: FunctionId) -> Vec<Step> {
    let mut path = Vec::new();
    let mut current = function;
    while path.len() < LONGEST_PATH {
        match costs.next(graph, current) {
            None => {
                path.push(Step { function: current, bytes: graph.function(current).reach, at: None });
                break;
            }
            Some((from, edge)) => {
                if from != current {
                    path.push(Step { function: current, bytes: 0, at: None });
                }
                path.push(Step { function: from, bytes: u64::from(edge.depth), at: Some(edge.at) });
                current = edge.to;
            }
        }
    }
    path
}

/// Looks at all that can be come to, nearest first.
fn add_reasons(graph: &Graph, costs: &Costs, answer: &mut Answer) {
    let mut seen = HashSet::from([answer.function]);
    let mut components = HashSet::new();
    let mut waiting = VecDeque::from([answer.function]);
    while let Some(function) = waiting.pop_front() {
        // Below what has a bound nothing is unknown.
        if costs.need(function).1 {
            continue;
        }
        let gaps = graph.gaps(function);
        answer.unknown_total += gaps.len();
        let left = MOST_TOLD - answer.unknown.len();
        answer.unknown.extend(gaps.iter().take(left).map(|gap| Unknown { function, gap: *gap }));
        if costs.is_recursive(function) && components.insert(costs.cost(function).component) {
            answer.circles_total += 1;
            if answer.circles.len() < MOST_TOLD {
                answer.circles.extend(circle(graph, costs, function));
            }
        }
        waiting.extend(costs.calls(graph, function).map(|edge| edge.to).filter(|to| seen.insert(*to)));
    }
}

/// The shortest circle of calls from `function` back to itself.
fn circle(graph: &Graph, costs: &Costs, function: FunctionId) -> Option<Circle> {
    let component = costs.cost(function).component;
    let mut came_from: HashMap<FunctionId, (FunctionId, &Edge)> = HashMap::new();
    let mut waiting = VecDeque::from([function]);
    while let Some(caller) = waiting.pop_front() {
        for edge in costs.calls(graph, caller).filter(|edge| costs.cost(edge.to).component == component) {
            if edge.to == function {
                let (mut functions, mut turn) = (vec![caller], u64::from(edge.depth));
                while let Some((before, edge)) = functions.last().and_then(|last| came_from.get(last)) {
                    turn += u64::from(edge.depth);
                    functions.push(*before);
                }
                functions.reverse();
                return Some(Circle { functions, turn });
            }
            if let Entry::Vacant(unseen) = came_from.entry(edge.to) {
                unseen.insert((caller, edge));
                waiting.push_back(edge.to);
            }
        }
    }
    None
}

impl Graph {
    /// What `unknown` is, in words.
    pub fn what(&self, gap: Gap) -> String {
        match gap.kind {
            GapKind::IndirectCall => "an indirect call".to_owned(),
            GapKind::IndirectJump => "an indirect jump".to_owned(),
            GapKind::Import(name) => format!("a call of {}, whose file is not at hand", self.name(name)),
            GapKind::Room => "room by a number that is not known (alloca, arrays of variable length)".to_owned(),
            GapKind::NoCode => "code that can't be read".to_owned(),
            GapKind::Unread => "all calls: the instructions of this CPU are not read".to_owned(),
        }
    }
}
