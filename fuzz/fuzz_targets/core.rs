//! An arbitrary core file: opens it, walks its threads, finds stacks and names, and writes the report.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use stackscope::workshop::image::names::Lines;
use stackscope::workshop::report::{json, style::Style, text};
use stackscope::workshop::look::{Looker, Wish};
use stackscope::workshop::process::Core;

fuzz_target!(|content: &[u8]| {
    let path = std::env::temp_dir().join(format!("stackscope-fuzz-{}", std::process::id()));
    fs::write(&path, content).unwrap();
    let opened = Core::open(&path);
    fs::remove_file(&path).unwrap();
    let Ok(mut core) = opened else { return };
    let snapshot = Looker::new().core(&mut core, Wish::all(Lines::Everywhere));
    json::write(&mut Vec::new(), &snapshot).unwrap();
    text::write(&mut String::new(), &snapshot, &text::Listing::default(), Style::default()).unwrap();
});
