//! Shares that became visible: what fits the watches is searched in the background, one search at a time and for a
//! tenth of the time at most.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::query::{Filter, FoldedEntry, Query, Test, fold};
use haul_core::wire::index::{Hit, HitKind};
use haul_net::clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{ShareFacts, Watch, Watches};
use crate::store::{IndexStore, SearchQuestion};

/// Shares that wait to be searched. A whole network that comes back after a restart is over it, and marked.
const WAITING: usize = 1_000;
/// Sets of groups of shares that did not fit, and their peers, that are told apart.
const LOST: usize = 64;
/// Pause after a search, as a multiple of the time that it took.
const PAUSE_FACTOR: u32 = 9;
/// Searches follow each other for at least so long before others have their turn.
const TURN: Duration = Duration::from_millis(1);
/// Changes of watches are gathered for so long before the automaton is made anew.
const GATHER: Duration = Duration::from_millis(50);

/// A share in the state in which it became visible.
#[derive(Debug)]
pub(super) struct Return {
    pub(super) share: Arc<ShareFacts>,
    pub(super) state: ShareState,
    /// Only watches younger than this one.
    pub(super) born_after: u64,
}

#[derive(Debug, Default)]
pub(super) struct Returns {
    queue: Mutex<Queue>,
    arrived: Notify,
}

/// Registrants take turns, and one with many shares leaves room for the others.
#[derive(Debug, Default)]
struct Queue {
    of_peer: HashMap<PeerId, VecDeque<Return>>,
    /// Whose turn it is: each peer with shares that wait, once.
    turns: VecDeque<PeerId>,
    waiting: usize,
    lost: Lost,
}

/// Shares that did not fit.
#[derive(Debug, Default)]
struct Lost {
    /// One for each peer and set of groups, …
    shares: Vec<Arc<ShareFacts>>,
    /// … and whether these are too many to tell them apart.
    others: bool,
}

impl Lost {
    fn add(&mut self, share: Arc<ShareFacts>) {
        if self.shares.iter().any(|lost| lost.peer == share.peer && lost.groups == share.groups) {
            return;
        }
        self.others |= self.shares.len() >= LOST;
        if !self.others {
            self.shares.push(share);
        }
    }

    fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// Whether a watch may have missed something.
    fn concern(&self, watch: &Watch) -> bool {
        self.others || self.shares.iter().any(|share| watch.sees(share))
    }
}

impl Queue {
    /// A peer may have as many as there is room left for others.
    fn add(&mut self, returned: Return) {
        let peer = returned.share.peer;
        let own = self.of_peer.get(&peer).map_or(0, VecDeque::len);
        if own >= WAITING - self.waiting {
            self.lost.add(returned.share);
            return;
        }
        if own == 0 {
            self.turns.push_back(peer);
        }
        self.of_peer.entry(peer).or_default().push_back(returned);
        self.waiting += 1;
    }

    fn take(&mut self) -> Option<Return> {
        let peer = self.turns.pop_front()?;
        let own = self.of_peer.get_mut(&peer)?;
        let returned = own.pop_front();
        self.waiting -= usize::from(returned.is_some());
        if own.is_empty() {
            self.of_peer.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        returned
    }
}

impl Returns {
    pub(super) fn add(&self, returned: Return) {
        self.lock().add(returned);
        self.arrived.notify_one();
    }

