//! What the table says, added up: switches in all, by function, and by stack.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inject::NotProbed;
use super::table::{CLASSES, Table};
use super::{Site, Unprobed};
use crate::addr::Addr;
use crate::mapping::{Mapping, mapping_at};

/// A jump to a place at most so far above is one within a stack if both lie in one mapping, in bytes.
const WITHIN_STACK: u64 = 8 << 20;

/// How often stacks were switched at the sites of one function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BySite {
    /// The function; `None` if it has no name, or for all functions beyond the first few.
    pub function: Option<Arc<str>>,
    /// Its module; `None` for all functions beyond the first few.
    pub module: Option<String>,
    /// How often.
    pub count: u64,
    /// Whether a stack was seen to be left for another here. If not, these are jumps within a stack, as `longjmp` and the
    /// landing of exceptions make.
    pub switches: bool,
}

/// What was noted of switches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Switches {
    /// The sites that are probed.
    pub probed: Vec<Site>,
    /// The sites that are not.
    pub unprobed: Vec<Unprobed>,
    /// Why a program has no probes at all.
    pub refused: Vec<NotProbed>,
    /// How often a stack was left for another; `None` if nothing is probed.
    pub total: Option<u64>,
    /// The same by function, most often first.
    pub by_site: Vec<BySite>,
    /// Whether not all that was noted could be read.
    pub is_cut: bool,
}

type Function = (Option<String>, Option<Arc<str>>);

/// What was noted of one program or several.
#[derive(Clone, Default)]
pub(super) struct Counted {
    /// By number of the site, less one: whether a stack was seen to be left for another.
    switching: Vec<bool>,
    functions: BTreeMap<Function, (u64, bool)>,
    probed: Vec<Site>,
    unprobed: Vec<Unprobed>,
    refused: Vec<NotProbed>,
    has_table: bool,
    is_cut: bool,
}

impl Counted {
    /// Takes note of what the last switches at each site show, in a program with these mappings.
    pub(super) fn see(&mut self, table: &Table, sites: &[Site], mappings: &[Mapping]) {
        self.switching.resize(sites.len(), false);
        for ((number, site), switching) in (1..).zip(sites).zip(&mut self.switching) {
            let pair = table.pair(number);
            *switching |= site.saves || pair.is_some_and(|(left, entered)| !is_within_stack(left, entered, mappings));
        }
    }

    /// The same with what a table holds.
    pub(super) fn with_table(
        mut self,
        table: Option<&Table>,
        sites: &[Site],
        unprobed: &[Unprobed],
        refused: Option<NotProbed>,
    ) -> Counted {
        self.probed = sites.to_vec();
        self.unprobed = unprobed.to_vec();
        self.refused.extend(refused);
        let Some(table) = table else { return self };
        self.has_table = true;
        self.is_cut = table.is_cut();
        for class in 0..CLASSES {
            let count: u64 = table.slots().values().map(|slot| slot.outs[class]).sum();
            let of_class = || sites.iter().zip(&self.switching).filter(|(site, _)| site.class == class);
            let Some((first, _)) = of_class().next() else { continue };
            let is_one = of_class().all(|(site, _)| site.routine == first.routine);
            let function = if is_one { (Some(first.module.clone()), first.function.clone()) } else { (None, None) };
            let switches = of_class().any(|(_, switching)| *switching);
            let known = self.functions.entry(function).or_default();
            *known = (known.0 + count, known.1 | switches);
        }
        self
    }

    /// Adds what was noted of another program.
    pub(super) fn add(&mut self, other: Counted) {
        for (function, (count, switches)) in other.functions {
            let known = self.functions.entry(function).or_default();
            *known = (known.0 + count, known.1 | switches);
        }
        self.probed.extend(other.probed);
        self.unprobed.extend(other.unprobed);
        self.refused.extend(other.refused);
        self.has_table |= other.has_table;
        self.is_cut |= other.is_cut;
    }

    pub(super) fn switches(self) -> Switches {
        let by_site = self.functions.into_iter().filter(|(_, (count, _))| *count > 0);
        let mut by_site: Vec<BySite> = by_site
            .map(|((module, function), (count, switches))| BySite { function, module, count, switches })
            .collect();
        by_site.sort_by_key(|site| std::cmp::Reverse((site.switches, site.count)));
        let total = by_site.iter().filter(|site| site.switches).map(|site| site.count).sum();
        let mut refused = self.refused;
        refused.dedup();
        Switches {
            probed: self.probed,
            unprobed: self.unprobed,
            refused,
            total: self.has_table.then_some(total),
            by_site,
            is_cut: self.is_cut,
        }
    }
}

/// Whether what seems a switch only goes up its own stack.
fn is_within_stack(left: u64, entered: u64, mappings: &[Mapping]) -> bool {
    let is_near = entered >= left && entered - left < WITHIN_STACK;
    let mapping = |sp: u64| mapping_at(mappings, Addr(sp)).map(|mapping| mapping.range);
    is_near && (mapping(left).is_none() || mapping(left) == mapping(entered))
}
