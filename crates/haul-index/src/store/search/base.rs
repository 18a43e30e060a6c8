//! The first stage: all words in the base name.

use std::sync::Arc;

use haul_core::query::MatchClass;

use super::collect::Collector;
use super::order::Place;
use super::{Search, Stage, Total};
use crate::store::trigrams::segment::{Rank, Segment};
use crate::store::trigrams::walk::{Need, Plan, Walk};

/// Candidates of the leading list in the first chunk of a walk; each further one is twice as long, up to [`CHUNK`].
const FIRST_CHUNK: usize = 128;
const CHUNK: usize = 8_192;
/// Documents that are compared between two tests for the end.
const STEP: usize = 64;
/// Documents that are looked at under one lock: about 100 us.
const SLICE: usize = 512;
/// Postings that are read in the time of one step of the budget.
const POSTINGS_PER_STEP: usize = 16;
/// Candidates that tell for all how many survive when lists are intersected.
const SAMPLE: usize = 512;
/// Candidates that tell whether few survive.
const TRIED: u64 = 256;
/// All lists together are not tried out if they would have to leave less than this part of the shortest.
const NARROWED: u64 = 32;
/// Steps that an exact count may take: about a second.
const COUNT_WORK: u64 = 20_000_000;

const CLASSES: [MatchClass; 3] = [MatchClass::Whole, MatchClass::WordStart, MatchClass::Substring];

