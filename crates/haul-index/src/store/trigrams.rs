//! The search index: posting lists over folded names, in segments, and the newest names in tails.
//!
//! A document is added to the open tail; a full tail is frozen. Upkeep turns frozen tails and small segments into
//! larger segments, built outside any lock, and exchanges them in one short step. Whoever searches takes a snapshot,
//! which is a few counted pointers, and needs the lock only to look at rows.

pub(super) mod gram;
pub(super) mod list;
pub(super) mod segment;
pub(super) mod tail;
pub(super) mod walk;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use segment::{Rank, Segment};
use tail::Tail;

/// Names and rows that take about 20 ms.
const WORK: u64 = 200_000;

/// How the search index grows; tests shrink it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchSettings {
    /// Names in a tail before it is frozen. Scanning so many takes about 20 us, building their segment 10 ms.
    pub tail_names: usize,
    /// So many segments of about one size are merged into one while names keep coming. More make searches slower
    /// meanwhile, fewer make every name take part in more merges.
    pub fan: usize,
    /// A search with at most so many candidates looks at all of them, counts exactly, and then sorts; with more it
    /// walks them in order and ends early.
    pub one_pass: u32,
    /// A segment is written anew when so many thousandths of its documents have gone or changed their score.
    pub stale_permille: u32,
    /// Names and rows that one search may look at.
    pub work: u64,
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self { tail_names: 8_192, fan: 8, one_pass: 1_024, stale_permille: 200, work: WORK }
    }
}

/// Bytes of names after which a tail is frozen however few they are: whoever adds a name while a search reads the tail
/// copies it, with the memory locked.
const TAIL_BYTES: usize = 512 * 1024;

/// Calm segments: each is at least so many times as large as all smaller ones together.
const CALM_RATIO: u64 = 4;

/// Upkeep must have come by so often without any new name before small segments are merged for good: half a second.
const QUIET_VISITS: u32 = 20;

/// The search index as it is now.
#[derive(Debug)]
pub(super) struct Trigrams {
    /// Differs between any two indexes: document numbers mean nothing in another one.
    epoch: u64,
    settings: SearchSettings,
    /// Documents are not noted: they will be indexed at once when all are there.
    loading: bool,
    tail: Arc<Tail>,
    /// Oldest first.
    frozen: Vec<Arc<Tail>>,
    /// Largest first.
    segments: Vec<Arc<Segment>>,
    /// Documents whose rank has changed since the segments were last looked through.
    rank_changes: u32,
    /// Visits of upkeep since the last document was added.
    quiet_visits: u32,
    changes: Changes,
}

/// What happened to documents so far, for those who look again after a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Segments in which some document has another rank than it had before.
    pub(super) moved: u64,
    /// Documents that have another rank now, whatever segments say.
    pub(super) reranked: u64,
    /// Documents whose numbers another name may have by now.
    pub(super) freed: u64,
}

/// The search index at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) epoch: u64,
    pub(super) changes: Changes,
    pub(super) one_pass: u32,
    pub(super) work: u64,
    pub(super) tails: Vec<Arc<Tail>>,
    /// Largest first.
    pub(super) segments: Vec<Arc<Segment>>,
}

/// Tails and segments that are to become one segment.
#[derive(Debug)]
pub(super) struct Merge {
    epoch: u64,
    tails: Vec<Arc<Tail>>,
    segments: Vec<Arc<Segment>>,
}

impl Merge {
    /// All their documents, with their ranks where those were noted.
    pub(super) fn docs(&self) -> impl Iterator<Item = (Option<Rank>, u32)> + '_ {
        let tails = self.tails.iter().flat_map(|tail| tail.docs()).map(|doc| (None, *doc));
        let of_segment = |segment: &'_ Segment, ordinal| (Some(segment.rank(ordinal)), segment.doc(ordinal));
        tails.chain(
            self.segments
                .iter()
                .flat_map(move |segment| (0..segment.len()).map(move |ordinal| of_segment(segment, ordinal))),
        )
    }
}

impl Default for Trigrams {
    fn default() -> Self {
        Self {
            epoch: RandomState::new().hash_one(0),
            settings: SearchSettings::default(),
            loading: false,
            tail: Arc::default(),
            frozen: Vec::new(),
            segments: Vec::new(),
            rank_changes: 0,
            quiet_visits: 0,
            changes: Changes::default(),
        }
    }
}

impl Trigrams {
    /// Sets how it grows from now on.
    pub(super) fn configure(&mut self, settings: SearchSettings) {
        self.settings = settings;
    }

