//! The mouse: the wheel moves, a click selects, a click on what is selected opens it, a click on a hint does it.

use ratatui::crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Position;

use super::act::act;
use super::keys::Action;
use super::model::{Effect, Model, Overlay, Page};
use super::view::{foot, layout};

/// How many rows the wheel moves by.
const WHEEL: usize = 3;

/// Takes in what the mouse did. Where something else than the list takes the keys, it does nothing.
pub(super) fn event(model: &mut Model, event: MouseEvent) -> Option<Effect> {
    if !matches!(model.overlay, Overlay::None) {
        return None;
    }
    model.touched = true;
    let times = |model: &mut Model, action| (0..WHEEL).filter_map(|_| act(model, action)).last();
    match event.kind {
        MouseEventKind::ScrollUp => times(model, Action::Up),
        MouseEventKind::ScrollDown => times(model, Action::Down),
        MouseEventKind::Down(MouseButton::Left) => click(model, Position::new(event.column, event.row)),
        MouseEventKind::Down(MouseButton::Right) => act(model, Action::Back),
        _ => None,
    }
}

fn click(model: &mut Model, at: Position) -> Option<Effect> {
    let page = model.list().page;
    let areas = layout::layout(model.size, page, model.launched);
    if areas.foot.contains(at) {
        let action = foot::action_at(model, areas.foot, at.x)?;
        return act(model, action);
    }
    if areas.output.is_some_and(|area| area.contains(at)) {
        return act(model, Action::Output);
    }
    if areas.detail.is_some_and(|area| area.contains(at)) {
        return act(model, Action::Open);
    }
    let first = areas.list.y + layout::frame_lines(page);
    if !areas.list.contains(at) || at.y < first || page == Page::Output {
        return None;
    }
    let list = model.list();
    let clicked = list.top + usize::from(at.y - first);
    list.rows.get(clicked)?;
    if clicked == list.cursor {
        return act(model, Action::Open);
    }
    model.move_to(|_, _| clicked);
    None
}
