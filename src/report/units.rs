//! Sizes, times and counts as people read them.

use std::time::Duration;

/// A number of bytes in at most five characters: `96B`, `1.1K`, `64K`, `1.42M`, `8M`, `3.7G`.
///
/// K is 1,024 bytes. Whole multiples have no fraction; others are rounded to the nearest.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut unit = 0;
    let mut scale = 1024u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1000 {
        unit += 1;
        scale *= 1024;
    }
    let value = bytes as f64 / scale as f64;
    let digits = match value {
        _ if bytes.is_multiple_of(scale) => 0,
        _ if value >= 99.95 => 0,
        _ if value >= 9.995 || unit == 0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{}", UNITS[unit])
}

/// A time with three digits: `740 ns`, `6.10 ms`, `2.05 s`.
pub fn time(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    let (value, unit) = match nanoseconds {
        n if n < 1e3 => return format!("{n} ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A time in whole seconds: `00:41:07`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A count with a space before every three digits: `1 304`.
pub fn count(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// What percentage `part` is of `whole`, rounded down; 0 if `whole` is 0.
pub fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (u128::from(part) * 100 / u128::from(whole)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_rounded() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1126, "1.1K"),
            (47_411, "46.3K"),
            (65_536, "64K"),
            (307_300, "300K"),
            (1_488_978, "1.42M"),
            (8 << 20, "8M"),
            (1_023_999, "1000K"),
            (1_024_000, "0.98M"),
            (u64::MAX, "16384P"),
        ];
        for (given, expected) in cases {
            assert_eq!(bytes(given), expected);
        }
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!(time(Duration::from_nanos(740)), "740 ns");
        assert_eq!(time(Duration::from_micros(6100)), "6.10 ms");
        assert_eq!(time(Duration::from_millis(205)), "205 ms");
        assert_eq!(time(Duration::from_millis(41_000)), "41.0 s");
    }

    #[test]
    fn clocks_show_hours_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_secs(2467)), "00:41:07");
        assert_eq!(clock(Duration::from_millis(360_000_999)), "100:00:00");
    }

    #[test]
    fn counts_are_spaced() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1304), "1 304");
        assert_eq!(count(1_000_000), "1 000 000");
    }
}
