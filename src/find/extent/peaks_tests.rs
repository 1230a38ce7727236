//! Each kind of hole, laid out by hand.

use super::*;
use crate::memory::Copied;
use crate::process::PageRun;

/// Where calls left return addresses, and up to where the far end was filled.
#[derive(Default)]
struct Holds {
    calls: Vec<AddrRange>,
    filled_to: u64,
}

impl Content for Holds {
    fn without_fill(&self, run: AddrRange) -> Option<AddrRange> {
        let low = run.low.max(Addr(self.filled_to));
        (low < run.high).then(|| AddrRange::new(low, run.high))
    }

    fn left_by_calls(&self, run: AddrRange) -> bool {
        self.calls.contains(&run)
    }
}

fn range(low: u64, high: u64) -> AddrRange {
    AddrRange::new(Addr(low), Addr(high))
}

fn touched(runs: &[(u64, u64)]) -> Pages {
    let run = |(low, high): &(u64, u64)| PageRun { range: range(*low, *high), state: PageState::Touched };
    Pages { runs: runs.iter().map(run).collect(), sees_guards: true }
}

/// The peak of a stack from 0x10_0000 to 0x80_0000 whose stack pointer is at 0x7f_e800, and what is apart from it.
fn told(runs: &[(u64, u64)], holds: &Holds) -> Option<(u64, Option<(u64, u64)>)> {
    let bounds = Bounds::of(range(0x10_0000, 0x80_0000), BoundsFrom::Mapping, Guard::None);
    let peak = by_pages(&bounds, Some(Addr(0x7f_e800)), &touched(runs), holds)?;
    assert_eq!(peak.method, Method::Pages);
    Some((peak.bytes, peak.apart.map(|apart| (apart.bytes, apart.pages))))
}

#[test]
fn pages_that_join_the_used_part_are_its_depth() {
    assert_eq!(told(&[], &Holds::default()), None);
    assert_eq!(told(&[(0x8_0000, 0x9_0000)], &Holds::default()), None, "it lies below the stack");
    assert_eq!(told(&[(0x7f_c000, 0x80_0000)], &Holds::default()), Some((0x4000, None)));
    // A page in use that was never written to is no hole below it.
    assert_eq!(told(&[(0x7f_c000, 0x7f_e000), (0x7f_f000, 0x80_0000)], &Holds::default()), Some((0x4000, None)));
}

#[test]
fn a_page_below_a_hole_as_long_as_a_buffer_counts() {
    let used = (0x7f_e000, 0x80_0000);
    let near = 0x7f_e000 - LONGEST_BUFFER;
    assert_eq!(told(&[(near - PAGE, near), used], &Holds::default()), Some((0x80_0000 - (near - PAGE), None)));
    let far = near - PAGE;
    assert_eq!(
        told(&[(far - PAGE, far), used], &Holds::default()),
        Some((0x2000, Some((0x80_0000 - (far - PAGE), 1))))
    );
}

#[test]
fn a_page_far_below_counts_where_calls_were_made() {
    let runs = [(0x12_0000, 0x12_1000), (0x30_0000, 0x30_2000), (0x50_0000, 0x50_1000), (0x7f_e000, 0x80_0000)];
    assert_eq!(told(&runs, &Holds::default()), Some((0x2000, Some((0x6e_0000, 4)))));
    // The lowest lies apart from what calls left as well.
    let holds = Holds { calls: vec![range(0x30_0000, 0x30_2000)], ..Holds::default() };
    assert_eq!(told(&runs, &holds), Some((0x50_0000, Some((0x6e_0000, 1)))));
}

#[test]
fn marks_and_fills_at_the_far_end_do_not_count() {
    let small = Bounds::of(range(0x10_0000, 0x10_8000), BoundsFrom::Guard, Guard::None);
    let peak = |runs: &[(u64, u64)], holds: &Holds| {
        by_pages(&small, Some(Addr(0x10_7f00)), &touched(runs), holds).map(|peak| (peak.bytes, peak.apart))
    };
    let mark = Some(Apart { bytes: 0x8000, pages: 1 });
    let marked = [(0x10_0000, 0x10_1000), (0x10_7000, 0x10_8000)];
    assert_eq!(peak(&marked, &Holds::default()), Some((0x1000, mark)));
    let filled = Holds { filled_to: 0x10_5000, ..Holds::default() };
    assert_eq!(peak(&[(0x10_0000, 0x10_8000)], &filled), Some((0x3000, None)));
    let full = Holds { filled_to: 0x10_8000, ..Holds::default() };
    assert_eq!(peak(&[(0x10_0000, 0x10_8000)], &full), Some((0x100, None)), "it is used down to the stack pointer");
}

/// Runs as they are found in programs of any kind: also of stacks that share pages with their neighbours.
#[test]
fn the_lowest_touched_page_is_the_peak() {
    let stack = Bounds::of(range(0x10000, 0x20000), BoundsFrom::Mapping, Guard::None);
    let runs = [(0x8000, 0x9000), (0x1c000, 0x1d000), (0x1f000, 0x24000)];
    let peak = by_pages(&stack, None, &touched(&runs), &Holds::default());
    assert_eq!(peak, Some(Peak::by_pages(0x4000)));
    let pages = touched(&[(0x10000, 0x11000), (0x1f000, 0x21000)]);
    let stack = Bounds::of(range(0x10800, 0x20800), BoundsFrom::Mapping, Guard::None);
    assert_eq!(by_pages(&stack, None, &pages, &Holds::default()), Some(Peak::by_pages(0x1800)));
}

#[test]
fn a_fill_ends_at_the_first_word_that_differs() {
    let memory = |words: &[u64]| {
        let mut memory = Copied::default();
        memory.insert(Addr(0x1000), words.iter().flat_map(|word| word.to_le_bytes()).collect());
        memory
    };
    let lowest = |words: &[u64]| {
        let (memory, high) = (memory(words), 0x1000 + words.len() as u64 * 8);
        lowest_unlike(range(0x1000, high), |at, into| memory.read(at, into).is_ok())
    };
    let mut words = vec![0xa5a5_a5a5_a5a5_a5a5; 2000];
    words[0] = 7;
    assert_eq!(lowest(&words), Some((words[1], None)), "the first one may be a canary");
    words[1500] = 1;
    assert_eq!(lowest(&words), Some((words[1], Some(Addr(0x1000 + 1500 * 8)))));
    let high = 0x1000 + 2000 * 8;
    let exact = |bytes| Some(Peak { bytes, method: Method::Exact, apart: None });
    assert_eq!(unpainted(range(0x1000, high), &memory(&words)), exact(500 * 8));
    assert_eq!(unpainted(range(0x1000, high), &memory(&[0; 2000])), None, "nothing is painted with zeroes");
    assert_eq!(unpainted(range(0x800, high), &memory(&words)), None, "not all of it can be read");
}
