//! Near matches: when nothing fits, names with a few letters different.

use haul_core::query::{Query, near_distance, near_tolerance};

use super::Budget;
use super::collect::Collector;
use super::filter::Filters;
use crate::store::memory::Memory;
use crate::store::memory::postings::grams;

/// Postings that may be read to find names that share trigrams.
const POSTINGS: usize = 2_000_000;
/// Names that are compared letter by letter.
const NAMES: usize = 20_000;

/// Adds the documents in which every word stands or nearly stands; the sum of their distances is their class.
pub(super) fn search(
    memory: &Memory,
    query: &Query,
    filters: &Filters<'_>,
    budget: &mut Budget,
    collector: &mut Collector<'_>,
) {
    // The longest word narrows most; of several, the first.
    let Some(anchor) = query.words.iter().rev().map(|word| word.text.as_str()).max_by_key(|text| text.chars().count())
    else {
        return;
    };
    if near_tolerance(anchor) == 0 {
        return;
    }
    let Some(overlaps) = memory.names.postings.overlaps(anchor.as_bytes(), POSTINGS) else {
        budget.cut = true;
        return;
    };
    let needed = shared_trigrams(anchor);
    let mut docs: Vec<(u16, u32)> = overlaps
        .into_iter()
        .filter(|(_, shared)| *shared >= needed)
        .map(|(doc, shared)| (u16::MAX - shared, doc))
        .collect();
    docs.sort_unstable();
    if docs.len() > NAMES {
        docs.truncate(NAMES);
        budget.cut = true;
    }
    for (_, doc) in docs {
        if !memory.has_rows(doc) {
            continue;
        }
        if !budget.examine() {
            return;
        }
        let name = memory.names.folded(doc);
        let distance = query
            .words
            .iter()
            .try_fold(0, |sum, word| Some(sum + near_distance(&word.text, name, near_tolerance(&word.text))?));
        let Some(distance) = distance else { continue };
        if filters.refuse_name(name) {
            continue;
        }
        if !collector.add_doc(doc, distance as u8, budget, |row| filters.fit(memory, row)) {
            return;
        }
    }
}

/// Trigrams that a near match shares at least with the word: an edit touches those that hold the letter or, for two
/// that changed places, either letter. At least one, or every name would be compared.
pub(in crate::store) fn shared_trigrams(word: &str) -> u16 {
    let widest = word.chars().map(char::len_utf8).max().unwrap_or(1);
    let touched = near_tolerance(word) * (2 * widest + 2);
    grams(word.as_bytes()).len().saturating_sub(touched).max(1) as u16
}
