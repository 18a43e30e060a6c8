//! Connections to other peers: dialled once, shown the grant, shared by all downloads, closed when idle. Where one is not
//! enough to get a fair share of a link, there are several to the same peer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::time::Moment;
use haul_core::wire::ByteString;
use haul_core::wire::index::PeerCard;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use haul_net::connection::{Connection, RequestError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Time for a peer to answer the grant.
const GRANT_ANSWER: Duration = Duration::from_secs(10);

/// Until another connection is tried to a peer that has one, after one that failed or broke.
const FURTHER_AGAIN: Duration = Duration::from_secs(30);

/// Connects to a peer, whose key must be the card's. The daemon dials; tests use memory.
pub trait PeerDialer: Send + Sync + 'static {
    /// A fresh connection to the peer, or why not, in words.
    fn dial<'a>(&'a self, card: &'a PeerCard) -> BoxFuture<'a, Result<Connection, String>>;
}

/// What this peer shows to others: the newest grant with the certificate of the index that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantPaper {
    /// Bytes of a signed grant.
    pub grant: ByteString,
    /// Bytes of the signed index certificate.
    pub index_certificate: ByteString,
}

/// Why there is no connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It cannot be reached.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// This peer has no grant yet.
    #[error("this peer has no grant to show yet: it has not reached its index")]
    NoGrant,
    /// It does not accept the grant.
    #[error("does not serve us: {0}")]
    NotGranted(String),
    /// It broke off.
    #[error("broke off: {0}")]
    Broken(String),
}

struct Pooled {
    caller: Caller,
    card: PeerCard,
    /// What there is as long as the peer can be asked.
    connection: Connection,
    further: Mutex<Further>,
    last_used: Mutex<Moment>,
}

/// Connections to the same peer besides the first.
#[derive(Default)]
struct Further {
    open: Vec<Connection>,
    dialing: JoinSet<Result<Connection, ConnectError>>,
    not_before: Moment,
    /// Streams opened so far, over which connection whatever.
    streams: usize,
}

impl Further {
    /// Takes in what was dialled, and leaves out what has ended.
    fn collect(&mut self, now: Moment) {
        let before = self.open.len();
        self.open.retain(|connection| connection.close_reason().is_none());
        let mut failed = self.open.len() < before;
        while let Some(dialled) = self.dialing.try_join_next() {
            match dialled {
                Ok(Ok(connection)) => self.open.push(connection),
                Ok(Err(_)) | Err(_) => failed = true,
            }
        }
        if failed {
            self.not_before = now.after(FURTHER_AGAIN);
        }
    }
}

impl Pooled {
    /// All connections to this peer.
    fn connections(&self) -> Vec<Connection> {
        let mut further = self.further();
        further.collect(boot_now());
        std::iter::once(&self.connection).chain(&further.open).cloned().collect()
    }

    fn close(&self, reason: &str) {
        for connection in self.connections() {
            connection.close(reason);
        }
    }

    /// The connection for the next stream of leaves. One more is dialled, one at a time, while there are fewer than wanted.
    fn for_leaves(&self, now: Moment) -> Connection {
        let wanted = self.caller.per_peer.load(Ordering::Relaxed).max(1);
        let mut further = self.further();
        further.collect(now);
        if 1 + further.open.len() < wanted && further.dialing.is_empty() && further.not_before <= now {
            let (caller, card) = (self.caller.clone(), self.card.clone());
            further.dialing.spawn(async move { caller.call(&card).await });
        }
        further.streams = further.streams.wrapping_add(1);
        let at = further.streams % wanted.min(1 + further.open.len());
        let next = at.checked_sub(1).and_then(|at| further.open.get(at));
        next.unwrap_or(&self.connection).clone()
    }

