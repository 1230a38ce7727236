//! Puts the functions of all images together: finds what each call leads to, across images too.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

use super::code::{Code, ENTERED, Found};
use super::endings;
use super::frames::{Call, Measured};
use super::graph::{Edge, Function, FunctionId, Gap, GapKind, Graph};
use super::machine::To;
use crate::image::{Module, Pointer};

/// What a call leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target<'a> {
    /// The function at this place of the same image.
    Own(usize),
    /// The function of this name, in whichever image defines it.
    Named(&'a [u8]),
    Gap(GapKind),
}

/// So many words of tables are read of one image.
const MOST_WORDS: usize = 1 << 20;

/// An image that is being put in.
struct Linked<'c, 'a> {
    code: &'c Code<'a>,
    /// By place in `code.functions`: the function that each part belongs to.
    whole: Vec<usize>,
    targets: HashMap<(To, bool), Vec<Target<'a>>, FixedState>,
}

/// A function's place: its module, and its place in that module's code.
type Place = (usize, usize);

/// Puts the images of `modules` together; `codes` are what was read of them.
pub(super) fn link(modules: &[&Module], codes: &[Option<Code<'_>>]) -> Graph {
    let linked: Vec<Option<Linked<'_, '_>>> = codes.iter().map(|code| code.as_ref().map(Linked::new)).collect();
    let wanted = linked.iter().flatten().flat_map(|image| image.targets.values().flatten());
    let wanted: HashSet<&[u8]> = wanted
        .filter_map(|target| match target {
            Target::Named(name) => Some(*name),
            _ => None,
        })
        .collect();
    let defined = defined(modules, &linked, &wanted);
    let mut graph = Graph::default();
    let mut ids: HashMap<Place, FunctionId, FixedState> = HashMap::default();
    for (module, image) in linked.iter().enumerate() {
        let first = graph.functions.len();
        for (place, found) in image.iter().flat_map(|image| image.functions()) {
            ids.insert((module, place), FunctionId(graph.functions.len() as u32));
            graph.functions.push(function(module, found));
        }
        graph.of_module.push(first..graph.functions.len());
    }
    mark_endings(modules, &linked, &ids, &mut graph);
    let mut names: HashMap<&[u8], u32, FixedState> = HashMap::default();
    let mut import = |name| {
        let next = names.len() as u32;
        *names.entry(name).or_insert(next)
    };
    for (module, image) in linked.iter().enumerate() {
        let Some(image) = image else { continue };
        let parts = image.parts();
        for (place, _) in image.functions() {
            let Some(id) = ids.get(&(module, place)) else { continue };
            let (first_edge, first_gap) = (graph.edges.len(), graph.gaps.len());
            let start = graph.functions[id.index()].svma;
            for part in &parts[place] {
                let Some(found) = image.code.functions.get(*part) else { continue };
                include(&mut graph.functions[id.index()], &found.measured);
                own_gaps(image.code, found, start, &mut graph.gaps);
                for call in &found.measured.calls {
                    let at = call.at.wrapping_sub(start) as i32;
                    let to = |function: FunctionId| Edge {
                        to: function,
                        depth: (call.depth - if call.is_jump { ENTERED } else { 0 }).clamp(0, i64::from(u32::MAX))
                            as u32,
                        at,
                        is_jump: call.is_jump,
                    };
                    for target in image.targets_of(call) {
                        match target {
                            Target::Own(part) if image.whole.get(*part) == Some(&place) && call.is_jump => {}
                            Target::Own(part) => {
                                let whole = image.whole.get(*part).copied().unwrap_or(*part);
                                graph.edges.extend(ids.get(&(module, whole)).map(|id| to(*id)));
                            }
                            Target::Named(name) => match defined.get(name) {
                                Some(places) => {
                                    graph
                                        .edges
                                        .extend(places.iter().filter_map(|place| ids.get(place)).map(|id| to(*id)));
                                }
                                None if endings::is_one(name) => {}
                                None => graph.gaps.push(Gap { at, kind: GapKind::Import(import(name)) }),
                            },
                            Target::Gap(kind) => graph.gaps.push(Gap { at, kind: *kind }),
                        }
                    }
                }
            }
            // Of calls to the same function from one, the deepest counts.
            graph.edges[first_edge..].sort_by_key(|edge| (edge.to, std::cmp::Reverse(edge.depth)));
            let mut kept = first_edge;
            for index in first_edge..graph.edges.len() {
                if kept == first_edge || graph.edges[kept - 1].to != graph.edges[index].to {
                    graph.edges[kept] = graph.edges[index];
                    kept += 1;
                }
            }
            graph.edges.truncate(kept);
            let function = &mut graph.functions[id.index()];
            (function.calls, function.gaps) = (first_edge..kept, first_gap..graph.gaps.len());
        }
    }
    let mut named: Vec<(&[u8], u32)> = names.into_iter().collect();
    named.sort_by_key(|(_, number)| *number);
    graph.names = named.into_iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    graph
}

/// A function of which no part has been looked at yet.
fn function(module: usize, found: &Found) -> Function {
    Function {
        module,
        svma: found.range.start,
        code_size: found.range.end - found.range.start,
        frame: 0,
        reach: 0,
        disputed: false,
        ends: false,
        calls: 0..0,
        gaps: 0..0,
    }
}

/// Takes what was measured of one of its parts into a function.
fn include(function: &mut Function, part: &Measured) {
    let bytes = |depth: i64| depth.max(0).cast_unsigned();
    function.frame = function.frame.max(bytes(part.frame));
    function.reach = function.reach.max(bytes(part.reach));
    function.disputed |= part.disputed;
}

/// What is not known of a part's own frame and code.
fn own_gaps(code: &Code<'_>, found: &Found, start: u64, gaps: &mut Vec<Gap>) {
    let at = |svma: u64| svma.wrapping_sub(start) as i32;
    if code.only_rules {
        gaps.push(Gap { at: 0, kind: GapKind::Unread });
    }
    gaps.extend(found.measured.takes_unknown.map(|svma| Gap { at: at(svma), kind: GapKind::Room }));
    gaps.extend(found.measured.undecodable.map(|svma| Gap { at: at(svma), kind: GapKind::NoCode }));
}

/// Where the functions with these names lie: all that the first image has which defines the name, as several versions
/// of one may go by it.
fn defined<'n>(
    modules: &[&Module],
    linked: &[Option<Linked<'_, '_>>],
    wanted: &HashSet<&'n [u8]>,
) -> HashMap<&'n [u8], Vec<Place>> {
    let mut defined: HashMap<&[u8], Vec<Place>> = HashMap::new();
    for (number, (module, image)) in modules.iter().zip(linked).enumerate() {
        let (Some(file), Some(image)) = (&module.image, image) else { continue };
        let mut here: HashMap<&[u8], Vec<Place>> = HashMap::new();
        for symbol in file.exported_functions() {
            let Some(name) = wanted.get(symbol.name).filter(|name| !defined.contains_key(**name)) else { continue };
            let Some(place) = image.code.find(symbol.svma) else { continue };
            let places = here.entry(name).or_default();
            match symbol.is_chooser {
                true => places.extend(image.choices(place).into_iter().map(|place| (number, place))),
                false => places.push((number, image.whole.get(place).copied().unwrap_or(place))),
            }
        }
        here.values_mut().for_each(|places| {
            places.sort_unstable();
            places.dedup();
        });
        defined.extend(here.into_iter().filter(|(_, places)| !places.is_empty()));
    }
    defined
}

