//! What all sessions of one index share, and the few operations that touch several parts of it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::planner::Dealing;
use haul_core::registry::leases::{CloseCause, ConnectionId, LeaseAction};
use haul_core::time::{Moment, Timestamp};
use haul_core::wire::Label;
use haul_core::wire::index::{IndexPush, Refusal};
use haul_net::clock;
use haul_net::connection::Connection;
use tokio::sync::{Mutex, MutexGuard};

use crate::admission::Admission;
use crate::authority::Authority;
use crate::members::Members;
use crate::presence::{Arrival, Presence};
use crate::store::{Asker, IndexStore, StoreError};
use crate::swarms::{Content, Swarms};
use crate::watches::Watches;

/// Peers whose presence may change at the same moment; others wait for each other by chance of their keys.
const PRESENCE_LOCKS: usize = 64;

/// Counts since the start, for Stats.
#[derive(Debug, Default)]
pub struct Counters {
    /// Searches answered.
    pub searches: AtomicU64,
    /// Lookup keys answered.
    pub lookups: AtomicU64,
}

impl Counters {
    /// Adds to one of them.
    pub fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// One index, without its tasks.
#[derive(Debug)]
pub struct IndexState<S> {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Who belongs to the network.
    pub members: Members,
    /// What is registered.
    pub store: S,
    /// Who is online.
    pub presence: Presence,
    /// What each peer may take.
    pub admission: Arc<Admission>,
    /// Standing searches.
    pub watches: Arc<Watches>,
    /// Who downloads what.
    pub swarms: Arc<Swarms>,
    /// Counts since the start.
    pub counters: Counters,
    /// When it started.
    pub started: Moment,
    /// Presence and store change together, one peer at a time: these are held while the store works.
    presence_locks: Box<[Mutex<()>]>,
}

impl<S: IndexStore> IndexState<S> {
    /// Puts the parts together; `plans` as in [`crate::IndexConfig::plans`].
    pub fn new(
        authority: Arc<Authority>,
        members: Members,
        store: S,
        presence: Presence,
        plans: Option<Dealing>,
    ) -> Self {
        let presence_locks = (0..PRESENCE_LOCKS).map(|_| Mutex::new(())).collect();
        let started = clock::boot_now();
        let (watches, swarms, counters) = (Arc::default(), Arc::new(Swarms::new(plans)), Counters::default());
        let admission = Arc::default();
        Self { authority, members, store, presence, admission, watches, swarms, counters, started, presence_locks }
    }

    /// A member's session opens: it is present from now on, and its older connection ends.
    pub async fn connect(
        &self,
        connection: &Connection,
        name: &Label,
        arrival: Arrival,
    ) -> Result<ConnectionId, StoreError> {
        let peer = connection.remote();
        let id = {
            let _one_at_a_time = self.lock_presence(&peer).await;
            self.store.connect(peer, name.clone()).await?;
            self.presence.connected(clock::boot_now(), clock::wall_now(), connection, true, arrival)
        };
        self.perform_actions().await;
        Ok(id)
    }

    /// A guest's session opens: it holds a lease, and nobody sees it.
    pub fn connect_guest(&self, connection: &Connection, arrival: Arrival) -> ConnectionId {
        self.presence.connected(clock::boot_now(), clock::wall_now(), connection, false, arrival)
    }

    /// A session is over; unless a newer one took over, everything of its peer is hidden when this returns.
    pub async fn disconnect(&self, connection: ConnectionId, peer: PeerId) {
        self.presence.closed(clock::wall_now(), connection, peer);
        self.perform_actions().await;
    }

    /// Hides whose lease is over. Asked before every query, so that no answer names a peer past its lease.
    pub async fn expire(&self, now: Moment) {
        if self.presence.expire(now) {
            self.perform_actions().await;
        }
    }

    /// Takes a member out of the network: certificates void, connection closed, shares deleted, everybody told.
    pub async fn remove(self: &Arc<Self>, now: Timestamp, peer: PeerId) -> Result<(), Refusal> {
        let state = Arc::clone(self);
        blocking(move || state.members.remove(now, peer)).await?;
        self.presence.removed(peer);
        self.watches.end_peer(peer);
        self.perform_actions().await;
        {
            let _one_at_a_time = self.lock_presence(&peer).await;
            match self.store.forget(peer).await {
                // A member that never shared anything is unknown to the store.
                Ok(()) | Err(StoreError::NotOpen) => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        let push = IndexPush::Revoked { time: now, revoked: self.members.revoked(now) };
        for connection in self.presence.connections() {
            // Whoever reads too slowly for it gets the list with its next renewal.
            let _ = connection.push(&push);
        }
        Ok(())
    }

    /// Looks who shares a content with everybody in these groups now, and tells its swarm.
    pub async fn find_owners(&self, content: Content, groups: &[Label]) {
        let asker = Asker { peer: self.authority.index_key(), groups: groups.to_vec() };
        match self.store.owners(&asker, content.0, content.1, false).await {
            Ok(found) => {
                let peers = self.store.peer_ids(&found.peers).into_iter().flatten();
                self.swarms.set_owners(clock::boot_now(), content, groups, &self.presence.sites(peers));
            }
            Err(error) => tracing::debug!(%error, blob = %content.0, "who shares this content cannot be looked up now"),
        }
    }

    async fn perform_actions(&self) {
        while let Some(action) = self.presence.poll_action() {
            match action {
                LeaseAction::Close(id, cause) => {
                    if let Some(connection) = self.presence.connection(id) {
                        connection.close(explain(cause));
                    }
                }
                LeaseAction::Hide(peer) => self.hide(peer).await,
            }
        }
    }

    async fn hide(&self, peer: PeerId) {
        let _one_at_a_time = self.lock_presence(&peer).await;
        // It may have come back while this waited.
        if self.presence.is_present(&peer) {
            return;
        }
        if let Err(error) = self.store.leave(peer).await
            && !matches!(error, StoreError::NotOpen)
        {
            tracing::error!(%error, peer = peer.short(), "a peer that left could not be hidden");
        }
    }

    async fn lock_presence(&self, peer: &PeerId) -> MutexGuard<'_, ()> {
        let [first, ..] = *peer.as_bytes();
        let lock = self.presence_locks.get(usize::from(first) % PRESENCE_LOCKS);
        lock.expect("the remainder is below the number of locks").lock().await
    }
}

fn explain(cause: CloseCause) -> &'static str {
    match cause {
        CloseCause::Expired => "the lease ended without a renewal; connect again",
        CloseCause::Replaced => "a newer connection of the same peer took over",
        CloseCause::Removed => "this member was removed from the network",
    }
}

/// Runs what waits for the disk on a thread that may wait.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(%error, "a change of the members failed unexpectedly");
            Err(Refusal::Storage("an internal error; it is in the index's log".into()))
        }
    }
}

/// Not now; a moment that is not over counts whole.
pub fn busy(retry_after: Duration) -> Refusal {
    Refusal::Busy { retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).max(1) }
}

/// A store's error, as the peer is told.
pub fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::NotOpen => Refusal::NotOpen,
        StoreError::StateMismatch => Refusal::StateMismatch,
        StoreError::BadPage(reason) => Refusal::BadPage(reason),
        StoreError::TooMuch(reason) => Refusal::TooMuch(reason),
        StoreError::BadCursor => Refusal::BadQuery("this cursor is not of this index; ask again without it".into()),
        StoreError::NotFound => Refusal::NotFound,
        StoreError::Busy { retry_after } => busy(retry_after),
        StoreError::Storage(reason) => {
            tracing::error!(reason, "the store failed");
            Refusal::Storage(reason)
        }
    }
}
