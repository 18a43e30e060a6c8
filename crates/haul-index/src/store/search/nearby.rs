//! Near matches: when nothing fits, names with a few letters different.

use std::sync::Arc;

use hashbrown::HashMap;
use haul_core::query::{near_distance, near_tolerance};

use super::Search;
use super::order::Place;
use crate::store::trigrams::gram::{Gram, trigrams};
use crate::store::trigrams::list::{List, Reader};
use crate::store::trigrams::segment::{Rank, Segment};

/// Postings that are read to find names that share trigrams: about 2 ms.
const POSTINGS: u64 = 800_000;
/// Names that are compared letter by letter: about 1 ms.
const NAMES: usize = 1_000;
/// Ordinals whose shared trigrams are counted at once: a byte each, so that they stay in the nearest cache.
const WINDOW: u32 = 1 << 15;
/// Names that are compared under one lock.
const SLICE: usize = 100;

/// Names that share trigrams with a word: more first.
#[derive(Default)]
struct Best {
    /// Trigrams that are not shared, document, rank.
    docs: Vec<(u16, u32, Option<Rank>)>,
    cut: bool,
}

impl Best {
    fn add(&mut self, shared: u16, doc: u32, rank: Option<Rank>) {
        self.docs.push((u16::MAX - shared, doc, rank));
        if self.docs.len() >= 8 * NAMES {
            self.keep();
        }
    }

    fn keep(&mut self) {
        self.docs.sort_unstable_by_key(|(missing, doc, _)| (*missing, *doc));
        self.cut |= self.docs.len() > NAMES;
        self.docs.truncate(NAMES);
    }
}

impl Search<'_> {
    /// Adds the documents in which every word stands or nearly stands; the sum of their distances is their class.
    pub(super) fn near_matches(&mut self) {
        // The longest word narrows most; of several, the first.
        let words = &self.filters.query().words;
        let Some(anchor) = words.iter().rev().map(|word| word.text.as_str()).max_by_key(|text| text.chars().count())
        else {
            return;
        };
        if near_tolerance(anchor) == 0 {
            return;
        }
        let mut best = self.sharing(anchor);
        best.keep();
        self.budget.cut |= best.cut;
        for slice in best.docs.chunks(SLICE) {
            self.add_near(slice);
        }
    }

    fn add_near(&mut self, docs: &[(u16, u32, Option<Rank>)]) {
        let asking = self.asking;
        let words = &self.filters.query().words;
        asking.look(|memory, view| {
            self.collector.look_at(memory);
            for (_, doc, rank) in docs {
                let items = memory.item_count(*doc);
                if items == 0 {
                    continue;
                }
                if !self.budget.examine() {
                    return;
                }
                let name = memory.names.folded(*doc);
                let distance = words
                    .iter()
                    .try_fold(0, |sum, word| Some(sum + near_distance(&word.text, name, near_tolerance(&word.text))?));
                let Some(distance) = distance else { continue };
                if self.filters.refuse_name(name) {
                    continue;
                }
                let rank = rank.unwrap_or_else(|| Rank::new(items, name.len()));
                let place = Place::new(u8::try_from(distance).unwrap_or(u8::MAX), rank, *doc);
                let filters = &self.filters;
                self.collector.add_doc((memory, view), place, &mut self.budget, |row| filters.fit(memory, view, row));
            }
        });
    }

    /// Names that share as many trigrams with a word as a near match must.
    fn sharing(&self, anchor: &str) -> Best {
        let grams = trigrams(anchor.as_bytes());
        let needed = shared_trigrams(anchor, grams.len());
        let mut best = Best::default();
        for segment in &self.index.segments {
            sharing_in(segment, &grams, needed, &mut best);
        }
        for tail in &self.index.tails {
            let mut counts: HashMap<u32, u16> = HashMap::new();
            for gram in &grams {
                tail.find_bytes(&gram.bytes(), |doc| *counts.entry(doc).or_default() += 1);
            }
            for (doc, shared) in counts.into_iter().filter(|(_, shared)| *shared >= needed) {
                best.add(shared, doc, None);
            }
        }
        best
    }
}

fn sharing_in(segment: &Arc<Segment>, grams: &[Gram], needed: u16, best: &mut Best) {
    let mut lists: Vec<List<'_>> = grams.iter().filter_map(|gram| segment.list(*gram)).collect();
    lists.sort_unstable_by_key(List::count);
    let mut postings = 0;
    let affordable = lists.iter().take_while(|list| {
        postings += u64::from(list.count());
        postings <= POSTINGS
    });
    let affordable = affordable.count();
    // The commonest trigrams say least.
    best.cut |= affordable < lists.len();
    lists.truncate(affordable);
    let mut readers: Vec<Reader<'_>> = lists.into_iter().map(|list| Reader::new(list, 0)).collect();
    let mut counts = vec![0u8; WINDOW as usize];
    let mut first = 0;
    while first < segment.len() {
        let end = first.saturating_add(WINDOW);
        for reader in &mut readers {
            reader.take_below(end, |ordinal| {
                if let Some(count) = counts.get_mut((ordinal - first) as usize) {
                    *count = count.saturating_add(1);
                }
            });
        }
        for (ordinal, count) in (first..).zip(&mut counts) {
            let shared = u16::from(std::mem::take(count));
            if shared >= needed {
                best.add(shared, segment.doc(ordinal), Some(segment.rank(ordinal)));
            }
        }
        first = end;
    }
}

/// Trigrams that a near match shares at least with the word: an edit touches those that hold the letter or, for two
/// that changed places, either letter. At least one, or every name would be compared.
fn shared_trigrams(word: &str, grams: usize) -> u16 {
    let widest = word.chars().map(char::len_utf8).max().unwrap_or(1);
    let touched = near_tolerance(word) * (2 * widest + 2);
    grams.saturating_sub(touched).max(1) as u16
}
