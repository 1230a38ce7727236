//! What stands above every list: what is still to come, its order, and which rows are seen.

use ratatui::layout::Rect;
use ratatui::text::Span;

use super::super::model::{Model, Page};
use super::layout::frame_lines;
use crate::image::printable;
use crate::report::units;

/// The cells that a rule has for other things than the position in the list.
const BESIDE_POSITION: usize = 16;

/// What of the first whole look is still to come; nothing once it is there.
pub(super) fn loading(model: &Model) -> String {
    let dot = if model.look.ascii { ", " } else { " · " };
    match model.loading {
        None => String::new(),
        Some((_, 0)) => format!("{dot}searching memory"),
        Some((done, all)) => format!("{dot}symbols {done}/{all}"),
    }
}

/// What the list is sorted by, and which of its rows are seen; where there is little room, the latter alone.
pub(super) fn position(model: &Model, area: Rect) -> String {
    let (list, look) = (model.list(), model.look);
    let lines = usize::from(area.height.saturating_sub(frame_lines(list.page)));
    let last = list.rows.len().min(list.top + lines);
    let first = list.top + 1;
    let (dash, dot) = if look.ascii { ("-", "|") } else { ("–", "·") };
    let order = model.order().map_or(String::new(), |order| {
        let arrow = match (order.reversed, look.ascii) {
            (false, false) => '▼',
            (true, false) => '▲',
            (false, true) => 'v',
            (true, true) => '^',
        };
        format!("sort {} {arrow} {dot} ", order.sort.heading(list.page == Page::Groups))
    });
    let is_of_stacks = matches!(list.page, Page::Stacks | Page::Groups | Page::Members(_));
    let (filter, filtered) = match model.picture.wanted.filter.to_string() {
        filter if !is_of_stacks || filter.is_empty() => (String::new(), String::new()),
        filter => (format!("filter {} {dot} ", printable(&filter)), format!("filtered {dot} ")),
    };
    let (first, last, total) = (units::count(first), units::count(last), units::count(list.rows.len()));
    let range = if list.rows.len() == 0 { "none".to_owned() } else { format!("{first}{dash}{last} of {total}") };
    let room = usize::from(area.width).saturating_sub(BESIDE_POSITION);
    let ways = [format!("{order}{filter}{range}"), format!("{filter}{range}"), format!("{filtered}{range}")];
    let fitting = ways.into_iter().find(|way| Span::raw(way.as_str()).width() <= room);
    look.fit(&fitting.unwrap_or(range))
}
