//! Folds recursion: rows that repeat one after the other are shown once, with a count.

/// The longest cycle of calls that is folded: `a b c a b c …` has three.
const LONGEST_CYCLE: usize = 8;

/// A stretch of rows: `length` of them from `first`, repeated so that they occur `times` times in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fold {
    pub(super) first: usize,
    pub(super) length: usize,
    pub(super) times: usize,
}

/// Splits rows into stretches; two rows are the same if their keys are.
///
/// A single row folds from two in a row, a cycle of several from three rounds. Of the cycles that fit, the one that
/// covers most rows is taken, and of those the shortest.
pub(super) fn fold<K: PartialEq>(keys: &[K]) -> Vec<Fold> {
    let mut folds = Vec::new();
    let mut first = 0;
    while first < keys.len() {
        let best = (1..=LONGEST_CYCLE)
            .map(|length| Fold { first, length, times: rounds(&keys[first..], length) })
            .filter(|fold| fold.times >= if fold.length == 1 { 2 } else { 3 })
            .max_by_key(|fold| (fold.length * fold.times, std::cmp::Reverse(fold.length)));
        let fold = best.unwrap_or(Fold { first, length: 1, times: 1 });
        first += fold.length * fold.times;
        folds.push(fold);
    }
    folds
}

/// How many times the first `length` keys repeat, one after the other, from the front on.
fn rounds<K: PartialEq>(keys: &[K], length: usize) -> usize {
    if keys.len() < length {
        return 0;
    }
    let same = (length..keys.len()).take_while(|index| keys[*index] == keys[*index - length]).count();
    1 + same / length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &str, expected: &str) {
        let keys: Vec<char> = rows.chars().collect();
        let text: Vec<String> = fold(&keys)
            .iter()
            .map(|fold| {
                let cycle: String = keys[fold.first..fold.first + fold.length].iter().collect();
                if fold.times == 1 { cycle } else { format!("{cycle}x{}", fold.times) }
            })
            .collect();
        assert_eq!(text.join(" "), expected);
    }

    #[test]
    fn recursion_is_folded() {
        check("", "");
        check("abc", "a b c");
        check("aab", "ax2 b");
        check("mpppppe", "m px5 e");
    }

    #[test]
    fn mutual_recursion_is_folded_from_three_rounds() {
        check("abab", "a b a b");
        check("xababababy", "x abx4 y");
        check("abcabcabcab", "abcx3 a b");
    }

    #[test]
    fn the_shortest_of_equal_cycles_is_taken() {
        check("aaaaaaaa", "ax8");
    }
}
