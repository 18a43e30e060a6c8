//! Candidates of one segment in static-score order, a chunk at a time.
//!
//! The rarest list leads; each chunk of it is intersected with the others, and that ends when what is left is cheaper
//! to compare than to look up. What comes out may still not fit: whoever asks compares the names.

use std::ops::Range;

use super::gram::{Gram, Kind, trigrams};
use super::list::{List, Reader};
use super::segment::Segment;

/// A union of lists leads only if it has at most one in so many documents: else comparing all of them is as good.
const UNION_SHARE: u32 = 6;
/// A union of more lists than this does not lead: opening them takes longer than comparing names.
const UNION_LISTS: usize = 400;
/// A union of at most so many lists is tested on candidates of another list.
const TESTED_LISTS: usize = 4;
/// After so many chunks a walk is long enough that a union of many lists pays as a bitmap of the whole segment, …
const LONG_WALK: u32 = 3;
/// … if it has at most so many postings: they take about a millisecond.
const BITMAP_POSTINGS: u32 = 500_000;
/// Candidates of a chunk that are compared rather than looked up in more lists.
const FEW: usize = 8;
/// Ordinals that a window of a union spans at least.
const WINDOW: u32 = 256;

/// What names must have: every gram of `all`, and of each union in `any` at least one.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Need {
    all: Vec<Gram>,
    any: Vec<Vec<Range<Gram>>>,
}

fn one(gram: Gram) -> Range<Gram> {
    gram..Gram(gram.0 + 1)
}

fn pair(bytes: &[u8]) -> (u8, u8) {
    (bytes.first().copied().unwrap_or_default(), bytes.get(1).copied().unwrap_or_default())
}

impl Need {
    /// A text anywhere.
    pub(in crate::store) fn text(&mut self, text: &str) {
        self.all.extend(trigrams(text.as_bytes()));
        if text.len() < 3 {
            let (first, second) = pair(text.as_bytes());
            let end = if text.len() == 1 {
                Gram(Gram::inside(first, 255, 255).0 + 1)
            } else {
                Gram(Gram::inside(first, second, 255).0 + 1)
            };
            self.any.push(vec![Gram::inside(first, second, 0)..end]);
        }
    }

    /// A text at the start of a word.
    pub(in crate::store) fn at_word_start(&mut self, text: &str) {
        self.at_start(Kind::WordStart, text);
    }

    /// A text that is the whole name, or all of it before a dot.
    pub(in crate::store) fn whole(&mut self, text: &str) {
        self.at_start(Kind::NameStart, text);
        let mut last = text.bytes().rev();
        if let (Some(last), Some(before)) = (last.next(), last.next()) {
            self.any.push([0, b'.'].map(|end| one(Gram::inside(before, last, end))).to_vec());
        }
    }

    fn at_start(&mut self, kind: Kind, text: &str) {
        let (first, second) = pair(text.as_bytes());
        if text.len() == 1 {
            self.any.push(vec![Gram::start(kind, first, 0)..Gram(Gram::start(kind, first, 255).0 + 1)]);
        } else {
            self.all.push(Gram::start(kind, first, second));
        }
        self.all.extend(trigrams(text.as_bytes()));
    }

    /// One of these extensions at the end.
    pub(in crate::store) fn extension<'a>(&mut self, extensions: impl IntoIterator<Item = &'a str>) {
        let mut last_grams: Vec<Range<Gram>> = Vec::new();
        let mut all = Vec::new();
        for extension in extensions {
            let ending = [b".", extension.as_bytes(), &[0]].concat();
            let grams = trigrams(&ending);
            if let [.., before, last, _] = *ending.as_slice() {
                last_grams.push(one(Gram::inside(before, last, 0)));
            }
            all.push(grams);
        }
        if let [grams] = all.as_slice() {
            self.all.extend(grams);
        } else {
            self.any.push(last_grams);
        }
    }
}

#[derive(Debug)]
enum Leader<'a> {
    All { next: u32 },
    List(Reader<'a>),
    Union { readers: Vec<Reader<'a>>, next: u32, total: u32 },
}

/// The candidates for a need.
#[derive(Debug)]
pub(in crate::store) struct Walk<'a> {
    docs: u32,
    leader: Leader<'a>,
    /// Rarest first.
    others: Vec<List<'a>>,
    tested: Vec<Vec<List<'a>>>,
    /// Unions of many lists, and from some chunk on a bitmap of each.
    unions: Vec<Vec<List<'a>>>,
    bitmaps: Vec<Vec<u64>>,
    chunks: u32,
    taken: u64,
    bits: Vec<u64>,
}

