//! Keeps the index in step with this peer's shares while a session is open.
//!
//! Every share is opened with the state that the peer has; an index that holds the same list answers so, and nothing
//! else is sent. Otherwise what changed follows in transactions, each of which the index makes visible at once.

mod follow;
mod transaction;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use haul_core::wire::index::{IndexAnswer, IndexRequest};
use haul_net::connection::Connection;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::share::Shares;

/// Transactions of one session at once: far below what an index allows, and enough to hide its round trips.
const TRANSACTIONS: usize = 8;

/// A session with an index, after Welcome: what registering needs of it.
pub trait IndexSession: Clone + Send + Sync + 'static {
    /// Asks and waits for the answer; an error means that the connection has ended. Requests go out in the order in
    /// which these futures are first polled.
    fn ask(&self, request: &IndexRequest) -> impl Future<Output = Result<IndexAnswer, SessionEnded>> + Send;
}

impl IndexSession for Connection {
    async fn ask(&self, request: &IndexRequest) -> Result<IndexAnswer, SessionEnded> {
        self.request(request).await.map_err(|error| SessionEnded(error.to_string()))
    }
}

/// The session is over; its owner connects again and starts another run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session with the index has ended: {0}")]
pub struct SessionEnded(pub String);

/// One session, as all its shares use it.
#[derive(Clone)]
struct Line<S> {
    session: S,
    transactions: Arc<Semaphore>,
    next_transaction: Arc<AtomicU64>,
}

impl<S: IndexSession> Line<S> {
    fn transaction_number(&self) -> u64 {
        self.next_transaction.fetch_add(1, Ordering::Relaxed)
    }
}

/// Opens every share at the index and sends what changed, until the session ends or shutdown.
pub async fn run(shares: Arc<Shares>, session: impl IndexSession, shutdown: CancellationToken) -> SessionEnded {
    tokio::select! {
        () = shutdown.cancelled() => SessionEnded("this peer is leaving".into()),
        ended = register(shares, session) => ended,
    }
}

async fn register(shares: Arc<Shares>, session: impl IndexSession) -> SessionEnded {
    let transactions = Arc::new(Semaphore::new(TRANSACTIONS));
    let line = Line { session, transactions, next_transaction: Arc::new(AtomicU64::new(1)) };
    let mut changes = shares.changes();
    let mut followed = HashSet::new();
    let mut following = FuturesUnordered::new();
    if let Err(ended) = forget_removed(&shares, &line).await {
        return ended;
    }
    loop {
        changes.borrow_and_update();
        for folder in shares.folders() {
            let id = folder.record.id;
            if followed.insert(id) {
                let line = line.clone();
                following.push(async move { (id, follow::follow(folder, line).await) });
            }
        }
        tokio::select! {
            Some((id, end)) = following.next() => {
                if let Err(ended) = end {
                    return ended;
                }
                followed.remove(&id);
                if let Err(ended) = forget_removed(&shares, &line).await {
                    return ended;
                }
            }
            more = changes.changed() => {
                if more.is_err() {
                    return SessionEnded("the shares are gone".into());
                }
            }
        }
    }
}

/// Tells the index of shares that their owner has removed, also while there was no session.
async fn forget_removed(shares: &Arc<Shares>, line: &Line<impl IndexSession>) -> Result<(), SessionEnded> {
    for share in shares.to_forget() {
        let answer = line.session.ask(&IndexRequest::Close { share, forget: true }).await?;
        if matches!(answer, IndexAnswer::Closed | IndexAnswer::Refused(haul_core::wire::index::Refusal::NotOpen)) {
            shares.forgotten(share);
        }
    }
    Ok(())
}
