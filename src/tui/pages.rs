//! Pages and their lists: what is opened, selected, searched and brought in line with the picture.

use std::sync::Arc;

use super::arrange::Ask;
use super::model::{List, Model, Overlay, Page, Rows, Shown};
use super::picture::{RowKey, danger};
use super::rows;
use super::sort::{Order, Sort};
use super::view::layout;
use crate::filter::Filter;
use crate::report::backtrace::{self, Row};
use crate::report::route;
use crate::report::text::Listing;
use crate::report::verdict;
use crate::watch::Event;

/// How many events are kept for the screen.
const MOST_EVENTS: usize = 10_000;

/// A selected row, by what it is known by in other pictures.
#[derive(Clone, Copy)]
pub(super) enum Selection {
    Stack(RowKey),
    Group(u64),
}

/// What is selected in a list of the picture.
pub(super) fn selection(model: &Model, list: &List) -> Option<Selection> {
    let row = list.row()?;
    match list.page {
        Page::Stacks | Page::Members(_) => Some(Selection::Stack(model.picture.key(row))),
        Page::Groups => Some(Selection::Group(model.picture.groups.get(row)?.fingerprint)),
        Page::Frames(_) | Page::Events | Page::Happened(_) | Page::Output | Page::Report => None,
    }
}

impl Model {
    /// The request to write what is shown to a file.
    pub(super) fn dump(&self, path: Option<String>) -> Ask {
        let of_one = |id: usize| Filter::parse(&format!("id={id}")).unwrap_or_default();
        let listing = match (self.list().page, self.selected()) {
            (Page::Frames(_), Some(id)) => Listing { filter: of_one(id), group: None },
            (Page::Stacks, _) => Listing { filter: self.picture.wanted.filter.clone(), group: None },
            _ => Listing { filter: self.picture.wanted.filter.clone(), group: Some(self.picture.wanted.group_by) },
        };
        Ask::Dump { picture: Arc::clone(&self.picture), listing, style: self.look.signs(), path }
    }

    /// Moves the cursor to where `to` says, given where it is and the last row.
    pub(super) fn move_to(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        if let Some(list) = self.lists.last_mut() {
            let last = list.rows.len().saturating_sub(1);
            list.cursor = to(list.cursor, last).min(last);
        }
    }

    /// Selects the row of a stack or a group, if the page has it.
    pub(super) fn select(&mut self, row: usize) {
        if let Some(at) = self.list().rows.position(row) {
            self.move_to(|_, _| at);
        }
    }

    pub(super) fn select_worst(&mut self) {
        self.show(Page::Stacks);
        let stacks = self.picture.snapshot.stacks.iter().enumerate();
        if let Some((worst, _)) = stacks.max_by_key(|(_, stack)| danger(stack)) {
            self.select(worst);
        }
    }

    pub(super) fn open(&mut self) {
        let Some(row) = self.list().row() else { return };
        let page = match self.list().page {
            Page::Stacks | Page::Members(_) => Page::Frames(self.picture.key(row)),
            Page::Groups => match self.picture.groups.get(row) {
                Some(cluster) => Page::Members(cluster.fingerprint),
                None => return,
            },
            Page::Events => Page::Happened(row),
            Page::Frames(_) | Page::Happened(_) | Page::Output | Page::Report => return,
        };
        self.push(page);
    }

    /// Opens a page from the one that is seen.
    pub(super) fn push(&mut self, page: Page) {
        self.lists.push(List::new(page));
        self.rebuild();
    }

    pub(super) fn type_in(&mut self) {
        if !self.decides() {
            self.notice = Some("there is no program here that could be typed into".to_owned());
            return;
        }
        if self.frozen {
            self.freeze();
        }
        if self.list().page != Page::Output {
            self.push(Page::Output);
        }
        self.overlay = Overlay::Typing;
    }

