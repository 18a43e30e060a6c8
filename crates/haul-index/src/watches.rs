//! Standing searches: who is told of which new entries. This module knows what fits whom; the sessions carry it out.
//!
//! ```text
//!  page staged ──▶ Staged (matches) ──commit──▶ Mailbox of each session ──▶ pushes
//!  share visible again ──▶ Returns ──searches in the background──┘
//! ```
//!
//! Nobody who registers ever waits for a watch: work has a budget, room has a limit, and what is over either is lost
//! with a mark. Access is part of the match: an entry of a share that the watching member may not see is not even
//! compared.

mod anchors;
mod mailbox;
mod page;
mod returns;
mod seen;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::query::{self, Origin, Query};
use haul_core::registry::leases::ConnectionId;
use haul_core::wire::Label;
use haul_core::wire::index::{Hit, HitKind, Refusal};
use tokio::sync::Notify;

use crate::store::Asker;
use anchors::{Compiled, Snapshot};
use mailbox::Room;
pub use mailbox::{Batch, Mailbox};
pub use page::Staged;
pub use returns::run as run_searches;
use returns::{Return, Returns};
use seen::Seen;

/// What a watch has to know of a share.
#[derive(Clone, Debug)]
pub struct ShareFacts {
    /// Whose it is.
    pub peer: PeerId,
    /// That peer's name.
    pub peer_name: Label,
    /// The share.
    pub id: ShareId,
    /// Its name.
    pub name: Label,
    /// Groups that see it; empty means everyone.
    pub groups: Vec<Label>,
    /// Folded forms of the names.
    pub origin: Origin,
}

impl ShareFacts {
    /// Gathers them.
    pub fn new(peer: PeerId, peer_name: Label, id: ShareId, name: Label, groups: Vec<Label>) -> Self {
        let origin = Origin::new(&peer, &peer_name, &name);
        Self { peer, peer_name, id, name, groups, origin }
    }
}

/// A search that stands.
#[derive(Debug)]
pub(crate) struct Watch {
    number: u64,
    /// Counts all watches of this index, from 1.
    born: u64,
    asker: Asker,
    query: Query,
    /// The longest word; none if the query has only filters.
    anchor: Option<Arc<str>>,
    /// Words, exclusions and filters: what a comparison costs at most.
    terms: usize,
    live: AtomicBool,
    seen: Mutex<Seen>,
    mailbox: Arc<Mailbox>,
}

impl Watch {
    fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// Whether entries of this share count: it is somebody else's, and the asker may see it.
    fn sees(&self, share: &ShareFacts) -> bool {
        self.is_live() && share.peer != self.asker.peer && self.asker.may_see(&share.groups)
    }

    /// The key of a name with one content, unless it was told.
    fn unseen(&self, kind: HitKind, name: &[u8], blob: Option<BlobId>) -> Option<u64> {
        let seen = self.seen();
        let key = seen.key((kind, name, blob.map(|blob| *blob.as_bytes())));
        (!seen.contains(key)).then_some(key)
    }

    /// Tells of a match, unless it was told.
    fn tell(&self, hit: Hit) {
        let Some(key) = self.unseen(hit.kind, &hit.name, hit.blob) else { return };
        // What is lost may be told when the next copy comes.
        if self.mailbox.offer(self.number, &self.live, hit) {
            self.seen().insert(key);
        }
    }

