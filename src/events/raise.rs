//! What was raised: read from the exception object and from the stack at the moment when the search for a handler
//! begins.
//!
//! Nothing is called in the program, so only what lies at known places is read: the header of every exception (Itanium
//! C++ ABI, "Exception Handling"), what libstdc++ and Rust's standard library put after and before it, and the text
//! that a payload holds. What is not recognized is not known.

use std::fmt::Write;

use crate::addr::Addr;
use crate::image::demangle;
use crate::memory::Memory;
use crate::snapshot::{Snapshot, Stack};

/// What raised it, by the first eight bytes of the exception object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Language {
    /// Rust's standard library.
    Rust,
    /// GCC's or LLVM's C++.
    Cxx,
    /// Another one.
    Other,
}

/// Whether a raise is the first one of what is raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// It is.
    Fresh,
    /// It was caught and is raised again.
    Again,
    /// Nothing says it.
    Unknown,
}

/// What was raised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Raised {
    pub(crate) language: Language,
    pub(crate) origin: Origin,
    /// The type, where the language says it.
    pub(crate) type_name: Option<String>,
    /// What it says.
    pub(crate) message: Option<String>,
    /// Where in the source it was raised: file, line and column.
    pub(crate) location: Option<String>,
    /// What stays the same if it is raised again.
    pub(crate) payload: Addr,
}

/// The classes of exceptions. Rust's stands in memory as it is read, and did as a little-endian word before 1.75; C++'s is
/// such a word.
const RUST: [u8; 8] = *b"MOZ\0RUST";
const CXX: [&[u8; 7]; 2] = [b"GNUCC++", b"CLNGC++"];

/// More of a text is not shown.
const LONGEST_TEXT: usize = 1024;
/// How many frames between the panicking function and the unwinder there are at most.
const MACHINERY: usize = 16;

impl Raised {
    /// Reads what a thread is about to raise that stands at the start of a raise, with `exception` as its argument and
    /// its stitched backtrace in `snapshot`, from `stack` on.
    pub(crate) fn read(memory: &dyn Memory, exception: Addr, snapshot: &Snapshot, stack: usize) -> Raised {
        let mut class = [0; 8];
        let known = memory.read(exception, &mut class).is_ok();
        // C++ counts in the last byte whether the object stands for another one.
        let is_cxx = CXX.iter().any(|name| class.iter().rev().take(7).eq(name.iter()));
        if known && (class == RUST || class.iter().rev().eq(RUST.iter())) {
            return rust(memory, exception, snapshot, stack);
        }
        if known && is_cxx {
            return cxx(memory, exception, class[0] == 1);
        }
        Raised {
            language: Language::Other,
            origin: Origin::Unknown,
            type_name: None,
            message: None,
            location: None,
            payload: exception,
        }
    }

    /// Whether it only unwinds: libraries end suspended coroutines so.
    pub(crate) fn only_unwinds(&self) -> bool {
        let is_forced = |name: &str| name.rsplit("::").next().is_some_and(|last| last.contains("forced_unwind"));
        match self.language {
            Language::Rust => self.origin == Origin::Again && self.message.is_none(),
            Language::Cxx => self.type_name.as_deref().is_some_and(is_forced),
            Language::Other => false,
        }
    }
}

/// Where Rust keeps the payload: after the exception's header of 32 bytes and a mark, a `Box<dyn Any + Send>`
/// (`Exception` in panic_unwind's `gcc.rs`).
const RUST_PAYLOAD: i64 = 40;

fn rust(memory: &dyn Memory, exception: Addr, snapshot: &Snapshot, stack: usize) -> Raised {
    let word = |offset: i64| memory.read_u64(exception.offset(offset)).ok().map(Addr);
    let payload = word(RUST_PAYLOAD);
    let message = payload.zip(word(RUST_PAYLOAD + 8)).and_then(|(data, table)| text(memory, data, table));
    let machinery = snapshot.stacks.get(stack).map_or(Machinery::NONE, |stack| Machinery::of(stack, snapshot));
    let location = machinery.words.and_then(|(low, high)| location(memory, low, high));
    Raised {
        language: Language::Rust,
        origin: machinery.origin,
        type_name: None,
        message,
        location,
        payload: payload.unwrap_or(exception),
    }
}

/// The frames between the function that panicked and the unwinder, as far as they have names.
struct Machinery {
    origin: Origin,
    /// The part of the stack that they take.
    words: Option<(Addr, Addr)>,
}

