//! The one table of keys: what they do, the hints at the bottom of the screen, and the help page.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key can make happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Worst,
    Open,
    Back,
    Stacks,
    Groups,
    Events,
    Output,
    Report,
    GroupBy,
    Map,
    NextProcess,
    Search,
    Filter,
    NextMatch,
    PreviousMatch,
    SortLeft,
    SortRight,
    Reverse,
    Freeze,
    Pause,
    Slower,
    Faster,
    Type,
    Interrupt,
    Command,
    Dump,
    Redraw,
    Suspend,
    Help,
    Detach,
    Quit,
}

/// The parts of the help page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Section {
    Move,
    View,
    Find,
    Time,
    Keep,
    Program,
    Leave,
}

impl Section {
    /// Its heading.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Section::Move => "MOVE",
            Section::View => "VIEW",
            Section::Find => "FIND",
            Section::Time => "TIME",
            Section::Keep => "KEEP AND COMMAND",
            Section::Program => "PROGRAM",
            Section::Leave => "HELP AND LEAVE",
        }
    }
}

/// Keys, what they do, and what is said about that.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) action: Action,
    pub(super) keys: &'static [(KeyCode, KeyModifiers)],
    /// The keys as people read them, and in ASCII.
    pub(super) shown: &'static str,
    pub(super) ascii: &'static str,
    pub(super) section: Section,
    pub(super) help: &'static str,
    /// The key and the word that the bottom line shows; none where it shows nothing of this.
    pub(super) hint: Option<&'static str>,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CONTROL: KeyModifiers = KeyModifiers::CONTROL;

const fn letter(letter: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(letter), NONE)
}

const fn control(letter: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(letter), CONTROL)
}

const fn key(code: KeyCode) -> (KeyCode, KeyModifiers) {
    (code, NONE)
}

macro_rules! bindings {
    ($($section:ident $action:ident [$($key:expr),+] $shown:literal / $ascii:literal $help:literal $hint:expr;)+) => {
        &[$(Binding {
            action: Action::$action,
            keys: &[$($key),+],
            shown: $shown,
            ascii: $ascii,
            section: Section::$section,
            help: $help,
            hint: $hint,
        }),+]
    };
}

