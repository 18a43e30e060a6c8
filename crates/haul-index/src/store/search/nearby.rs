//! Near matches: when nothing fits, names with a few letters different.

use std::sync::Arc;

use hashbrown::HashMap;
use haul_core::query::{NearWord, near_part, near_tolerance};

use super::Search;
use super::order::Place;
use crate::store::trigrams::gram::{Gram, trigrams};
use crate::store::trigrams::list::{List, Reader};
use crate::store::trigrams::segment::{Rank, Segment};

/// Postings of one segment that are read to find names that share trigrams: about 2 ms.
const POSTINGS: u64 = 800_000;
/// Names that are compared letter by letter: about 0.5 ms.
const NAMES: usize = 1_000;
/// Ordinals whose shared trigrams are counted at once: a byte each, so that they stay in the nearest cache.
const WINDOW: usize = 1 << 15;
/// Lists that are counted at most: the highest bit of a count says that it reaches a threshold.
const LISTS: usize = 127;
/// Names that are compared under one lock.
const SLICE: usize = 100;

/// Names that share trigrams with a word: those that share most, and of these the first that came.
struct Best {
    /// Trigrams that a name must share to come in; those that were not counted are taken as shared.
    needed: usize,
    /// Names that share at least so many.
    held: usize,
    /// Document and rank, by the number of trigrams that are shared.
    by_shared: Vec<Vec<(u32, Option<Rank>)>>,
    cut: bool,
}

impl Best {
    fn new(needed: usize, grams: usize) -> Self {
        Self { needed, held: 0, by_shared: vec![Vec::new(); grams + 1], cut: false }
    }

    fn add(&mut self, shared: usize, doc: u32, rank: Option<Rank>) {
        if shared < self.needed {
            return;
        }
        self.by_shared[shared].push((doc, rank));
        self.held += 1;
        while self.held >= NAMES {
            // Who shares no more than these would come behind them.
            self.held -= self.by_shared[self.needed].len();
            self.needed += 1;
            self.cut = true;
        }
    }

    fn finish(self) -> Vec<(u32, Option<Rank>)> {
        self.by_shared.into_iter().rev().flatten().take(NAMES).collect()
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
        let words: Vec<NearWord> = words.iter().map(|word| NearWord::new(&word.text)).collect();
        let best = self.sharing(anchor);
        self.budget.cut |= best.cut;
        for slice in best.finish().chunks(SLICE) {
            self.add_near(&words, slice);
        }
    }

    fn add_near(&mut self, words: &[NearWord], docs: &[(u32, Option<Rank>)]) {
        let asking = self.asking;
        asking.look(|memory, view| {
            memory.read_docs_ahead(docs.iter().map(|(doc, _)| *doc), false);
            for (doc, rank) in docs {
                let items = memory.item_count(*doc);
                if items == 0 {
                    continue;
                }
                if !self.budget.examine() {
                    return;
                }
                let name = memory.names.folded(*doc);
                let distance = words.iter().try_fold(0, |sum, word| Some(sum + word.distance(name)?));
                let Some(distance) = distance else { continue };
                if self.filters.refuse_name(name) {
                    continue;
                }
                let rank = rank.unwrap_or_else(|| Rank::new(items, name.len()));
                let place = Place::new(u8::try_from(distance).unwrap_or(u8::MAX), rank, *doc);
                let filters = &self.filters;
                let sees = |row| filters.see(memory, view, row);
                let fits = |row| filters.fit(memory, view, row);
                self.collector.add_doc((memory, view), place, &mut self.budget, sees, fits);
            }
        });
    }

    /// Names that share as many trigrams with a word as a near match must.
    fn sharing(&self, anchor: &str) -> Best {
        let anchor = near_part(anchor);
        let grams = trigrams(anchor.as_bytes());
        let mut best = Best::new(shared_trigrams(anchor, grams.len()), grams.len());
        for segment in &self.index.segments {
            sharing_in(segment, &grams, &mut best);
        }
        for tail in &self.index.tails {
            let mut counts: HashMap<u32, usize> = HashMap::new();
            for gram in &grams {
                tail.find_bytes(&gram.bytes(), |doc| *counts.entry(doc).or_default() += 1);
            }
            for (doc, shared) in counts {
                best.add(shared, doc, None);
            }
        }
        best
    }
}

fn sharing_in(segment: &Arc<Segment>, grams: &[Gram], best: &mut Best) {
    let mut lists: Vec<List<'_>> = grams.iter().filter_map(|gram| segment.list(*gram)).collect();
    lists.sort_unstable_by_key(List::count);
    let mut postings = 0;
    let affordable = lists.iter().take(LISTS).take_while(|list| {
        postings += u64::from(list.count());
        postings <= POSTINGS
    });
    let affordable = affordable.count();
    // The commonest trigrams say least: a name may have all that are not counted.
    let uncounted = lists.len() - affordable;
    best.cut |= best.needed <= uncounted;
    lists.truncate(affordable);
    let mut readers: Vec<Reader<'_>> = lists.into_iter().map(|list| Reader::new(list, 0)).collect();
    let mut counts = vec![0u8; WINDOW];
    for first in (0..segment.len()).step_by(WINDOW) {
        for reader in &mut readers {
            reader.take_below(first.saturating_add(WINDOW as u32), |ordinal| {
                if let Some(count) = counts.get_mut((ordinal - first) as usize) {
                    *count += 1;
                }
            });
        }
        // Few ordinals reach the threshold: eight are told at once.
        for (ordinals, eight) in (first..).step_by(8).zip(counts.as_chunks_mut::<8>().0) {
            let together = u64::from_ne_bytes(*eight);
            if together == 0 {
                continue;
            }
            let needed = best.needed.saturating_sub(uncounted).max(1);
            let lacking = 0x80u64.saturating_sub(needed as u64);
            if (together + lacking * 0x0101_0101_0101_0101) & 0x8080_8080_8080_8080 != 0 {
                for (ordinal, shared) in (ordinals..).zip(*eight) {
                    let shared = usize::from(shared);
                    if shared >= needed {
                        best.add(shared + uncounted, segment.doc(ordinal), Some(segment.rank(ordinal)));
                    }
                }
            }
            *eight = [0; 8];
        }
    }
}

/// Trigrams that a near match shares at least with the word: an edit touches those that hold the letter or, for two
/// that changed places, either letter. At least one, or every name would be compared.
fn shared_trigrams(word: &str, grams: usize) -> usize {
    let widest = word.chars().map(char::len_utf8).max().unwrap_or(1);
    let touched = near_tolerance(word) * (2 * widest + 2);
    grams.saturating_sub(touched).max(1)
}
