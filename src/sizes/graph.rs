//! Who calls whom in a program, over all of its images.

use std::ops::Range;

use super::code::Code;
use super::link::link;
use crate::image::{Module, Modules};

/// A function, by its place in the graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionId(pub(super) u32);

impl FunctionId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A function of the program.
#[derive(Clone, Debug)]
pub struct Function {
    /// The place of its module in the program's [`Modules`].
    pub module: usize,
    /// Where it begins, as its file states it.
    pub svma: u64,
    /// How many bytes of code it has, without parts that lie apart.
    pub code_size: u64,
    /// The bytes from its CFA down to the deepest that its stack pointer is: its return address, what it saves, its
    /// variables, and arguments that it passes on the stack.
    pub frame: u64,
    /// The same down to the deepest byte that it uses; up to 128 more than `frame`.
    pub reach: u64,
    /// Whether its rules say something else than its instructions somewhere; the deeper counts.
    pub disputed: bool,
    /// Whether it is known to end the program, or to begin an unwinding.
    pub ends: bool,
    pub(super) calls: Range<usize>,
    pub(super) gaps: Range<usize>,
}

/// A call, or a jump that has the meaning of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// What is called.
    pub to: FunctionId,
    /// Where the callee's CFA is, in bytes below the caller's.
    pub depth: u32,
    /// How far the instruction lies behind the caller's first byte.
    pub at: i32,
    /// Whether it is a tail call: the callee takes the caller's place.
    pub is_jump: bool,
}

/// Something that is not known of a function, and what it leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// How far the instruction lies behind the function's first byte.
    pub at: i32,
    /// What is not known.
    pub kind: GapKind,
}

/// What is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GapKind {
    /// Where a call through a register or through memory leads.
    IndirectCall,
    /// The same of a jump that may leave the function.
    IndirectJump,
    /// What a function of another file needs that is not at hand; its place in [`Graph::names`].
    Import(u32),
    /// How much room the function takes by a number that is not known (`alloca`, arrays of variable length).
    Room,
    /// What the bytes mean that are called or run into.
    NoCode,
    /// Which calls there are: the instructions of this CPU are not read.
    Unread,
}

/// The functions of a program and their calls.
#[derive(Debug, Default)]
pub struct Graph {
    /// By module, then by address.
    pub(super) functions: Vec<Function>,
    /// The functions of each module.
    pub(super) of_module: Vec<Range<usize>>,
    pub(super) edges: Vec<Edge>,
    pub(super) gaps: Vec<Gap>,
    pub(super) names: Vec<String>,
}

impl Graph {
    /// Reads all images of a program.
    pub fn of(modules: &Modules) -> Graph {
        let modules: Vec<&Module> = modules.iter().collect();
        let codes: Vec<Option<Code<'_>>> =
            modules.iter().map(|module| module.image.as_deref().map(Code::read)).collect();
        link(&modules, &codes)
    }

    /// All functions, by module and address.
    pub fn functions(&self) -> impl Iterator<Item = (FunctionId, &Function)> {
        self.functions.iter().enumerate().map(|(index, function)| (FunctionId(index as u32), function))
    }

    /// The function that goes by this id.
    ///
    /// # Panics
    /// Where the id is that of another graph.
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.index()]
    }

    /// The function that holds `svma` of a module.
    pub fn find(&self, module: usize, svma: u64) -> Option<FunctionId> {
        let range = self.of_module.get(module)?.clone();
        let functions = self.functions.get(range.clone())?;
        let place = functions.partition_point(|function| function.svma <= svma).checked_sub(1)?;
        functions.get(place).filter(|function| svma - function.svma < function.code_size)?;
        Some(FunctionId((range.start + place) as u32))
    }

    /// What a function calls.
    pub fn calls(&self, id: FunctionId) -> &[Edge] {
        &self.edges[self.functions[id.index()].calls.clone()]
    }

    /// What is not known of a function itself.
    pub fn gaps(&self, id: FunctionId) -> &[Gap] {
        &self.gaps[self.functions[id.index()].gaps.clone()]
    }

    /// The name of a function of another file.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", |name| name)
    }

    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }
}