    pub(super) fn settings(&self) -> SearchSettings {
        self.settings
    }

    /// From now on documents are not noted; [`Self::loaded`] ends that.
    pub(super) fn set_loading(&mut self) {
        self.loading = true;
    }

    /// Adds a document that was not here.
    pub(super) fn add(&mut self, doc: u32, name: &str) {
        if self.loading {
            return;
        }
        // A search that still reads the tail keeps its own copy.
        Arc::make_mut(&mut self.tail).push(doc, name);
        self.quiet_visits = 0;
        if self.tail.len() >= self.settings.tail_names || self.tail.text_bytes() >= TAIL_BYTES {
            self.frozen.push(std::mem::take(&mut self.tail));
        }
    }

    /// Notes that the rows and directories of a document went from one number to another.
    pub(super) fn note_items(&mut self, before: usize, after: usize) {
        let changed = before.checked_ilog2() != after.checked_ilog2();
        self.rank_changes = self.rank_changes.saturating_add(u32::from(changed));
        self.changes.reranked += u64::from(changed);
    }

    /// Notes that the number of a document has become free.
    pub(super) fn note_freed(&mut self) {
        self.changes.freed += 1;
    }

    /// What happened so far.
    pub(super) fn changes(&self) -> Changes {
        self.changes
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let open = (self.tail.len() > 0).then(|| Arc::clone(&self.tail));
        Snapshot {
            epoch: self.epoch,
            changes: self.changes,
            one_pass: self.settings.one_pass,
            work: self.settings.work,
            tails: self.frozen.iter().cloned().chain(open).collect(),
            segments: self.segments.clone(),
        }
    }

    /// What to merge next, if anything.
    pub(super) fn plan(&mut self) -> Option<Merge> {
        self.quiet_visits = self.quiet_visits.saturating_add(1);
        if !self.frozen.is_empty() {
            return Some(self.merge_of(self.segments_for_frozen()));
        }
        self.calming().filter(|_| self.quiet_visits >= QUIET_VISITS).map(|from| self.merge_of(from))
    }

    /// Whether upkeep will have something to do here even if no name comes.
    pub(super) fn is_restless(&self) -> bool {
        !self.frozen.is_empty() || self.calming().is_some()
    }

    fn merge_of(&self, from: usize) -> Merge {
        Merge { epoch: self.epoch, tails: self.frozen.clone(), segments: self.segments[from..].to_vec() }
    }

    /// From which segment on all are merged with the frozen tails: those of a size of which there would be too many.
    fn segments_for_frozen(&self) -> usize {
        let mut total: u64 = self.frozen.iter().map(|tail| tail.len() as u64).sum();
        let mut from = self.segments.len();
        let fan = self.settings.fan.max(2);
        loop {
            let same = self.segments[..from]
                .iter()
                .rev()
                .take_while(|segment| u64::from(segment.len()) <= total * fan as u64 / 2)
                .count();
            if same + 1 < fan {
                return from;
            }
            total += self.segments[from - same..from].iter().map(|segment| u64::from(segment.len())).sum::<u64>();
            from -= same;
        }
    }

    /// From which segment on all are merged when nothing else is to do, so that few are left.
    fn calming(&self) -> Option<usize> {
        let mut below = 0;
        let mut found = None;
        for (number, segment) in self.segments.iter().enumerate().rev() {
            let len = u64::from(segment.len());
            if below > 0 && below * CALM_RATIO > len {
                found = Some(number);
            }
            below += len;
        }
        found
    }

    /// Segments of which so many documents have changed that they should be looked through.
    pub(super) fn suspects(&mut self) -> Vec<Arc<Segment>> {
        let docs: u64 = self.segments.iter().map(|segment| u64::from(segment.len())).sum();
        let limit = docs * u64::from(self.settings.stale_permille) / 1_000;
        if self.rank_changes == 0 || u64::from(self.rank_changes) < limit {
            return Vec::new();
        }
        self.rank_changes = 0;
        self.segments.clone()
    }

    /// A merge of these segments alone, if they are all still here.
    pub(super) fn rewrite(&self, segments: Vec<Arc<Segment>>) -> Option<Merge> {
        let all_here = segments.iter().all(|wanted| self.segments.iter().any(|segment| Arc::ptr_eq(segment, wanted)));
        (all_here && !segments.is_empty()).then(|| Merge { epoch: self.epoch, tails: Vec::new(), segments })
    }

