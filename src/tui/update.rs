//! Takes in messages: every change of the [`Model`] begins here.

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::act::{act, arranged, leave};
use super::keys::{self, Action};
use super::model::{Effect, Message, Model, Overlay, Page};
use super::picture::Picture;
use super::{mouse, prompts};

/// Takes in one message; the caller does what it asks for.
pub(crate) fn update(model: &mut Model, message: Message) -> Option<Effect> {
    let effect = match message {
        Message::Key(event) => key(model, event),
        Message::Pasted(text) => prompts::paste(model, &text),
        Message::Mouse(event) => mouse::event(model, event),
        Message::Notice(text) => {
            model.notice = Some(text);
            None
        }
        Message::Arranged(picture) => {
            arranged(model, picture);
            None
        }
        Message::Resized(size) => {
            model.size = size;
            model.shifted = 0;
            (model.list().page == Page::Report).then_some(Effect::Report)
        }
        Message::Looked(picture) => looked(model, picture),
        Message::Loading(counts) => {
            model.loading = Some(counts);
            None
        }
        Message::Event(event) => {
            model.add_event(event);
            None
        }
        Message::Output(pane) if model.frozen => {
            model.fresh_pane = Some(pane);
            None
        }
        Message::Output(pane) => {
            model.pane = Some(pane);
            None
        }
        Message::Report(lines) => {
            model.report = lines;
            model.rebuild();
            None
        }
        Message::Paused(paused) => {
            model.paused = paused;
            None
        }
        Message::WantsToLeave => leave(model),
        Message::Ended(end) => {
            model.end = Some(end);
            model.loading = None;
            if let Overlay::Typing | Overlay::Quit { .. } = model.overlay {
                model.overlay = Overlay::None;
            }
            None
        }
    };
    model.settle();
    effect
}

/// A picture of a new look; one that is frozen stays.
fn looked(model: &mut Model, picture: Arc<Picture>) -> Option<Effect> {
    model.loading = None;
    if model.frozen {
        model.fresh = Some(picture);
        return None;
    }
    if !model.touched {
        model.replace(picture);
        model.begin();
        return None;
    }
    arranged(model, picture);
    (model.list().page == Page::Report).then_some(Effect::Report)
}

fn key(model: &mut Model, event: KeyEvent) -> Option<Effect> {
    model.notice = None;
    model.touched = true;
    let is_typing = matches!(model.overlay, Overlay::Typing);
    if !is_typing && event.code == KeyCode::Char('c') && event.modifiers.contains(KeyModifiers::CONTROL) {
        return act(model, Action::Interrupt);
    }
    if !is_typing && event.modifiers.contains(KeyModifiers::ALT) {
        // A terminal sends Escape and then a key as it sends that key with Alt, which means nothing here.
        let first = key(model, KeyCode::Esc.into());
        let second = key(model, KeyEvent { modifiers: event.modifiers - KeyModifiers::ALT, ..event });
        // What Escape asks for is the picture as it is wanted, which what the key asks for goes before.
        return second.or(first);
    }
    match std::mem::replace(&mut model.overlay, Overlay::None) {
        Overlay::None => keys::action(event).and_then(|action| act(model, action)),
        overlay => prompts::key(model, overlay, event),
    }
}
