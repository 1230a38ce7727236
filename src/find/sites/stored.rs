//! What an image's code says, as it is kept on disk from one run to the next.
//!
//! It is read only for the very file that it was worked out from, unchanged, and by the very program that wrote it; so it
//! is what working it out again would give. What does not look as we write it is as good as missing.

use serde::{Deserialize, Serialize};

use crate::find::descriptors::{Descriptor, Layout, Place, Switches};
use crate::find::sites::calls::{Calls, Wanted};
use crate::image::{Image, Stamp};
use crate::process::CacheFolder;
use crate::registers::Registers;

/// An image with less code than this is read as quickly as what would be kept of it.
const LEAST_CODE: usize = 128 << 10;

/// What an image's code says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) switches: Switches,
    /// What was asked of it, and the answers. A program that is just starting asks for less than later on.
    pub(super) calls: Vec<(Wanted, Calls)>,
}

/// The content of a file, behind its checksum.
#[derive(Serialize, Deserialize)]
struct Stored<S> {
    /// The program that wrote it.
    maker: Stamp,
    /// The file that it was worked out from.
    of: Stamp,
    said: S,
}

/// What is kept of `image`.
pub(super) fn load(folder: &CacheFolder, image: &Image) -> Option<Said> {
    let of = image.stamp()?;
    let bytes = folder.read(&name(of))?;
    let (checksum, content) = bytes.split_first_chunk()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let stored: Stored<Said> = serde_json::from_slice(content).ok()?;
    let fits = Some(stored.maker) == folder.maker() && stored.of == of && is_sound(&stored.said);
    fits.then_some(stored.said)
}

/// Keeps what `image` said, if that is worth it.
pub(super) fn save(folder: &CacheFolder, image: &Image, said: &Said) {
    let (Some(of), Some(maker)) = (image.stamp(), folder.maker()) else { return };
    if image.code().iter().map(|part| part.bytes.len()).sum::<usize>() < LEAST_CODE {
        return;
    }
    if let Ok(content) = serde_json::to_vec(&Stored { maker, of, said }) {
        let checksum = crc32fast::hash(&content).to_le_bytes();
        folder.write(&name(of), &[&checksum[..], &content].concat());
    }
}

fn name(of: Stamp) -> String {
    format!("{:x}-{:x}", of.device, of.inode)
}

/// Whether all numbers are of a size that derivation gives: what counts with them relies on it.
fn is_sound(said: &Said) -> bool {
    let is_small = |offset: i64| i32::try_from(offset).is_ok();
    let is_near = |place: Place| match place {
        Place::Stack(offset) | Place::Block(offset) => is_small(offset),
    };
    let is_layout = |layout: &Layout| {
        is_near(layout.resume_word)
            && is_small(layout.sp_after)
            && layout.stack_copy.is_none_or(is_small)
            && layout.sp_slot.is_none_or(is_small)
            && layout.mangling.is_none_or(|mangling| mangling.rotation < 64)
            && layout
                .registers
                .iter()
                .all(|(register, place)| usize::from(register.0) < Registers::LIMIT && is_near(*place))
    };
    let is_descriptor = |it: &Descriptor| is_layout(&it.layout) && it.fresh.as_ref().is_none_or(is_layout);
    said.switches.descriptors.iter().all(is_descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_code_can_say_are_not_believed() {
        let stored = |offset: &str| {
            format!(
                r#"{{"switches":{{"descriptors":[{{"site":1,"resume":{{"AfterCallsOf":1}},"saves_only":false,"layout":
                {{"resume_word":{{"Stack":{offset}}},"stack_copy":null,"sp_slot":null,"tags":0,"sp_after":8,"registers":[[3,{{"Block":8}}]],
                "mangling":null}},"fresh":null}}],"starts":[],"named_by_blocks":[]}},"calls":[]}}"#
            )
        };
        let said = |offset| serde_json::from_str::<Said>(&stored(offset)).unwrap();
        assert!(is_sound(&said("48")));
        assert!(!is_sound(&said("9223372036854775807")));
        assert!(!is_sound(&said("-2147483649")));
    }
}
