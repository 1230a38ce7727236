//! Damaged and hostile files: nothing panics, hangs or grows without bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::testing::{Folder, Loaded};
use crate::addr::{Addr, Pc};

/// No file may take longer. Each of those here takes some milliseconds; the rest is for a busy machine. A hang is still
/// found.
const LONGEST: Duration = Duration::from_secs(60);

/// A small program with inlined calls in two units; the addresses of its code.
fn small_program(folder: &Folder) -> (Loaded, Vec<u64>) {
    folder.write(
        "one.c",
        "int two(int); static inline int in(int x) { return two(x) * 2; } int one(int x) { return in(x) + in(x + 1); }",
    );
    folder.write(
        "two.c",
        "int volatile v; static inline int in(int x) { v = x; return x; } int two(int x) { return in(x) - v; }",
    );
    folder.run("gcc", &["-O2", "-g", "-shared", "-nostdlib", "-fPIC", "-o", "small.so", "one.c", "two.c"]);
    let loaded = Loaded::new(&folder.0, "small.so");
    let modules = loaded.modules();
    let code = modules.iter().next().unwrap().ranges[0];
    (loaded, (code.low.0..code.high.0).step_by(4).collect())
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

#[test]
fn any_byte_may_be_wrong() {
    let folder = Folder::new("flipped");
    let (mut loaded, svmas) = small_program(&folder);
    let whole = loaded.bytes.to_vec();
    assert!(loaded.lines(&svmas).iter().any(|lines| lines.len() > 1), "inlined calls are there to be damaged");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut still_named = 0;
    for _ in 0..10_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(4) {
            let place = random.below(bytes.len());
            bytes[place] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                _ => random.below(256) as u8,
            };
        }
        if random.below(16) == 0 {
            bytes.truncate(random.below(whole.len()));
        }
        loaded.bytes = Arc::new(bytes);
        let started = Instant::now();
        let modules = loaded.modules();
        let unwindable = modules.iter().filter_map(|module| module.image.as_ref()?.unwind_sections().eh_frame).count();
        assert!(unwindable <= 1);
        still_named += usize::from(loaded.lines(&svmas).iter().any(|lines| !lines.is_empty()));
        assert!(started.elapsed() < LONGEST);
    }
    assert!(still_named > 5_000, "most of it survives: {still_named}");
}

/// An object with hand-written debug information: abbreviations, then the entries of one unit of DWARF 5.
///
/// Abbreviation 1 is the unit (code from `code` to `end`), 2 a function there with children, 3 an inlined call of
/// entry `self` there with children, 4 a function whose origin is itself.
fn with_entries(folder: &Folder, name: &str, entries: &str) -> Loaded {
    with_abbreviations(folder, name, "", entries)
}

/// The same with `more` abbreviations, and whatever other sections `more` has.
fn with_abbreviations(folder: &Folder, name: &str, more: &str, entries: &str) -> Loaded {
    let source = format!(
        r#"
        .text
        .globl code
code:   .fill 64, 1, 0x90
end:
        .section .debug_abbrev, "", @progbits
        .macro abbreviation number, tag, children
        .uleb128 \number, \tag
        .byte \children
        .endm
        .macro range
        .uleb128 0x11, 0x01, 0x12, 0x07
        .endm
        abbreviation 1, 0x11, 1
        range
        .uleb128 0, 0
        abbreviation 2, 0x2e, 1
        range
        .uleb128 0x03, 0x08, 0, 0
        abbreviation 3, 0x1d, 1
        range
        .uleb128 0x31, 0x13, 0, 0
        abbreviation 4, 0x2e, 0
        range
        .uleb128 0x31, 0x13, 0, 0
        {more}
        .section .debug_abbrev
        .uleb128 0
        .section .debug_info, "", @progbits
        .macro bounds
        .quad code
        .quad end - code
        .endm
unit:   .long finish - start
start:  .short 5
        .byte 1, 8
        .long .debug_abbrev
        .uleb128 1
        bounds
        {entries}
        .byte 0
finish:
"#
    );
    folder.write("entries.s", &source);
    folder.run("gcc", &["-shared", "-nostdlib", "-o", name, "entries.s"]);
    Loaded::new(&folder.0, name)
}

fn addr_of_code(loaded: &Loaded) -> u64 {
    loaded.modules().iter().next().unwrap().ranges[0].low.0
}

#[test]
fn an_entry_that_is_its_own_origin_has_no_name_of_its_own() {
    let folder = Folder::new("own-origin");
    let loaded = with_entries(&folder, "own.so", "self: .uleb128 4\n bounds\n .long self - unit");
    let lines = loaded.lines(&[addr_of_code(&loaded) + 3]);
    assert_eq!(lines, [[("code".to_owned(), "??".to_owned(), 0)]], "the symbol table names it");
}

#[test]
fn two_entries_that_are_each_other_s_origin_end() {
    let folder = Folder::new("two-origins");
    let entries = ".uleb128 2\n bounds\n .asciz \"outer\"\n\
        self: .uleb128 3\n bounds\n .long other - unit\n .byte 0\n\
        other: .uleb128 3\n bounds\n .long self - unit\n .byte 0\n .byte 0";
    let loaded = with_entries(&folder, "two.so", entries);
    let lines = loaded.lines(&[addr_of_code(&loaded) + 3]);
    let functions: Vec<&str> = lines[0].iter().map(|(function, ..)| &**function).collect();
    assert_eq!(functions, ["??", "outer"], "of two calls side by side the first holds the address");
}