/// What leads and what narrows, before any list is opened: opening a union takes longer than most questions that only its
/// size answers.
#[derive(Debug)]
pub(in crate::store) struct Plan<'a> {
    docs: u32,
    lists: Vec<List<'a>>,
    /// The union that leads, and its postings.
    union: Option<(u32, Vec<List<'a>>)>,
    tested: Vec<Vec<List<'a>>>,
    unions: Vec<Vec<List<'a>>>,
}

impl<'a> Plan<'a> {
    /// None if nothing can fit.
    pub(in crate::store) fn new(segment: &'a Segment, need: &Need) -> Option<Self> {
        let docs = segment.len();
        let mut lists = need.all.iter().map(|gram| segment.list(*gram)).collect::<Option<Vec<_>>>()?;
        lists.sort_unstable_by_key(List::count);
        lists.dedup_by_key(|list| list.place());
        let mut best: Option<(u32, Vec<List<'a>>)> = None;
        let (mut tested, mut unions) = (Vec::new(), Vec::new());
        for ranges in &need.any {
            let union: Vec<List<'a>> = ranges.iter().flat_map(|range| segment.lists(range.clone())).collect();
            let total = union.iter().fold(0u32, |total, list| total.saturating_add(list.count()));
            if total == 0 {
                return None;
            }
            if union.len() <= TESTED_LISTS {
                tested.push(union.clone());
            } else if total <= BITMAP_POSTINGS.min(docs / 2) {
                unions.push(union.clone());
            }
            let leads = union.len() <= UNION_LISTS && (total <= docs / UNION_SHARE || docs < WINDOW);
            if leads && best.as_ref().is_none_or(|(smallest, _)| total < *smallest) {
                best = Some((total, union));
            }
        }
        let union = best.filter(|(total, _)| lists.first().is_none_or(|list| *total < list.count()));
        Some(Self { docs, lists, union, tested, unions })
    }

    /// Candidates at most.
    pub(in crate::store) fn size(&self) -> u32 {
        match (&self.union, self.lists.first()) {
            (Some((total, _)), _) => *total,
            (None, Some(list)) => list.count(),
            (None, None) => self.docs,
        }
    }

    /// Whether nothing narrows what leads.
    pub(in crate::store) fn leads_alone(&self) -> bool {
        self.lists.len() + self.tested.len() + self.unions.len() <= 1
    }

    /// Whether one list decides alone.
    pub(in crate::store) fn is_one_list(&self) -> bool {
        self.lists.len() == 1 && self.union.is_none() && self.tested.is_empty() && self.unions.is_empty()
    }

    /// From an ordinal on.
    pub(in crate::store) fn walk(mut self, from: u32) -> Walk<'a> {
        let from = from.min(self.docs);
        let leader = match self.union {
            Some((total, union)) => {
                let readers = union.into_iter().map(|list| Reader::new(list, from)).collect();
                Leader::Union { readers, next: from, total }
            }
            None if self.lists.is_empty() => Leader::All { next: from },
            None => Leader::List(Reader::new(self.lists.remove(0), from)),
        };
        Walk {
            docs: self.docs,
            leader,
            others: self.lists,
            tested: self.tested,
            unions: self.unions,
            bitmaps: Vec::new(),
            chunks: 0,
            taken: 0,
            bits: Vec::new(),
        }
    }
}

impl<'a> Walk<'a> {
    /// From an ordinal on; none if nothing can fit.
    pub(in crate::store) fn new(segment: &'a Segment, need: &Need, from: u32) -> Option<Self> {
        Plan::new(segment, need).map(|plan| plan.walk(from))
    }

    /// Candidates of the leading list so far.
    pub(in crate::store) fn taken(&self) -> u64 {
        self.taken
    }

    /// Replaces the candidates by the next, out of about `count` of the leading list; returns whether more may follow.
    pub(in crate::store) fn next(&mut self, count: usize, out: &mut Vec<u32>) -> bool {
        out.clear();
        let more = self.lead(count, out);
        self.taken += out.len() as u64;
        self.chunks += 1;
        if self.chunks == LONG_WALK {
            self.bitmaps = self.unions.iter().map(|union| bitmap(union, self.docs)).collect();
        }
        for bits in &self.bitmaps {
            out.retain(|ordinal| bits.get(*ordinal as usize / 64).is_some_and(|word| word >> (ordinal % 64) & 1 == 1));
        }
        let mut idle = 0;
        for list in &self.others {
            let before = out.len();
            if before <= FEW || idle == 2 {
                break;
            }
            list.retain(out);
            idle = if out.len() * 32 > before * 31 { idle + 1 } else { 0 };
        }
        if out.len() > FEW {
            for union in &self.tested {
                retain_any(union, out);
            }
        }
        more
    }

