//! Takes in messages: the only place that changes the [`Model`].

use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::keys::{self, Action};
use super::model::{Effect, List, Message, Model, Order, Overlay, Page, Shown};
use super::pane::Modes;
use super::picture::{Identity, Picture, danger};
use super::rows::{self, Sort};
use super::typing;
use super::view::quit::{self, Answer};
use super::view::{help, layout};
use crate::report::backtrace::{self, Row};
use crate::watch::Event;

/// The periods between which keys choose.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// How many events are kept for the screen.
const MOST_EVENTS: usize = 10_000;

/// Takes in one message; what it asks for is to be done by the caller.
pub(crate) fn update(model: &mut Model, message: Message) -> Option<Effect> {
    let effect = match message {
        Message::Key(event) => key(model, event),
        Message::Pasted(text) => paste(model, &text),
        Message::Resized(size) => {
            model.size = size;
            None
        }
        Message::Looked(picture) => looked(model, picture),
        Message::Event(event) => {
            model.add_event(event);
            None
        }
        Message::Output(pane) if model.frozen => {
            model.fresh_pane = Some(pane);
            None
        }
        Message::Output(pane) => {
            model.pane = Some(pane);
            None
        }
        Message::Report(lines) => {
            model.report = lines;
            model.rebuild();
            None
        }
        Message::Paused(paused) => {
            model.paused = paused;
            None
        }
        Message::WantsToLeave => leave(model),
        Message::Ended(end) => {
            model.end = Some(end);
            if let Overlay::Typing | Overlay::Quit { .. } = model.overlay {
                model.overlay = Overlay::None;
            }
            None
        }
    };
    model.settle();
    effect
}

/// A new picture: the rows that were selected are selected again.
fn looked(model: &mut Model, picture: Arc<Picture>) -> Option<Effect> {
    if model.frozen {
        model.fresh = Some(picture);
        return None;
    }
    if !model.touched {
        model.picture = picture;
        model.shown = None;
        model.begin();
        return None;
    }
    let selections: Vec<Option<Selection>> = model.lists.iter().map(|list| selection(model, list)).collect();
    model.picture = picture;
    model.shown = None;
    model.rebuild();
    model.select_again(&selections);
    (model.list().page == Page::Report).then_some(Effect::Report)
}

/// A selected row, by what it is known by in other pictures.
#[derive(Clone, Copy)]
enum Selection {
    Stack(Identity),
    Group(u64),
}

fn selection(model: &Model, list: &List) -> Option<Selection> {
    let row = list.row()?;
    match list.page {
        Page::Stacks | Page::Members(_) => Some(Selection::Stack(model.picture.identity(row))),
        Page::Groups => Some(Selection::Group(model.picture.groups.get(row)?.fingerprint)),
        Page::Frames(_) | Page::Events | Page::Happened(_) | Page::Output | Page::Report => None,
    }
}

fn key(model: &mut Model, event: KeyEvent) -> Option<Effect> {
    model.notice = None;
    model.touched = true;
    if let Overlay::Typing = model.overlay {
        return type_key(model, event);
    }
    if event.code == KeyCode::Char('c') && event.modifiers.contains(KeyModifiers::CONTROL) {
        return act(model, Action::Interrupt);
    }
    if event.modifiers.contains(KeyModifiers::ALT) {
        // A terminal sends Escape and then a key as it sends that key with Alt, which means nothing here.
        key(model, KeyCode::Esc.into());
        return key(model, KeyEvent { modifiers: event.modifiers - KeyModifiers::ALT, ..event });
    }
    match std::mem::replace(&mut model.overlay, Overlay::None) {
        Overlay::None => keys::action(event).and_then(|action| act(model, action)),
        Overlay::Search { origin } => {
            search_key(model, event.code, origin);
            None
        }
        Overlay::Help { wanted, cursor } => help_key(model, event.code, wanted, cursor),
        Overlay::Quit { cursor } => quit_key(model, event.code, cursor),
        Overlay::Typing => None,
    }
}