    fn miss(&self) {
        self.mailbox.miss(self.number, &self.live);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All watches of one index.
#[derive(Debug, Default)]
pub struct Watches {
    inner: Mutex<Inner>,
    /// So that an index without watches does nothing for them.
    count: AtomicUsize,
    staged: Arc<page::Room>,
    /// Matches that wait for their members.
    waiting: Mutex<Waiting>,
    returns: Returns,
    /// The automaton should be made anew.
    stale: Notify,
}

/// Counts the matches that wait, by whom they wait for.
#[derive(Debug, Default)]
struct Waiting {
    in_all: Arc<AtomicUsize>,
    of_peer: HashMap<PeerId, Weak<AtomicUsize>>,
    /// So many peers may be listed before those are forgotten who have no mailbox any more.
    listed: usize,
}

impl Waiting {
    fn room(&mut self, peer: PeerId) -> Room {
        if self.of_peer.len() >= self.listed {
            self.of_peer.retain(|_, room| room.strong_count() > 0);
            self.listed = 2 * self.of_peer.len() + 1;
        }
        let known = self.of_peer.get(&peer).and_then(Weak::upgrade);
        let of_peer = known.unwrap_or_default();
        self.of_peer.insert(peer, Arc::downgrade(&of_peer));
        Room { in_all: Arc::clone(&self.in_all), of_peer }
    }
}

#[derive(Debug, Default)]
struct Inner {
    watches: BTreeMap<(ConnectionId, u64), Arc<Watch>>,
    /// How many each peer has, none being none.
    of_peer: HashMap<PeerId, usize>,
    born: u64,
    compiled: Arc<Compiled>,
    /// What `compiled` does not know, in the order of birth.
    loose: Vec<Arc<Watch>>,
    /// What the matchers use; none after a change.
    snapshot: Option<Snapshot>,
}

impl Watches {
    /// Where the matches of a new session of a peer will wait.
    pub fn mailbox(&self, peer: PeerId) -> Arc<Mailbox> {
        Arc::new(Mailbox::new(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).room(peer)))
    }

    /// Starts a watch of the session `owner`. `mailbox` is that session's.
    pub fn add(
        &self,
        owner: ConnectionId,
        asker: &Asker,
        mailbox: &Arc<Mailbox>,
        number: u64,
        text: &str,
    ) -> Result<(), Refusal> {
        let query = query::parse(text).map_err(|error| Refusal::BadQuery(error.to_string()))?;
        let mut inner = self.lock();
        if inner.watches.contains_key(&(owner, number)) {
            return Err(Refusal::TooMuch(format!("watch {number} is there already")));
        }
        // A guest may have several sessions.
        let own = inner.of_peer.get(&asker.peer).copied().unwrap_or_default();
        if own >= limits::WATCHES_PER_MEMBER {
            return Err(Refusal::TooMuch(format!("a member has at most {} watches", limits::WATCHES_PER_MEMBER)));
        }
        if inner.watches.len() >= limits::WATCHES {
            return Err(Refusal::Busy { retry_after_ms: 60_000 });
        }
        inner.born += 1;
        inner.of_peer.insert(asker.peer, own + 1);
        let anchor = query.words.iter().map(|word| word.text.as_str()).max_by_key(|word| word.len()).map(Arc::from);
        let watch = Arc::new(Watch {
            number,
            born: inner.born,
            asker: asker.clone(),
            terms: query.words.len() + query.without.len() + query.filters.len(),
            query,
            anchor,
            live: AtomicBool::new(true),
            seen: Mutex::default(),
            mailbox: Arc::clone(mailbox),
        });
        inner.watches.insert((owner, number), Arc::clone(&watch));
        inner.loose.push(watch);
        self.changed(&mut inner);
        Ok(())
    }

    /// Ends one watch, if it is there.
    pub fn remove(&self, owner: ConnectionId, number: u64) {
        self.end(|inner| inner.watches.remove(&(owner, number)).into_iter().collect());
    }

    /// Ends all watches of a session.
    pub fn end_session(&self, owner: ConnectionId) {
        self.end(|inner| {
            let mut own = inner.watches.split_off(&(owner, 0));
            if let Some(next) = owner.0.checked_add(1) {
                inner.watches.append(&mut own.split_off(&(ConnectionId(next), 0)));
            }
            own.into_values().collect()
        });
    }

    /// Ends all watches of a member that was removed.
    pub fn end_peer(&self, peer: PeerId) {
        self.end(|inner| inner.watches.extract_if(.., |_, watch| watch.asker.peer == peer).map(|(_, w)| w).collect());
    }

    fn end(&self, take: impl FnOnce(&mut Inner) -> Vec<Arc<Watch>>) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut inner = self.lock();
        let ended = take(&mut inner);
        if ended.is_empty() {
            return;
        }
        for watch in &ended {
            watch.live.store(false, Ordering::Relaxed);
            watch.mailbox.forget(watch.number);
            inner.drop_one(&watch.asker.peer);
        }
        inner.loose.retain(|watch| watch.is_live());
        self.changed(&mut inner);
    }