    /// Takes in an event, or what more is known of one; the oldest ones make room for new ones.
    pub(super) fn add_event(&mut self, event: Event) {
        if let Some(known) = self.events.iter_mut().rev().find(|known| known.id == event.id) {
            *known = event;
            // Where it happened is to be shown again.
            self.shown = None;
            return;
        }
        self.events.push_back(event);
        if self.events.len() > MOST_EVENTS {
            self.events.pop_front();
            self.forgotten += 1;
        }
        for list in self.lists.iter_mut().filter(|list| list.page == Page::Events) {
            list.rows = Rows::Backwards(self.forgotten..self.forgotten + self.events.len());
            // The newest stays selected; any other one does by moving with its row.
            list.cursor += usize::from(list.cursor > 0);
        }
    }

    pub(super) fn back(&mut self) {
        if self.lists.len() > 1 {
            self.lists.pop();
        }
    }

    /// Shows a page that is opened from no other, with the selected stack still selected.
    pub(super) fn show(&mut self, page: Page) {
        let selected = self.selected();
        self.lists = vec![List::new(page)];
        self.rebuild();
        let Some(selected) = selected else { return };
        match page {
            Page::Groups => {
                let holds = |cluster: &super::picture::Cluster| cluster.group.stacks.contains(&selected);
                if let Some(row) = self.picture.groups.iter().position(holds) {
                    self.select(row);
                }
            }
            Page::Stacks => self.select(selected),
            _ => {}
        }
    }

    /// Makes the rows of all pages anew. A page of something that is gone is closed.
    pub(super) fn rebuild(&mut self) {
        let mut lists = std::mem::take(&mut self.lists);
        let known = lists.iter().take_while(|list| self.is_known(list.page)).count().max(1);
        if known < lists.len() {
            self.notice = Some("what was open here is gone".to_owned());
            lists.truncate(known);
        }
        for list in &mut lists {
            list.rows = self.rows_of(list.page);
        }
        self.lists = lists;
        self.settle();
    }

    fn is_known(&self, page: Page) -> bool {
        match page {
            Page::Stacks | Page::Groups | Page::Events | Page::Output | Page::Report => true,
            Page::Happened(number) => number >= self.forgotten,
            Page::Members(fingerprint) => self.picture.groups.iter().any(|cluster| cluster.fingerprint == fingerprint),
            Page::Frames(key) => self.picture.find(key).is_some(),
        }
    }

    fn rows_of(&self, page: Page) -> Rows {
        match page {
            Page::Stacks => Rows::Of(Arc::clone(&self.picture.stacks)),
            Page::Members(fingerprint) => self.picture.members(fingerprint).map_or(Rows::Range(0..0), Rows::Of),
            Page::Groups => Rows::Of(Arc::clone(&self.picture.group_rows)),
            Page::Events => Rows::Backwards(self.forgotten..self.forgotten + self.events.len()),
            Page::Report => Rows::Range(0..self.report.len()),
            // They are those of the backtrace, which is made for what is selected.
            Page::Frames(_) | Page::Happened(_) => Rows::Range(0..0),
            Page::Output => Rows::Range(0..0),
        }
    }

    /// Selects what was selected in the picture before, on each page.
    pub(super) fn select_again(&mut self, selections: &[Option<Selection>]) {
        let mut lists = std::mem::take(&mut self.lists);
        for (list, selection) in lists.iter_mut().zip(selections) {
            let row = match selection {
                Some(Selection::Stack(key)) => self.picture.find(*key),
                Some(Selection::Group(fingerprint)) => {
                    self.picture.groups.iter().position(|cluster| cluster.fingerprint == *fingerprint)
                }
                None => None,
            };
            if let Some(at) = row.and_then(|row| list.rows.position(row)) {
                list.cursor = at;
            }
        }
        self.lists = lists;
    }

