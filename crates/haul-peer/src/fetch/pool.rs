//! Connections to other peers: dialled once, shown the grant, shared by all downloads, closed when idle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::time::Moment;
use haul_core::wire::ByteString;
use haul_core::wire::index::PeerCard;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use haul_net::connection::{Connection, RequestError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Time for a peer to answer the grant.
const GRANT_ANSWER: Duration = Duration::from_secs(10);

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
    connection: Connection,
    shown: watch::Receiver<Option<GrantPaper>>,
    last_used: Mutex<Moment>,
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
    dialer: Arc<dyn PeerDialer>,
    grant: watch::Receiver<Option<GrantPaper>>,
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
        Arc::new(Self { dialer, grant, slots: Mutex::new(BTreeMap::new()) })
    }

    /// Shows new grants on open connections and closes idle ones, until shutdown; then closes all.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut grant = self.grant.clone();
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
                    for pooled in self.open_connections() {
                        // A refusal shows with the next request; there is nobody to tell it to here.
                        let _ = show_grant(&pooled.connection, &mut pooled.shown.clone()).await;
                    }
                }
            }
        }
        for pooled in self.open_connections() {
            pooled.connection.close("this peer shuts down");
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
        let mut shown = self.grant.clone();
        if shown.borrow().is_none() {
            return Err(ConnectError::NoGrant);
        }
        let connection = self.dialer.dial(card).await.map_err(ConnectError::Unreachable)?;
        if connection.remote() != card.id {
            connection.close("not the peer that was called");
            return Err(ConnectError::Unreachable("another peer answers at its address".into()));
        }
        show_grant(&connection, &mut shown).await?;
        let pooled = Arc::new(Pooled { connection, shown, last_used: Mutex::new(boot_now()) });
        *open = Some(Arc::clone(&pooled));
        Ok(Lease { pooled })
    }

    /// Number of open connections.
    pub fn open_count(&self) -> usize {
        self.open_connections().len()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_connections(&self) -> Vec<Arc<Pooled>> {
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
            if unused || pooled.connection.close_reason().is_some() {
                pooled.connection.close("idle");
                *open = None;
            }
            true
        });
    }
}

async fn show_grant(
    connection: &Connection,
    grant: &mut watch::Receiver<Option<GrantPaper>>,
) -> Result<(), ConnectError> {
    let Some(paper) = grant.borrow_and_update().clone() else { return Err(ConnectError::NoGrant) };
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
