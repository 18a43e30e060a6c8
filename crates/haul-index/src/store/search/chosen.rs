//! Filters that name so few entries that a search starts from them instead of the words.

use haul_core::ids::BlobId;
use haul_core::query::Test;

use super::Search;
use super::filter::Filters;
use crate::store::memory::Memory;

/// Documents that are gathered this way anyway; with more a search starts from its words, or from all documents, …
const CHOSEN: usize = 20_000;
/// … unless these are several times as many, …
const SEVERAL: usize = 4;
/// … and documents that are gathered at most: a few milliseconds.
const MOST: usize = 65_536;

impl Search<'_> {
    /// The documents of the contents, directories or shares that a filter names, if they are fewer than `size`.
    pub(super) fn chosen_docs(&mut self, size: u64) -> Option<Vec<u32>> {
        let filters = &self.filters;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let size = size.clamp(64, CHOSEN.max(size / SEVERAL).min(MOST));
        let mut docs = self.asking.look(|memory, view| {
            by_hash(filters, memory)
                .or_else(|| filters.docs_below(memory, view, size))
                .or_else(|| filters.docs_of_slots(memory, view, size))
        })?;
        docs.sort_unstable();
        docs.dedup();
        Some(docs)
    }
}

/// The documents of the contents that a `hash:` filter names, if they have few rows.
fn by_hash(filters: &Filters<'_>, memory: &Memory) -> Option<Vec<u32>> {
    let digits =
        filters.query().filters.iter().filter(|filter| !filter.inverted).find_map(|filter| match &filter.test {
            Test::Hash(digits) => Some(digits),
            _ => None,
        })?;
    let mut docs = Vec::new();
    let mut fits = |content: u32| {
        let room = CHOSEN + 1 - docs.len();
        docs.extend(memory.rows_of_content(content).take(room).map(|row| memory.doc_of_row(row)));
        docs.len() <= CHOSEN
    };
    let few = match whole_hash(digits) {
        Some(blob) => memory.contents.of_blob(&blob).into_iter().all(&mut fits),
        None => memory.contents.of_prefix(digits).all(&mut fits),
    };
    few.then_some(docs)
}

fn whole_hash(digits: &str) -> Option<BlobId> {
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(BlobId::new(hash))
}
