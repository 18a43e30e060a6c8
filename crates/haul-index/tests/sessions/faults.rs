//! A store that fails where a test wants it, around the embedded one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::time::Moment;
use haul_core::trust::Role;
use haul_core::wire::index::{Hits, IndexAnswer, IndexRequest, Listing, Located, LookupKeys, Membership, Refusal};
use haul_core::wire::{Label, List};
use haul_index::store::{
    Asker, BrowseQuestion, EmbeddedStore, Found, IndexStore, Opened, Owners, PeerTotals, SearchQuestion, ShareOffer,
    StoreError, StoreStats, TransactionId, VisibleTotals,
};
use haul_index::{Index, RunError, StartError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::{Files, Fixture, PATIENCE, config, peer_id, share};

#[derive(Debug)]
struct Faults {
    panic_in_search: AtomicBool,
    /// Searches claim to have compared more names than anybody has.
    dear_searches: AtomicBool,
    panic_in_maintenance: AtomicBool,
    refuse_changes: AtomicBool,
    /// A session that opens takes one permit before its peer is present.
    connects: Semaphore,
    connects_waiting: AtomicUsize,
    /// A commit takes one permit before it begins.
    commits: Semaphore,
    /// Hiding a peer takes one permit before it begins.
    leaves: Semaphore,
}

impl Faults {
    fn none() -> Arc<Self> {
        Arc::new(Self {
            panic_in_search: AtomicBool::new(false),
            dear_searches: AtomicBool::new(false),
            panic_in_maintenance: AtomicBool::new(false),
            refuse_changes: AtomicBool::new(false),
            connects: Semaphore::new(Semaphore::MAX_PERMITS),
            connects_waiting: AtomicUsize::new(0),
            commits: Semaphore::new(Semaphore::MAX_PERMITS),
            leaves: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }
}

struct FaultyStore {
    inner: EmbeddedStore,
    faults: Arc<Faults>,
}

impl IndexStore for FaultyStore {
    async fn connect(&self, peer: PeerId, name: Label) -> Result<(), StoreError> {
        if self.faults.connects.available_permits() == 0 {
            self.faults.connects_waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.faults.connects.acquire().await.unwrap().forget();
        self.inner.connect(peer, name).await
    }
    async fn open(&self, peer: PeerId, share: ShareOffer) -> Result<Opened, StoreError> {
        self.inner.open(peer, share).await
    }
    async fn begin(&self, peer: PeerId, share: ShareId, base: Option<ShareState>) -> Result<TransactionId, StoreError> {
        self.inner.begin(peer, share, base).await
    }
    async fn stage(&self, tx: TransactionId, page: Bytes) -> Result<(), StoreError> {
        if self.faults.refuse_changes.load(Ordering::Relaxed) {
            return Err(StoreError::Busy { retry_after: Duration::from_millis(250) });
        }
        self.inner.stage(tx, page).await
    }
    async fn commit(&self, tx: TransactionId, state: ShareState, changes: u64) -> Result<ShareState, StoreError> {
        self.faults.commits.acquire().await.unwrap().forget();
        if self.faults.refuse_changes.load(Ordering::Relaxed) {
            return Err(StoreError::Storage("the disk is full".to_owned()));
        }
        self.inner.commit(tx, state, changes).await
    }
    async fn abort(&self, tx: TransactionId) {
        self.inner.abort(tx).await;
    }
    async fn close(&self, peer: PeerId, share: ShareId, forget: bool) -> Result<(), StoreError> {
        self.inner.close(peer, share, forget).await
    }
    async fn heartbeat(&self, peer: PeerId, lease_end: Moment) -> Result<(), StoreError> {
        self.inner.heartbeat(peer, lease_end).await
    }
    async fn leave(&self, peer: PeerId) -> Result<(), StoreError> {
        self.faults.leaves.acquire().await.unwrap().forget();
        self.inner.leave(peer).await
    }
    async fn forget(&self, peer: PeerId) -> Result<(), StoreError> {
        self.inner.forget(peer).await
    }
    async fn lookup(&self, asker: &Asker, keys: &LookupKeys, max: usize, away: bool) -> Result<Found, StoreError> {
        self.inner.lookup(asker, keys, max, away).await
    }
    async fn locate(&self, asker: &Asker, blobs: &[BlobId], max: usize, away: bool) -> Result<Located, StoreError> {
        self.inner.locate(asker, blobs, max, away).await
    }
    async fn owners(&self, asker: &Asker, blob: BlobId, size: u64, away: bool) -> Result<Owners, StoreError> {
        self.inner.owners(asker, blob, size, away).await
    }
    fn peer_ids(&self, numbers: &[u32]) -> Vec<Option<PeerId>> {
        self.inner.peer_ids(numbers)
    }
    async fn search(&self, asker: &Asker, question: SearchQuestion<'_>) -> Result<Hits, StoreError> {
        assert!(!self.faults.panic_in_search.load(Ordering::Relaxed), "planted");
        let mut hits = self.inner.search(asker, question).await?;
        if self.faults.dear_searches.load(Ordering::Relaxed) {
            hits.examined = 3_000_000_000;
        }
        Ok(hits)
    }
    async fn browse(&self, asker: &Asker, question: BrowseQuestion<'_>) -> Result<Listing, StoreError> {
        self.inner.browse(asker, question).await
    }
    async fn totals(&self, asker: &Asker, peer: PeerId) -> PeerTotals {
        self.inner.totals(asker, peer).await
    }
    async fn visible(&self, asker: &Asker) -> VisibleTotals {
        self.inner.visible(asker).await
    }
    async fn maintain(&self, budget: Duration) -> Result<bool, StoreError> {
        assert!(!self.faults.panic_in_maintenance.load(Ordering::Relaxed), "planted");
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

async fn start(faults: &Arc<Faults>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::clone(faults);
    let open = move |path: &std::path::Path| {
        let inner = EmbeddedStore::open(&path.join("store"));
        let inner = inner.map_err(|error| StartError::State { path: String::new(), reason: error.to_string() })?;
        Ok(FaultyStore { inner, faults })
    };
    let index = Index::start_with(config(dir.path()), CancellationToken::new(), open).await.unwrap();
    Fixture { dir, index }
}

#[tokio::test]
async fn a_panic_ends_one_session_and_hides_its_peer() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (witness, _) = f.member(1).await;
    let (victim, welcome) = f.member(2).await;
    victim.register(share(1), &Files::named(1, &["a"])).await;
    assert_eq!(witness.count("a").await, 1);
    faults.panic_in_search.store(true, Ordering::Relaxed);
    let search = IndexRequest::Search { query: "a".to_owned(), limit: 1, cursor: None, away: false, exact: false };
    let asked = victim.connection.request::<_, IndexAnswer>(&search).await;
    assert!(asked.is_err());
    assert!(victim.closed().await.contains("internal error"));
    faults.panic_in_search.store(false, Ordering::Relaxed);
    while witness.count("a").await != 0 {
        tokio::task::yield_now().await;
    }
    let (victim, _) = f.returning(2, &welcome.certificate).await;
    assert_eq!(victim.search("a").await.total, 0);
}

#[tokio::test]
async fn a_member_that_is_removed_while_it_comes_in_stays_out() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (admin, _) = f.joined(1, Role::Admin).await;
    let (member, welcome) = f.member(2).await;
    member.ask(IndexRequest::Leave).await;
    faults.connects.forget_permits(Semaphore::MAX_PERMITS);
    let returning = f.stranger(2).await;
    let hello = returning.hello(Membership::Certificate(welcome.certificate));
    let remove = async {
        while faults.connects_waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let removed = admin.ask(IndexRequest::Remove { peer: peer_id(2) });
        let gate = async {
            loop {
                match admin.ask(IndexRequest::Peers { after: None }).await {
                    IndexAnswer::Peers { peers, .. } if peers.len() == 1 => break faults.connects.add_permits(1),
                    IndexAnswer::Peers { .. } => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
        };
        tokio::join!(removed, gate).0
    };
    let (refused, removed) = tokio::join!(hello, remove);
    assert_eq!((refused.unwrap_err(), removed), (Refusal::Revoked, IndexAnswer::Removed));
    returning.closed().await;
}

#[tokio::test]
async fn lookups_overtake_a_commit_that_waits_and_other_shares_go_on() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (peer, _) = f.member(1).await;
    let files = Files::named(1, &["a"]);
    peer.register(share(1), &files).await;
    faults.commits.forget_permits(usize::MAX);
    for number in [2, 3] {
        let begin = IndexRequest::Begin { share: share(number), tx: u64::from(number), base: None };
        let name = Label::new(format!("share-{number}")).unwrap();
        let open = IndexRequest::Open { share: share(number), name, groups: List::default(), state: files.state };
        assert_eq!(peer.ask(open).await, IndexAnswer::Replace);
        assert_eq!(peer.ask(begin).await, IndexAnswer::Begun);
        peer.stage(u64::from(number), &files).await;
    }
    let commit = |tx| peer.ask(IndexRequest::Commit { tx, state: files.state, changes: files.count });
    let close = peer.ask(IndexRequest::Close { share: share(2), forget: false });
    let later = async {
        // Both answers come while the commit and the close behind it wait.
        assert_eq!(peer.count("a").await, 1);
        assert!(matches!(peer.ask(IndexRequest::Stats).await, IndexAnswer::Stats(_)));
        faults.commits.add_permits(2);
    };
    let (two, three, closed, ()) = tokio::join!(biased; commit(2), commit(3), close, later);
    assert_eq!(
        (two, three),
        (IndexAnswer::Committed { state: files.state }, IndexAnswer::Committed { state: files.state })
    );
    assert_eq!(closed, IndexAnswer::Closed);
}

#[tokio::test]
async fn left_is_answered_after_hiding_and_not_before() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (peer, _) = f.member(1).await;
    peer.register(share(1), &Files::named(1, &["a"])).await;
    faults.leaves.forget_permits(usize::MAX);
    let mut left = std::pin::pin!(peer.ask(IndexRequest::Leave));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut left).await;
    assert!(early.is_err(), "answered while its files were still shown");
    faults.leaves.add_permits(10);
    assert_eq!(left.await, IndexAnswer::Left);
}

#[tokio::test]
async fn failures_of_the_store_reach_the_peer_as_they_are() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (peer, _) = f.member(1).await;
    let files = Files::named(1, &["a"]);
    peer.open(share(1), files.state).await;
    let begin = IndexRequest::Begin { share: share(1), tx: 1, base: None };
    assert_eq!(peer.ask(begin.clone()).await, IndexAnswer::Begun);
    faults.refuse_changes.store(true, Ordering::Relaxed);
    let page = IndexRequest::Page { tx: 1, seq: 0, bytes: haul_core::wire::ByteString(files.pages[0].clone()) };
    assert_eq!(peer.refused(page).await, Refusal::Busy { retry_after_ms: 250 });
    faults.refuse_changes.store(false, Ordering::Relaxed);
    assert_eq!(peer.ask(begin).await, IndexAnswer::Begun);
    peer.stage(1, &files).await;
    faults.refuse_changes.store(true, Ordering::Relaxed);
    let commit = IndexRequest::Commit { tx: 1, state: files.state, changes: 1 };
    assert_eq!(peer.refused(commit).await, Refusal::Storage("the disk is full".to_owned()));
    assert_eq!(peer.search("a").await.total, 0, "the session goes on");
}

#[tokio::test]
async fn a_task_that_ends_early_stops_the_index_and_is_named() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (peer, _) = f.member(1).await;
    faults.panic_in_maintenance.store(true, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, f.index.stopped()).await.unwrap();
    assert!(peer.closed().await.contains("shutting down"));
    assert!(matches!(f.index.join().await, Err(RunError::TaskEnded("maintenance"))));
}

#[tokio::test]
async fn stopping_leaves_no_task_and_closes_everything() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let f = Fixture::start().await;
    let address = f.index.addresses()[0];
    let (member, _) = f.joined(1, Role::Admin).await;
    let silent = f.stranger(2).await;
    let memory = f.stranger_in_memory(3);
    // A socket that is still in its handshake.
    let half = std::net::TcpStream::connect(address).unwrap();
    let Fixture { dir, index } = f;
    index.join().await.unwrap();
    assert!(member.closed().await.contains("shutting down"));
    silent.closed().await;
    memory.closed().await;
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    drop((member, silent, memory, half));
    assert_eq!(metrics.num_alive_tasks(), before);
    // The files are closed too: another index can open them.
    Fixture::start_in(dir).await.index.join().await.unwrap();
}

