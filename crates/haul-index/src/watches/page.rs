//! Matching a page of changes against all watches, within a budget.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::ids::PeerId;
use haul_core::manifest::{Change, Entry, EntryKind, Page};
use haul_core::path::SharePath;
use haul_core::query::{FoldedEntry, fold};
use haul_core::wire::ByteString;
use haul_core::wire::index::{Hit, HitKind};

use super::anchors::Snapshot;
use super::{ShareFacts, Watch};

/// Work on one page, a few milliseconds: a unit is one term of a watch compared with an ordinary name. What is over it
/// is lost, with a mark.
const WORK: usize = 100_000;
/// Bytes of an ordinary name with its folder; longer ones cost more.
const ORDINARY: usize = 128;
/// Matches of one transaction that wait for its commit.
const STAGED: usize = 2_000;
/// The same of all transactions of an index: below 100 MB with the longest paths.
pub(super) const STAGED_IN_ALL: usize = 50_000;
/// A registrant's transactions hold at most this part of the room that is left for all...
const PART_OF_ROOM: usize = 8;
/// ... but so many may always wait, however much others hold.
const STAGED_ALWAYS: usize = 20;

/// Matches of one transaction, until its commit. Dropping them forgets them.
#[derive(Debug)]
pub struct Staged {
    /// The youngest watch that the first page was matched against.
    pub(super) since: u64,
    pub(super) matches: Vec<(Arc<Watch>, Hit)>,
    /// Who registers.
    peer: PeerId,
    /// How many of `in_all` are counted for this transaction.
    counted: usize,
    /// What stands in `matches`: a name with one content is told once, however many folders hold it.
    told: HashSet<(u64, u64)>,
    /// Watches that lost matches, by birth.
    pub(super) missed: BTreeMap<u64, Arc<Watch>>,
    /// Members whose watches took most of the work: further entries are not compared with them.
    dropped: HashSet<PeerId>,
    /// Further pages are not looked at: every watch was told that it may have missed something.
    pub(super) cut: bool,
    in_all: Arc<Room>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.in_all.give_back(&self.peer, self.counted);
    }
}

/// Room for the matches of all transactions of an index, shared by those who register.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// By registrant, none being none.
    of_peer: HashMap<PeerId, usize>,
}

impl Room {
    /// Takes room for one match of this registrant, if there is any.
    fn take(&self, peer: PeerId) -> bool {
        let mut held = self.lock();
        let left = STAGED_IN_ALL.saturating_sub(held.all);
        let own = held.of_peer.entry(peer).or_default();
        let room = *own < (left / PART_OF_ROOM).max(STAGED_ALWAYS);
        *own += usize::from(room);
        held.all += usize::from(room);
        room
    }

