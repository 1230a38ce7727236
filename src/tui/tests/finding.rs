//! What helps to find a stack among many: filters, groups, commands, the mouse.

use ratatui::crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::*;
use crate::filter::Filter;
use crate::report::{GroupBy, json};
use crate::tui::arrange::{self, Ask};
use crate::tui::commands::COMMANDS;

/// The ids that `dump --json` has for stacks that a test over its values picks.
fn by_json(picture: &Picture, fits: impl Fn(&serde_json::Value) -> bool) -> Vec<usize> {
    let mut written = Vec::new();
    json::write(&mut written, &picture.snapshot).unwrap();
    let dump: serde_json::Value = serde_json::from_slice(&written).unwrap();
    let fitting = dump["stacks"].as_array().unwrap().iter().filter(|stack| fits(stack));
    fitting.map(|stack| stack["id"].as_u64().unwrap() as usize).collect()
}

#[test]
fn a_filter_gives_the_rows_that_the_json_does() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, "\\kind:coro peak>5% !fn:decode\n");
    let mut shown: Vec<usize> = model.picture.stacks.to_vec();
    shown.sort_unstable();
    let expected = by_json(&model.picture, |stack| {
        let over = stack["peak"]["bytes"].as_u64().zip(stack["size"].as_u64());
        let functions = stack["frames"].as_array().unwrap();
        stack["kind"] == "coroutine"
            && over.is_some_and(|(peak, size)| peak * 100 > size * 5)
            && !functions.iter().any(|frame| frame["function"].as_str().is_some_and(|name| name.contains("decode")))
    });
    assert!(!expected.is_empty() && expected.len() < 13, "{expected:?}");
    assert_eq!(shown, expected);
}

#[test]
fn a_bad_filter_is_told_with_its_column_and_keeps_the_rows() {
    for size in [WIDE, MIDDLE, NARROW] {
        let mut model = Model::new(look_of(server(12), 221), Duration::from_secs(1), size, COLORS);
        type_keys(&mut model, "\\kind:thread");
        let before = model.picture.stacks.clone();
        assert_eq!(before.len(), 2);
        type_keys(&mut model, " pork>3");
        assert_eq!(model.picture.stacks, before);
        // Enter does not close what is wrong.
        press(&mut model, KeyCode::Enter);
        assert!(
            matches!(&model.overlay, Overlay::Filter { problem: Some(problem), .. } if problem.contains("column 13"))
        );
        press(&mut model, KeyCode::Esc);
        assert_eq!((model.picture.stacks.len(), model.wanted.filter.is_empty()), (15, true));
    }
}

#[test]
fn a_filter_works_on_a_frozen_display() {
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, " \\kind:thread\n");
    assert!(model.frozen && screen(&model).contains("FROZEN"));
    assert_eq!(model.picture.stacks.len(), 2);
    // What came meanwhile was arranged as it was wanted then.
    update(&mut model, Message::Looked(look_of(server(3), 500)));
    assert_eq!(press(&mut model, KeyCode::Char(' ')), Some(Effect::Arrange));
    assert_eq!(model.picture.stacks.len(), 2);
}

#[test]
fn stacks_are_grouped_by_each_key() {
    for (key, group_by, groups) in
        [('s', GroupBy::Stack, 3), ('e', GroupBy::Entry, 3), ('t', GroupBy::Top, 4), ('a', GroupBy::State, 4)]
    {
        let mut model = model(MIDDLE, COLORS);
        type_keys(&mut model, "z");
        type_keys(&mut model, &key.to_string());
        assert_eq!((model.list().page, model.wanted.group_by), (Page::Groups, group_by));
        assert_eq!(model.picture.groups.len(), groups, "{key}");
        // All members are reached.
        let count = model.picture.groups[model.list().row().unwrap()].group.stacks.len();
        press(&mut model, KeyCode::Enter);
        assert_eq!(model.list().rows.len(), count);
    }
    let mut model = model(MIDDLE, COLORS);
    type_keys(&mut model, "zn");
    assert_eq!(model.list().page, Page::Stacks);
}

/// Types a command, and does what it asks for of the picture.
fn command(model: &mut Model, text: &str) -> Option<Effect> {
    type_keys(model, ":");
    type_keys(model, text);
    press(model, KeyCode::Enter)
}