#[test]
fn calls_inlined_without_end_are_followed_to_a_limit() {
    let folder = Folder::new("deep");
    let entries = "self: .uleb128 2\n bounds\n .asciz \"outer\"\n\
        .rept 100000\n .uleb128 3\n bounds\n .long self - unit\n .endr\n .fill 100001, 1, 0";
    let loaded = with_entries(&folder, "deep.so", entries);
    let started = Instant::now();
    let lines = loaded.lines(&[addr_of_code(&loaded) + 3]);
    assert!(started.elapsed() < LONGEST);
    assert!((2..=2000).contains(&lines[0].len()), "{}", lines[0].len());
    assert_eq!(lines[0].last().unwrap().0, "outer");
}

#[test]
fn attributes_without_content_are_counted() {
    let folder = Folder::new("empty-attributes");
    // A million variables of a byte each, with 60,000 flags that take no bytes.
    let many = "abbreviation 5, 0x34, 0\n .rept 60000\n .byte 0x3f, 0x19\n .endr\n .uleb128 0, 0";
    let entries = ".fill 1000000, 1, 5\n .uleb128 2\n bounds\n .asciz \"late\"\n .byte 0";
    let loaded = with_abbreviations(&folder, "many.so", many, entries);
    let started = Instant::now();
    let lines = loaded.lines(&[addr_of_code(&loaded) + 3]);
    assert!(started.elapsed() < LONGEST);
    assert_eq!(lines[0][0].0, "code", "the symbol table still names it");
}

/// A function with 500 inlined calls in it, each called `length` times the letter a.
fn with_long_names(folder: &Folder, length: usize) -> Loaded {
    let named = format!(
        "abbreviation 6, 0x1d, 1\n range\n .uleb128 0x6e, 0x0e, 0, 0\n\
         .section .debug_str, \"\", @progbits\n .fill {length}, 1, 0x61\n .byte 0"
    );
    let entries = ".uleb128 2\n bounds\n .asciz \"outer\"\n\
        .rept 500\n .uleb128 6\n bounds\n .long .debug_str\n .endr\n .fill 501, 1, 0";
    with_abbreviations(folder, &format!("{length}.so"), &named, entries)
}

#[test]
fn names_longer_than_any_compiler_s_are_left_out() {
    let folder = Folder::new("too-long-names");
    let loaded = with_long_names(&folder, 1 << 20);
    let lines = loaded.lines(&[addr_of_code(&loaded) + 3]);
    assert_eq!(lines[0].len(), 501);
    assert!(lines[0][..500].iter().all(|(function, ..)| function == "??"));
    assert_eq!(lines[0][500].0, "outer");
}

#[test]
fn a_name_is_kept_once_however_many_addresses_have_it() {
    let folder = Folder::new("long-names");
    let loaded = with_long_names(&folder, 60_000);
    let code = addr_of_code(&loaded);
    let svmas: Vec<u64> = (code..code + 64).collect();
    let names = loaded.names(&svmas);
    let functions = |svma: &u64| names.get(Pc::At(Addr(*svma))).iter().map(|name| name.function.as_ref().unwrap());
    for svma in &svmas {
        assert_eq!(functions(svma).len(), 501);
        let same = functions(svma).zip(functions(&code)).all(|(one, other)| Arc::ptr_eq(one, other));
        assert!(same, "two gigabytes otherwise");
    }
}

#[test]
fn a_file_name_longer_than_any_path_is_left_out() {
    let folder = Folder::new("long-path");
    let source = |file: &str| format!("#line 1 \"{file}\"\nint volatile v;\nint code(void) {{\nreturn v;\n}}\n");
    folder.write("long.c", &source(&"a".repeat(70_000)));
    folder.write("short.c", &source("short"));
    for (name, expected) in [("long", "??"), ("short", "short")] {
        folder.run("gcc", &["-g", "-shared", "-fPIC", "-nostdlib", "-o", "out.so", &format!("{name}.c")]);
        let loaded = Loaded::new(&folder.0, "out.so");
        let [(function, file, line)] = &loaded.lines(&[addr_of_code(&loaded)])[0][..] else { panic!("{name}") };
        assert_eq!((&**function, *line), ("code", 2));
        assert!(file.ends_with(expected), "{}", &file[..100]);
    }
}

#[test]
fn tables_that_all_overlap_are_read_in_bounded_time() {
    let folder = Folder::new("overlapping");
    // 20,000 units, the table of each one abbreviation shorter than that of the one before, the first of 100,000.
    let source = r#"
        .text
        .globl code
code:   .fill 64, 1, 0x90
        .section .debug_abbrev, "", @progbits
tables:
        .set number, 20000
        .rept 100000
        .uleb128 number
        .byte 0x11, 0, 0, 0
        .set number, number + 1
        .endr
        .byte 0
        .section .debug_info, "", @progbits
        .set unit, 0
        .rept 20000
        .long 11
        .short 5
        .byte 1, 8
        .long tables + 7 * unit
        .uleb128 20000 + unit
        .set unit, unit + 1
        .endr
"#;
    folder.write("units.s", source);
    folder.run("gcc", &["-shared", "-nostdlib", "-o", "units.so", "units.s"]);
    let loaded = Loaded::new(&folder.0, "units.so");
    let started = Instant::now();
    let lines = loaded.lines(&[addr_of_code(&loaded) + 3]);
    assert!(started.elapsed() < LONGEST);
    assert_eq!(lines[0][0].0, "code", "the symbol table still names it");
}
