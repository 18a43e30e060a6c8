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

/// Letters of a word that are compared; of a longer word the first ones stand for all.
const LETTERS: usize = 128;

/// The part of a folded word that is compared.
pub fn near_part(word: &str) -> &str {
    let end = word.char_indices().nth(LETTERS).map_or(word.len(), |(at, _)| at);
    word.get(..end).unwrap_or(word)
}

/// A word to which parts of names are compared, prepared once.
///
/// All rows of the table that Sellers (1980) computes column by column, with a free start and a free end, stand side by
/// side in the bits of one number (Myers 1999; swaps of neighbours, no letter edited twice, after Hyyrö 2003).
#[derive(Clone, Debug)]
pub struct NearWord {
    /// Where in the word each ASCII character stands, a bit per place.
    ascii: [u128; 128],
    others: Vec<(char, u128)>,
    letters: usize,
    tolerance: usize,
}

impl NearWord {
    /// Of a folded word, with its own tolerance.
    pub fn new(word: &str) -> Self {
        let mut near = Self { ascii: [0; 128], others: Vec::new(), letters: 0, tolerance: near_tolerance(word) };
        for letter in near_part(word).chars() {
            let bit = 1 << near.letters;
            near.letters += 1;
            if let Some(places) = near.ascii.get_mut(letter as usize) {
                *places |= bit;
            } else if let Some((_, places)) = near.others.iter_mut().find(|(other, _)| *other == letter) {
                *places |= bit;
            } else {
                near.others.push((letter, bit));
            }
        }
        near
    }

    /// The smallest edit distance between the word and any part of the name, if it is at most the tolerance. Two
    /// neighbours that changed places count once. O(name).
    pub fn distance(&self, folded_name: &str) -> Option<usize> {
        let last = 1u128 << self.letters.checked_sub(1)?;
        // A bit of `up` or `down` says that a row of the column is one more or one less than the row above.
        let (mut up, mut down) = (u128::MAX, 0u128);
        // No more than above and to the left, and where the letter before stands.
        let (mut diagonal, mut places_before) = (0u128, 0u128);
        let (mut distance, mut best) = (self.letters, self.letters);
        for letter in folded_name.chars() {
            let places = self.places(letter);
            let swapped = ((!diagonal & places) << 1) & places_before;
            diagonal = ((places & up).wrapping_add(up) ^ up) | places | down | swapped;
            let (right_up, right_down) = (down | !(diagonal | up), diagonal & up);
            distance = distance + usize::from(right_up & last != 0) - usize::from(right_down & last != 0);
            best = best.min(distance);
            let (right_up, right_down) = (right_up << 1, right_down << 1);
            up = right_down | !(diagonal | right_up);
            down = right_up & diagonal;
            places_before = places;
        }
        (best <= self.tolerance).then_some(best)
    }

    fn places(&self, letter: char) -> u128 {
        match self.ascii.get(letter as usize) {
            Some(places) => *places,
            None => self.others.iter().find(|(other, _)| *other == letter).map_or(0, |(_, places)| *places),
        }
    }
}

/// [`NearWord::distance`] for one name and another tolerance.
pub fn near_distance(word: &str, folded_name: &str, tolerance: usize) -> Option<usize> {
    NearWord { tolerance, ..NearWord::new(word) }.distance(folded_name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// The table itself, column by column.
    fn by_table(word: &str, name: &str) -> usize {
        let word: Vec<char> = word.chars().collect();
        let mut column: Vec<usize> = (0..=word.len()).collect();
        let (mut column_before, mut letter_before) = (column.clone(), None);
        let mut best = word.len();
        for letter in name.chars() {
            let mut next = vec![0];
            for row in 0..word.len() {
                let changed = column[row] + usize::from(word[row] != letter);
                let mut cost = changed.min(column[row + 1] + 1).min(next[row] + 1);
                if row > 0 && letter_before == Some(word[row]) && word[row - 1] == letter {
                    cost = cost.min(column_before[row - 1] + 1);
                }
                next.push(cost);
            }
            best = best.min(next[word.len()]);
            column_before = core::mem::replace(&mut column, next);
            letter_before = Some(letter);
        }
        best
    }

    proptest! {
        #[test]
        fn distances_are_those_of_the_table(word in "[a-cé]{1,12}", name in "[a-cé]{0,20}") {
            prop_assert_eq!(near_distance(&word, &name, usize::MAX), Some(by_table(&word, &name)));
        }

        #[test]
        fn of_long_words_the_first_letters_are_compared(word in "[a-cé]{120,140}", name in "[a-cé]{100,160}") {
            prop_assert_eq!(near_part(&word).chars().count(), word.chars().count().min(LETTERS));
            let by_table = by_table(near_part(&word), &name);
            prop_assert_eq!(near_distance(&word, &name, usize::MAX), Some(by_table));
        }
    }

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
        let long = "ab".repeat(80);
        assert_eq!(near_distance(&long, &long, 2), Some(0));
        assert_eq!(near_tolerance("abc"), 0);
        assert_eq!(near_tolerance("größer"), 1);
        assert_eq!(near_tolerance("reporters"), 2);
    }
}
