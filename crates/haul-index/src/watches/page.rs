//! Matching a page of changes against all watches, within a budget.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use haul_core::manifest::{Change, Entry, EntryKind, Page};
use haul_core::path::SharePath;
use haul_core::query::{FoldedEntry, fold};
use haul_core::wire::ByteString;
use haul_core::wire::index::{Hit, HitKind};

use super::anchors::Snapshot;
use super::{ShareFacts, Watch};

/// Watches that are compared with entries of one page: a few milliseconds. What is over it is lost, with a mark.
const COMPARISONS: usize = 100_000;
/// Matches of one transaction that wait for its commit.
const STAGED: usize = 2_000;
/// The same of all transactions of an index: below 100 MB with the longest paths.
pub(super) const STAGED_IN_ALL: usize = 50_000;

/// Matches of one transaction, until its commit. Dropping them forgets them.
#[derive(Debug)]
pub struct Staged {
    /// The youngest watch that the first page was matched against.
    pub(super) since: u64,
    pub(super) matches: Vec<(Arc<Watch>, Hit)>,
    /// What stands in `matches`: a name with one content is told once, however many folders hold it.
    told: HashSet<(u64, u64)>,
    /// Watches that lost matches, by birth.
    pub(super) missed: BTreeMap<u64, Arc<Watch>>,
    /// Further pages are not looked at: every watch was told that it may have missed something.
    pub(super) cut: bool,
    in_all: Arc<AtomicUsize>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.in_all.fetch_sub(self.told.len(), Ordering::Relaxed);
    }
}

impl Staged {
    pub(super) fn new(since: u64, in_all: Arc<AtomicUsize>) -> Self {
        Self { since, matches: Vec::new(), told: HashSet::new(), missed: BTreeMap::new(), cut: false, in_all }
    }

    /// Adds what fits of a page. Bytes that are no page fit nothing.
    pub(super) fn add_page(&mut self, watches: &Snapshot, share: &ShareFacts, page: &[u8], now_ns: i64) {
        if self.cut {
            return;
        }
        let Ok(page) = Page::check(page) else { return };
        let mut left = COMPARISONS;
        let mut folder: (&[u8], Vec<String>) = (&[], Vec::new());
        for change in page.changes() {
            let Change::Upsert(entry) = change else { continue };
            if entry.directory != folder.0 {
                folder = (entry.directory, folded_parts(entry.directory));
            }
            let name = fold(entry.name);
            let judged = folded(&entry, share, &folder.1, &name);
            let finished = watches.each_candidate(&name, |watch| {
                let Some(rest) = left.checked_sub(1) else { return false };
                left = rest;
                if watch.sees(share) && watch.query.fits(&judged, now_ns) {
                    self.add(watch, &entry, &judged, share);
                }
                true
            });
            if !finished {
                self.cut = true;
                let all = watches.all().filter(|watch| watch.sees(share));
                self.missed = all.map(|watch| (watch.born, Arc::clone(watch))).collect();
                return;
            }
        }
    }

    fn add(&mut self, watch: &Arc<Watch>, entry: &Entry<'_>, folded: &FoldedEntry<'_>, share: &ShareFacts) {
        let Some(key) = watch.unseen(folded.kind, entry.name, folded.blob) else { return };
        if self.told.contains(&(watch.born, key)) {
            return;
        }
        if self.matches.len() >= STAGED || self.in_all.load(Ordering::Relaxed) >= STAGED_IN_ALL {
            self.missed.entry(watch.born).or_insert_with(|| Arc::clone(watch));
            return;
        }
        self.in_all.fetch_add(1, Ordering::Relaxed);
        self.told.insert((watch.born, key));
        self.matches.push((Arc::clone(watch), hit(entry, folded, share)));
    }
}

/// The folded names of the directories on a path.
pub(super) fn folded_parts(directory: &[u8]) -> Vec<String> {
    directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(fold).collect()
}

fn folded<'a>(entry: &Entry<'_>, share: &'a ShareFacts, directories: &'a [String], name: &'a str) -> FoldedEntry<'a> {
    let (kind, size, blob) = match entry.kind {
        EntryKind::File { size, blob, .. } => (HitKind::File, size, blob),
        EntryKind::Directory => (HitKind::Directory, 0, None),
        EntryKind::Symlink { .. } => (HitKind::Symlink, 0, None),
    };
    FoldedEntry { origin: &share.origin, directories, name, kind, size, mtime_ns: entry.mtime_ns, blob }
}

fn hit(entry: &Entry<'_>, folded: &FoldedEntry<'_>, share: &ShareFacts) -> Hit {
    let mut path = entry.directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(entry.name);
    Hit {
        kind: folded.kind,
        name: ByteString::from(entry.name),
        blob: folded.blob,
        size: folded.size,
        mtime_ns: entry.mtime_ns,
        peer: share.peer,
        peer_name: share.peer_name.clone(),
        share: share.name.clone(),
        // The page was checked, so this is a path.
        path: SharePath::new(path).unwrap_or_default(),
        names: 1,
        copies: 1,
        online: 1,
        near: false,
    }
}
