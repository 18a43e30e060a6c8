//! The second stage: some words in the base name, the others in names of directories above it.

use haul_core::query::MatchClass;

use super::filter::collect_docs;
use super::order::Place;
use super::{Budget, Search, Seen};
use crate::store::memory::{Memory, NONE};
use crate::store::trigrams::segment::Rank;
use crate::store::trigrams::walk::{Need, Walk};

/// Steps of this stage when it may end early: about 3 ms, because most rows have a directory that was not read before.
const WORK: u64 = 6_000;
const CHUNK: usize = 1_024;
/// Documents that are compared between two tests for the end.
const STEP: usize = 64;
/// Rows of a document from which on their directories are fetched together.
const MANY: usize = 4;
/// Rows whose directories are fetched together at most.
const TOUCHED: usize = 2_048;
/// A word that so few names contain, and so few files below directories of such names, is where to start.
const PIVOT: usize = 4_096;

/// Which of several words leads to documents now, a bit each. Candidates may lack it: they have its turn later, or none.
#[derive(Clone, Copy, Debug)]
struct Turn {
    word: u64,
    /// Words that had their turn.
    before: u64,
}

/// Documents that come once whatever word they have.
const ANY: Turn = Turn { word: u64::MAX, before: 0 };

impl Search<'_> {
    /// Entries with at least one word in the base name and all others in the base name or a directory part. Returns
    /// whether everything was counted.
    pub(super) fn directory_parts(&mut self, all: bool) -> bool {
        let words: Vec<(usize, String)> = self.matcher.texts().map(str::to_owned).enumerate().collect();
        let mut by_size: Vec<(u64, usize)> =
            words.iter().map(|(number, text)| (self.size_of(&self.need_of(text)), *number)).collect();
        by_size.sort_unstable();
        for (size, number) in &by_size {
            let few = usize::try_from(*size).is_ok_and(|size| size <= PIVOT);
            let docs = few.then(|| self.docs_around(&words[*number].1)).flatten();
            if let Some(docs) = docs {
                self.live = true;
                // Whatever fits has this word in its name or above.
                return docs.chunks(STEP).all(|step| {
                    let step: Vec<(Option<Rank>, u32)> = step.iter().map(|doc| (None, *doc)).collect();
                    self.add_parts(ANY, &step)
                });
            }
        }
        let work = if all { self.budget.left } else { self.budget.left.min(WORK) };
        let kept = self.budget.left - work;
        self.budget.left = work;
        let mut complete = true;
        // Rare words first; a document is added with the first of its words in this order.
        let mut before = 0;
        for (_, number) in by_size {
            let turn = Turn { word: 1 << number, before };
            complete &= self.word_in_name(turn, &words[number].1, all);
            before |= 1 << number;
        }
        self.budget.left += kept;
        complete
    }

    fn need_of(&self, text: &str) -> Need {
        let mut need = Need::default();
        need.text(text);
        for extensions in self.filters.extensions() {
            need.extension(extensions);
        }
        need
    }

    /// The documents whose names contain a word, and those of all entries below directories whose names do; none if
    /// they are too many.
    fn docs_around(&self, text: &str) -> Option<Vec<u32>> {
        let mut need = Need::default();
        need.text(text);
        let mut docs = Vec::new();
        let mut ordinals = Vec::new();
        for segment in &self.index.segments {
            let Some(mut walk) = Walk::new(segment, &need, 0) else { continue };
            loop {
                let more = walk.next(CHUNK, &mut ordinals);
                docs.extend(ordinals.iter().map(|ordinal| segment.doc(*ordinal)));
                if !more {
                    break;
                }
            }
        }
        for tail in &self.index.tails {
            tail.find(text, |doc, _| docs.push(doc));
        }
        if docs.len() > PIVOT {
            return None;
        }
        self.asking.look(|memory, _| {
            if docs.iter().map(|doc| memory.item_count(*doc)).sum::<usize>() > 2 * PIVOT {
                return None;
            }
            let mut below = Vec::new();
            for doc in &docs {
                for node in memory.nodes_of_doc(*doc) {
                    if memory.names.folded(*doc).contains(text) && !collect_docs(memory, node, PIVOT, &mut below) {
                        return None;
                    }
                }
            }
            docs.append(&mut below);
            docs.sort_unstable();
            docs.dedup();
            Some(docs)
        })
    }

    /// Documents with a word in their names and none of those that had their turn before; false if it ended with enough hits or
    /// without budget.
    fn word_in_name(&mut self, turn: Turn, text: &str, all: bool) -> bool {
        let need = self.need_of(text);
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
                    if !self.add_parts(turn, &docs) {
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
            if !docs.chunks(STEP).all(|step| self.add_parts(turn, step)) {
                return false;
            }
        }
        complete
    }

    fn add_parts(&mut self, turn: Turn, docs: &[(Option<Rank>, u32)]) -> bool {
        let asking = self.asking;
        asking.look(|memory, view| docs.iter().all(|(rank, doc)| self.add_part((memory, view), turn, *rank, *doc)))
    }

    fn add_part(&mut self, (memory, view): Seen<'_>, turn: Turn, rank: Option<Rank>, doc: u32) -> bool {
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
        // Each document once. With all words in its name it was found before.
        let first = in_name & turn.word != 0 && in_name & turn.before == 0;
        if !first || in_name == all || (all & !in_name) & !movable != 0 || self.filters.refuse_name(name) {
            return true;
        }
        if items >= MANY {
            touch_directories(memory, doc);
        }
        let place = Place::new(MatchClass::Directory as u8, rank.unwrap_or_else(|| Rank::new(items, name.len())), doc);
        let (filters, matcher) = (&self.filters, &self.matcher);
        let fits = |row: u32| {
            in_name | filters.words_above(memory, matcher, row) & movable == all && filters.fit(memory, view, row)
        };
        let budget: &mut Budget = &mut self.budget;
        self.collector.add_doc((memory, view), place, budget, |row| filters.see(memory, view, row), fits)
    }
}

/// Reads the names of the directories of a document's rows first: then the memory fetches all of them at the same time.
fn touch_directories(memory: &Memory, doc: u32) {
    let rows = memory.rows_of_doc(doc).take(TOUCHED);
    let nodes: Vec<u32> = rows.map(|row| memory.directory_of_row(row)).collect();
    let names: Vec<u32> = nodes.iter().map(|node| memory.directories.node(*node).name).collect();
    let read = names.iter().filter(|name| **name != NONE).fold(0u32, |read, name| {
        let first = memory.names.folded_name(*name).as_bytes().first().copied().unwrap_or_default();
        read.wrapping_add(u32::from(first))
    });
    std::hint::black_box(read);
}
