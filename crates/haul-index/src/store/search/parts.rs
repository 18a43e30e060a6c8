//! The second stage: some words in the base name, the others in names of directories above it.

use haul_core::query::MatchClass;

use super::order::Place;
use super::{Budget, Search, Seen};
use crate::store::trigrams::segment::Rank;
use crate::store::trigrams::walk::{Need, Walk};

/// Steps of this stage: about 2 ms.
const WORK: u64 = 40_000;
const CHUNK: usize = 1_024;
/// Documents that are compared between two tests for the end.
const STEP: usize = 64;

impl Search<'_> {
    /// Entries with at least one word in the base name and all others in the base name or a directory part. `all`
    /// says that no end is taken before everything is counted. Returns whether everything was counted.
    pub(super) fn directory_parts(&mut self, all: bool) -> bool {
        let texts: Vec<String> = self.matcher.texts().map(str::to_owned).collect();
        let stage_work = if all { self.budget.left } else { self.budget.left.min(WORK) };
        let kept = self.budget.left - stage_work;
        self.budget.left = stage_work;
        let mut complete = true;
        for (number, text) in texts.iter().enumerate() {
            complete &= self.word_in_name(number, text, all);
        }
        self.budget.left += kept;
        complete
    }

    /// Documents with a word and no word before it; false if it ended with enough hits or without budget.
    fn word_in_name(&mut self, number: usize, text: &str, all: bool) -> bool {
        let mut need = Need::default();
        need.text(text);
        for extensions in self.filters.extensions() {
            need.extension(extensions);
        }
        let mut ordinals = Vec::new();
        let mut complete = true;
        for segment in self.index.segments.clone() {
            let Some(mut walk) = Walk::new(&segment, &need, 0) else { continue };
            'walk: loop {
                let more = walk.next(CHUNK, &mut ordinals);
                for step in ordinals.chunks(STEP) {
                    let docs: Vec<(Option<Rank>, u32)> =
                        step.iter().map(|ordinal| (Some(segment.rank(*ordinal)), segment.doc(*ordinal))).collect();
                    let full = docs.first().is_some_and(|(rank, doc)| {
                        rank.is_some_and(|rank| {
                            self.collector.is_full(Place::new(MatchClass::Directory as u8, rank, *doc))
                        })
                    });
                    if full && !all {
                        complete = false;
                        break 'walk;
                    }
                    if !self.add_parts(number, &docs) {
                        return false;
                    }
                    self.collector.cut();
                }
                if !more {
                    break;
                }
            }
        }
        for tail in self.index.tails.clone() {
            let mut docs = Vec::new();
            tail.find(text, |doc, _| docs.push((None, doc)));
            if !docs.chunks(STEP).all(|step| self.add_parts(number, step)) {
                return false;
            }
        }
        complete
    }

    fn add_parts(&mut self, number: usize, docs: &[(Option<Rank>, u32)]) -> bool {
        let asking = self.asking;
        asking.look(|memory, view| {
            self.collector.look_at(memory);
            docs.iter().all(|(rank, doc)| self.add_part((memory, view), number, *rank, *doc))
        })
    }

    fn add_part(&mut self, (memory, view): Seen<'_>, number: usize, rank: Option<Rank>, doc: u32) -> bool {
        let items = memory.item_count(doc);
        if items == 0 {
            return true;
        }
        if !self.budget.examine() {
            return false;
        }
        let name = memory.names.folded(doc);
        let (all, movable) = (self.matcher.all(), self.matcher.movable());
        let in_name = self.matcher.mask(name);
        // Each document once: with the first of its words. With all words it was found before.
        let first = in_name != 0 && in_name.trailing_zeros() as usize == number;
        if !first || in_name == all || (all & !in_name) & !movable != 0 || self.filters.refuse_name(name) {
            return true;
        }
        let place = Place::new(MatchClass::Directory as u8, rank.unwrap_or_else(|| Rank::new(items, name.len())), doc);
        let (filters, matcher) = (&self.filters, &self.matcher);
        let fits = |row: u32| {
            in_name | filters.words_above(memory, matcher, row) & movable == all && filters.fit(memory, view, row)
        };
        let budget: &mut Budget = &mut self.budget;
        self.collector.add_doc((memory, view), place, budget, fits)
    }
}
