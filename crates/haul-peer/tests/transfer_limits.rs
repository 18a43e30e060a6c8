//! Upload slots in turns and limits of bandwidth, over real sockets and over memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "transfer_support/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use haul_core::ids::UserId;
use haul_core::limits::LEAF_BYTES;
use haul_core::wire::peer::{LeafRange, PeerAnswer, PeerRequest, QUEUE_NEWS};
use haul_core::wire::{Label, List, decode};
use haul_net::connection::{Connection, Inbox, StreamItem, StreamReceiver};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::tls::Alpn;
use haul_peer::bandwidth::{Bandwidth, Configured, Place};
use haul_peer::fetch::FetchProgress;
use haul_peer::serve::{Server, Slots};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use world::{Handler, World, blob_of, content, no_progress, request};

fn limits(rules: &[(Place, &str)]) -> Arc<Bandwidth> {
    let rules = rules.iter().map(|(place, rule)| (place.clone(), rule.parse().unwrap())).collect();
    let bandwidth = Arc::new(Bandwidth::new(Configured { rules }, None, Arc::new(|| 0)));
    let running = bandwidth.clone();
    tokio::spawn(async move { running.run(CancellationToken::new()).await });
    bandwidth
}

/// A peer that shares this file, served with these slots and limits.
fn share(world: &World, folder: &Path, bytes: &[u8], slots: usize, bandwidth: Arc<Bandwidth>) -> Arc<Server> {
    let root = folder.join("served");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), bytes).unwrap();
    let (_, shares) = world.add_share("one", &root, &folder.join("state"));
    let slots = Slots::at_most(slots, bandwidth.clone());
    Server::limited(shares, world.check(), bandwidth, slots)
}

/// A peer of this user, connected and granted.
async fn peer_of(world: &World, user: UserId, (address, key): &(String, haul_core::ids::PeerId)) -> Connection {
    let me = SecretKey::generate().unwrap();
    let (connection, inbox): (Connection, Inbox) = dial(address, &me, Alpn::Peer, Some(*key)).await.unwrap();
    drop(inbox);
    let paper = world.paper(|grant| (grant.peer, grant.user) = (me.public(), user));
    let show = PeerRequest::Grant { grant: paper.grant, index_certificate: paper.index_certificate };
    assert_eq!(connection.request::<_, PeerAnswer>(&show).await.unwrap(), PeerAnswer::Granted);
    connection
}