    fn changed(&self, inner: &mut Inner) {
        inner.snapshot = None;
        self.count.store(inner.watches.len(), Ordering::Relaxed);
        self.stale.notify_one();
    }

    /// Matches a page that was staged in a transaction, whose earlier matches are in `staged`. Bounded work, no waiting.
    pub fn add_page(&self, staged: &mut Option<Staged>, share: &ShareFacts, page: &[u8], now_ns: i64) {
        let (born, snapshot) = if self.count.load(Ordering::Relaxed) == 0 {
            (self.lock().born, None)
        } else {
            let mut inner = self.lock();
            (inner.born, Some(inner.snapshot()))
        };
        let staged = staged.get_or_insert_with(|| Staged::new(born, share.peer, Arc::clone(&self.staged)));
        if let Some(snapshot) = snapshot {
            staged.add_page(&snapshot, share, page, now_ns);
        }
    }

    /// A transaction is visible: tells what fits. Watches that began while it was staged get what a search finds.
    pub fn committed(&self, mut staged: Staged, share: &Arc<ShareFacts>, state: ShareState) {
        for (watch, hit) in std::mem::take(&mut staged.matches) {
            watch.tell(hit);
        }
        for watch in staged.missed.values() {
            watch.miss();
        }
        if self.lock().born > staged.since {
            self.search_later(share, state, staged.since);
        }
    }

    /// A share is visible in this state: what fits of it is searched in the background.
    pub fn returned(&self, share: &Arc<ShareFacts>, state: ShareState) {
        self.search_later(share, state, 0);
    }

    fn search_later(&self, share: &Arc<ShareFacts>, state: ShareState, born_after: u64) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.returns.add(Return { share: Arc::clone(share), state, born_after });
        }
    }

    fn all(&self) -> Vec<Arc<Watch>> {
        self.lock().watches.values().cloned().collect()
    }

    /// Makes the automaton anew if enough has changed. Takes a tenth of a second with as many watches as there can be.
    fn compile(&self) {
        let (watches, born) = {
            let mut inner = self.lock();
            let live = inner.watches.len();
            if !inner.snapshot().is_stale(live) {
                return;
            }
            (inner.watches.values().cloned().collect::<Vec<_>>(), inner.born)
        };
        let compiled = Compiled::new(watches);
        let mut inner = self.lock();
        let knows_words = !compiled.is_empty();
        let is_loose = |watch: &&Arc<Watch>| watch.born > born || watch.anchor.is_none() || !knows_words;
        let mut loose: Vec<Arc<Watch>> = inner.watches.values().filter(is_loose).cloned().collect();
        loose.sort_by_key(|watch| watch.born);
        inner.loose = loose;
        inner.compiled = Arc::new(compiled);
        inner.snapshot = None;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn drop_one(&mut self, peer: &PeerId) {
        if let Some(own) = self.of_peer.get_mut(peer) {
            *own -= 1;
            if *own == 0 {
                self.of_peer.remove(peer);
            }
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let (compiled, loose) = (&self.compiled, &self.loose);
        self.snapshot.get_or_insert_with(|| Snapshot::new(Arc::clone(compiled), loose.as_slice().into())).clone()
    }
}

#[cfg(test)]
mod tests;
