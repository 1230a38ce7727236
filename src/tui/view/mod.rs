//! Draws a [`Model`]: pure, one file for each part of the screen.

mod bar;
mod detail;
mod empty;
mod events;
pub(super) mod foot;
mod groups;
mod head;
pub(super) mod help;
pub(super) mod layout;
mod list;
mod map;
mod output;
mod pen;
pub(super) mod quit;
pub(super) mod report;
mod table;

use ratatui::Frame;

use self::layout::{Scale, layout};
use super::model::{Model, Overlay, Page};

/// Draws the whole screen.
pub(super) fn view(model: &Model, frame: &mut Frame<'_>) {
    let areas = layout(frame.area().as_size(), model.list().page, model.launched);
    let buffer = frame.buffer_mut();
    if areas.scale == Scale::Line {
        head::status_line(model, buffer, areas.head);
        return;
    }
    head::draw(model, buffer, areas.head);
    match model.list().page {
        Page::Stacks | Page::Members(_) => table::draw(model, buffer, areas.list),
        Page::Groups => groups::draw(model, buffer, areas.list),
        Page::Frames(_) => detail::draw_page(model, buffer, areas.list),
        Page::Events => events::draw(model, buffer, areas.list),
        Page::Happened(_) => events::draw_page(model, buffer, areas.list),
        Page::Output => output::draw(model, buffer, areas.list),
        Page::Report => report::draw(model, buffer, areas.list),
    }
    match areas.detail {
        Some(area) if model.list().page == Page::Events => events::draw_preview(model, buffer, area),
        Some(area) => detail::draw_preview(model, buffer, area),
        None => {}
    }
    if let Some(area) = areas.output {
        output::draw_line(model, buffer, area);
    }
    foot::draw(model, buffer, areas.foot);
    foot::draw_problem(model, buffer, areas.whole);
    match &model.overlay {
        Overlay::Help { wanted, cursor } => help::draw(model, wanted, *cursor, buffer, areas.whole),
        Overlay::Quit { cursor } => quit::draw(model, *cursor, buffer, areas.whole),
        _ => {}
    }
    if let Some(position) = output::cursor(model, areas.list) {
        frame.set_cursor_position(position);
    }
}
