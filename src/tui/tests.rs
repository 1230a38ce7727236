//! What the screen shows at each size, and what each key does: all without a terminal.

mod finding;
mod screens;

use std::sync::Arc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Rect, Size};
use ratatui::style::{Color, Style};

use super::keys::{Action, BINDINGS};
use super::model::{Effect, Message, Model, Overlay, Page, Rows};
use super::pane::{Modes, Pane};
use super::picture::{Picture, Wanted};
use super::sort::Sort;
use super::theme::{Look, Theme};
use super::update::update;
use super::view::layout::{page_rows, pane as pane_size};
use super::view::view;
use crate::snapshot::testing::{Call, Draft};
use crate::snapshot::{Kind, State};
use crate::watch::{End, Event, EventKind, Looked, Sight};

const COLORS: Look = Look { theme: Theme::Ansi, ascii: false };
const PLAIN: Look = Look { theme: Theme::Mono, ascii: true };
const WIDE: Size = Size::new(120, 36);
const MIDDLE: Size = Size::new(80, 24);
const NARROW: Size = Size::new(40, 10);

/// A server: a thread whose coroutine recurses, an idle thread, and coroutines that wait.
fn server(waiting: usize) -> Draft {
    let mut draft = Draft::new();
    let mut parse: Vec<Call> = vec![("parse_value", 1291, 1126)];
    parse.extend(std::iter::repeat_n(("parse_array", 1340, 1126), 37));
    parse.extend([("proto::decode", 88, 3174), ("conn::run", 41, 1228)]);
    let parser = draft.stack(Kind::Coroutine, State::Running, 65536, 11500, &parse);
    let worker: [Call; 4] =
        [("sched::run_one", 210, 614), ("sched::worker", 164, 29594), ("[start_thread]", 1, 400), ("[clone3]", 1, 0)];
    let below = draft.stack(Kind::Thread, State::Resuming, 2 << 20, 1 << 20, &worker);
    draft.run(48216, "worker-2", parser, &[below]);
    let idle: [Call; 3] = [("[epoll_wait]", 1, 64), ("main", 22, 12000), ("[__libc_start_main]", 1, 300)];
    let main = draft.stack(Kind::Thread, State::Running, 8 << 20, 2 << 20, &idle);
    draft.run(48213, "server", main, &[]);
    for number in 0..waiting {
        let extra = 500 * (number as u64 % 7);
        let calls = [("Conn::read", 120, 900 + extra), ("conn::run", 41, 1228)];
        draft.stack(Kind::Coroutine, State::Suspended, 65536, 1000, &calls);
    }
    draft
}

fn look_of(draft: Draft, seconds: u64) -> Arc<Picture> {
    let (time, next) = (Duration::from_secs(seconds), Duration::from_secs(1));
    Arc::new(Picture::new(&Looked { snapshot: Arc::new(draft.finish()), time, next }, &Wanted::default()))
}

fn model(size: Size, look: Look) -> Model {
    Model::new(look_of(server(12), 221), Duration::from_secs(1), size, look)
}

fn press(model: &mut Model, code: KeyCode) -> Option<Effect> {
    key(model, code, KeyModifiers::NONE)
}

/// A key, and what it asks for of the picture, which is done at once here.
fn key(model: &mut Model, code: KeyCode, modifiers: KeyModifiers) -> Option<Effect> {
    let effect = update(model, Message::Key(KeyEvent::new(code, modifiers)));
    if effect == Some(Effect::Arrange) {
        let picture = Picture::new(&model.picture.looked(), &model.wanted);
        update(model, Message::Arranged(Arc::new(picture)));
    }
    effect
}

/// Presses keys, a letter each; `\n` is Enter and `\x1b` Escape.
fn type_keys(model: &mut Model, keys: &str) {
    for letter in keys.chars() {
        press(
            model,
            match letter {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                letter => KeyCode::Char(letter),
            },
        );
    }
}