impl Search<'_> {
    pub(super) fn base_names(&mut self) -> Stage {
        let size = self.size_of(&self.need(MatchClass::Substring));
        if let Some(docs) = self.chosen_docs(size) {
            self.live = true;
            for slice in docs.chunks(SLICE) {
                if !self.add_live(slice, None) {
                    break;
                }
            }
            return Stage::All;
        }
        match self.few_candidates(size) {
            Some(few) => self.in_one_pass(&few),
            None => self.in_order(),
        }
    }

    /// What names must have to be in a class or a better one.
    fn need(&self, class: MatchClass) -> Need {
        let mut need = Need::default();
        match class {
            MatchClass::Whole => need.whole(self.matcher.joined()),
            MatchClass::WordStart => self.matcher.texts().for_each(|text| need.at_word_start(text)),
            _ => self.matcher.texts().for_each(|text| need.text(text)),
        }
        for extensions in self.filters.extensions() {
            need.extension(extensions);
        }
        need
    }

    fn segments(&self) -> Vec<Arc<Segment>> {
        self.index.segments.clone()
    }

    /// Candidates in all segments.
    pub(super) fn size_of(&self, need: &Need) -> u64 {
        let plans = self.index.segments.iter().filter_map(|segment| Plan::new(segment, need));
        plans.map(|plan| u64::from(plan.size())).sum()
    }

    /// The candidates of each segment if all lists together leave few, however long they are.
    fn few_candidates(&self, size: u64) -> Option<Vec<(Arc<Segment>, Vec<u32>)>> {
        let most = u64::from(self.index.one_pass);
        if size > most * NARROWED {
            return None;
        }
        let need = self.need(MatchClass::Substring);
        let (mut few, mut ordinals) = (Vec::new(), Vec::new());
        let (mut found, mut read) = (0, 0);
        for segment in self.segments() {
            let Some(plan) = Plan::new(&segment, &need) else { continue };
            if size > most && plan.leads_alone() {
                return None;
            }
            let mut walk = plan.walk(0);
            let mut here = Vec::new();
            let mut count = FIRST_CHUNK;
            loop {
                let before = walk.taken();
                let more = walk.next(count, &mut ordinals);
                here.extend_from_slice(&ordinals);
                (found, read) = (found + ordinals.len() as u64, read + walk.taken() - before);
                let expected = found * size / read.max(1);
                if found > most || (read >= TRIED && expected > 2 * most) {
                    return None;
                }
                if !more {
                    break;
                }
                count = (2 * count).min(CHUNK);
            }
            few.push((segment, here));
        }
        Some(few)
    }

    fn in_one_pass(&mut self, candidates: &[(Arc<Segment>, Vec<u32>)]) -> Stage {
        for (segment, ordinals) in candidates {
            for slice in ordinals.chunks(SLICE) {
                if !self.add_segment(segment, slice, None) {
                    return Stage::All;
                }
            }
        }
        let tails = self.tail_docs();
        for slice in tails.chunks(SLICE) {
            let docs: Vec<u32> = slice.iter().map(|(_, doc)| *doc).collect();
            if !self.add_live(&docs, None) {
                break;
            }
        }
        Stage::All
    }

    /// Class by class, best first, until there are enough.
    fn in_order(&mut self) -> Stage {
        let tails = self.tail_docs();
        let classes = if self.matcher.is_empty() { &CLASSES[2..] } else { &CLASSES[..] };
        for class in classes {
            if self.collector.after().is_some_and(|after| after.place().class() > *class as u8) {
                continue;
            }
            for segment in self.segments() {
                if !self.walk(&segment, *class) {
                    return Stage::Behind;
                }
            }
            let docs: Vec<u32> = tails.iter().filter(|(found, _)| found == class).map(|(_, doc)| *doc).collect();
            for slice in docs.chunks(SLICE) {
                if !self.add_live(slice, Some(*class)) {
                    return Stage::Behind;
                }
            }
            self.collector.cut();
            if self.collector.has_enough() {
                return Stage::Enough;
            }
        }
        Stage::Behind
    }

    /// The hits of a class in a segment; false when the budget is used up.
    fn walk(&mut self, segment: &Segment, class: MatchClass) -> bool {
        let after = self.collector.after().map(super::order::Cursor::place);
        let from = after
            .filter(|after| after.class() == class as u8)
            .map_or(0, |after| segment.at_or_behind(after.rank(), after.doc()));
        let Some(mut walk) = Walk::new(segment, &self.need(class), from) else { return true };
        let mut count = FIRST_CHUNK;
        let mut ordinals = Vec::new();
        loop {
            let more = walk.next(count, &mut ordinals);
            for step in ordinals.chunks(STEP) {
                let first = step.first().copied().unwrap_or_default();
                if self.collector.is_full(Place::new(class as u8, segment.rank(first), segment.doc(first))) {
                    return true;
                }
                if !self.add_segment(segment, step, Some(class)) {
                    return false;
                }
                self.collector.cut();
            }
            if !self.budget.steps((count / POSTINGS_PER_STEP) as u64) {
                return false;
            }
            if !more {
                return true;
            }
            count = (2 * count).min(CHUNK);
        }
    }

    /// Documents of the tails whose names fit, with their classes.
    fn tail_docs(&self) -> Vec<(MatchClass, u32)> {
        let mut docs = Vec::new();
        let longest = self.matcher.texts().max_by_key(|text| text.len());
        for tail in &self.index.tails {
            let mut add = |doc: u32, name: &str| {
                if let Some(class) = self.matcher.class(name)
                    && !self.filters.refuse_name(name)
                {
                    docs.push((class, doc));
                }
            };
            match longest {
                Some(text) => tail.find(text, add),
                None => tail.iter().for_each(|(doc, name)| add(doc, name)),
            }
        }
        docs
    }

    /// Adds documents of a segment; with a class, only those of it. False when the budget is used up.
    fn add_segment(&mut self, segment: &Segment, ordinals: &[u32], class: Option<MatchClass>) -> bool {
        let docs: Vec<(Rank, u32)> =
            ordinals.iter().map(|ordinal| (segment.rank(*ordinal), segment.doc(*ordinal))).collect();
        let asking = self.asking;
        asking.look(|memory, view| {
            memory.read_docs_ahead(docs.iter().map(|(_, doc)| *doc), self.filters.test_contents());
            docs.iter().all(|(rank, doc)| self.add((memory, view), *doc, Some(*rank), class))
        })
    }

    /// Adds documents that have no place in a segment.
    fn add_live(&mut self, docs: &[u32], class: Option<MatchClass>) -> bool {
        let asking = self.asking;
        asking.look(|memory, view| {
            memory.read_docs_ahead(docs.iter().copied(), self.filters.test_contents());
            docs.iter().all(|doc| self.add((memory, view), *doc, None, class))
        })
    }

    fn add(
        &mut self,
        (memory, view): super::Seen<'_>,
        doc: u32,
        rank: Option<Rank>,
        class: Option<MatchClass>,
    ) -> bool {
        let items = memory.item_count(doc);
        if items == 0 {
            return true;
        }
        if !self.budget.examine() {
            return false;
        }
        let name = memory.names.folded(doc);
        let Some(found) = self.matcher.class(name) else { return true };
        if class.is_some_and(|class| class != found) {
            return true;
        }
        let place = Place::new(found as u8, rank.unwrap_or_else(|| Rank::new(items, name.len())), doc);
        if (class.is_some() && self.collector.is_out(place)) || self.filters.refuse_name(name) {
            return true;
        }
        let before = self.collector.total;
        let filters = &self.filters;
        let sees = |row| filters.see(memory, view, row);
        let fits = |row| filters.fit(memory, view, row);
        let complete = self.collector.add_doc((memory, view), place, &mut self.budget, sees, fits);
        self.fitting.0 += 1;
        self.fitting.1 += self.collector.total - before;
        complete
    }

    /// About how many hits there are in all, from a sample of the candidates and what was seen of them.
    pub(super) fn estimate(&self) -> u64 {
        let need = self.need(MatchClass::Substring);
        let mut candidates = 0;
        let mut ordinals = Vec::new();
        for segment in &self.index.segments {
            let Some(plan) = Plan::new(segment, &need) else { continue };
            let size = u64::from(plan.size());
            if plan.leads_alone() {
                candidates += size;
                continue;
            }
            // The middle stands for the whole: the best are seen anyway.
            let mut walk = plan.walk(segment.len() / 2);
            let (first, taken) = (walk.taken(), walk.next(SAMPLE, &mut ordinals));
            let read = (walk.taken() - first).max(1);
            candidates += if taken || !ordinals.is_empty() { size * ordinals.len() as u64 / read } else { size };
        }
        let (names, hits) = self.fitting;
        (candidates * hits).checked_div(names).unwrap_or(candidates)
    }

    /// Counts every hit.
    pub(super) fn count(&mut self) -> Total {
        self.budget.left = COUNT_WORK;
        self.budget.cut = false;
        let need = self.need(MatchClass::Substring);
        let mut ordinals = Vec::new();
        let mut hits = 0;
        for segment in self.segments() {
            let Some(plan) = Plan::new(&segment, &need) else { continue };
            let proven = self.matcher.is_one_trigram() && plan.is_one_list();
            let mut walk = plan.walk(0);
            loop {
                let more = walk.next(CHUNK, &mut ordinals);
                for slice in ordinals.chunks(SLICE) {
                    let docs: Vec<u32> = slice.iter().map(|ordinal| segment.doc(*ordinal)).collect();
                    hits += self.count_docs(&docs, proven);
                }
                if !more || self.budget.cut {
                    break;
                }
            }
        }
        let tails: Vec<u32> = self.tail_docs().into_iter().map(|(_, doc)| doc).collect();
        for slice in tails.chunks(SLICE) {
            hits += self.count_docs(slice, true);
        }
        if hits < super::DIRECTORY_PARTS_BELOW && self.matcher.len() > 1 {
            // The page that was collected stays as it is.
            let page = std::mem::replace(&mut self.collector, Collector::new(0, None));
            self.directory_parts(true);
            hits += std::mem::replace(&mut self.collector, page).total;
        }
        Total { hits, exact: !self.budget.cut, near: false }
    }

    fn count_docs(&mut self, docs: &[u32], proven: bool) -> u64 {
        let asking = self.asking;
        let (matcher, filters) = (&self.matcher, &self.filters);
        let (budget, collector) = (&mut self.budget, &mut self.collector);
        asking.look(|memory, view| {
            memory.read_names_ahead(docs.iter().copied());
            let refuses = |doc: u32| filters.test_names() && filters.refuse_name(memory.names.folded(doc));
            let fits = |doc: u32| proven || matcher.fits(memory.names.folded_bytes(doc));
            let mut hits = 0;
            for doc in docs {
                if !budget.examine() {
                    break;
                }
                if fits(*doc) && !refuses(*doc) {
                    hits += collector.count_doc(memory, *doc, budget, |row| filters.fit(memory, view, row));
                }
            }
            hits
        })
    }
}
