//! A stack as a bar: in use now, ever in use, free, and what lies at its end.

use ratatui::style::Style;

use super::super::theme::Look;
use super::pen::Pen;
use crate::snapshot::{Guard, Stack};

/// Eighths of a cell, from one to seven.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// The parts of a bar of this many cells.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Parts {
    now: String,
    peak: String,
    free: String,
}

/// Draws the bar of a stack in `width` cells, the last of which is its guard; nothing where its size is unknown.
pub(super) fn draw(pen: &mut Pen<'_>, stack: &Stack, width: usize, look: Look) {
    let (Some(size), true) = (stack.size().filter(|size| *size > 0), width > 1) else {
        pen.skip(width);
        return;
    };
    let parts = parts(stack.used(), stack.most_used(), size, width - 1, look);
    let guarded = match stack.bounds.guard {
        Guard::Ok(_) | Guard::Grows => Some(true),
        Guard::None => Some(false),
        Guard::Unknown => None,
    };
    pen.text(&parts.now, look.now()).text(&parts.peak, Style::new()).text(&parts.free, look.dim());
    pen.text(&look.signs().guard_sign(guarded).to_string(), Style::new());
}

fn parts(used: Option<u64>, most: Option<u64>, size: u64, cells: usize, look: Look) -> Parts {
    let [full, touched, free] = look.signs().bar_signs();
    let scaled = |bytes: Option<u64>, by: usize| {
        let units = u128::from(bytes.unwrap_or(0).min(size)) * (cells * by) as u128;
        units.div_ceil(u128::from(size)) as usize
    };
    // ASCII has no parts of a cell; whatever is in use shows as one at least.
    let eighths = if look.ascii { scaled(used, 1) * 8 } else { scaled(used, 8) };
    let mut now: String = std::iter::repeat_n(full, eighths / 8).collect();
    now.extend(eighths.checked_rem(8).filter(|part| *part > 0).map(|part| EIGHTHS[part - 1]));
    let filled = eighths.div_ceil(8);
    let peak = scaled(most, 1).max(filled);
    Parts {
        now,
        peak: std::iter::repeat_n(touched, peak - filled).collect(),
        free: std::iter::repeat_n(free, cells - peak).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::theme::Theme;
    use super::*;

    fn bar(used: u64, most: u64, ascii: bool) -> String {
        let Parts { now, peak, free } = parts(Some(used), Some(most), 1000, 10, Look { theme: Theme::Mono, ascii });
        now + &peak + &free
    }

    #[test]
    fn the_three_parts_add_up_to_the_width() {
        assert_eq!(bar(250, 500, false), "██▌▒▒·····");
        assert_eq!(bar(0, 0, false), "··········");
        assert_eq!(bar(1, 1, false), "▏·········");
        assert_eq!(bar(1000, 1000, false), "██████████");
        assert_eq!(bar(5000, 9000, false), "██████████");
        assert_eq!(bar(250, 500, true), "@@@##.....");
        for used in 0..=1000 {
            assert_eq!(bar(used, used + 7, false).chars().count(), 10, "{used}");
        }
    }
}