fn drawn(model: &Model) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(model.size.width, model.size.height)).unwrap();
    terminal.draw(|frame| view(model, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let lines =
        buffer.content.chunks(width.max(1)).map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn screen(model: &Model) -> String {
    text(&drawn(model))
}

#[test]
fn ascii_is_ascii_and_without_colors_there_are_none() {
    for keys in ["", "2", "2\n", "\n", "?", " ", "/read"] {
        for size in [WIDE, MIDDLE, NARROW, Size::new(20, 3)] {
            let mut model = model(size, PLAIN);
            type_keys(&mut model, keys);
            let buffer = drawn(&model);
            assert!(text(&buffer).is_ascii(), "{}", text(&buffer));
            assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        }
    }
}

#[test]
fn every_size_is_drawn_and_the_last_as_if_it_were_the_first() {
    let mut stormy = model(WIDE, COLORS);
    for keys in ["", "\n", "\x1b2", "?"] {
        type_keys(&mut stormy, keys);
        for (width, height) in [(200, 60), (80, 24), (40, 10), (10, 3), (1, 1), (0, 0), (120, 36)] {
            update(&mut stormy, Message::Resized(Size::new(width, height)));
            screen(&stormy);
        }
    }
    type_keys(&mut stormy, "\x1b1g");
    assert_eq!(screen(&stormy), screen(&model(WIDE, COLORS)));
}

#[test]
fn a_name_cannot_drive_the_terminal() {
    for keys in ["", "\n", "2"] {
        let mut draft = Draft::new();
        let id = draft.stack(Kind::Thread, State::Running, 65536, 0, &[("evil\x1b[2J\u{202e}", 1, 64)]);
        draft.run(7, "a\x1b]0;title\x07\nb", id, &[]);
        let mut model = Model::new(look_of(draft, 0), Duration::from_secs(1), WIDE, COLORS);
        type_keys(&mut model, keys);
        let screen = screen(&model);
        assert!(screen.contains("\\x1b[2J"), "{screen}");
        assert!(!screen.contains(['\x1b', '\x07', '\u{202e}']), "{screen}");
    }
}

#[test]
fn a_frozen_display_does_not_change() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, " ");
    let frozen = screen(&model);
    assert!(frozen.contains("FROZEN") && frozen.contains("the program runs on"), "{frozen}");
    let message = Message::Looked(look_of(server(3), 500));
    assert!(!model.shows(&message));
    update(&mut model, message);
    assert_eq!(screen(&model), frozen);
    type_keys(&mut model, " ");
    assert!(screen(&model).contains("of 6 "), "{}", screen(&model));
}

#[test]
fn the_selected_stack_stays_selected() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, "jjjjj");
    let before = model.picture.key(model.selected().unwrap());
    let row = model.list().cursor;
    update(&mut model, Message::Looked(look_of(server(5), 222)));
    assert_eq!(model.picture.key(model.selected().unwrap()), before);
    type_keys(&mut model, ">");
    assert_eq!(model.picture.key(model.selected().unwrap()), before);
    type_keys(&mut model, "I");
    assert_eq!(model.picture.key(model.selected().unwrap()), before);
    assert_ne!(model.list().cursor, row);
}

#[test]
fn until_a_key_is_pressed_each_look_is_shown_as_the_first() {
    let mut model = Model::new(look_of(server(0), 0), Duration::from_secs(1), MIDDLE, COLORS);
    update(&mut model, Message::Looked(look_of(server(500), 1)));
    assert_eq!((model.list().page, model.list().cursor), (Page::Groups, 0));
    type_keys(&mut model, "j");
    update(&mut model, Message::Looked(look_of(server(3), 2)));
    assert_eq!(model.list().page, Page::Groups);
}

