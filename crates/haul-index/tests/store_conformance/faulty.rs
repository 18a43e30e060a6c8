//! A store with one planted error, around a healthy one: the stories must notice every one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Page, ShareState};
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::{Hit, Hits, Listing, Located, LookupKeys};
use haul_index::store::{
    Asker, BrowseQuestion, Found, IndexStore, Opened, Owners, PeerTotals, SearchQuestion, ShareOffer, StoreError,
    StoreStats, TransactionId, VisibleTotals,
};

use crate::model::{Key, Line, List, apply, digest, line_of};
use crate::story::{Factory, page_of};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: the wrapper itself is healthy.
    None,
    IgnoresGroups,
    CountsHiddenFiles,
    ShowsAwayPeers,
    LooksUpAwayPeers,
    LocatesPeersTwice,
    CountsPeersForPlaces,
    NumbersOtherPeers,
    KeepsForgottenEntries,
    LeavingHidesNothing,
    RepeatsAtTheCursor,
    SkipsAtTheCursor,
    LosesRemoves,
    AppliesHalfACommit,
    SkipsTheDigestCheck,
    AcknowledgesWithoutKeeping,
    AbortCommitsNothingButKeepsTheTransaction,
    ListsDirectoriesFlat,
    /// As if a part of the search index were gone.
    DropsASegment,
    /// As if names that upkeep has not seen were not searched.
    ForgetsTheTail,
    CountsHiddenCopies,
    MiscountsDirectories,
    CountsHiddenContents,
}

impl Fault {
    pub(crate) const ALL: [Self; 22] = [
        Self::IgnoresGroups,
        Self::CountsHiddenFiles,
        Self::ShowsAwayPeers,
        Self::LooksUpAwayPeers,
        Self::LocatesPeersTwice,
        Self::CountsPeersForPlaces,
        Self::NumbersOtherPeers,
        Self::KeepsForgottenEntries,
        Self::LeavingHidesNothing,
        Self::RepeatsAtTheCursor,
        Self::SkipsAtTheCursor,
        Self::LosesRemoves,
        Self::AppliesHalfACommit,
        Self::SkipsTheDigestCheck,
        Self::AcknowledgesWithoutKeeping,
        Self::AbortCommitsNothingButKeepsTheTransaction,
        Self::ListsDirectoriesFlat,
        Self::DropsASegment,
        Self::ForgetsTheTail,
        Self::CountsHiddenCopies,
        Self::MiscountsDirectories,
        Self::CountsHiddenContents,
    ];
}

/// What a faulty store needs to know so that the healthy one inside accepts the wrong list.
#[derive(Clone, Debug, Default)]
struct Shadow {
    /// The state that the peer believes in, and the state of the store inside.
    states: Option<(ShareState, ShareState)>,
    /// The right list, and the list of the store inside.
    right: List,
    kept: List,
}

#[derive(Debug)]
struct Staged {
    peer: PeerId,
    share: ShareId,
    base: bool,
    right: BTreeMap<Key, Option<Line>>,
    kept: BTreeMap<Key, Option<Line>>,
}

type Names = BTreeSet<Vec<u8>>;

pub(crate) struct Faulty<S> {
    inner: S,
    fault: Fault,
    last: Mutex<Option<Hit>>,
    shadows: Mutex<BTreeMap<(PeerId, ShareId), Shadow>>,
    staged: Mutex<BTreeMap<u64, Staged>>,
    /// Names that came since upkeep was here last, and those before.
    new_names: Mutex<(Names, Names)>,
}

pub(crate) struct FaultyFactory<F> {
    pub(crate) inner: F,
    pub(crate) fault: Fault,
}

impl<F: Factory> Factory for FaultyFactory<F> {
    type Store = Faulty<F::Store>;