/// A key for the program, but for the one that ends this.
fn type_key(model: &mut Model, event: KeyEvent) -> Option<Effect> {
    // Terminals tell of `^]` as of `^5`, which is the same byte.
    let ends = matches!(event.code, KeyCode::Char(']' | '5')) && event.modifiers.contains(KeyModifiers::CONTROL);
    if ends {
        model.overlay = Overlay::None;
        return None;
    }
    let modes = model.pane.as_ref().map_or_else(Modes::default, |pane| pane.modes);
    Some(Effect::Type(typing::bytes(event, modes)))
}

fn paste(model: &mut Model, text: &str) -> Option<Effect> {
    let modes = model.pane.as_ref().map_or_else(Modes::default, |pane| pane.modes);
    match &mut model.overlay {
        Overlay::Typing => return Some(Effect::Type(typing::pasted(text, modes))),
        Overlay::Search { .. } => model.search.extend(text.chars().filter(|letter| !letter.is_control())),
        _ => {}
    }
    None
}

/// Leaves, if nothing is to be decided first.
fn leave(model: &mut Model) -> Option<Effect> {
    if !model.decides() {
        return Some(Effect::Leave);
    }
    model.overlay = Overlay::Quit { cursor: 0 };
    None
}

/// A key on the question what is to become of the program.
fn quit_key(model: &mut Model, code: KeyCode, cursor: usize) -> Option<Effect> {
    let choices = quit::choices(model);
    let chosen = match code {
        KeyCode::Enter => choices.get(cursor).map(|choice| choice.answer),
        KeyCode::Char(letter) => choices.iter().find(|choice| choice.key == letter).map(|choice| choice.answer),
        KeyCode::Esc => Some(Answer::Cancel),
        _ => None,
    };
    let last = choices.len().saturating_sub(1);
    match chosen {
        Some(Answer::KeepRunning) => return Some(Effect::Leave),
        Some(Answer::End) => {
            let signal = if model.told_to_end { libc::SIGKILL } else { libc::SIGTERM };
            model.told_to_end = true;
            model.notice = Some("the program was told to end".to_owned());
            return Some(Effect::Send(signal));
        }
        Some(Answer::Cancel) => return None,
        None => {}
    }
    let cursor = match code {
        KeyCode::Up | KeyCode::Char('k') => cursor.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') | KeyCode::Tab => (cursor + 1).min(last),
        _ => cursor,
    };
    model.overlay = Overlay::Quit { cursor };
    None
}

fn act(model: &mut Model, action: Action) -> Option<Effect> {
    if let Some(lines) = scroll(model, action) {
        return Some(Effect::Scroll(lines));
    }
    let page = layout::page_rows(model).max(2) - 1;
    match action {
        Action::Up => model.move_to(|cursor, _| cursor.saturating_sub(1)),
        Action::Down => model.move_to(|cursor, _| cursor + 1),
        Action::PageUp => model.move_to(|cursor, _| cursor.saturating_sub(page)),
        Action::PageDown => model.move_to(|cursor, _| cursor + page),
        Action::First => model.move_to(|_, _| 0),
        Action::Last => model.move_to(|_, last| last),
        Action::Worst => model.select_worst(),
        Action::Open => model.open(),
        Action::Back => model.back(),
        Action::Stacks => model.show(Page::Stacks),
        Action::Groups => {
            let is_grouped = model.lists.first().is_some_and(|list| list.page == Page::Groups);
            model.show(if is_grouped { Page::Stacks } else { Page::Groups });
        }
        Action::Events => model.show(Page::Events),
        Action::Output if !model.launched => model.notice = Some("the program has a terminal of its own".to_owned()),
        Action::Output if model.list().page == Page::Output => model.back(),
        Action::Output => model.push(Page::Output),
        Action::Report => {
            model.show(Page::Report);
            return Some(Effect::Report);
        }
        Action::Type => model.type_in(),
        Action::Interrupt if model.decides() => {
            model.notice = Some("the program was interrupted; again: leave".to_owned());
            return Some(Effect::Interrupt);
        }
        Action::Interrupt => return Some(Effect::Leave),
        Action::Pause if model.end.is_some() => {}
        Action::Pause => return Some(if model.paused { Effect::Resume } else { Effect::Pause }),
        Action::Search => {
            model.search.clear();
            model.overlay = Overlay::Search { origin: model.list().cursor };
        }
        Action::NextMatch => model.next_match(),
        Action::PreviousMatch => model.previous_match(),
        Action::SortRight => model.sort(|at, count| (at + 1) % count),
        Action::SortLeft => model.sort(|at, count| (at + count - 1) % count),
        Action::Reverse => model.reorder(|order| order.reversed = !order.reversed),
        Action::Freeze => model.freeze(),
        Action::Slower => return Some(model.set_interval(model.interval * 2)),
        Action::Faster => return Some(model.set_interval(model.interval / 2)),
        Action::Help => model.overlay = Overlay::Help { wanted: String::new(), cursor: 0 },
        Action::Redraw => return Some(Effect::Redraw),
        Action::Suspend => return Some(Effect::Suspend),
        Action::Detach => return Some(Effect::Leave),
        Action::Quit => return leave(model),
    }
    None
}

