//! The terminal UI: every stack of a program, live.
//!
//! It takes a watch and how the screen may look; the screen is drawn on `/dev/tty`, never on stdout, until the user
//! leaves. Nothing here looks at a target: looks come in as messages, each with one immutable snapshot, and a drawn frame
//! depends on one of them alone.
//!
//! The parts: a `Model` holds all state; `update` changes it, for one `Message` at a time, and may ask for an `Effect`
//! (`prompts`, `mouse` and `perform` say what is meant, `act` does it); `view` draws it and neither reads a clock nor
//! does I/O; `session` brings them together with the terminal.
//!
//! Words: a *picture* is a snapshot arranged for the screen; a *page* is what fills the list: stacks, groups, the members
//! of a group, or the frames of one stack.

mod act;
mod arrange;
mod commands;
mod input;
mod keys;
mod model;
mod mouse;
mod pages;
mod pane;
mod perform;
mod picture;
mod prompts;
mod rows;
mod session;
mod sort;
mod terminal;
#[cfg(test)]
mod tests;
mod theme;
mod typing;
mod update;
mod view;

pub use session::{Options, TuiError, attach, program_size, run};
pub use terminal::{is_usable, terminal_width};
pub use theme::{Look, Theme};
