//! How much stack each function needs together with all that it calls, as far as that is known.
//!
//! One pass over the graph, depth first, without recursion of our own. Functions that call each other in a circle are
//! found on the way (Tarjan's strongly connected components); what such a circle needs has no bound, and what is told
//! of it is one turn.

use super::graph::{Edge, FunctionId, Graph};

/// Which calls count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ways {
    /// All but those of functions that end the program or begin an unwinding.
    Ordinary,
    /// All.
    All,
}

/// What each function of a graph needs.
#[derive(Debug)]
pub struct Costs {
    ways: Ways,
    /// By function.
    costs: Vec<Cost>,
}

/// What one function needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Bytes below its CFA, as far as they are known.
    pub(super) bytes: u64,
    /// Whether that is all that it can ever need.
    pub(super) is_whole: bool,
    /// Whether it can be called again, deeper, before it returns.
    pub(super) is_recursive: bool,
    /// The number of its component.
    pub(super) component: u32,
    /// The call on the way to the deepest place, by its place in the function's calls; `u32::MAX` where that is its own.
    next: u32,
    /// The function that it shares its need with, as each ends in a jump to the other.
    shared: u32,
}

const NONE: u32 = u32::MAX;

impl Costs {
    /// Works out what all functions need.
    pub fn of(graph: &Graph, ways: Ways) -> Costs {
        let mut search = Search::new(graph, ways);
        (0..graph.len()).for_each(|root| search.visit(root as u32));
        Costs { ways, costs: search.costs }
    }

    /// The bytes that `function` and all that it calls need, as far as they are known, and whether that is all.
    pub fn need(&self, function: FunctionId) -> (u64, bool) {
        let cost = self.cost(function);
        (cost.bytes, cost.is_whole)
    }

    /// Whether `function` can be called again, deeper, before it returns.
    pub fn is_recursive(&self, function: FunctionId) -> bool {
        self.cost(function).is_recursive
    }

    /// The calls of `function` that count.
    pub fn calls<'g>(&self, graph: &'g Graph, function: FunctionId) -> impl Iterator<Item = &'g Edge> {
        let ways = self.ways;
        graph.calls(function).iter().filter(move |edge| counts(graph, ways, edge))
    }

    pub(super) fn cost(&self, function: FunctionId) -> Cost {
        self.costs.get(function.index()).copied().unwrap_or_default()
    }

    /// The call that leads on to the deepest place below `function`; `None` where that lies in its own frame.
    pub(super) fn next<'g>(&self, graph: &'g Graph, function: FunctionId) -> Option<(FunctionId, &'g Edge)> {
        let cost = self.cost(function);
        let from = if cost.shared == NONE { function } else { FunctionId(cost.shared) };
        let place = self.cost(from).next;
        Some((from, graph.calls(from).get(place as usize).filter(|_| place != NONE)?))
    }
}

fn counts(graph: &Graph, ways: Ways, edge: &Edge) -> bool {
    ways == Ways::All || !graph.function(edge.to).ends
}