fn mark_endings(
    modules: &[&Module],
    linked: &[Option<Linked<'_, '_>>],
    ids: &HashMap<Place, FunctionId, FixedState>,
    graph: &mut Graph,
) {
    for (number, (module, image)) in modules.iter().zip(linked).enumerate() {
        let (Some(file), Some(image)) = (&module.image, image) else { continue };
        for symbol in file.function_symbols().iter().filter(|symbol| endings::is_one(symbol.name)) {
            let place = image.code.find(symbol.svma);
            let id = place.and_then(|place| ids.get(&(number, place)));
            if let Some(function) = id.and_then(|id| graph.functions.get_mut(id.index())) {
                function.ends |= function.svma == symbol.svma;
            }
        }
    }
}

impl<'c, 'a> Linked<'c, 'a> {
    fn new(code: &'c Code<'a>) -> Linked<'c, 'a> {
        let mut linked = Linked { code, whole: (0..code.functions.len()).collect(), targets: HashMap::default() };
        let mut left = MOST_WORDS;
        for call in code.functions.iter().flat_map(|function| &function.measured.calls) {
            if !linked.targets.contains_key(&(call.to, call.is_jump)) {
                let targets = linked.resolve(call.to, call.is_jump, &mut left);
                linked.targets.insert((call.to, call.is_jump), targets);
            }
        }
        linked.join_parts();
        linked
    }

