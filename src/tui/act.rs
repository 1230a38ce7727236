//! Does what keys, commands and the mouse stand for.

use std::sync::Arc;
use std::time::Duration;

use super::keys::Action;
use super::model::{Effect, Model, Overlay, Page};
use super::pages::selection;
use super::picture::Picture;
use super::view::{layout, report};
use crate::report::units;

/// The periods between which keys choose.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// How far the report goes sideways at once.
const SHIFT: usize = 20;

/// Leaves, or asks first what becomes of the program.
pub(super) fn leave(model: &mut Model) -> Option<Effect> {
    if !model.decides() {
        return Some(Effect::Leave);
    }
    model.overlay = Overlay::Quit { cursor: 0 };
    None
}

/// Does what a key says.
pub(super) fn act(model: &mut Model, action: Action) -> Option<Effect> {
    if let Some(lines) = scroll(model, action) {
        model.scrolled = lines;
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
        Action::Open if model.list().page == Page::Report => model.shift(|by| by + SHIFT),
        Action::Open => model.open(),
        Action::Back if model.list().page == Page::Report && model.shifted > 0 => {
            model.shift(|by| by.saturating_sub(SHIFT));
        }
        Action::Back => model.back(),
        Action::Stacks => model.show(Page::Stacks),
        Action::Groups => model.show(Page::Groups),
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
        Action::SortRight => {
            model.sort(|at, count| (at + 1) % count);
            return Some(Effect::Arrange);
        }
        Action::SortLeft => {
            model.sort(|at, count| (at + count - 1) % count);
            return Some(Effect::Arrange);
        }
        Action::Reverse => {
            model.reorder(|order| order.reversed = !order.reversed);
            return Some(Effect::Arrange);
        }
        Action::Filter => {
            let former = model.wanted.filter.clone();
            model.overlay = Overlay::Filter { text: former.to_string(), former, problem: None };
        }
        Action::GroupBy => model.overlay = Overlay::GroupBy,
        Action::Command => model.overlay = Overlay::Command { text: String::new() },
        Action::NextProcess => return next_process(model),
        Action::Map => model.map = !model.map,
        Action::Dump => return Some(Effect::Dump(None)),
        Action::Freeze => return model.freeze(),
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

/// From how many lines further up the program's terminal is seen after an action; `None` if that changes nothing there.
fn scroll(model: &Model, action: Action) -> Option<usize> {
    let pane = model.pane.as_ref().filter(|_| model.list().page == Page::Output)?;
    let page = usize::from(pane.cells.area.height).max(2) - 1;
    let lines = match action {
        Action::Up => model.scrolled + 1,
        Action::Down => model.scrolled.saturating_sub(1),
        Action::PageUp => model.scrolled + page,
        Action::PageDown => model.scrolled.saturating_sub(page),
        Action::First => pane.kept,
        Action::Last => 0,
        _ => return None,
    };
    Some(lines.min(pane.kept))
}

/// Wants the process after the one that is shown.
fn next_process(model: &mut Model) -> Option<Effect> {
    let processes = &model.picture.processes;
    let shown = model.picture.snapshot.process.pid;
    let next = processes.iter().find(|(pid, _)| *pid > shown).or(processes.first());
    let Some((pid, _)) = next.filter(|(pid, _)| *pid != shown) else {
        model.notice = Some("there is no other process".to_owned());
        return None;
    };
    model.wanted.process = Some(*pid);
    Some(Effect::Arrange)
}

/// Another picture: the rows that were selected are selected again.
pub(super) fn arranged(model: &mut Model, picture: Arc<Picture>) {
    let selections: Vec<_> = model.lists.iter().map(|list| selection(model, list)).collect();
    model.replace(picture);
    model.rebuild();
    model.select_again(&selections);
}

impl Model {
    /// Freezes or thaws the display. What was wanted in between is arranged of the newest look.
    pub(super) fn freeze(&mut self) -> Option<Effect> {
        self.frozen = !self.frozen;
        if self.frozen {
            return None;
        }
        if let Some(pane) = self.fresh_pane.take() {
            self.pane = Some(pane);
        }
        let picture = self.fresh.take()?;
        let is_wanted = picture.wanted == self.wanted;
        arranged(self, picture);
        (!is_wanted).then_some(Effect::Arrange)
    }

    /// Shows the report from another column on, at most so far that its longest line ends with the screen.
    fn shift(&mut self, to: impl FnOnce(usize) -> usize) {
        let longest = self.report.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        let room = usize::from(self.size.width).saturating_sub(report::MARGIN);
        self.shifted = to(self.shifted).min(longest.saturating_sub(room));
    }

    pub(super) fn set_interval(&mut self, interval: Duration) -> Effect {
        self.interval = interval.clamp(SHORTEST, LONGEST);
        self.notice = Some(format!("a look every {}", units::time(self.interval)));
        Effect::Interval(self.interval)
    }
}
