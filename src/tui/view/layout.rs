//! Where the parts of the screen lie, by its size.

use ratatui::layout::{Rect, Size};

use super::super::model::{Model, Page};

/// How much room there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::tui) enum Scale {
    /// One status line and nothing else.
    Line,
    /// From 40x8: a list of few columns.
    Narrow,
    /// From 60x16: a list, and the selected stack's frames below.
    Middle,
    /// From 100x28: all columns.
    Wide,
}

/// The parts of the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tui) struct Areas {
    pub(in crate::tui) scale: Scale,
    pub(in crate::tui) whole: Rect,
    pub(in crate::tui) head: Rect,
    pub(in crate::tui) list: Rect,
    /// The selected stack's frames, where the list shows something else and there is room.
    pub(in crate::tui) detail: Option<Rect>,
    /// The last line that a program of ours wrote.
    pub(in crate::tui) output: Option<Rect>,
    pub(in crate::tui) foot: Rect,
}

/// The lines that a page takes besides its rows: a title, mostly headings, and for frames two lines on the stack, or on
/// what happened there.
pub(in crate::tui) fn frame_lines(page: Page) -> u16 {
    match page {
        Page::Frames(_) | Page::Happened(_) => 3,
        Page::Stacks | Page::Groups | Page::Members(_) | Page::Events => 2,
        Page::Output | Page::Report => 1,
    }
}

/// How much room a width and height are.
pub(super) fn scale(size: Size) -> Scale {
    match (size.width, size.height) {
        (100.., 28..) => Scale::Wide,
        (60.., 16..) => Scale::Middle,
        (40.., 8..) => Scale::Narrow,
        _ => Scale::Line,
    }
}

/// The parts of a screen of this size that shows this page, of a program that we launched or not.
pub(in crate::tui) fn layout(size: Size, page: Page, launched: bool) -> Areas {
    let scale = scale(size);
    let whole = Rect::new(0, 0, size.width, size.height);
    let lines = |from: u16, count: u16| Rect::new(0, from, size.width, count).intersection(whole);
    let head = if scale == Scale::Wide { 2 } else { 1 };
    let line = u16::from(launched && scale >= Scale::Middle && page != Page::Output);
    let body = size.height.saturating_sub(head + 1 + line);
    let is_whole = matches!(page, Page::Frames(_) | Page::Output | Page::Report | Page::Happened(_));
    let has_detail = scale >= Scale::Middle && !is_whole;
    let detail = if has_detail { body * 9 / 20 } else { 0 };
    Areas {
        scale,
        whole,
        head: lines(0, head),
        list: lines(head, body - detail),
        detail: has_detail.then(|| lines(head + body - detail, detail)),
        output: (line > 0).then(|| lines(head + body, 1)),
        foot: lines(head + body + line, 1),
    }
}

/// How many rows of the list are seen at once.
pub(in crate::tui) fn page_rows(model: &Model) -> usize {
    let page = model.list().page;
    usize::from(layout(model.size, page, model.launched).list.height.saturating_sub(frame_lines(page)))
}

/// The size of the program's terminal on a screen of this size: that of the output page, whether it is seen or not.
pub(in crate::tui) fn pane(size: Size) -> Size {
    let list = layout(size, Page::Output, true).list;
    Size::new(list.width, list.height.saturating_sub(frame_lines(Page::Output)).max(1))
}
