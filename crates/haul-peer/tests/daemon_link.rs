//! The link to the index against a scripted one: joining, trust, reconnecting, renewing, leaving.
#![allow(clippy::unwrap_used)]

#[path = "daemon_support/fake_index.rs"]
mod fake_index;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fake_index::FakeIndex;
use haul_core::ids::BlobId;
use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::wire::index::{
    BlobPlaces, Hit, HitKind, IndexAnswer, IndexPush, IndexRequest, PeerCard, Place, Providers, Refusal,
};
use haul_core::wire::{ByteString, Label};
use haul_net::identity::SecretKey;
use haul_peer::link::{self, IndexLink, LinkError, LinkSettings, LinkState, News};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    link: IndexLink,
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

fn start(index: &Arc<FakeIndex>, key: &Arc<SecretKey>, file: Option<PathBuf>) -> Running {
    let shutdown = CancellationToken::new();
    let settings = LinkSettings {
        key: key.clone(),
        name: Label::new("lab-3").unwrap(),
        peer_port: 0,
        addresses: Vec::new(),
        file,
        memory: Some(index.memory()),
        index_addresses: Vec::new(),
        shares: None,
    };
    let (link, task) = link::start(settings, shutdown.clone()).unwrap();
    Running { link, task, shutdown }
}

fn key() -> Arc<SecretKey> {
    Arc::new(SecretKey::generate().unwrap())
}

