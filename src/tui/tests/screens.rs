//! Every page at each size, as text that was read by a person with the eyes of a user.

use super::*;

/// A screen that is brought about at a size.
type Made = fn(Size) -> Model;

/// Below the smallest size with a list: one line.
const LINE: Size = Size::new(30, 5);

fn after(size: Size, keys: &str) -> Model {
    let mut model = model(size, COLORS);
    type_keys(&mut model, keys);
    model
}

/// The same for a program of ours.
fn ours(size: Size, keys: &str) -> Model {
    let mut model = model_of_ours(size, &["server: listening on port 9000", "server: 3 connections"]);
    type_keys(&mut model, keys);
    model
}

fn happened(size: Size, keys: &str) -> Model {
    let mut model = eventful(size);
    type_keys(&mut model, keys);
    model
}

fn report(size: Size) -> Model {
    let mut model = after(size, "5");
    let lines = [
        "server runs on, watched for 00:03:41      15 stacks in all, 15 at most at once",
        "",
        "GROUP         COUNT   SIZE     p50     p99      MAX  PEAK▒ FREE·             HEAD  SUGGEST    SAVES",
        "conn::run        13    64K    4.5K   57.3K  ≈ 57.3K  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒··┃   ◆ 10 %  ↑   88K        -",
    ];
    update(&mut model, Message::Report(lines.map(str::to_owned).to_vec()));
    model
}

/// Before the first look at a program that was just launched.
fn unseen(size: Size) -> Model {
    let snapshot = crate::snapshot::Snapshot::of_nothing(48213, vec!["./server".into()]);
    let (time, next) = (Duration::ZERO, Duration::from_secs(1));
    let looked = Looked { snapshot: Arc::new(snapshot), time, next };
    let picture = Arc::new(Picture::new(&looked, &Wanted::default()));
    let mut model = Model::new(picture, Duration::from_secs(1), size, COLORS);
    model.launched = true;
    model
}

fn told_to_end(size: Size) -> Model {
    let mut model = ours(size, "q");
    type_keys(&mut model, "eq");
    model
}

fn stopped(size: Size) -> Model {
    let mut model = ours(size, "");
    update(&mut model, Message::Paused(true));
    model
}

fn ended(size: Size) -> Model {
    let mut model = after(size, "");
    update(&mut model, Message::Ended(End::Vanished));
    model
}

fn unseen_output(size: Size) -> Model {
    let mut model = unseen(size);
    type_keys(&mut model, "o");
    model
}

/// All there is to see.
const SCREENS: &[(&str, Made)] = &[
    ("overview", |size| after(size, "")),
    ("overview_of_ours", |size| ours(size, "")),
    ("unseen", unseen),
    ("frozen", |size| after(size, " ")),
    ("stopped", stopped),
    ("ended", ended),
    ("groups", |size| after(size, "2")),
    ("groups_by_entry", |size| after(size, "ze")),
    ("groups_by_state", |size| after(size, "za")),
    ("members", |size| after(size, "2k\n")),
    ("frames", |size| after(size, "\n")),
    ("map", |size| after(size, "m\n")),
    ("events", |size| happened(size, "e")),
    ("no_events", |size| after(size, "e")),
    ("happened", |size| happened(size, "e\n")),
    ("happened_unseen", |size| happened(size, "ej\n")),
    ("output", |size| ours(size, "o")),
    ("output_unseen", unseen_output),
    ("typing", |size| ours(size, "i")),
    ("report", report),
    ("report_shifted", |size| {
        let mut model = report(size);
        press(&mut model, KeyCode::Right);
        model
    }),
    ("help", |size| after(size, "?")),
    ("help_search", |size| after(size, "?overflow")),
    ("quit", |size| ours(size, "q")),
    ("quit_told", told_to_end),
    ("search", |size| after(size, "/read")),
    ("search_in_vain", |size| after(size, "/nowhere")),
    ("filter", |size| after(size, "\\kind:coro peak>5% !fn:decode")),
    ("filter_fits_nothing", |size| after(size, "\\kind:signal\n")),
    ("filter_error", |size| after(size, "\\kind:thread pork>3")),
    ("group_by", |size| after(size, "z")),
    ("command", |size| after(size, ":")),
    ("command_error", |size| after(size, ":fly\n")),
];

#[test]
fn every_page_at_each_size() {
    for (name, made) in SCREENS {
        for size in [WIDE, MIDDLE, NARROW] {
            insta::assert_snapshot!(format!("{name}_{}x{}", size.width, size.height), screen(&made(size)));
        }
    }
}

#[test]
fn with_fewer_columns_functions_come_before_words() {
    for keys in ["", "2"] {
        insta::assert_snapshot!(format!("overview{keys}_100x28"), screen(&after(Size::new(100, 28), keys)));
    }
}

#[test]
fn the_end_of_the_help_is_reached() {
    for size in [MIDDLE, NARROW] {
        let mut model = after(size, "?");
        press(&mut model, KeyCode::End);
        insta::assert_snapshot!(format!("help_end_{}x{}", size.width, size.height), screen(&model));
    }
}

#[test]
fn below_the_smallest_list_there_is_one_line() {
    let lines = SCREENS.iter().map(|(name, made)| {
        let screen = screen(&made(LINE));
        assert!(screen.lines().skip(1).all(str::is_empty), "{name}: {screen}");
        format!("{name:<20} {}\n", screen.lines().next().unwrap_or_default())
    });
    insta::assert_snapshot!("line_30x5", lines.collect::<String>());
}

#[test]
fn ascii_says_the_same() {
    let mut overview = model(WIDE, PLAIN);
    insta::assert_snapshot!("ascii_120x36", screen(&overview));
    type_keys(&mut overview, "\n");
    insta::assert_snapshot!("ascii_frames_120x36", screen(&overview));
}
