//! What a member changes: shares and their transactions. All changes of one share run one after the other.
//!
//! A page or a commit that is refused ends its transaction: what was staged is dropped, later pages are refused with
//! [`Refusal::NotOpen`], and the peer opens the share again to learn what the index has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};

use super::{Session, watching};
use crate::state::{busy, refusal};
use crate::store::{IndexStore, Opened, ShareOffer, TransactionId};
use crate::watches::{ShareFacts, Staged};

/// Shares and transactions of one session.
#[derive(Debug)]
pub(super) struct Registration {
    inner: Mutex<Inner>,
    /// The peer's lease ran already when this session began: its shares do not come back, they were there.
    was_present: bool,
}

#[derive(Debug, Default)]
struct Inner {
    shares: BTreeMap<ShareId, Arc<ShareFacts>>,
    /// By the peer's own numbers.
    transactions: HashMap<u64, Transaction>,
    /// What others watch for, in pages of these transactions.
    matches: HashMap<u64, Staged>,
    /// Closed in this session.
    closed: BTreeSet<ShareId>,
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
    /// Of a session that begins. `was_present`: another one of the same peer, or its lease, still ran.
    pub(super) fn new(was_present: bool) -> Self {
        Self { inner: Mutex::default(), was_present }
    }

    /// Notes an opened share; whether that makes it visible to somebody who could not see it the moment before.
    fn note_open(&self, share: &Arc<ShareFacts>) -> Result<bool, Refusal> {
        let mut inner = self.lock();
        if !inner.shares.contains_key(&share.id) && inner.shares.len() >= limits::SHARES_PER_PEER {
            return Err(Refusal::TooMuch(format!("a peer has at most {} shares", limits::SHARES_PER_PEER)));
        }
        let was_closed = inner.closed.remove(&share.id);
        Ok(match inner.shares.insert(share.id, Arc::clone(share)) {
            Some(before) => (&before.groups, &before.name) != (&share.groups, &share.name),
            None => was_closed || !self.was_present,
        })
    }

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
        let transactions = {
            let mut inner = self.lock();
            inner.matches.clear();
            std::mem::take(&mut inner.transactions)
        };
        for id in transactions.into_values().filter_map(|transaction| transaction.id) {
            store.abort(id).await;
        }
    }

    fn facts(&self, share: ShareId) -> Option<Arc<ShareFacts>> {
        self.lock().shares.get(&share).cloned()
    }

    fn take(&self, tx: u64) -> Option<Transaction> {
        let mut inner = self.lock();
        inner.matches.remove(&tx);
        inner.transactions.remove(&tx)
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
            let matches = session.registration.lock().matches.remove(&tx);
            let open = session.registration.take(tx).ok_or(Refusal::NotOpen)?;
            let id = open.id.ok_or(Refusal::NotOpen)?;
            let state = session.state.store.commit(id, state, changes).await.map_err(refusal)?;
            if let Some(share) = session.registration.facts(open.share)
                && let Some(matches) = matches
            {
                session.state.watches.committed(matches, &share, state);
            }
            Ok(IndexAnswer::Committed { state })
        }
        IndexRequest::Close { share, forget } => close(session, share, forget).await,
        _ => Err(Refusal::NotAllowed),
    }
}

async fn open<S: IndexStore>(session: &Session<S>, offer: ShareOffer) -> Result<IndexAnswer, Refusal> {
    let facts = share_facts(session, &offer);
    let comes_back = session.registration.note_open(&facts)?;
    // Whatever was staged on an older state of the share is void.
    abort_share(session, offer.id).await;
    let state = offer.state;
    let opened = session.state.store.open(session.peer, offer).await.map_err(refusal)?;
    let (visible, answer) = match opened {
        Opened::Same => (Some(state), IndexAnswer::Same),
        Opened::Amend(from) => (Some(from), IndexAnswer::Amend { from }),
        Opened::Replace => (None, IndexAnswer::Replace),
    };
    if let Some(visible) = visible.filter(|_| comes_back) {
        session.state.watches.returned(&facts, visible);
    }
    Ok(answer)
}

/// The share as watches see it.
fn share_facts<S: IndexStore>(session: &Session<S>, offer: &ShareOffer) -> Arc<ShareFacts> {
    let name = session.state.members.find(&session.peer).map(|member| member.name);
    // Removed just now: then nothing of it is told.
    let name = name.unwrap_or_else(|| offer.name.clone());
    Arc::new(ShareFacts::new(session.peer, name, offer.id, offer.name.clone(), offer.groups.clone()))
}

async fn begin<S: IndexStore>(
    session: &Session<S>,
    share: ShareId,
    tx: u64,
    base: Option<ShareState>,
) -> Result<IndexAnswer, Refusal> {
    if let Err(retry_after) = session.state.admission.begin() {
        session.registration.take(tx);
        return Err(busy(retry_after));
    }
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
    let (id, share) = {
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
        (id, open.share)
    };
    let turn = session.state.admission.stage(&session.allowance, bytes.len()).await;
    let staged = session.state.store.stage(id, bytes.clone()).await.map_err(refusal);
    drop(turn);
    staged?;
    watch_page(session, tx, share, &bytes);
    // Staging does not wait for anything, so this thread looks at its other connections now.
    tokio::task::yield_now().await;
    Ok(())
}

/// Remembers until the commit who watches for what is on a page.
fn watch_page<S: IndexStore>(session: &Session<S>, tx: u64, share: ShareId, page: &[u8]) {
    let Some(facts) = session.registration.facts(share) else { return };
    let mut matches = session.registration.lock().matches.remove(&tx);
    session.state.watches.add_page(&mut matches, &facts, page, watching::now_ns());
    let mut inner = session.registration.lock();
    if inner.transactions.contains_key(&tx)
        && let Some(matches) = matches
    {
        inner.matches.insert(tx, matches);
    }
}

async fn close<S: IndexStore>(session: &Session<S>, share: ShareId, forget: bool) -> Result<IndexAnswer, Refusal> {
    abort_share(session, share).await;
    {
        let mut inner = session.registration.lock();
        if inner.shares.remove(&share).is_some() && inner.closed.len() < limits::SHARES_PER_PEER {
            inner.closed.insert(share);
        }
    }
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
