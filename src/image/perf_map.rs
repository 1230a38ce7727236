//! Names of code that was made at run time, from the file that just-in-time compilers write for perf.
//!
//! `/tmp/perf-PID.map`: a line for each piece of code with its address and length in hexadecimal digits without `0x`,
//! and its name, which may hold spaces (the kernel's `tools/perf/Documentation/jit-interface.txt`).

use super::symbols::Symbol;

/// At most this many bytes of a file are read.
const LONGEST: usize = 1 << 28;

/// The names of `addrs`, which are sorted. Of several pieces at one address the last is the one that is there now.
pub(crate) fn find(map: &[u8], addrs: &[u64]) -> Vec<Option<Symbol>> {
    let mut found = vec![None; addrs.len()];
    for line in map[..map.len().min(LONGEST)].split(|byte| *byte == b'\n') {
        let Some((start, length, name)) = parse(line) else { continue };
        let end = start.saturating_add(length);
        let from = addrs.partition_point(|addr| *addr < start);
        for (_, found) in addrs[from..].iter().zip(&mut found[from..]).take_while(|(addr, _)| **addr < end) {
            *found = Some((start, name));
        }
    }
    let symbol = |(svma, name)| Symbol { name: String::from_utf8_lossy(name).into_owned(), svma };
    found.into_iter().map(|found| found.map(symbol)).collect()
}

fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let start = number(words.next()?)?;
    let length = number(words.next()?)?;
    Some((start, length, words.next().filter(|name| !name.is_empty())?))
}

fn number(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_for_an_address_counts() {
        let map = b"1000 20 old\nzz\n1000 10 LazyCompile:*add /x.js:3\n2000 ffffffffffffffff wide\n3000";
        let name = |symbol: &Option<Symbol>| symbol.as_ref().map(|symbol| (symbol.svma, symbol.name.clone()));
        let found = find(map, &[0xfff, 0x100f, 0x1010, 0x1020, 0x9000]);
        let found: Vec<_> = found.iter().map(name).collect();
        let expected = [
            None,
            Some((0x1000, "LazyCompile:*add /x.js:3".into())),
            Some((0x1000, "old".into())),
            None,
            Some((0x2000, "wide".into())),
        ];
        assert_eq!(found, expected);
    }
}
