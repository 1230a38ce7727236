//! `stackscope sizes`: how much stack functions need, read from the code of a program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Common, exit, output};
use crate::image::names::{self, Lines};
use crate::image::{Files, Modules};
use crate::process::{AtRest, Live, signal_frame};
use crate::report::{sizes, sizes_json};
use crate::sizes::{Asked, Costs, Graph, Ways};

/// Arguments of `sizes`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A program or library, or a process's number (./1234 for a file whose name is a number)
    #[arg(value_name = "FILE|PID")]
    target: String,

    /// Functions by a part of their names; without any, the largest frames are shown
    #[arg(
        value_name = "FUNCTION",
        long_help = "Functions by a part of their names, or =NAME for a whole name, or 0xADDRESS as the file states it.\n\
                     Without any, the largest frames are shown."
    )]
    functions: Vec<String>,

    /// Write JSON instead of text
    #[arg(long)]
    json: bool,

    /// Write the paths as folded stacks, for flame graphs
    #[arg(long, conflicts_with = "json", requires = "functions")]
    folded: bool,

    /// Write to FILE instead of stdout
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Reads the program and writes what its functions need.
pub(super) fn run(args: &Args, common: &Common) -> ExitCode {
    match args.target.parse() {
        Ok(pid) => match Live::open(pid) {
            Ok(live) => match live.mappings() {
                Ok(mappings) => {
                    let modules = Modules::load(&mappings, &live.memory(), &live);
                    show(args, common, &modules, &live, &[])
                }
                Err(error) => output::fail(&error),
            },
            Err(error) => output::fail(&error),
        },
        Err(_) => match AtRest::open(Path::new(&args.target)) {
            Ok(at_rest) => show(args, common, at_rest.modules(), &at_rest, at_rest.missing()),
            Err(error) => output::fail(&error),
        },
    }
}

fn show(args: &Args, common: &Common, modules: &Modules, files: &dyn Files, missing: &[String]) -> ExitCode {
    let graph = Graph::of(modules);
    let costs = Costs::of(&graph, Ways::Ordinary);
    let asked = Asked::of(&graph, modules, &args.functions, &costs);
    if !args.functions.is_empty() && asked.answers.is_empty() {
        return output::fail(&NoFunction);
    }
    let names = names::resolve(modules, &asked.places(&graph, modules), files, Lines::Cheap);
    let warnings = warnings(modules, missing);
    let sizes = sizes::Sizes {
        target: &args.target,
        graph: &graph,
        modules,
        costs: &costs,
        asked: &asked,
        names: &names,
        signal_frame: signal_frame().filter(|_| is_for_this_machine(modules)),
        warnings: &warnings,
    };
    let (mut content, mut text) = (Vec::new(), String::new());
    // Writing to memory does not fail.
    let _ = match (args.json, args.folded) {
        (true, _) => sizes_json::write(&mut content, &sizes).is_ok(),
        (_, true) => sizes::write_folded(&mut text, &sizes).is_ok(),
        _ => sizes::write(&mut text, &sizes, output::style(common, args.output.as_deref())).is_ok(),
    };
    content.extend(text.into_bytes());
    match output::write(args.output.as_deref(), &content) {
        Err(error) => output::fail(&error),
        Ok(()) if warnings.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(exit::PARTIAL),
    }
}

/// Whether the program is made for the CPU of this machine, so that what its kernel does holds for the program.
fn is_for_this_machine(modules: &Modules) -> bool {
    let mut images = modules.iter().filter_map(|module| module.image.as_ref());
    images.next().is_some_and(|image| image.arch().name == std::env::consts::ARCH)
}

/// What could not be read.
fn warnings(modules: &Modules, missing: &[String]) -> Vec<String> {
    let problem = |module: &crate::image::Module| Some(format!("{}: {}", module.name, module.problem.as_ref()?));
    let missing = missing.iter().map(|name| format!("{name}: not found; what its functions need is not known"));
    modules.iter().filter_map(problem).chain(missing).collect()
}

/// No function goes by the name that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("no function fits; a stripped file has few names, and its functions can be asked for by 0xADDRESS")]
struct NoFunction;