impl Machinery {
    const NONE: Machinery = Machinery { origin: Origin::Unknown, words: None };

    fn of(stack: &Stack, snapshot: &Snapshot) -> Machinery {
        let mut found = Machinery::NONE;
        for frame in stack.frames.iter().take(MACHINERY) {
            let names = &snapshot.place(frame.frame.pc).names;
            let is_named = |wanted: &[&str]| {
                let functions = names.iter().filter_map(|name| name.function.as_deref());
                functions.into_iter().any(|function| wanted.iter().any(|wanted| function.contains(wanted)))
            };
            if is_named(&["panic_with_hook", "begin_panic_handler", "rust_begin_unwind"]) {
                found.origin = Origin::Fresh;
                found.words = stack.sp.zip(frame.frame.cfa);
            } else if is_named(&["resume_unwind", "panic_without_hook"]) && found.origin == Origin::Unknown {
                found.origin = Origin::Again;
            }
        }
        found
    }
}

/// Where a thread panics that stands further inside, and raises nothing: `None` if it does not panic, `Some(None)` if it
/// is not known where.
pub(crate) fn panic_at(memory: &dyn Memory, snapshot: &Snapshot, stack: usize) -> Option<Option<String>> {
    let machinery = Machinery::of(snapshot.stacks.get(stack)?, snapshot);
    let location = || machinery.words.and_then(|(low, high)| location(memory, low, high));
    (machinery.origin == Origin::Fresh).then(location)
}

/// The text of a payload: a `&'static str`, or a `String`, by size, alignment and drop function in the table of the
/// box. Another type of the same form that holds valid UTF-8 reads the same.
fn text(memory: &dyn Memory, data: Addr, table: Addr) -> Option<String> {
    let word = |at: Addr, index: i64| memory.read_u64(at.offset(8 * index)).ok();
    let (drop, size, align) = (word(table, 0)?, word(table, 1)?, word(table, 2)?);
    match (drop, size, align) {
        (0, 16, 8) => utf8(memory, Addr(word(data, 0)?), word(data, 1)?),
        (1.., 24, 8) => {
            // The order of capacity, address and length is the compiler's choice; the length comes last.
            let (first, second, length) = (word(data, 0)?, word(data, 1)?, word(data, 2)?);
            // Either may be an address or a capacity by its value, but what the capacity names is not mapped.
            let ways = [(first, second), (second, first)].into_iter();
            let mut possible = ways.filter(|(capacity, _)| (length..=MOST_CAPACITY).contains(capacity));
            possible.find_map(|(_, at)| utf8(memory, Addr(at), length))
        }
        _ => None,
    }
}

/// No text has more room than this.
const MOST_CAPACITY: u64 = 1 << 32;

fn utf8(memory: &dyn Memory, at: Addr, length: u64) -> Option<String> {
    let shown = usize::try_from(length).ok()?.min(LONGEST_TEXT);
    let mut bytes = vec![0; shown];
    memory.read(at, &mut bytes).ok()?;
    let valid = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        // What was cut may end in the middle of a character.
        Err(error) if shown == LONGEST_TEXT && error.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let mut text = valid.to_owned();
    if length > shown as u64 {
        text.push('…');
    }
    Some(text)
}

/// Looks through part of a stack, from the innermost frame on, for the address of a `core::panic::Location`: a path,
/// a line and a column.
fn location(memory: &dyn Memory, low: Addr, high: Addr) -> Option<String> {
    const MOST_WORDS: u64 = 1024;
    let words = high.0.checked_sub(low.0)?.min(8 * MOST_WORDS) / 8;
    (0..words as i64).find_map(|word| location_at(memory, Addr(memory.read_u64(low.offset(8 * word)).ok()?)))
}

fn location_at(memory: &dyn Memory, at: Addr) -> Option<String> {
    let mut bytes = [0; 24];
    memory.read(at, &mut bytes).ok()?;
    let (words, _) = bytes.as_chunks::<8>();
    let [path, length, rest] = *words else { return None };
    let length = u64::from_le_bytes(length);
    let rest = u64::from_le_bytes(rest);
    let (line, column) = (rest as u32, (rest >> 32) as u32);
    let plausible = (1..=4096).contains(&length) && (1..1 << 24).contains(&line) && (1..1 << 16).contains(&column);
    let path = if plausible { utf8(memory, Addr(u64::from_le_bytes(path)), length)? } else { return None };
    let is_path = path.ends_with(".rs") && !path.chars().any(char::is_control);
    is_path.then(|| format!("{path}:{line}:{column}"))
}