#[test]
fn what_is_still_to_come_is_shown_until_it_is_there() {
    let mut model = model(MIDDLE, COLORS);
    for (counts, words) in [((0, 0), "── Stacks · searching memory ──"), ((3, 41), "── Stacks · symbols 3/41 ──")]
    {
        let message = Message::Loading(counts);
        assert!(model.shows(&message));
        update(&mut model, message);
        assert!(screen(&model).contains(words), "{}", screen(&model));
        // Nothing is drawn for what is shown already.
        assert!(!model.shows(&Message::Loading(counts)));
    }
    update(&mut model, Message::Looked(look_of(server(12), 222)));
    assert!(model.loading.is_none() && screen(&model).contains("── Stacks ──"));
}

#[test]
fn a_page_of_what_is_gone_is_closed() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, "G\n");
    assert!(matches!(model.list().page, Page::Frames(_)));
    update(&mut model, Message::Looked(look_of(server(0), 222)));
    assert_eq!(model.list().page, Page::Stacks);
    assert!(screen(&model).contains("is gone"), "{}", screen(&model));
}

#[test]
fn many_stacks_are_grouped_at_first_and_scroll_to_the_end() {
    let picture = look_of(server(100_000), 9);
    let mut model = Model::new(picture, Duration::from_secs(1), WIDE, COLORS);
    assert_eq!(model.list().page, Page::Groups);
    assert!(screen(&model).contains("100 000"), "{}", screen(&model));
    type_keys(&mut model, "1G");
    assert!(screen(&model).contains("of 100 003 "), "{}", screen(&model));
    assert_eq!(model.list().cursor, 100_002);
}

#[test]
fn a_key_and_a_frame_touch_only_the_rows_that_are_seen() {
    let mut model = Model::new(look_of(server(100_000), 9), Duration::from_secs(1), WIDE, COLORS);
    type_keys(&mut model, "1");
    let rows = |model: &Model| match &model.list().rows {
        Rows::Of(rows) => Arc::clone(rows),
        other => panic!("{other:?}"),
    };
    let (before, picture) = (rows(&model), Arc::clone(&model.picture));
    for code in [KeyCode::Down, KeyCode::PageDown, KeyCode::End, KeyCode::PageUp, KeyCode::Up, KeyCode::Home] {
        // The same rows of the same picture: nothing was sorted, filtered or grouped again.
        assert_eq!(press(&mut model, code), None);
        assert!(Arc::ptr_eq(&rows(&model), &before) && Arc::ptr_eq(&model.picture, &picture));
        let list = model.list();
        assert!(list.rows.seen(list.top, page_rows(&model)).count() <= usize::from(WIDE.height));
        // Every row that is drawn is one of these: a list has no lines for others.
        let drawn = screen(&model).lines().filter(|line| line.contains("suspended") && !line.starts_with('─')).count();
        assert!(drawn <= page_rows(&model), "{drawn} rows");
    }
}

#[test]
fn no_more_than_two_looks_are_kept() {
    let mut model = model(WIDE, COLORS);
    let mut looks = Vec::new();
    for seconds in 1..=6 {
        let picture = look_of(server(12), seconds);
        looks.push((Arc::downgrade(&picture), Arc::downgrade(&picture.snapshot)));
        update(&mut model, Message::Looked(picture));
        let kept = |frozen: bool| {
            let kept = looks.iter().filter(|(picture, look)| picture.strong_count() + look.strong_count() > 0).count();
            assert!(kept <= if frozen { 2 } else { 1 }, "{kept} after look {seconds}");
        };
        kept(model.frozen);
        if seconds == 3 {
            type_keys(&mut model, " ");
        }
    }
}

#[test]
fn the_end_of_the_program_is_shown() {
    let mut model = model(WIDE, COLORS);
    update(&mut model, Message::Ended(End::Vanished));
    assert!(screen(&model).contains("ENDED") && screen(&model).contains("the program has ended"));
}

/// Does what a binding says on a fresh screen, with each of its keys, and returns the screens and effects.
fn pressed(action: Action, before: &str, check: impl Fn(&Model, Option<Effect>)) {
    pressed_on(action, before, |_| {}, check);
}

