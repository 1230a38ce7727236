//! Arranges looks for the screen on a thread of its own, so that sorting and filtering many stacks holds up no key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use log::debug;

use super::model::Message;
use super::picture::{Picture, Wanted};
use crate::report::style::Style;
use crate::report::text;
use crate::watch::Looked;

/// What the thread is asked for.
pub(super) enum Ask {
    /// There is a new look.
    Looked(Looked),
    /// A process has ended.
    Ended(i32),
    /// Looks are wanted like this from now on; this one, where the display is frozen, and else the newest.
    Arrange(Wanted, Option<Looked>),
    /// Write a picture to a file as text, in groups or each stack by itself.
    Dump { picture: Arc<Picture>, listing: text::Listing, style: Style, path: Option<String> },
}

/// Starts the thread. It ends when nobody can ask any more.
///
/// # Errors
/// The thread can't be started.
pub(super) fn start(wanted: Wanted, tell: impl Fn(Message) + Send + 'static) -> io::Result<Sender<Ask>> {
    let (asks, asked) = mpsc::channel();
    let body = move || Arranger { wanted, latest: BTreeMap::new() }.run(&asked, &tell);
    thread::Builder::new().name("stackscope-arrange".into()).spawn(body)?;
    Ok(asks)
}

struct Arranger {
    wanted: Wanted,
    /// The newest look at each process.
    latest: BTreeMap<i32, Looked>,
}

impl Arranger {
    fn run(mut self, asked: &Receiver<Ask>, tell: &dyn Fn(Message)) {
        while let Ok(first) = asked.recv() {
            let (mut is_new, mut arranged) = (false, None);
            // What has come in the meantime is arranged once.
            for ask in std::iter::once(first).chain(asked.try_iter()) {
                match ask {
                    Ask::Looked(looked) => {
                        self.latest.insert(looked.snapshot.process.pid, looked);
                        is_new = true;
                    }
                    Ask::Ended(pid) if self.latest.len() > 1 => {
                        is_new |= self.latest.remove(&pid).is_some();
                    }
                    Ask::Ended(_) => {}
                    Ask::Arrange(wanted, frozen) => {
                        self.wanted = wanted;
                        arranged = Some(frozen);
                    }
                    Ask::Dump { picture, listing, style, path } => {
                        tell(Message::Notice(dump(&picture, &listing, style, path)));
                    }
                }
            }
            let newest = || self.chosen().map(|looked| self.picture(looked));
            match &arranged {
                Some(Some(frozen)) => tell(Message::Arranged(self.picture(frozen))),
                Some(None) => newest().into_iter().for_each(|picture| tell(Message::Arranged(picture))),
                None => {}
            }
            if is_new && !matches!(arranged, Some(None)) {
                newest().into_iter().for_each(|picture| tell(Message::Looked(picture)));
            }
        }
    }

    /// The look at the process that is wanted, or at the one with the most stacks.
    fn chosen(&self) -> Option<&Looked> {
        let wanted = self.wanted.process.and_then(|pid| self.latest.get(&pid));
        // Of several, the first one.
        let largest = || self.latest.values().rev().max_by_key(|looked| looked.snapshot.stacks.len());
        wanted.or_else(largest)
    }

    fn picture(&self, looked: &Looked) -> Arc<Picture> {
        let began = Instant::now();
        let mut picture = Picture::new(looked, &self.wanted);
        debug!("{} stacks are arranged in {:?}", picture.snapshot.stacks.len(), began.elapsed());
        if !self.latest.is_empty() {
            picture.processes = self.latest.iter().map(|(pid, looked)| (*pid, looked.snapshot.stacks.len())).collect();
        }
        Arc::new(picture)
    }
}

/// Writes a picture to a file that was not there before; says where, or why not.
fn dump(picture: &Picture, listing: &text::Listing, style: Style, path: Option<String>) -> String {
    let (mut file, path) = match create(picture.snapshot.process.pid, path) {
        Ok(created) => created,
        Err(error) => return format!("nothing was written: {error}"),
    };
    let mut content = String::new();
    // Writing to memory does not fail.
    let _ = text::write(&mut content, &picture.snapshot, listing, style);
    match file.write_all(content.as_bytes()) {
        Ok(()) => format!("written to {}", path.display()),
        Err(error) => format!("not all was written to {}: {error}", path.display()),
    }
}

fn create(pid: i32, path: Option<String>) -> io::Result<(File, PathBuf)> {
    if let Some(path) = path.map(PathBuf::from) {
        return Ok((File::create_new(&path)?, path));
    }
    let mut number = 1;
    loop {
        let path = PathBuf::from(format!("stackscope-{pid}-{number}.txt"));
        match File::create_new(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => number += 1,
            Err(error) => return Err(error),
        }
    }
}