    fn further(&self) -> MutexGuard<'_, Further> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it takes to connect to a peer.
#[derive(Clone)]
struct Caller {
    dialer: Arc<dyn PeerDialer>,
    grant: watch::Receiver<Option<GrantPaper>>,
    /// Connections that leaves of one provider come over.
    per_peer: Arc<AtomicUsize>,
}

impl Caller {
    /// A new connection, on which the grant has been shown.
    async fn call(&self, card: &PeerCard) -> Result<Connection, ConnectError> {
        if self.grant.borrow().is_none() {
            return Err(ConnectError::NoGrant);
        }
        let connection = self.dialer.dial(card).await.map_err(ConnectError::Unreachable)?;
        if connection.remote() != card.id {
            connection.close("not the peer that was called");
            return Err(ConnectError::Unreachable("another peer answers at its address".into()));
        }
        let mut grant = self.grant.clone();
        // Whoever shows a new one to all does not know of this connection yet.
        loop {
            grant.mark_unchanged();
            show_grant(&connection, &grant).await?;
            if !grant.has_changed().unwrap_or(false) {
                return Ok(connection);
            }
        }
    }
}

/// A connection from the pool. It stays open while one of these exists.
#[derive(Clone)]
pub struct Lease {
    pooled: Arc<Pooled>,
}

impl Lease {
    /// The connection, on which the grant has been shown.
    pub fn connection(&self) -> &Connection {
        &self.pooled.connection
    }

    /// The connection for one stream of leaves: where several share the work ([`PeerPool::set_connections_per_peer`]), each in turn.
    pub fn for_leaves(&self) -> Connection {
        self.pooled.for_leaves(boot_now())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.pooled.last_used.lock().unwrap_or_else(PoisonError::into_inner) = boot_now();
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.pooled.connection.remote()).finish()
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Pooled>>>>;

/// The pool.
pub struct PeerPool {
    caller: Caller,
    slots: Mutex<BTreeMap<PeerId, Slot>>,
}

impl std::fmt::Debug for PeerPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerPool").finish_non_exhaustive()
    }
}

impl PeerPool {
    /// An empty pool that shows the grant held by `grant`.
    pub fn new(dialer: Arc<dyn PeerDialer>, grant: watch::Receiver<Option<GrantPaper>>) -> Arc<Self> {
        let caller = Caller { dialer, grant, per_peer: Arc::new(AtomicUsize::new(1)) };
        Arc::new(Self { caller, slots: Mutex::new(BTreeMap::new()) })
    }

    /// Over how many connections leaves come from each provider, as [`haul_core::uplink::connections`] says; one at first.
    pub fn set_connections_per_peer(&self, connections: usize) {
        self.caller.per_peer.store(connections, Ordering::Relaxed);
    }

    /// Shows new grants on open connections and closes idle ones, until shutdown; then closes all.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut grant = self.caller.grant.clone();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => self.close_idle(boot_now()),
                changed = grant.changed() => {
                    if changed.is_err() {
                        shutdown.cancelled().await;
                        break;
                    }
                    let open: Vec<Connection> = self.open().iter().flat_map(|pooled| pooled.connections()).collect();
                    // A refusal shows with the next request; there is nobody to tell it to here.
                    let shown = join_all(open.iter().map(|connection| show_grant(connection, &grant)));
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        _ = shown => {}
                    }
                }
            }
        }
        for pooled in self.open() {
            pooled.close("this peer shuts down");
        }
        self.slots().clear();
    }

    /// A connection to this peer: the open one, or a new one.
    pub async fn connect(&self, card: &PeerCard) -> Result<Lease, ConnectError> {
        let slot = Arc::clone(self.slots().entry(card.id).or_default());
        // One dial per peer at a time: others wait here and take its connection.
        let mut open = slot.lock().await;
        if let Some(pooled) = open.as_ref()
            && pooled.connection.close_reason().is_none()
        {
            return Ok(Lease { pooled: Arc::clone(pooled) });
        }
        *open = None;
        let connection = self.caller.call(card).await?;
        let pooled = Arc::new(Pooled {
            caller: self.caller.clone(),
            card: card.clone(),
            connection,
            further: Mutex::default(),
            last_used: Mutex::new(boot_now()),
        });
        *open = Some(Arc::clone(&pooled));
        Ok(Lease { pooled })
    }

    /// Number of peers that there is a connection to.
    pub fn connected_peers(&self) -> usize {
        self.open().len()
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<PeerId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Vec<Arc<Pooled>> {
        let slots: Vec<Slot> = self.slots().values().cloned().collect();
        let open = slots.iter().filter_map(|slot| slot.try_lock().ok()?.clone());
        open.filter(|pooled| pooled.connection.close_reason().is_none()).collect()
    }

    fn close_idle(&self, now: Moment) {
        self.slots().retain(|_, slot| {
            // A slot that is locked is being dialled.
            let Ok(mut open) = slot.try_lock() else { return true };
            let Some(pooled) = open.as_ref() else { return Arc::strong_count(slot) > 1 };
            let last = *pooled.last_used.lock().unwrap_or_else(PoisonError::into_inner);
            let unused = Arc::strong_count(pooled) == 1 && now.since(last) >= limits::PEER_CONNECTION_IDLE;
            if unused {
                pooled.close("idle");
            }
            // Where the first has ended, leases keep the others until their streams are through.
            if unused || pooled.connection.close_reason().is_some() {
                *open = None;
            }
            true
        });
    }
}