/// The same where the program is ours.
fn ours(action: Action, before: &str, check: impl Fn(&Model, Option<Effect>)) {
    pressed_on(action, before, |model| model.launched = true, check);
}

fn pressed_on(action: Action, before: &str, ready: impl Fn(&mut Model), check: impl Fn(&Model, Option<Effect>)) {
    let binding = BINDINGS.iter().find(|binding| binding.action == action).unwrap();
    for (code, modifiers) in binding.keys {
        let mut model = model(MIDDLE, COLORS);
        ready(&mut model);
        type_keys(&mut model, before);
        let effect = key(&mut model, *code, *modifiers);
        check(&model, effect);
    }
}

#[test]
fn every_key_does_what_the_help_says() {
    let cursor = |model: &Model| model.list().cursor;
    let page = |model: &Model| model.list().page;
    for binding in BINDINGS {
        match binding.action {
            Action::Up => pressed(Action::Up, "jj", |model, _| assert_eq!(cursor(model), 1)),
            Action::Down => pressed(Action::Down, "", |model, _| assert_eq!(cursor(model), 1)),
            Action::PageUp => pressed(Action::PageUp, "G", |model, _| assert!(cursor(model) < 10)),
            Action::PageDown => pressed(Action::PageDown, "", |model, _| assert!(cursor(model) > 5)),
            Action::First => pressed(Action::First, "jjj", |model, _| assert_eq!(cursor(model), 0)),
            Action::Last => pressed(Action::Last, "", |model, _| assert_eq!(cursor(model), 14)),
            Action::Worst => pressed(Action::Worst, "2", |model, _| {
                assert_eq!((page(model), model.selected()), (Page::Stacks, Some(0)));
            }),
            Action::Open => pressed(Action::Open, "", |model, _| assert!(matches!(page(model), Page::Frames(_)))),
            Action::Back => pressed(Action::Back, "\n", |model, _| assert_eq!(page(model), Page::Stacks)),
            Action::Stacks => pressed(Action::Stacks, "2", |model, _| assert_eq!(page(model), Page::Stacks)),
            Action::Groups => pressed(Action::Groups, "", |model, _| assert_eq!(page(model), Page::Groups)),
            Action::Events => pressed(Action::Events, "", |model, _| assert_eq!(page(model), Page::Events)),
            Action::Output => ours(Action::Output, "", |model, _| assert_eq!(page(model), Page::Output)),
            Action::Report => pressed(Action::Report, "", |model, effect| {
                assert_eq!((page(model), effect), (Page::Report, Some(Effect::Report)));
            }),
            Action::Type => ours(Action::Type, "", |model, _| {
                assert_eq!(page(model), Page::Output);
                assert!(matches!(model.overlay, Overlay::Typing));
            }),
            Action::Pause => pressed(Action::Pause, "", |_, effect| assert_eq!(effect, Some(Effect::Pause))),
            Action::Interrupt => {
                ours(Action::Interrupt, "", |_, effect| assert_eq!(effect, Some(Effect::Interrupt)));
                pressed(Action::Interrupt, "", |_, effect| assert_eq!(effect, Some(Effect::Leave)));
            }
            Action::GroupBy => pressed(Action::GroupBy, "", |model, _| {
                assert!(matches!(model.overlay, Overlay::GroupBy));
            }),
            Action::Map => pressed(Action::Map, "", |model, _| {
                assert!(screen(model).contains("limit, never used"), "{}", screen(model));
            }),
            Action::NextProcess => pressed(Action::NextProcess, "", |model, _| {
                assert_eq!(model.notice.as_deref(), Some("there is no other process"));
            }),
            Action::Filter => pressed(Action::Filter, "", |model, _| {
                assert!(matches!(model.overlay, Overlay::Filter { .. }));
            }),
            Action::Command => pressed(Action::Command, "", |model, _| {
                assert!(matches!(model.overlay, Overlay::Command { .. }));
            }),
            Action::Dump => pressed(Action::Dump, "", |_, effect| assert_eq!(effect, Some(Effect::Dump(None)))),
            Action::Search => pressed(Action::Search, "", |model, _| {
                assert!(matches!(model.overlay, Overlay::Search { origin: 0 }));
            }),
            Action::NextMatch => pressed(Action::NextMatch, "/conn::read\ng", |model, _| {
                assert_eq!(model.picture.whereabouts(model.selected().unwrap()), Some("Conn::read"));
            }),
            Action::PreviousMatch => pressed(Action::PreviousMatch, "/conn::read\ng", |model, _| {
                assert_eq!(model.picture.whereabouts(model.selected().unwrap()), Some("Conn::read"));
            }),
            Action::SortRight => {
                pressed(Action::SortRight, "", |model, _| assert_eq!(model.wanted.stack_order.sort, Sort::Now));
            }
            Action::SortLeft => {
                pressed(Action::SortLeft, "", |model, _| assert_eq!(model.wanted.stack_order.sort, Sort::Number));
            }
            Action::Reverse => {
                pressed(Action::Reverse, "", |model, _| assert!(model.picture.wanted.stack_order.reversed))
            }
            Action::Freeze => pressed(Action::Freeze, "", |model, _| assert!(model.frozen)),
            Action::Slower => pressed(Action::Slower, "", |_, effect| {
                assert_eq!(effect, Some(Effect::Interval(Duration::from_secs(2))));
            }),
            Action::Faster => pressed(Action::Faster, "", |_, effect| {
                assert_eq!(effect, Some(Effect::Interval(Duration::from_millis(500))));
            }),
            Action::Redraw => pressed(Action::Redraw, "", |_, effect| assert_eq!(effect, Some(Effect::Redraw))),
            Action::Suspend => pressed(Action::Suspend, "", |_, effect| assert_eq!(effect, Some(Effect::Suspend))),
            Action::Help => {
                pressed(Action::Help, "", |model, _| assert!(matches!(model.overlay, Overlay::Help { .. })));
            }
            Action::Detach => ours(Action::Detach, "", |_, effect| assert_eq!(effect, Some(Effect::Leave))),
            Action::Quit => {
                pressed(Action::Quit, "", |_, effect| assert_eq!(effect, Some(Effect::Leave)));
                ours(Action::Quit, "", |model, effect| {
                    assert_eq!(effect, None);
                    assert!(matches!(model.overlay, Overlay::Quit { cursor: 0 }));
                });
            }
        }
    }
}