    fn open(&self) -> Self::Store {
        Faulty {
            inner: self.inner.open(),
            fault: self.fault,
            last: Mutex::default(),
            shadows: Mutex::default(),
            staged: Mutex::default(),
            new_names: Mutex::default(),
        }
    }

    fn counts_all(&self) -> bool {
        self.inner.counts_all()
    }
}

impl<S: IndexStore> Faulty<S> {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn asker(&self, asker: &Asker, fault: Fault) -> Asker {
        let groups = if self.is(fault) {
            ["red", "green", "blue"].iter().map(|group| Label::new(*group).unwrap()).collect()
        } else {
            asker.groups.clone()
        };
        Asker { peer: asker.peer, groups }
    }

    /// Whether the list inside may differ from the right one.
    fn alters(&self) -> bool {
        matches!(self.fault, Fault::LosesRemoves | Fault::AppliesHalfACommit | Fault::SkipsTheDigestCheck)
    }

    /// Commits the wrong list with its own right digest.
    async fn commit_altered(
        &self,
        tx: TransactionId,
        state: ShareState,
        changes: u64,
    ) -> Result<ShareState, StoreError> {
        let staged = self.staged.lock().unwrap().remove(&tx.0).ok_or(StoreError::NotOpen)?;
        let key = (staged.peer, staged.share);
        let shadow = self.shadows.lock().unwrap().get(&key).cloned().unwrap_or_default();
        let (mut right, mut kept) = if staged.base { (shadow.right, shadow.kept) } else { (List::new(), List::new()) };
        apply(&mut right, &staged.right);
        apply(&mut kept, &staged.kept);
        let honest = digest(&right) == state.digest || self.is(Fault::SkipsTheDigestCheck);
        let count = if changes == staged.right.len() as u64 { staged.kept.len() as u64 } else { u64::MAX };
        let digest = if honest { digest(&kept) } else { state.digest };
        let inner = ShareState { revision: state.revision, digest };
        self.inner.commit(tx, inner, count).await?;
        self.shadows.lock().unwrap().insert(key, Shadow { states: Some((state, inner)), right, kept });
        Ok(state)
    }
}

impl<S: IndexStore> IndexStore for Faulty<S> {
    async fn connect(&self, peer: PeerId, name: Label) -> Result<(), StoreError> {
        self.inner.connect(peer, name).await
    }

    async fn open(&self, peer: PeerId, mut share: ShareOffer) -> Result<Opened, StoreError> {
        let states = self.shadows.lock().unwrap().get(&(peer, share.id)).and_then(|shadow| shadow.states);
        if let Some((right, inner)) = states
            && right == share.state
        {
            share.state = inner;
        }
        let opened = self.inner.open(peer, share).await?;
        Ok(match (opened, states) {
            (Opened::Amend(state), Some((right, inner))) if state == inner => Opened::Amend(right),
            _ => opened,
        })
    }

    async fn begin(&self, peer: PeerId, share: ShareId, base: Option<ShareState>) -> Result<TransactionId, StoreError> {
        let states = self.shadows.lock().unwrap().get(&(peer, share)).and_then(|shadow| shadow.states);
        let inner = match (base, states) {
            (Some(base), Some((right, inner))) if base == right => Some(inner),
            _ => base,
        };
        let tx = self.inner.begin(peer, share, inner).await?;
        let staged = Staged { peer, share, base: base.is_some(), right: BTreeMap::new(), kept: BTreeMap::new() };
        self.staged.lock().unwrap().insert(tx.0, staged);
        Ok(tx)
    }

