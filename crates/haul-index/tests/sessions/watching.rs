//! Standing searches: who is told of what, once, and what happens to those who read slowly.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::trust::Role;
use haul_core::wire::index::{Hit, IndexAnswer, IndexPush, IndexRequest, Membership, Refusal, Stats};
use haul_core::wire::{Label, List};
use haul_index::Invitation;
use haul_net::connection::{Connection, ConnectionSettings, Inbound};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::support::{Files, Fixture, PATIENCE, Peer, key, label, peer_id, share};

fn watch(number: u64, query: &str) -> IndexRequest {
    IndexRequest::Watch { watch: number, query: query.to_owned() }
}

/// A watch that begins now.
async fn watches(peer: &Peer, number: u64, query: &str) {
    assert_eq!(peer.ask(watch(number, query)).await, IndexAnswer::Watching);
}

/// The next push about a watch.
async fn matched(peer: &mut Peer) -> (u64, Vec<Hit>, bool) {
    loop {
        let inbound = tokio::time::timeout(PATIENCE, peer.inbox.next()).await.expect("a push in time");
        let Some(Inbound::Push(bytes)) = inbound else { panic!("no push") };
        if let IndexPush::Match { watch, hits, missed } = haul_core::wire::decode(&bytes).unwrap() {
            return (watch, hits, missed);
        }
    }
}

/// The names of the next push, which lost nothing.
async fn names(peer: &mut Peer) -> Vec<String> {
    let (_, hits, missed) = matched(peer).await;
    assert!(!missed);
    hits.iter().map(|hit| String::from_utf8_lossy(&hit.name).into_owned()).collect()
}

async fn member_of(f: &Fixture, n: u8, groups: &[&str]) -> Peer {
    let groups: Vec<Label> = groups.iter().map(|group| label(group)).collect();
    let ticket = f.index.invite(Invitation { role: Role::Member, groups, ..Invitation::default() }).await.unwrap();
    let peer = f.stranger(n).await;
    peer.hello(Membership::Ticket(ticket.secret)).await.unwrap();
    peer
}

/// Registers a share that only these groups see.
async fn register_for(peer: &Peer, id: ShareId, groups: &[&str], files: &Files) {
    let groups = List::new(groups.iter().map(|group| label(group)).collect());
    let open = IndexRequest::Open { share: id, name: label("docs"), groups, state: files.state };
    assert_eq!(peer.ask(open).await, IndexAnswer::Replace);
    assert_eq!(peer.ask(IndexRequest::Begin { share: id, tx: 1, base: None }).await, IndexAnswer::Begun);
    peer.stage(1, files).await;
    let commit = IndexRequest::Commit { tx: 1, state: files.state, changes: files.count };
    assert_eq!(peer.ask(commit).await, IndexAnswer::Committed { state: files.state });
}

#[tokio::test]
async fn a_commit_is_told_to_those_who_watch_for_it() {
    let f = Fixture::start().await;
    let (mut one, _) = f.member(1).await;
    let (mut two, _) = f.member(2).await;
    let (peer, _) = f.member(3).await;
    watches(&one, 7, "llama -beta").await;
    watches(&one, 8, "ext:txt").await;
    watches(&two, 1, "notes").await;
    peer.register(share(1), &Files::named(1, &["Llama-70b.gguf", "llama-beta.gguf", "notes.txt"])).await;
    let (watch, hits, missed) = matched(&mut one).await;
    assert_eq!((watch, hits.len(), missed), (7, 1, false));
    let found = peer.search("llama -beta").await.hits.remove(0);
    assert_eq!(hits[0], found, "as a search finds it");
    assert_eq!(matched(&mut one).await.0, 8);
    assert_eq!(names(&mut two).await, ["notes.txt"]);
}

#[tokio::test]
async fn what_is_not_visible_is_not_told() {
    let f = Fixture::start().await;
    let mut outside = member_of(&f, 1, &[]).await;
    let mut inside = member_of(&f, 2, &["lab"]).await;
    let peer = member_of(&f, 3, &["lab"]).await;
    for watcher in [&outside, &inside, &peer] {
        watches(watcher, 1, "iso").await;
    }
    register_for(&peer, share(1), &["lab"], &Files::named(1, &["secret.iso"])).await;
    assert_eq!(names(&mut inside).await, ["secret.iso"]);
    register_for(&peer, share(2), &[], &Files::named(1, &["open.iso"])).await;
    assert_eq!(names(&mut inside).await, ["open.iso"]);
    assert_eq!(names(&mut outside).await, ["open.iso"], "and nothing before it");
    // Opened for everyone now, so the same entries become visible to others.
    let groups = List::default();
    let state = Files::named(1, &["secret.iso"]).state;
    let open = IndexRequest::Open { share: share(1), name: label("docs"), groups, state };
    assert_eq!(peer.ask(open).await, IndexAnswer::Same);
    assert_eq!(names(&mut outside).await, ["secret.iso"]);
}

