//! What a survey leaves out.

use crate::find::survey::Survey;
use crate::find::suspended::search::worth_a_look;
use crate::process::TouchedCopy;
use crate::snapshot::{BlindSpot, Warning};

/// Notes what of the memory is not searched for suspended contexts although the program has code that leaves some.
pub(super) fn not_searched(survey: &mut Survey, copy: Option<&TouchedCopy>) {
    let Some(copy) = copy.filter(|_| worth_a_look(&survey.sites)) else { return };
    if copy.left_out() > 0 {
        survey.warnings.push(Warning::MemoryLimit { left_out: copy.left_out(), searched: copy.bytes().0 });
        survey.blind_spots.push(BlindSpot::memory_limit(copy.left_out()));
    }
    if copy.is_missing_some() {
        survey.warnings.push(Warning::MemoryUnreadable);
    }
}