    async fn stage(&self, tx: TransactionId, page: Bytes) -> Result<(), StoreError> {
        if let Ok(page) = Page::check(&page) {
            let mut names = self.new_names.lock().unwrap();
            let (new, old) = &mut *names;
            new.extend(page.changes().map(|change| change.key().1.to_vec()).filter(|name| !old.contains(name)));
        }
        if !self.alters() {
            return self.inner.stage(tx, page).await;
        }
        let right: BTreeMap<Key, Option<Line>> = match Page::check(&page) {
            Ok(page) => page.changes().map(|change| line_of(&change)).collect(),
            Err(_) => return self.inner.stage(tx, page).await,
        };
        let mut kept = right.clone();
        if self.is(Fault::LosesRemoves) {
            kept.retain(|_, line| line.is_some());
        }
        if self.is(Fault::AppliesHalfACommit) {
            let half = kept.len().div_ceil(2);
            kept = kept.into_iter().take(half).collect();
        }
        {
            let staged = self.staged.lock().unwrap();
            let staged = staged.get(&tx.0).ok_or(StoreError::NotOpen)?;
            let refused =
                right.iter().any(|(key, line)| staged.right.contains_key(key) || (line.is_none() && !staged.base));
            if refused {
                return Err(StoreError::BadPage("twice, or removed from nothing".into()));
            }
        }
        self.inner.stage(tx, Bytes::from(page_of(&kept))).await?;
        if let Some(staged) = self.staged.lock().unwrap().get_mut(&tx.0) {
            staged.right.extend(right);
            staged.kept.extend(kept);
        }
        Ok(())
    }

    async fn commit(&self, tx: TransactionId, state: ShareState, changes: u64) -> Result<ShareState, StoreError> {
        if self.is(Fault::AcknowledgesWithoutKeeping) {
            self.inner.abort(tx).await;
            return Ok(state);
        }
        if self.alters() {
            self.commit_altered(tx, state, changes).await
        } else {
            self.inner.commit(tx, state, changes).await
        }
    }

    async fn abort(&self, tx: TransactionId) {
        if !self.is(Fault::AbortCommitsNothingButKeepsTheTransaction) {
            self.inner.abort(tx).await;
        }
    }

    async fn close(&self, peer: PeerId, share: ShareId, forget: bool) -> Result<(), StoreError> {
        if forget {
            self.shadows.lock().unwrap().remove(&(peer, share));
        }
        self.inner.close(peer, share, forget && !self.is(Fault::KeepsForgottenEntries)).await
    }

    async fn heartbeat(&self, peer: PeerId, lease_end: Moment) -> Result<(), StoreError> {
        self.inner.heartbeat(peer, lease_end).await
    }

    async fn leave(&self, peer: PeerId) -> Result<(), StoreError> {
        if self.is(Fault::LeavingHidesNothing) { Ok(()) } else { self.inner.leave(peer).await }
    }

    async fn forget(&self, peer: PeerId) -> Result<(), StoreError> {
        self.shadows.lock().unwrap().retain(|(owner, _), _| *owner != peer);
        if self.is(Fault::KeepsForgottenEntries) { self.inner.leave(peer).await } else { self.inner.forget(peer).await }
    }

    async fn lookup(&self, asker: &Asker, keys: &LookupKeys, max: usize, away: bool) -> Result<Found, StoreError> {
        let asker = self.asker(asker, Fault::IgnoresGroups);
        self.inner.lookup(&asker, keys, max, away || self.is(Fault::LooksUpAwayPeers)).await
    }

    async fn owners(&self, asker: &Asker, blob: BlobId, size: u64, away: bool) -> Result<Owners, StoreError> {
        let asker = self.asker(asker, Fault::IgnoresGroups);
        self.inner.owners(&asker, blob, size, away || self.is(Fault::LooksUpAwayPeers)).await
    }

    async fn locate(&self, asker: &Asker, blobs: &[BlobId], max: usize, away: bool) -> Result<Located, StoreError> {
        let asker = self.asker(asker, Fault::IgnoresGroups);
        let away = away || self.is(Fault::LooksUpAwayPeers);
        let mut located = self.inner.locate(&asker, blobs, max, away).await?;
        if self.is(Fault::LocatesPeersTwice)
            && let Some(peer) = located.peers.last().copied()
            && let Some(blob) = located.blobs.last_mut()
        {
            located.peers.push(peer);
            blob.end += 1;
        }
        if self.is(Fault::CountsPeersForPlaces) {
            for position in 0..blobs.len() {
                located.blobs[position].total = located.peers_of(position).len() as u32;
            }
        }
        Ok(located)
    }