/// Tarjan's search.
struct Search<'g> {
    graph: &'g Graph,
    ways: Ways,
    costs: Vec<Cost>,
    /// When each function was met, from 1 on; 0 for one that was not.
    met: Vec<u32>,
    /// The earliest that each function leads back to.
    low: Vec<u32>,
    is_open: Vec<bool>,
    open: Vec<u32>,
    path: Vec<(u32, usize)>,
    time: u32,
    components: u32,
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph, ways: Ways) -> Search<'g> {
        let count = graph.len();
        let none = Cost { component: NONE, next: NONE, shared: NONE, ..Cost::default() };
        Search {
            graph,
            ways,
            costs: vec![none; count],
            met: vec![0; count],
            low: vec![0; count],
            is_open: vec![false; count],
            open: Vec::new(),
            path: Vec::new(),
            time: 0,
            components: 0,
        }
    }

    fn visit(&mut self, root: u32) {
        if self.met[root as usize] != 0 {
            return;
        }
        self.enter(root);
        while let Some((function, next)) = self.path.last_mut() {
            let (function, place) = (*function, *next);
            *next += 1;
            match self.graph.calls(FunctionId(function)).get(place) {
                Some(edge) if !counts(self.graph, self.ways, edge) => {}
                Some(edge) if self.met[edge.to.index()] == 0 => self.enter(edge.to.0),
                Some(edge) => self.seen(function, place, edge),
                None => self.finish(function),
            }
        }
    }

    fn enter(&mut self, function: u32) {
        self.time += 1;
        let index = function as usize;
        (self.met[index], self.low[index], self.is_open[index]) = (self.time, self.time, true);
        self.costs[index].bytes = self.graph.function(FunctionId(function)).reach;
        self.open.push(function);
        self.path.push((function, 0));
    }

    /// A call of a function that was met before.
    fn seen(&mut self, function: u32, place: usize, edge: &Edge) {
        let (from, to) = (function as usize, edge.to.index());
        if self.is_open[to] {
            self.low[from] = self.low[from].min(self.met[to]);
        }
        // One that is on the way here is not counted again.
        if !self.is_open[to] || self.is_finished(to) {
            self.deepen(function, place, edge);
        }
    }

    /// A finished function keeps its number in `component` only once all of its component is; till then its place on
    /// the path is over all the same.
    fn is_finished(&self, function: usize) -> bool {
        self.costs[function].is_whole
    }

    fn deepen(&mut self, function: u32, place: usize, edge: &Edge) {
        let bytes = u64::from(edge.depth).saturating_add(self.costs[edge.to.index()].bytes);
        let cost = &mut self.costs[function as usize];
        if bytes > cost.bytes {
            (cost.bytes, cost.next) = (bytes, place as u32);
        }
    }

    /// All calls of a function have been followed.
    fn finish(&mut self, function: u32) {
        self.path.pop();
        let index = function as usize;
        // Until its component is complete, this marks it as left.
        self.costs[index].is_whole = true;
        if self.low[index] == self.met[index] {
            self.close(function);
        }
        if let Some((caller, next)) = self.path.last() {
            let (caller, place) = (*caller, next - 1);
            self.low[caller as usize] = self.low[caller as usize].min(self.low[index]);
            if let Some(edge) = self.graph.calls(FunctionId(caller)).get(place) {
                self.deepen(caller, place, edge);
            }
        }
    }

    /// A component is complete: that of `first`, and all functions that were met after it and are still open.
    fn close(&mut self, first: u32) {
        let place = self.open.iter().rposition(|function| *function == first).unwrap_or(0);
        let members = self.open.split_off(place);
        let number = self.components;
        self.components += 1;
        for member in &members {
            self.is_open[*member as usize] = false;
            self.costs[*member as usize].component = number;
        }
        let (mut grows, mut turns, mut is_whole) = (false, false, true);
        for member in &members {
            let id = FunctionId(*member);
            is_whole &= self.graph.gaps(id).is_empty();
            for edge in self.graph.calls(id).iter().filter(|edge| counts(self.graph, self.ways, edge)) {
                let to = self.costs[edge.to.index()];
                if to.component == number {
                    turns = true;
                    grows |= edge.depth > 0;
                } else {
                    is_whole &= to.is_whole;
                }
            }
        }
        let leads_out = |member: &u32| {
            let next = self.graph.calls(FunctionId(*member)).get(self.costs[*member as usize].next as usize);
            next.is_none_or(|edge| self.costs[edge.to.index()].component != number)
        };
        let out = members.iter().copied().filter(leads_out);
        let deepest = out.max_by_key(|member| self.costs[*member as usize].bytes);
        for member in &members {
            let deepest = deepest.map(|deepest| (deepest, self.costs[deepest as usize].bytes));
            let cost = &mut self.costs[*member as usize];
            (cost.is_whole, cost.is_recursive) = (is_whole && !grows, grows);
            // Functions that only jump to each other take each other's place.
            if let Some((deepest, bytes)) = deepest.filter(|(deepest, _)| turns && !grows && deepest != member) {
                (cost.bytes, cost.shared) = (bytes, deepest);
            }
        }
    }
}