/// A key while a search is typed: the first match from where it began is selected at once.
fn search_key(model: &mut Model, code: KeyCode, origin: usize) {
    match code {
        KeyCode::Enter => return,
        KeyCode::Esc => {
            model.search.clear();
            model.move_to(|_, _| origin);
            return;
        }
        KeyCode::Backspace => {
            model.search.pop();
        }
        KeyCode::Char(letter) => model.search.push(letter),
        _ => {}
    }
    model.overlay = Overlay::Search { origin };
    let count = model.list().rows.len();
    let found = (0..count).map(|step| (origin + step) % count).find(|at| model.fits(*at));
    model.move_to(|_, _| found.unwrap_or(origin));
    if found.is_none() && !model.search.is_empty() {
        model.notice = Some("nothing fits".to_owned());
    }
}

/// A key on the help page: letters search it, Enter does what the selected line says.
fn help_key(model: &mut Model, code: KeyCode, mut wanted: String, mut cursor: usize) -> Option<Effect> {
    let count = help::found(&wanted).len();
    match code {
        KeyCode::Esc | KeyCode::F(1) => return None,
        KeyCode::Enter => {
            let action = help::found(&wanted).get(cursor).map(|binding| binding.action);
            return action.and_then(|action| act(model, action));
        }
        KeyCode::Up => cursor = cursor.saturating_sub(1),
        KeyCode::Down => cursor = (cursor + 1).min(count.saturating_sub(1)),
        KeyCode::Backspace => {
            wanted.pop();
            cursor = 0;
        }
        KeyCode::Char(letter) => {
            wanted.push(letter);
            cursor = 0;
        }
        _ => {}
    }
    model.overlay = Overlay::Help { wanted, cursor };
    None
}

/// The numbers of the events that are known, the newest first.
fn event_rows(forgotten: usize, known: usize) -> Vec<usize> {
    (forgotten..forgotten + known).rev().collect()
}

/// How far up the program's terminal is to be seen after an action; `None` where that has nothing to do with it.
fn scroll(model: &Model, action: Action) -> Option<usize> {
    let pane = model.pane.as_ref().filter(|_| model.list().page == Page::Output)?;
    let page = usize::from(pane.cells.area.height).max(2) - 1;
    let lines = match action {
        Action::Up => pane.scrolled + 1,
        Action::Down => pane.scrolled.saturating_sub(1),
        Action::PageUp => pane.scrolled + page,
        Action::PageDown => pane.scrolled.saturating_sub(page),
        Action::First => pane.kept,
        Action::Last => 0,
        _ => return None,
    };
    Some(lines.min(pane.kept))
}

