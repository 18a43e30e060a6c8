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

/// The smallest edit distance between the word and any part of the name, if it is at most `tolerance`. Two neighbours
/// that changed places count once.
///
/// Dynamic programming over columns of the name with a free start and a free end (Sellers 1980; swaps as in Damerau
/// 1964, no letter edited twice); O(word x name).
pub fn near_distance(word: &str, folded_name: &str, tolerance: usize) -> Option<usize> {
    if folded_name.contains(word) {
        return Some(0);
    }
    if tolerance == 0 {
        return None;
    }
    let word: Vec<char> = word.chars().collect();
    let mut column: Vec<usize> = (0..=word.len()).collect();
    let mut column_before = column.clone();
    let mut letter_before = None;
    let mut best = word.len();
    for letter in folded_name.chars() {
        let mut next = Vec::with_capacity(column.len());
        next.push(0);
        for (row, wanted) in word.iter().enumerate() {
            let at = |column: &[usize], row: usize| column.get(row).copied().unwrap_or(usize::MAX - 1);
            let mut cost = at(&column, row) + usize::from(*wanted != letter);
            cost = cost.min(at(&column, row + 1) + 1).min(at(&next, row) + 1);
            let wanted_before = row.checked_sub(1).and_then(|row| word.get(row));
            if letter_before == Some(*wanted) && wanted_before == Some(&letter) {
                cost = cost.min(at(&column_before, row - 1) + 1);
            }
            next.push(cost);
        }
        best = best.min(next.last().copied().unwrap_or(best));
        column_before = core::mem::replace(&mut column, next);
        letter_before = Some(letter);
    }
    (best <= tolerance).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_to_parts_of_a_name() {
        assert_eq!(near_distance("report", "my report.pdf", 1), Some(0));
        assert_eq!(near_distance("reprot", "my report.pdf", 1), Some(1));
        assert_eq!(near_distance("rperot", "my report.pdf", 1), None);
        assert_eq!(near_distance("erport", "report", 1), Some(1));
        assert_eq!(near_distance("repoort", "report", 1), Some(1));
        assert_eq!(near_distance("reort", "report", 1), Some(1));
        assert_eq!(near_distance("rexort", "a report", 1), Some(1));
        assert_eq!(near_distance("report", "", 2), None);
        assert_eq!(near_tolerance("abc"), 0);
        assert_eq!(near_tolerance("größer"), 1);
        assert_eq!(near_tolerance("reporters"), 2);
    }
}
