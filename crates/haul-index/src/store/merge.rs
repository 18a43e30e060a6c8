//! Upkeep of the search index: full tails and small segments become larger segments.
//!
//! A merge runs on a thread that gives way to those that answer. It takes the lock only to look at some hundred documents at a time, and
//! once, shortly, to exchange the segments.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::background;
use super::embedded::{EmbeddedStore, Shared};
use super::memory::Memory;
use super::trigrams::Merge;
use super::trigrams::segment::{Builder, Rank, Segment};

/// Documents that are looked at under one lock: about 100 us.
const SLICE: usize = 512;

impl EmbeddedStore {
    /// Starts a merge if one is due, or waits for the one that runs; returns whether one is under way or was.
    pub(super) async fn merge_step(&self, patience: Duration) -> bool {
        // Whoever gives up waiting here leaves the merge where the next one finds it: two must never run.
        let mut merging = self.merging.lock().await;
        if let Some(running) = merging.as_mut() {
            if tokio::time::timeout(patience, running).await.is_ok() {
                *merging = None;
            }
            return true;
        }
        let (merge, suspects) = {
            let mut memory = self.shared.write();
            let trigrams = &mut memory.names.trigrams;
            let merge = trigrams.plan();
            let suspects = if merge.is_none() { trigrams.suspects() } else { Vec::new() };
            (merge, suspects)
        };
        if merge.is_none() && suspects.is_empty() {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let merge = merge.or_else(|| {
                let stale = suspects.into_iter().filter(|segment| is_stale(&shared, segment)).collect();
                shared.read().names.trigrams.rewrite(stale)
            });
            if let Some(merge) = merge {
                run(&shared, &merge);
            }
        };
        *merging = Some(tokio::task::spawn_blocking(|| background::run("haul-index-merge", work)));
        true
    }
}

/// Looks at documents in slices; false if the store is closing.
fn in_slices<T>(shared: &Shared, docs: &[T], mut with: impl FnMut(&Memory, &[T])) -> bool {
    docs.chunks(SLICE).all(|slice| {
        with(&shared.read(), slice);
        background::pause();
        !shared.closing.load(Ordering::Relaxed)
    })
}

/// The rank that a document has now.
fn rank_now(memory: &Memory, doc: u32) -> Rank {
    Rank::new(memory.item_count(doc), memory.names.folded(doc).len())
}

fn is_stale(shared: &Shared, segment: &Segment) -> bool {
    let docs: Vec<(Rank, u32)> =
        (0..segment.len()).map(|ordinal| (segment.rank(ordinal), segment.doc(ordinal))).collect();
    let mut changed = 0u64;
    in_slices(shared, &docs, |memory, slice| {
        changed += slice.iter().filter(|(rank, doc)| rank_now(memory, *doc) != *rank).count() as u64;
    });
    let permille = u64::from(shared.read().names.trigrams.settings().stale_permille);
    changed > 0 && changed * 1_000 >= docs.len() as u64 * permille
}

fn run(shared: &Shared, merge: &Merge) {
    let named: Vec<(Option<Rank>, u32)> = merge.docs().collect();
    let mut moved = false;
    let (mut docs, mut unused) = (Vec::with_capacity(named.len()), Vec::new());
    let open = in_slices(shared, &named, |memory, slice| {
        for (noted, doc) in slice {
            if memory.names.is_unused(*doc) {
                unused.push(*doc);
            } else {
                let rank = rank_now(memory, *doc);
                moved |= noted.is_some_and(|noted| noted != rank);
                docs.push((rank, *doc));
            }
        }
    });
    drop(named);
    docs.sort_unstable();
    docs.dedup();
    let Some(segment) = open.then(|| build(shared, &docs)).flatten() else { return };
    for slice in unused.chunks(SLICE) {
        drop_unused(&mut shared.write(), slice);
        background::pause();
    }
    shared.write().names.trigrams.install(merge, segment, moved);
}

/// None if the store is closing.
fn build(shared: &Shared, docs: &[(Rank, u32)]) -> Option<Segment> {
    let mut builder = Builder::new();
    let mut texts = String::new();
    let mut ends = Vec::new();
    for slice in docs.chunks(SLICE) {
        if shared.closing.load(Ordering::Relaxed) {
            return None;
        }
        texts.clear();
        ends.clear();
        let memory = shared.read();
        for (_, doc) in slice {
            texts.push_str(memory.names.folded(*doc));
            ends.push(texts.len());
        }
        drop(memory);
        let mut start = 0;
        for ((rank, doc), end) in slice.iter().zip(&ends) {
            builder.push(*doc, *rank, texts.get(start..*end).unwrap_or_default());
            start = *end;
        }
        background::pause();
    }
    Some(builder.finish())
}

/// Frees documents that the new segment does not name. One that has come back since it was left out goes to the tail;
/// until the new segment is in its place the old one still names it, so a search may meet it twice but never misses it.
fn drop_unused(memory: &mut Memory, docs: &[u32]) {
    for doc in docs {
        if memory.names.is_unused(*doc) {
            memory.names.free_doc(*doc);
            memory.names.trigrams.note_freed();
        } else {
            memory.names.note_again(*doc);
        }
    }
}

/// Ends the loading of a store that has just been read from disk with a segment of all documents.
pub(super) fn index_all(memory: &mut Memory) {
    let (used, unused): (Vec<u32>, Vec<u32>) =
        (0..memory.names.doc_count()).partition(|doc| !memory.names.is_unused(*doc));
    // What came and went while pages were read is in no segment, so it must not come back under the same number.
    for doc in unused {
        memory.names.free_doc(doc);
    }
    let mut docs: Vec<(Rank, u32)> = used.into_iter().map(|doc| (rank_now(memory, doc), doc)).collect();
    docs.sort_unstable();
    let mut builder = Builder::new();
    for (rank, doc) in docs {
        builder.push(doc, rank, memory.names.folded(doc));
    }
    memory.names.trigrams.loaded(builder.finish());
}
