//! Scans code quickly: 64 places are tried at a time, and only if one of them may hold what is searched for, each
//! of them is examined.
//!
//! The tests over a block have no branches, so that the compiler turns them into vector instructions.

/// How many places are tried at a time.
const BLOCK: usize = 64;

/// How many bytes a test sees from each place on. After the end of the code there are zeros.
const AHEAD: usize = 4;

/// A block, and the bytes after it that its last places see.
type Window = [u8; BLOCK + AHEAD];

/// The places at which four bytes pass `test`, in order. The last three bytes of `code` count as followed by zeros.
pub(super) fn places<'a>(
    code: &'a [u8],
    test: impl Fn([u8; AHEAD]) -> bool + Copy + 'a,
) -> impl Iterator<Item = usize> + 'a {
    let any = move |_: usize, window: &Window| {
        let at = |place: usize| [window[place], window[place + 1], window[place + 2], window[place + 3]];
        (0..BLOCK).fold(false, |any, place| any | test(at(place)))
    };
    blocks(code, any).filter(move |place| test(padded(&code[*place..])))
}

/// Numbers from `low` to `low + span`, modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) low: u32,
    pub(super) span: u32,
}

impl Span {
    fn holds(self, number: u32) -> bool {
        number.wrapping_sub(self.low) <= self.span
    }

    /// What the two high bytes are of each four that lead into the span from a place in the block at `start`.
    fn high_bytes(self, start: usize) -> HighBytes {
        // From the last place of the block to the low end, and from the first one to the high end.
        let lowest = self.low.wrapping_sub((start + BLOCK - 1 + AHEAD) as u32);
        let highest = self.low.wrapping_add(self.span).wrapping_sub((start + AHEAD) as u32);
        let (third, fourth) = ((lowest >> 16) as u8, (lowest >> 24) as u8);
        match ((highest >> 24) as u8).wrapping_sub(fourth) {
            // If the span is nearly everything, the difference of the high bytes wraps around.
            _ if self.span >= 0xfe00_0000 => HighBytes { third: 0, thirds: 255, fourth: 0, fourths: 255 },
            0 => HighBytes { third, thirds: ((highest >> 16) as u8).wrapping_sub(third), fourth, fourths: 0 },
            fourths => HighBytes { third: 0, thirds: 255, fourth, fourths },
        }
    }
}

/// Ranges of the third and the fourth byte of a number, modulo 2^8: the lowest, and how many more.
#[derive(Clone, Copy)]
struct HighBytes {
    third: u8,
    thirds: u8,
    fourth: u8,
    fourths: u8,
}

impl HighBytes {
    fn are(self, third: u8, fourth: u8) -> bool {
        (third.wrapping_sub(self.third) <= self.thirds) & (fourth.wrapping_sub(self.fourth) <= self.fourths)
    }
}

/// The places of four bytes that lead, as a distance from the place after them, into one of `spans`.
///
/// All is counted from the first byte of `code`, modulo 2^32.
pub(super) fn distances(code: &[u8], spans: Vec<Span>) -> impl Iterator<Item = usize> {
    let near = spans.clone();
    let any = move |start: usize, window: &Window| {
        near.iter()
            .map(|span| span.high_bytes(start))
            .any(|high| (0..BLOCK).fold(false, |any, place| any | high.are(window[place + 2], window[place + 3])))
    };
    blocks(code, any).filter(move |place| {
        let distance = code.get(*place..).and_then(|tail| tail.first_chunk::<AHEAD>());
        distance.is_some_and(|distance| {
            let leads_to = u32::from_le_bytes(*distance).wrapping_add((*place + AHEAD) as u32);
            spans.iter().any(|span| span.holds(leads_to))
        })
    })
}

/// The places in those blocks of which `any` says that they may hold what is searched for; `any` gets their start too.
fn blocks(code: &[u8], any: impl Fn(usize, &Window) -> bool) -> impl Iterator<Item = usize> {
    let starts = (0..code.len()).step_by(BLOCK).filter(move |start| match code[*start..].first_chunk() {
        Some(window) => any(*start, window),
        None => any(*start, &padded(&code[*start..])),
    });
    starts.flat_map(|start| start..(start + BLOCK).min(code.len()))
}

/// The first bytes, followed by zeros if there are not enough.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|index| bytes.get(index).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_look_at_each_place_finds() {
        // Numbers that look random (a linear congruential generator), so few that everything is found often.
        let mut state = 1u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0xc3
        };
        let code: Vec<u8> = std::iter::repeat_with(next).take(1000).collect();
        for length in [0, 1, 3, 4, 5, 63, 64, 65, 67, 68, 69, 127, 128, 1000] {
            let code = &code[..length];
            let test = |bytes: [u8; 4]| bytes[0] == 0x42 && bytes[1] & 1 == 1;
            let expected: Vec<usize> = (0..length).filter(|place| test(padded(&code[*place..]))).collect();
            assert_eq!(places(code, test).collect::<Vec<_>>(), expected, "{length}");
            let spans = [Span { low: 0xc000_0000, span: 0x0300_0000 }, Span { low: 0x0200_0000, span: 0xffff }];
            for spans in [&spans[..1], &spans, &[Span { low: 7, span: 0xffff_ff00 }], &[]].map(<[Span]>::to_vec) {
                let leads_there = |place: &usize| {
                    let distance =
                        code.get(*place..*place + 4).map(|four| u32::from_le_bytes(four.try_into().unwrap()));
                    let leads_to = distance.map(|distance| distance.wrapping_add(*place as u32 + 4));
                    leads_to.is_some_and(|to| spans.iter().any(|span| to.wrapping_sub(span.low) <= span.span))
                };
                let expected: Vec<usize> = (0..length).filter(leads_there).collect();
                assert_eq!(distances(code, spans.clone()).collect::<Vec<_>>(), expected, "{length} {spans:x?}");
            }
        }
    }
}
