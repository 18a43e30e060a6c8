//! Segments: sealed, immutable posting lists over some documents in static-score order.

use std::ops::Range;

use super::gram::{Gram, KINDS};
use super::list::{self, List, PADDING};

/// Bytes of a chunk of a growing list; the last four say where it goes on.
const CHUNK: usize = 64;
const PAYLOAD: u8 = 60;

/// Where a document stands among those of the same class, best smallest: fewer copies on a logarithmic scale are
/// worse, then longer names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Rank(u32);

impl Rank {
    /// `items` are the rows and directories of the name, `len` the bytes of its folded form.
    pub(in crate::store) fn new(items: usize, len: usize) -> Self {
        let score = u32::from(u8::MAX) - items.max(1).ilog2();
        Self(score << 16 | u32::from(u16::try_from(len).unwrap_or(u16::MAX)))
    }

    /// As a number of 24 bits in the same order.
    pub(in crate::store) fn number(self) -> u32 {
        self.0
    }

    /// Back from [`Self::number`].
    pub(in crate::store) fn from_number(number: u32) -> Self {
        Self(number)
    }
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    rank: Rank,
}

/// Where a list stands.
#[derive(Clone, Copy, Debug)]
struct Filed {
    /// The lists of some hundred million names take more than 4 GiB.
    start: u64,
    count: u32,
}

/// Documents and their posting lists. Ordinals count the documents from the best on.
#[derive(Debug)]
pub(in crate::store) struct Segment {
    docs: Vec<u32>,
    /// Ordinals of equal rank lie together, documents ascending among them.
    runs: Vec<Run>,
    grams: Vec<Gram>,
    filed: Vec<Filed>,
    bytes: Vec<u8>,
}

impl Segment {
    /// Documents.
    pub(in crate::store) fn len(&self) -> u32 {
        self.docs.len() as u32
    }

    /// The document of an ordinal.
    pub(in crate::store) fn doc(&self, ordinal: u32) -> u32 {
        self.docs[ordinal as usize]
    }

    /// The rank of an ordinal when the segment was built.
    pub(in crate::store) fn rank(&self, ordinal: u32) -> Rank {
        let run = self.runs.partition_point(|run| run.first <= ordinal);
        self.runs[run.saturating_sub(1)].rank
    }

    /// The first ordinal that does not stand before a document of this rank.
    pub(in crate::store) fn at_or_behind(&self, rank: Rank, doc: u32) -> u32 {
        let run = self.runs.partition_point(|run| run.rank < rank);
        let Some(found) = self.runs.get(run) else { return self.len() };
        if found.rank > rank {
            return found.first;
        }
        let end = self.runs.get(run + 1).map_or(self.len(), |next| next.first);
        let same = &self.docs[found.first as usize..end as usize];
        found.first + same.partition_point(|other| *other < doc) as u32
    }

    /// The list of a gram, if any document has it.
    pub(in crate::store) fn list(&self, gram: Gram) -> Option<List<'_>> {
        let at = self.grams.binary_search(&gram).ok()?;
        Some(self.list_at(at))
    }

    /// The lists of all grams in a range.
    pub(in crate::store) fn lists(&self, range: Range<Gram>) -> impl Iterator<Item = List<'_>> {
        let from = self.grams.partition_point(|gram| *gram < range.start);
        let to = self.grams.partition_point(|gram| *gram < range.end);
        (from..to).map(|at| self.list_at(at))
    }

    fn list_at(&self, at: usize) -> List<'_> {
        let Filed { start, count } = self.filed[at];
        List::new(&self.bytes[start as usize..], count, self.len())
    }

    /// Bytes in memory.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.docs.capacity() * 4
            + self.grams.capacity() * 4
            + self.filed.capacity() * size_of::<Filed>()
            + self.bytes.capacity()
    }
}

/// A list while it grows: differences as varints in a chain of chunks.
#[derive(Clone, Copy, Debug)]
struct Growing {
    gram: Gram,
    count: u32,
    last: u32,
    first_chunk: u32,
    chunk: u32,
    used: u8,
}

/// Builds a segment from documents in their order.
#[derive(Debug)]
pub(in crate::store) struct Builder {
    docs: Vec<u32>,
    runs: Vec<Run>,
    /// By kind and bytes of a gram, one more than the place of its list. Pages that no gram touches cost nothing.
    places: Vec<u32>,
    lists: Vec<Growing>,
    chunks: Vec<u8>,
}

impl Builder {
    pub(in crate::store) fn new() -> Self {
        Self { docs: Vec::new(), runs: Vec::new(), places: vec![0; KINDS << 24], lists: Vec::new(), chunks: Vec::new() }
    }

    /// Adds a document; ranks must not get better, and documents of a rank must ascend.
    pub(in crate::store) fn push(&mut self, doc: u32, rank: Rank, name: &str) {
        let ordinal = self.docs.len() as u32;
        self.docs.push(doc);
        if self.runs.last().is_none_or(|run| run.rank != rank) {
            self.runs.push(Run { first: ordinal, rank });
        }
        super::gram::each(name, |gram| self.add(gram, ordinal));
    }