async fn show_grant(connection: &Connection, grant: &watch::Receiver<Option<GrantPaper>>) -> Result<(), ConnectError> {
    let Some(paper) = grant.borrow().clone() else { return Err(ConnectError::NoGrant) };
    let request = PeerRequest::Grant { grant: paper.grant, index_certificate: paper.index_certificate };
    let answer = tokio::time::timeout(GRANT_ANSWER, connection.request::<_, PeerAnswer>(&request)).await;
    let failure = match answer {
        Ok(Ok(PeerAnswer::Granted)) => return Ok(()),
        Ok(Ok(PeerAnswer::NotGranted { reason })) => ConnectError::NotGranted(reason),
        Ok(Ok(other)) => ConnectError::Broken(format!("it answered the grant with {other:?}")),
        Ok(Err(RequestError::Closed(reason))) => ConnectError::Broken(reason.to_string()),
        Ok(Err(error)) => ConnectError::Broken(error.to_string()),
        Err(_) => ConnectError::Broken("no answer to the grant in 10 s".into()),
    };
    connection.close("the grant was not accepted");
    Err(failure)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use haul_core::ids::PublicKey;
    use haul_core::time::Timestamp;
    use haul_core::wire::Label;
    use haul_net::connection::{ConnectionSettings, Inbound, Inbox};
    use haul_net::transport::memory_pair;

    use super::*;

    /// Calls a peer that grants everything, as often as it may be called.
    struct Dialer {
        calls: AtomicUsize,
        allowed: usize,
        /// The other ends.
        far: Mutex<Vec<Connection>>,
    }

    impl PeerDialer for Dialer {
        fn dial<'a>(&'a self, card: &'a PeerCard) -> BoxFuture<'a, Result<Connection, String>> {
            async move {
                if self.calls.fetch_add(1, Ordering::Relaxed) >= self.allowed {
                    return Err("it takes no more".into());
                }
                let (near, far) = memory_pair();
                let (far, inbox) = Connection::start(far, card.id, ConnectionSettings::server(None));
                self.far.lock().unwrap().push(far);
                tokio::spawn(grant_all(inbox));
                Ok(Connection::start(near, card.id, ConnectionSettings::default()).0)
            }
            .boxed()
        }
    }

    async fn grant_all(mut inbox: Inbox) {
        while let Some(inbound) = inbox.next().await {
            if let Inbound::Request(request) = inbound {
                request.answer(&PeerAnswer::Granted).await.unwrap();
            }
        }
    }

    struct World {
        dialer: Arc<Dialer>,
        pool: Arc<PeerPool>,
        lease: Lease,
        grant: watch::Sender<Option<GrantPaper>>,
        now: Moment,
    }

    /// A peer that may be called so often, and the first connection to it.
    async fn world(allowed: usize) -> World {
        let paper = GrantPaper { grant: ByteString(vec![1]), index_certificate: ByteString(vec![2]) };
        let (grant, shown) = watch::channel(Some(paper));
        let dialer = Arc::new(Dialer { calls: AtomicUsize::new(0), allowed, far: Mutex::default() });
        let pool = PeerPool::new(dialer.clone(), shown);
        let card = PeerCard {
            id: PublicKey::new([9; 32]).unwrap(),
            name: Label::from_lossy("ada"),
            addresses: Vec::new(),
            online: true,
            seen: Timestamp(1),
            files: 0,
            bytes: 0,
        };
        let lease = pool.connect(&card).await.unwrap();
        World { dialer, pool, lease, grant, now: Moment(1) }
    }

    impl World {
        /// Streams that are opened until nothing is dialled any more.
        async fn settle(&self) {
            for _ in 0..1_000 {
                self.lease.pooled.for_leaves(self.now);
                tokio::task::yield_now().await;
            }
        }

        fn calls(&self) -> usize {
            self.dialer.calls.load(Ordering::Relaxed)
        }

        /// Requests that arrived on each connection so far.
        fn arrived(&self) -> Vec<u64> {
            self.dialer.far.lock().unwrap().iter().map(|far| far.traffic().frames_in).collect()
        }

        /// Asks something over the connections of so many streams.
        async fn ask(&self, streams: usize) {
            for _ in 0..streams {
                show_grant(&self.lease.pooled.for_leaves(self.now), &self.grant.subscribe()).await.unwrap();
            }
        }
    }

    /// Lets others run until something holds.
    async fn until(holds: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if holds() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("it does not come to that");
    }

    #[tokio::test]
    async fn streams_of_leaves_share_as_many_connections_as_wanted() {
        let world = world(usize::MAX).await;
        world.settle().await;
        assert_eq!(world.calls(), 1, "one is enough for everybody else");
        world.pool.set_connections_per_peer(3);
        world.settle().await;
        assert_eq!(world.calls(), 3);
        world.ask(9).await;
        assert_eq!(world.arrived(), [1 + 3, 1 + 3, 1 + 3]);
        world.pool.set_connections_per_peer(1);
        world.ask(4).await;
        assert_eq!(world.arrived(), [1 + 3 + 4, 1 + 3, 1 + 3]);
    }

    #[tokio::test]
    async fn a_new_grant_is_shown_on_all_connections_and_on_one_that_was_dialled_meanwhile() {
        let world = world(usize::MAX).await;
        world.pool.set_connections_per_peer(2);
        let paper = |grant| Some(GrantPaper { grant: ByteString(vec![grant]), index_certificate: ByteString(vec![2]) });
        // The stream has a further connection dialled, and nobody asks for it again.
        world.lease.pooled.for_leaves(world.now);
        world.grant.send_replace(paper(3));
        until(|| world.arrived().get(1).is_some_and(|arrived| *arrived >= 1)).await;
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&world.pool).run(shutdown.clone()));
        tokio::task::yield_now().await;
        let before = world.arrived();
        world.grant.send_replace(paper(4));
        until(|| world.arrived().iter().zip(&before).all(|(now, before)| now > before)).await;
        shutdown.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn who_takes_no_further_connection_is_asked_over_the_first_and_called_later() {
        let mut world = world(1).await;
        world.pool.set_connections_per_peer(4);
        world.settle().await;
        assert_eq!(world.calls(), 2, "not again at once");
        world.ask(3).await;
        assert_eq!(world.arrived(), [1 + 3]);
        world.now = world.now.after(FURTHER_AGAIN);
        world.settle().await;
        assert_eq!(world.calls(), 3);
    }

    #[tokio::test]
    async fn a_further_connection_that_ends_is_replaced_and_all_end_with_the_pool() {
        let mut world = world(usize::MAX).await;
        world.pool.set_connections_per_peer(2);
        world.settle().await;
        let second = world.lease.pooled.connections().remove(1);
        world.dialer.far.lock().unwrap()[1].close("it ends");
        second.closed().await;
        world.settle().await;
        assert_eq!(world.calls(), 2, "not at once");
        world.now = boot_now().after(FURTHER_AGAIN);
        world.settle().await;
        assert_eq!(world.calls(), 3);
        let open = world.lease.pooled.connections();
        assert_eq!(open.len(), 2);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        Arc::clone(&world.pool).run(shutdown).await;
        assert!(open.iter().all(|connection| connection.close_reason().is_some()));
    }
}