/// All keys.
pub(super) static BINDINGS: &[Binding] = bindings![
    Move Up [key(KeyCode::Up), letter('k')] "↑ k" / "Up k" "up" None;
    Move Down [key(KeyCode::Down), letter('j')] "↓ j" / "Down j" "down" None;
    Move PageUp [key(KeyCode::PageUp), control('b'), control('u')] "PgUp ^B ^U" / "PgUp ^B ^U" "a page up" None;
    Move PageDown [key(KeyCode::PageDown), control('f'), control('d')] "PgDn ^F ^D" / "PgDn ^F ^D" "a page down" None;
    Move First [key(KeyCode::Home), letter('g')] "Home g" / "Home g" "first row" None;
    Move Last [key(KeyCode::End), letter('G')] "End G" / "End G" "last row" None;
    Move Worst [letter('w')] "w" / "w" "the stack closest to overflow" None;
    View Open [key(KeyCode::Enter), key(KeyCode::Right), letter('l')] "⏎ → l" / "Enter Right l" "open: members, frames" Some("open");
    View Back [key(KeyCode::Esc), key(KeyCode::Left), letter('h')] "Esc ← h" / "Esc Left h" "back" Some("back");
    View Stacks [letter('1')] "1" / "1" "all stacks" Some("stacks");
    View Groups [letter('2')] "2" / "2" "stacks in groups" None;
    View Events [letter('3'), letter('e')] "3 e" / "3 e" "what happened: signals, forks, ends, overflows" Some("events");
    View Output [letter('4'), letter('o')] "4 o" / "4 o" "the program's terminal; again: back" None;
    View Report [letter('5')] "5" / "5" "the report so far" Some("report");
    View GroupBy [letter('z'), key(KeyCode::F(5))] "z F5" / "z F5" "group by backtrace, entry, top, state, or not" Some("group");
    View Map [letter('m')] "m" / "m" "the stack to scale: beside or instead of its frames" Some("map");
    View NextProcess [letter('p')] "p" / "p" "the next process that the program has started" None;
    Find Search [letter('/'), key(KeyCode::F(3))] "/ F3" / "/ F3" "search names, functions, kinds, states" Some("search");
    Find Filter [letter('\\'), key(KeyCode::F(4))] "\\ F4" / "\\ F4" "show only what fits: kind:coro peak>80% fn:decode" Some("filter");
    Find NextMatch [letter('n')] "n" / "n" "next match" None;
    Find PreviousMatch [letter('N')] "N" / "N" "previous match" None;
    Find SortRight [letter('>'), key(KeyCode::F(6))] "> F6" / "> F6" "sort by the next column" Some("sort");
    Find SortLeft [letter('<')] "<" / "<" "sort by the column before" None;
    Find Reverse [letter('I')] "I" / "I" "reverse the order" None;
    Time Freeze [letter(' ')] "Space" / "Space" "freeze, thaw the display; the program runs on" Some("freeze");
    Time Slower [letter('[')] "[" / "[" "look half as often" None;
    Time Faster [letter(']')] "]" / "]" "look twice as often, within 1 % of the time" None;
    Time Redraw [control('l')] "^L" / "^L" "draw the screen anew" None;
    Keep Dump [letter('d')] "d" / "d" "write what is shown to a file" Some("dump");
    Keep Command [letter(':')] ":" / ":" "a command: goto, filter, sort, dump FILE, theme..." None;
    Program Type [letter('i')] "i" / "i" "type into the program, until ^]" Some("type");
    Program Pause [letter('P')] "P" / "P" "stop the program, let it go on" None;
    Program Interrupt [control('c')] "^C" / "^C" "interrupt the program; twice: leave" None;
    Leave Help [letter('?'), key(KeyCode::F(1))] "? F1" / "? F1" "this page" Some("help");
    Leave Suspend [control('z')] "^Z" / "^Z" "suspend stackscope; the program runs on" None;
    Leave Detach [letter('D')] "D" / "D" "leave with a report; the program runs on" None;
    Leave Quit [letter('q'), key(KeyCode::F(10))] "q F10" / "q F10" "leave with a report; asks what becomes of the program" Some("quit");
];

/// What a key does.
pub(super) fn action(event: KeyEvent) -> Option<Action> {
    // Some terminals report the shift that made a capital letter or a sign, others do not.
    let modifiers = event.modifiers - KeyModifiers::SHIFT;
    BINDINGS.iter().find(|binding| binding.keys.contains(&(event.code, modifiers))).map(|binding| binding.action)
}

impl Binding {
    /// The keys as they are written.
    pub(super) fn written(&self, ascii: bool) -> &'static str {
        if ascii { self.ascii } else { self.shown }
    }

    /// The first of them, for a hint.
    pub(super) fn first(&self, ascii: bool) -> &'static str {
        self.written(ascii).split(' ').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things() {
        let all: Vec<_> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        for (index, key) in all.iter().enumerate() {
            assert!(!all[..index].contains(key), "{key:?}");
        }
    }

    #[test]
    fn every_key_is_written_down() {
        for binding in BINDINGS {
            assert_eq!(binding.shown.split(' ').count(), binding.keys.len(), "{binding:?}");
            assert_eq!(binding.ascii.split(' ').count(), binding.keys.len(), "{binding:?}");
            assert!(binding.ascii.is_ascii() && binding.help.is_ascii());
            for (code, modifiers) in binding.keys {
                assert_eq!(action(KeyEvent::new(*code, *modifiers)), Some(binding.action));
            }
        }
    }

    #[test]
    fn capital_letters_come_with_or_without_shift() {
        for modifiers in [NONE, KeyModifiers::SHIFT] {
            assert_eq!(action(KeyEvent::new(KeyCode::Char('G'), modifiers)), Some(Action::Last));
            assert_eq!(action(KeyEvent::new(KeyCode::Char('?'), modifiers)), Some(Action::Help));
        }
        assert_eq!(action(KeyEvent::new(KeyCode::Char('g'), CONTROL)), None);
    }
}