#[test]
fn help_is_searched_and_does_the_line() {
    let mut model = model(NARROW, COLORS);
    type_keys(&mut model, "2?overflow\n");
    assert!(matches!(model.overlay, Overlay::None));
    assert_eq!((model.list().page, model.selected()), (Page::Stacks, Some(0)));
}

#[test]
fn a_cancelled_search_goes_back() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, "j/conn::read");
    assert!(model.list().cursor > 1);
    type_keys(&mut model, "\x1b");
    assert_eq!((model.list().cursor, model.search.as_str()), (1, ""));
}

#[test]
fn a_key_right_after_escape_is_not_lost() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, "?");
    update(&mut model, Message::Key(KeyEvent::new(KeyCode::Char(' '), KeyModifiers::ALT)));
    assert!(matches!(model.overlay, Overlay::None) && model.frozen);
}

#[test]
fn interrupts_leave_whatever_is_open() {
    for keys in ["", "?", "/x", "\n"] {
        let mut model = model(MIDDLE, COLORS);
        type_keys(&mut model, keys);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(update(&mut model, Message::Key(interrupt)), Some(Effect::Leave));
    }
}

/// A screen of a program of ours, whose terminal shows these lines.
fn model_of_ours(size: Size, lines: &[&str]) -> Model {
    let mut model = model(size, COLORS);
    model.launched = true;
    update(&mut model, Message::Output(pane(size, lines)));
    model
}