    fn give_back(&self, peer: &PeerId, count: usize) {
        let mut held = self.lock();
        held.all -= count;
        if let Some(own) = held.of_peer.get_mut(peer) {
            *own -= count;
            if *own == 0 {
                held.of_peer.remove(peer);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    pub(super) fn new(since: u64, peer: PeerId, in_all: Arc<Room>) -> Self {
        Self {
            since,
            matches: Vec::new(),
            peer,
            counted: 0,
            told: HashSet::new(),
            missed: BTreeMap::new(),
            dropped: HashSet::new(),
            cut: false,
            in_all,
        }
    }

    /// Adds what fits of a page. Bytes that are no page fit nothing.
    pub(super) fn add_page(&mut self, watches: &Snapshot, share: &ShareFacts, page: &[u8], now_ns: i64) {
        if self.cut {
            return;
        }
        let Ok(page) = Page::check(page) else { return };
        let mut round =
            Round::new(watches.loose().filter(|watch| self.counts(watch, share)).collect(), self.dropped.len());
        let mut folder: (&[u8], Vec<String>) = (&[], Vec::new());
        for change in page.changes() {
            let Change::Upsert(entry) = change else { continue };
            if entry.directory != folder.0 {
                folder = (entry.directory, folded_parts(entry.directory));
            }
            let name = fold(entry.name);
            let judged = folded(&entry, share, &folder.1, &name);
            let size = 1 + (name.len() + entry.directory.len()) / ORDINARY;
            let mut found = watches.by_word(&name, round.left);
            round.left = round.left.saturating_sub(found.iter().map(|(_, times)| times).sum());
            found.retain(|(watch, _)| self.counts(watch, share));
            for (watch, times) in found.into_iter().chain(round.loose.iter().map(|watch| (*watch, 0))) {
                let cost = size * watch.terms;
                if round.left <= cost {
                    return self.cut(watches, share);
                }
                round.left -= cost;
                round.spent.entry(watch.born).or_insert((watch.asker.peer, 0)).1 += times + cost;
                if watch.query.fits(&judged, now_ns) {
                    self.add(watch, &entry, &judged, share);
                }
            }
            self.dropped.extend(round.greedy());
            if self.dropped.len() > round.dropped {
                round.dropped = self.dropped.len();
                round.loose.retain(|watch| self.counts(watch, share));
                let dropped = watches.all().filter(|watch| self.dropped.contains(&watch.asker.peer));
                let dropped = dropped.filter(|watch| watch.sees(share));
                self.missed.extend(dropped.map(|watch| (watch.born, Arc::clone(watch))));
            }
        }
    }

    fn cut(&mut self, watches: &Snapshot, share: &ShareFacts) {
        self.cut = true;
        let all = watches.all().filter(|watch| watch.sees(share));
        self.missed.extend(all.map(|watch| (watch.born, Arc::clone(watch))));
    }

    /// Takes from the members who have the mean or more, who get nothing further of this transaction, half of the mean
    /// excepted. So a few members for whom everything is a match cannot take the room of all.
    fn make_room(&mut self) -> bool {
        let Some((greedy, mean)) = greedy(self.matches.iter().map(|(watch, _)| (watch.asker.peer, 1))) else {
            return false;
        };
        let mut kept: HashMap<PeerId, usize> = HashMap::new();
        let missed = &mut self.missed;
        self.matches.retain(|(watch, _)| {
            let kept = kept.entry(watch.asker.peer).or_default();
            *kept += 1;
            let stays = *kept <= mean / 2 || !greedy.contains(&watch.asker.peer);
            if !stays {
                missed.entry(watch.born).or_insert_with(|| Arc::clone(watch));
            }
            stays
        });
        self.dropped.extend(greedy);
        self.in_all.give_back(&self.peer, self.counted - self.matches.len());
        self.counted = self.matches.len();
        true
    }

    fn counts(&self, watch: &Watch, share: &ShareFacts) -> bool {
        watch.sees(share) && !self.dropped.contains(&watch.asker.peer)
    }

    fn add(&mut self, watch: &Arc<Watch>, entry: &Entry<'_>, folded: &FoldedEntry<'_>, share: &ShareFacts) {
        let Some(key) = watch.unseen(folded.kind, entry.name, folded.blob) else { return };
        if self.told.contains(&(watch.born, key)) {
            return;
        }
        let is_full = self.matches.len() >= STAGED && !self.make_room();
        if is_full || self.dropped.contains(&watch.asker.peer) || !self.in_all.take(self.peer) {
            self.missed.entry(watch.born).or_insert_with(|| Arc::clone(watch));
            return;
        }
        self.counted += 1;
        self.told.insert((watch.born, key));
        self.matches.push((Arc::clone(watch), hit(entry, folded, share)));
    }
}

/// One page's work.
struct Round<'a> {
    /// Watches that every entry is compared with.
    loose: Vec<&'a Arc<Watch>>,
    left: usize,
    /// When so much is left, those who took most are left out.
    mark: usize,
    /// By the watch's birth: whose it is, and what it took.
    spent: HashMap<u64, (PeerId, usize)>,
    /// Members whose watches are not in `loose` any more.
    dropped: usize,
}

impl<'a> Round<'a> {
    fn new(loose: Vec<&'a Arc<Watch>>, dropped: usize) -> Self {
        Self { loose, left: WORK, mark: WORK / 2, spent: HashMap::new(), dropped }
    }

    /// Each time half of what was left is gone: the members who took the mean or more. So a few members with dear
    /// watches cannot use up the work of all.
    fn greedy(&mut self) -> HashSet<PeerId> {
        if self.left > self.mark {
            return HashSet::new();
        }
        self.mark = self.left / 2;
        greedy(self.spent.drain().map(|(_, spent)| spent)).unwrap_or_default().0
    }
}

/// Of several members, those who took the mean or more, and the mean; none if there is only one.
fn greedy(taken: impl Iterator<Item = (PeerId, usize)>) -> Option<(HashSet<PeerId>, usize)> {
    let mut members: HashMap<PeerId, usize> = HashMap::new();
    for (peer, count) in taken {
        *members.entry(peer).or_default() += count;
    }
    let mean = members.values().sum::<usize>().div_ceil(members.len().max(1));
    let several = members.len() > 1;
    let greedy = members.into_iter().filter(|(_, count)| *count >= mean).map(|(peer, _)| peer).collect();
    several.then_some((greedy, mean))
}

/// The folded names of the directories on a path.
pub(super) fn folded_parts(directory: &[u8]) -> Vec<String> {
    directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(fold).collect()
}

fn folded<'a>(entry: &Entry<'_>, share: &'a ShareFacts, directories: &'a [String], name: &'a str) -> FoldedEntry<'a> {
    let (kind, size, blob) = match entry.kind {
        EntryKind::File { size, blob, .. } => (HitKind::File, Some(size), blob),
        EntryKind::Directory => (HitKind::Directory, None, None),
        EntryKind::Symlink { .. } => (HitKind::Symlink, None, None),
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
        size: folded.size.unwrap_or_default(),
        files: None,
        mtime_ns: entry.mtime_ns,
        peer: share.peer,
        peer_name: share.peer_name.clone(),
        share: share.name.clone(),
        // The page was checked, so this is a path.
        path: SharePath::new(path).unwrap_or_default(),
        names: 1,
        contents: 1,
        copies: 1,
        online: 1,
        near: false,
    }
}