    fn lead(&mut self, count: usize, out: &mut Vec<u32>) -> bool {
        match &mut self.leader {
            Leader::All { next } => {
                let end = self.docs.min(next.saturating_add(count as u32));
                out.extend(*next..end);
                *next = end;
                end < self.docs
            }
            Leader::List(reader) => reader.take(count, out),
            Leader::Union { readers, next, total } => {
                let span = (count as u64 * u64::from(self.docs) / u64::from(*total)).max(u64::from(WINDOW));
                let end = (u64::from(*next) + span).min(u64::from(self.docs)) as u32;
                self.bits.clear();
                self.bits.resize((end - *next) as usize / 64 + 1, 0);
                for reader in readers {
                    reader.take_below(end, |ordinal| {
                        let bit = (ordinal - *next) as usize;
                        self.bits[bit / 64] |= 1 << (bit % 64);
                    });
                }
                for (place, word) in self.bits.iter().enumerate() {
                    let mut word = *word;
                    while word != 0 {
                        out.push(*next + place as u32 * 64 + word.trailing_zeros());
                        word &= word - 1;
                    }
                }
                *next = end;
                end < self.docs
            }
        }
    }
}

/// Keeps of these ascending ordinals those that are on any of these lists.
fn retain_any(union: &[List<'_>], found: &mut Vec<u32>) {
    let mut kept = Vec::new();
    for list in union {
        let mut on_list = found.clone();
        list.retain(&mut on_list);
        kept.append(&mut on_list);
    }
    kept.sort_unstable();
    kept.dedup();
    *found = kept;
}

/// The ordinals that are on any of these lists.
fn bitmap(union: &[List<'_>], docs: u32) -> Vec<u64> {
    let mut bits = vec![0u64; docs as usize / 64 + 1];
    for list in union {
        Reader::new(*list, 0).take_below(docs, |ordinal| bits[ordinal as usize / 64] |= 1 << (ordinal % 64));
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::super::segment::tests::of_names;
    use super::*;
    use proptest::prelude::*;

    fn candidates(segment: &Segment, need: &Need, count: usize, from: u32) -> Vec<u32> {
        let mut all = Vec::new();
        let mut chunk = Vec::new();
        let Some(mut walk) = Walk::new(segment, need, from) else { return all };
        loop {
            let more = walk.next(count, &mut chunk);
            all.extend(&chunk);
            if !more {
                return all;
            }
        }
    }

    type Fits<'a> = Box<dyn Fn(&str) -> bool + 'a>;

    proptest! {
        #[test]
        fn no_name_is_missed_and_none_comes_twice(
            names in proptest::collection::vec("[a-cé .]{1,7}", 1..500),
            words in proptest::collection::vec("[a-cé .]{1,4}", 0..4),
            extensions in proptest::collection::vec("[a-c]{1,3}", 0..3),
            count in 1usize..600,
            from in 0u32..40,
        ) {
            let segment = of_names(&names);
            let name = |ordinal: u32| names[segment.doc(ordinal) as usize].as_str();
            let starts_word = |name: &str, word: &str| {
                name.match_indices(word).any(|(at, _)| name[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric()))
            };
            let whole = |name: &str, word: &str| name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            let mut cases: Vec<(Need, Fits<'_>)> = Vec::new();
            let mut need = Need::default();
            for word in &words {
                need.text(word);
            }
            cases.push((need, Box::new(|name| words.iter().all(|word| name.contains(word.as_str())))));
            let mut need = Need::default();
            for word in &words {
                need.at_word_start(word);
            }
            cases.push((need, Box::new(|name| words.iter().all(|word| starts_word(name, word)))));
            if let Some(word) = words.first() {
                let mut need = Need::default();
                need.whole(word);
                cases.push((need, Box::new(|name| whole(name, word))));
            }
            if !extensions.is_empty() {
                let mut need = Need::default();
                need.extension(extensions.iter().map(String::as_str));
                cases.push((need, Box::new(|name| extensions.iter().any(|extension| name.ends_with(&format!(".{extension}"))))));
            }
            for (need, fits) in cases {
                let found = candidates(&segment, &need, count, from);
                prop_assert!(found.is_sorted_by(|a, b| a < b));
                for ordinal in from..segment.len() {
                    if fits(name(ordinal)) {
                        prop_assert!(found.binary_search(&ordinal).is_ok(), "{}", name(ordinal));
                    }
                }
            }
        }
    }
}
