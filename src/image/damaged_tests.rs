//! Damaged and hostile files: nothing panics, hangs or grows without bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::testing::{Folder, Loaded};

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
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    assert!(still_named > 5_000, "most of it survives: {still_named}");
}
