//! The source lines of svmas, by a unit's line program (DWARF 5, section 6.2).

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use gimli::{AttributeValue, FileEntry, LineProgramHeader};

use super::{Context, LONGEST_NAME, Reader, Unit, text};

/// The lines of the svmas of one batch, and the files of their unit.
pub(super) struct Lines<'c, 'a> {
    context: &'c Context<'a>,
    unit: &'c Unit<'a>,
    /// For each svma: the number of its file and, unless the compiler knew none, its line.
    rows: Vec<Option<(u64, Option<u32>)>>,
    /// The names of files that were asked for.
    files: RefCell<HashMap<u64, Option<Arc<str>>>>,
}

impl<'c, 'a> Lines<'c, 'a> {
    /// Runs `unit`'s line program once for all of `svmas`, which are sorted.
    pub(super) fn read(context: &'c Context<'a>, unit: &'c Unit<'a>, svmas: &[u64]) -> Lines<'c, 'a> {
        Lines { context, unit, rows: run(context, unit, svmas), files: RefCell::default() }
    }

    /// The file and line of the svma at `place`.
    pub(super) fn location(&self, place: usize) -> (Option<Arc<str>>, Option<u32>) {
        match self.rows.get(place) {
            Some(Some((file, line))) => (self.file(*file), *line),
            _ => (None, None),
        }
    }

    /// The name of the file with this number.
    pub(super) fn file(&self, index: u64) -> Option<Arc<str>> {
        let find = || {
            let header = self.unit.line_program.as_ref()?.header();
            file_name(self.context, self.unit, header, header.file(index)?)
        };
        self.files.borrow_mut().entry(index).or_insert_with(find).clone()
    }
}

/// A row stands for the code from its address up to the next row's, in one sequence.
fn run(context: &Context<'_>, unit: &Unit<'_>, svmas: &[u64]) -> Vec<Option<(u64, Option<u32>)>> {
    let mut found = vec![None; svmas.len()];
    let Some(program) = unit.line_program.clone() else { return found };
    // The work of reading it, besides making rows.
    if context.work.take_bytes(program.header().raw_program_buf().len()).is_none() {
        return found;
    }
    let mut rows = program.rows();
    let mut previous: Option<(u64, (u64, Option<u32>))> = None;
    // Code at svma 0 does not exist: linkers move what they removed there.
    let mut is_removed = false;
    while let (Ok(Some((_, row))), Some(())) = (rows.next_row(), context.work.take(1)) {
        match previous {
            Some((begin, place)) if begin < row.address() && !is_removed => {
                assign(svmas, &mut found, begin..row.address(), place);
            }
            Some(_) => {}
            None => is_removed = row.address() == 0,
        }
        let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
        previous = (!row.end_sequence()).then_some((row.address(), (row.file_index(), line)));
    }
    found
}

fn assign<T: Copy>(svmas: &[u64], found: &mut [Option<T>], range: std::ops::Range<u64>, place: T) {
    if svmas.last().is_none_or(|last| *last < range.start) || svmas[0] >= range.end {
        return;
    }
    let first = svmas.partition_point(|svma| *svma < range.start);
    for (svma, found) in svmas[first..].iter().zip(&mut found[first..]) {
        if *svma >= range.end {
            break;
        }
        found.get_or_insert(place);
    }
}

/// The path as the compiler recorded it, made absolute by the folders that it recorded.
fn file_name<'a>(
    context: &Context<'a>,
    unit: &Unit<'a>,
    header: &LineProgramHeader<Reader<'a>>,
    file: &FileEntry<Reader<'a>>,
) -> Option<Arc<str>> {
    let part = |value: AttributeValue<Reader<'a>>| context.dwarf.attr_string(unit, value).ok();
    let mut path = PathBuf::new();
    // Folder 0 is the one that the unit was compiled in.
    let folder = file.directory(header).filter(|_| file.directory_index() != 0).and_then(part);
    for part in [unit.comp_dir, folder].into_iter().flatten() {
        path.push(&*text(part, &context.work)?);
    }
    path.push(&*text(part(file.path_name())?, &context.work)?);
    path.to_str().filter(|path| path.len() <= LONGEST_NAME).map(Arc::from)
}