fn pane(size: Size, lines: &[&str]) -> Arc<Pane> {
    let size = pane_size(size);
    let mut cells = Buffer::empty(Rect::new(0, 0, size.width, size.height));
    for (row, line) in (0..size.height).zip(lines) {
        cells.set_string(0, row, line, Style::new().fg(Color::Green));
    }
    let last_line = lines.last().map_or(String::new(), |line| (*line).to_owned());
    Arc::new(Pane { cells, cursor: Some((3, 1)), last_line, kept: 100, scrolled: 0, modes: Modes::default() })
}

#[test]
fn the_programs_terminal_is_a_page_and_a_line() {
    for size in [WIDE, MIDDLE, NARROW] {
        let mut model = model_of_ours(size, &["server: listening on port 9000", "server: 3 connections"]);
        assert_eq!(screen(&model).contains("› server: 3 connections"), size != NARROW);
        type_keys(&mut model, "o");
        assert!(screen(&model).contains("\nserver: listening on port 9000\nserver: 3 connections\n"));
        type_keys(&mut model, "o");
        assert_eq!(model.list().page, Page::Stacks);
    }
}

#[test]
fn without_colors_those_of_the_program_are_not_shown_either() {
    for (look, colored) in [(COLORS, true), (PLAIN, false)] {
        let mut model = model(MIDDLE, look);
        model.launched = true;
        update(&mut model, Message::Output(pane(MIDDLE, &["green \u{2713}"])));
        type_keys(&mut model, "o");
        let buffer = drawn(&model);
        assert_eq!(buffer.content.iter().any(|cell| cell.fg == Color::Green), colored);
        assert_eq!(text(&buffer).is_ascii(), !colored);
    }
}

#[test]
fn each_answer_of_the_question_has_a_key() {
    for (keys, effect) in [("qr", Some(Effect::Leave)), ("qe", Some(Effect::Send(libc::SIGTERM))), ("qc", None)] {
        let mut model = model_of_ours(MIDDLE, &["busy"]);
        let (first, last) = keys.split_at(1);
        type_keys(&mut model, first);
        assert_eq!(press(&mut model, KeyCode::Char(last.chars().next().unwrap())), effect, "{keys}");
        assert!(matches!(model.overlay, Overlay::None), "{keys}");
    }
}

#[test]
fn typed_keys_go_to_the_program_until_the_one_that_ends_it() {
    let mut model = model_of_ours(MIDDLE, &["name?"]);
    type_keys(&mut model, "i");
    for (code, bytes) in [(KeyCode::Char('q'), "q"), (KeyCode::Enter, "\r"), (KeyCode::Esc, "\x1b")] {
        assert_eq!(press(&mut model, code), Some(Effect::Type(bytes.into())));
    }
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(update(&mut model, Message::Key(interrupt)), Some(Effect::Type(vec![3])));
    assert_eq!(update(&mut model, Message::Pasted("a\nb".into())), Some(Effect::Type("a\rb".into())));
    assert!(screen(&model).contains("typing into the program: ^] ends"), "{}", screen(&model));
    update(&mut model, Message::Key(KeyEvent::new(KeyCode::Char('5'), KeyModifiers::CONTROL)));
    assert!(matches!(model.overlay, Overlay::None));
    assert_eq!(press(&mut model, KeyCode::Up), Some(Effect::Scroll(1)));
    assert_eq!(press(&mut model, KeyCode::Home), Some(Effect::Scroll(100)));
}

#[test]
fn leaving_a_program_of_ours_asks_what_becomes_of_it() {
    // What is chosen without looking harms nothing.
    let mut model = model_of_ours(MIDDLE, &["busy"]);
    type_keys(&mut model, "q");
    assert_eq!(press(&mut model, KeyCode::Enter), Some(Effect::Leave));
    type_keys(&mut model, "q");
    assert_eq!(press(&mut model, KeyCode::Esc), None);
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        type_keys(&mut model, "qj");
        assert_eq!(press(&mut model, KeyCode::Enter), Some(Effect::Send(signal)));
    }
    update(&mut model, Message::Ended(End::Vanished));
    assert_eq!(press(&mut model, KeyCode::Char('q')), Some(Effect::Leave));
}