/// Where libstdc++ and libc++abi keep things: before the exception's header what `__cxa_exception` holds, after its 32
/// bytes the object that was thrown (`unwind-cxx.h`).
const CXX_TYPE: i64 = -80;
const CXX_HANDLERS: i64 = -40;
const CXX_OBJECT: i64 = 32;

fn cxx(memory: &dyn Memory, exception: Addr, stands_for_another: bool) -> Raised {
    let word = |at: Addr| memory.read_u64(at).ok();
    // `std::rethrow_exception` raises an object whose first word is the first one's address.
    let first = if stands_for_another { word(exception.offset(CXX_TYPE)).map(Addr) } else { None };
    let object = first.unwrap_or(exception.offset(CXX_OBJECT));
    let type_info = word(object.offset(CXX_TYPE - CXX_OBJECT)).map(Addr);
    // Negative while it is thrown again by `throw;` (`__cxa_rethrow`), else how many handlers hold it.
    let handlers = word(exception.offset(CXX_HANDLERS)).map(|word| word as u32);
    let type_name = type_info.and_then(|at| type_symbol(memory, at)).and_then(|symbol| type_name(&symbol));
    let message = type_info.and_then(|at| what(memory, at, object));
    let origin = match handlers {
        _ if stands_for_another => Origin::Again,
        Some(0) => Origin::Fresh,
        Some(_) => Origin::Again,
        None => Origin::Unknown,
    };
    Raised { language: Language::Cxx, origin, type_name, message, location: None, payload: object }
}

/// The mangled name of a `std::type_info`: its second word.
fn type_symbol(memory: &dyn Memory, type_info: Addr) -> Option<String> {
    let at = Addr(memory.read_u64(type_info.offset(8)).ok()?);
    let name = c_string(memory, at)?;
    // A name that counts only within its file begins with a star.
    let name = name.strip_prefix('*').unwrap_or(&name);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| name.to_owned())
}

fn type_name(symbol: &str) -> Option<String> {
    let name = demangle(&format!("_ZTI{symbol}"));
    name.strip_prefix("typeinfo for ").map(str::to_owned)
}

/// How far the classes of an object are followed towards their first base.
const MOST_BASES: usize = 16;

/// What `what()` of a standard exception returns, without a call: `std::runtime_error` and `std::logic_error` keep the
/// address of their text after the first word (libstdc++'s `__cow_string`), and their descendants begin with them.
fn what(memory: &dyn Memory, type_info: Addr, object: Addr) -> Option<String> {
    let mut class = type_info;
    for _ in 0..MOST_BASES {
        let symbol = type_symbol(memory, class)?;
        if ["St13runtime_error", "St11logic_error"].contains(&symbol.as_str()) {
            return c_string(memory, Addr(memory.read_u64(object.offset(8)).ok()?));
        }
        // A class with one base, at its start, keeps that base's type after its name. Another class keeps something
        // else there, which has no such name.
        class = Addr(memory.read_u64(class.offset(16)).ok()?);
    }
    None
}