    fn add(&mut self, gram: Gram, ordinal: u32) {
        let place = &mut self.places[gram.0 as usize];
        if *place == 0 {
            let chunk = (self.chunks.len() / CHUNK) as u32;
            self.chunks.resize(self.chunks.len() + CHUNK, 0);
            self.lists.push(Growing { gram, count: 0, last: 0, first_chunk: chunk, chunk, used: 0 });
            *place = self.lists.len() as u32;
        }
        let list = &mut self.lists[*place as usize - 1];
        if list.count > 0 && list.last == ordinal {
            return;
        }
        let mut rest = ordinal - list.last;
        list.last = ordinal;
        list.count += 1;
        loop {
            let more = rest >= 0x80;
            if list.used == PAYLOAD {
                let next = (self.chunks.len() / CHUNK) as u32;
                self.chunks.resize(self.chunks.len() + CHUNK, 0);
                let link = list.chunk as usize * CHUNK + PAYLOAD as usize;
                self.chunks[link..link + 4].copy_from_slice(&next.to_le_bytes());
                (list.chunk, list.used) = (next, 0);
            }
            self.chunks[list.chunk as usize * CHUNK + list.used as usize] = (rest & 0x7f) as u8 | u8::from(more) << 7;
            list.used += 1;
            if !more {
                break;
            }
            rest >>= 7;
        }
    }

    /// The ordinals of a list.
    fn unroll(&self, list: &Growing, out: &mut Vec<u32>) {
        out.clear();
        let (mut chunk, mut used) = (list.first_chunk as usize * CHUNK, 0);
        let mut ordinal = 0u32;
        for _ in 0..list.count {
            let (mut step, mut shift) = (0u32, 0);
            loop {
                if used == PAYLOAD as usize {
                    let link = &self.chunks[chunk + used..chunk + used + 4];
                    let next = link.iter().rev().fold(0usize, |next, byte| next << 8 | usize::from(*byte));
                    (chunk, used) = (next * CHUNK, 0);
                }
                let byte = self.chunks[chunk + used];
                used += 1;
                step |= u32::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
            }
            ordinal += step;
            out.push(ordinal);
        }
    }

    /// The segment.
    pub(in crate::store) fn finish(mut self) -> Segment {
        self.places = Vec::new();
        let mut lists = std::mem::take(&mut self.lists);
        lists.sort_unstable_by_key(|list| list.gram);
        let docs = self.docs.len() as u32;
        let mut bytes = Vec::new();
        let mut filed = Vec::with_capacity(lists.len());
        let mut ordinals = Vec::new();
        for list in &lists {
            self.unroll(list, &mut ordinals);
            filed.push(Filed { start: bytes.len() as u64, count: list.count });
            list::encode(&mut bytes, &ordinals, docs);
        }
        bytes.extend([0; PADDING]);
        bytes.shrink_to_fit();
        self.docs.shrink_to_fit();
        self.runs.shrink_to_fit();
        Segment { docs: self.docs, runs: self.runs, grams: lists.iter().map(|list| list.gram).collect(), filed, bytes }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::gram::{self, trigrams};
    use super::super::list::Reader;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A segment of these names, all of one row; document numbers are places in the list.
    pub(in crate::store::trigrams) fn of_names(names: &[String]) -> Segment {
        let mut order: Vec<(Rank, u32)> =
            names.iter().enumerate().map(|(doc, name)| (Rank::new(1, name.len()), doc as u32)).collect();
        order.sort_unstable();
        let mut builder = Builder::new();
        for (rank, doc) in order {
            builder.push(doc, rank, &names[doc as usize]);
        }
        builder.finish()
    }

    fn all(list: List<'_>) -> Vec<u32> {
        let mut all = Vec::new();
        Reader::new(list, 0).take(usize::MAX / 2, &mut all);
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_gram_finds_its_names(names in proptest::collection::vec("[a-cé -]{1,8}", 1..400)) {
            let segment = of_names(&names);
            let mut grams = BTreeSet::new();
            for name in &names {
                gram::each(name, |gram| { grams.insert(gram); });
            }
            prop_assert_eq!(&segment.grams, &grams.iter().copied().collect::<Vec<_>>());
            for gram in grams {
                let docs: BTreeSet<u32> = all(segment.list(gram).unwrap()).into_iter().map(|ordinal| segment.doc(ordinal)).collect();
                let want: BTreeSet<u32> = (0..names.len() as u32).filter(|doc| {
                    let mut found = false;
                    gram::each(&names[*doc as usize], |other| found |= other == gram);
                    found
                }).collect();
                prop_assert_eq!(docs, want);
            }
            prop_assert!(segment.list(trigrams(b"zzz")[0]).is_none());
        }

        #[test]
        fn places_are_found_again(names in proptest::collection::vec("[a-c]{1,4}", 1..100)) {
            let segment = of_names(&names);
            let places: Vec<(Rank, u32)> = (0..segment.len()).map(|ordinal| (segment.rank(ordinal), segment.doc(ordinal))).collect();
            prop_assert!(places.is_sorted());
            for (ordinal, (rank, doc)) in places.iter().enumerate() {
                prop_assert_eq!(*rank, Rank::new(1, names[*doc as usize].len()));
                prop_assert_eq!(segment.at_or_behind(*rank, *doc), ordinal as u32);
                prop_assert_eq!(segment.at_or_behind(*rank, doc + 1), ordinal as u32 + 1);
            }
            prop_assert_eq!(segment.at_or_behind(Rank::new(2, 1), 0), 0);
            prop_assert_eq!(segment.at_or_behind(Rank::new(1, 99), 0), segment.len());
        }
    }

    #[test]
    fn more_copies_and_shorter_names_come_first() {
        assert!(Rank::new(2, 9) < Rank::new(1, 1));
        assert!(Rank::new(3, 4) < Rank::new(2, 5));
        assert!(Rank::new(3, 5) == Rank::new(2, 5) && Rank::new(0, 5) == Rank::new(1, 5));
        assert_eq!(Rank::from_number(Rank::new(7, 300).number()), Rank::new(7, 300));
    }
}