#[test]
fn a_stopped_program_shows_as_such() {
    let mut model = model(MIDDLE, COLORS);
    update(&mut model, Message::Paused(true));
    assert!(screen(&model).contains("STOPPED"), "{}", screen(&model));
    assert_eq!(press(&mut model, KeyCode::Char('P')), Some(Effect::Resume));
}

fn event(kind: EventKind, milliseconds: u64, message: &str) -> Event {
    let time = Duration::from_millis(milliseconds);
    // Each has a number of its own.
    let id = milliseconds as usize;
    Event { id, thread: Some(48216), ..Event::new(kind, time, 48213, message.into()) }
}

/// A screen of a program to which something happened, at last a signal that ends it.
fn eventful(size: Size) -> Model {
    let mut model = model(size, COLORS);
    let look = Sight { snapshot: Arc::new(server(0).finish()), stack: 0 };
    let killed = Event { look: Some(look), killed: true, ..event(EventKind::Signal, 5000, "SIGSEGV from the kernel") };
    let high = event(EventKind::High, 3000, "coroutine 0 (conn::run): 57300 of 65536 bytes were in use");
    for event in [event(EventKind::Fork, 1500, "started process 48300"), high, killed] {
        update(&mut model, Message::Event(event));
    }
    model
}

#[test]
fn events_are_listed_and_lead_to_where_they_happened() {
    let mut model = eventful(MIDDLE);
    type_keys(&mut model, "e\n");
    assert!(screen(&model).contains("SIGSEGV from the kernel") && screen(&model).contains("parse_array"));
    let mut model = eventful(MIDDLE);
    type_keys(&mut model, "ej");
    update(&mut model, Message::Event(event(EventKind::Exit, 6000, "exit code 0")));
    assert_eq!(model.list().row(), Some(1));
}

#[test]
fn an_event_shows_the_way_that_it_took() {
    use crate::events::{By, Did, Fate, Route, Step};
    let mut model = model(MIDDLE, COLORS);
    let mut draft = Draft::new();
    let inner = draft.stack(Kind::Coroutine, State::Running, 65536, 0, &[("decode", 91, 64), ("entry", 3, 64)]);
    let outer = draft.stack(Kind::Thread, State::Resuming, 1 << 20, 0, &[("run_one", 210, 64), ("main", 4, 64)]);
    draft.run(48216, "worker", inner, &[outer]);
    let step = |stack, frame, did| Step::Frame { stack, frame, did };
    let raised = event(EventKind::Panic, 5000, "index out of bounds");
    let look = Some(Sight { snapshot: Arc::new(draft.finish()), stack: 0 });
    update(&mut model, Message::Event(Event { look: look.clone(), ..raised.clone() }));
    type_keys(&mut model, "e\n");
    assert!(!screen(&model).contains("stopped here"), "{}", screen(&model));
    // What became of it is known a little later.
    let steps = vec![
        step(0, 0, Did::CleanedUp),
        step(0, 1, Did::Stopped),
        Step::Crossing { from: 0, to: 1, by: By::Reraise },
        step(1, 0, Did::Stopped),
        step(1, 1, Did::NotReached),
    ];
    let route = Route { steps };
    update(&mut model, Message::Event(Event { look, route, fate: Some(Fate::Caught), ..raised }));
    let screen = screen(&model);
    for part in ["caught in run_one", "▹▸ decode", "cleaned up", "▹■ entry", "crossing to thread 48216", "▹■ run_one"]
    {
        assert!(screen.contains(part), "no {part:?} in\n{screen}");
    }
}
