//! Near matches: names that contain a word with a few letters wrong. Asked only when nothing fits.

use alloc::vec::Vec;

/// Letters that may be wrong (replaced, missing or extra) in a folded word of a query: none below 4 characters, one
/// below 8, else two.
pub fn near_tolerance(word: &str) -> usize {
    match word.chars().count() {
        0..4 => 0,
        4..8 => 1,
        _ => 2,
    }
}

/// The smallest edit distance between the word and any part of the name, if it is at most `tolerance`.
///
/// Dynamic programming over columns of the name with a free start and a free end (Sellers 1980); O(word x name).
pub fn near_distance(word: &str, folded_name: &str, tolerance: usize) -> Option<usize> {
    if folded_name.contains(word) {
        return Some(0);
    }
    if tolerance == 0 {
        return None;
    }
    let word: Vec<char> = word.chars().collect();
    let mut column: Vec<usize> = (0..=word.len()).collect();
    let mut best = word.len();
    for letter in folded_name.chars() {
        let mut diagonal = 0;
        let mut above = 0;
        for (wanted, cell) in word.iter().zip(column.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(*wanted != letter);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(above + 1);
            above = *cell;
        }
        best = best.min(above);
    }
    (best <= tolerance).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_to_parts_of_a_name() {
        assert_eq!(near_distance("report", "my report.pdf", 1), Some(0));
        assert_eq!(near_distance("reprot", "my report.pdf", 1), None);
        assert_eq!(near_distance("reprot", "my report.pdf", 2), Some(2));
        assert_eq!(near_distance("repoort", "report", 1), Some(1));
        assert_eq!(near_distance("reort", "report", 1), Some(1));
        assert_eq!(near_distance("rexort", "a report", 1), Some(1));
        assert_eq!(near_distance("report", "", 2), None);
        assert_eq!(near_tolerance("abc"), 0);
        assert_eq!(near_tolerance("größer"), 1);
        assert_eq!(near_tolerance("reporters"), 2);
    }
}