#[test]
fn commands_do_what_they_say() {
    let mut model = model(MIDDLE, COLORS);
    command(&mut model, "goto 48213");
    assert_eq!(model.picture.name(model.selected().unwrap()), "server");
    command(&mut model, "goto #7");
    assert_eq!(model.selected(), Some(7));
    command(&mut model, "sort name");
    assert_eq!(model.picture.wanted.stack_order.sort, Sort::Name);
    command(&mut model, "filter kind:thread");
    assert_eq!(model.picture.stacks.len(), 2);
    command(&mut model, "goto 7");
    assert_eq!(model.notice.as_deref(), Some("the filter hides stack 7"));
    press(&mut model, KeyCode::Esc);
    command(&mut model, "filter");
    assert_eq!(model.picture.stacks.len(), 15);
    command(&mut model, "groups state");
    assert_eq!((model.list().page, model.picture.wanted.group_by), (Page::Groups, GroupBy::State));
    assert_eq!(command(&mut model, "interval 250"), Some(Effect::Interval(Duration::from_millis(250))));
    assert_eq!(command(&mut model, "dump here.txt"), Some(Effect::Dump(Some("here.txt".to_owned()))));
    assert_eq!(command(&mut model, "theme light"), Some(Effect::Redraw));
    assert_eq!(model.look.theme, Theme::Light);
    assert_eq!(command(&mut model, "stop"), Some(Effect::Pause));
    assert_eq!(command(&mut model, "q"), Some(Effect::Leave));
}

#[test]
fn every_command_of_the_table_does_something() {
    let page = |model: &Model| model.list().page;
    for (name, ..) in COMMANDS {
        let mut model = model(MIDDLE, COLORS);
        model.launched = true;
        type_keys(&mut model, "2");
        let words = match name {
            "goto" => "goto 48213",
            "filter" => "filter kind:coro",
            "sort" => "sort name",
            "dump" => "dump FILE",
            "interval" => "interval 500",
            "theme" => "theme dark",
            "groups" => "groups top",
            plain => plain,
        };
        let effect = command(&mut model, words);
        match name {
            "stacks" => assert_eq!(page(&model), Page::Stacks),
            "groups" => assert_eq!((page(&model), model.wanted.group_by), (Page::Groups, GroupBy::Top)),
            "events" => assert_eq!(page(&model), Page::Events),
            "output" => assert_eq!(page(&model), Page::Output),
            "report" => assert_eq!((page(&model), effect), (Page::Report, Some(Effect::Report))),
            "goto" => assert_eq!(model.picture.name(model.selected().unwrap()), "server"),
            "filter" => assert_eq!(model.picture.stacks.len(), 13),
            "sort" => assert_eq!(model.picture.wanted.group_order.sort, Sort::Name),
            "reverse" => assert!(model.picture.wanted.group_order.reversed),
            "dump" => assert_eq!(effect, Some(Effect::Dump(Some("FILE".to_owned())))),
            "interval" => assert_eq!(effect, Some(Effect::Interval(Duration::from_millis(500)))),
            "theme" => assert_eq!((model.look.theme, effect), (Theme::Dark, Some(Effect::Redraw))),
            "freeze" => assert!(model.frozen),
            "stop" => assert_eq!(effect, Some(Effect::Pause)),
            "help" => assert!(matches!(model.overlay, Overlay::Help { .. })),
            "quit" => assert!(matches!(model.overlay, Overlay::Quit { .. })),
            other => panic!("no test for the command {other}"),
        }
    }
}

#[test]
fn a_command_that_is_wrong_can_be_mended() {
    let mut model = model(MIDDLE, COLORS);
    for (wrong, problem) in [("fly", "no command is called fly"), ("goto x", "no stack has number x"), ("sort x", "x")]
    {
        command(&mut model, wrong);
        assert!(matches!(&model.overlay, Overlay::Command { text } if text == wrong));
        assert!(model.notice.as_deref().is_some_and(|notice| notice.contains(problem)), "{:?}", model.notice);
        press(&mut model, KeyCode::Esc);
    }
    type_keys(&mut model, ":so");
    press(&mut model, KeyCode::Tab);
    type_keys(&mut model, "p");
    press(&mut model, KeyCode::Tab);
    assert!(matches!(&model.overlay, Overlay::Command { text } if text == "sort peak"), "{:?}", model.overlay);
}

fn mouse(model: &mut Model, kind: MouseEventKind, column: u16, row: u16) -> Option<Effect> {
    let event = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
    update(model, Message::Mouse(event))
}

