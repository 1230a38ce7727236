//! Draws a [`Model`]: pure, one file for each part of the screen.

mod bar;
mod detail;
mod foot;
mod groups;
mod head;
pub(super) mod help;
pub(super) mod layout;
mod pen;
mod table;

use ratatui::Frame;

use self::layout::{Scale, layout};
use super::model::{Model, Overlay, Page};

/// Draws the whole screen.
pub(super) fn view(model: &Model, frame: &mut Frame<'_>) {
    let areas = layout(frame.area().as_size(), model.list().page);
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
    }
    if let Some(area) = areas.detail {
        detail::draw_preview(model, buffer, area);
    }
    foot::draw(model, buffer, areas.foot);
    if let Overlay::Help { wanted, cursor } = &model.overlay {
        help::draw(model, wanted, *cursor, buffer, areas.whole);
    }
}
