//! What a member changes: shares and their transactions. All changes of one share run one after the other.
//!
//! A page or a commit that is refused ends its transaction: what was staged is dropped, later pages are refused with
//! [`Refusal::NotOpen`], and the peer opens the share again to learn what the index has.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};

use super::Session;
use crate::state::refusal;
use crate::store::{IndexStore, Opened, ShareOffer, TransactionId};

/// Shares and transactions of one session.
#[derive(Debug, Default)]
pub(super) struct Registration {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shares: BTreeSet<ShareId>,
    /// By the peer's own numbers.
    transactions: HashMap<u64, Transaction>,
}

#[derive(Clone, Copy, Debug)]
struct Transaction {
    share: ShareId,
    /// None until the store has begun it.
    id: Option<TransactionId>,
    next_seq: u32,
    amends: bool,
    staged_bytes: usize,
}

impl Registration {
    /// The share that a request changes; none for requests that change no share. Called in the order of arrival.
    pub(super) fn lane(&self, request: &IndexRequest) -> Option<Result<ShareId, Refusal>> {
        match request {
            IndexRequest::Open { share, .. } | IndexRequest::Close { share, .. } => Some(Ok(*share)),
            IndexRequest::Begin { share, tx, base } => Some(self.announce(*share, *tx, base.is_some())),
            IndexRequest::Page { tx, .. } | IndexRequest::Commit { tx, .. } => {
                let share = self.lock().transactions.get(tx).map(|transaction| transaction.share);
                Some(share.ok_or(Refusal::NotOpen))
            }
            _ => None,
        }
    }

    /// Pages may follow before the store has begun, so the number is known from here on.
    fn announce(&self, share: ShareId, tx: u64, amends: bool) -> Result<ShareId, Refusal> {
        let mut inner = self.lock();
        if inner.transactions.contains_key(&tx) {
            return Err(Refusal::TooMuch(format!("transaction {tx} is open already")));
        }
        if inner.transactions.len() >= limits::TRANSACTIONS_PER_SESSION {
            return Err(Refusal::Busy { retry_after_ms: 200 });
        }
        inner.transactions.insert(tx, Transaction { share, id: None, next_seq: 0, amends, staged_bytes: 0 });
        Ok(share)
    }

    /// Drops all that was staged and not committed.
    pub(super) async fn abort_all(&self, store: &impl IndexStore) {
        let transactions = std::mem::take(&mut self.lock().transactions);
        for id in transactions.into_values().filter_map(|transaction| transaction.id) {
            store.abort(id).await;
        }
    }

    fn take(&self, tx: u64) -> Option<Transaction> {
        self.lock().transactions.remove(&tx)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one change and says what came of it.
pub(super) async fn change<S: IndexStore>(session: &Session<S>, request: IndexRequest) -> IndexAnswer {
    // After its end, or once a newer connection took over, a session changes nothing.
    let outcome = if session.state.presence.is_current(session.id, &session.peer) {
        make(session, request).await
    } else {
        Err(Refusal::NoSession)
    };
    outcome.unwrap_or_else(IndexAnswer::Refused)
}

async fn make<S: IndexStore>(session: &Session<S>, request: IndexRequest) -> Result<IndexAnswer, Refusal> {
    match request {
        IndexRequest::Open { share, name, groups, state } => {
            open(session, ShareOffer { id: share, name, groups: groups.into_vec(), state }).await
        }
        IndexRequest::Begin { share, tx, base } => begin(session, share, tx, base).await,
        IndexRequest::Page { tx, seq, bytes } => {
            let outcome = page(session, tx, seq, bytes.0.into()).await;
            if outcome.is_err() {
                abort(session, tx).await;
            }
            outcome.map(|()| IndexAnswer::Staged { seq })
        }
        IndexRequest::Commit { tx, state, changes } => {
            let id = session.registration.take(tx).and_then(|transaction| transaction.id).ok_or(Refusal::NotOpen)?;
            let state = session.state.store.commit(id, state, changes).await.map_err(refusal)?;
            Ok(IndexAnswer::Committed { state })
        }
        IndexRequest::Close { share, forget } => close(session, share, forget).await,
        _ => Err(Refusal::NotAllowed),
    }
}

async fn open<S: IndexStore>(session: &Session<S>, offer: ShareOffer) -> Result<IndexAnswer, Refusal> {
    {
        let mut inner = session.registration.lock();
        if !inner.shares.contains(&offer.id) && inner.shares.len() >= limits::SHARES_PER_PEER {
            return Err(Refusal::TooMuch(format!("a peer has at most {} shares", limits::SHARES_PER_PEER)));
        }
        inner.shares.insert(offer.id);
    }
    // Whatever was staged on an older state of the share is void.
    abort_share(session, offer.id).await;
    Ok(match session.state.store.open(session.peer, offer).await.map_err(refusal)? {
        Opened::Same => IndexAnswer::Same,
        Opened::Amend(from) => IndexAnswer::Amend { from },
        Opened::Replace => IndexAnswer::Replace,
    })
}

async fn begin<S: IndexStore>(
    session: &Session<S>,
    share: ShareId,
    tx: u64,
    base: Option<ShareState>,
) -> Result<IndexAnswer, Refusal> {
    match session.state.store.begin(session.peer, share, base).await {
        Ok(id) => {
            let known = session.registration.lock().transactions.get_mut(&tx).map(|open| open.id = Some(id));
            if known.is_none() {
                session.state.store.abort(id).await;
                return Err(Refusal::NotOpen);
            }
            Ok(IndexAnswer::Begun)
        }
        Err(error) => {
            session.registration.take(tx);
            Err(refusal(error))
        }
    }
}

async fn page<S: IndexStore>(session: &Session<S>, tx: u64, seq: u32, bytes: Bytes) -> Result<(), Refusal> {
    let id = {
        let mut inner = session.registration.lock();
        let staged: usize = inner.transactions.values().filter(|open| open.amends).map(|open| open.staged_bytes).sum();
        let open = inner.transactions.get_mut(&tx).ok_or(Refusal::NotOpen)?;
        let id = open.id.ok_or(Refusal::NotOpen)?;
        if seq != open.next_seq {
            return Err(Refusal::BadPage(format!("page {seq} came where page {} was due", open.next_seq)));
        }
        if open.amends && staged + bytes.len() > limits::STAGED_BYTES {
            return Err(Refusal::TooMuch(format!("over {} bytes are staged; commit first", limits::STAGED_BYTES)));
        }
        open.next_seq += 1;
        open.staged_bytes += bytes.len();
        id
    };
    session.state.store.stage(id, bytes).await.map_err(refusal)
}

async fn close<S: IndexStore>(session: &Session<S>, share: ShareId, forget: bool) -> Result<IndexAnswer, Refusal> {
    abort_share(session, share).await;
    session.registration.lock().shares.remove(&share);
    session.state.store.close(session.peer, share, forget).await.map_err(refusal)?;
    Ok(IndexAnswer::Closed)
}

async fn abort<S: IndexStore>(session: &Session<S>, tx: u64) {
    if let Some(id) = session.registration.take(tx).and_then(|transaction| transaction.id) {
        session.state.store.abort(id).await;
    }
}

async fn abort_share<S: IndexStore>(session: &Session<S>, share: ShareId) {
    // Those without an id were announced behind the change that runs now, and stay.
    let begun: Vec<u64> = {
        let inner = session.registration.lock();
        let of_share = inner.transactions.iter().filter(|(_, open)| open.share == share && open.id.is_some());
        of_share.map(|(tx, _)| *tx).collect()
    };
    for tx in begun {
        abort(session, tx).await;
    }
}
