//! Trigram postings over documents: for every three bytes in a row, the documents that have them.
//!
//! Each text is followed by two zero bytes, so a text of one or two letters is a range of lists. Lists hold ascending
//! document numbers as varint differences and grow in place; a search never sees an index that lags behind.

use hashbrown::HashMap;

/// A list is intersected only if it is at most this many times longer than what is left: decoding a posting costs a few
/// nanoseconds, comparing a name about a hundred.
const WORTHWHILE: usize = 32;

#[derive(Debug, Default)]
struct List {
    bytes: Vec<u8>,
    last: u32,
    count: u32,
}

impl List {
    fn push(&mut self, doc: u32) {
        // A quarter more instead of doubling: most of the index's memory is here.
        if self.bytes.capacity() - self.bytes.len() < 5 {
            self.bytes.reserve_exact(8.max(self.bytes.len() / 4));
        }
        // A number that a freed document had comes again, smaller than the last one: the step wraps.
        let mut rest = if self.count == 0 { doc } else { doc.wrapping_sub(self.last) };
        while rest >= 0x80 {
            self.bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
        self.last = doc;
        self.count += 1;
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut bytes = self.bytes.iter();
        let mut doc = 0u32;
        std::iter::from_fn(move || {
            let mut value = 0u32;
            let mut shift = 0;
            loop {
                let byte = *bytes.next()?;
                value |= u32::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
            }
            doc = doc.wrapping_add(value);
            Some(doc)
        })
    }
}

/// Which documents may fit.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Candidates {
    /// No better than all of them.
    All,
    /// These, ascending; each must still be compared.
    Some(Vec<u32>),
}

#[derive(Debug, Default)]
pub(in crate::store) struct Postings {
    lists: Vec<List>,
    by_gram: HashMap<u32, u32>,
    /// Third bytes that follow two bytes.
    thirds: HashMap<u16, Vec<u8>>,
    scratch: Vec<u32>,
}

impl Postings {
    /// Adds a document; numbers must ascend.
    pub(in crate::store) fn add(&mut self, doc: u32, text: &[u8]) {
        let mut grams = std::mem::take(&mut self.scratch);
        grams.clear();
        let mut gram = 0u32;
        for (at, byte) in text.iter().chain(&[0, 0]).enumerate() {
            gram = (gram << 8 | u32::from(*byte)) & 0x00ff_ffff;
            if at >= 2 {
                grams.push(gram);
            }
        }
        grams.sort_unstable();
        grams.dedup();
        for gram in &grams {
            let list = *self.by_gram.entry(*gram).or_insert_with(|| {
                self.lists.push(List::default());
                self.thirds.entry((gram >> 8) as u16).or_default().push(*gram as u8);
                self.lists.len() as u32 - 1
            });
            self.lists[list as usize].push(doc);
        }
        self.scratch = grams;
    }

    /// Documents that may contain all of these texts, out of `docs`.
    pub(in crate::store) fn candidates<'a>(&self, texts: impl IntoIterator<Item = &'a [u8]>, docs: u32) -> Candidates {
        let mut lists = Vec::new();
        let mut short: Option<(usize, Vec<&List>)> = None;
        for text in texts {
            if text.len() >= 3 {
                for gram in grams(text) {
                    let Some(list) = self.by_gram.get(&gram) else { return Candidates::Some(Vec::new()) };
                    lists.push(&self.lists[*list as usize]);
                }
            } else {
                let range = self.range(text);
                let size: usize = range.iter().map(|list| list.count as usize).sum();
                if short.as_ref().is_none_or(|(smallest, _)| size < *smallest) {
                    short = Some((size, range));
                }
            }
        }
        lists.sort_unstable_by_key(|list| list.count);
        let Some((rarest, others)) = lists.split_first() else {
            return match short {
                Some((size, range)) if size <= docs as usize / 2 => Candidates::Some(union(&range)),
                _ => Candidates::All,
            };
        };
        let mut found: Vec<u32> = rarest.iter().collect();
        for list in others {
            if list.count as usize > found.len().saturating_mul(WORTHWHILE) {
                break;
            }
            intersect(&mut found, list);
        }
        if let Some((size, range)) = short
            && size <= found.len()
        {
            let fits = union(&range);
            found.retain(|doc| fits.binary_search(doc).is_ok());
        }
        Candidates::Some(found)
    }

    /// Documents that share trigrams with a text, each with how many; none if more than `budget` postings would have
    /// to be read.
    pub(in crate::store) fn overlaps(&self, text: &[u8], budget: usize) -> Option<HashMap<u32, u16>> {
        let lists: Vec<&List> = grams(text)
            .iter()
            .filter_map(|gram| self.by_gram.get(gram))
            .map(|list| &self.lists[*list as usize])
            .collect();
        if lists.iter().map(|list| list.count as usize).sum::<usize>() > budget {
            return None;
        }
        let mut counts = HashMap::new();
        for doc in lists.iter().flat_map(|list| list.iter()) {
            *counts.entry(doc).or_insert(0) += 1;
        }
        Some(counts)
    }

    /// The lists whose trigrams start with a text of one or two bytes.
    fn range(&self, text: &[u8]) -> Vec<&List> {
        let pairs: Vec<u16> = match text {
            [first, second] => vec![u16::from_be_bytes([*first, *second])],
            [first] => (0..=255).map(|second| u16::from_be_bytes([*first, second])).collect(),
            _ => Vec::new(),
        };
        let mut range = Vec::new();
        for pair in pairs {
            for third in self.thirds.get(&pair).into_iter().flatten() {
                if let Some(list) = self.by_gram.get(&(u32::from(pair) << 8 | u32::from(*third))) {
                    range.push(&self.lists[*list as usize]);
                }
            }
        }
        range
    }
}

/// The distinct trigrams of a text.
pub(in crate::store) fn grams(text: &[u8]) -> Vec<u32> {
    let mut grams: Vec<u32> =
        text.windows(3).map(|window| window.iter().fold(0, |gram, byte| gram << 8 | u32::from(*byte))).collect();
    grams.sort_unstable();
    grams.dedup();
    grams
}

fn intersect(found: &mut Vec<u32>, list: &List) {
    let mut others = list.iter().peekable();
    found.retain(|doc| {
        while others.next_if(|other| other < doc).is_some() {}
        others.peek() == Some(doc)
    });
}

fn union(lists: &[&List]) -> Vec<u32> {
    let mut docs: Vec<u32> = lists.iter().flat_map(|list| list.iter()).collect();
    docs.sort_unstable();
    docs.dedup();
    docs
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_document_is_missed(
            names in proptest::collection::vec("[a-cé]{1,6}", 1..60),
            words in proptest::collection::vec("[a-cé]{1,4}", 1..4),
        ) {
            let mut postings = Postings::default();
            for (doc, name) in names.iter().enumerate() {
                postings.add(doc as u32, name.as_bytes());
            }
            let found = postings.candidates(words.iter().map(String::as_bytes), names.len() as u32);
            for (doc, name) in names.iter().enumerate() {
                if words.iter().all(|word| name.contains(word)) {
                    match &found {
                        Candidates::All => {}
                        Candidates::Some(docs) => prop_assert!(docs.binary_search(&(doc as u32)).is_ok(), "{name}"),
                    }
                }
            }
        }
    }

    #[test]
    fn lists_hold_large_steps() {
        let mut list = List::default();
        let docs = [0, 1, 127, 128, 300, 70_000, u32::MAX - 1];
        for doc in docs {
            list.push(doc);
        }
        assert_eq!(list.iter().collect::<Vec<_>>(), docs);
    }
}