    /// Puts a segment in the place of what it was built from; false if this is another index by now. `moved`: some
    /// document has another rank in it.
    pub(super) fn install(&mut self, merge: &Merge, segment: Segment, moved: bool) -> bool {
        if merge.epoch != self.epoch {
            return false;
        }
        self.frozen.retain(|tail| !merge.tails.iter().any(|merged| Arc::ptr_eq(merged, tail)));
        self.segments.retain(|old| !merge.segments.iter().any(|merged| Arc::ptr_eq(merged, old)));
        self.put(segment);
        self.changes.moved += u64::from(moved);
        true
    }

    fn put(&mut self, segment: Segment) {
        if segment.len() == 0 {
            return;
        }
        let at = self.segments.partition_point(|other| other.len() >= segment.len());
        self.segments.insert(at, Arc::new(segment));
    }

    /// Ends loading with a segment of everything that came.
    pub(super) fn loaded(&mut self, segment: Segment) {
        self.loading = false;
        self.put(segment);
        self.changes.moved += 1;
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let tails = self.frozen.iter().map(|tail| tail.bytes()).sum::<usize>() + self.tail.bytes();
        tails + self.segments.iter().map(|segment| segment.bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::segment::tests::of_names;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn names(merge: &Merge) -> Vec<String> {
        merge.docs().map(|(_, doc)| format!("name-{doc}")).collect()
    }

    fn held(trigrams: &Trigrams) -> Vec<u32> {
        let snapshot = trigrams.snapshot();
        let tails = snapshot.tails.iter().flat_map(|tail| tail.docs().to_vec());
        let mut docs: Vec<u32> = tails
            .chain(
                snapshot
                    .segments
                    .iter()
                    .flat_map(|segment| (0..segment.len()).map(|ordinal| segment.doc(ordinal)).collect::<Vec<_>>()),
            )
            .collect();
        docs.sort_unstable();
        docs
    }

    /// A segment that keeps the documents' own numbers.
    fn built(merge: &Merge) -> Segment {
        let mut docs: Vec<u32> = merge.docs().map(|(_, doc)| doc).collect();
        docs.sort_unstable_by_key(|doc| (Rank::new(1, format!("name-{doc}").len()), *doc));
        let mut builder = segment::Builder::new();
        for doc in docs {
            let name = format!("name-{doc}");
            builder.push(doc, Rank::new(1, name.len()), &name);
        }
        builder.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn merges_keep_every_document_once(steps in proptest::collection::vec((1usize..40, any::<bool>()), 1..20)) {
            let mut trigrams = Trigrams::default();
            trigrams.configure(SearchSettings { tail_names: 8, fan: 4, ..SearchSettings::default() });
            let mut model = BTreeSet::new();
            for (count, upkeep) in steps {
                for _ in 0..count {
                    let doc = model.len() as u32;
                    model.insert(doc);
                    trigrams.add(doc, &format!("name-{doc}"));
                }
                if upkeep && let Some(merge) = trigrams.plan() {
                    prop_assert_eq!(names(&merge).len(), merge.docs().collect::<BTreeSet<_>>().len());
                    let segment = built(&merge);
                    prop_assert!(trigrams.install(&merge, segment, false));
                }
                prop_assert_eq!(held(&trigrams), model.iter().copied().collect::<Vec<_>>());
            }
            while trigrams.is_restless() {
                if let Some(merge) = trigrams.plan() {
                    let segment = built(&merge);
                    prop_assert!(trigrams.install(&merge, segment, false));
                }
            }
            prop_assert_eq!(held(&trigrams), model.iter().copied().collect::<Vec<_>>());
            let sizes: Vec<u32> = trigrams.segments.iter().map(|segment| segment.len()).collect();
            prop_assert!(trigrams.frozen.is_empty() && sizes.len() <= 4, "{:?}", sizes);
        }
    }

    #[test]
    fn long_names_freeze_a_tail_early() {
        let mut trigrams = Trigrams::default();
        let name = "x".repeat(4_096);
        for doc in 0..200 {
            trigrams.add(doc, &name);
            assert!(trigrams.tail.text_bytes() < TAIL_BYTES);
        }
        assert_eq!((trigrams.frozen.len(), held(&trigrams).len()), (1, 200));
    }

    #[test]
    fn a_segment_of_another_index_is_not_taken() {
        let mut trigrams = Trigrams::default();
        trigrams.configure(SearchSettings { tail_names: 1, ..SearchSettings::default() });
        trigrams.add(0, "a");
        let merge = trigrams.plan();
        let mut other = Trigrams::default();
        assert!(merge.is_some_and(|merge| !other.install(&merge, of_names(&["a".to_owned()]), false)));
    }
}