#[tokio::test]
async fn a_share_that_returns_is_told_once() {
    let f = Fixture::start().await;
    let (mut watcher, _) = f.member(1).await;
    let (peer, welcome) = f.member(2).await;
    let files = Files::new(1, (0..40).map(|n| format!("film-{n:02}.mkv")).chain(["b.iso".into()]).collect());
    peer.register(share(1), &files).await;
    assert_eq!(peer.ask(IndexRequest::Leave).await, IndexAnswer::Left);
    watches(&watcher, 1, "iso").await;
    watches(&watcher, 2, "film").await;
    let (peer, _) = f.returning(2, &welcome.certificate).await;
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    assert_eq!(names(&mut watcher).await, ["b.iso"]);
    let mut told = BTreeSet::new();
    while told.len() < 40 {
        told.extend(names(&mut watcher).await);
    }
    // Returning once more tells nothing; another file is told, and nothing before it.
    assert_eq!(peer.ask(IndexRequest::Leave).await, IndexAnswer::Left);
    let (peer, _) = f.returning(2, &welcome.certificate).await;
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    peer.register(share(2), &Files::named(1, &["b.iso", "c.iso"])).await;
    assert_eq!(names(&mut watcher).await, ["c.iso"]);
}

#[tokio::test]
async fn a_share_that_was_never_away_does_not_return() {
    let f = Fixture::start().await;
    let (witness, seen) = f.member(1).await;
    let (peer, welcome) = f.member(2).await;
    let files = Files::named(1, &["old.iso"]);
    peer.register(share(1), &files).await;
    // The index is restarted, and all of them come again within their leases.
    let f = f.restart().await;
    drop((witness, peer));
    let (mut watcher, _) = f.returning(1, &seen.certificate).await;
    watches(&watcher, 1, "iso").await;
    let (peer, welcome) = f.returning(2, &welcome.certificate).await;
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same, "the same again");
    // A newer connection takes over.
    let (peer, _) = f.returning(2, &welcome.certificate).await;
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    peer.register(share(2), &Files::named(1, &["new.iso"])).await;
    assert_eq!(names(&mut watcher).await, ["new.iso"]);
    // Closed and opened again, it was away.
    assert_eq!(peer.ask(IndexRequest::Close { share: share(1), forget: false }).await, IndexAnswer::Closed);
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    assert_eq!(names(&mut watcher).await, ["old.iso"]);
}

#[tokio::test]
async fn what_is_being_registered_when_a_watch_begins_is_told() {
    let f = Fixture::start().await;
    let (mut watcher, _) = f.member(1).await;
    let (peer, _) = f.member(2).await;
    let files = Files::named(1, &["early.iso"]);
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Replace);
    assert_eq!(peer.ask(IndexRequest::Begin { share: share(1), tx: 1, base: None }).await, IndexAnswer::Begun);
    peer.stage(1, &files).await;
    watches(&watcher, 1, "iso").await;
    let commit = IndexRequest::Commit { tx: 1, state: files.state, changes: 1 };
    assert_eq!(peer.ask(commit).await, IndexAnswer::Committed { state: files.state });
    assert_eq!(names(&mut watcher).await, ["early.iso"]);
}

#[tokio::test]
async fn an_ended_watch_and_a_refused_transaction_tell_nothing() {
    let f = Fixture::start().await;
    let (mut watcher, _) = f.member(1).await;
    let (peer, _) = f.member(2).await;
    watches(&watcher, 1, "iso").await;
    watches(&watcher, 2, "iso").await;
    assert_eq!(watcher.ask(IndexRequest::Unwatch { watch: 1 }).await, IndexAnswer::Unwatched);
    assert_eq!(watcher.ask(IndexRequest::Unwatch { watch: 1 }).await, IndexAnswer::Unwatched);
    let files = Files::named(1, &["never.iso"]);
    peer.open(share(1), files.state).await;
    assert_eq!(peer.ask(IndexRequest::Begin { share: share(1), tx: 1, base: None }).await, IndexAnswer::Begun);
    peer.stage(1, &files).await;
    let commit = IndexRequest::Commit { tx: 1, state: Files::named(1, &["x"]).state, changes: 1 };
    assert_eq!(peer.refused(commit).await, Refusal::StateMismatch);
    peer.register(share(2), &Files::named(1, &["a.iso"])).await;
    let (watch, hits, _) = matched(&mut watcher).await;
    assert_eq!((watch, hits.len()), (2, 1));
    assert_eq!(&*hits[0].name, b"a.iso");
}

