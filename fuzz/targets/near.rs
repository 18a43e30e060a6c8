//! Any word against any name: the distance is that of the table by which it is defined.
#![no_main]

use haul_core::query::{near_distance, near_part};
use libfuzzer_sys::fuzz_target;

/// Letters that are wrong at least in the best part of the name, column by column (Sellers 1980, with swaps).
fn by_table(word: &[char], name: &str) -> usize {
    let mut column: Vec<usize> = (0..=word.len()).collect();
    let (mut before, mut last) = (column.clone(), None);
    let mut best = word.len();
    for letter in name.chars() {
        let mut next = vec![0];
        for row in 0..word.len() {
            let changed = column[row] + usize::from(word[row] != letter);
            let mut cost = changed.min(column[row + 1] + 1).min(next[row] + 1);
            if row > 0 && last == Some(word[row]) && word[row - 1] == letter {
                cost = cost.min(before[row - 1] + 1);
            }
            next.push(cost);
        }
        best = best.min(next[word.len()]);
        before = std::mem::replace(&mut column, next);
        last = Some(letter);
    }
    best
}

fuzz_target!(|input: (&str, &str)| {
    let (word, name) = input;
    let letters: Vec<char> = near_part(word).chars().collect();
    if !letters.is_empty() {
        assert_eq!(near_distance(word, name, usize::MAX), Some(by_table(&letters, name)));
    }
});