#[test]
fn the_mouse_selects_opens_and_scrolls() {
    let click = MouseEventKind::Down(MouseButton::Left);
    let mut model = model(MIDDLE, COLORS);
    mouse(&mut model, click, 10, 5);
    assert_eq!(model.list().cursor, 2);
    mouse(&mut model, click, 10, 5);
    assert!(matches!(model.list().page, Page::Frames(_)));
    mouse(&mut model, MouseEventKind::Down(MouseButton::Right), 10, 5);
    assert_eq!(model.list().page, Page::Stacks);
    mouse(&mut model, MouseEventKind::ScrollDown, 10, 5);
    assert_eq!(model.list().cursor, 5);
    mouse(&mut model, MouseEventKind::ScrollUp, 10, 5);
    assert_eq!(model.list().cursor, 2);
    // Below everything else stand the hints.
    let foot = screen(&model).lines().last().unwrap().to_owned();
    let column = |hint: &str| {
        let at = foot.find(hint).unwrap_or_else(|| panic!("no {hint} in {foot}"));
        foot[..at].chars().count() as u16
    };
    mouse(&mut model, click, column("? help"), 23);
    assert!(matches!(model.overlay, Overlay::Help { .. }));
    press(&mut model, KeyCode::Esc);
    assert_eq!(mouse(&mut model, click, column("q quit"), 23), Some(Effect::Leave));
    mouse(&mut model, click, column("Space freeze"), 23);
    assert!(model.frozen);
    for (x, y) in [(0, 0), (79, 23), (500, 500), (40, 1)] {
        mouse(&mut model, click, x, y);
    }
}

#[test]
fn every_theme_says_the_same() {
    let shown = |theme| {
        let mut model =
            Model::new(look_of(server(12), 221), Duration::from_secs(1), WIDE, Look { theme, ascii: false });
        type_keys(&mut model, "j");
        drawn(&model)
    };
    let plain = shown(Theme::Mono);
    for theme in Theme::ALL {
        let colored = shown(theme);
        assert_eq!(text(&colored), text(&plain), "{theme:?}");
        let has_colors = colored.content.iter().any(|cell| cell.fg != Color::Reset);
        assert_eq!(has_colors, theme != Theme::Mono, "{theme:?}");
    }
}

#[test]
fn a_million_rows_scroll() {
    let picture = look_of(server(1_000_000), 9);
    let mut model = Model::new(picture, Duration::from_secs(1), WIDE, COLORS);
    type_keys(&mut model, "1");
    assert_eq!(model.list().rows.len(), 1_000_003);
    type_keys(&mut model, "G");
    assert!(screen(&model).contains("of 1 000 003"), "{}", screen(&model));
    type_keys(&mut model, "kkk");
    press(&mut model, KeyCode::PageUp);
    assert!(model.list().cursor < 1_000_000);
    assert!(Filter::default().is_empty());
}

#[test]
fn the_processes_of_a_program_are_gone_through() {
    let (tell, told) = std::sync::mpsc::channel();
    let asks = arrange::start(Wanted::default(), move |message| tell.send(message).unwrap()).unwrap();
    for (pid, waiting) in [(10, 0), (20, 3)] {
        let mut snapshot = server(waiting).finish();
        snapshot.process.pid = pid;
        let (time, next) = (Duration::ZERO, Duration::from_secs(1));
        asks.send(Ask::Looked(Looked { snapshot: Arc::new(snapshot), time, next })).unwrap();
    }
    let picture = told.iter().find_map(|message| match message {
        Message::Looked(picture) if picture.processes.len() == 2 => Some(picture),
        _ => None,
    });
    // The one with the most stacks comes first.
    let mut model = Model::new(picture.unwrap(), Duration::from_secs(1), MIDDLE, COLORS);
    assert_eq!(model.picture.snapshot.process.pid, 20);
    let pressed = update(&mut model, Message::Key(KeyCode::Char('p').into()));
    assert_eq!((pressed, model.wanted.process), (Some(Effect::Arrange), Some(10)));
    asks.send(Ask::Arrange(model.wanted.clone(), None)).unwrap();
    let arranged = told.iter().next().unwrap();
    update(&mut model, arranged);
    assert_eq!(model.picture.snapshot.process.pid, 10);
    // What has ended is no longer there to be shown.
    asks.send(Ask::Ended(20)).unwrap();
    let Message::Looked(picture) = told.iter().next().unwrap() else { panic!("no picture") };
    assert_eq!(picture.processes, [(10, 3)]);
}
