//! Search: documents that may fit come from the postings, each is compared with the query, then its rows with the
//! filters under the asker's view.
//!
//! Three stages: words in base names; if few fit, words that may also stand in directory parts; if nothing fits, near
//! matches. Every stage ends early when the work budget is used up, and then the total is marked as not exact.

mod collect;
mod filter;
mod nearby;
mod order;
mod present;

use haul_core::limits;
use haul_core::query::{MatchClass, PathTest, Query, Test, match_class};
use haul_core::wire::index::Hits;

use super::memory::Memory;
use super::memory::postings::Candidates;
use super::memory::shares::View;
use super::{SearchQuestion, StoreError};
pub(super) use order::compare_rows;
pub(super) use present::path_of;

use collect::Collector;
use filter::{Filters, movable, words_mask};

/// Names and rows that one search may look at: about 50 ms.
const WORK: u64 = 500_000;
/// Directory parts count only if fewer hits than this fit by base name; the same for every page of one search.
const DIRECTORY_PARTS_BELOW: u64 = 100;

/// Work that is left.
#[derive(Debug)]
struct Budget {
    left: u64,
    cut: bool,
    /// Names compared with the query.
    examined: u64,
}

impl Budget {
    /// Takes one step; false when nothing is left.
    fn step(&mut self) -> bool {
        if self.left == 0 {
            self.cut = true;
            return false;
        }
        self.left -= 1;
        true
    }

    fn examine(&mut self) -> bool {
        let go_on = self.step();
        self.examined += u64::from(go_on);
        go_on
    }
}

pub(super) fn search(memory: &Memory, view: &View, question: &SearchQuestion<'_>) -> Result<Hits, StoreError> {
    let cursor = question.cursor.map(|bytes| order::read_cursor(bytes, question)).transpose()?;
    let limit = question.limit.clamp(1, limits::SEARCH_HITS);
    let query = question.query;
    let filters = Filters::new(view, question);
    let mut budget = Budget { left: WORK, cut: false, examined: 0 };
    let mut collector = Collector::new(memory, view, limit, cursor.as_ref());
    base_names(memory, query, &filters, &mut budget, &mut collector);
    if collector.total < DIRECTORY_PARTS_BELOW && query.words.len() > 1 {
        directory_parts(memory, query, &filters, &mut budget, &mut collector);
    }
    let near = collector.total == 0 && cursor.is_none() && !budget.cut && !query.words.is_empty();
    if near {
        nearby::search(memory, query, &filters, &mut budget, &mut collector);
    }
    let total = collector.total;
    let (chosen, more) = collector.finish();
    let hits = present::present(memory, view, &filters, &chosen, near);
    let cursor = chosen.last().filter(|_| more && !near).map(|last| order::write_cursor(memory, last, question));
    Ok(Hits {
        hits,
        cursor,
        total,
        exact: !budget.cut,
        coverage_permille: 1_000,
        examined: budget.examined,
        index_us: 0,
    })
}

fn base_names(
    memory: &Memory,
    query: &Query,
    filters: &Filters<'_>,
    budget: &mut Budget,
    collector: &mut Collector<'_>,
) {
    for doc in candidates(memory, query, filters) {
        if !memory.has_rows(doc) {
            continue;
        }
        if !budget.examine() {
            return;
        }
        let name = memory.names.folded(doc);
        let Some(class) = match_class(query.words.iter().map(|word| word.text.as_str()), name) else { continue };
        if filters.refuse_name(name) {
            continue;
        }
        if !collector.add_doc(doc, class as u8, budget, |row| filters.fit(memory, row)) {
            return;
        }
    }
}

/// Documents that may fit, by whatever part of the query narrows most.
fn candidates(memory: &Memory, query: &Query, filters: &Filters<'_>) -> Box<dyn Iterator<Item = u32>> {
    let all = memory.names.doc_count();
    let mut texts: Vec<Vec<u8>> = query.words.iter().map(|word| word.text.as_bytes().to_vec()).collect();
    for filter in query.filters.iter().filter(|filter| !filter.inverted) {
        if let Test::Extension(list) = &filter.test
            && let [extension] = list.as_slice()
        {
            texts.push(format!(".{extension}").into_bytes());
        }
    }
    if let Some(docs) = by_hash(memory, query) {
        return Box::new(docs.into_iter());
    }
    match memory.names.postings.candidates(texts.iter().map(Vec::as_slice), all) {
        Candidates::Some(docs) => Box::new(docs.into_iter()),
        Candidates::All => match filters.docs_below(memory) {
            Some(docs) => Box::new(docs.into_iter()),
            None => Box::new(0..all),
        },
    }
}

/// The documents of the contents that a `hash:` filter names.
fn by_hash(memory: &Memory, query: &Query) -> Option<Vec<u32>> {
    let digits = query.filters.iter().filter(|filter| !filter.inverted).find_map(|filter| match &filter.test {
        Test::Hash(digits) => Some(digits),
        _ => None,
    })?;
    let mut docs: Vec<u32> = memory
        .contents
        .of_prefix(digits)
        .flat_map(|content| memory.rows_of_content(content).take(WORK as usize))
        .map(|row| memory.names.doc_of(memory.row(row).name))
        .collect();
    docs.sort_unstable();
    docs.dedup();
    Some(docs)
}

/// Entries with at least one word in the base name and all others in the base name or a directory part.
fn directory_parts(
    memory: &Memory,
    query: &Query,
    filters: &Filters<'_>,
    budget: &mut Budget,
    collector: &mut Collector<'_>,
) {
    let all = (0..query.words.len()).fold(0, |mask, word| mask | 1 << word);
    let movable = movable(query);
    for (number, word) in query.words.iter().enumerate() {
        let docs: Box<dyn Iterator<Item = u32>> =
            match memory.names.postings.candidates([word.text.as_bytes()], memory.names.doc_count()) {
                Candidates::Some(docs) => Box::new(docs.into_iter()),
                Candidates::All => Box::new(0..memory.names.doc_count()),
            };
        for doc in docs {
            if !memory.has_rows(doc) {
                continue;
            }
            if !budget.examine() {
                return;
            }
            let name = memory.names.folded(doc);
            let in_name = words_mask(query, name);
            // Each document once: with the first of its words. With all words it was found before.
            let first = in_name != 0 && in_name.trailing_zeros() as usize == number;
            if !first || in_name == all || (all & !in_name) & !movable != 0 || filters.refuse_name(name) {
                continue;
            }
            let fits =
                |row: u32| in_name | filters.words_above(memory, row) & movable == all && filters.fit(memory, row);
            if !collector.add_doc(doc, MatchClass::Directory as u8, budget, fits) {
                return;
            }
        }
    }
}

/// Whether a `path:` filter can be a place to start from.
fn anchored(query: &Query) -> Option<&[String]> {
    query.filters.iter().filter(|filter| !filter.inverted).find_map(|filter| match &filter.test {
        Test::Path(PathTest::Below(components)) if !components.is_empty() => Some(components.as_slice()),
        _ => None,
    })
}
