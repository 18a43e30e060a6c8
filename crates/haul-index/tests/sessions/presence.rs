//! Coming, going, and what others see of it at once.

use haul_core::manifest::ShareState;
use haul_core::trust::Role;
use haul_core::wire::List;
use haul_core::wire::index::{IndexAnswer, IndexRequest};

use crate::support::{Files, Fixture, label, peer_id, share};

#[tokio::test]
async fn leaving_hides_before_it_is_answered() {
    let f = Fixture::start().await;
    let (witness, _) = f.member(1).await;
    let (peer, _) = f.member(2).await;
    peer.register(share(1), &Files::named(1, &["a.txt"])).await;
    assert_eq!(witness.count("a.txt").await, 1);
    assert_eq!(peer.ask(IndexRequest::Leave).await, IndexAnswer::Left);
    assert_eq!(witness.count("a.txt").await, 0);
    peer.closed().await;
}

#[tokio::test]
async fn a_broken_connection_hides() {
    let f = Fixture::start().await;
    let (witness, _) = f.member(1).await;
    let (peer, welcome) = f.member(2).await;
    let files = Files::named(1, &["a.txt"]);
    peer.register(share(1), &files).await;
    assert_eq!(witness.count("a.txt").await, 1);
    drop(peer);
    while witness.count("a.txt").await != 0 {
        tokio::task::yield_now().await;
    }
    // Kept for its return, and hidden until the share is opened.
    let (peer, _) = f.returning(2, &welcome.certificate).await;
    assert_eq!(witness.count("a.txt").await, 0);
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    assert_eq!(witness.count("a.txt").await, 1);
}

#[tokio::test]
async fn a_newer_connection_takes_over_and_the_older_ones_end_hides_nothing() {
    let f = Fixture::start().await;
    let (witness, _) = f.member(1).await;
    let (old, welcome) = f.member(2).await;
    let files = Files::named(1, &["a.txt"]);
    old.register(share(1), &files).await;
    let (new, _) = f.returning(2, &welcome.certificate).await;
    assert!(old.closed().await.contains("took over"));
    assert_eq!(new.open(share(1), files.state).await, IndexAnswer::Same);
    for _ in 0..20 {
        assert_eq!(witness.count("a.txt").await, 1);
    }
}

#[tokio::test]
async fn an_unchanged_share_of_any_size_returns_with_one_message() {
    let f = Fixture::start().await;
    let (peer, welcome) = f.member(1).await;
    let files = Files::new(7, (0..100_000).map(|n| format!("file-{n:06}.dat")).collect());
    peer.register(share(1), &files).await;
    assert_eq!(peer.ask(IndexRequest::Leave).await, IndexAnswer::Left);
    let (peer, _) = f.returning(1, &welcome.certificate).await;
    let before = peer.connection.traffic();
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    let after = peer.connection.traffic();
    assert_eq!((after.frames_out - before.frames_out, after.frames_in - before.frames_in), (1, 1));
    let bytes = after.bytes_out - before.bytes_out + after.bytes_in - before.bytes_in;
    assert!(bytes < 512, "{bytes} bytes");
    assert_eq!(peer.count("file-099999.dat").await, 1);
}

#[tokio::test]
async fn a_restart_keeps_registrations_and_leases_that_run() {
    let f = Fixture::start().await;
    let (peer, welcome) = f.member(1).await;
    let files = Files::named(1, &["a.txt", "b.txt"]);
    peer.register(share(1), &files).await;
    let f = f.restart().await;
    let (witness, _) = f.member(2).await;
    let IndexAnswer::Peers { peers, .. } = witness.ask(IndexRequest::Peers { after: None }).await else {
        panic!("no peers")
    };
    let card = peers.iter().find(|card| card.id == peer_id(1)).unwrap();
    assert!(card.online, "its lease goes on");
    assert_eq!(card.addresses, ["127.0.0.1:4478"]);
    assert_eq!(witness.count("b.txt").await, 1, "as are its files");
    let (peer, _) = f.returning(1, &welcome.certificate).await;
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Same);
    assert_eq!(witness.count("b.txt").await, 1);
}

#[tokio::test]
async fn who_left_before_a_restart_stays_away_after_it() {
    let f = Fixture::start().await;
    let (peer, _) = f.member(1).await;
    peer.register(share(1), &Files::named(1, &["a.txt"])).await;
    assert_eq!(peer.ask(IndexRequest::Leave).await, IndexAnswer::Left);
    let f = f.restart().await;
    let (witness, _) = f.member(2).await;
    assert_eq!(witness.count("a.txt").await, 0);
    let IndexAnswer::Peers { peers, .. } = witness.ask(IndexRequest::Peers { after: None }).await else {
        panic!("no peers")
    };
    let card = peers.iter().find(|card| card.id == peer_id(1)).unwrap();
    assert!(!card.online && card.addresses.is_empty() && card.seen.0 > 0);
}

#[tokio::test]
async fn many_sessions_ask_at_once() {
    let f = Fixture::start().await;
    let (owner, _) = f.member(1).await;
    owner.register(share(1), &Files::new(1, (0..500).map(|n| format!("f{n:03}")).collect())).await;
    let mut askers = Vec::new();
    for n in 2..10 {
        askers.push(f.member(n).await.0);
    }
    let questions = askers.iter().flat_map(|asker| {
        (0..64).map(move |n| async move { assert_eq!(asker.count(&format!("f{:03}", n * 7)).await, 1) })
    });
    futures_util::future::join_all(questions).await;
}

#[tokio::test]
async fn totals_count_what_is_there() {
    let f = Fixture::start().await;
    let (peer, _) = f.joined(1, Role::Admin).await;
    let files = Files::named(1, &["a", "b", "c"]);
    peer.register(share(1), &files).await;
    peer.search("a").await;
    peer.count("a").await;
    let IndexAnswer::Stats(stats) = peer.ask(IndexRequest::Stats).await else { panic!("no stats") };
    assert_eq!((stats.peers, stats.peers_online, stats.shares, stats.files), (1, 1, 1, 3));
    assert_eq!((stats.bytes, stats.searches, stats.lookups), (30, 1, 1));
    assert_eq!(stats.blobs, Some(3));
    let IndexAnswer::Peers { peers, .. } = peer.ask(IndexRequest::Peers { after: None }).await else {
        panic!("no peers")
    };
    assert_eq!((peers[0].files, peers[0].bytes), (3, 30));
    assert_eq!(peer.open(share(2), ShareState { revision: 1, ..files_state() }).await, IndexAnswer::Replace);
    // Of what is only for others, nothing is told.
    let groups = List::new(vec![label("others")]);
    let hidden = IndexRequest::Open { share: share(1), name: label("docs"), groups, state: files.state };
    assert_eq!(peer.ask(hidden).await, IndexAnswer::Same);
    let IndexAnswer::Stats(stats) = peer.ask(IndexRequest::Stats).await else { panic!("no stats") };
    assert_eq!((stats.shares, stats.files, stats.bytes, stats.blobs), (0, 0, 0, None));
}

fn files_state() -> ShareState {
    Files::named(1, &["other"]).state
}
