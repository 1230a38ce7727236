//! What an image's constant data says of where its code goes on: tables of jumps and of functions.

use std::ops::Range;

use crate::image::{Image, Pointer, Pointers};

/// The constant data of an image.
pub(super) struct Words<'a> {
    image: &'a Image,
    pointers: Pointers<'a>,
    /// Parts of functions that lie apart: what is entered in the midst of a function. Sorted.
    apart: Vec<Range<u64>>,
}

/// More entries than this are not read of one table.
const MOST_ENTRIES: u64 = 4096;

impl<'a> Words<'a> {
    pub(super) fn new(image: &'a Image) -> Words<'a> {
        Words { image, pointers: image.pointers(), apart: Vec::new() }
    }

    /// The same, with the parts of functions that lie apart known; they are sorted.
    pub(super) fn with_apart(self, apart: Vec<Range<u64>>) -> Words<'a> {
        Words { apart, ..self }
    }

    /// Whether a jump from `function` to `place` may be one within it.
    fn is_inside(&self, function: &Range<u64>, place: u64) -> bool {
        let next = self.apart.partition_point(|range| range.start <= place);
        let apart = next.checked_sub(1).and_then(|index| self.apart.get(index));
        function.contains(&place) || apart.is_some_and(|range| range.contains(&place))
    }

    pub(super) fn pointers(&self) -> &Pointers<'a> {
        &self.pointers
    }

    /// The places that the first `count` entries of a table of distances, counted from itself, tell: up to the first that
    /// does not lie in `function`.
    pub(super) fn told(&self, table: u64, count: Option<u64>, function: &Range<u64>, left: &mut usize) -> Vec<u64> {
        let distance = |index: u64| {
            let mut bytes = [0; 4];
            let place = table.wrapping_add(4 * index);
            (self.image.is_constant(place) && self.image.read(place, &mut bytes)).then(|| i32::from_le_bytes(bytes))
        };
        let told = (0..count.unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES)).map_while(distance);
        let told = told.map(|distance| table.wrapping_add_signed(i64::from(distance)));
        distinct(told.take_while(|place| self.is_inside(function, *place)), left)
    }

    /// The same of a table of addresses.
    pub(super) fn places(&self, table: u64, count: Option<u64>, function: &Range<u64>, left: &mut usize) -> Vec<u64> {
        let count = usize::try_from(count.unwrap_or(MOST_ENTRIES)).unwrap_or(usize::MAX);
        let held = self.held(table).take(count).map_while(|pointer| match pointer {
            Pointer::Here(place) if self.is_inside(function, place) => Some(place),
            _ => None,
        });
        distinct(held, left)
    }

    /// Where all words of a table lead, from its beginning up to the first that does not lead to code.
    pub(super) fn held(&self, table: u64) -> impl Iterator<Item = Pointer<'a>> {
        (0..MOST_ENTRIES).map_while(move |index| self.slot(table.wrapping_add(8 * index)))
    }

    /// Where the word at `svma` leads, if that stays so as long as the program runs.
    pub(super) fn slot(&self, svma: u64) -> Option<Pointer<'a>> {
        self.image.constant_pointer(&self.pointers, svma)
    }
}

/// The places, each once; at most `left` are read, which is lessened by them.
fn distinct(places: impl Iterator<Item = u64>, left: &mut usize) -> Vec<u64> {
    let mut places: Vec<u64> = places.take(*left).collect();
    *left -= places.len();
    places.sort_unstable();
    places.dedup();
    places
}