/// The place that the next frame tells, or none if it is a leaf.
async fn place(stream: &mut StreamReceiver) -> Option<u32> {
    match stream.next().await.unwrap() {
        StreamItem::Data { index: QUEUE_NEWS, bytes } => match decode(&bytes) {
            Ok(PeerAnswer::Queued { place, .. }) => Some(place),
            other => panic!("{other:?}"),
        },
        StreamItem::Data { .. } => None,
        end @ StreamItem::End(_) => panic!("{end:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_with_many_peers_does_not_keep_another_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(8 * 1024 * 1024);
    let world = World::new();
    let server = share(&world, folder.path(), &bytes, 4, Arc::default());
    let at = world.listen(server);
    let ranges = List::new(vec![LeafRange { first: 0, count: bytes.len() as u64 / LEAF_BYTES }]);
    let request = PeerRequest::Pieces { blob: blob_of(&bytes).0, ranges, wait: false };
    let greedy = UserId::new([1; 32]);
    let mut taken = Vec::new();
    let mut waiting = Vec::new();
    for number in 0..3 {
        let connection = peer_of(&world, greedy, &at).await;
        for _ in 0..2 {
            let mut stream = connection.open_stream(&request).await.unwrap();
            let told = place(&mut stream).await;
            if taken.len() < 4 {
                assert_eq!(told, None, "a slot is free");
                taken.push((connection.clone(), stream));
            } else {
                assert_eq!(told, Some(waiting.len() as u32 + 1), "peer {number}");
                waiting.push((connection.clone(), stream));
            }
        }
    }
    let modest = peer_of(&world, UserId::new([2; 32]), &at).await;
    let mut next = modest.open_stream(&request).await.unwrap();
    assert_eq!(place(&mut next).await, Some(1), "before those that came earlier");
    // Small answers wait for nobody.
    let bitfield = PeerRequest::Bitfield { blob: blob_of(&bytes).0, beyond: None };
    assert!(matches!(modest.request(&bitfield).await.unwrap(), PeerAnswer::Bitfield { .. }));
    // Whoever gives up frees its place, and moves the others up.
    drop(waiting.remove(0));
    taken.pop();
    while place(&mut next).await.is_some() {}
    assert!(place(&mut waiting[0].1).await.is_some(), "the greedy one still waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_where_and_gets_it_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(3 * 1024 * 1024);
    let world = World::new();
    let server = share(&world, folder.path(), &bytes, 1, Arc::default());
    let at = world.listen(server.clone());
    let handler: Handler = {
        let (server, shutdown) = (server, world.shutdown.clone());
        Arc::new(move |connection, inbox| server.clone().serve(connection, inbox, shutdown.clone()).boxed())
    };
    let card = world.add("nas", handler);
    // Somebody else has the only slot and takes nothing.
    let other = peer_of(&world, UserId::new([1; 32]), &at).await;
    let ranges = List::new(vec![LeafRange { first: 0, count: bytes.len() as u64 / LEAF_BYTES }]);
    let asked = PeerRequest::Pieces { blob: blob_of(&bytes).0, ranges, wait: false };
    let mut held = other.open_stream(&asked).await.unwrap();
    assert_eq!(place(&mut held).await, None);
    let target = folder.path().join("got");
    let mut wanted = request(blob_of(&bytes).0, &target);
    (wanted.size, wanted.providers, wanted.only_these) = (Some(bytes.len() as u64), vec![card], true);
    let progress: watch::Sender<FetchProgress> = no_progress();
    let mut seen = progress.subscribe();
    let downloader = world.downloader();
    let fetching = tokio::spawn(async move { downloader.fetch_blob(wanted, progress, CancellationToken::new()).await });
    let waits = |progress: &FetchProgress| progress.reason.as_deref() == Some("waiting for a slot at nas: place 1");
    tokio::time::timeout(Duration::from_secs(20), seen.wait_for(waits)).await.expect("its place is told").unwrap();
    drop(held);
    let done = tokio::time::timeout(Duration::from_secs(20), fetching).await.unwrap().unwrap().unwrap();
    assert_eq!(done.bytes, bytes.len() as u64);
    assert!(std::fs::read(&target).unwrap() == bytes);
}

/// Fetches 6 MiB under these limits with the clock of the runtime, which jumps whenever all wait; how long it took.
async fn timed(up: &[(Place, &str)], down: &[(Place, &str)]) -> (u64, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(6 * 1024 * 1024);
    let world = World::new();
    let server = share(&world, folder.path(), &bytes, 100, limits(up));
    let shutdown = world.shutdown.clone();
    let handler: Handler =
        Arc::new(move |connection, inbox| server.clone().serve(connection, inbox, shutdown.clone()).boxed());
    let card = world.add("limited", handler);
    let target = folder.path().join("got");
    let mut wanted = request(blob_of(&bytes).0, &target);
    (wanted.size, wanted.providers, wanted.only_these) = (Some(bytes.len() as u64), vec![card], true);
    wanted.patience = Duration::MAX;
    let downloader = world.downloader().limited(limits(down)).of_transfer(7);
    let began = tokio::time::Instant::now();
    downloader.fetch_blob(wanted, no_progress(), CancellationToken::new()).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == bytes);
    (bytes.len() as u64, began.elapsed())
}

fn within_a_twentieth((bytes, took): (u64, Duration), rate: u64) {
    let allowed = u64::try_from(u128::from(rate) * took.as_millis() / 1_000).unwrap();
    assert!(bytes.abs_diff(allowed) * 20 <= allowed, "{bytes} bytes in {took:?}, {allowed} were allowed");
}

#[tokio::test(start_paused = true)]
async fn limits_hold_up_and_down() {
    within_a_twentieth(timed(&[(Place::All, "up 300k")], &[]).await, 300_000);
    within_a_twentieth(timed(&[], &[(Place::All, "down 300k")]).await, 300_000);
    within_a_twentieth(timed(&[], &[(Place::All, "down 5M"), (Place::Transfer(7), "down 300k")]).await, 300_000);
    // Nobody has told yet through which group it was found.
    let lab = Place::Group(Label::new("lab").unwrap());
    within_a_twentieth(timed(&[], &[(lab.clone(), "down 300k")]).await, 300_000);
    // This member is not in the group that is limited.
    let free = tokio::time::timeout(Duration::from_mins(10), timed(&[(lab, "up 1000")], &[])).await;
    assert!(free.is_ok(), "it is held by the limit of others");
}
