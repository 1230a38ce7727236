//! All that the screen depends on, and what can happen to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{KeyEvent, MouseEvent};
use ratatui::layout::Size;

use super::pane::Pane;
use super::picture::{Picture, RowKey, Wanted};
use super::sort::Order;
use super::theme::Look;
use crate::filter::Filter;
use crate::report::backtrace::Row;
use crate::snapshot::Snapshot;
use crate::watch::{End, Event};

/// How many stacks there may be before they are shown in groups at first.
const MOST_SINGLY: usize = 200;

/// Something that the screen has to take in.
#[derive(Debug)]
pub(crate) enum Message {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized(Size),
    /// There is a new look.
    Looked(Arc<Picture>),
    /// How many modules were read for their names, and how many there are.
    Loading((usize, usize)),
    /// Something happened to the program.
    Event(Event),
    /// The program stands still on demand, or runs on.
    Paused(bool),
    /// The program's terminal shows something else.
    Output(Arc<Pane>),
    /// Something was pasted.
    Pasted(String),
    /// What the report says so far.
    Report(Vec<String>),
    /// The user has asked to leave by more than one interrupt.
    WantsToLeave,
    /// The picture was arranged as it was wanted.
    Arranged(Arc<Picture>),
    /// A word for the bottom line.
    Notice(String),
    /// A button of the mouse was pressed, or its wheel turned.
    Mouse(MouseEvent),
    /// The watch has ended by itself.
    Ended(End),
}

/// Something that the screen asks of those who can act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// End the watch and restore the terminal.
    Leave,
    /// Restore the terminal and stop ourselves until we are continued.
    Suspend,
    /// Look with this period.
    Interval(Duration),
    /// Draw everything anew.
    Redraw,
    /// Have the program stand still.
    Pause,
    /// Let it run on.
    Resume,
    /// Send it a signal.
    Send(i32),
    /// Interrupt it as the key of its terminal does.
    Interrupt,
    /// Type into its terminal.
    Type(Vec<u8>),
    /// Show its terminal from this many lines further up.
    Scroll(usize),
    /// Tell what the report says so far.
    Report,
    /// Arrange the newest look as the model wants it; while the display is frozen, the one that is shown.
    Arrange,
    /// Write what is shown to a file, of this name or one of its own.
    Dump(Option<String>),
}

/// What fills the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// All stacks.
    Stacks,
    /// Groups of stacks with equal backtraces.
    Groups,
    /// The stacks of the group with this fingerprint.
    Members(u64),
    /// The backtrace that begins at one stack.
    Frames(RowKey),
    /// What happened, the newest first.
    Events,
    /// Where the event with this number happened.
    Happened(usize),
    /// The program's terminal.
    Output,
    /// The report so far.
    Report,
}

/// A page, its rows, and which of them are seen.
#[derive(Debug)]
pub(super) struct List {
    pub(super) page: Page,
    /// Ids of stacks, or indices: of groups, events, rows of a backtrace, or lines of the report.
    pub(super) rows: Rows,
    /// The selected row: an index into `rows`.
    pub(super) cursor: usize,
    /// The first row that is seen.
    pub(super) top: usize,
}

/// The rows of a list.
#[derive(Clone, Debug)]
pub(super) enum Rows {
    /// Those of a picture, which may be very many.
    Of(Arc<[usize]>),
    /// Numbers in order.
    Range(Range<usize>),
    /// Numbers from the last to the first.
    Backwards(Range<usize>),
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        match self {
            Rows::Of(rows) => rows.len(),
            Rows::Range(range) | Rows::Backwards(range) => range.len(),
        }
    }

    /// The row at `at`.
    pub(super) fn get(&self, at: usize) -> Option<usize> {
        match self {
            Rows::Of(rows) => rows.get(at).copied(),
            Rows::Range(range) => (at < range.len()).then(|| range.start + at),
            Rows::Backwards(range) => (at < range.len()).then(|| range.end - 1 - at),
        }
    }

    /// Where a row is.
    pub(super) fn position(&self, row: usize) -> Option<usize> {
        match self {
            Rows::Of(rows) => rows.iter().position(|other| *other == row),
            Rows::Range(range) => range.contains(&row).then(|| row - range.start),
            Rows::Backwards(range) => range.contains(&row).then(|| range.end - 1 - row),
        }
    }

    /// Up to `count` rows from `top` on, each with where it is.
    pub(super) fn seen(&self, top: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
        (top..top.saturating_add(count)).map_while(|at| Some((at, self.get(at)?)))
    }
}

/// What a backtrace is shown of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// The stack with this id.
    Stack(usize),
    /// The event with this number, and where it happened.
    Event(usize),
}

/// What takes the keys instead of the list.
#[derive(Debug)]
pub(super) enum Overlay {
    /// The list has them.
    None,
    /// A search is being typed; it began at this row.
    Search { origin: usize },
    /// The help page, with what was typed to find a line of it, and the selected one.
    Help { wanted: String, cursor: usize },
    /// The question what is to become of the program, and the selected answer.
    Quit { cursor: usize },
    /// A filter is being typed; before, this one was used, and as it is typed now, this is wrong with it.
    Filter { text: String, former: Filter, problem: Option<String> },
    /// By what stacks are to stand together is asked.
    GroupBy,
    /// A command is being typed.
    Command { text: String },
    /// Keys go to the program.
    Typing,
}

