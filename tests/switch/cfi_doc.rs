//! `docs/CFI.md` says of each routine what its instructions and the bytes of its call frame information are; so does the
//! program.

use std::path::Path;

use stackscope_harness::built;

use crate::program::{Fde, Program, plain};
use crate::steps::ROUTINES;

/// One row of a routine's table: an instruction, or the start of an FDE, and the bytes that take effect behind it.
#[derive(PartialEq, Eq, Debug)]
struct Row {
    what: String,
    bytes: Vec<u8>,
}

#[test]
fn each_routine_is_what_its_table_says() {
    for fixture in ["switch_steps", "switch_steps_release"] {
        let program = Program::open(&built(fixture));
        for (name, _) in ROUTINES {
            let rows = table(&format!("## `{name}`"));
            let documented: Vec<Row> = rows.iter().map(|cells| row(cells)).collect();
            assert_eq!(documented, derived(&program, name), "{name} in {fixture}");
        }
    }
}

/// The instructions that take the stack pointer from one context's stack to another's are those that the page lists, and
/// all lie in routines: there is none in the code that is inlined.
#[test]
fn all_instructions_that_change_stacks_are_listed() {
    let cells = table("## The instructions that change stacks");
    let mut documented: Vec<(String, String)> =
        cells.iter().map(|cells| (code(&cells[0]).to_owned(), plain(code(&cells[1])))).collect();
    documented.sort();
    for fixture in ["switch_steps", "switch_steps_release"] {
        let program = Program::open(&built(fixture));
        let mut found = Vec::new();
        for function in program.functions() {
            if !["stackscope::", "switch_steps::"].iter().any(|own| function.name.contains(own)) {
                continue;
            }
            let listing = program.listing(&function.range);
            let is_routine = ROUTINES.iter().any(|(name, _)| program.routine(name).range == function.range);
            for svma in program.stack_switches(&function.range) {
                let text = listing[&svma].clone();
                // A function with a frame pointer comes back to its own frame by it.
                if is_routine || !text.contains("rbp") {
                    found.push((function.last().to_owned(), text));
                }
            }
        }
        found.sort();
        assert_eq!(found, documented, "{fixture}");
    }
}

/// What the program says of a routine, in the form of a table.
fn derived(program: &Program, name: &str) -> Vec<Row> {
    let routine = program.routine(name);
    let listing = program.listing(&routine.range);
    let mut rows = Vec::new();
    for fde in program.fdes(&routine.range) {
        let mut parts = parts(&fde).into_iter().peekable();
        let first = parts.next_if(|(at, _)| *at == fde.range.start).map_or_else(Vec::new, |(_, bytes)| bytes);
        rows.push(Row { what: if fde.is_signal { "zRS" } else { "zR" }.to_owned(), bytes: first });
        let instructions = program.instructions(&fde.range);
        for (index, svma) in instructions.iter().enumerate() {
            let end = instructions.get(index + 1).copied().unwrap_or(fde.range.end);
            let bytes = parts.next_if(|(at, _)| *at == end).map_or_else(Vec::new, |(_, bytes)| bytes);
            rows.push(Row { what: listing[svma].clone(), bytes });
        }
        assert_eq!(parts.next(), None, "{name}: rules for the middle of an instruction");
    }
    rows
}

/// The instructions of an FDE, cut before each `DW_CFA_advance_loc`, and where in the code each part takes effect.
fn parts(fde: &Fde) -> Vec<(u64, Vec<u8>)> {
    let mut parts: Vec<(u64, Vec<u8>)> = vec![(fde.range.start, Vec::new())];
    let mut rest = &fde.bytes[..];
    while let Some(opcode) = rest.first() {
        // The operands of all that are used here take one byte each.
        let length = match opcode {
            0x07 | 0x0e | 0x80..=0xbf => 2,
            0x09 | 0x0c => 3,
            0x40..=0x7f | 0xc0..=0xff => 1,
            other => panic!("opcode {other:#x}"),
        };
        let at = parts.last().map_or(0, |(at, _)| *at);
        if opcode & 0xc0 == 0x40 {
            parts.push((at + u64::from(opcode & 0x3f), Vec::new()));
        }
        let (instruction, behind) = rest.split_at(length.min(rest.len()));
        parts.last_mut().unwrap().1.extend(instruction);
        rest = behind;
    }
    parts.retain(|(_, bytes)| !bytes.is_empty());
    parts
}

/// The rows of the first table below a heading of the page, without its head.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CFI.md")).unwrap();
    let below = page.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
    let rows = below.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn row(cells: &[String]) -> Row {
    let what = code(&cells[0]);
    let what = what.strip_prefix("FDE ").map_or_else(|| plain(what), str::to_owned);
    let digits = cells[1].split(|c: char| !c.is_ascii_hexdigit()).filter(|part| !part.is_empty());
    Row { what, bytes: digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect() }
}

/// What stands between backticks in a cell.
fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}