#[tokio::test]
async fn limits_and_mistakes_are_refused_clearly() {
    let f = Fixture::start().await;
    let (peer, _) = f.member(1).await;
    assert!(matches!(peer.refused(watch(1, "size:much")).await, Refusal::BadQuery(_)));
    for number in 0..limits::WATCHES_PER_MEMBER as u64 {
        watches(&peer, number, "iso").await;
    }
    assert_eq!(peer.refused(watch(100, "iso")).await, Refusal::TooMuch("a member has at most 100 watches".into()));
    peer.ask(IndexRequest::Unwatch { watch: 3 }).await;
    assert!(matches!(peer.refused(watch(4, "iso")).await, Refusal::TooMuch(_)), "its number is in use");
    watches(&peer, 100, "iso").await;
    assert_eq!(peer.ask(IndexRequest::Leave).await, IndexAnswer::Left);
}

/// A transport that can stop reading, as a process does that hangs.
struct Stalling {
    inner: DuplexStream,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    reader: AtomicWaker,
}

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.gate.reader.register(cx.waker());
        if self.gate.closed.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_watcher_that_hangs_holds_nobody_up_and_learns_that_it_missed_something() {
    let f = Fixture::start().await;
    let ticket = f.ticket(Role::Member).await;
    let gate = Arc::new(Gate::default());
    let transport = Stalling { inner: f.index.connect_in_memory(peer_id(1)), gate: Arc::clone(&gate) };
    let (connection, inbox) = Connection::start(transport, f.index.index_key(), ConnectionSettings::default());
    let mut hanging = Peer { connection, inbox, key: key(1) };
    hanging.hello(Membership::Ticket(ticket.secret)).await.unwrap();
    watches(&hanging, 1, "-x type:file").await;
    let (mut other, _) = f.member(2).await;
    watches(&other, 1, "last").await;
    let (peer, _) = f.member(3).await;
    gate.closed.store(true, Ordering::SeqCst);
    // More matches than its queue of 4 MiB, the pipe and the mailbox take together.
    let long = "n".repeat(240);
    for n in 0..14 {
        let files = Files::new(1, (0..900).map(|file| format!("{long}-{n}-{file:03}")).collect());
        peer.register(share(n), &files).await;
    }
    peer.register(share(20), &Files::named(1, &["last"])).await;
    assert_eq!(names(&mut other).await, ["last"], "others are told meanwhile");
    gate.closed.store(false, Ordering::SeqCst);
    gate.reader.wake();
    let mut told = BTreeSet::new();
    loop {
        let (_, hits, missed) = matched(&mut hanging).await;
        for hit in hits {
            assert!(told.insert(hit.name.0), "twice");
        }
        if missed {
            break;
        }
    }
    assert!(!told.is_empty() && told.len() < 14 * 900, "{}", told.len());
}

/// What the index tells of itself.
async fn stats(peer: &Peer) -> Stats {
    let IndexAnswer::Stats(stats) = peer.ask(IndexRequest::Stats).await else { panic!("no totals") };
    stats
}

#[tokio::test]
async fn who_reads_no_answers_gets_a_few_made_and_not_all() {
    let f = Fixture::start().await;
    let (peer, _) = f.member(2).await;
    let long = "n".repeat(240);
    let files = Files::new(1, (0..900).map(|file| format!("{long}-{file:03}")).collect());
    peer.register(share(1), &files).await;
    let ticket = f.ticket(Role::Member).await;
    let gate = Arc::new(Gate::default());
    let transport = Stalling { inner: f.index.connect_in_memory(peer_id(1)), gate: Arc::clone(&gate) };
    let (connection, inbox) = Connection::start(transport, f.index.index_key(), ConnectionSettings::default());
    let hanging = Peer { connection, inbox, key: key(1) };
    hanging.hello(Membership::Ticket(ticket.secret)).await.unwrap();
    let before = stats(&peer).await;
    gate.closed.store(true, Ordering::SeqCst);
    let mut asking = tokio::task::JoinSet::new();
    let query = "nnn".to_owned();
    let search = IndexRequest::Search { query, limit: 1_000, cursor: None, away: false, exact: false };
    let questions = std::iter::repeat_n(search, limits::REQUESTS_IN_FLIGHT - 1).chain([IndexRequest::Leave]);
    for question in questions {
        let connection = hanging.connection.clone();
        asking.spawn(async move { drop(connection.request::<_, IndexAnswer>(&question).await) });
    }
    // It leaves with its last request: then the index has begun all before it.
    let asked = async {
        loop {
            let now = stats(&peer).await;
            if now.peers_online < before.peers_online {
                return now.searches - before.searches;
            }
        }
    };
    let made = tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert!(made > 0 && made < 40, "{made} answers of half a megabyte were made");
}