    /// Brings everything that depends on the selection in line with it.
    pub(super) fn settle(&mut self) {
        let list = self.list();
        let shown = match list.page {
            Page::Stacks | Page::Members(_) => list.row().map(Shown::Stack),
            Page::Groups => list.row().and_then(|row| Some(Shown::Stack(self.picture.groups.get(row)?.worst))),
            Page::Frames(key) => self.picture.find(key).map(Shown::Stack),
            Page::Events => list.row().map(Shown::Event),
            Page::Happened(number) => Some(Shown::Event(number)),
            // What was selected before stays so for the page that follows.
            Page::Output | Page::Report => self.shown,
        };
        if shown != self.shown {
            self.backtrace = match shown {
                Some(Shown::Stack(id)) => backtrace::rows(&self.picture.snapshot, id),
                Some(Shown::Event(number)) => {
                    let rows = |event: &Event| match &event.look {
                        _ if route::has_route(event) => route::as_backtrace(event, self.look.ascii),
                        Some(look) => backtrace::rows(&look.snapshot, look.stack),
                        None => Vec::new(),
                    };
                    self.event(number).map_or_else(Vec::new, rows)
                }
                None => Vec::new(),
            };
            self.shown = shown;
        }
        let (rows, height) = (self.backtrace.len(), layout::page_rows(self));
        let Some(list) = self.lists.last_mut() else { return };
        if let Page::Frames(_) | Page::Happened(_) = list.page {
            list.rows = Rows::Range(0..rows);
        }
        list.cursor = list.cursor.min(list.rows.len().saturating_sub(1));
        // The cursor is seen, and no line stays empty that a row could fill.
        list.top = list.top.min(list.cursor).max((list.cursor + 1).saturating_sub(height));
        list.top = list.top.min(list.rows.len().saturating_sub(height));
    }

    /// The order in which the next column is the one that `to` says, or the other way round.
    pub(super) fn sort(&mut self, to: impl Fn(usize, usize) -> usize) {
        self.reorder(|order| {
            let at = Sort::ALL.iter().position(|sort| *sort == order.sort).unwrap_or(0);
            order.sort = Sort::ALL[to(at, Sort::ALL.len())];
        });
    }

    /// Wants another order of the rows.
    pub(super) fn reorder(&mut self, change: impl FnOnce(&mut Order)) {
        match self.list().page {
            Page::Stacks | Page::Members(_) => change(&mut self.wanted.stack_order),
            Page::Groups => change(&mut self.wanted.group_order),
            _ => {}
        }
    }

    /// Whether the row at `at` fits the search.
    pub(super) fn fits(&self, at: usize) -> bool {
        let list = self.list();
        let Some(row) = list.rows.get(at) else { return false };
        match list.page {
            Page::Stacks | Page::Members(_) => rows::stack_fits(&self.picture, row, &self.search),
            Page::Groups => {
                let worst = self.picture.groups.get(row).map(|cluster| cluster.worst);
                worst.is_some_and(|id| rows::stack_fits(&self.picture, id, &self.search))
            }
            Page::Events => self.event(row).is_some_and(|event| rows::contains(&verdict::message(event), &self.search)),
            Page::Report => self.report.get(row).is_some_and(|line| rows::contains(line, &self.search)),
            Page::Output => false,
            Page::Frames(_) | Page::Happened(_) => match self.backtrace.get(row) {
                Some(Row::Frame(frame)) => {
                    let place = frame.place.as_deref().unwrap_or_default();
                    rows::contains(&frame.function, &self.search) || rows::contains(place, &self.search)
                }
                Some(Row::Crossing { words, .. } | Row::Ended(words)) => rows::contains(words, &self.search),
                None => false,
            },
        }
    }

    pub(super) fn next_match(&mut self) {
        let (cursor, count) = (self.list().cursor, self.list().rows.len());
        self.select_match((1..=count).map(|step| (cursor + step) % count));
    }

    pub(super) fn previous_match(&mut self) {
        let (cursor, count) = (self.list().cursor, self.list().rows.len());
        self.select_match((1..=count).map(|step| (cursor + count - step) % count));
    }

    fn select_match(&mut self, mut order: impl Iterator<Item = usize>) {
        if self.search.is_empty() {
            self.notice = Some("nothing was searched for yet".to_owned());
            return;
        }
        match order.find(|at| self.fits(*at)) {
            Some(at) => self.move_to(|_, _| at),
            None => self.notice = Some("nothing fits".to_owned()),
        }
    }
}