/// A text that ends in a zero byte.
fn c_string(memory: &dyn Memory, at: Addr) -> Option<String> {
    let mut bytes = Vec::new();
    // Piece by piece, because nothing may be mapped after its end.
    while bytes.len() < LONGEST_TEXT {
        let mut piece = [0; 32];
        let next = at.offset(bytes.len() as i64);
        let piece = &mut piece[..32 - (next.0 % 32) as usize];
        memory.read(next, piece).ok()?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(&piece[..end]);
            return String::from_utf8(bytes).ok();
        }
        bytes.extend_from_slice(piece);
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    let _ = text.write_char('…');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Copied;

    const EXCEPTION: Addr = Addr(0x1050);
    const DATA: u64 = 0x3000;
    const TABLE: u64 = 0x4000;
    const TEXT: u64 = 0x5000;

    fn words(memory: &mut Copied, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.insert(Addr(at), bytes.into());
    }

    fn read(memory: &Copied) -> Raised {
        Raised::read(memory, EXCEPTION, &Snapshot::of_nothing(1, Vec::new()), 0)
    }

    /// What a Rust panic with this payload, of this form, says.
    fn panic(payload: &[u64], form: [u64; 3], text: &[u8]) -> Option<String> {
        let mut memory = Copied::default();
        words(&mut memory, EXCEPTION.0, &[u64::from_le_bytes(RUST), 0, 0, 0, 0, DATA, TABLE]);
        words(&mut memory, DATA, payload);
        words(&mut memory, TABLE, &form);
        memory.insert(Addr(TEXT), text.into());
        let raised = read(&memory);
        assert_eq!((raised.language, raised.payload), (Language::Rust, Addr(DATA)));
        raised.message
    }

    #[test]
    fn a_panic_says_its_text() {
        const STR: [u64; 3] = [0, 16, 8];
        const STRING: [u64; 3] = [0x40_1000, 24, 8];
        assert_eq!(panic(&[TEXT, 3], STR, b"out of").as_deref(), Some("out"));
        assert_eq!(panic(&[8, TEXT, 3], STRING, b"out of").as_deref(), Some("out"));
        assert_eq!(panic(&[TEXT, 8, 3], STRING, b"out of").as_deref(), Some("out"));
        // No text: not UTF-8, longer than its room, not mapped, of another form.
        assert_eq!(panic(&[TEXT, 3], STR, b"\xff\xff\xff"), None);
        assert_eq!(panic(&[2, TEXT, 3], STRING, b"out of"), None);
        assert_eq!(panic(&[0x9999_0000, 3], STR, b"out of"), None);
        assert_eq!(panic(&[TEXT, 3, 8], [0x40_1000, 24, 4], b"out of"), None);
        // A text without end is cut between two characters.
        let long = "é".repeat(1000);
        let shown = panic(&[TEXT, u64::MAX], STR, long.as_bytes()).unwrap();
        assert_eq!(shown, format!("{}…", "é".repeat(LONGEST_TEXT / 2)));
    }

    /// An exception of C++ whose type has this name, and a base of that one.
    fn thrown(name: &str, base: &str, handlers: u64) -> Copied {
        let mut memory = Copied::default();
        let types = 0x2000;
        let class = u64::from_be_bytes(*b"GNUCC++\0");
        words(&mut memory, 0x1000, &[types, 0, 0, 0, 0, handlers, 0, 0, 0, 0, class, 0, 0, 0, 0x40_0000, TEXT]);
        words(&mut memory, types, &[0x40_0000, types + 64, types + 24, 0x40_0000, types + 128, types]);
        memory.insert(Addr(types + 64), format!("{name:\0<64}{base:\0<64}").into_bytes().into());
        memory.insert(Addr(TEXT), b"short read\0 and what lies after it".as_slice().into());
        memory
    }

    #[test]
    fn an_exception_says_its_type_and_text() {
        let raised = read(&thrown("N3net9ShortReadE", "St13runtime_error", 0));
        assert_eq!(raised.type_name.as_deref(), Some("net::ShortRead"));
        assert_eq!((raised.message.as_deref(), raised.origin), (Some("short read"), Origin::Fresh));
        assert_eq!(read(&thrown("i", "St13runtime_error", u64::from(u32::MAX))).origin, Origin::Again);
        let raised = read(&thrown("N5boost7context6detail13forced_unwindE", "", 0));
        assert!(raised.only_unwinds() && raised.message.is_none(), "{raised:?}");
        // Types whose bases lead in a circle, and a name that is none.
        assert_eq!(read(&thrown("1A", "1B", 0)).message, None);
        assert_eq!(read(&thrown("\x1b[2J", "", 0)).type_name, None);
    }

    #[test]
    fn what_cannot_be_read_is_of_another_language() {
        let raised = read(&Copied::default());
        assert_eq!((raised.language, raised.payload, raised.message), (Language::Other, EXCEPTION, None));
    }

    #[test]
    fn a_location_is_a_path_with_a_line() {
        let at = |path: &[u8], line: u64| {
            let mut memory = Copied::default();
            words(&mut memory, 0x1000, &[7, TABLE, 0]);
            words(&mut memory, TABLE, &[TEXT, path.len() as u64, 5 << 32 | line]);
            memory.insert(Addr(TEXT), path.into());
            location(&memory, Addr(0x1000), Addr(0x1018))
        };
        assert_eq!(at(b"src/proto.rs", 91).as_deref(), Some("src/proto.rs:91:5"));
        assert_eq!(at(b"src/proto.rs", 0), None);
        assert_eq!(at(b"src/proto.c", 91), None);
        assert_eq!(at(b"a\nb.rs", 91), None);
    }
}