#[tokio::test]
async fn the_token_from_outside_stops_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let token = CancellationToken::new();
    let index = Index::start(config(dir.path()), token.clone()).await.unwrap();
    token.cancel();
    tokio::time::timeout(PATIENCE, index.stopped()).await.unwrap();
    index.join().await.unwrap();
}

#[tokio::test]
async fn a_peer_whose_searches_cost_too_much_is_put_off_and_nobody_else() {
    let faults = Faults::none();
    let f = start(&faults).await;
    let (greedy, _) = f.member(1).await;
    let (other, welcome) = f.member(2).await;
    other.register(share(1), &Files::named(1, &["a"])).await;
    faults.dear_searches.store(true, Ordering::Relaxed);
    let search = || IndexRequest::Search { query: "a".to_owned(), limit: 1, cursor: None, away: false, exact: false };
    // What was saved up is enough for the first one, whatever it costs; its debt takes minutes.
    assert!(matches!(greedy.ask(search()).await, IndexAnswer::Hits(_)));
    let Refusal::Busy { retry_after_ms } = greedy.refused(search()).await else { panic!("not put off") };
    let seconds = (3_000_000_000 - limits::WORK_SAVED) / limits::WORK_PER_SECOND;
    assert!(retry_after_ms <= seconds * 1_000 + 1_000, "{retry_after_ms}");
    assert!(retry_after_ms >= seconds * 1_000 - 60_000, "{retry_after_ms}");
    faults.dear_searches.store(false, Ordering::Relaxed);
    // Lookups of the same peer wait too; it goes on renewing, registering and leaving, and others do not notice.
    let keys = LookupKeys::Names(List::default());
    assert!(matches!(greedy.refused(IndexRequest::Lookup { keys, max: 1, away: false }).await, Refusal::Busy { .. }));
    assert!(matches!(greedy.ask(IndexRequest::Renew).await, IndexAnswer::Renewed(_)));
    greedy.register(share(2), &Files::named(1, &["b"])).await;
    assert_eq!(other.count("a").await, 1);
    assert_eq!(other.search("b").await.total, 1);
    // A new session of the same peer owes the same; one of another peer owes nothing.
    let (again, _) = f.returning(2, &welcome.certificate).await;
    assert_eq!(again.search("b").await.total, 1);
    assert_eq!(greedy.ask(IndexRequest::Leave).await, IndexAnswer::Left);
}