    fn peer_ids(&self, numbers: &[u32]) -> Vec<Option<PeerId>> {
        let shift = u32::from(self.is(Fault::NumbersOtherPeers));
        self.inner.peer_ids(&numbers.iter().map(|number| number + shift).collect::<Vec<_>>())
    }

    async fn search(&self, asker: &Asker, mut question: SearchQuestion<'_>) -> Result<Hits, StoreError> {
        let asker = self.asker(asker, Fault::IgnoresGroups);
        question.away |= self.is(Fault::ShowsAwayPeers);
        let continued = question.cursor.is_some();
        let counts_hidden = self.is(Fault::CountsHiddenCopies) || self.is(Fault::CountsHiddenContents);
        let everyone = if counts_hidden { self.asker(&asker, self.fault) } else { asker.clone() };
        let unseen =
            self.inner.search(&everyone, SearchQuestion { cursor: None, limit: 1_000, ..question.clone() }).await?;
        let mut hits = self.inner.search(&asker, question).await?;
        let last = hits.hits.last().cloned();
        let is_lost = |hit: &Hit| match self.fault {
            Fault::DropsASegment => hit.name.len() % 7 == 3,
            Fault::ForgetsTheTail => self.new_names.lock().unwrap().0.contains(&hit.name.0),
            _ => false,
        };
        let before = hits.hits.len();
        hits.hits.retain(|hit| !is_lost(hit));
        hits.total -= (before - hits.hits.len()) as u64;
        if self.is(Fault::MiscountsDirectories) {
            for files in hits.hits.iter_mut().filter_map(|hit| hit.files.as_mut()) {
                *files = (*files).min(1);
            }
        }
        if counts_hidden {
            for hit in &mut hits.hits {
                let same = unseen
                    .hits
                    .iter()
                    .find(|other| (&other.name, other.blob, &other.path) == (&hit.name, hit.blob, &hit.path));
                match same {
                    Some(other) if self.is(Fault::CountsHiddenCopies) => hit.copies = other.copies,
                    Some(other) => hit.contents = other.contents,
                    None => {}
                }
            }
        }
        if continued && self.is(Fault::SkipsAtTheCursor) && !hits.hits.is_empty() {
            hits.hits.remove(0);
        }
        if continued
            && self.is(Fault::RepeatsAtTheCursor)
            && let Some(before) = self.last.lock().unwrap().take()
        {
            hits.hits.insert(0, before);
        }
        *self.last.lock().unwrap() = last;
        Ok(hits)
    }

    async fn browse(&self, asker: &Asker, mut question: BrowseQuestion<'_>) -> Result<Listing, StoreError> {
        question.recursive &= !self.is(Fault::ListsDirectoriesFlat);
        self.inner.browse(&self.asker(asker, Fault::IgnoresGroups), question).await
    }

    async fn totals(&self, asker: &Asker, peer: PeerId) -> PeerTotals {
        self.inner.totals(&self.asker(asker, Fault::CountsHiddenFiles), peer).await
    }

    async fn visible(&self, asker: &Asker) -> VisibleTotals {
        self.inner.visible(&self.asker(asker, Fault::CountsHiddenFiles)).await
    }

    async fn maintain(&self, budget: Duration) -> Result<bool, StoreError> {
        {
            let (new, old) = &mut *self.new_names.lock().unwrap();
            old.append(new);
        }
        self.inner.maintain(budget).await
    }

    fn answers_at_once(&self) -> bool {
        self.inner.answers_at_once()
    }
    fn visibility(&self) -> Duration {
        self.inner.visibility()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}