#[tokio::test(start_paused = true)]
async fn joins_with_a_ticket_and_returns_with_the_certificate() {
    let (index, key, folder) = (FakeIndex::new(), key(), tempfile::tempdir().unwrap());
    let file = folder.path().join("network.json");
    let run = start(&index, &key, Some(file.clone()));
    assert_eq!(run.link.ask(&IndexRequest::Stats).await, Err(LinkError::NotJoined));
    run.link.join(index.ticket()).await.unwrap();
    assert!(matches!(run.link.ask(&IndexRequest::Stats).await, Ok(IndexAnswer::Stats(_))));
    assert_eq!((index.count("introduce"), index.count("ticket")), (1, 1));
    run.shutdown.cancel();
    run.task.await.unwrap();
    assert_eq!(index.count("leave"), 1);
    assert_eq!(run.link.ask(&IndexRequest::Stats).await, Err(LinkError::Stopping));

    let again = start(&index, &key, Some(file.clone()));
    assert!(matches!(again.link.ask(&IndexRequest::Stats).await, Ok(IndexAnswer::Stats(_))));
    assert_eq!((index.count("introduce"), index.count("certificate")), (1, 1), "the key is known now");
    again.link.leave().await.unwrap();
    assert!(!file.exists());
    assert!(matches!(again.link.state(), LinkState::NotJoined));
    assert_eq!(again.link.leave().await, Err(LinkError::NotJoined));
    again.shutdown.cancel();
    again.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stranger_learns_nothing() {
    let impostor = FakeIndex::signed_by(SecretKey::generate().unwrap(), Some(SecretKey::generate().unwrap()));
    let run = start(&impostor, &key(), None);
    assert!(matches!(run.link.join(impostor.ticket()).await, Err(LinkError::Untrusted(_))));
    assert_eq!(impostor.count("hello"), 0, "neither ticket nor name was sent");
    assert!(run.link.membership().is_none());
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_ticket_is_said_and_not_tried_again() {
    let index = FakeIndex::new();
    index.script.lock().unwrap().refuse_hello = Some(Refusal::TicketExpired);
    let run = start(&index, &key(), None);
    assert_eq!(run.link.join(index.ticket()).await, Err(LinkError::Shut(Refusal::TicketExpired)));
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(index.count("hello"), 1);
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reconnects_with_jitter_and_knows_since_when() {
    let index = FakeIndex::new();
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    index.down.store(true, Ordering::SeqCst);
    index.drop_all();
    let before = index.connects.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(5)).await;
    let attempts = index.connects.load(Ordering::SeqCst) - before;
    assert!((10..100).contains(&attempts), "{attempts} attempts in five minutes");
    assert!(matches!(run.link.ask(&IndexRequest::Stats).await, Err(LinkError::Unreachable { .. })));
    assert!(run.link.standing().papers().borrow().is_some(), "providers that are known can still be asked");
    index.down.store(false, Ordering::SeqCst);
    // Whoever asks makes the link try now instead of at the end of its wait.
    assert!(matches!(run.link.ask(&IndexRequest::Stats).await, Ok(IndexAnswer::Stats(_))));
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_busy_index_is_left_alone_for_as_long_as_it_asks() {
    let index = FakeIndex::new();
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    index.script.lock().unwrap().refuse_hello = Some(Refusal::Busy { retry_after_ms: 60_000 });
    index.drop_all();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(index.count("hello"), 2, "one before, one that was told to wait");
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(index.count("hello") > 2);
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn renews_every_half_minute_and_hears_of_removals() {
    let index = FakeIndex::new();
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    let other = SecretKey::generate().unwrap().public();
    index.script.lock().unwrap().revoked = vec![(other, 9)];
    tokio::time::sleep(Duration::from_secs(301)).await;
    let renewals = index.count("renew");
    assert!((9..=11).contains(&renewals), "{renewals} renewals in 301 s");
    assert_eq!(run.link.standing().word().unwrap().revoked, vec![(other, 9)]);
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_network_needs_leaving_first() {
    let (index, other) = (FakeIndex::new(), FakeIndex::new());
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    assert_eq!(run.link.join(other.ticket()).await, Err(LinkError::OtherNetwork(index.network.public())));
    let mut more = index.ticket();
    more.addresses = vec!["10.0.0.9:4477".into()];
    run.link.join(more).await.unwrap();
    assert_eq!(run.link.index_addresses(), ["127.0.0.1:4477", "10.0.0.9:4477"]);
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cards_are_asked_for_once_until_they_are_old_or_wrong() {
    let index = FakeIndex::new();
    let blob = BlobId::new([1; 32]);
    let card = PeerCard {
        id: SecretKey::from_seed([9; 32]).unwrap().public(),
        name: Label::new("nas").unwrap(),
        addresses: vec!["127.0.0.1:1".into()],
        online: true,
        seen: Timestamp(1),
        files: 0,
        bytes: 0,
    };
    let place = Place { peer: 0, share: card.name.clone(), path: SharePath::default(), mtime_ns: 0, executable: false };
    let places = BlobPlaces { blob: Some(blob), size: 10, places: vec![place], total: 5 };
    index.script.lock().unwrap().providers =
        Providers { peers: vec![card.clone()], answers: vec![vec![places]], coverage_permille: 1_000 };
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    let found = vec![link::Providers { size: Some(10), places: 5, cards: vec![card.clone()] }];
    for (locates, cards) in [(1, 1), (2, 1)] {
        assert_eq!(run.link.locate(&[blob], 8, false).await.unwrap(), found);
        assert_eq!((index.count("locate"), index.count("cards")), (locates, cards));
    }
    run.link.forget_card(&card.id);
    assert_eq!(run.link.locate(&[blob], 8, false).await.unwrap(), found);
    assert_eq!(index.count("cards"), 2, "its address did not answer");
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(run.link.locate(&[blob], 8, false).await.unwrap(), found);
    assert_eq!(index.count("cards"), 3, "too old");
    index.script.lock().unwrap().providers = Providers::default();
    let nobody = vec![link::Providers { size: None, places: 0, cards: Vec::new() }];
    assert_eq!(run.link.locate(&[blob], 8, false).await.unwrap(), nobody);
    run.shutdown.cancel();
    run.task.await.unwrap();
}

fn matched(name: &str) -> Hit {
    Hit {
        kind: HitKind::File,
        name: ByteString::from(name.as_bytes()),
        blob: None,
        size: 1,
        files: None,
        mtime_ns: 0,
        peer: SecretKey::generate().unwrap().public(),
        peer_name: Label::new("nas").unwrap(),
        share: Label::new("docs").unwrap(),
        path: SharePath::new(name).unwrap(),
        names: 1,
        contents: 1,
        copies: 1,
        online: 1,
        near: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_sessions_and_ends_with_its_stream() {
    let index = FakeIndex::new();
    let run = start(&index, &key(), None);
    assert!(matches!(run.link.start_watch("iso".into()).await, Err(LinkError::NotJoined)));
    run.link.join(index.ticket()).await.unwrap();
    let mut stream = run.link.start_watch("iso".into()).await.unwrap();
    assert_eq!(stream.next().await, Ok(News::Placed));
    let hit = matched("a.iso");
    index.push_all(&IndexPush::Match { watch: 1, hits: vec![hit.clone()], missed: true });
    index.push_all(&IndexPush::Match { watch: 2, hits: vec![hit.clone()], missed: false });
    assert_eq!(stream.next().await, Ok(News::Hit(Box::new(hit.clone()))));
    assert_eq!(stream.next().await, Ok(News::Missed));
    // On the next session it is placed again, and says that something may be missing.
    index.drop_all();
    assert_eq!(stream.next().await, Ok(News::PlacedAgain));
    index.push_all(&IndexPush::Match { watch: 1, hits: vec![hit.clone()], missed: false });
    assert_eq!(stream.next().await, Ok(News::Hit(Box::new(hit))));
    assert_eq!((index.count("watch"), index.count("unwatch")), (2, 0));
    drop(stream);
    while index.count("unwatch") == 0 {
        tokio::task::yield_now().await;
    }
    let mut last = run.link.start_watch("iso".into()).await.unwrap();
    assert_eq!(last.next().await, Ok(News::Placed));
    run.shutdown.cancel();
    run.task.await.unwrap();
    assert_eq!(last.next().await, Err(LinkError::Stopping));
}

/// The connection of a peer that reads no pushes ends after 256 of them: the link reads for a watch that does not.
#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_loses_matches_with_a_mark() {
    let index = FakeIndex::new();
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    let mut stream = run.link.start_watch("iso".into()).await.unwrap();
    assert_eq!(stream.next().await, Ok(News::Placed));
    for n in 0..2_000 {
        index.push_all(&IndexPush::Match { watch: 1, hits: vec![matched(&n.to_string())], missed: false });
        assert!(matches!(run.link.ask(&IndexRequest::Stats).await, Ok(IndexAnswer::Stats(_))));
    }
    for n in 0..1_000 {
        assert!(matches!(stream.next().await, Ok(News::Hit(hit)) if *hit.name == *n.to_string().as_bytes()));
    }
    assert_eq!(stream.next().await, Ok(News::Missed));
    index.push_all(&IndexPush::Match { watch: 1, hits: vec![matched("room")], missed: false });
    assert!(matches!(stream.next().await, Ok(News::Hit(hit)) if &*hit.name == b"room"));
    assert_eq!(index.connects.load(Ordering::SeqCst), 1);
    run.shutdown.cancel();
    run.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_busy_index_is_asked_again_when_it_said_and_not_for_ever() {
    let index = FakeIndex::new();
    let run = start(&index, &key(), None);
    run.link.join(index.ticket()).await.unwrap();
    let mut waits = run.link.waits();
    index.script.lock().unwrap().busy = vec![Duration::from_secs(2), Duration::from_secs(3)];
    let began = tokio::time::Instant::now();
    assert!(matches!(run.link.ask(&IndexRequest::Stats).await, Ok(IndexAnswer::Stats(_))));
    let took = began.elapsed();
    assert!((5.0..7.6).contains(&took.as_secs_f64()), "{took:?}: as told, and half of it by chance at most");
    assert!(waits.has_changed().unwrap(), "whoever shows it is told");
    assert!((3.0..4.6).contains(&waits.borrow_and_update().as_secs_f64()));
    // Honest impatience: an index that is busy for longer is told as an error, in words.
    index.script.lock().unwrap().busy = vec![Duration::from_secs(9); 20];
    let began = tokio::time::Instant::now();
    let Err(error) = run.link.ask(&IndexRequest::Stats).await else { panic!("it was answered") };
    assert_eq!(error.to_string(), "the index refuses: it is busy; it asks to wait 9 s");
    assert!(began.elapsed() <= Duration::from_secs(30));
    run.shutdown.cancel();
    run.task.await.unwrap();
}