    fn targets_of(&self, call: &Call) -> &[Target<'a>] {
        self.targets.get(&(call.to, call.is_jump)).map_or(&[], |targets| targets)
    }

    /// The functions, without the parts that belong to others.
    fn functions(&self) -> impl Iterator<Item = (usize, &'c Found)> {
        let functions = self.code.functions.iter().enumerate();
        functions.filter(|(place, _)| self.whole.get(*place) == Some(place))
    }

    /// By the place of each function, the places of all of its parts.
    fn parts(&self) -> Vec<Vec<usize>> {
        let mut parts = vec![Vec::new(); self.whole.len()];
        for (part, whole) in self.whole.iter().enumerate() {
            parts[*whole].push(part);
        }
        parts
    }

    /// Gives parts that lie apart to the functions that they belong to: those that jump into them, or into whose midst
    /// they jump.
    fn join_parts(&mut self) {
        for (place, found) in self.code.functions.iter().enumerate() {
            for call in found.measured.calls.iter().filter(|call| call.is_jump) {
                let To::At(svma) = call.to else { continue };
                let Some(other) = self.code.find(svma) else { continue };
                let target = &self.code.functions[other];
                let is_within = target.range.start != svma || target.is_apart;
                if is_within && self.code.stub(svma).is_none() {
                    let (a, b) = (self.root(place), self.root(other));
                    let [whole, part] = if self.code.functions[a].is_apart { [b, a] } else { [a, b] };
                    self.whole[part] = whole;
                }
            }
        }
        for place in 0..self.whole.len() {
            self.whole[place] = self.root(place);
        }
    }

    fn root(&self, mut place: usize) -> usize {
        while self.whole[place] != place {
            place = self.whole[place];
        }
        place
    }

    fn resolve(&self, to: To, is_jump: bool, left: &mut usize) -> Vec<Target<'a>> {
        let unknown = if is_jump { GapKind::IndirectJump } else { GapKind::IndirectCall };
        let found = match to {
            To::At(svma) => match self.code.stub(svma) {
                Some(slot) => self.code.words.slot(slot).map_or(Vec::new(), |pointer| self.leads(pointer)),
                None => self.leads(Pointer::Here(svma)),
            },
            To::Slot(slot) => self.code.words.slot(slot).map_or(Vec::new(), |pointer| self.leads(pointer)),
            To::Table(table) => {
                let words: Vec<_> = self.code.words.held(table).take(*left).collect();
                *left -= words.len();
                let mut all: Vec<Target<'_>> = words.into_iter().flat_map(|pointer| self.leads(pointer)).collect();
                all.dedup();
                all
            }
            To::Told(_) | To::Unknown => Vec::new(),
        };
        if found.is_empty() { vec![Target::Gap(unknown)] } else { found }
    }

    fn leads(&self, pointer: Pointer<'a>) -> Vec<Target<'a>> {
        match pointer {
            Pointer::Here(svma) => vec![self.code.find(svma).map_or(Target::Gap(GapKind::NoCode), Target::Own)],
            Pointer::Named(name) => vec![Target::Named(name)],
            Pointer::Chosen(svma) => {
                let places = self.code.find(svma).map_or(Vec::new(), |place| self.choices(place));
                places.into_iter().map(Target::Own).collect()
            }
        }
    }

    /// The functions among which the one at `place` chooses: those that it names and does not call.
    fn choices(&self, place: usize) -> Vec<usize> {
        let starts = self.code.taken(place).into_iter();
        let places = starts
            .filter_map(|svma| self.code.find(svma).filter(|place| self.code.functions[*place].range.start == svma));
        let mut places: Vec<usize> = places.map(|place| self.whole.get(place).copied().unwrap_or(place)).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}
