//! What was asked of a program, and the answers: functions by their names, or the largest frames there are.

use std::collections::BTreeSet;

use super::answer::{Answer, answer};
use super::costs::{Costs, Ways};
use super::graph::{FunctionId, Graph};
use crate::addr::{Addr, Pc};
use crate::image::Modules;

/// The answers.
#[derive(Debug)]
pub struct Asked {
    /// Those for functions that were asked for, the greatest need first; at most 1,000.
    pub answers: Vec<Answered>,
    /// How many functions were asked for.
    pub answers_total: usize,
    /// Where no function was asked for, those of the program's own files that have the largest frames.
    pub largest: Vec<FunctionId>,
    /// How many functions the program's own files have.
    pub own_total: usize,
    /// How many of those have a bound.
    pub own_bounded: usize,
}

/// The answer for one function.
#[derive(Debug)]
pub struct Answered {
    /// Without what functions need that end the program or begin an unwinding.
    pub answer: Answer,
    /// The bytes that it needs with them, as far as they are known.
    pub with_endings: u64,
}

/// So many answers are kept.
const MOST_ANSWERS: usize = 1000;

/// So many of the largest frames are told.
const MOST_LARGEST: usize = 20;

impl Asked {
    /// Asks for the functions that fit one of `wanted`; see [`search`].
    pub fn of(graph: &Graph, modules: &Modules, wanted: &[String], costs: &Costs) -> Asked {
        let is_own: Vec<bool> = own_modules(modules);
        let own = || graph.functions().filter(|(_, function)| is_own.get(function.module) == Some(&true));
        let mut ids: Vec<FunctionId> = wanted
            .iter()
            .flat_map(|wanted| search(graph, modules, &is_own, wanted))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        ids.sort_by_key(|id| std::cmp::Reverse(costs.need(*id).0));
        let answers_total = ids.len();
        ids.truncate(MOST_ANSWERS);
        let all = (!ids.is_empty()).then(|| Costs::of(graph, Ways::All));
        let answered = |id: &FunctionId| Answered {
            answer: answer(graph, costs, *id),
            with_endings: all.as_ref().map_or(0, |all| all.need(*id).0),
        };
        let mut largest: Vec<FunctionId> = Vec::new();
        if wanted.is_empty() {
            let mut frames: Vec<(u64, FunctionId)> = own().map(|(id, function)| (function.frame, id)).collect();
            frames.sort_by_key(|(frame, id)| (std::cmp::Reverse(*frame), *id));
            largest.extend(frames.iter().take(MOST_LARGEST).map(|(_, id)| *id));
        }
        Asked {
            answers: ids.iter().map(answered).collect(),
            answers_total,
            largest,
            own_total: own().count(),
            own_bounded: own().filter(|(id, _)| costs.need(*id).1).count(),
        }
    }

    /// The places of all functions that the answers mention, to be named.
    pub fn places(&self, graph: &Graph, modules: &Modules) -> Vec<Pc> {
        let in_answers = self.answers.iter().flat_map(|answered| {
            let Answer { function, path, unknown, circles, .. } = &answered.answer;
            let on_path = path.iter().map(|step| step.function);
            let circles = circles.iter().flat_map(|circle| circle.functions.iter().copied());
            [*function].into_iter().chain(on_path).chain(unknown.iter().map(|unknown| unknown.function)).chain(circles)
        });
        let ids: BTreeSet<FunctionId> = in_answers.chain(self.largest.iter().copied()).collect();
        ids.into_iter().filter_map(|id| place(graph, modules, id)).collect()
    }
}

/// Where a function lies in the target.
pub fn place(graph: &Graph, modules: &Modules, id: FunctionId) -> Option<Pc> {
    let function = graph.function(id);
    let module = modules.iter().nth(function.module)?;
    Some(Pc::At(Addr(function.svma.wrapping_add(module.bias))))
}

/// Whether each module is the program's own, not one that came with the system; all are where none is.
fn own_modules(modules: &Modules) -> Vec<bool> {
    let is_own: Vec<bool> = modules.iter().map(|module| !module.is_system()).collect();
    if is_own.contains(&true) {
        return is_own;
    }
    (0..is_own.len()).map(|number| number == 0).collect()
}

/// The functions whose name holds `wanted`, or is what follows an `=`, or that are at the address after `0x`: of the
/// program's own files, or else of all.
fn search(graph: &Graph, modules: &Modules, is_own: &[bool], wanted: &str) -> Vec<FunctionId> {
    if let Some(svma) = wanted.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
        let first = is_own.iter().position(|own| *own).unwrap_or(0);
        return graph.find(first, svma).into_iter().collect();
    }
    let (whole, wanted) = match wanted.strip_prefix('=') {
        Some(whole) => (true, whole),
        None => (false, wanted),
    };
    let fits = |name: &str| if whole { name == wanted } else { name.contains(wanted) };
    let mut found = (Vec::new(), Vec::new());
    for (number, module) in modules.iter().enumerate() {
        let symbols = module.image.iter().flat_map(|image| image.function_symbols());
        let fitting = symbols.filter(|symbol| fits(&symbol.demangled()));
        // A part that lies apart goes by a name of its own, and belongs to another.
        let ids = fitting
            .filter_map(|symbol| graph.find(number, symbol.svma).filter(|id| graph.function(*id).svma == symbol.svma));
        if is_own.get(number) == Some(&true) { found.0.extend(ids) } else { found.1.extend(ids) }
    }
    if found.0.is_empty() { found.1 } else { found.0 }
}