/// The state of the screen.
#[derive(Debug)]
pub(crate) struct Model {
    pub(super) size: Size,
    pub(super) look: Look,
    /// The picture that is shown.
    pub(super) picture: Arc<Picture>,
    /// The newest one, while another one is frozen.
    pub(super) fresh: Option<Arc<Picture>>,
    pub(super) frozen: bool,
    /// The newest state of the program's terminal, while another one is frozen.
    pub(super) fresh_pane: Option<Arc<Pane>>,
    /// How many modules were read for the first whole look, of how many, until there is one.
    pub(super) loading: Option<(usize, usize)>,
    /// Whether a key was pressed: until then each picture is shown as if it were the first.
    pub(super) touched: bool,
    /// The pages that were opened, one from the other; the last one is seen. Never empty.
    pub(super) lists: Vec<List>,
    /// How the next picture will be arranged.
    pub(super) wanted: Wanted,
    /// What the backtrace is of.
    pub(super) shown: Option<Shown>,
    pub(super) backtrace: Vec<Row>,
    /// What was searched for last.
    pub(super) search: String,
    pub(super) overlay: Overlay,
    /// The period that was asked for.
    pub(super) interval: Duration,
    /// What ended the watch, once it has ended by itself.
    pub(super) end: Option<End>,
    /// Whether the program is ours: it has a terminal here, and leaving takes a decision.
    pub(crate) launched: bool,
    /// Whether it stands still on demand.
    pub(super) paused: bool,
    /// Whether it was asked to end.
    pub(super) told_to_end: bool,
    /// What its terminal shows.
    pub(super) pane: Option<Arc<Pane>>,
    /// From how many lines further up it is wanted.
    pub(super) scrolled: usize,
    /// Whether the stack map stands where the frames would, where there is no room for both.
    pub(super) map: bool,
    /// What happened, the oldest first; of very much, the newest.
    pub(super) events: VecDeque<Event>,
    /// How many events were forgotten.
    pub(super) forgotten: usize,
    /// The report so far.
    pub(super) report: Vec<String>,
    /// The first column of it that is seen.
    pub(super) shifted: usize,
    /// A word on what was done last.
    pub(super) notice: Option<String>,
}

impl Model {
    /// The screen with its first picture.
    pub(crate) fn new(picture: Arc<Picture>, interval: Duration, size: Size, look: Look) -> Model {
        let wanted = picture.wanted.clone();
        let mut model = Model {
            size,
            look,
            picture,
            fresh: None,
            frozen: false,
            fresh_pane: None,
            loading: None,
            touched: false,
            lists: Vec::new(),
            wanted,
            shown: None,
            backtrace: Vec::new(),
            search: String::new(),
            overlay: Overlay::None,
            interval,
            end: None,
            launched: false,
            paused: false,
            told_to_end: false,
            pane: None,
            scrolled: 0,
            map: false,
            events: VecDeque::new(),
            forgotten: 0,
            report: Vec::new(),
            shifted: 0,
            notice: None,
        };
        model.begin();
        model
    }

    /// Shows what fits the picture best: the stacks, or their groups where there are many.
    pub(super) fn begin(&mut self) {
        let many = self.picture.snapshot.stacks.len() > MOST_SINGLY;
        self.lists = vec![List::new(if many { Page::Groups } else { Page::Stacks })];
        self.rebuild();
    }

    /// Shows another picture; the caller then rebuilds the rows.
    pub(super) fn replace(&mut self, picture: Arc<Picture>) {
        self.picture = picture;
        self.shown = None;
        self.backtrace.clear();
    }

    /// The list that is seen.
    pub(super) fn list(&self) -> &List {
        // There always is one; an empty list of nothing would show as such.
        static NOTHING: List = List { page: Page::Stacks, rows: Rows::Range(0..0), cursor: 0, top: 0 };
        self.lists.last().unwrap_or(&NOTHING)
    }

    /// Whether a message changes what is seen: what comes by itself does not while the display is frozen.
    pub(crate) fn shows(&self, message: &Message) -> bool {
        let comes_by_itself = matches!(
            message,
            Message::Looked(_) | Message::Event(_) | Message::Output(_) | Message::Report(_) | Message::Loading(_)
        );
        let is_known = matches!(message, Message::Loading(counts) if self.loading == Some(*counts));
        !(self.frozen && comes_by_itself || is_known)
    }

    /// Whether the program is ours and has not ended.
    pub(super) fn decides(&self) -> bool {
        self.launched && self.end.is_none()
    }

    /// The id of the stack that is selected.
    pub(super) fn selected(&self) -> Option<usize> {
        match self.shown {
            Some(Shown::Stack(id)) => Some(id),
            _ => None,
        }
    }

    /// The event with this number.
    pub(super) fn event(&self, number: usize) -> Option<&Event> {
        self.events.get(number.checked_sub(self.forgotten)?)
    }

    /// The snapshot that the backtrace is of.
    pub(super) fn backtrace_of(&self) -> Option<&Snapshot> {
        match self.shown? {
            Shown::Stack(_) => Some(&self.picture.snapshot),
            Shown::Event(number) => Some(&self.event(number)?.look.as_ref()?.snapshot),
        }
    }

    /// The order of the list that is seen; a backtrace has only its own.
    pub(super) fn order(&self) -> Option<Order> {
        match self.list().page {
            Page::Stacks | Page::Members(_) => Some(self.picture.wanted.stack_order),
            Page::Groups => Some(self.picture.wanted.group_order),
            Page::Frames(_) | Page::Events | Page::Happened(_) | Page::Output | Page::Report => None,
        }
    }
}

impl List {
    /// A page of which nothing is known yet.
    pub(super) fn new(page: Page) -> List {
        List { page, rows: Rows::Range(0..0), cursor: 0, top: 0 }
    }

    /// The selected row.
    pub(super) fn row(&self) -> Option<usize> {
        self.rows.get(self.cursor)
    }
}