    fn take(&self) -> (Option<Return>, Lost) {
        let mut queue = self.lock();
        (queue.take(), std::mem::take(&mut queue.lost))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Searches shares that became visible, and keeps the automaton new, until `stop`.
pub async fn run<S: IndexStore>(watches: &Arc<Watches>, store: &S, stop: &CancellationToken) {
    let compiling = async {
        loop {
            watches.stale.notified().await;
            tokio::time::sleep(GATHER).await;
            let watches = Arc::clone(watches);
            let begun = Instant::now();
            if let Err(error) = tokio::task::spawn_blocking(move || watches.compile()).await {
                tracing::error!(%error, "the watches were not arranged; they are compared one by one");
            }
            // Whoever starts and ends watches all the time has a tenth of a core arranged for it, and no more.
            tokio::time::sleep(begun.elapsed() * PAUSE_FACTOR).await;
        }
    };
    let searching = async {
        loop {
            watches.returns.arrived.notified().await;
            loop {
                let (returned, lost) = watches.returns.take();
                if !lost.is_empty() {
                    watches.all().iter().filter(|watch| lost.concern(watch)).for_each(|watch| watch.miss());
                }
                let Some(returned) = returned else { break };
                search(watches, store, &returned).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { tokio::join!(compiling, searching); } => {}
    }
}

async fn search<S: IndexStore>(watches: &Watches, store: &S, returned: &Return) {
    let share = &returned.share;
    let mut worked = Duration::ZERO;
    for watch in watches.all() {
        if watch.born <= returned.born_after || !watch.sees(share) || !watch.comes_new(returned) {
            continue;
        }
        let begun = Instant::now();
        search_for(&watch, store, share).await;
        worked += begun.elapsed();
        if worked >= TURN {
            tokio::time::sleep(std::mem::take(&mut worked) * PAUSE_FACTOR).await;
        }
    }
    tokio::time::sleep(worked * PAUSE_FACTOR).await;
}

/// Asks the store for what fits one watch in one share.
async fn search_for<S: IndexStore>(watch: &Watch, store: &S, share: &ShareFacts) {
    let mut query = watch.query.clone();
    for word in &mut query.words {
        word.name_only = true;
    }
    let only = |test| Filter { test, inverted: false };
    query.filters.push(only(Test::Peer(share.peer.to_string())));
    query.filters.push(only(Test::Share(fold(share.name.as_str().as_bytes()))));
    let now_ns = clock::wall_now().0.saturating_mul(1_000_000).try_into().unwrap_or(i64::MAX);
    let question = SearchQuestion {
        query: &query,
        limit: limits::MATCHES_WAITING / 2,
        cursor: None,
        away: false,
        now_ns,
        exact: false,
    };
    let found = match store.search(&watch.asker, question).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "a share that came back was not searched for a watch");
            return watch.miss();
        }
    };
    let more = found.cursor.is_some() || !found.exact;
    let mut hits = found.hits;
    hits.retain(|hit| hit.peer == share.peer && hit_fits(&watch.query, share, hit, now_ns));
    for mut hit in hits {
        (hit.names, hit.contents, hit.copies, hit.online) = (1, 1, 1, 1);
        watch.tell(hit);
    }
    if more {
        watch.miss();
    }
}

/// Near matches, and words that stand in directory parts only, are no matches.
fn hit_fits(query: &Query, share: &ShareFacts, hit: &Hit, now_ns: i64) -> bool {
    let path = hit.path.as_bytes();
    let name_at = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
    let entry = FoldedEntry {
        origin: &share.origin,
        directories: &super::page::folded_parts(path.get(..name_at).unwrap_or_default()),
        name: &fold(&hit.name),
        kind: hit.kind,
        size: (hit.kind == HitKind::File || hit.files.is_some()).then_some(hit.size),
        mtime_ns: hit.mtime_ns,
        blob: hit.blob,
    };
    !hit.near && query.fits(&entry, now_ns)
}

impl Watch {
    /// Whether this watch has not searched the share in this state yet; remembers that it has.
    fn comes_new(&self, returned: &Return) -> bool {
        let mut seen = self.seen();
        let share = &returned.share;
        let words = returned.state.digest;
        let key = seen.key((share.peer, share.id, returned.state.revision, words, &share.groups));
        let new = !seen.contains(key);
        seen.insert(key);
        new
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::{PublicKey, ShareId};
    use haul_core::registry::leases::ConnectionId;
    use haul_core::wire::Label;

    use super::*;
    use crate::store::Asker;

    fn returned(peer: u8, share: u16) -> Return {
        returned_to(peer, share, Vec::new())
    }

    fn returned_to(peer: u8, share: u16, groups: Vec<Label>) -> Return {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&share.to_le_bytes());
        let name = Label::new("docs").unwrap();
        let peer = PublicKey::new([peer; 32]).unwrap();
        let share = Arc::new(ShareFacts::new(peer, name.clone(), ShareId(id), name, groups));
        Return { share, state: ShareState::default(), born_after: 0 }
    }

    #[test]
    fn a_peer_with_many_shares_neither_fills_the_queue_nor_goes_first() {
        let mut queue = Queue::default();
        for share in 0..5_000 {
            queue.add(returned(7, share));
        }
        let lost = std::mem::take(&mut queue.lost);
        assert_eq!((queue.waiting, lost.shares.len(), lost.others), (WAITING / 2, 1, false));
        for peer in 8..11 {
            queue.add(returned(peer, 0));
            queue.add(returned(peer, 1));
        }
        assert!(queue.lost.is_empty(), "there is room for the others");
        let order: Vec<PeerId> = std::iter::from_fn(|| queue.take()).map(|returned| returned.share.peer).collect();
        assert_eq!(order.len(), WAITING / 2 + 6);
        let last_of = |peer| order.iter().rposition(|other| *other == PublicKey::new([peer; 32]).unwrap()).unwrap();
        assert!((8..11).all(|peer| last_of(peer) < 8), "they take turns");
        assert_eq!((queue.waiting, queue.of_peer.len(), queue.turns.len()), (0, 0, 0));
    }

    #[test]
    fn what_did_not_fit_concerns_those_who_may_see_it() {
        let watches = Watches::default();
        let key = |peer: u8| PublicKey::new([peer; 32]).unwrap();
        for (number, (peer, group)) in [(20, "red"), (21, "blue"), (7, "red")].into_iter().enumerate() {
            let asker = Asker { peer: key(peer), groups: vec![Label::new(group).unwrap()] };
            let mailbox = watches.mailbox(asker.peer);
            watches.add(ConnectionId(number as u64 + 1), &asker, &mailbox, 1, "report").unwrap();
        }
        let concerned = |lost: &Lost| -> Vec<bool> { watches.all().iter().map(|watch| lost.concern(watch)).collect() };
        let mut lost = Lost::default();
        let red = || vec![Label::new("red").unwrap()];
        lost.add(returned_to(7, 0, red()).share);
        lost.add(returned_to(7, 1, red()).share);
        assert_eq!(concerned(&lost), [true, false, false], "nobody watches what is his own");
        lost.add(returned_to(8, 0, red()).share);
        assert_eq!((concerned(&lost), lost.shares.len()), (vec![true, false, true], 2));
        for group in 0..LOST {
            lost.add(returned_to(8, 0, vec![Label::new(format!("g{group}")).unwrap()]).share);
        }
        assert_eq!((concerned(&lost), lost.shares.len()), (vec![true, true, true], LOST));
    }
}