impl Model {
    /// Moves the cursor to where `to` says, given where it is and the last row.
    fn move_to(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        if let Some(list) = self.lists.last_mut() {
            let last = list.rows.len().saturating_sub(1);
            list.cursor = to(list.cursor, last).min(last);
        }
    }

    /// Selects the row of a stack or a group, if the page has it.
    fn select(&mut self, row: usize) {
        let at = self.list().rows.iter().position(|other| *other == row);
        if let Some(at) = at {
            self.move_to(|_, _| at);
        }
    }

    fn select_worst(&mut self) {
        self.show(Page::Stacks);
        let stacks = self.picture.snapshot.stacks.iter().enumerate();
        if let Some((worst, _)) = stacks.max_by_key(|(_, stack)| danger(stack)) {
            self.select(worst);
        }
    }

    fn open(&mut self) {
        let Some(row) = self.list().row() else { return };
        let page = match self.list().page {
            Page::Stacks | Page::Members(_) => Page::Frames(self.picture.identity(row)),
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
    fn push(&mut self, page: Page) {
        self.lists.push(List::new(page));
        self.rebuild();
    }

    fn type_in(&mut self) {
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

    /// Takes in an event; the oldest ones give way to new ones.
    fn add_event(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > MOST_EVENTS {
            self.events.pop_front();
            self.forgotten += 1;
        }
        for list in self.lists.iter_mut().filter(|list| list.page == Page::Events) {
            list.rows = event_rows(self.forgotten, self.events.len());
            // The newest stays selected; any other one does by moving with its row.
            list.cursor += usize::from(list.cursor > 0);
        }
    }

    fn back(&mut self) {
        if self.lists.len() > 1 {
            self.lists.pop();
        }
    }

    /// Shows a page that is opened from no other, with the selected stack still selected.
    fn show(&mut self, page: Page) {
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
            Page::Members(fingerprint) => self.members(fingerprint).is_some(),
            Page::Frames(identity) => self.picture.find(identity).is_some(),
        }
    }

    fn members(&self, fingerprint: u64) -> Option<&[usize]> {
        let cluster = self.picture.groups.iter().find(|cluster| cluster.fingerprint == fingerprint)?;
        Some(&cluster.group.stacks)
    }

    fn rows_of(&self, page: Page) -> Vec<usize> {
        let Order { sort, reversed } = self.stack_order;
        match page {
            Page::Stacks => rows::stacks(&self.picture, None, sort, reversed),
            Page::Members(fingerprint) => rows::stacks(&self.picture, self.members(fingerprint), sort, reversed),
            Page::Groups => rows::groups(&self.picture, self.group_order.sort, self.group_order.reversed),
            Page::Events => event_rows(self.forgotten, self.events.len()),
            Page::Report => (0..self.report.len()).collect(),
            // They are those of the backtrace, which is made for the selected stack.
            Page::Frames(_) | Page::Happened(_) => Vec::new(),
            Page::Output => Vec::new(),
        }
    }

    /// Selects what was selected in the picture before, on each page.
    fn select_again(&mut self, selections: &[Option<Selection>]) {
        let mut lists = std::mem::take(&mut self.lists);
        for (list, selection) in lists.iter_mut().zip(selections) {
            let row = match selection {
                Some(Selection::Stack(identity)) => self.picture.find(*identity),
                Some(Selection::Group(fingerprint)) => {
                    self.picture.groups.iter().position(|cluster| cluster.fingerprint == *fingerprint)
                }
                None => None,
            };
            if let Some(at) = row.and_then(|row| list.rows.iter().position(|other| *other == row)) {
                list.cursor = at;
            }
        }
        self.lists = lists;
    }

    /// Brings everything that depends on the selection in line with it.
    fn settle(&mut self) {
        let list = self.list();
        let shown = match list.page {
            Page::Stacks | Page::Members(_) => list.row().map(Shown::Stack),
            Page::Groups => list.row().and_then(|row| Some(Shown::Stack(self.picture.groups.get(row)?.worst))),
            Page::Frames(identity) => self.picture.find(identity).map(Shown::Stack),
            Page::Events => list.row().map(Shown::Event),
            Page::Happened(number) => Some(Shown::Event(number)),
            // What was selected before stays so for the page that follows.
            Page::Output | Page::Report => self.shown,
        };
        if shown != self.shown {
            self.backtrace = match shown {
                Some(Shown::Stack(id)) => backtrace::rows(&self.picture.snapshot, id),
                Some(Shown::Event(number)) => {
                    let look = self.event(number).and_then(|event| event.look.as_ref());
                    look.map_or_else(Vec::new, |look| backtrace::rows(&look.snapshot, look.stack))
                }
                None => Vec::new(),
            };
            self.shown = shown;
        }
        let (rows, height) = (self.backtrace.len(), layout::page_rows(self));
        let Some(list) = self.lists.last_mut() else { return };
        if let Page::Frames(_) | Page::Happened(_) = list.page {
            list.rows = (0..rows).collect();
        }
        list.cursor = list.cursor.min(list.rows.len().saturating_sub(1));
        // The cursor is seen, and no line stays empty that a row could fill.
        list.top = list.top.min(list.cursor).max((list.cursor + 1).saturating_sub(height));
        list.top = list.top.min(list.rows.len().saturating_sub(height));
    }

    fn freeze(&mut self) {
        self.frozen = !self.frozen;
        if self.frozen {
            return;
        }
        if let Some(picture) = self.fresh.take() {
            update(self, Message::Looked(picture));
        }
        if let Some(pane) = self.fresh_pane.take() {
            self.pane = Some(pane);
        }
    }

    fn set_interval(&mut self, interval: Duration) -> Effect {
        self.interval = interval.clamp(SHORTEST, LONGEST);
        self.notice = Some(format!("a look every {}", crate::report::units::time(self.interval)));
        Effect::Interval(self.interval)
    }

    fn sort(&mut self, to: impl Fn(usize, usize) -> usize) {
        self.reorder(|order| {
            let at = Sort::ALL.iter().position(|sort| *sort == order.sort).unwrap_or(0);
            order.sort = Sort::ALL[to(at, Sort::ALL.len())];
        });
    }

    /// Changes the order of the rows; the selected one stays selected.
    fn reorder(&mut self, change: impl FnOnce(&mut Order)) {
        match self.list().page {
            Page::Stacks | Page::Members(_) => change(&mut self.stack_order),
            Page::Groups => change(&mut self.group_order),
            _ => return,
        }
        let row = self.list().row();
        self.rebuild();
        if let Some(row) = row {
            self.select(row);
        }
    }

    /// Whether the row at `at` fits the search.
    fn fits(&self, at: usize) -> bool {
        let list = self.list();
        let Some(row) = list.rows.get(at) else { return false };
        match list.page {
            Page::Stacks | Page::Members(_) => rows::stack_fits(&self.picture, *row, &self.search),
            Page::Groups => {
                let worst = self.picture.groups.get(*row).map(|cluster| cluster.worst);
                worst.is_some_and(|id| rows::stack_fits(&self.picture, id, &self.search))
            }
            Page::Events => self.event(*row).is_some_and(|event| rows::contains(&event.message, &self.search)),
            Page::Report => self.report.get(*row).is_some_and(|line| rows::contains(line, &self.search)),
            Page::Output => false,
            Page::Frames(_) | Page::Happened(_) => match self.backtrace.get(*row) {
                Some(Row::Frame(frame)) => {
                    let place = frame.place.as_deref().unwrap_or_default();
                    rows::contains(&frame.function, &self.search) || rows::contains(place, &self.search)
                }
                Some(Row::Crossing { words, .. } | Row::Ended(words)) => rows::contains(words, &self.search),
                None => false,
            },
        }
    }

    fn next_match(&mut self) {
        let (cursor, count) = (self.list().cursor, self.list().rows.len());
        self.select_match((1..=count).map(|step| (cursor + step) % count));
    }

    fn previous_match(&mut self) {
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
